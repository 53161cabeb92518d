//! One GET at a running bgsafe's admin address: for `status`, `incidents`, the demo and the tests.
//! Refuses to know what the answers mean.
//!
//! Invariant: a call ends within [`TIMEOUT`] and keeps at most [`BODY_BYTES_MAX`], whatever answers there.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

/// From connecting to the last byte.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Incident lists are a few KiB each.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// Why there is no usable answer; each says the address and the cure.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody there, or nobody who speaks in time.
    #[error(
        "no bgsafe answers at {address} ({why}); start it with `bgsafe run`, or name its address with --admin \
         or BGSAFE_ADMIN"
    )]
    Unreachable {
        /// Where we asked.
        address: String,
        /// What the system said.
        why: String,
    },
    /// Somebody else.
    #[error(
        "{address} answers, but not as bgsafe does ({why}); name bgsafe's admin address with --admin or \
         BGSAFE_ADMIN"
    )]
    Stranger {
        /// Where we asked.
        address: String,
        /// What was odd.
        why: String,
    },
    /// bgsafe, which has no such thing.
    #[error("bgsafe at {address} has no {path}")]
    Missing {
        /// Where we asked.
        address: String,
        /// For what.
        path: String,
    },
}

/// Asks `address` (`host:port`) for a path; the status code and the body as text.
pub async fn get(address: impl ToString, path: &str) -> Result<(u16, String), ClientError> {
    let address = address.to_string();
    let why = match tokio::time::timeout(TIMEOUT, exchange(&address, path)).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(Failed::Connect(why))) => why.to_string(),
        Ok(Err(Failed::Talk(why))) => return Err(ClientError::Stranger { address, why: why.to_string() }),
        Err(_) => format!("no answer in {} s", TIMEOUT.as_secs()),
    };
    Err(ClientError::Unreachable { address, why })
}

/// The same, and the body read as JSON.
pub async fn json<T: DeserializeOwned>(address: impl ToString, path: &str) -> Result<T, ClientError> {
    let address = address.to_string();
    match get(&address, path).await? {
        (200, body) => {
            serde_json::from_str(&body).map_err(|why| ClientError::Stranger { address, why: why.to_string() })
        }
        (404, _) => Err(ClientError::Missing { address, path: path.to_owned() }),
        (code, _) => Err(ClientError::Stranger { address, why: format!("HTTP status {code}") }),
    }
}

enum Failed {
    Connect(std::io::Error),
    Talk(Box<dyn std::error::Error + Send + Sync>),
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Failed {
    fn from(error: E) -> Self {
        Failed::Talk(error.into())
    }
}

async fn exchange(address: &str, path: &str) -> Result<(u16, String), Failed> {
    let stream = TcpStream::connect(address).await.map_err(Failed::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request =
        Request::get(path).header(HOST, address).header(CONNECTION, "close").body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await?.to_bytes();
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
