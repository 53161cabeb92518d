//! Where the log goes: standard error, text or JSON. Decides nothing else.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::Config;

/// Starts the log. A second call in one process does nothing.
pub fn init(config: &Config) {
    let filter = EnvFilter::try_new(&config.log_level).expect("Config holds only filters that parse");
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    // An error means that a log was started before: keep that one.
    let _ = match config.log_json {
        true => log.json().flatten_event(true).try_init(),
        false => log.try_init(),
    };
}
