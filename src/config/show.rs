//! What `check-config` prints: every option, its value and who said so, as a `bgsafe.toml` that
//! could be used, but for masked secrets. Decides nothing.
//!
//! Invariant: no secret passes through here unmasked.

use std::fmt::Write as _;

use crate::resp::error::unready_names;

use super::layers::{Layer, Origin};
use super::options::{Key, OPTIONS};
use super::units::{duration_text, size_text};
use super::url::Upstream;
use super::{AofRepair, Config, Loaded, Repair, ReplayScripts, Seek, Setting, WhenExposed};

/// Stands in the place of a password.
const MASK: &str = "***";

/// One row an option. `state_origin` says how the default directory was found.
pub(super) fn settings(
    config: &Config,
    server: &Upstream,
    words: &Layer,
    state_origin: Option<&'static str>,
) -> Vec<Setting> {
    let one = |key: Key| {
        let value = value(key, config, server, words);
        let said = words.given(key).map(|given| given.origin.to_string());
        let origin = match (said, key) {
            (Some(said), _) => said,
            (None, Key::StateDir) => state_origin.unwrap_or("default").to_owned(),
            (None, Key::Workers) => "default, half the allowed CPUs".to_owned(),
            (None, _) if value.is_some() => "from upstream".to_owned(),
            (None, _) => Origin::Default.to_string(),
        };
        Setting { key, value, origin }
    };
    OPTIONS.iter().map(|row| one(row.key)).collect()
}

/// The value as TOML.
fn value(key: Key, config: &Config, server: &Upstream, words: &Layer) -> Option<String> {
    let quoted = |text: &str| Some(toml::Value::String(text.to_owned()).to_string());
    match key {
        Key::Listen => {
            let all: Vec<_> = config.listen.iter().filter_map(|at| quoted(&at.to_string())).collect();
            Some(format!("[{}]", all.join(", ")))
        }
        Key::Upstream => quoted(&server.to_url(Some(MASK))),
        Key::ControlUser => config.credentials.as_ref()?.user.as_deref().and_then(quoted),
        Key::ControlPasswordFile => words.given(key)?.words.first().and_then(|path| quoted(path)),
        Key::Admin => quoted(&config.admin.map_or("off".to_owned(), |at| at.to_string())),
        Key::Policy => quoted(config.policy.name()),
        Key::HoldTime => quoted(&duration_text(config.hold_time)),
        Key::HoldBytes => quoted(&size_text(config.hold_bytes)),
        Key::ExposureTime => quoted(&duration_text(config.exposure_time)),
        Key::ExposureChanges => Some(config.exposure_changes.to_string()),
        Key::WhenExposed => quoted(match config.when_exposed {
            WhenExposed::Rearm => "rearm",
            WhenExposed::Redirect => "redirect",
            WhenExposed::Keep => "keep",
        }),
        Key::Escrow => quoted(config.escrow.name()),
        Key::EscrowDir => config.escrow_dir.as_ref().and_then(|dir| quoted(&dir.to_string_lossy())),
        Key::EscrowKeep => Some(config.escrow_keep.to_string()),
        Key::EscrowMaxBytes => quoted(&size_text(config.escrow_max_bytes)),
        Key::EscrowEvery => quoted(&duration_text(config.escrow_every)),
        Key::Repair => quoted(match config.repair {
            Repair::Off => "off",
            Repair::Redis => "redis",
            Repair::Host => "host",
        }),
        Key::RepairRewrite => quoted(if config.repair_rewrite { "yes" } else { "no" }),
        Key::AofRepair => quoted(match config.aof_repair {
            AofRepair::Off => "off",
            AofRepair::Rewrite => "rewrite",
            AofRepair::Switch => "switch",
        }),
        Key::RepairHook => config.repair_hook.as_deref().and_then(quoted),
        Key::AlertUrl => config.alert_url.as_ref().and_then(|at| quoted(&at.masked(MASK))),
        Key::AlertCommand => config.alert_command.as_deref().and_then(quoted),
        Key::Rename => {
            let all: Vec<_> =
                config.renames.names().filter_map(|name| quoted(&format!("{name}={MASK}"))).collect();
            (!all.is_empty()).then(|| format!("[{}]", all.join(", ")))
        }
        Key::Sentinels => match config.sentinels.seek {
            Seek::Off => quoted("off"),
            Seek::Discover => None,
            Seek::Named => {
                let all: Vec<_> = config.sentinels.addresses.iter().filter_map(|at| quoted(at)).collect();
                Some(format!("[{}]", all.join(", ")))
            }
        },
        Key::SentinelName => quoted(&config.sentinels.name),
        Key::SentinelUser => config.sentinels.credentials.as_ref()?.user.as_deref().and_then(quoted),
        Key::SentinelPasswordFile => words.given(key)?.words.first().and_then(|path| quoted(path)),
        Key::SentinelPolicy => quoted(config.sentinels.policy.name()),
        Key::HoldErrors => {
            let names: Vec<_> = unready_names(|which| config.hold_errors.has(which)).collect();
            quoted(&if names.is_empty() { "none".to_owned() } else { names.join(",") })
        }
        Key::ReplayScripts => quoted(match config.replay_scripts {
            ReplayScripts::Declared => "declared",
            ReplayScripts::All => "all",
            ReplayScripts::None => "none",
        }),
        Key::GuardReplicas => quoted(if config.guard_replicas { "yes" } else { "no" }),
        Key::StateDir => quoted(&config.state_dir.to_string_lossy()),
        Key::Workers => Some(config.workers.to_string()),
        Key::MaxClients => Some(config.max_clients.to_string()),
        Key::ClientTimeout => quoted(&duration_text(config.client_timeout)),
        Key::MaxRequestBytes => quoted(&size_text(config.max_request_bytes)),
        Key::LogFormat => quoted(if config.log_json { "json" } else { "text" }),
        Key::LogLevel => quoted(&config.log_level),
    }
}

impl Loaded {
    /// The text of `bgsafe check-config`.
    pub fn text(&self) -> String {
        let left = |s: &Setting| match &s.value {
            Some(value) => format!("{} = {value}", s.key.row().name),
            None => format!("# {} is not set", s.key.row().name),
        };
        let width = self.settings.iter().map(|s| left(s).chars().count()).max().unwrap_or(0);
        let mut out = String::new();
        for setting in &self.settings {
            let _ = writeln!(out, "{:width$}  # {}", left(setting), setting.origin);
        }
        let secret = match &self.config.credentials {
            Some(_) => "the control connection has a password",
            None => "the control connection has no password",
        };
        let _ = writeln!(out, "# {secret}");
        out
    }
}
