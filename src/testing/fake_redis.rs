//! A Redis that is only its persistence model and a handful of commands: no socket, no clock, no
//! disk. What refuses when, what a save moves, what the server retries by itself, after
//! `server.c:processCommand`, `server.c:serverCron`, `rdb.c` and `multi.c` of 7.0.
//!
//! Refuses to know: proxies, guards. Invariant: the same calls with the same `now` give the same
//! bytes.

mod aof;
mod commands;
#[cfg(test)]
mod print;

pub use aof::Aof;

use std::collections::{BTreeMap, HashMap, VecDeque};

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
    /// The control user may not use CLIENT.
    pub no_client: bool,
    /// The control user may not use CONFIG.
    pub no_config: bool,
    /// … nor BGSAVE.
    pub no_bgsave: bool,
}

/// What comes of FAILOVER (`replication.c:failoverCommand`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Failover {
    /// The role moves, a little later.
    #[default]
    Works,
    /// The replica does not come into step in time.
    TimesOut,
    /// The server knows no such command.
    Missing,
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
    /// CLIENT SETNAME.
    pub name: Vec<u8>,
    /// When it last said anything.
    seen: u64,
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
    /// Directories that are there: others cannot be CONFIG SET.
    pub dirs: Vec<String>,
    /// `dbfilename`.
    pub dbfilename: String,
    /// The append-only file.
    pub aof: Aof,
    /// As INFO tells.
    pub version: &'static str,
    /// CONFIG SET appendonly yes is refused.
    pub no_aof: bool,
    /// `oom-score-adj` is `yes`.
    pub oom_score_adj: bool,
    /// Is this a primary?
    pub primary: bool,
    /// `replica-ignore-disk-write-errors`.
    pub ignores_errors: bool,
    /// So many Sentinels watch it.
    pub sentinels: i64,
    /// What comes of FAILOVER.
    pub failover: Failover,
    /// It is tried until then.
    failing_over: Option<u64>,
    /// Good saves to disk since the beginning of time, restarts included.
    pub good_saves: u64,
    /// BGSAVE commands that were accepted or failed to fork.
    pub bgsaves: u64,
    /// CONFIG REWRITEs carried out since the process started, each of which wrote the live switch to the file.
    pub rewrites: u64,
    /// INFO counts subcommands by themselves (7.0+).
    pub counts_subcommands: bool,
    /// There is a configuration file to be written.
    pub has_file: bool,
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
    refused_pings: u64,
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

impl FakeRedis {
    /// A healthy primary that was started at `now` (Unix milliseconds) with `save 3600 1`.
    pub fn new(now: u64) -> Self {
        FakeRedis {
            faults: Faults::default(),
            save_ms: 80,
            knob: true,
            save: vec![(3600, 1)],
            dir: "/data".into(),
            dirs: vec!["/data".into()],
            aof: Aof::default(),
            version: "7.0.15",
            no_aof: false,
            oom_score_adj: false,
            dbfilename: "dump.rdb".into(),
            primary: true,
            ignores_errors: false,
            sentinels: 0,
            failover: Failover::Works,
            failing_over: None,
            good_saves: 0,
            bgsaves: 0,
            rewrites: 0,
            counts_subcommands: true,
            has_file: true,
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
            refused_pings: 0,
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

    /// What the configuration file says of the switch.
    pub fn file_knob(&self) -> bool {
        self.configured_knob
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
        self.rewrites = 0;
        self.child = None;
        self.scheduled = false;
        let Aof { sync_fails, rewrite_clears, .. } = self.aof;
        self.aof = Aof { sync_fails, rewrite_clears, ..Aof::default() };
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

    /// The saving child ends now, by itself.
    pub fn end_child(&mut self, now: u64) {
        if let Some(Child::Disk { until, .. }) = &mut self.child {
            *until = now;
        }
        self.tick(now);
    }

    /// A write of its primary arrives. True: it ends itself (`server.c:processCommand`, serverPanic).
    pub fn replicate(&mut self, now: u64) -> bool {
        self.tick(now);
        if self.refusal().is_some() && !self.ignores_errors {
            return true;
        }
        self.dirty += 1;
        false
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
        if self.failing_over.is_some_and(|until| until <= now) {
            self.failing_over = None;
            self.primary &= self.failover == Failover::TimesOut;
        }
        loop {
            let end = match self.child {
                Some(Child::Disk { killed: true, .. }) => now,
                Some(Child::Disk { until, .. } | Child::Diskless { until } | Child::Rewrite { until }) => {
                    until
                }
                None => {
                    self.cron_start(now);
                    break self.cron_rewrite(now);
                }
            };
            if end > now {
                break;
            }
            match self.child.take() {
                // rdb.c:backgroundSaveDoneHandlerDisk
                Some(Child::Disk { dirty, killed, .. })
                    if !killed && !self.faults.disk && !self.dir.is_empty() =>
                {
                    self.status_ok = true;
                    self.dirty = self.dirty.saturating_sub(dirty);
                    self.last_save = end;
                    self.good_saves += 1;
                }
                Some(Child::Disk { .. }) => self.status_ok = false,
                // Neither the status nor LASTSAVE: rdb.c:backgroundSaveDoneHandlerSocket.
                Some(Child::Diskless { .. }) | None => {}
                Some(Child::Rewrite { .. }) => self.rewrite_ended(end, true),
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
        assert!(
            run(&mut fake, 2, "EXEC")
                .starts_with("-EXECABORT Transaction discarded because of: MISCONF Errors")
        );
        run(&mut fake, 3, "MULTI");
        assert!(run(&mut fake, 3, "SET k v").starts_with("-MISCONF"));
        assert_eq!(
            run(&mut fake, 3, "EXEC"),
            "-EXECABORT Transaction discarded because of previous errors.\r\n"
        );
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
