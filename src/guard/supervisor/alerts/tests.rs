//! Alerts against a listener that answers as it is told to.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::config::alert::target;

/// Answers each connection with the next of these codes (0: never), and tells what was asked.
async fn listener(codes: &'static [u16]) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let (heard, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for code in codes.iter().chain(std::iter::repeat(codes.last().unwrap())) {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = Vec::new();
            while !text.ends_with(b"\n") || !text.windows(2).any(|w| w == b"}\n") {
                if stream.read_buf(&mut text).await.unwrap() == 0 {
                    break;
                }
            }
            heard.send(String::from_utf8(text).unwrap()).unwrap();
            match code {
                0 => drop(tokio::spawn(async move {
                    sleep(Duration::from_secs(3600)).await;
                    drop(stream);
                })),
                code => {
                    let reply = format!("HTTP/1.1 {code} x\r\nContent-Length: 2\r\n\r\nok");
                    stream.write_all(reply.as_bytes()).await.unwrap();
                }
            }
        }
    });
    (at, told)
}

fn ends(metrics: &Metrics, sink: AlertSink) -> [u64; 3] {
    lock(&metrics.guard).alerts[sink as usize]
}

fn say(alerts: &mut Alerts, event: &str) {
    let words = ("2026-11-22T10:15:00.000Z".into(), event.to_string(), "why".into());
    alerts.tell("127.0.0.1:6379", None, Phase::Stuck, Exposure { secs: 9, ..Exposure::default() }, words);
}

async fn until(what: &str, so: impl Fn() -> bool) {
    for _ in 0..1000 {
        if so() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never {what}");
}

#[tokio::test]
async fn an_alert_is_posted_as_json_with_its_credentials() {
    let (at, mut told) = listener(&[204]).await;
    let url = Some(target(&format!("http://u:p@{at}/hook?x=1")).unwrap());
    let metrics = Arc::new(Metrics::new(1));
    let mut alerts = Alerts::spawn(Sinks { url, command: None }, metrics.clone());
    say(&mut alerts, "saves keep failing");
    let text = told.recv().await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /hook?x=1 HTTP/1.1\r\n"), "{head}");
    let head = head.to_ascii_lowercase();
    assert!(head.contains(&format!("host: {at}")) && head.contains("authorization: basic dtpw"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        body,
        serde_json::json!({
            "at": "2026-11-22T10:15:00.000Z", "upstream": "127.0.0.1:6379", "incident": null, "phase": "stuck",
            "event": "saves keep failing", "detail": "why", "findings": [],
            "exposure": {"secs": 9, "changes": 0, "secs_max": 0, "changes_max": 0, "secs_since_save": null, "changes_since_save": null},
        })
    );
    until("taken", || ends(&metrics, AlertSink::Url) == [1, 0, 0]).await;
    assert_eq!(ends(&metrics, AlertSink::Command), [0; 3]);
}

#[tokio::test]
async fn what_time_may_help_is_tried_three_times_and_what_it_cannot_once() {
    let soon = [Duration::from_millis(5); 2];
    for (codes, tries, result) in [
        (&[200][..], 1, Ok(())),
        (&[500, 429, 201], 3, Ok(())),
        (&[503], 3, Err("HTTP status 503".to_string())),
        (&[404], 1, Err("HTTP status 404".into())),
        (&[301], 1, Err("HTTP status 301: redirects are not followed".into())),
    ] {
        let (at, mut told) = listener(codes).await;
        let target = target(&format!("http://{at}")).unwrap();
        assert_eq!(post(&target, &Bytes::from_static(b"{}\n"), &soon).await, result, "{codes:?}");
        let mut heard = 0;
        while told.try_recv().is_ok() {
            heard += 1;
        }
        assert_eq!(heard, tries, "{codes:?}");
    }
    let nobody = target("http://127.0.0.1:1/hush").unwrap();
    let why = post(&nobody, &Bytes::from_static(b"{}\n"), &soon).await.unwrap_err();
    assert!(!why.contains("hush"), "{why}");
}

/// The sink hangs: whoever tells must not notice, and neither must the other sink.
#[tokio::test]
async fn a_sink_that_hangs_costs_its_oldest_alerts_and_nobody_elses_time() {
    let (at, mut told) = listener(&[0]).await;
    let url = Some(target(&format!("http://{at}")).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("told");
    let command = Some(format!("cat >> {}", file.display()));
    let metrics = Arc::new(Metrics::new(1));
    let mut alerts = Alerts::spawn(Sinks { url, command }, metrics.clone());
    say(&mut alerts, "first");
    assert!(told.recv().await.unwrap().contains("first"));
    let started = std::time::Instant::now();
    for n in 0..QUEUE_MOST + 9 {
        say(&mut alerts, &format!("event {n}"));
    }
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    assert_eq!(ends(&metrics, AlertSink::Url), [0, 0, 10]);
    let waiting: Vec<String> =
        lock(&alerts.sinks[0].0.waiting).iter().map(|b| String::from_utf8(b.to_vec()).unwrap()).collect();
    assert!(waiting[0].contains("first") && waiting[1].contains("event 10\""), "{waiting:?}");
    until("told by command", || ends(&metrics, AlertSink::Command)[0] >= 5).await;
    let (queue, left) = (alerts.sinks[0].0.clone(), waiting.len() as u64);
    alerts.finish().await;
    assert_eq!(ends(&metrics, AlertSink::Url)[2], 10 + left, "{}", lock(&queue.waiting).len());
    let text = std::fs::read_to_string(&file).unwrap();
    let events: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(events[0]["event"], "first");
}

#[tokio::test]
async fn a_command_that_fails_is_counted() {
    let metrics = Arc::new(Metrics::new(1));
    let command = Some("exit 3".to_string());
    let mut alerts = Alerts::spawn(Sinks { url: None, command }, metrics.clone());
    say(&mut alerts, "x");
    until("failed", || ends(&metrics, AlertSink::Command) == [0, 1, 0]).await;
}
