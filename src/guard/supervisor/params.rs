//! What a supervisor needs to know, from the merged configuration.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::SystemTime;

use super::alerts::Sinks;
use crate::config::{Config, Credentials, Escrow};
use crate::control::Endpoint;
use crate::escrow::keep::Keep;
use crate::guard::escrow::plan::Plan;
use crate::guard::feed::Turns;
use crate::guard::policy::Settings;
use crate::guard::store::StoreError;
use crate::host::{self, Host};
use crate::topology::watch::Watcher;

/// What a supervisor needs to know.
#[derive(Clone)]
pub struct Params {
    /// The control connection.
    pub endpoint: Endpoint,
    /// The operator's choices.
    pub settings: Settings,
    /// Where the server may run.
    pub host: Arc<dyn Host>,
    /// Told of findings: a command for `sh -c`.
    pub hook: Option<String>,
    /// Told of each turn of an incident.
    pub alerts: Sinks,
    /// Where copies of the data go; `None`: escrow is off.
    pub escrow: Option<Keeping>,
    /// The Sentinels that watch this server, when they are known by name.
    pub sentinels: Option<Watcher>,
    /// For AUTH at those that the server shows.
    pub sentinel_credentials: Option<Credentials>,
    /// Debts and incident records.
    pub state_dir: std::path::PathBuf,
    /// Bytes that may wait before one server.
    pub hold_bytes: u64,
    /// Told of the same, for whoever watches: one feed for all servers.
    pub turns: Turns,
}

/// Where copies of the data go.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// The directory.
    pub dir: std::path::PathBuf,
    /// So many of them.
    pub keep: usize,
    /// Each of at the most so many bytes; 0 is no limit but the disk.
    pub bytes_max: u64,
}

impl Keeping {
    fn new(config: &Config) -> Option<Self> {
        let dir = config.escrow_dir.clone().unwrap_or_else(|| config.state_dir.join("escrow"));
        let keeping = Keeping { dir, keep: config.escrow_keep, bytes_max: config.escrow_max_bytes };
        (config.escrow != Escrow::Off).then_some(keeping)
    }

    pub(super) fn open(&self, address: &str) -> Result<Keep, StoreError> {
        let path = self.dir.clone();
        Keep::open(&self.dir, address, self.keep, self.bytes_max)
            .map_err(|source| StoreError::Escrow { path, source })
    }
}

impl Params {
    /// From the merged configuration.
    pub fn new(config: &Config) -> Self {
        // In a container every process is the first, so its number tells nobody apart.
        let id = RandomState::new().hash_one((std::process::id(), SystemTime::now()));
        let (name, nonce) = (format!("bgsafe:{id:016x}"), id as u16);
        let user = config.credentials.as_ref().and_then(|credentials| credentials.user.clone());
        Params {
            endpoint: Endpoint {
                address: config.upstream.clone(),
                credentials: config.credentials.clone(),
                name: name.clone(),
                renames: config.renames.clone(),
            },
            settings: Settings {
                address: config.upstream.to_string(),
                upstream: config.upstream.to_string(),
                policy: config.policy,
                exposure_time: config.exposure_time,
                exposure_changes: config.exposure_changes,
                when_exposed: config.when_exposed,
                escrow: Plan { when: config.escrow, every: config.escrow_every },
                repair: config.repair,
                repair_rewrite: config.repair_rewrite,
                aof_repair: config.aof_repair,
                hook: config.repair_hook.is_some(),
                name,
                user: user.unwrap_or_else(|| "default".into()),
                hold_time: config.hold_time,
                seek: config.sentinels.seek,
                sentinel_policy: config.sentinels.policy,
                nonce,
                guard_replicas: config.guard_replicas,
            },
            escrow: Keeping::new(config),
            state_dir: config.state_dir.clone(),
            hold_bytes: config.hold_bytes,
            turns: Turns::default(),
            sentinels: None,
            sentinel_credentials: config.sentinels.credentials.clone(),
            host: host::here(),
            hook: config.repair_hook.clone(),
            alerts: Sinks { url: config.alert_url.clone(), command: config.alert_command.clone() },
        }
    }
}
