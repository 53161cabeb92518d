//! The host under the server: what it shows, and the few changes bgsafe may make to it.
//!
//! | file | what |
//! |---|---|
//! | `local` | does an address lead here? |
//! | `linux` | /proc, /sys, control groups, the data directory |
//! | `remote` | a server elsewhere, or a system that is not Linux: everything unknown, every change refused |
//! | `fake` | a host in memory, for tests |
//!
//! Refuses to know: findings, incidents, consent. Invariants: looking changes nothing and never blocks on the
//! server's disk for longer than a stat does; a change is one of [`Change`] and no other; what was there before is
//! told with it.

use std::sync::Arc;

use crate::guard::evidence::{HostFacts, Look, ServerFacts};
use crate::guard::remedy::Change;

pub use local::is_local;

pub mod fake;
#[cfg(target_os = "linux")]
pub mod linux;
mod local;
pub mod remote;

/// The host that this process runs on.
#[cfg(target_os = "linux")]
pub fn here() -> Arc<dyn Host> {
    Arc::new(linux::Linux::new())
}

/// The host that this process runs on: of a system that is not Linux we know nothing.
#[cfg(not(target_os = "linux"))]
pub fn here() -> Arc<dyn Host> {
    Arc::new(remote::Remote::new("this system is not Linux"))
}

/// Whom to look for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Asked {
    /// The address leads to this host: loopback, a unix socket, one of its own addresses.
    pub local: bool,
    /// INFO process_id, as the server's own namespace counts it.
    pub process_id: Option<u64>,
    /// INFO uptime_in_seconds.
    pub uptime_secs: Option<u64>,
    /// INFO tcp_port; 0 or `None`: not listening on TCP, or not told.
    pub tcp_port: Option<u16>,
    /// CONFIG GET dir; empty when it was deleted.
    pub dir: Option<String>,
    /// CONFIG GET dbfilename.
    pub dbfilename: Option<String>,
    /// CONFIG GET logfile; empty: standard output.
    pub logfile: Option<String>,
    /// Unix seconds of the newest good save: what the kernel said before it is no news.
    pub last_save: Option<u64>,
}

impl Asked {
    /// From what the server told.
    pub fn new(look: &Look, server: &ServerFacts, local: bool) -> Self {
        Asked {
            local,
            process_id: server.process_id.get(),
            uptime_secs: server.uptime_secs.get(),
            tcp_port: server.tcp_port.get(),
            dir: look.dir.known().cloned(),
            dbfilename: look.dbfilename.known().cloned(),
            logfile: server.logfile.known().cloned(),
            last_save: look.last_save.get(),
        }
    }
}

/// What was changed, and how to take it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What was done.
    pub change: Change,
    /// In words, with the values.
    pub before: String,
    /// As read back.
    pub after: String,
    /// What takes it back; `None`: nothing does.
    pub undo: Option<Change>,
}

/// Why a change was not made. Always the host's side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The kernel said no.
    #[error("host: {what}: {why}; by hand: {command}")]
    Refused {
        /// What was tried.
        what: String,
        /// The kernel's words.
        why: String,
        /// What a human must type.
        command: String,
    },
    /// What the plan saw is not there any more: another process, another directory.
    #[error("host: {0}: things are not as they were seen; look again")]
    Moved(String),
    /// The server runs elsewhere.
    #[error("host: {0}")]
    Elsewhere(String),
}

/// See the module's page. Calls may block for as long as a file system does.
pub trait Host: Send + Sync {
    /// Looks. Never fails: what cannot be seen is unknown, with its reason.
    fn facts(&self, asked: &Asked) -> HostFacts;

    /// Makes one change.
    fn apply(&self, change: &Change) -> Result<Applied, HostError>;
}
