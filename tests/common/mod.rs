//! A real server, the real bgsafe in front of it, and writers: what each fault test starts with and ends with.

#![allow(dead_code)] // Each test binary uses its own part of this.

use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use bgsafe::testing::client::{Direct, Reply};
use bgsafe::testing::find::{Program, for_tests};
use bgsafe::testing::proxy::Proxy;
use bgsafe::testing::server::{Options, Server};
use bgsafe::testing::workload::{self, Plan, Running, Score, Target, table};
use serde_json::Value;
use tokio::runtime::Runtime;

/// The operator's switch.
pub const SWITCH: &str = "stop-writes-on-bgsave-error";
/// From the heal to everything being as it was.
const RECOVERY: Duration = Duration::from_secs(10);
/// Labs at a time: each is a server, a bgsafe and fifty writers.
const LABS_MAX: usize = 2;

static LABS: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// A place among the labs that run.
struct Permit;

impl Permit {
    fn wait() -> Permit {
        let busy = LABS.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut busy = LABS
            .1
            .wait_while(busy, |busy| *busy >= LABS_MAX)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        *busy += 1;
        Permit
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *LABS.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) -= 1;
        LABS.1.notify_one();
    }
}

/// The server program, or the line that says how to get one.
pub fn program() -> Program {
    for_tests().unwrap_or_else(|why| panic!("{why}"))
}

/// A bgsafe of this build in front of an upstream, ready to serve.
pub fn start_bgsafe(upstream: &str, args: &[&str]) -> Proxy {
    Proxy::start(Path::new(env!("CARGO_BIN_EXE_bgsafe")), upstream, args).unwrap()
}

/// Waits for something that must come, and says what did not.
pub fn eventually(what: &str, within: Duration, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !ready() {
        assert!(Instant::now() < deadline, "in vain for {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// One server, one bgsafe, one set of writers. Dropped in this order: writers, bgsafe, server.
pub struct Lab {
    runtime: Runtime,
    writers: Option<Running>,
    pub bgsafe: Proxy,
    pub server: Server,
    saved_at: i64,
    _permit: Permit,
}

impl Lab {
    /// A server with something saved, and bgsafe in front of it.
    pub fn new(options: Options, args: &[&str]) -> Lab {
        Lab::prepared(options, args, |_| ())
    }

    /// As `new`, with something done to the server before bgsafe starts.
    pub fn prepared(options: Options, args: &[&str], prepare: impl FnOnce(&mut Direct)) -> Lab {
        Lab::made(options, args, false, prepare)
    }

    /// As `new`, and bgsafe runs as the server's user when asked to, not as ours.
    pub fn run_as(servers_user: bool, options: Options, args: &[&str]) -> Lab {
        Lab::made(options, args, servers_user, |_| ())
    }

    fn made(options: Options, args: &[&str], servers_user: bool, prepare: impl FnOnce(&mut Direct)) -> Lab {
        let permit = Permit::wait();
        let server = Server::start(&program(), options).unwrap();
        let mut direct = server.direct().unwrap();
        direct.demand(&["SET", "lab:before", "1"]).unwrap();
        direct.demand(&["SAVE"]).unwrap();
        let saved_at = direct.last_save().unwrap();
        prepare(&mut direct);
        let upstream = format!("redis://{}", server.site().address);
        let uid = server.site().uid.filter(|_| servers_user);
        let bgsafe = Proxy::start_as(Path::new(env!("CARGO_BIN_EXE_bgsafe")), &upstream, args, uid).unwrap();
        // One thread: the machine belongs to bgsafe and the server.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Lab { runtime, writers: None, bgsafe, server, saved_at, _permit: permit }
    }

    /// Fifty writers of every kind through bgsafe.
    pub fn write(&mut self) {
        self.write_as(|plan| plan);
    }

    pub fn write_as(&mut self, change: impl FnOnce(Plan) -> Plan) {
        let plan = Plan {
            think: Duration::from_millis(10),
            big_bytes: 300_000,
            ..Plan::new(Target::Tcp(self.bgsafe.listen()), "lab")
        };
        let _inside = self.runtime.enter();
        self.writers = Some(workload::start(change(plan)));
        drop(_inside);
        std::thread::sleep(Duration::from_millis(400));
        let acked = self.writers.as_ref().unwrap().live().acked();
        eprintln!("writers at work: {acked} tokens in 400 ms");
    }

    /// Tokens acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.writers.as_ref().expect("writers were started").live().acked()
    }

    /// Ends the writers and asks the server what it holds.
    pub fn judge(&mut self) -> Score {
        let writers = self.writers.take().expect("writers were started");
        let ran = self.runtime.block_on(writers.stop());
        let score = ran.verify(&mut self.server.direct().unwrap()).unwrap();
        eprintln!("{}", table(&[("behind bgsafe", &score.total)]));
        score
    }

    /// The switch, as the server has it.
    pub fn switch(&self) -> String {
        self.server.direct().unwrap().config(SWITCH).unwrap().unwrap()
    }

    /// Where bgsafe says the incident stands.
    pub fn phase(&self) -> String {
        let status = self.bgsafe.upstream_status().unwrap();
        status["phase"].as_str().expect("a status has a phase").to_owned()
    }

    /// bgsafe is quiet and owes nothing, and the server says so too.
    pub fn wait_until_quiet(&self, switch: &str) {
        self.wait_until_quiet_for(switch, RECOVERY);
    }

    /// The same, where a save takes longer.
    pub fn wait_until_quiet_for(&self, switch: &str, recovery: Duration) {
        let quiet = || {
            let status = self.bgsafe.upstream_status().unwrap();
            status["phase"] == "quiet" && status["debt"].is_null() && self.switch() == switch
        };
        let deadline = Instant::now() + recovery;
        while !quiet() {
            if Instant::now() > deadline {
                let status = self.bgsafe.upstream_status().unwrap();
                panic!("not quiet with {SWITCH} {switch} in {recovery:?}: {status:#}\n{}", self.bgsafe.log());
            }
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// After an RDB incident: a good save since the lab began. LASTSAVE counts whole seconds.
    pub fn assert_saved(&self) {
        let mut direct = self.server.direct().unwrap();
        assert_eq!(direct.info("rdb_last_bgsave_status").unwrap().as_deref(), Some("ok"));
        assert!(direct.last_save().unwrap() > self.saved_at, "LASTSAVE did not advance");
    }

    /// No debt is left on disk. The page itself stays, preallocated for a day when the disk is full: it is blank.
    pub fn assert_no_debt_file(&self) {
        let pages = std::fs::read_dir(self.bgsafe.state_dir().join("debts")).into_iter().flatten().flatten();
        for page in pages.map(|page| page.path()) {
            let debt = std::fs::read(&page).unwrap();
            assert!(debt.trim_ascii().is_empty(), "{}: {}", page.display(), String::from_utf8_lossy(&debt));
        }
    }

    /// The newest incident: its variant and outcome are as they must be, and its books balance.
    pub fn assert_incident(&self, variant: &str, outcomes: &[&str]) -> Value {
        let incident =
            self.bgsafe.incidents().unwrap().into_iter().next().expect("bgsafe recorded an incident");
        assert_eq!(incident["variant"], variant, "{incident:#}");
        let outcome = incident["outcome"].as_str().unwrap_or("still open");
        assert!(outcomes.contains(&outcome), "outcome {outcome}, not one of {outcomes:?}: {incident:#}");
        let number =
            |name: &str| incident[name].as_u64().unwrap_or_else(|| panic!("no {name}: {incident:#}"));
        let ended = number("replayed") + number("timed_out") + number("abandoned");
        assert_eq!(number("held"), ended, "held = replayed + timed out + abandoned: {incident:#}");
        incident
    }

    /// The writers noticed nothing at all, and were really writing.
    pub fn assert_perfect(&self, score: &Score) {
        assert!(score.total.perfect(), "{}{:#?}", by_kind(score), score.texts);
        assert!(
            score.total.acknowledged > 500,
            "only {} tokens: nothing was shown",
            score.total.acknowledged
        );
        assert!(score.kinds.len() == 9 && score.kinds.values().all(|kind| kind.acknowledged > 0));
    }

    /// Whatever was acknowledged is there once and in order, whatever else the writers saw.
    pub fn assert_honest(&self, score: &Score) {
        assert!(score.total.honest(), "{}{:#?}", by_kind(score), score.texts);
        assert!(
            score.total.acknowledged > 500,
            "only {} tokens: nothing was shown",
            score.total.acknowledged
        );
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "bgsafe said:\n{}\nthe server said:\n{}",
                self.bgsafe.log(),
                tail(&self.server.log(), 30)
            );
        }
    }
}

/// Which kinds of writers had something to complain of.
fn by_kind(score: &Score) -> String {
    let complaining = score.kinds.iter().filter(|(_, kind)| !kind.perfect());
    complaining.map(|(kind, score)| format!("{}:\n{}\n", kind.name(), table(&[("", score)]))).collect()
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Is it a refusal?
pub fn is_misconf(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(text) if text.starts_with("MISCONF"))
}
