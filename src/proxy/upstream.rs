//! Connecting to the server, for all sessions of a worker: where the route leads, again and again while it may still
//! succeed, and never too many at once. Refuses to know what is said over the connection.
//!
//! Invariant: of a worker's connects under way at once at least half are for sessions that were established before, so
//! that a storm of new clients does not keep those waiting.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::Address;
use crate::route::{Destination, Route};

use super::stream::Stream;

/// A server that does not answer for this long is unreachable.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that hung up on purpose answers another connection within this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Connects under way at once, in one worker.
const CONNECTS_MAX: usize = 64;
/// … of them for clients that are new.
const FRESH_MAX: usize = CONNECTS_MAX / 2;
/// Between one failed connect and the next: doubled each time, from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// A server from which nothing comes, and that takes nothing, is given up after about this long.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// Who wants to be connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// A session that lost its server, or goes to another.
    Established,
    /// A client that is new.
    Fresh,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// The server takes connections, so it ended this one on purpose.
    #[error("ERR bgsafe: the server has closed the connection")]
    HungUp,
    /// The primary is not known.
    #[error("ERR bgsafe: the primary is not known at the moment")]
    Nowhere,
    /// It is known, and does not answer.
    #[error("ERR bgsafe: upstream {address} cannot be reached: {error}")]
    Refused {
        /// Where.
        address: Address,
        /// Why not, the last time.
        error: io::Error,
    },
}

/// See the module's page.
#[derive(Debug)]
pub struct Ways {
    route: Arc<Route>,
    connects: Semaphore,
    fresh: Semaphore,
}

impl Ways {
    /// The ways of one worker.
    pub fn new(route: Arc<Route>) -> Self {
        Ways { route, connects: Semaphore::new(CONNECTS_MAX), fresh: Semaphore::new(FRESH_MAX) }
    }

    /// Where sessions go.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// [`Route::epoch`].
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.route.epoch()
    }

    /// Connects to where the route leads: tries once at least, and again with growing pauses until `until`.
    ///
    /// # Errors
    /// What the last try met.
    pub async fn reach(&self, who: Who, until: Instant) -> Result<(Stream, Destination), Unreachable> {
        let (mut pause, most) = BACKOFF;
        loop {
            let seen = self.epoch();
            let Some(to) = self.route.now() else {
                let left = until.saturating_duration_since(Instant::now());
                let turned = timeout(left, self.route.changed(seen)).await;
                if turned.is_err() {
                    return Err(Unreachable::Nowhere);
                }
                continue;
            };
            let error = tokio::select! {
                connected = self.connect(who, &to.address) => match connected {
                    Ok(io) => return Ok((io, to)),
                    Err(error) => error,
                },
                _ = self.route.changed(to.epoch.max(seen)) => continue,
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Unreachable::Refused { address: to.address, error });
            }
            // Whether the pause is over or the way has turned, the next step is the same.
            let _ = timeout(jittered(pause).min(left), self.route.changed(seen)).await;
            pause = (pause * 2).min(most);
        }
    }

    /// Did the server that ended a connection go away, so that another may be sought?
    ///
    /// # Errors
    /// `HungUp`: it is there, and nothing has turned.
    pub async fn has_gone(&self, server: &Destination) -> Result<(), Unreachable> {
        let alive = match self.connect(Who::Established, &server.address).await {
            Ok(io) => timeout(ANSWER_TIMEOUT, answers(io)).await.unwrap_or(false),
            Err(_) => false,
        };
        if alive && self.epoch() == server.epoch { Err(Unreachable::HungUp) } else { Ok(()) }
    }

    async fn connect(&self, who: Who, address: &Address) -> io::Result<Stream> {
        let closed = |_| io::Error::other("us: the semaphore is closed");
        let _fresh = match who {
            Who::Fresh => Some(self.fresh.acquire().await.map_err(closed)?),
            Who::Established => None,
        };
        let _one = self.connects.acquire().await.map_err(closed)?;
        connect(address).await
    }
}

/// Says anything at all? A process that is ending closes its clients before its listener, so that it was connected to
/// proves nothing.
async fn answers(mut io: Stream) -> bool {
    let sent = poll_fn(|cx| io.poll_write(cx, b"PING\r\n")).await;
    sent.is_ok() && matches!(poll_fn(|cx| io.poll_read(cx, &mut [0; 64])).await, Ok(1..))
}

/// Between half of it and all of it, so that many do not come at once.
pub fn jittered(pause: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let part = RandomState::new().hash_one(0u8) % 1024;
    pause / 2 + pause.mul_f64(part as f64 / 2048.0)
}

/// A connected socket to `address`, or why there is none.
async fn connect(address: &Address) -> io::Result<Stream> {
    let connecting = async {
        match address {
            Address::Tcp(host) => {
                let io = TcpStream::connect(host.as_str()).await?;
                tune(&io);
                notice_death(&io);
                Ok(Stream::Tcp(io))
            }
            Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
        }
    };
    timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// No Nagle (a proxy that waits for more adds its wait to every reply), and dead peers are noticed. What
/// cannot be set stays as it is: no reason to refuse a connection.
pub fn tune(io: &TcpStream) {
    let _ = io.set_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(300))
        .with_interval(Duration::from_secs(60))
        .with_retries(5);
    let _ = SockRef::from(io).set_tcp_keepalive(&keepalive);
}

/// A server's machine that died says no farewell: an idle connection asks, and one with unacknowledged bytes does not
/// wait a quarter of an hour. A server that is only slow still acknowledges.
fn notice_death(io: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(DEAD_AFTER / 2).with_interval(DEAD_AFTER / 6).with_retries(3);
    let socket = SockRef::from(io);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(DEAD_AFTER));
}
