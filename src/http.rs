//! One HTTP/1.1 exchange over one TCP connection, driven to its end: what the admin client and the alerts
//! share. Refuses to know what is asked, what an answer means, and when it has lasted too long: its caller
//! bounds the time.
//!
//! Invariant: of a body at most so many bytes are kept as the caller said.

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Why there is no answer.
#[derive(Debug)]
pub enum Failed {
    /// Nobody there.
    Connect(std::io::Error),
    /// Somebody, who does not speak as expected.
    Talk(Box<dyn std::error::Error + Send + Sync>),
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Failed {
    fn from(error: E) -> Self {
        Failed::Talk(error.into())
    }
}

/// Sends `request` to `address` (`host:port`); the status code and the body as text, which is not read at all
/// where nothing of it may be kept.
pub async fn exchange(
    address: &str,
    request: Request<Full<Bytes>>,
    body_bytes_max: usize,
) -> Result<(u16, String), Failed> {
    let stream = TcpStream::connect(address).await.map_err(Failed::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let code = response.status().as_u16();
        if body_bytes_max == 0 {
            return Ok((code, String::new()));
        }
        let body = Limited::new(response.into_body(), body_bytes_max).collect().await?.to_bytes();
        Ok((code, String::from_utf8_lossy(&body).into_owned()))
    };
    // The connection must be driven while we wait, and is of no further use after the answer. When it
    // ends first, the answer is complete or says itself what went wrong.
    tokio::pin!(answer);
    tokio::select! {
        biased;
        done = &mut answer => done,
        _ = connection => answer.await,
    }
}
