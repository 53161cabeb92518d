//! What a supervisor needs to know, from the merged configuration.

use std::sync::Arc;

use super::alerts::Sinks;
use crate::config::Config;
use crate::control::Endpoint;
use crate::guard::feed::Turns;
use crate::guard::policy::Settings;
use crate::host::{self, Host};

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
    /// Debts and incident records.
    pub state_dir: std::path::PathBuf,
    /// Bytes that may wait before one server.
    pub hold_bytes: u64,
    /// Told of the same, for whoever watches: one feed for all servers.
    pub turns: Turns,
}

impl Params {
    /// From the merged configuration.
    pub fn new(config: &Config) -> Self {
        let nonce = (std::process::id() & 0xffff) as u16;
        let name = format!("bgsafe:{nonce:04x}");
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
                repair: config.repair,
                repair_rewrite: config.repair_rewrite,
                hook: config.repair_hook.is_some(),
                name,
                user: user.unwrap_or_else(|| "default".into()),
                hold_time: config.hold_time,
                nonce,
                guard_replicas: config.guard_replicas,
            },
            state_dir: config.state_dir.clone(),
            hold_bytes: config.hold_bytes,
            turns: Turns::default(),
            host: host::here(),
            hook: config.repair_hook.clone(),
            alerts: Sinks { url: config.alert_url.clone(), command: config.alert_command.clone() },
        }
    }
}
