//! What is known when a cause is sought: what the server told, what its host shows, what was so
//! while all was well, and what this incident has seen.
//!
//! | file | what |
//! |---|---|
//! | [`aof`] | how the append-only file stands |
//! | [`fact`] | known, or unknown for a reason |
//! | [`look`] | the few fields watched every second |
//! | [`peers`] | whom it replicates to and from |
//! | [`target`] | where the snapshot goes; the tripwire |
//! | [`server`] | what the server tells of itself, for a diagnosis |
//! | [`rights`] | what the control user may do |
//! | [`host`] | what the host shows of the server's process, memory, limits and directory |
//! | [`log`] | what the server's log and the kernel's say of a failed save |
//!
//! Refuses to know: how it was gathered, what follows from it. Invariant: nothing here is ever guessed.

pub mod aof;
pub mod fact;
pub mod host;
pub mod log;
pub mod look;
pub mod peers;
pub mod rights;
pub mod server;
pub mod target;

pub use fact::{Fact, Reason};
pub use host::HostFacts;
pub use look::{Look, Role};
pub use peers::{Peer, Peers};
pub use rights::{Right, Rights, Word};
pub use server::ServerFacts;
pub use target::Target;

use serde::{Deserialize, Serialize};

use super::finding::trend::Ahead;
use crate::posture::Variant;

/// Everything a diagnosis may look at.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Evidence {
    /// Of the upstream, as configured, without credentials: for the commands we print.
    pub address: String,
    /// The newest look.
    pub look: Look,
    /// What the server tells besides.
    pub server: ServerFacts,
    /// What its host shows; all unknown when it is not this one.
    pub host: HostFacts,
    /// What was so while saving worked, if that was ever seen.
    pub healthy: Option<Healthy>,
    /// When a save will fail, at the pace at which headroom shrinks.
    pub ahead: Ahead,
    /// What happened since the refusal.
    pub seen: Seen,
}

/// What was so while saving worked: recorded in peace, kept over restarts, compared in an incident.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Healthy {
    /// `dir`.
    pub dir: String,
    /// `dbfilename`.
    pub dbfilename: String,
    /// `save`.
    pub save: String,
    /// Owner and group of the data directory, when it could be seen.
    pub owner: Option<(u32, u32)>,
    /// Its mode, permission bits only.
    pub mode: Option<u32>,
}

impl Healthy {
    /// Where the snapshot went.
    pub fn target(&self) -> Target {
        Target { dir: self.dir.clone(), dbfilename: self.dbfilename.clone() }
    }
}

/// What happened in this incident, or what `bgsafe doctor` knows of the time before it came: then all is empty.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Seen {
    /// What the refusal spoke of.
    pub variant: Option<Variant>,
    /// The server's own words: for the AOF they end with the errno's text.
    pub refusal: Option<String>,
    /// Saves that failed in a row.
    pub failures: u32,
    /// A BGSAVE was answered by a bare `-ERR`: the server could not fork (`rdb.c:rdbSaveBackground`).
    pub fork_failed: bool,
    /// Kills by the memory controller when the incident began.
    pub oom_kills_before: Option<u64>,
    /// Refused PINGs when the incident began, and those of our own since: the rest are somebody's probes.
    pub pings: Option<(u64, u64)>,
    /// We may not use CONFIG, in the server's words.
    pub config_denied: Option<String>,
    /// CONFIG REWRITEs from elsewhere that wrote down the `no` of a switch that we had lowered, and that nobody has
    /// written over since. Unknown: there was nobody to count them.
    pub rewritten: Fact<u64>,
    /// The switch is off in a process that was started after we had lowered it in its forerunner, in words.
    pub left_off: Option<String>,
}
