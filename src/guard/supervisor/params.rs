//! What a supervisor needs to know, from the merged configuration.

use crate::config::Config;
use crate::control::Endpoint;
use crate::guard::policy::Settings;

/// What a supervisor needs to know.
#[derive(Clone, Debug)]
pub struct Params {
    /// The control connection.
    pub endpoint: Endpoint,
    /// The operator's choices.
    pub settings: Settings,
    /// Debts and incident records.
    pub state_dir: std::path::PathBuf,
}

impl Params {
    /// From the merged configuration.
    pub fn new(config: &Config) -> Self {
        let nonce = (std::process::id() & 0xffff) as u16;
        Params {
            endpoint: Endpoint {
                address: config.upstream.clone(),
                credentials: config.credentials.clone(),
                name: format!("bgsafe:{nonce:04x}"),
            },
            settings: Settings {
                address: config.upstream.to_string(),
                policy: config.policy,
                exposure_time: config.exposure_time,
                exposure_changes: config.exposure_changes,
                when_exposed: config.when_exposed,
                nonce,
            },
            state_dir: config.state_dir.clone(),
        }
    }
}
