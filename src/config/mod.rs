//! Flags, environment and file, merged into one [`Config`] that cannot be wrong.
//!
//! Pure but for [`Machine`]: what the settings depend on (environment, files, CPUs) comes in through
//! [`World`], so every rule here is tested without touching the process. Refuses to know clap,
//! sockets and Redis. Invariant: who holds a [`Config`] need not check it again.
//!
//! | file | what |
//! |---|---|
//! | [`options`] | the table of options |
//! | [`layers`], [`file`] | words and where they came from |
//! | [`units`], [`url`], [`alert`], [`rename`] | words into values |
//! | `build` | values into a [`Config`]; the limits that must agree |
//! | `show` | `check-config` |

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::posture::UnreadySet;

mod agree;
pub mod alert;
mod build;
pub mod file;
pub mod layers;
mod machine;
pub mod options;
pub mod rename;
mod show;
#[cfg(test)]
mod tests;
pub mod units;
pub mod url;

pub use build::{HOLD_FOR_TWO, HOLD_TOO_SHORT, admin_address, load, server};
pub use machine::Machine;

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
            Address::Tcp(at) => f.write_str(at),
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
    /// Hand the primary's role to a healthy replica; where that cannot be, as `Hold`.
    Redirect,
    /// Watch and tell, change nothing.
    Observe,
}

impl Policy {
    /// The word that options, status and logs show.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Mitigate => "mitigate",
            Policy::Hold => "hold",
            Policy::Redirect => "redirect",
            Policy::Observe => "observe",
        }
    }
}

/// How the Sentinels that watch a server are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// They are not asked: none is believed to watch.
    Off,
    /// By the operator's list.
    Named,
    /// By what the server shows of them.
    Discover,
}

/// Who acts first when a primary that Sentinel watches cannot save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentinelPolicy {
    /// Open the writes while Sentinel still agrees, so that no failover happens.
    MitigateFirst,
    /// Park writes for as long as Sentinel takes to fail over; open them only if it does not.
    PreferFailover,
}

impl SentinelPolicy {
    /// The word that options and logs show.
    pub fn name(self) -> &'static str {
        match self {
            SentinelPolicy::MitigateFirst => "mitigate-first",
            SentinelPolicy::PreferFailover => "prefer-failover",
        }
    }
}

/// The Sentinels that the operator told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentinels {
    /// How they are found.
    pub seek: Seek,
    /// `host:port` each; empty unless [`Seek::Named`].
    pub addresses: Vec<String>,
    /// What they call the group.
    pub name: String,
    /// For AUTH at each of them.
    pub credentials: Option<Credentials>,
    /// Do they also say where sessions go?
    pub follow: bool,
    /// Who acts first.
    pub policy: SentinelPolicy,
}

/// What happens when the exposure budget is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenExposed {
    /// Put the switch back: writes are refused again.
    Rearm,
    /// Hand the primary's role to a healthy replica; where that cannot be, as `Rearm`.
    Redirect,
    /// Keep writes open and go on telling.
    Keep,
}

/// When a copy of the data is fetched onto bgsafe's own disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Escrow {
    /// Never.
    Off,
    /// When nothing is left to try, or half of the exposure budget is spent.
    WhenStuck,
    /// In each incident with open writes, as soon as a save failed.
    Always,
}

impl Escrow {
    /// The word of the option.
    pub fn name(self) -> &'static str {
        match self {
            Escrow::Off => "off",
            Escrow::WhenStuck => "when-stuck",
            Escrow::Always => "always",
        }
    }
}

/// How far bgsafe may reach to cure what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nowhere: it names the cure and leaves it to the operator.
    Off,
    /// Over the control connection only.
    Redis,
    /// Also the host's kernel settings, limits and data directory, by the remedies whose consent is Auto.
    Host,
}

/// How an append-only file that refuses after a failed sync may be made sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AofRepair {
    /// Not at all: the way is told.
    Off,
    /// By BGREWRITEAOF only, where that helps: the file stays on.
    Rewrite,
    /// Also by switching it off and on in one transaction, after a proved save.
    Switch,
}

/// Which scripts and functions may be sent again after a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayScripts {
    /// Those that declare their flags: the server refuses such a one before it runs.
    Declared,
    /// Every one: the operator knows that his scripts write first, or may run twice.
    All,
    /// None: the refusal is delivered.
    None,
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// How long writes may stay open unsaved; zero is no limit.
    pub exposure_time: Duration,
    /// How many changes may be unsaved; 0 is no limit.
    pub exposure_changes: u64,
    /// What happens then.
    pub when_exposed: WhenExposed,
    /// When a copy of the data is fetched.
    pub escrow: Escrow,
    /// Where to; `None`: below the state directory.
    pub escrow_dir: Option<PathBuf>,
    /// So many copies are kept.
    pub escrow_keep: usize,
    /// Bytes of one at the most; 0 is what the disk holds.
    pub escrow_max_bytes: u64,
    /// Between two of them.
    pub escrow_every: Duration,
    /// What may be cured by itself.
    pub repair: Repair,
    /// May CONFIG REWRITE write the operator's switch over a lowered one in the server's file?
    pub repair_rewrite: bool,
    /// How a failed sync of the append-only file may be cleared.
    pub aof_repair: AofRepair,
    /// A program that is told of each finding, as JSON on standard input.
    pub repair_hook: Option<String>,
    /// Is told of each turn of an incident.
    pub alert_url: Option<alert::Target>,
    /// A program that is told of the same, as JSON on standard input.
    pub alert_command: Option<String>,
    /// Names that the server has for commands of the control connection.
    pub renames: rename::Renames,
    /// Who else decides which server is the primary.
    pub sentinels: Sentinels,
    /// Errors of MISCONF's family that a command waits out.
    pub hold_errors: UnreadySet,
    /// Which scripts may be sent again.
    pub replay_scripts: ReplayScripts,
    /// May the switch be lowered on a replica that would end itself?
    pub guard_replicas: bool,
    /// Debts and incident records.
    pub state_dir: PathBuf,
    /// Worker threads.
    pub workers: usize,
    /// Sessions at the most.
    pub max_clients: usize,
    /// Idle time after which a client is closed; zero is never.
    pub client_timeout: Duration,
    /// Longest value in a request.
    pub max_request_bytes: u64,
    /// JSON instead of text.
    pub log_json: bool,
    /// An `EnvFilter` directive.
    pub log_level: String,
}

/// Whom `bgsafe doctor` looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The server.
    pub address: Address,
    /// As whom.
    pub credentials: Option<Credentials>,
    /// Commands that it has under other names.
    pub renames: rename::Renames,
    /// Where a bgsafe in front of it keeps its records.
    pub state_dir: Option<PathBuf>,
    /// What is allowed, but should be known.
    pub warnings: Vec<String>,
}

/// A [`Config`], and how it came about.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The result.
    pub config: Config,
    /// One row an option, secrets masked.
    pub settings: Vec<Setting>,
    /// What is allowed, but should be known; for the log.
    pub warnings: Vec<String>,
}

/// One line of `check-config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Which option.
    pub key: options::Key,
    /// As `bgsafe.toml` would say it, secrets masked; `None`: not set, and that is fine.
    pub value: Option<String>,
    /// Who said so: a flag, a variable, a file's line, the default, or what the default was found by.
    pub origin: String,
}

/// What was asked for cannot be done: which side said it, and the cure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("configuration: {0}")]
pub struct ConfigError(pub String);

/// What settings depend on besides themselves. [`Machine`] is the real one.
pub trait World {
    /// An environment variable, if it is set and UTF-8.
    fn env(&self, name: &str) -> Option<String>;
    /// A file's text.
    fn read(&self, path: &Path) -> std::io::Result<String>;
    /// Can this directory be written to, or be created?
    fn writable(&self, dir: &Path) -> bool;
    /// CPUs this process may run on; at least one.
    fn cpus(&self) -> usize;
}
