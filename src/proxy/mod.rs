//! Listeners, workers, upstream connecting, drain.

use crate::config::Config;

/// Why the proxy could not serve.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RunError(String);

/// A place-holder until the proxy is wired in.
pub fn run(_config: Config) -> Result<(), RunError> {
    Err(RunError("this build has no proxy yet".into()))
}
