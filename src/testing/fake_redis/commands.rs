//! The commands of the fake Redis: who is refused, what queues, what each one answers.

use std::collections::{HashSet, VecDeque};

use super::{Child, Connection, Failover, FakeRedis, Value};

const RDB_TEXT: &str = "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that may modify the data set are disabled, because this instance is configured to report errors during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB error.";
const AOF_TEXT: &str = "MISCONF Errors writing to the AOF file: No space left on device";
const SYNC_TEXT: &str = "MISCONF Errors writing to the AOF file: Input/output error";
const WRITES: [&str; 6] = ["SET", "INCR", "RPUSH", "DEL", "LPOP", "APPEND"];

impl FakeRedis {
    pub(super) fn refusal(&self) -> Option<&'static str> {
        // server.c:writeCommandsDeniedByDiskError: the RDB text wins.
        if self.knob && !self.save.is_empty() && !self.status_ok {
            return Some(RDB_TEXT);
        }
        self.aof_refuses().then_some(if self.faults.aof { AOF_TEXT } else { SYNC_TEXT })
    }

    /// Runs one command of one connection; the bytes of its reply.
    pub fn execute(&mut self, now: u64, connection: u64, argv: &[Vec<u8>]) -> Vec<u8> {
        self.tick(now);
        let Some(first) = argv.first() else { return Vec::new() };
        let name = String::from_utf8_lossy(first).to_ascii_uppercase();
        self.connection(connection).seen = now;
        let queueing = self.connection(connection).queue.is_some();
        if let Some(why) = self.reject(&name, argv) {
            if queueing {
                self.connection(connection).dirty = true;
            }
            self.refused_pings += u64::from(name == "PING" && why.starts_with("MISCONF"));
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
                let Connection { db, name, seen, .. } = std::mem::take(self.connection(connection));
                *self.connection(connection) = Connection { db, name, seen, ..Connection::default() };
                b"+OK\r\n".to_vec()
            }
            "EXEC" if !queueing => self.error("ERR EXEC without MULTI"),
            "EXEC" => self.exec(now, connection),
            _ => self.run(now, connection, &name, argv),
        }
    }

    fn may(&self, name: &str) -> bool {
        match name {
            "CONFIG" => !self.faults.no_config,
            "BGSAVE" => !self.faults.no_bgsave,
            "CLIENT" => !self.faults.no_client,
            _ => true,
        }
    }

    fn reject(&mut self, name: &str, argv: &[Vec<u8>]) -> Option<String> {
        if !self.may(name) {
            let name = name.to_ascii_lowercase();
            return Some(format!("NOPERM this user has no permissions to run the '{name}' command"));
        }
        let arity = match name {
            "ACL" => 2,
            "SET" | "RPUSH" | "APPEND" | "PUBLISH" => 3,
            "GET" | "INCR" | "DEL" | "LPOP" | "WATCH" | "SELECT" | "CONFIG" | "ECHO" => 2,
            "FAILOVER" if self.failover == Failover::Missing => {
                return Some("ERR unknown command 'FAILOVER', with args beginning with: ".into());
            }
            "PING" | "FAILOVER" | "MULTI" | "EXEC" | "DISCARD" | "INFO" | "BGSAVE" | "BGREWRITEAOF"
            | "LASTSAVE" | "ROLE" | "CLIENT" | "PUBSUB" => 1,
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
            // NUMSUB of the Sentinels' own channel is all that is asked of it.
            "PUBSUB" => [b"*2\r\n".to_vec(), bulk(&word(2)), integer(self.sentinels)].concat(),
            "CLIENT" => self.client(now, connection, argv),
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
                let Value::Text(text) = self.data.entry(key).or_insert_with(|| Value::Text(Vec::new()))
                else {
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
                let Some(n) =
                    String::from_utf8_lossy(text).parse::<i64>().ok().and_then(|n| n.checked_add(1))
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
                false => {
                    b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n$9\r\nconnected\r\n:0\r\n".to_vec()
                }
            },
            "INFO" => bulk(self.info(now).as_bytes()),
            "BGSAVE" => self.bgsave(now, connection, argv),
            "BGREWRITEAOF" => self.bgrewriteaof(now).into(),
            "ACL" if word(1) == b"WHOAMI" => bulk(b"default"),
            "ACL" if word(1) == b"DRYRUN" => match self.may(&String::from_utf8_lossy(&word(3))) {
                true => b"+OK\r\n".to_vec(),
                false => bulk(b"User default has no permissions to run it"),
            },
            "FAILOVER" if !self.primary => self.error("ERR FAILOVER is not valid when server is a replica."),
            "FAILOVER" => {
                let limit: u64 = String::from_utf8_lossy(&word(5)).parse().unwrap_or(0);
                let takes = if self.failover == Failover::Works { 30 } else { limit };
                self.failing_over = Some(now + takes);
                b"+OK\r\n".to_vec()
            }
            "CONFIG" => self.config(argv),
            _ => self.error("ERR unknown command"),
        }
    }

    /// `networking.c:clientCommand`, of it SETNAME and LIST.
    fn client(&mut self, now: u64, connection: u64, argv: &[Vec<u8>]) -> Vec<u8> {
        let word =
            |n: usize| argv.get(n).map_or_else(String::new, |w| String::from_utf8_lossy(w).to_string());
        match (word(1).as_str(), word(2).as_str()) {
            ("SETNAME", _) => {
                self.connection(connection).name = argv[2].clone();
                b"+OK\r\n".to_vec()
            }
            ("LIST", which) => {
                let only: Option<u64> = word(3).parse().ok().filter(|_| which == "ID");
                let mut list: Vec<_> = self.connections.iter().collect();
                list.sort_by_key(|(id, _)| **id);
                let shown = list.iter().filter(|(id, _)| only.is_none_or(|only| only == **id));
                let line = |(id, c): &(&u64, &Connection)| {
                    let (name, idle) = (String::from_utf8_lossy(&c.name), (now - c.seen) / 1000);
                    format!("id={id} addr=127.0.0.1:1 name={name} age=1 idle={idle} db={}\n", c.db)
                };
                bulk(shown.map(line).collect::<String>().as_bytes())
            }
            _ => b"+OK\r\n".to_vec(),
        }
    }

    fn wrote(&mut self, connection: u64, argv: &[Vec<u8>]) {
        self.dirty += 1;
        self.appended();
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
        if word(1).eq_ignore_ascii_case("REWRITE") {
            return self.rewrite();
        }
        let (verb, name, value) = (word(1).to_ascii_uppercase(), word(2).to_ascii_lowercase(), word(3));
        let known = match name.as_str() {
            "stop-writes-on-bgsave-error" => if self.knob { "yes" } else { "no" }.to_string(),
            "save" => self.save.iter().map(|(s, c)| format!("{s} {c}")).collect::<Vec<_>>().join(" "),
            "dir" => self.dir.clone(),
            "appendonly" => if self.aof.on { "yes" } else { "no" }.to_string(),
            "dbfilename" => self.dbfilename.clone(),
            "replica-ignore-disk-write-errors" => if self.ignores_errors { "yes" } else { "no" }.to_string(),
            "oom-score-adj" => if self.oom_score_adj { "yes" } else { "no" }.to_string(),
            "enable-protected-configs" => "yes".to_string(),
            _ if verb == "GET" => return b"*0\r\n".to_vec(),
            _ => {
                return self
                    .error(&format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'"));
            }
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
            ("SET", "replica-ignore-disk-write-errors", "yes" | "no") => {
                self.ignores_errors = value == "yes";
                b"+OK\r\n".to_vec()
            }
            ("SET", "appendonly", "yes") if self.no_aof => {
                self.error("ERR CONFIG SET failed (possibly related to argument 'appendonly') - Unable to turn on AOF. Check server logs.")
            }
            ("SET", "appendonly", "yes" | "no") => {
                self.set_aof(value == "yes");
                b"+OK\r\n".to_vec()
            }
            ("SET", "oom-score-adj", "yes" | "no") => {
                self.oom_score_adj = value == "yes";
                b"+OK\r\n".to_vec()
            }
            ("SET", "dir", dir) if self.dirs.iter().any(|there| there == dir) => {
                self.dir = dir.to_string();
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

    /// `config.c:configRewriteCommand`: what is live goes into the file.
    fn rewrite(&mut self) -> Vec<u8> {
        if !self.has_file {
            return self.error("ERR The server is running without a config file");
        }
        self.configured_knob = self.knob;
        self.rewrites += 1;
        b"+OK\r\n".to_vec()
    }

    fn info(&self, now: u64) -> String {
        let status = |ok: bool| if ok { "ok" } else { "err" };
        let misconf =
            self.errors.get("MISCONF").map_or(String::new(), |n| format!("errorstat_MISCONF:count={n}\r\n"));
        let rewrites = match (self.counts_subcommands, self.rewrites) {
            (true, 0) => "cmdstat_config|get:calls=1,failed_calls=0\r\n".to_string(),
            (true, n) => format!("cmdstat_config|rewrite:calls={n},rejected_calls=0,failed_calls=0\r\n"),
            (false, _) => String::new(),
        };
        format!(
            "# Server\r\nredis_version:{}\r\nprocess_id:77\r\nrun_id:{}\r\nserver_time_usec:{}\r\n\
             # Persistence\r\nloading:0\r\nrdb_changes_since_last_save:{}\r\nrdb_bgsave_in_progress:{}\r\n\
             rdb_last_save_time:{}\r\nrdb_last_bgsave_status:{}\r\nrdb_saves:{}\r\naof_rewrite_in_progress:{}\r\n\
             aof_last_write_status:{}\r\naof_enabled:{}\r\naof_buffer_length:{}\r\naof_rewrite_scheduled:{}\r\n\
             aof_last_bgrewrite_status:{}\r\naof_rewrites_consecutive_failures:{}\r\nmodule_fork_in_progress:0\r\n\
             # Stats\r\ntotal_error_replies:{}\r\n# Replication\r\nrole:{}\r\nmaster_failover_state:{}\r\n# Errorstats\r\n{misconf}\
             # Commandstats\r\ncmdstat_ping:calls=1,rejected_calls={}\r\n{rewrites}",
            self.version,
            self.run_id(),
            now * 1000,
            self.dirty,
            u8::from(self.is_saving()),
            self.last_save / 1000,
            status(self.status_ok),
            self.saves,
            u8::from(matches!(self.child, Some(Child::Rewrite { .. }))),
            status(!self.aof_refuses()),
            u8::from(self.aof.on),
            if self.faults.aof && self.aof_refuses() { 40 } else { 0 },
            u8::from(self.aof.scheduled),
            status(self.aof.rewrite_ok),
            self.aof.failures,
            self.errors.values().sum::<u64>(),
            if self.primary { "master" } else { "slave" },
            if self.failing_over.is_some() { "waiting-for-sync" } else { "no-failover" },
            self.refused_pings,
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
