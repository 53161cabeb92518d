//! `bgsafe status` and `bgsafe incidents` against a real admin room in this process.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use bgsafe::admin::{self, Status, View};
use bgsafe::guard::feed::PhaseChange;
use bgsafe::guard::record::{DebtView, Entry, Exposure, Held, Incident, Phase, RightsView, UpstreamStatus};
use bgsafe::metrics::Metrics;
use bgsafe::posture::Variant;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

struct World {
    metrics: Metrics,
    upstream: UpstreamStatus,
    incidents: Vec<Incident>,
    started: Instant,
}

impl View for World {
    fn status(&self) -> Vec<UpstreamStatus> {
        vec![self.upstream.clone()]
    }
    fn incidents(&self) -> Vec<Incident> {
        self.incidents.clone()
    }
    fn incident(&self, id: &str) -> Option<Incident> {
        self.incidents.iter().find(|i| i.id == id).cloned()
    }
    fn turns(&self) -> broadcast::Receiver<PhaseChange> {
        broadcast::channel(1).1
    }
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
    fn serving(&self) -> bool {
        true
    }
    fn started(&self) -> Instant {
        self.started
    }
}

fn world() -> World {
    let upstream = UpstreamStatus {
        sentinel: "none".into(),
        address: "127.0.0.1:6379".into(),
        serves: true,
        last_save_ok: Some(true),
        up: true,
        role: "primary".into(),
        server: "valkey".into(),
        version: "8.1.0".into(),
        run_id: "r".into(),
        phase: Phase::Quiet,
        posture: "forward".into(),
        policy: "mitigate".into(),
        debt: None,
        owner: None,
        exposure: Exposure::default(),
        escrow: None,
        findings: Vec::new(),
        rights: RightsView::default(),
        held: Held::default(),
        incident: None,
    };
    World { metrics: Metrics::new(1), upstream, incidents: Vec::new(), started: Instant::now() }
}

fn broken() -> World {
    let mut world = world();
    world.upstream.phase = Phase::Verifying;
    world.upstream.incident = Some("20261122T101500Z-1f3a".into());
    world.upstream.debt = Some(DebtView {
        since: "10:15".into(),
        setting: "stop-writes-on-bgsave-error".into(),
        owed: "yes".into(),
        run_id: "r".into(),
    });
    world.incidents.push(Incident {
        id: "20261122T101500Z-1f3a".into(),
        upstream: "127.0.0.1:6379".into(),
        variant: Variant::Rdb,
        opened_at: "2026-11-22T10:15:00.000Z".into(),
        mitigated_after_ms: Some(3),
        verified_after_ms: None,
        closed_after_ms: None,
        outcome: None,
        findings: Vec::new(),
        refusals: 4,
        held: 4,
        replayed: 4,
        timed_out: 0,
        abandoned: 0,
        changes_exposed: 9,
        timeline: vec![Entry {
            at_ms: 3,
            phase: Phase::Mitigated,
            event: "writes opened".into(),
            detail: String::new(),
        }],
    });
    world
}

/// Serves `world` for as long as the runtime lives.
fn serve(world: World) -> (tokio::runtime::Runtime, SocketAddr) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let at = listener.local_addr().expect("bound");
    runtime.spawn(admin::serve(listener, Arc::new(world), CancellationToken::new()));
    (runtime, at)
}

fn bgsafe(at: SocketAddr, args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_bgsafe"))
        .args(args)
        .env_clear()
        .env("BGSAFE_ADMIN", at.to_string())
        .output()
        .expect("bgsafe starts");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("it exits by itself"), text)
}

#[test]
fn a_quiet_bgsafe_ends_status_with_zero() {
    let (_runtime, at) = serve(world());
    let (code, text) = bgsafe(at, &["status"]);
    assert!(code == 0 && text.contains("valkey 8.1.0") && text.contains("phase      quiet"), "{code} {text}");
    let (code, text) = bgsafe(at, &["incidents"]);
    assert_eq!((code, text.as_str()), (0, "no incident so far\n"));
}

#[test]
fn an_open_incident_ends_status_with_one_and_is_shown() {
    let (_runtime, at) = serve(broken());
    let (code, text) = bgsafe(at, &["status"]);
    assert!(code == 1 && text.contains("verifying") && text.contains("since 10:15"), "{code} {text}");
    let (code, text) = bgsafe(at, &["status", "--json"]);
    let status: Status = serde_json::from_str(&text).expect("JSON");
    assert!(code == 1 && status.upstreams[0].phase == Phase::Verifying);
    let (code, text) = bgsafe(at, &["incidents"]);
    assert!(code == 0 && text.contains("20261122T101500Z-1f3a") && text.contains("open"), "{code} {text}");
    let (code, text) = bgsafe(at, &["incidents", "show", "20261122T101500Z-1f3a"]);
    assert!(code == 0 && text.contains("3 ms  mitigated   writes opened"), "{code} {text}");
    let (code, text) = bgsafe(at, &["incidents", "show", "20261122T101500Z-1f3a", "--json"]);
    assert!(code == 0 && serde_json::from_str::<Incident>(&text).is_ok(), "{code} {text}");
    let (code, text) = bgsafe(at, &["incidents", "show", "no/such"]);
    assert!(code == 1 && text.contains("knows no incident `no/such`"), "{code} {text}");
}
