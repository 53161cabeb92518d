//! One GET to a bgsafe's admin address: for `status`, `incidents`, the demo and the tests.
//!
//! Refuses to know what the answers mean. Invariant: a call ends within [`TIMEOUT`], and no answer takes more than
//! [`BODY_BYTES_MAX`].

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// From connecting to the last byte.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Incident lists are a few KiB each.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error(
    "us: no bgsafe answers at http://{address}{path} ({why}); is it running, and is this its --admin address?"
)]
pub struct Unreachable {
    address: SocketAddr,
    path: String,
    why: String,
}

/// Asks for a path; the status code and the body as text.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, String), Unreachable> {
    let failed = |why: String| Unreachable { address, path: path.to_owned(), why };
    match tokio::time::timeout(TIMEOUT, exchange(address, path)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(why)) => Err(failed(why.to_string())),
        Err(_) => Err(failed(format!("no answer in {} s", TIMEOUT.as_secs()))),
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(address: SocketAddr, path: &str) -> Result<(u16, String), AnyError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header("host", address.to_string())
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await?.to_bytes();
        Ok::<_, AnyError>((status, String::from_utf8_lossy(&body).into_owned()))
    };
    // The connection must be driven while we wait, and is of no further use after the answer.
    tokio::pin!(answer, connection);
    let mut ended = false;
    loop {
        tokio::select! {
            done = &mut answer => return done,
            closed = &mut connection, if !ended => {
                closed?;
                ended = true;
            }
        }
    }
}
