//! Listeners, workers, upstream connecting, drain: everything around a session that is not its
//! conversation. Refuses to know RESP, but for the two errors of its own that a client may get.
//!
//! [`run`] puts the rooms together: it binds, starts workers and guard and admin, waits for a signal, and
//! lets everybody finish.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::admin::{self, View};
use crate::command::Table;
use crate::config::{Address, Config, Policy, ReplayScripts, Seek, Sentinels, WhenExposed};
use crate::gate::Gate;
use crate::guard::feed::{PhaseChange, Turns};
use crate::guard::fleet::{self, Crew};
use crate::guard::record::{Incident, UpstreamStatus};
use crate::guard::store::StoreError;
use crate::guard::supervisor::Params;
use crate::metrics::Metrics;
use crate::route::Route;
use crate::session::allowance::Allowance;
use crate::session::core::{Rules, ScriptReplay};
use crate::topology::follow;
use crate::topology::watch::{self, Watcher};

use listener::Listener;
use worker::{Shared, Worker};

pub mod commands;
pub mod descriptors;
pub mod listener;
pub mod stream;
pub mod upstream;
pub mod worker;

/// How long sessions may finish what they are at after a SIGTERM.
pub const DRAIN_TIME: Duration = Duration::from_secs(5);
/// A larger request is sent on but not retained: its refusal would be delivered.
const RETAIN_REQUEST_MAX: usize = 8 << 20;
/// What one session may retain.
const RETAIN_SESSION_MAX: usize = 16 << 20;
/// … and all sessions together, beyond a small share each.
const RETAIN_ALL_MAX: usize = 256 << 20;
/// What one session may keep back of replies.
const WITHHOLD_MAX: usize = 1 << 20;

/// Why the proxy does not run. Every one is on our side, and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A listener.
    #[error("cannot listen on {address}: {error}; stop what listens there, or choose another --listen")]
    Listen {
        /// Where.
        address: Address,
        /// Why not.
        error: io::Error,
    },
    /// The admin listener.
    #[error("cannot listen on admin address {address}: {error}; choose another --admin, or --admin off")]
    Admin {
        /// Where.
        address: String,
        /// Why not.
        error: io::Error,
    },
    /// The state directory.
    #[error(transparent)]
    State(#[from] StoreError),
    /// Threads, reactors, signal handlers.
    #[error("cannot start: {0}; look at ulimit -u and ulimit -n")]
    System(#[from] io::Error),
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start. Once it serves, nothing but a signal ends it.
pub fn run(config: Config) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config))
}

async fn serve(mut config: Config) -> Result<(), RunError> {
    descriptors::make_room(config.max_clients);
    let mut listeners = Vec::new();
    for address in &config.listen {
        let bound = Listener::bind(address).await;
        listeners.push(bound.map_err(|error| RunError::Listen { address: address.clone(), error })?);
    }
    let admin = match config.admin {
        None => None,
        Some(at) => Some(
            TcpListener::bind(at)
                .await
                .map_err(|error| RunError::Admin { address: at.to_string(), error })?,
        ),
    };
    let (draining, closing) = (CancellationToken::new(), CancellationToken::new());
    let named = watcher(&config, &closing);
    if let (true, Some(mut watcher)) = (config.sentinels.follow, named.clone()) {
        // Clients wait in the listeners' queues meanwhile.
        config.upstream = Address::Tcp(follow::first(&mut watcher).await);
    }
    let gate = Arc::new(Gate::new(config.hold_bytes));
    let route = Route::new(config.upstream.clone(), Arc::clone(&gate));
    // Where the role may move a READONLY before the first turn is worth waiting out.
    let route = Arc::new(if may_turn(&config) { route.turning() } else { route });
    let shared = Arc::new(shared(&config, Arc::clone(&route)));
    let metrics = Arc::new(Metrics::new(config.workers));
    let mut params = Params::new(&config);
    params.sentinels = named.clone();
    let (endpoint, turns) = (params.endpoint.clone(), params.turns.clone());
    let guard =
        fleet::spawn(params, Arc::clone(&gate), Arc::clone(&route), Arc::clone(&metrics), closing.clone())?;
    let workers: io::Result<Vec<_>> = (0..config.workers)
        .map(|n| {
            let stats = Arc::clone(&metrics.workers[n]);
            Worker::spawn(n, Arc::clone(&shared), stats, draining.clone())
        })
        .collect();
    let workers = Arc::new(workers?);
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;

    let tasks = tokio_util::task::TaskTracker::new();
    for listener in listeners {
        info!(listen = %listener.address(), upstream = %config.upstream, policy = config.policy.name(), "serving");
        tasks.spawn(listener.run(Arc::clone(&workers), config.max_clients, draining.clone()));
    }
    let house = Arc::new(House {
        guard: Arc::clone(&guard.crew),
        turns,
        metrics,
        serving: AtomicBool::new(true),
        started: Instant::now(),
    });
    if let (true, Some(watcher)) = (config.sentinels.follow, named) {
        let (at, crew, closing) = (config.upstream.to_string(), Arc::clone(&guard.crew), closing.clone());
        tasks.spawn(follow::follow(at, watcher, route, crew, endpoint.clone(), closing));
    }
    tasks.spawn(commands::learn(endpoint, shared, guard.crew.first(), closing.clone()));
    if let Some(admin) = admin {
        info!(admin = %admin.local_addr()?, "admin");
        tasks.spawn(admin::serve(admin, Arc::clone(&house) as Arc<dyn View>, closing.clone()));
    }

    let signal = tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    };
    let sessions = workers.iter().map(Worker::load).sum::<usize>();
    info!(signal, sessions, "draining: sessions may finish what they are at");
    house.serving.store(false, Relaxed);
    draining.cancel();
    let closes = Instant::now() + DRAIN_TIME;
    let deadline = closes + Duration::from_millis(500);
    while workers.iter().any(|w| w.load() > 0) && Instant::now() < deadline {
        if Instant::now() >= closes {
            // Longer than we may stay: what is held gets the server's own answer, not a cut.
            gate.close();
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
            _ = int.recv() => break,
        }
    }
    closing.cancel();
    tasks.close();
    tasks.wait().await;
    // A debt that is still owed stays on disk; the guard says so.
    let _ = guard.task.await;
    info!("ended");
    Ok(())
}

/// Of the Sentinels that the operator named.
fn watcher(config: &Config, closing: &CancellationToken) -> Option<Watcher> {
    let Sentinels { seek, addresses, name, credentials, follow: _, policy: _ } = config.sentinels.clone();
    let client = Params::new(config).endpoint.name;
    let params = watch::Params { name: Some(name), sentinels: addresses, credentials, client };
    (seek == Seek::Named).then(|| Watcher::spawn(params, closing.clone()))
}

/// May the writes go to another server one day?
fn may_turn(config: &Config) -> bool {
    let redirects = config.policy == Policy::Redirect || config.when_exposed == WhenExposed::Redirect;
    redirects || config.sentinels.follow
}

/// What every session needs to know.
fn shared(config: &Config, route: Arc<Route>) -> Shared {
    let intercept = config.policy != Policy::Observe && !config.hold_time.is_zero();
    let rules = Rules {
        intercept,
        hold_time: config.hold_time,
        scripts: match config.replay_scripts {
            ReplayScripts::Declared => ScriptReplay::Declared,
            ReplayScripts::All => ScriptReplay::All,
            ReplayScripts::None => ScriptReplay::None,
        },
        holds: config.hold_errors,
        bulk_max: config.max_request_bytes,
        retain_request_max: RETAIN_REQUEST_MAX,
        retain_session_max: RETAIN_SESSION_MAX,
        withhold_max: WITHHOLD_MAX,
    };
    Shared {
        route,
        rules: Arc::new(rules),
        retained: Arc::new(Allowance::new(RETAIN_ALL_MAX)),
        table: RwLock::new(Arc::new(Table::builtin())),
        client_timeout: config.client_timeout,
    }
}

/// What the admin room sees of the world.
struct House {
    guard: Arc<Crew>,
    turns: Turns,
    metrics: Arc<Metrics>,
    serving: AtomicBool,
    started: Instant,
}

impl View for House {
    fn status(&self) -> Vec<UpstreamStatus> {
        self.guard.status()
    }

    fn incidents(&self) -> Vec<Incident> {
        self.guard.incidents()
    }

    fn incident(&self, id: &str) -> Option<Incident> {
        self.guard.incident(id)
    }

    fn turns(&self) -> broadcast::Receiver<PhaseChange> {
        self.turns.subscribe()
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn serving(&self) -> bool {
        self.serving.load(Relaxed)
    }

    fn started(&self) -> Instant {
        self.started
    }
}
