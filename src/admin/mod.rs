//! HTTP for people, probes and dashboards: the status page, health, metrics text, status and incidents as JSON.
//!
//! Refuses to know how to act: every path is a GET, and nothing here changes anything. What it shows
//! comes through [`View`]; what it says is decided by [`readiness`] and the table in `routes`. The page
//! (`page/`) is three files in the program: it asks nobody but us.
//!
//! Invariant: whatever a peer sends, it holds at most one of [`CONNECTIONS_MAX`] places, a few KiB,
//! and for no longer than [`HEAD_TIME`] before its request is complete.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::guard::feed::PhaseChange;
use crate::guard::record::{Incident, Phase, UpstreamStatus};
use crate::metrics::Metrics;
use history::History;

pub mod client;
mod events;
pub mod history;
pub mod openmetrics;
mod postmortem;
mod routes;

pub use routes::router;

/// Connections at the most: a scraper, two probes and a few people.
pub const CONNECTIONS_MAX: usize = 64;
/// How long the head of a request may take.
pub const HEAD_TIME: Duration = Duration::from_secs(5);
/// How large it may be (hyper's smallest is 8 KiB).
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How long answers may go on after a shutdown was asked for.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// What the admin room may see of the world.
pub trait View: Send + Sync + 'static {
    /// Every upstream as it stands now.
    fn status(&self) -> Vec<UpstreamStatus>;
    /// Incidents, newest first, the open one included.
    fn incidents(&self) -> Vec<Incident>;
    /// The incident of this id.
    fn incident(&self, id: &str) -> Option<Incident>;
    /// Turns of incidents from now on. A reader that is too slow misses some.
    fn turns(&self) -> broadcast::Receiver<PhaseChange>;
    /// All counters.
    fn metrics(&self) -> &Metrics;
    /// Are the listeners accepting? False before they are bound and while they drain.
    fn serving(&self) -> bool;
    /// When this process began to serve.
    fn started(&self) -> Instant;
}

/// The body of `/api/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of bgsafe.
    pub version: String,
    /// Since it began to serve.
    pub uptime_secs: u64,
    /// Connected clients.
    pub sessions: u64,
    /// Worker threads.
    pub workers: u64,
    /// One entry an upstream.
    pub upstreams: Vec<UpstreamStatus>,
}

impl Status {
    /// As `view` sees it now.
    pub fn of(view: &dyn View) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_secs: view.started().elapsed().as_secs(),
            sessions: view.metrics().sum(|worker| worker.connections.load()),
            workers: view.metrics().workers.len() as u64,
            upstreams: view.status(),
        }
    }
}

/// The body of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Can applications be served?
    pub ready: bool,
    /// Why, or why not.
    pub reason: String,
}

/// Can applications be served? An incident is no reason to take traffic away: that is when bgsafe is
/// needed. An unreachable server is one, unless an incident is open on it: then its commands wait here. One that no
/// session goes to is none.
pub fn readiness(serving: bool, upstreams: &[UpstreamStatus]) -> Readiness {
    let handled = |u: &UpstreamStatus| u.phase != Phase::Quiet && u.phase != Phase::Stuck;
    let down = upstreams.iter().find(|u| u.serves && !u.up && !handled(u));
    let busy = upstreams.iter().find(|u| u.phase != Phase::Quiet);
    let (ready, reason) = match (serving, down, busy) {
        (false, _, _) => (false, "bgsafe is not listening: starting, or draining before its end".to_owned()),
        (true, Some(u), _) => (false, format!("upstream {} does not answer bgsafe", u.address)),
        (true, None, Some(u)) => (true, format!("an incident is being handled: {}", u.phase.name())),
        (true, None, None) if upstreams.is_empty() => (false, "no upstream was looked at yet".to_owned()),
        (true, None, None) => (true, "the upstream answers and saves".to_owned()),
    };
    Readiness { ready, reason }
}

/// Serves until `shutdown`. Broken connections end alone.
pub async fn serve(listener: TcpListener, view: Arc<dyn View>, shutdown: CancellationToken) {
    let loopback = listener.local_addr().is_ok_and(|at| at.ip().is_loopback());
    let history = Arc::new(History::default());
    let sampler = tokio::spawn(history::record(Arc::clone(&view), Arc::clone(&history), shutdown.clone()));
    let router = router(view, history, loopback, shutdown.clone());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let open = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                listener.accept().await.map(|(stream, _)| (stream, place))
            } => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let (router, shutdown) = (router.clone(), shutdown.clone());
                open.spawn(async move {
                    converse(stream, router, shutdown).await;
                    drop(place);
                });
            }
            // Out of descriptors, most likely: accept would fail again at once, so wait a little.
            Err(error) => {
                warn!(%error, "admin: cannot accept; raise LimitNOFILE (ulimit -n) when this goes on");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    open.close();
    let _ = tokio::time::timeout(DRAIN_TIME, open.wait()).await;
    // It ends with `shutdown` too; a panic in it would only have cost the plots.
    let _ = sampler.await;
}

async fn converse(stream: TcpStream, router: axum::Router, shutdown: CancellationToken) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "admin: a connection ended badly");
    }
}

#[cfg(test)]
mod tests;
