//! Connecting to the server. Refuses to know why.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config::Address;

use super::stream::Stream;

/// A server that does not answer for this long is unreachable.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connected socket to `address`, or why there is none.
///
/// # Errors
/// Those of the system, or `TimedOut` after [`CONNECT_TIMEOUT`].
pub async fn connect(address: &Address) -> io::Result<Stream> {
    let connecting = async {
        match address {
            Address::Tcp(host) => {
                let io = TcpStream::connect(host.as_str()).await?;
                tune(&io);
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
