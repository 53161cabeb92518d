//! Escrow: a copy of the data set on bgsafe's own disk, pulled over the replication protocol while the server cannot
//! save to its own. Here is what such a copy is ([`Snapshot`]), when one is asked for ([`plan`]) and whether a stream is a
//! whole one ([`rdb`]).
//!
//! Refuses to know: sockets, files. Invariant: a copy bounds what may be lost; it proves nothing of the server's disk
//! and never puts the switch back.

use serde::{Deserialize, Serialize};

pub mod plan;
pub mod rdb;

/// A checked copy on bgsafe's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The file.
    pub path: String,
    /// All of it.
    pub bytes: u64,
    /// Unix milliseconds before it was asked for: what was acknowledged by then is in it.
    pub at_ms: u64,
    /// Changes the server counted since its last save, by then at the least.
    pub changes: u64,
    /// That save, Unix seconds by the server's clock.
    pub last_save: u64,
    /// The server process it is of.
    pub run_id: String,
    /// Who wrote it: `redis 7.0.15`, or empty.
    pub server: String,
    /// Of the layout.
    pub version: u32,
    /// Keys in it, where a second checker counted them.
    pub keys: Option<u64>,
    /// What was found right: `end`, `sum`, and a second checker's name.
    pub checked: Vec<String>,
}

/// What a copy is to be of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Unix milliseconds, now.
    pub at_ms: u64,
    /// As the newest look says.
    pub changes: u64,
    /// As the newest look says.
    pub last_save: u64,
    /// Only of this process.
    pub run_id: String,
}

/// Why there is no copy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct PullError {
    /// In words that name the side.
    pub why: String,
    /// Another try would end the same: a right that is missing, a copy that is larger than allowed.
    pub lasting: bool,
}

impl PullError {
    /// It may go better another time.
    pub fn passing(why: impl Into<String>) -> Self {
        PullError { why: why.into(), lasting: false }
    }

    /// It will not.
    pub fn lasting(why: impl Into<String>) -> Self {
        PullError { why: why.into(), lasting: true }
    }
}
