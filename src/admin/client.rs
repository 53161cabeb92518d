//! One GET at a running bgsafe's admin address: for `status`, `incidents`, the demo and the tests.
//! Refuses to know what the answers mean.
//!
//! Invariant: a call ends within [`TIMEOUT`] and keeps at most [`BODY_BYTES_MAX`], whatever answers there.

use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST};
use serde::de::DeserializeOwned;

use crate::http::{self, Failed};

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

async fn exchange(address: &str, path: &str) -> Result<(u16, String), Failed> {
    let request = Request::get(path).header(HOST, address).header(CONNECTION, "close");
    http::exchange(address, request.body(Full::new(Bytes::new()))?, BODY_BYTES_MAX).await
}
