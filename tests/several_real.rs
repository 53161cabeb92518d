//! Many bgsafes before one real server: one of them lowers the switch, saves and restores, the others follow; when
//! it is killed, one of them takes its debt over.

mod common;

use std::time::Duration;

use bgsafe::testing::client::text;
use bgsafe::testing::faults::Fault;
use bgsafe::testing::proxy::Proxy;
use bgsafe::testing::server::Server;
use bgsafe::testing::workload::{self, Kind, Plan, Running, Target};
use common::{SWITCH, eventually, program, start_bgsafe};
use serde_json::Value;
use tokio::runtime::Runtime;

const LONG: Duration = Duration::from_secs(60);

struct Many {
    runtime: Runtime,
    writers: Vec<Running>,
    all: Vec<Proxy>,
    server: Server,
}

impl Many {
    fn new(many: usize) -> Many {
        let server = Server::start(&program(), Fault::DumpDir.options(&program())).unwrap();
        let mut direct = server.direct().unwrap();
        direct.demand(&["SET", "lab:before", "1"]).unwrap();
        direct.demand(&["SAVE"]).unwrap();
        let upstream = format!("redis://{}", server.site().address);
        let all =
            (0..many).map(|_| start_bgsafe(&upstream, &["--workers", "1", "--repair", "off"])).collect();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Many { runtime, writers: Vec::new(), all, server }
    }

    fn write(&mut self) {
        let _inside = self.runtime.enter();
        for (n, bgsafe) in self.all.iter().enumerate() {
            let plan = Plan {
                think: Duration::from_millis(60),
                writers: 2,
                kinds: vec![Kind::Rpush, Kind::Incr],
                ..Plan::new(Target::Tcp(bgsafe.listen()), &format!("several{n}"))
            };
            self.writers.push(workload::start(plan));
        }
        std::thread::sleep(Duration::from_millis(500));
    }

    fn switch(&self) -> String {
        self.server.direct().unwrap().config(SWITCH).unwrap().unwrap()
    }

    fn status(&self) -> Vec<Value> {
        self.all.iter().filter(|b| b.pid().is_some()).map(|b| b.upstream_status().unwrap()).collect()
    }

    fn calls(&self, command: &str) -> u64 {
        let stats = text(&self.server.direct().unwrap().demand(&["INFO", "commandstats"]).unwrap());
        let line = stats
            .lines()
            .find_map(|l| l.strip_prefix("cmdstat_")?.strip_prefix(command)?.strip_prefix(":calls="));
        let calls = line.and_then(|line| line.split(',').next()?.parse().ok());
        calls.unwrap_or(0)
    }

    fn owner(&self) -> Option<usize> {
        self.all.iter().position(|b| {
            b.pid().is_some() && {
                let status = b.upstream_status().unwrap();
                !status["debt"].is_null() && status["owner"].is_null()
            }
        })
    }

    fn wait_until_quiet(&self) {
        eventually("all are quiet and owe nothing", LONG, || {
            let quiet = |s: &Value| s["phase"] == "quiet" && s["debt"].is_null() && s["owner"].is_null();
            self.status().iter().all(quiet) && self.switch() == "yes"
        });
    }

    fn assert_no_notes(&self, but: &[usize]) {
        for (n, bgsafe) in self.all.iter().enumerate().filter(|(n, _)| !but.contains(n)) {
            for page in std::fs::read_dir(bgsafe.state_dir().join("debts")).unwrap().flatten() {
                let note = std::fs::read(page.path()).unwrap();
                assert!(note.trim_ascii().is_empty(), "{n}: {}", String::from_utf8_lossy(&note));
            }
        }
    }

    /// How many told of each of these in their timelines.
    fn told(&self, event: &str) -> usize {
        let tells = |bgsafe: &&Proxy| {
            let incidents = bgsafe.incidents().unwrap();
            let mut events =
                incidents.iter().flat_map(|i| i["timeline"].as_array().cloned().unwrap_or_default());
            events.any(|entry| entry["event"] == event)
        };
        self.all.iter().filter(|b| b.pid().is_some()).filter(tells).count()
    }

    /// Writers of these bgsafes saw nothing; all of them were honest.
    fn judge(&mut self, but: &[usize]) {
        let mut direct = self.server.direct().unwrap();
        for (n, writers) in std::mem::take(&mut self.writers).into_iter().enumerate() {
            let score = self.runtime.block_on(writers.stop()).verify(&mut direct).unwrap();
            assert!(
                score.total.acknowledged > 5,
                "{n}: {} tokens: nothing was shown",
                score.total.acknowledged
            );
            let well = if but.contains(&n) { score.total.honest() } else { score.total.perfect() };
            assert!(well, "{n}: {:#?}\n{}", score.texts, self.all[n].log());
        }
    }
}

#[test]
fn of_twenty_bgsafes_one_lowers_saves_and_restores() {
    let mut many = Many::new(20);
    many.write();
    let (sets, saves) = (many.calls("config|set"), many.calls("bgsave"));
    let broken = Fault::DumpDir.strike(many.server.site()).unwrap();
    eventually("all but the owner follow", LONG, || {
        many.status().iter().filter(|s| !s["owner"].is_null() && s["phase"] == "mitigated").count() == 19
    });
    broken.heal().unwrap();
    many.wait_until_quiet();
    std::thread::sleep(Duration::from_millis(500));
    many.judge(&[]);
    many.assert_no_notes(&[]);
    // One of the saves is the fault's own, one of the settings the restore.
    let (sets, saves) = (many.calls("config|set") - sets, many.calls("bgsave") - saves);
    eprintln!(
        "{sets} CONFIG SETs, {saves} BGSAVEs, {} followed",
        many.told("another bgsafe lowered the switch")
    );
    assert_eq!((many.told("switch lowered"), many.told("switch restored")), (1, 1));
    assert_eq!(sets, 2, "one lowers, the same restores");
    assert!((1..=3).contains(&saves), "{saves} BGSAVEs");
}

#[test]
fn the_debt_of_a_killed_bgsafe_is_inherited() {
    let mut many = Many::new(4);
    many.write();
    let broken = Fault::DumpDir.strike(many.server.site()).unwrap();
    eventually("somebody owes", LONG, || many.switch() == "no" && many.owner().is_some());
    let first = many.owner().unwrap();
    eventually("the others follow", LONG, || {
        many.status().iter().filter(|s| !s["owner"].is_null() && s["debt"].is_null()).count() == 3
    });
    many.all[first].kill9();
    eventually("an heir owes", LONG, || many.owner().is_some());
    let heir = many.owner().unwrap();
    assert!(heir != first && many.switch() == "no");
    // The dead one comes back with its note: it follows its heir.
    many.all[first].restart().unwrap();
    eventually("it follows", LONG, || !many.all[first].upstream_status().unwrap()["owner"].is_null());
    assert_eq!(many.owner(), Some(heir));
    broken.heal().unwrap();
    many.wait_until_quiet();
    many.judge(&[first]);
    many.assert_no_notes(&[]);
    assert_eq!(many.told("switch restored"), 1);
    assert_eq!(many.calls("config|set"), 2, "one lowered, one restored");
}
