//! A Redis that is only its persistence model and a handful of commands: no socket, no clock, no
//! disk. What refuses when, what a save moves, what the server retries by itself, after
//! `server.c:processCommand`, `server.c:serverCron`, `rdb.c` and `multi.c` of 7.0.
//!
//! Refuses to know: proxies, guards. Invariant: the same calls with the same `now` give the same
//! bytes.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// Milliseconds between the failed try and Redis's own next one (`CONFIG_BGSAVE_RETRY_DELAY`).
const RETRY_DELAY_MS: u64 = 5000;

/// What is broken now. Nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// fork fails: BGSAVE answers a bare `-ERR` at once.
    pub fork: bool,
    /// A child's save fails when it ends.
    pub disk: bool,
    /// The append-only file cannot be written.
    pub aof: bool,
    /// The control user may not use CONFIG.
    pub no_config: bool,
    /// … nor BGSAVE.
    pub no_bgsave: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Child {
    Disk { until: u64, dirty: u64, killed: bool },
    Diskless { until: u64 },
    Rewrite { until: u64 },
}

/// What one connection has set up.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    queue: Option<Vec<Vec<Vec<u8>>>>,
    dirty: bool,
    watched: HashMap<Vec<u8>, u64>,
    /// SELECTed database.
    pub db: usize,
}

/// See the module's page.
#[derive(Clone, Debug)]
pub struct FakeRedis {
    /// What is broken.
    pub faults: Faults,
    /// How long a child saves, in milliseconds.
    pub save_ms: u64,
    /// `stop-writes-on-bgsave-error`.
    pub knob: bool,
    /// Save points: seconds and changes.
    pub save: Vec<(u64, u64)>,
    /// `dir`.
    pub dir: String,
    /// `dbfilename`.
    pub dbfilename: String,
    /// Is this a primary?
    pub primary: bool,
    /// Good saves to disk since the beginning of time, restarts included.
    pub good_saves: u64,
    /// BGSAVE commands that were accepted or failed to fork.
    pub bgsaves: u64,
    /// Commands that ran and changed something: connection and words.
    pub applied: Vec<(u64, Vec<Vec<u8>>)>,
    started: u64,
    configured_knob: bool,
    status_ok: bool,
    last_save: u64,
    last_try: u64,
    dirty: u64,
    saves: u64,
    child: Option<Child>,
    scheduled: bool,
    errors: BTreeMap<String, u64>,
    run: u64,
    data: HashMap<(usize, Vec<u8>), Value>,
    versions: HashMap<Vec<u8>, u64>,
    connections: HashMap<u64, Connection>,
}

#[derive(Clone, Debug)]
enum Value {
    Text(Vec<u8>),
    List(VecDeque<Vec<u8>>),
}

const RDB_TEXT: &str = "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that may modify the data set are disabled, because this instance is configured to report errors during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB error.";
const AOF_TEXT: &str = "MISCONF Errors writing to the AOF file: No space left on device";
const WRITES: [&str; 6] = ["SET", "INCR", "RPUSH", "DEL", "LPOP", "APPEND"];

impl FakeRedis {
    /// A healthy primary that was started at `now` (Unix milliseconds) with `save 3600 1`.
    pub fn new(now: u64) -> Self {
        FakeRedis {
            faults: Faults::default(),
            save_ms: 80,
            knob: true,
            save: vec![(3600, 1)],
            dir: "/data".into(),
            dbfilename: "dump.rdb".into(),
            primary: true,
            good_saves: 0,
            bgsaves: 0,
            applied: Vec::new(),
            started: now,
            configured_knob: true,
            status_ok: true,
            last_save: now,
            last_try: 0,
            dirty: 0,
            saves: 0,
            child: None,
            scheduled: false,
            errors: BTreeMap::new(),
            run: 1,
            data: HashMap::new(),
            versions: HashMap::new(),
            connections: HashMap::new(),
        }
    }

    /// Did the last save to disk work?
    pub fn status_ok(&self) -> bool {
        self.status_ok
    }

    /// Changes since the last good save.
    pub fn dirty(&self) -> u64 {
        self.dirty
    }

    /// Does a child run?
    pub fn is_saving(&self) -> bool {
        matches!(self.child, Some(Child::Disk { .. } | Child::Diskless { .. }))
    }

    /// As INFO says.
    pub fn run_id(&self) -> String {
        format!("{:040x}", self.run)
    }

    /// Kills the process and starts it anew: connections, data that no save holds and every
    /// CONFIG SET are gone.
    pub fn restart(&mut self, now: u64) {
        self.run += 1;
        self.started = now;
        self.knob = self.configured_knob;
        self.status_ok = true;
        self.last_save = now;
        self.last_try = 0;
        self.dirty = 0;
        self.saves = 0;
        self.child = None;
        self.scheduled = false;
        self.errors.clear();
        self.data.clear();
        self.connections.clear();
    }

    /// A replica attaches without a disk: a child runs that proves nothing.
    pub fn diskless_sync(&mut self, now: u64) {
        self.tick(now);
        if self.child.is_none() {
            self.child = Some(Child::Diskless { until: now + self.save_ms });
        }
    }

    /// BGREWRITEAOF.
    pub fn rewrite_aof(&mut self, now: u64) {
        self.tick(now);
        if self.child.is_none() {
            self.child = Some(Child::Rewrite { until: now + self.save_ms });
        }
    }

    /// SIGKILL to the saving child.
    pub fn kill_child(&mut self) {
        if let Some(Child::Disk { killed, .. }) = &mut self.child {
            *killed = true;
        }
    }

    /// A connection ended.
    pub fn disconnect(&mut self, connection: u64) {
        self.connections.remove(&connection);
    }

    /// What `connection` has set up.
    pub fn connection(&mut self, connection: u64) -> &mut Connection {
        self.connections.entry(connection).or_default()
    }

    /// serverCron up to `now`: children end, saves start by themselves.
    pub fn tick(&mut self, now: u64) {
        loop {
            let end = match self.child {
                Some(Child::Disk { killed: true, .. }) => now,
                Some(Child::Disk { until, .. } | Child::Diskless { until } | Child::Rewrite { until }) => until,
                None => break self.cron_start(now),
            };
            if end > now {
                break;
            }
            match self.child.take() {
                // rdb.c:backgroundSaveDoneHandlerDisk
                Some(Child::Disk { dirty, killed, .. }) if !killed && !self.faults.disk => {
                    self.status_ok = true;
                    self.dirty = self.dirty.saturating_sub(dirty);
                    self.last_save = end;
                    self.good_saves += 1;
                }
                Some(Child::Disk { .. }) => self.status_ok = false,
                // Neither the status nor LASTSAVE: rdb.c:backgroundSaveDoneHandlerSocket.
                Some(Child::Diskless { .. } | Child::Rewrite { .. }) | None => {}
            }
        }
    }

    fn cron_start(&mut self, now: u64) {
        let rested = now.saturating_sub(self.last_try) > RETRY_DELAY_MS;
        let due = self.save.iter().any(|(secs, changes)| {
            self.dirty >= *changes && now.saturating_sub(self.last_save) > secs * 1000
        });
        if (due || self.scheduled) && (self.status_ok || rested) {
            self.scheduled = false;
            self.fork_save(now);
        }
    }

    fn fork_save(&mut self, now: u64) -> bool {
        self.last_try = now;
        self.saves += 1;
        if self.faults.fork {
            self.status_ok = false;
            return false;
        }
        self.child = Some(Child::Disk { until: now + self.save_ms, dirty: self.dirty, killed: false });
        true
    }

    fn refusal(&self) -> Option<&'static str> {
        // server.c:writeCommandsDeniedByDiskError: the RDB text wins.
        if self.knob && !self.save.is_empty() && !self.status_ok {
            return Some(RDB_TEXT);
        }
        self.faults.aof.then_some(AOF_TEXT)
    }

    /// Runs one command of one connection; the bytes of its reply.
    pub fn execute(&mut self, now: u64, connection: u64, argv: &[Vec<u8>]) -> Vec<u8> {
        self.tick(now);
        let Some(first) = argv.first() else { return Vec::new() };
        let name = String::from_utf8_lossy(first).to_ascii_uppercase();
        let queueing = self.connection(connection).queue.is_some();
        if let Some(why) = self.reject(&name, argv) {
            if queueing {
                self.connection(connection).dirty = true;
            }
            return self.error(&why);
        }
        if queueing && !matches!(name.as_str(), "EXEC" | "DISCARD" | "MULTI" | "WATCH") {
            if let Some(queue) = &mut self.connection(connection).queue {
                queue.push(argv.to_vec());
            }
            return b"+QUEUED\r\n".to_vec();
        }
        match name.as_str() {
            "MULTI" if queueing => self.error("ERR MULTI calls can not be nested"),
            "MULTI" => {
                self.connection(connection).queue = Some(Vec::new());
                b"+OK\r\n".to_vec()
            }
            "WATCH" if queueing => self.error("ERR WATCH inside MULTI is not allowed"),
            "WATCH" => {
                for key in &argv[1..] {
                    let version = self.versions.get(key).copied().unwrap_or(0);
                    self.connection(connection).watched.insert(key.clone(), version);
                }
                b"+OK\r\n".to_vec()
            }
            "DISCARD" if !queueing => self.error("ERR DISCARD without MULTI"),
            "DISCARD" => {
                let db = self.connection(connection).db;
                *self.connection(connection) = Connection { db, ..Connection::default() };
                b"+OK\r\n".to_vec()
            }
            "EXEC" if !queueing => self.error("ERR EXEC without MULTI"),
            "EXEC" => self.exec(now, connection),
            _ => self.run(now, connection, &name, argv),
        }
    }

    fn reject(&mut self, name: &str, argv: &[Vec<u8>]) -> Option<String> {
        if (name == "CONFIG" && self.faults.no_config) || (name == "BGSAVE" && self.faults.no_bgsave) {
            let name = name.to_ascii_lowercase();
            return Some(format!("NOPERM this user has no permissions to run the '{name}' command"));
        }
        let arity = match name {
            "SET" | "RPUSH" | "APPEND" | "PUBLISH" => 3,
            "GET" | "INCR" | "DEL" | "LPOP" | "WATCH" | "SELECT" | "CONFIG" | "ECHO" => 2,
            "PING" | "MULTI" | "EXEC" | "DISCARD" | "INFO" | "BGSAVE" | "LASTSAVE" | "ROLE" | "CLIENT" => 1,
            _ => return Some(format!("ERR unknown command '{name}', with args beginning with: ")),
        };
        if argv.len() < arity {
            let name = name.to_ascii_lowercase();
            return Some(format!("ERR wrong number of arguments for '{name}' command"));
        }
        let gated = WRITES.contains(&name) || name == "PING";
        self.refusal().filter(|_| gated).map(String::from)
    }

    fn exec(&mut self, now: u64, connection: u64) -> Vec<u8> {
        let state = self.connection(connection);
        let (queue, dirty) = (state.queue.take().unwrap_or_default(), std::mem::take(&mut state.dirty));
        let watched = std::mem::take(&mut state.watched);
        if dirty {
            return self.error("EXECABORT Transaction discarded because of previous errors.");
        }
        if watched.iter().any(|(key, version)| self.versions.get(key).copied().unwrap_or(0) != *version) {
            return b"*-1\r\n".to_vec();
        }
        let name = |argv: &Vec<Vec<u8>>| String::from_utf8_lossy(&argv[0]).to_ascii_uppercase();
        let writes = queue.iter().any(|argv| WRITES.contains(&name(argv).as_str()));
        if let (true, Some(text)) = (writes, self.refusal()) {
            return self.error(&format!("EXECABORT Transaction discarded because of: {text}"));
        }
        let mut reply = format!("*{}\r\n", queue.len()).into_bytes();
        for argv in &queue {
            reply.extend(self.run(now, connection, &name(argv), argv));
        }
        reply
    }

    fn run(&mut self, now: u64, connection: u64, name: &str, argv: &[Vec<u8>]) -> Vec<u8> {
        let word = |n: usize| argv.get(n).cloned().unwrap_or_default();
        let db = self.connection(connection).db;
        let key = (db, word(1));
        match name {
            "PING" if argv.len() > 1 => bulk(&word(1)),
            "PING" => b"+PONG\r\n".to_vec(),
            "ECHO" => bulk(&word(1)),
            "CLIENT" => b"+OK\r\n".to_vec(),
            "PUBLISH" => {
                self.applied.push((connection, argv.to_vec()));
                integer(0)
            }
            "SELECT" => match String::from_utf8_lossy(&word(1)).parse() {
                Ok(db) if db < 16 => {
                    self.connection(connection).db = db;
                    b"+OK\r\n".to_vec()
                }
                _ => self.error("ERR DB index is out of range"),
            },
            "GET" => match self.data.get(&key) {
                None => b"$-1\r\n".to_vec(),
                Some(Value::Text(text)) => bulk(text),
                Some(Value::List(_)) => self.wrong_type(),
            },
            "SET" => {
                self.data.insert(key, Value::Text(word(2)));
                self.wrote(connection, argv);
                b"+OK\r\n".to_vec()
            }
            "APPEND" => {
                let Value::Text(text) = self.data.entry(key).or_insert_with(|| Value::Text(Vec::new())) else {
                    return self.wrong_type();
                };
                text.extend(word(2));
                let len = text.len();
                self.wrote(connection, argv);
                integer(len as i64)
            }
            "INCR" => {
                let value = self.data.entry(key).or_insert_with(|| Value::Text(b"0".to_vec()));
                let Value::Text(text) = value else { return self.wrong_type() };
                let Some(n) = String::from_utf8_lossy(text).parse::<i64>().ok().and_then(|n| n.checked_add(1))
                else {
                    return self.error("ERR value is not an integer or out of range");
                };
                *text = n.to_string().into_bytes();
                self.wrote(connection, argv);
                integer(n)
            }
            "RPUSH" => {
                let value = self.data.entry(key).or_insert_with(|| Value::List(VecDeque::new()));
                let Value::List(list) = value else { return self.wrong_type() };
                list.extend(argv[2..].iter().cloned());
                let len = list.len();
                self.wrote(connection, argv);
                integer(len as i64)
            }
            "LPOP" => match self.data.get_mut(&key) {
                None => b"$-1\r\n".to_vec(),
                Some(Value::List(list)) => {
                    let popped = list.pop_front();
                    self.wrote(connection, argv);
                    popped.map_or_else(|| b"$-1\r\n".to_vec(), |item| bulk(&item))
                }
                Some(Value::Text(_)) => self.wrong_type(),
            },
            "DEL" => {
                let keys: HashSet<Vec<u8>> = argv[1..].iter().cloned().collect();
                let gone = keys.into_iter().filter(|k| self.data.remove(&(db, k.clone())).is_some()).count();
                if gone > 0 {
                    self.wrote(connection, argv);
                }
                integer(gone as i64)
            }
            "LASTSAVE" => integer((self.last_save / 1000) as i64),
            "ROLE" => match self.primary {
                true => b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n".to_vec(),
                false => b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n$9\r\nconnected\r\n:0\r\n".to_vec(),
            },
            "INFO" => bulk(self.info(now).as_bytes()),
            "BGSAVE" => self.bgsave(now, connection, argv),
            "CONFIG" => self.config(argv),
            _ => self.error("ERR unknown command"),
        }
    }

    fn wrote(&mut self, connection: u64, argv: &[Vec<u8>]) {
        self.dirty += 1;
        for key in &argv[1..2] {
            *self.versions.entry(key.clone()).or_default() += 1;
        }
        self.applied.push((connection, argv.to_vec()));
    }

    fn wrong_type(&mut self) -> Vec<u8> {
        self.error("WRONGTYPE Operation against a key holding the wrong kind of value")
    }

    fn error(&mut self, text: &str) -> Vec<u8> {
        let code = text.split(' ').next().unwrap_or("ERR").to_string();
        *self.errors.entry(code).or_default() += 1;
        format!("-{text}\r\n").into_bytes()
    }

    /// `rdb.c:bgsaveCommand`.
    fn bgsave(&mut self, now: u64, connection: u64, argv: &[Vec<u8>]) -> Vec<u8> {
        let schedule = argv.get(1).is_some_and(|w| w.eq_ignore_ascii_case(b"SCHEDULE"));
        let in_multi = self.connection(connection).queue.is_some();
        match self.child {
            Some(Child::Disk { .. } | Child::Diskless { .. }) => {
                self.error("ERR Background save already in progress")
            }
            Some(Child::Rewrite { .. }) if schedule || in_multi => {
                self.scheduled = true;
                b"+Background saving scheduled\r\n".to_vec()
            }
            Some(Child::Rewrite { .. }) => self.error(
                "ERR Another child process is active (AOF?): can't BGSAVE right now. Use BGSAVE SCHEDULE in order to schedule a BGSAVE whenever possible.",
            ),
            None => {
                self.bgsaves += 1;
                match self.fork_save(now) {
                    true => b"+Background saving started\r\n".to_vec(),
                    false => self.error("ERR"),
                }
            }
        }
    }

    fn config(&mut self, argv: &[Vec<u8>]) -> Vec<u8> {
        let word = |n: usize| String::from_utf8_lossy(argv.get(n).map_or(&[][..], |w| w)).into_owned();
        let (verb, name, value) = (word(1).to_ascii_uppercase(), word(2).to_ascii_lowercase(), word(3));
        let known = match name.as_str() {
            "stop-writes-on-bgsave-error" => if self.knob { "yes" } else { "no" }.to_string(),
            "save" => self.save.iter().map(|(s, c)| format!("{s} {c}")).collect::<Vec<_>>().join(" "),
            "dir" => self.dir.clone(),
            "dbfilename" => self.dbfilename.clone(),
            _ if verb == "GET" => return b"*0\r\n".to_vec(),
            _ => return self.error(&format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'")),
        };
        match (verb.as_str(), name.as_str(), value.as_str()) {
            ("GET", ..) => {
                let mut reply = b"*2\r\n".to_vec();
                reply.extend(bulk(name.as_bytes()));
                reply.extend(bulk(known.as_bytes()));
                reply
            }
            ("SET", "stop-writes-on-bgsave-error", "yes" | "no") => {
                self.knob = value == "yes";
                b"+OK\r\n".to_vec()
            }
            ("SET", "save", points) => {
                let numbers: Vec<u64> = points.split(' ').filter_map(|n| n.parse().ok()).collect();
                self.save = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
                b"+OK\r\n".to_vec()
            }
            _ => self.error("ERR CONFIG SET failed"),
        }
    }

    fn info(&self, now: u64) -> String {
        let status = |ok: bool| if ok { "ok" } else { "err" };
        let misconf = self.errors.get("MISCONF").map_or(String::new(), |n| format!("errorstat_MISCONF:count={n}\r\n"));
        format!(
            "# Server\r\nredis_version:7.0.15\r\nrun_id:{}\r\nserver_time_usec:{}\r\n\
             # Persistence\r\nloading:0\r\nrdb_changes_since_last_save:{}\r\nrdb_bgsave_in_progress:{}\r\n\
             rdb_last_save_time:{}\r\nrdb_last_bgsave_status:{}\r\nrdb_saves:{}\r\naof_rewrite_in_progress:{}\r\n\
             aof_last_write_status:{}\r\nmodule_fork_in_progress:0\r\n\
             # Stats\r\ntotal_error_replies:{}\r\n# Replication\r\nrole:{}\r\n# Errorstats\r\n{misconf}",
            self.run_id(),
            now * 1000,
            self.dirty,
            u8::from(self.is_saving()),
            self.last_save / 1000,
            status(self.status_ok),
            self.saves,
            u8::from(matches!(self.child, Some(Child::Rewrite { .. }))),
            status(!self.faults.aof),
            self.errors.values().sum::<u64>(),
            if self.primary { "master" } else { "slave" },
        )
    }
}

fn bulk(body: &[u8]) -> Vec<u8> {
    let mut reply = format!("${}\r\n", body.len()).into_bytes();
    reply.extend_from_slice(body);
    reply.extend_from_slice(b"\r\n");
    reply
}

fn integer(n: i64) -> Vec<u8> {
    format!(":{n}\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(fake: &mut FakeRedis, now: u64, line: &str) -> String {
        let argv: Vec<Vec<u8>> = line.split(' ').map(|w| w.as_bytes().to_vec()).collect();
        String::from_utf8(fake.execute(now, 1, &argv)).unwrap()
    }

    #[test]
    fn a_failed_save_refuses_writes_and_ping_until_one_works() {
        let mut fake = FakeRedis::new(0);
        fake.faults.fork = true;
        assert_eq!(run(&mut fake, 10, "BGSAVE"), "-ERR\r\n");
        assert!(run(&mut fake, 11, "SET k v").starts_with("-MISCONF "));
        assert!(run(&mut fake, 11, "PING").starts_with("-MISCONF "));
        assert_eq!(run(&mut fake, 11, "GET k"), "$-1\r\n");
        // A dead end: nothing is wrong any more, and nothing is retried.
        fake.faults.fork = false;
        assert!(run(&mut fake, 60_000, "SET k v").starts_with("-MISCONF "));
        assert!(run(&mut fake, 60_000, "BGSAVE").starts_with("+Background"));
        assert_eq!(run(&mut fake, 60_100, "SET k v"), "+OK\r\n");
    }

    #[test]
    fn redis_retries_by_itself_after_five_seconds_when_a_save_point_is_met() {
        let mut fake = FakeRedis::new(0);
        fake.save = vec![(1, 1)];
        run(&mut fake, 10, "SET k v");
        fake.faults.disk = true;
        fake.tick(1_001);
        fake.tick(1_100);
        assert!(!fake.status_ok() && fake.dirty() == 1);
        fake.faults.disk = false;
        fake.tick(6_000);
        assert!(!fake.is_saving());
        fake.tick(6_002);
        assert!(fake.is_saving());
        fake.tick(6_100);
        assert!(fake.status_ok() && fake.dirty() == 0);
    }

    #[test]
    fn a_transaction_is_refused_as_a_whole() {
        let mut fake = FakeRedis::new(0);
        for line in ["MULTI", "SET k v"] {
            run(&mut fake, 1, line);
        }
        fake.faults.aof = true;
        assert!(run(&mut fake, 2, "EXEC").starts_with("-EXECABORT Transaction discarded because of: MISCONF Errors"));
        run(&mut fake, 3, "MULTI");
        assert!(run(&mut fake, 3, "SET k v").starts_with("-MISCONF"));
        assert_eq!(run(&mut fake, 3, "EXEC"), "-EXECABORT Transaction discarded because of previous errors.\r\n");
        assert!(fake.applied.is_empty());
    }

    #[test]
    fn a_watched_key_that_moved_aborts() {
        let mut fake = FakeRedis::new(0);
        for line in ["WATCH k", "SET k 1", "MULTI", "SET k 2"] {
            run(&mut fake, 1, line);
        }
        assert_eq!(run(&mut fake, 1, "EXEC"), "*-1\r\n");
    }
}
