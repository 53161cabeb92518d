//! A worker: one thread, one runtime, the sessions it was handed. No work moves between workers, so a
//! session's state is never shared and its counters have one writer.

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::command::Table;
use crate::metrics::{SessionEnd, WorkerStats};
use crate::resp::encode;
use crate::route::{Destination, Route};
use crate::session::allowance::Allowance;
use crate::session::core::{Core, Rules};
use crate::session::shell::{Drain, Session, World};

use super::stream::Stream;
use super::upstream::{self, Ways, Who};

/// How long a client that cannot be served is listened to after it was told so.
const LINGER: Duration = Duration::from_secs(1);

/// A client's socket between the listener's thread and a worker's.
#[derive(Debug)]
pub enum Accepted {
    /// Over TCP.
    Tcp(StdTcpStream),
    /// Over a unix socket.
    Unix(StdUnixStream),
}

/// What all sessions share.
#[derive(Debug)]
pub struct Shared {
    /// Where they go.
    pub route: Arc<Route>,
    /// The rules of replay.
    pub rules: Arc<Rules>,
    /// What all sessions may retain for replay.
    pub retained: Arc<Allowance>,
    /// What its commands do; replaced when the control connection has asked the server.
    pub table: RwLock<Arc<Table>>,
    /// See [`World::client_timeout`].
    pub client_timeout: Duration,
}

/// A running worker as the listener sees it.
#[derive(Debug)]
pub struct Worker {
    sockets: mpsc::UnboundedSender<Accepted>,
    sessions: Arc<AtomicUsize>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread or no reactor.
    pub fn spawn(
        n: usize,
        shared: Arc<Shared>,
        stats: Arc<WorkerStats>,
        draining: CancellationToken,
    ) -> io::Result<Worker> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (sockets, accepted) = mpsc::unbounded_channel();
        let sessions = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sessions);
        std::thread::Builder::new()
            .name(format!("worker-{n}"))
            .spawn(move || runtime.block_on(run(accepted, shared, stats, count, draining)))?;
        Ok(Worker { sockets, sessions })
    }

    /// Sessions open, or on their way.
    pub fn load(&self) -> usize {
        self.sessions.load(Relaxed)
    }

    /// Hands a client over. False when the worker has ended.
    pub fn hand(&self, socket: Accepted) -> bool {
        self.sessions.fetch_add(1, Relaxed);
        self.sockets.send(socket).is_ok()
    }
}

async fn run(
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    shared: Arc<Shared>,
    stats: Arc<WorkerStats>,
    count: Arc<AtomicUsize>,
    draining: CancellationToken,
) {
    let drain = Arc::new(Drain::default());
    let ways = Arc::new(Ways::new(Arc::clone(&shared.route)));
    let mut seen = ways.epoch();
    loop {
        let socket = tokio::select! {
            socket = accepted.recv() => socket,
            () = draining.cancelled(), if !drain.is_on() => {
                drain.begin();
                continue;
            }
            epoch = shared.route.changed(seen) => {
                seen = epoch;
                drain.ring();
                continue;
            }
        };
        let Some(socket) = socket else { return };
        let (shared, stats, count, drain) = (shared.clone(), stats.clone(), count.clone(), drain.clone());
        let ways = Arc::clone(&ways);
        tokio::spawn(async move {
            let presence = Presence::begin(stats, count);
            let end = serve(socket, &shared, &ways, &presence.stats, &drain).await;
            presence.stats.ends[end as usize].add(1);
            tracing::debug!(?end, "session ended");
        });
    }
}

/// A session that counts as open, until it is dropped: also by a panic, or its place would be lost.
struct Presence {
    stats: Arc<WorkerStats>,
    count: Arc<AtomicUsize>,
}

impl Presence {
    fn begin(stats: Arc<WorkerStats>, count: Arc<AtomicUsize>) -> Self {
        stats.connections.add(1);
        stats.connections_total.add(1);
        Presence { stats, count }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.stats.connections.sub(1);
        self.count.fetch_sub(1, Relaxed);
    }
}

async fn serve(
    socket: Accepted,
    shared: &Shared,
    ways: &Arc<Ways>,
    stats: &Arc<WorkerStats>,
    drain: &Arc<Drain>,
) -> SessionEnd {
    let down = match socket {
        Accepted::Tcp(io) => TcpStream::from_std(io).map(|io| {
            upstream::tune(&io);
            Stream::Tcp(io)
        }),
        Accepted::Unix(io) => UnixStream::from_std(io).map(Stream::Unix),
    };
    let Ok(down) = down else { return SessionEnd::DownstreamError };
    // New ones wait behind established ones, and no longer than a command may: then they are told why.
    let until = Instant::now() + if shared.rules.intercept { shared.rules.hold_time } else { Duration::ZERO };
    // Boxed, these two, or every session would be as large as they become.
    let there = match Box::pin(ways.reach(Who::Fresh, until)).await {
        Ok(there) => there,
        Err(error) => {
            tracing::warn!(side = "upstream", %error, "cannot connect");
            Box::pin(refuse(down, &error.to_string())).await;
            return SessionEnd::UpstreamUnreachable;
        }
    };
    begin(down, there, shared, ways, stats, drain).await
}

/// A session between two connected sockets. No part of [`serve`]: what is moved there would keep its room in each
/// session's task.
fn begin(
    down: Stream,
    there: (Stream, Destination),
    shared: &Shared,
    ways: &Arc<Ways>,
    stats: &Arc<WorkerStats>,
    drain: &Arc<Drain>,
) -> Session {
    let table = Arc::clone(&shared.table.read().unwrap_or_else(PoisonError::into_inner));
    let mut core =
        Core::new(Arc::clone(&shared.rules), table, Instant::now()).within(Arc::clone(&shared.retained));
    core.expects_turns(shared.route.may_turn());
    let world =
        World { ways: Arc::clone(ways), stats: Arc::clone(stats), client_timeout: shared.client_timeout };
    Session::new(down, there, core, world, Arc::clone(drain))
}

/// Tells a client why it is not served, and closes. What it cannot take at once is lost.
async fn refuse(down: Stream, text: &str) {
    let mut bytes = Vec::new();
    encode::error(&mut bytes, text);
    let _ = timeout(LINGER, async {
        match down {
            Stream::Tcp(io) => tell(io, &bytes).await,
            Stream::Unix(io) => tell(io, &bytes).await,
        }
    })
    .await;
}

/// Writes, and reads away what the client has sent: closed with that unread, the connection would be reset
/// and the words perhaps lost with it.
async fn tell(mut io: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> io::Result<()> {
    io.write_all(bytes).await?;
    io.shutdown().await?;
    let mut sink = [0; 4096];
    while io.read(&mut sink).await? > 0 {}
    Ok(())
}
