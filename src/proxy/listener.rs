//! Accepting clients and handing them to the least loaded worker.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UnixListener, lookup_host};
use tokio_util::sync::CancellationToken;

use crate::config::Address;

use super::worker::{Accepted, Worker};

/// Connections that may wait to be accepted; Redis's `tcp-backlog` is 511, and the system has its own cap.
const BACKLOG: i32 = 1024;

/// `networking.c:acceptCommonHandler`'s words.
const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// On TCP.
    Tcp(TcpListener),
    /// On a unix socket, whose file we remove at the end.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Binds `address`.
    ///
    /// # Errors
    /// Those of the system; `AddrInUse` also for a unix path on which somebody answers.
    pub async fn bind(address: &Address) -> io::Result<Listener> {
        match address {
            Address::Tcp(host) => bind_tcp(host).await.map(Listener::Tcp),
            Address::Unix(path) => {
                remove_stale(path)?;
                Ok(Listener::Unix(UnixListener::bind(path)?, path.clone()))
            }
        }
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> Address {
        match self {
            Listener::Tcp(listener) => {
                Address::Tcp(listener.local_addr().map_or_else(|_| "unknown".into(), |a| a.to_string()))
            }
            Listener::Unix(_, path) => Address::Unix(path.clone()),
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Listener::Tcp(listener) => Ok(Accepted::Tcp(listener.accept().await?.0.into_std()?)),
            Listener::Unix(listener, _) => Ok(Accepted::Unix(listener.accept().await?.0.into_std()?)),
        }
    }

    /// Accepts until `draining`, and hands each client to the worker with the fewest.
    pub async fn run(self, workers: Arc<Vec<Worker>>, clients_max: usize, draining: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                () = draining.cancelled() => return,
            };
            let socket = match accepted {
                Ok(socket) => socket,
                Err(error) => {
                    // Out of file descriptors, mostly: those who are served go on, the next waits a little.
                    tracing::warn!(side = "bgsafe", %error, "cannot accept a client");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let sessions: usize = workers.iter().map(Worker::load).sum();
            let chosen = workers.iter().min_by_key(|w| w.load());
            match chosen {
                Some(worker) if sessions < clients_max => {
                    worker.hand(socket);
                }
                _ => turn_away(&socket),
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn bind_tcp(host: &str) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host(host).await? {
        let bind = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into())
        };
        match bind() {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A socket file that nobody listens on is a dead process's; anything else is not ours to remove.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)
        }
        _ => Ok(()),
    }
}

/// One attempt that does not wait: a client that cannot take it gets the close alone.
fn turn_away(socket: &Accepted) {
    use std::io::Write;
    let _ = match socket {
        Accepted::Tcp(io) => (&mut &*io).write(TOO_MANY),
        Accepted::Unix(io) => (&mut &*io).write(TOO_MANY),
    };
}
