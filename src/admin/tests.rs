//! The admin room over a real socket.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::guard::record::{Exposure, Held, Outcome, RightsView};
use crate::posture::Variant;

/// A world that stands still.
struct Still {
    metrics: Metrics,
    upstream: UpstreamStatus,
    incidents: Vec<Incident>,
    turns: broadcast::Sender<PhaseChange>,
    serving: bool,
    started: Instant,
}

impl View for Still {
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
        self.turns.subscribe()
    }
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
    fn serving(&self) -> bool {
        self.serving
    }
    fn started(&self) -> Instant {
        self.started
    }
}

fn upstream() -> UpstreamStatus {
    UpstreamStatus {
        sentinel: "none".into(),
        address: "127.0.0.1:6379".into(),
        serves: true,
        last_save_ok: Some(true),
        up: true,
        role: "primary".into(),
        server: "redis".into(),
        version: "7.0.15".into(),
        run_id: "r".into(),
        phase: Phase::Quiet,
        posture: "forward".into(),
        policy: "mitigate".into(),
        debt: None,
        owner: None,
        exposure: Exposure { secs_max: 3600, ..Exposure::default() },
        escrow: None,
        findings: Vec::new(),
        rights: RightsView::default(),
        held: Held::default(),
        incident: None,
    }
}

fn incident(id: &str) -> Incident {
    Incident {
        id: id.into(),
        upstream: "127.0.0.1:6379".into(),
        variant: Variant::Rdb,
        opened_at: "2026-11-22T10:15:00.000Z".into(),
        mitigated_after_ms: Some(3),
        verified_after_ms: None,
        closed_after_ms: None,
        outcome: None,
        findings: Vec::new(),
        refusals: 1,
        held: 1,
        replayed: 0,
        timed_out: 0,
        abandoned: 0,
        changes_exposed: 0,
        timeline: Vec::new(),
    }
}

fn still() -> Still {
    Still {
        metrics: Metrics::new(2),
        upstream: upstream(),
        incidents: vec![incident("b"), incident("a")],
        turns: broadcast::channel(8).0,
        serving: true,
        started: Instant::now(),
    }
}

struct Served {
    at: SocketAddr,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn served(view: Still) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (at, shutdown) = (listener.local_addr().expect("bound"), CancellationToken::new());
    let task = tokio::spawn(serve(listener, Arc::new(view), shutdown.clone()));
    Served { at, shutdown, task }
}

impl Served {
    /// Sends `head` and reads to the end: the code, and all of it.
    async fn raw(&self, head: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.at).await.expect("listening");
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut bytes = Vec::new();
        // A refused peer may get a reset after its answer: what came counts.
        let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (code, text)
    }

    async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        self.raw(&format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }
}

#[tokio::test]
async fn every_path_answers_and_everything_else_is_refused_with_the_strict_headers() {
    let served = served(still()).await;
    for (method, path, code, says) in [
        ("GET", "/", 200, "<!doctype html>"),
        ("GET", "/page.js", 200, "text/javascript"),
        ("GET", "/page.css", 200, "text/css"),
        ("GET", "/api", 200, "/api/incidents/{id}"),
        ("GET", "/api/history", 200, "[]"),
        ("GET", "/api/incidents/a.md", 200, "# Incident a: 127.0.0.1:6379"),
        ("GET", "/api/incidents/none.md", 404, r#"{"error":"no such incident"#),
        ("GET", "/healthz", 200, "ok"),
        ("GET", "/readyz", 200, r#"{"ready":true,"reason":"the upstream answers and saves"}"#),
        ("GET", "/metrics", 200, "# EOF\n"),
        ("GET", "/api/status", 200, r#""sessions":0,"workers":2,"upstreams":[{"address":"127.0.0.1:6379""#),
        ("GET", "/api/incidents", 200, r#"[{"id":"b""#),
        ("GET", "/api/incidents/a", 200, r#"{"id":"a""#),
        ("GET", "/api/incidents/none", 404, r#"{"error":"no such incident"#),
        ("GET", "/nothing", 404, r#"{"error":"no such path"#),
        ("GET", "/../etc/passwd", 404, r#"{"error":"no such path"#),
        ("POST", "/nothing", 404, "no such path"),
        ("POST", "/api/status", 405, r#"{"error":"only GET"#),
        ("DELETE", "/metrics", 405, "only GET"),
        ("HEAD", "/healthz", 200, ""),
    ] {
        let (seen, text) = served.ask(method, path).await;
        assert_eq!(seen, code, "{method} {path}: {text}");
        assert!(text.contains(says), "{method} {path}: {text}");
        for header in
            ["x-content-type-options: nosniff", "cache-control: no-store", "content-security-policy: "]
        {
            assert!(text.contains(header), "{method} {path}: {text}");
        }
    }
}

#[tokio::test]
async fn a_strange_host_name_is_refused_on_loopback() {
    let served = served(still()).await;
    let head = "GET /api/status HTTP/1.1\r\nHost: evil.example:9380\r\nConnection: close\r\n\r\n";
    let (code, text) = served.raw(head).await;
    assert_eq!(code, 421, "{text}");
    assert!(!text.contains("upstreams"), "{text}");
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let served = served(still()).await;
    let endless = format!("GET / HTTP/1.1\r\nHost: localhost\r\nx: {}", "y".repeat(64 << 10));
    let (code, _) = served.raw(&endless).await;
    assert_eq!(code, 431);
}

/// What came of a stream of events so far, until `enough` of it is there.
async fn watched(served: &Served, enough: impl Fn(&str) -> bool) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(served.at).await.expect("listening");
    let head = "GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let (mut text, mut buf) = (String::new(), [0; 4096]);
    while !enough(&text) {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut buf));
        let n = read.await.expect("in time").expect("no error");
        assert!(n > 0, "ended early: {text}");
        text.push_str(&String::from_utf8_lossy(&buf[..n]));
    }
    (stream, text)
}

#[tokio::test]
async fn who_watches_sees_the_status_each_second_and_turns_at_once() {
    let view = still();
    let turns = view.turns.clone();
    let served = served(view).await;
    let (_open, text) = watched(&served, |text| text.contains("event: status")).await;
    assert!(text.contains(r#""address":"127.0.0.1:6379""#) && text.contains("text/event-stream"), "{text}");
    let watching = tokio::spawn(async move {
        let seen = watched(&served, |text| text.contains("event: phase")).await;
        (seen, served)
    });
    let turn = PhaseChange {
        at: "10:15".into(),
        upstream: "127.0.0.1:6379".into(),
        phase: Phase::Stuck,
        event: "saves keep failing".into(),
        detail: String::new(),
        incident: None,
    };
    while !watching.is_finished() {
        let _ = turns.send(turn.clone());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ((_, text), served) = watching.await.expect("no panic");
    assert!(text.contains(r#""phase":"stuck""#), "{text}");
    served.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), served.task).await.expect("in time").expect("no panic");
}

#[tokio::test]
async fn those_who_watch_never_keep_a_probe_out() {
    let served = served(still()).await;
    let mut open = Vec::new();
    for _ in 0..events::STREAMS_MAX {
        open.push(watched(&served, |text| text.contains("event: status")).await);
    }
    let (code, text) = served.ask("GET", "/api/events").await;
    assert_eq!((code, text.contains("too many watch")), (503, true), "{text}");
    assert_eq!(served.ask("GET", "/healthz").await.0, 200);
    drop(open);
    let again = async {
        while served.ask("HEAD", "/api/events").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again).await.expect("a seat is given back");
}

#[tokio::test]
async fn shutdown_ends_the_room_even_with_an_idle_peer() {
    let served = served(still()).await;
    let idle = TcpStream::connect(served.at).await.expect("listening");
    served.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), served.task).await.expect("in time").expect("no panic");
    drop(idle);
}

#[test]
fn ready_means_that_applications_can_be_served() {
    let with = |up, phase| [UpstreamStatus { up, phase, ..upstream() }];
    for (serving, upstreams, ready, says) in [
        (true, with(true, Phase::Quiet), true, "answers and saves"),
        (true, with(true, Phase::Mitigated), true, "being handled: mitigated"),
        (true, with(true, Phase::Stuck), true, "stuck"),
        (true, with(false, Phase::Holding), true, "holding"),
        (true, with(false, Phase::Quiet), false, "upstream 127.0.0.1:6379 does not answer"),
        (true, with(false, Phase::Stuck), false, "does not answer"),
        (false, with(true, Phase::Quiet), false, "not listening"),
    ] {
        let seen = readiness(serving, &upstreams);
        assert!(seen.ready == ready && seen.reason.contains(says), "{upstreams:?}: {seen:?}");
    }
    assert!(!readiness(true, &[]).ready);
}

fn scrape(view: Still) -> String {
    openmetrics::Exposition::new(Arc::new(view)).render().expect("a String takes all")
}

/// The whole exposition of a fresh bgsafe, value by value: a label that is born later breaks rates
/// and alerts, so each is here at zero.
#[test]
fn every_label_of_every_family_exists_at_zero_from_the_start() {
    let text = scrape(still());
    let samples: BTreeSet<_> =
        text.lines().filter(|l| !l.starts_with('#') && !l.contains("_bucket")).collect();
    let mut expected = BTreeSet::new();
    let mut want = |name: &str, labels: &[&str], value: &str| {
        for label in labels {
            let braces = if label.is_empty() { String::new() } else { format!("{{{label}}}") };
            expected.insert(format!("bgsafe_{name}{braces} {value}"));
        }
    };
    let of =
        |name: &str, values: &[&str]| values.iter().map(|v| format!("{name}=\"{v}\"")).collect::<Vec<_>>();
    let classes = of("class", &["read", "write", "script", "transaction", "pubsub", "other"]);
    let classes: Vec<_> = classes.iter().map(String::as_str).collect();
    for plain in [
        "connections",
        "connections_total",
        "replays_total",
        "held_commands",
        "held_bytes",
        "exposure_seconds",
        "exposure_changes",
        "since_save_seconds",
        "unsaved_changes",
        "debt",
        "following",
        "findings",
        "overhead_seconds_count",
        "mitigation_duration_seconds_count",
        "verify_duration_seconds_count",
    ] {
        want(plain, &[""], "0");
    }
    for sum in ["overhead_seconds_sum", "mitigation_duration_seconds_sum", "verify_duration_seconds_sum"] {
        want(sum, &[""], "0.0");
    }
    want("upstream_up", &[""], "1");
    want("build_info", &[&format!("version=\"{}\"", env!("CARGO_PKG_VERSION"))], "1");
    want("requests_total", &classes, "0");
    want("request_duration_seconds_count", &classes, "0");
    want("request_duration_seconds_sum", &classes, "0.0");
    let tables: [(&str, &str, &[&str]); 6] = [
        ("bytes_total", "direction", &["upstream", "downstream"]),
        ("refusals_total", "kind", &["command", "transaction", "script", "nested", "silent"]),
        ("holds_total", "end", &["released", "timed_out", "abandoned", "over_budget"]),
        ("redirects_total", "result", &["ok", "failed"]),
        (
            "sessions_degraded_total",
            "why",
            &["monitor", "replication", "reply_mode", "malformed_request", "malformed_reply", "unpaired"],
        ),
        ("upstream_role", "role", &["replica", "unknown"]),
    ];
    for sink in ["url", "command"] {
        for result in ["ok", "failed", "dropped"] {
            want("alerts_total", &[&format!("sink=\"{sink}\",result=\"{result}\"")], "0");
        }
    }
    for (name, label, values) in tables {
        let labels = of(label, values);
        want(name, &labels.iter().map(String::as_str).collect::<Vec<_>>(), "0");
    }
    want("upstream_role", &["role=\"primary\""], "1");
    for phase in Phase::ALL {
        let value = if phase == Phase::Quiet { "1" } else { "0" };
        want("phase", &[&format!("phase=\"{}\"", phase.name())], value);
    }
    for variant in Variant::ALL {
        for outcome in Outcome::ALL {
            let labels = format!("variant=\"{}\",outcome=\"{}\"", variant.name(), outcome.name());
            want("incidents_total", &[&labels], "0");
        }
    }
    for (_, side, why) in crate::metrics::SessionEnd::ALL {
        want("session_ends_total", &[&format!("side=\"{side}\",why=\"{why}\"")], "0");
    }
    for result in ["ok", "failed"] {
        want("escrow_copies_total", &[&format!("result=\"{result}\"")], "0");
    }
    want("escrow_copy_bytes", &[""], "0");
    want("escrow_copy_age_seconds", &[""], "0");
    let expected: BTreeSet<_> = expected.iter().map(String::as_str).collect();
    assert_eq!(samples, expected);
}

#[test]
fn what_is_counted_is_shown() {
    let view = still();
    let (first, second) = (&view.metrics.workers[0], &view.metrics.workers[1]);
    first.connections.add(2);
    second.connections.add(3);
    first.latency(|l| l.request[1].record(40).expect("in bounds"));
    second.latency(|l| l.request[1].record(2_000_000).expect("in bounds"));
    {
        let mut guard = view.metrics.guard.lock().expect("no panic");
        guard.incident(Variant::Rdb, Outcome::Rearmed);
        guard.silent_refusals = 7;
        guard.seed_remedies(&["switch-left-off"]);
        guard.remedies.insert(("dir-missing".into(), "ok"), 1);
        guard.verify.saturating_record(2_400_000);
        guard.headroom.disk = Some(-5);
    }
    let text = scrape(view);
    for line in [
        "bgsafe_connections 5",
        "bgsafe_request_duration_seconds_bucket{le=\"0.00005\",class=\"write\"} 1",
        "bgsafe_request_duration_seconds_bucket{le=\"1.0\",class=\"write\"} 1",
        "bgsafe_request_duration_seconds_bucket{le=\"2.5\",class=\"write\"} 2",
        "bgsafe_request_duration_seconds_bucket{le=\"+Inf\",class=\"write\"} 2",
        "bgsafe_request_duration_seconds_count{class=\"write\"} 2",
        "bgsafe_incidents_total{variant=\"rdb\",outcome=\"rearmed\"} 1",
        "bgsafe_refusals_total{kind=\"silent\"} 7",
        "bgsafe_remedies_total{finding=\"dir-missing\",result=\"ok\"} 1",
        "bgsafe_persistence_headroom_bytes{resource=\"disk\"} -5",
        "bgsafe_remedies_total{finding=\"switch-left-off\",result=\"refused\"} 0",
        "bgsafe_verify_duration_seconds_bucket{le=\"1.0\"} 0",
        "bgsafe_verify_duration_seconds_bucket{le=\"2.5\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    let types = ["gauge", "counter", "histogram"];
    let known = |l: &str| !l.starts_with("# TYPE") || types.iter().any(|t| l.ends_with(t));
    assert!(text.lines().all(known), "types that readers of the older text format know");
    let names: Vec<_> = text.lines().filter_map(|l| l.strip_prefix("# HELP ")?.split(' ').next()).collect();
    assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len(), "family names are unique");
}
