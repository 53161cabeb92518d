//! Alerts: what turned, told to a URL, a command, or both. A queue and a task for each, so that neither waits for
//! the other and the guard for none.
//!
//! Refuses to know: why anything is told. Invariants: telling never waits; at most [`QUEUE_MOST`] alerts wait for a
//! sink, then the oldest is dropped and counted; one delivery at a time, within its time; no secret of a URL is logged.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::program;
use crate::config::alert::Target;
use crate::guard::feed::lock;
use crate::guard::record::{Exposure, Finding, Incident, Phase};
use crate::http::{self, Failed};
use crate::metrics::{AlertEnd, AlertSink, Metrics};

/// Alerts that may wait for one sink; each is a few KiB.
const QUEUE_MOST: usize = 64;
/// From connecting to the status line.
const POST_TIMEOUT: Duration = Duration::from_secs(5);
/// Before the second and the third try.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// At the end so long is waited for what is still to be told.
const LEAVE: Duration = Duration::from_secs(2);

/// Whom to tell.
#[derive(Clone, Debug, Default)]
pub struct Sinks {
    /// By POST.
    pub url: Option<Target>,
    /// By `sh -c`.
    pub command: Option<String>,
}

/// What is told, as JSON.
#[derive(Debug, Serialize)]
struct Alert<'a> {
    /// RFC 3339.
    at: &'a str,
    upstream: &'a str,
    incident: Option<&'a str>,
    phase: Phase,
    event: &'a str,
    detail: &'a str,
    findings: &'a [Finding],
    exposure: Exposure,
}

/// See the module's page.
pub(super) struct Alerts {
    sinks: Vec<(Arc<Queue>, JoinHandle<()>)>,
    metrics: Arc<Metrics>,
    /// The incident told of last, with its findings: its end is told when it is gone already.
    last: Option<(String, Vec<Finding>)>,
}

impl Alerts {
    /// A task for each sink there is.
    pub(super) fn spawn(sinks: Sinks, metrics: Arc<Metrics>) -> Alerts {
        let ways = [sinks.url.map(|at| Way::Post(Box::new(at))), sinks.command.map(Way::Run)];
        let one = |way: Way| {
            let queue = Arc::new(Queue { sink: way.sink(), waiting: Mutex::default(), more: Notify::new() });
            let task = tokio::spawn(deliver(way, queue.clone(), metrics.clone()));
            (queue, task)
        };
        Alerts { sinks: ways.into_iter().flatten().map(one).collect(), metrics, last: None }
    }

    /// Puts it into every queue.
    pub(super) fn tell(
        &mut self,
        upstream: &str,
        record: Option<&Incident>,
        phase: Phase,
        exposure: Exposure,
        (at, event, detail): (String, String, String),
    ) {
        if self.sinks.is_empty() {
            return;
        }
        let last = match record {
            Some(record) => {
                let last = (record.id.clone(), record.findings.clone());
                self.last = Some(last.clone());
                Some(last)
            }
            None if phase == Phase::Quiet => self.last.take(),
            None => self.last.clone(),
        };
        let (incident, findings) = last.map_or((None, Vec::new()), |(id, findings)| (Some(id), findings));
        let alert = Alert {
            at: &at,
            upstream,
            incident: incident.as_deref(),
            phase,
            event: &event,
            detail: &detail,
            findings: &findings,
            exposure,
        };
        let text = serde_json::to_string(&alert).expect("words and numbers become JSON");
        let text = Bytes::from(text + "\n");
        for (queue, _) in &self.sinks {
            if queue.push(text.clone()) {
                lock(&self.metrics.guard).alerted(queue.sink, AlertEnd::Dropped, 1);
            }
        }
    }

    /// Gives what still waits a moment; what is left then is dropped.
    pub(super) async fn finish(self) {
        let told = async {
            for (queue, _) in &self.sinks {
                while !queue.is_empty() {
                    sleep(Duration::from_millis(10)).await;
                }
            }
        };
        let _ = timeout(LEAVE, told).await;
        for (queue, task) in &self.sinks {
            task.abort();
            let left = lock(&queue.waiting).len();
            if left > 0 {
                lock(&self.metrics.guard).alerted(queue.sink, AlertEnd::Dropped, left as u64);
                warn!(side = "host", sink = queue.sink.name(), "leaving with {left} alerts that nobody took");
            }
        }
    }
}

/// How a sink is told.
enum Way {
    Post(Box<Target>),
    Run(String),
}

impl Way {
    fn sink(&self) -> AlertSink {
        match self {
            Way::Post(_) => AlertSink::Url,
            Way::Run(_) => AlertSink::Command,
        }
    }

    /// For the log: the words of a command may hold a secret.
    fn shown(&self) -> String {
        match self {
            Way::Post(target) => target.masked("***"),
            Way::Run(_) => "alert-command".into(),
        }
    }
}

/// What waits for one sink. The first is the one that is being delivered.
struct Queue {
    sink: AlertSink,
    waiting: Mutex<VecDeque<Bytes>>,
    more: Notify,
}

impl Queue {
    /// True when another had to go for it: the oldest but the one that is under way.
    fn push(&self, text: Bytes) -> bool {
        let mut waiting = lock(&self.waiting);
        let full = waiting.len() >= QUEUE_MOST;
        if full {
            waiting.remove(1);
        }
        waiting.push_back(text);
        self.more.notify_one();
        full
    }

    fn is_empty(&self) -> bool {
        lock(&self.waiting).is_empty()
    }

    async fn first(&self) -> Bytes {
        loop {
            if let Some(text) = lock(&self.waiting).front() {
                return text.clone();
            }
            self.more.notified().await;
        }
    }
}

async fn deliver(way: Way, queue: Arc<Queue>, metrics: Arc<Metrics>) {
    // Of a sink that is down the log tells once, and once more when it is back.
    let mut down = false;
    loop {
        let text = queue.first().await;
        let result = match &way {
            Way::Post(target) => post(target, &text, &AGAIN_AFTER).await,
            Way::Run(words) => program::run(words, &text).await,
        };
        let (sink, to) = (queue.sink, way.shown());
        let end = match &result {
            Ok(()) => AlertEnd::Ok,
            Err(_) => AlertEnd::Failed,
        };
        lock(&metrics.guard).alerted(sink, end, 1);
        match result {
            Ok(()) if std::mem::take(&mut down) => info!(sink = sink.name(), to, "alerts are taken again"),
            Err(why) if !std::mem::replace(&mut down, true) => {
                warn!(
                    side = "host",
                    sink = sink.name(),
                    to,
                    "an alert was not taken: {why}; look at --alert-url and --alert-command"
                );
            }
            Ok(()) | Err(_) => {}
        }
        lock(&queue.waiting).pop_front();
    }
}

/// Posts until it is taken, or cannot be.
async fn post(target: &Target, text: &Bytes, pauses: &[Duration]) -> Result<(), String> {
    let mut pauses = pauses.iter();
    loop {
        let (why, again) =
            match timeout(POST_TIMEOUT, http::exchange(&target.address, request(target, text)?, 0)).await {
                Ok(Ok((200..300, _))) => return Ok(()),
                Ok(Ok((code @ 300..400, _))) => {
                    (format!("HTTP status {code}: redirects are not followed"), false)
                }
                // Too early, too many: time helps. Anything else of the kind says that the request is wrong.
                Ok(Ok((code @ 400..500, _))) => {
                    (format!("HTTP status {code}"), [408, 425, 429].contains(&code))
                }
                Ok(Ok((code, _))) => (format!("HTTP status {code}"), true),
                Ok(Err(Failed::Connect(why))) => (why.to_string(), true),
                Ok(Err(Failed::Talk(why))) => (why.to_string(), true),
                Err(_) => (format!("no answer within {POST_TIMEOUT:?}"), true),
            };
        match pauses.next().filter(|_| again) {
            Some(pause) => sleep(*pause).await,
            None => return Err(why),
        }
    }
}

fn request(target: &Target, text: &Bytes) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::post(&target.path.0)
        .header(HOST, &target.host)
        .header(CONNECTION, "close")
        .header(USER_AGENT, concat!("bgsafe/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json");
    if let Some(secret) = target.authorization() {
        request = request.header(AUTHORIZATION, secret);
    }
    // The error would quote the path.
    request.body(Full::new(text.clone())).map_err(|_| "bgsafe: the URL makes no request".into())
}

#[cfg(test)]
mod tests;
