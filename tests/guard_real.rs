//! The guard against a real server, with faults made for real.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bgsafe::config::{Address, AofRepair, Policy, Repair, Seek, SentinelPolicy, WhenExposed};
use bgsafe::control::{Control, Endpoint};
use bgsafe::gate::Gate;
use bgsafe::guard::policy::Settings;
use bgsafe::guard::record::{Incident, Outcome, Phase};
use bgsafe::guard::supervisor::{Params, Supervisor, spawn};
use bgsafe::metrics::Metrics;
use bgsafe::posture::{Form, Posture, Refusal, Variant};
use bgsafe::testing::find::for_tests;
use redis_protocol::resp2::types::BytesFrame as Frame;
use tokio_util::sync::CancellationToken;

struct Server {
    child: Child,
    dir: tempfile::TempDir,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    async fn start(extra: &[&str]) -> Server {
        let program = for_tests().unwrap_or_else(|why| panic!("{why}"));
        let dir = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let child = program
            .command()
            .args(["--save", "3600", "1", "--bind", "127.0.0.1", "--port", &free.to_string(), "--dir"])
            .arg(&data)
            .args(extra)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server { child, dir, address: format!("127.0.0.1:{free}") };
        let started = Instant::now();
        while tokio::net::TcpStream::connect(&server.address).await.is_err() {
            assert!(started.elapsed() < Duration::from_secs(10), "{program} did not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    async fn client(&self) -> Client {
        let endpoint = endpoint(&self.address, "test");
        Client(Control::connect(&endpoint).await.unwrap())
    }

    fn guard(&self, policy: Policy) -> Guarded {
        Guarded::new(&self.address, &self.dir.path().join("state"), policy)
    }
}

fn endpoint(address: &str, name: &str) -> Endpoint {
    Endpoint {
        address: Address::Tcp(address.into()),
        credentials: None,
        name: name.into(),
        renames: Default::default(),
    }
}

struct Client(Control);

impl Client {
    async fn ask(&mut self, line: &str) -> String {
        let words = line.split(' ').map(String::from).collect();
        let mut replies = self.0.exchange(&[words], Duration::from_secs(10)).await.unwrap();
        match replies.remove(0) {
            Frame::SimpleString(b) | Frame::BulkString(b) => String::from_utf8_lossy(&b).into_owned(),
            Frame::Error(e) => format!("-{e}"),
            Frame::Integer(n) => n.to_string(),
            Frame::Array(items) => match items.last() {
                Some(Frame::BulkString(b)) => String::from_utf8_lossy(b).into_owned(),
                _ => String::new(),
            },
            Frame::Null => String::new(),
        }
    }

    async fn knob(&mut self) -> String {
        self.ask("CONFIG GET stop-writes-on-bgsave-error").await
    }

    async fn lastsave(&mut self) -> u64 {
        self.ask("LASTSAVE").await.parse().unwrap()
    }

    async fn status(&mut self) -> String {
        let info = self.ask("INFO persistence").await;
        info.lines().find_map(|l| l.strip_prefix("rdb_last_bgsave_status:")).unwrap().trim().into()
    }

    /// Until the last save is known to have failed.
    async fn failed(&mut self) {
        for _ in 0..200 {
            if self.status().await == "err" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the save did not fail");
    }
}

struct Guarded {
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    supervisor: Supervisor,
    shutdown: CancellationToken,
}

impl Guarded {
    fn new(address: &str, state: &Path, policy: Policy) -> Guarded {
        let (gate, metrics) = (Arc::new(Gate::new(1 << 20)), Arc::new(Metrics::new(1)));
        let params = Params {
            host: bgsafe::host::here(),
            hook: None,
            alerts: Default::default(),
            escrow: None,
            sentinels: None,
            sentinel_credentials: None,
            endpoint: endpoint(address, "bgsafe:test"),
            settings: Settings {
                escrow: Default::default(),
                repair: Repair::Redis,
                repair_rewrite: false,
                aof_repair: AofRepair::Rewrite,
                hook: false,
                name: "bgsafe:test".into(),
                user: "default".into(),
                hold_time: Duration::from_secs(5),
                address: address.into(),
                upstream: address.into(),
                policy,
                exposure_time: Duration::from_secs(3600),
                exposure_changes: 0,
                when_exposed: WhenExposed::Rearm,
                seek: Seek::Discover,
                sentinel_policy: SentinelPolicy::MitigateFirst,
                nonce: 1,
                guard_replicas: true,
            },
            state_dir: state.into(),
            hold_bytes: 1 << 20,
            turns: Default::default(),
        };
        let shutdown = CancellationToken::new();
        let supervisor = spawn(params, gate.clone(), metrics.clone(), shutdown.clone()).unwrap();
        Guarded { gate, metrics, supervisor, shutdown }
    }

    /// Waits until a first look was published.
    async fn ready(&self) {
        self.until("ready", |g| !g.supervisor.shared.status().run_id.is_empty()).await;
    }

    fn phase(&self) -> Phase {
        self.supervisor.shared.status().phase
    }

    async fn until(&self, what: &str, done: impl Fn(&Guarded) -> bool) {
        let started = Instant::now();
        while !done(self) {
            let shared = &self.supervisor.shared;
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "never {what}: {:#?}\n{:#?}",
                shared.status(),
                shared.incidents().first()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// A client's refusal, as a session would tell it; how long until it may be sent again.
    async fn sight(&self) -> Duration {
        let started = Instant::now();
        let ticket = self.gate.sight(Refusal { variant: Variant::Rdb, form: Form::Command });
        let place = self.gate.place(started + Duration::from_secs(5));
        let open = std::future::poll_fn(|context| {
            self.gate.wait(place, context.waker());
            if self.gate.is_open(ticket) { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::time::timeout(Duration::from_secs(20), open).await.expect("opens");
        self.gate.leave(place);
        started.elapsed()
    }

    async fn closed(&self) -> Incident {
        self.until("closed", |g| g.phase() == Phase::Quiet).await;
        let incident = self.supervisor.shared.incidents().remove(0);
        assert!(incident.outcome.is_some(), "{incident:#?}");
        incident
    }
}

fn debts(state: &Path) -> Vec<String> {
    let pages = std::fs::read_dir(state.join("debts")).unwrap();
    let texts = pages.map(|page| std::fs::read_to_string(page.unwrap().path()).unwrap());
    texts.map(|text| text.trim().to_string()).filter(|text| !text.is_empty()).collect()
}

/// The directory has the name of the dump: rename(2) cannot replace it, whoever we are.
fn block(data: &Path) {
    let _ = std::fs::remove_file(data.join("dump.rdb"));
    std::fs::create_dir(data.join("dump.rdb")).unwrap();
}

fn unblock(data: &Path) {
    std::fs::remove_dir(data.join("dump.rdb")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_dump_is_opened_proved_and_rearmed() {
    let server = Server::start(&[]).await;
    let mut client = server.client().await;
    let guard = server.guard(Policy::Mitigate);
    guard.ready().await;
    let before = client.lastsave().await;
    block(&server.data());
    client.ask("SET k v").await;
    client.ask("BGSAVE").await;
    client.failed().await;
    guard.sight().await;
    assert_eq!(client.ask("SET k w").await, "OK");
    assert_eq!(client.knob().await, "no");
    assert_eq!(debts(&server.dir.path().join("state")).len(), 1);
    // The first BGSAVE of ours fails for the same reason; the next comes after the back-off.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    unblock(&server.data());
    let incident = guard.closed().await;
    assert_eq!(incident.outcome, Some(Outcome::Rearmed), "{incident:#?}");
    assert_eq!(client.knob().await, "yes");
    assert!(client.lastsave().await > before);
    assert!(debts(&server.dir.path().join("state")).is_empty());
    assert_eq!(guard.gate.posture(), Posture::Forward);
    let file = server.dir.path().join("state/incidents").join(format!("{}.json", incident.id));
    guard.until("written", |_| file.exists()).await;
    guard.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_end_opens_within_a_millisecond_and_is_cured_by_one_bgsave() {
    let server = Server::start(&["--rdb-key-save-delay", "200000"]).await;
    let mut client = server.client().await;
    let guard = server.guard(Policy::Mitigate);
    guard.ready().await;
    let mut opened = Vec::new();
    for round in 0..9 {
        client.ask("CONFIG SET rdb-key-save-delay 200000").await;
        for n in 0..20 {
            client.ask(&format!("SET k{n} v{round}")).await;
        }
        let before = client.lastsave().await;
        assert!(client.ask("BGSAVE").await.starts_with("Background"));
        // The cause passes with the child: nothing is wrong any more and nothing is retried.
        client.ask("CONFIG SET rdb-key-save-delay 0").await;
        kill_child(server.child.id());
        client.failed().await;
        // The guard may have seen `err` at its own look before: both ways end the same.
        opened.push(guard.sight().await);
        assert_eq!(client.ask("SET k w").await, "OK");
        let incident = guard.closed().await;
        assert_eq!(incident.outcome, Some(Outcome::Rearmed), "{incident:#?}");
        let took = incident.closed_after_ms.unwrap();
        assert!(took < 2500, "{took} ms: {incident:#?}");
        assert_eq!(client.knob().await, "yes");
        assert!(client.lastsave().await > before);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    opened.sort();
    let stats = guard.metrics.guard.lock().unwrap();
    eprintln!(
        "sighting to open: p50 {:?}, all {opened:?}; by metrics p50 {} us of {}",
        opened[4],
        stats.mitigation.value_at_quantile(0.5),
        stats.mitigation.len()
    );
    assert!(opened[4] < Duration::from_millis(20));
}

/// SIGKILL to the one child of the server.
fn kill_child(parent: u32) {
    for _ in 0..100 {
        let path = format!("/proc/{parent}/task/{parent}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        if let Some(child) = children.split_whitespace().next().and_then(|pid| pid.parse().ok()) {
            let pid = rustix::process::Pid::from_raw(child).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("no child to kill");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_own_no_is_never_touched() {
    let server = Server::start(&["--stop-writes-on-bgsave-error", "no"]).await;
    let mut client = server.client().await;
    let guard = server.guard(Policy::Mitigate);
    guard.ready().await;
    block(&server.data());
    client.ask("SET k v").await;
    client.ask("BGSAVE").await;
    client.failed().await;
    guard.sight().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(client.knob().await, "no");
    let status = guard.supervisor.shared.status();
    let ids: Vec<&str> = status.findings.iter().map(|finding| finding.id.as_str()).collect();
    // What blocks the dump stands there too, with its cure.
    assert!(ids.contains(&"switch-left-off") && ids.contains(&"dir-permission"), "{ids:?}");
    assert_eq!(status.phase, Phase::Quiet);
    assert!(guard.supervisor.shared.incidents().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_guard_is_repaid_by_the_next_one() {
    let server = Server::start(&[]).await;
    let mut client = server.client().await;
    let state = server.dir.path().join("state");
    let guard = server.guard(Policy::Mitigate);
    guard.ready().await;
    block(&server.data());
    client.ask("SET k v").await;
    client.ask("BGSAVE").await;
    client.failed().await;
    guard.sight().await;
    assert_eq!(client.knob().await, "no");
    guard.supervisor.task.abort();
    let _ = guard.supervisor.task.await;
    assert_eq!(debts(&state).len(), 1);
    unblock(&server.data());
    // The thread of the dead one lets go of its page a moment later.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = client.lastsave().await;
    let next = server.guard(Policy::Mitigate);
    next.until("adopted", |g| g.supervisor.shared.status().incident.is_some()).await;
    let incident = next.closed().await;
    assert_eq!(incident.outcome, Some(Outcome::Rearmed), "{incident:#?}");
    assert_eq!(client.knob().await, "yes");
    assert!(client.lastsave().await > before);
    assert!(debts(&state).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_nobody_told_of_are_noticed_and_policy_hold_heals_by_bgsave() {
    let server = Server::start(&[]).await;
    let mut client = server.client().await;
    let guard = server.guard(Policy::Hold);
    guard.ready().await;
    block(&server.data());
    client.ask("SET k v").await;
    client.ask("BGSAVE").await;
    client.failed().await;
    unblock(&server.data());
    guard.until("parked", |g| g.phase() == Phase::Holding).await;
    assert_eq!(client.knob().await, "yes");
    let incident = guard.closed().await;
    assert_eq!(incident.outcome, Some(Outcome::SelfHealed), "{incident:#?}");
    assert_eq!(client.ask("SET k w").await, "OK");
}
