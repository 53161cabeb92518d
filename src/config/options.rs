//! The table of options: one row an option, and every face reads it: flags, environment, file,
//! `--help`, `check-config`, `bgsafe.example.toml`. Refuses to know how a value is parsed.
//!
//! Invariant: `OPTIONS[key as usize].key == key`, and flag, environment variable and file key are
//! the same word.

/// An option of `bgsafe run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each one is described by its row")]
pub enum Key {
    Listen,
    Upstream,
    ControlUser,
    ControlPasswordFile,
    Admin,
    Policy,
    HoldTime,
    HoldBytes,
    HoldErrors,
    ExposureTime,
    ExposureChanges,
    WhenExposed,
    Escrow,
    EscrowDir,
    EscrowKeep,
    EscrowMaxBytes,
    EscrowEvery,
    Repair,
    AofRepair,
    RepairHook,
    RepairRewrite,
    AlertUrl,
    AlertCommand,
    Rename,
    Sentinels,
    SentinelName,
    SentinelUser,
    SentinelPasswordFile,
    SentinelPolicy,
    ReplayScripts,
    GuardReplicas,
    StateDir,
    Workers,
    MaxClients,
    ClientTimeout,
    MaxRequestBytes,
    LogFormat,
    LogLevel,
}

/// How many options there are.
pub const COUNT: usize = 38;

/// What the world is told about one option.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Which option.
    pub key: Key,
    /// Its one word: `hold-time` for `--hold-time`, `BGSAFE_HOLD_TIME` and the file's `hold-time`.
    pub name: &'static str,
    /// Stands for the value in `--help`.
    pub value: &'static str,
    /// `None`: found out at start, as `help` says, or not set.
    pub default: Option<&'static str>,
    /// May it be given more than once?
    pub many: bool,
    /// One sentence for `--help`.
    pub help: &'static str,
}

const fn row(
    key: Key,
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Row {
    let default = if default.is_empty() { None } else { Some(default) };
    Row { key, name, value, default, many: matches!(key, Key::Listen | Key::Rename | Key::Sentinels), help }
}

/// Every option, in the order of [`Key`].
#[rustfmt::skip]
pub const OPTIONS: [Row; COUNT] = [
    row(Key::Listen, "listen", "ADDRESS", "127.0.0.1:6380",
        "Where applications connect: host:port or unix:/path; repeat it, or separate with commas"),
    row(Key::Upstream, "upstream", "URL", "redis://127.0.0.1:6379",
        "The server: redis://[user[:password]@]host[:port], unix:///path, host:port or unix:/path, or \
         redis+sentinel://host[:port],host[:port]/name to follow the primary that Sentinel names; \
         user and password are for bgsafe's own control connection only"),
    row(Key::ControlUser, "control-user", "USER", "",
        "ACL user of the control connection [default: from the upstream URL]"),
    row(Key::ControlPasswordFile, "control-password-file", "FILE", "",
        "File with the control connection's password [default: from the upstream URL, else REDISCLI_AUTH]"),
    row(Key::Admin, "admin", "ADDRESS", "127.0.0.1:9380",
        "HTTP for health, metrics and status: ip:port, or off"),
    row(Key::Policy, "policy", "POLICY", "mitigate",
        "On a refusal: mitigate (open the writes, prove the cure, restore), hold (never touch the \
         switch, park writes while a save is tried), redirect (hand the role to a healthy replica, by \
         FAILOVER, else hold) or observe (tell, change nothing)"),
    row(Key::HoldTime, "hold-time", "DURATION", "5s",
        "How long one command may wait; 0 holds nothing"),
    row(Key::HoldBytes, "hold-bytes", "SIZE", "64MiB",
        "How many bytes may wait in all; 0 holds nothing"),
    row(Key::HoldErrors, "hold-errors", "LIST", "loading,masterdown,readonly",
        "Other errors that a command waits out, too, each a proof that it did not run: of loading, masterdown, \
         readonly (only where another server may become the primary), noreplicas, clusterdown, oom; or none"),
    row(Key::ExposureTime, "exposure-time", "DURATION", "1h",
        "How long writes may stay open unsaved; 0 is no limit"),
    row(Key::ExposureChanges, "exposure-changes", "COUNT", "0",
        "How many changes may be unsaved while writes are open; 0 is no limit"),
    row(Key::WhenExposed, "when-exposed", "ACTION", "rearm",
        "When that budget is spent: rearm (writes are refused again), redirect (hand the role to a healthy \
         replica, else rearm) or keep (stay open and go on telling)"),
    row(Key::Escrow, "escrow", "WHEN", "off",
        "When a copy of the data is fetched onto bgsafe's own disk, so that exposure counts from it: off, when-stuck \
         (nothing is left to try, or half of the exposure budget is spent) or always (as soon as a save failed)"),
    row(Key::EscrowDir, "escrow-dir", "DIR", "",
        "Where copies are kept [default: escrow below the state directory]"),
    row(Key::EscrowKeep, "escrow-keep", "COUNT", "2",
        "How many copies are kept; an older one goes when a newer one is whole, so there is room for one more"),
    row(Key::EscrowMaxBytes, "escrow-max-bytes", "SIZE", "0",
        "Largest copy; 0 is what the disk holds but for 64 MiB"),
    row(Key::EscrowEvery, "escrow-every", "DURATION", "10m",
        "Pause between two copies: each is a fork of the server"),
    row(Key::Repair, "repair", "REACH", "redis",
        "What may be cured by itself: off, redis (over the control connection) or host (also kernel \
         settings, limits and the data directory of a server on this machine)"),
    row(Key::AofRepair, "aof-repair", "WAY", "rewrite",
        "When the append-only file refuses after a failed sync and the disk is good again: off, rewrite \
         (BGREWRITEAOF, where that helps) or switch (also appendonly no and yes in one transaction, after a \
         proved save); nothing with repair off"),
    row(Key::RepairHook, "repair-hook", "COMMAND", "",
        "Told of each cause that is found, as JSON on standard input, by sh -c: to enlarge a volume, to \
         page someone [default: nobody]"),
    row(Key::RepairRewrite, "repair-rewrite", "CONSENT", "no",
        "A CONFIG REWRITE from elsewhere wrote the lowered switch into the server's file: yes lets bgsafe write \
         the operator's value over it by another; no only tells the command"),
    row(Key::AlertUrl, "alert-url", "URL", "",
        "Told of each turn of an incident, and when the exposure budget is half and nine tenths spent: \
         http://[user:password@]host[:port]/path, a JSON object by POST [default: nobody]"),
    row(Key::AlertCommand, "alert-command", "COMMAND", "",
        "Told of the same, as JSON on standard input, by sh -c; it has one minute [default: nobody]"),
    row(Key::Rename, "rename", "NAME=NEWNAME", "",
        "A command that the server knows by another name (rename-command), for bgsafe's own control \
         connection; repeat it, or separate with commas [default: none]"),
    row(Key::Sentinels, "sentinels", "HOST:PORT", "",
        "The Sentinels that watch the server, so that an old primary is not opened after a failover; \
         repeat it, or separate with commas, or off [default: as the server shows them]"),
    row(Key::SentinelName, "sentinel-name", "NAME", "mymaster",
        "What the Sentinels given by --sentinels call the group of servers"),
    row(Key::SentinelUser, "sentinel-user", "USER", "",
        "ACL user at the Sentinels [default: none]"),
    row(Key::SentinelPasswordFile, "sentinel-password-file", "FILE", "",
        "File with the password of the Sentinels [default: none is needed]"),
    row(Key::SentinelPolicy, "sentinel-policy", "POLICY", "mitigate-first",
        "When a primary that Sentinel watches cannot save: mitigate-first (open its writes while Sentinel still \
         agrees, so that no failover happens) or prefer-failover (park writes for as long as Sentinel takes)"),
    row(Key::ReplayScripts, "replay-scripts", "WHICH", "declared",
        "Scripts and functions that may be sent again after a refusal: declared (those that declare \
         their flags), all or none"),
    row(Key::GuardReplicas, "guard-replicas", "yes|no", "yes",
        "Lower the switch also on a replica that cannot save and would end itself at its primary's next \
         write (Redis 7.0 and later)"),
    row(Key::StateDir, "state-dir", "DIR", "",
        "Where debts and incident records are kept [default: $STATE_DIRECTORY, else \
         $XDG_STATE_HOME/bgsafe, else /var/lib/bgsafe]"),
    row(Key::Workers, "workers", "COUNT", "",
        "Worker threads [default: half the allowed CPUs, 1 to 4]"),
    row(Key::MaxClients, "max-clients", "COUNT", "10000",
        "Connected clients at the most"),
    row(Key::ClientTimeout, "client-timeout", "DURATION", "0",
        "Close a client that is idle for this long; 0 is never"),
    row(Key::MaxRequestBytes, "max-request-bytes", "SIZE", "512MiB",
        "Longest value in a request; a client that sends a longer one is told so and closed"),
    row(Key::LogFormat, "log-format", "FORMAT", "text",
        "text or json, to standard error"),
    row(Key::LogLevel, "log-level", "LEVEL", "info",
        "off, error, warn, info, debug, trace, or a filter such as info,bgsafe::guard=debug"),
];

impl Key {
    /// Its row.
    pub fn row(self) -> &'static Row {
        &OPTIONS[self as usize]
    }

    /// The environment variable: `BGSAFE_HOLD_TIME`.
    pub fn env(self) -> String {
        format!("BGSAFE_{}", self.row().name.replace('-', "_").to_ascii_uppercase())
    }

    /// The option of this name.
    pub fn named(name: &str) -> Option<Key> {
        OPTIONS.iter().find(|row| row.name == name).map(|row| row.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_their_keys_and_names_are_unique() {
        for (at, row) in OPTIONS.iter().enumerate() {
            assert_eq!(row.key as usize, at, "{}", row.name);
            assert_eq!(Key::named(row.name), Some(row.key));
        }
        assert_eq!(Key::HoldTime.env(), "BGSAFE_HOLD_TIME");
    }
}
