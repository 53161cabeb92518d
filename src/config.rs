//! Flags, environment and file, merged into one [`Config`] that cannot be wrong.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where something listens or connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port`; the name is resolved at each connect.
    Tcp(String),
    /// `unix:/path`.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(host) => f.write_str(host),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What bgsafe does when the server refuses writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Open the writes, prove the cure, restore.
    Mitigate,
    /// Never touch the switch: park writes while a BGSAVE is tried.
    Hold,
    /// Watch and tell, change nothing.
    Observe,
}

/// What happens when the exposure budget is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenExposed {
    /// Put the switch back: writes are refused again.
    Rearm,
    /// Keep writes open and go on telling.
    Keep,
}

/// A secret that no formatter shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Credentials of the control connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// ACL user; `None` is `AUTH password` alone.
    pub user: Option<String>,
    /// Its password.
    pub password: Secret,
}

/// Everything `bgsafe run` needs, already checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// At least one.
    pub listen: Vec<Address>,
    /// The server.
    pub upstream: Address,
    /// For the control connection only.
    pub credentials: Option<Credentials>,
    /// `None` is `off`.
    pub admin: Option<SocketAddr>,
    /// What to do about a refusal.
    pub policy: Policy,
    /// How long one command may wait; zero holds nothing.
    pub hold_time: Duration,
    /// Bytes that may wait in all.
    pub hold_bytes: u64,
    /// How long writes may stay open unsaved.
    pub exposure_time: Duration,
    /// How many changes may be unsaved; 0 is no limit.
    pub exposure_changes: u64,
    /// What happens then.
    pub when_exposed: WhenExposed,
    /// Debts and incident records.
    pub state_dir: PathBuf,
    /// Worker threads.
    pub workers: usize,
    /// Sessions at the most.
    pub max_clients: usize,
    /// Idle time after which a client is closed; zero is never.
    pub client_timeout: Duration,
    /// Largest request.
    pub max_request_bytes: u64,
    /// JSON instead of text.
    pub log_json: bool,
    /// An `EnvFilter` directive.
    pub log_level: String,
}
