//! Words into one [`Config`], and the limits that must agree. Refuses to know how words are written
//! in a flag, a variable or a file.
//!
//! Invariant: a [`Config`] leaves here only when every rule of [`RULES`] holds.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::posture::UnreadySet;
use crate::resp::error::{unready_named, unready_names};

use super::layers::{Layer, Origin};
use super::options::Key;
use super::rename::{self, Renames};
use super::units::{count, duration, size};
use super::url::{self, Upstream};
use super::{
    Address, AofRepair, Config, ConfigError, Credentials, Escrow, Loaded, Policy, Repair, ReplayScripts,
    Secret, Seek, SentinelPolicy, Sentinels, Server, WhenExposed, World, file, show,
};
use super::{agree, alert};

/// Looked for, in this order, when no `--config` is given.
const FILES: [&str; 2] = ["./bgsafe.toml", "/etc/bgsafe/bgsafe.toml"];

/// The smallest `max-request-bytes`: that of redis-server's own `proto-max-bulk-len` (config.c).
const REQUEST_BYTES_MIN: u64 = 1 << 20;

/// With writes only parked, nothing but a save opens them; after a failed one the next is tried 6 s later.
pub const HOLD_FOR_TWO: Duration = Duration::from_secs(7);

/// What to do when a command waits for less than that.
pub const HOLD_TOO_SHORT: &str = "writes can only be held, and a second save is tried 6 s after a first that failed: \
     raise hold-time to 8s or more so that a second save can be tried";

/// A word that may stand for a value: now, or in a later version.
enum Offer<T> {
    Is(T),
    #[allow(dead_code, reason = "for the next word that is promised before it is kept")]
    NotYet(&'static str),
}
use Offer::{Is, NotYet};

const POLICIES: [(&str, Offer<Policy>); 4] = [
    ("mitigate", Is(Policy::Mitigate)),
    ("hold", Is(Policy::Hold)),
    ("observe", Is(Policy::Observe)),
    ("redirect", Is(Policy::Redirect)),
];
const WHEN_EXPOSED: [(&str, Offer<WhenExposed>); 3] = [
    ("rearm", Is(WhenExposed::Rearm)),
    ("keep", Is(WhenExposed::Keep)),
    ("redirect", Is(WhenExposed::Redirect)),
];
const ESCROWS: [(&str, Offer<Escrow>); 3] =
    [("off", Is(Escrow::Off)), ("when-stuck", Is(Escrow::WhenStuck)), ("always", Is(Escrow::Always))];
const REPAIRS: [(&str, Offer<Repair>); 3] =
    [("redis", Is(Repair::Redis)), ("off", Is(Repair::Off)), ("host", Is(Repair::Host))];
const SENTINEL_POLICIES: [(&str, Offer<SentinelPolicy>); 2] = [
    ("mitigate-first", Is(SentinelPolicy::MitigateFirst)),
    ("prefer-failover", Is(SentinelPolicy::PreferFailover)),
];
const AOF_REPAIRS: [(&str, Offer<AofRepair>); 3] =
    [("rewrite", Is(AofRepair::Rewrite)), ("switch", Is(AofRepair::Switch)), ("off", Is(AofRepair::Off))];
const REPLAY_SCRIPTS: [(&str, Offer<ReplayScripts>); 3] = [
    ("declared", Is(ReplayScripts::Declared)),
    ("all", Is(ReplayScripts::All)),
    ("none", Is(ReplayScripts::None)),
];
const YES_NO: [(&str, Offer<bool>); 2] = [("yes", Is(true)), ("no", Is(false))];
const LOG_FORMATS: [(&str, Offer<bool>); 2] = [("text", Is(false)), ("json", Is(true))];
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

type Rule = (fn(&Config) -> bool, &'static str);

/// What must hold between settings, and what to do when it does not.
#[rustfmt::skip]
const RULES: [Rule; 12] = [
    (|c| c.listen.iter().enumerate().all(|(at, a)| !c.listen[..at].contains(a)),
        "listen names one address twice; remove one"),
    (|c| !c.listen.contains(&c.upstream),
        "listen and upstream are the same address, so bgsafe would call itself; change one"),
    (|c| c.admin.is_none_or(|a| a.port() == 0 || !c.listen.contains(&Address::Tcp(a.to_string()))),
        "listen and admin are the same address; change one, or set admin to off"),
    (|c| !matches!(c.policy, Policy::Hold | Policy::Redirect) || (!c.hold_time.is_zero() && c.hold_bytes > 0),
        "policy hold or redirect with a hold-time or hold-bytes of 0 holds nothing; raise it, or choose policy observe"),
    (|c| c.client_timeout.is_zero() || c.client_timeout > c.hold_time,
        "client-timeout is not longer than hold-time, so a client whose command waits would be closed as \
         idle; raise client-timeout, or set it to 0"),
    (|c| c.exposure_time.is_zero() || c.exposure_time >= Duration::from_secs(1),
        "exposure-time is less than 1s, too short for any save to be proved; raise it, or set it to 0 for \
         no limit"),
    (|c| (1..=1000).contains(&c.escrow_keep), "escrow-keep must be from 1 to 1000; to keep none, set escrow to off"),
    (|c| c.escrow_every >= Duration::from_secs(1),
        "escrow-every is less than 1s, and each copy is a fork of the server; raise it"),
    (|c| (1..=256).contains(&c.workers), "workers must be from 1 to 256"),
    (|c| (1..=1_000_000).contains(&c.max_clients), "max-clients must be from 1 to 1000000"),
    (|c| c.max_request_bytes >= REQUEST_BYTES_MIN,
        "max-request-bytes must be at least 1MiB, as the server's own proto-max-bulk-len"),
    (|c| !c.state_dir.as_os_str().is_empty(), "state-dir is empty; name a directory"),
];

/// Merges the layers and builds the [`Config`]. `file` is `--config`.
pub fn load(flags: Layer, file: Option<&Path>, world: &dyn World) -> Result<Loaded, ConfigError> {
    let words = Words(merge(flags, file, world)?);
    let mut warnings = Vec::new();

    let server = words.need(Key::Upstream, url::upstream)?;
    let credentials = credentials(&words, &server, world, &mut warnings)?;
    let (state_dir, state_origin) = state_dir(&words, world, &mut warnings)?;
    let workers = match words.maybe(Key::Workers, |text| usize_of(count(text)?))? {
        Some(workers) => workers,
        None => (world.cpus() / 2).clamp(1, 4),
    };
    let config = Config {
        listen: words.all(Key::Listen, url::listen)?,
        upstream: server.address.clone(),
        credentials,
        admin: words.need(Key::Admin, admin)?,
        policy: words.need(Key::Policy, |text| choose(&POLICIES, text))?,
        hold_time: words.need(Key::HoldTime, duration)?,
        hold_bytes: words.need(Key::HoldBytes, size)?,
        hold_errors: words.need(Key::HoldErrors, hold_errors)?,
        exposure_time: words.need(Key::ExposureTime, duration)?,
        exposure_changes: words.need(Key::ExposureChanges, count)?,
        when_exposed: words.need(Key::WhenExposed, |text| choose(&WHEN_EXPOSED, text))?,
        escrow: words.need(Key::Escrow, |text| choose(&ESCROWS, text))?,
        escrow_dir: words.maybe(Key::EscrowDir, |text| Ok(PathBuf::from(text)))?,
        escrow_keep: words.need(Key::EscrowKeep, |text| usize_of(count(text)?))?,
        escrow_max_bytes: words.need(Key::EscrowMaxBytes, size)?,
        escrow_every: words.need(Key::EscrowEvery, duration)?,
        repair: words.need(Key::Repair, |text| choose(&REPAIRS, text))?,
        repair_rewrite: words.need(Key::RepairRewrite, |text| choose(&YES_NO, text))?,
        aof_repair: words.need(Key::AofRepair, |text| choose(&AOF_REPAIRS, text))?,
        repair_hook: words.maybe(Key::RepairHook, |text| Ok(text.to_owned()))?,
        alert_url: words.maybe(Key::AlertUrl, alert::target)?,
        alert_command: words.maybe(Key::AlertCommand, |text| Ok(text.to_owned()))?,
        renames: renames(&words)?,
        sentinels: sentinels(&words, &server, world)?,
        replay_scripts: words.need(Key::ReplayScripts, |text| choose(&REPLAY_SCRIPTS, text))?,
        guard_replicas: words.need(Key::GuardReplicas, |text| choose(&YES_NO, text))?,
        state_dir,
        workers,
        max_clients: words.need(Key::MaxClients, |text| usize_of(count(text)?))?,
        client_timeout: words.need(Key::ClientTimeout, duration)?,
        max_request_bytes: words.need(Key::MaxRequestBytes, size)?,
        log_json: words.need(Key::LogFormat, |text| choose(&LOG_FORMATS, text))?,
        log_level: words.need(Key::LogLevel, log_level)?,
    };
    if let Some((_, broken)) = RULES.iter().find(|(holds, _)| !holds(&config)) {
        return Err(ConfigError((*broken).to_owned()));
    }
    if config.admin.is_some_and(|at| !at.ip().is_loopback()) {
        warnings.push(
            "admin listens beyond this machine and asks nobody for a password: keep it behind a \
                       firewall, or use 127.0.0.1"
                .to_owned(),
        );
    }
    warnings.extend(agree::unwise(&config));
    let settings = show::settings(&config, &server, &words.0, state_origin);
    Ok(Loaded { config, settings, warnings })
}

/// Where `bgsafe status` finds a running bgsafe: `host:port`. Reads the same layers as `run`, but
/// judges this one option only, so that a broken file elsewhere does not hide a running proxy.
pub fn admin_address(flags: Layer, file: Option<&Path>, world: &dyn World) -> Result<String, ConfigError> {
    Words(merge(flags, file, world)?).need(Key::Admin, |text| match text {
        "off" => Err("the admin address is off, so nobody answers; start bgsafe with admin = \
                      \"127.0.0.1:9380\", or name another address"
            .to_owned()),
        text => url::host_port(text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/'), None),
    })
}

/// Whom `bgsafe doctor` looks at, as whom, and warnings. Reads the same layers as `run`, but judges these options
/// only. A URL that was typed stands alone: what file or environment keep for another server is not sent to it,
/// but for REDISCLI_AUTH, which redis-cli would send too.
pub fn server(flags: Layer, file: Option<&Path>, world: &dyn World) -> Result<Server, ConfigError> {
    let alone = flags.given(Key::Upstream).is_some() && file.is_none();
    let words = Words(match alone {
        true => flags.over(Layer::defaults()),
        false => merge(flags, file, world)?,
    });
    let mut warnings = Vec::new();
    let server = words.need(Key::Upstream, url::upstream)?;
    let credentials = credentials(&words, &server, world, &mut warnings)?;
    // Read only, and only if it is there: that nobody could write one is no fault here.
    let state_dir = state_dir(&words, world, &mut Vec::new()).ok().map(|(dir, _)| dir);
    if server.group.is_some() {
        let cure = "give the address of the one to be looked at: redis://host:6379";
        return Err(ConfigError(format!("a group behind Sentinel is several servers; {cure}")));
    }
    Ok(Server { address: server.address, credentials, renames: renames(&words)?, state_dir, warnings })
}

fn renames(words: &Words) -> Result<Renames, ConfigError> {
    Renames::new(words.all(Key::Rename, rename::pair)?).map_err(ConfigError)
}

fn merge(flags: Layer, file: Option<&Path>, world: &dyn World) -> Result<Layer, ConfigError> {
    let named = file.map(Path::to_path_buf);
    let named = named.or_else(|| world.env("BGSAFE_CONFIG").filter(|p| !p.is_empty()).map(PathBuf::from));
    let from_file = match named {
        Some(path) => match world.read(&path) {
            Ok(text) => file::layer(&path.to_string_lossy(), &text)?,
            Err(e) => return Err(ConfigError(format!("{}: {e}; check --config", path.display()))),
        },
        None => first_file(world)?,
    };
    Ok(flags.over(Layer::from_env(world)).over(from_file).over(Layer::defaults()))
}

fn first_file(world: &dyn World) -> Result<Layer, ConfigError> {
    for path in FILES {
        match world.read(Path::new(path)) {
            Ok(text) => return file::layer(path, &text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                let cure = "make it readable, or name another file with --config";
                return Err(ConfigError(format!("{path}: {e}; {cure}")));
            }
        }
    }
    Ok(Layer::default())
}

/// The merged layers, read option by option; every complaint names who said the word.
struct Words(Layer);

impl Words {
    fn maybe<T>(
        &self,
        key: Key,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        match self.0.given(key) {
            Some(_) => Ok(self.all(key, parse)?.pop()),
            None => Ok(None),
        }
    }

    fn need<T>(&self, key: Key, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        Ok(self.maybe(key, parse)?.expect("the table gives this option a default"))
    }

    fn all<T>(&self, key: Key, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, ConfigError> {
        let Some(given) = self.0.given(key) else { return Ok(Vec::new()) };
        if given.words.is_empty() {
            return Err(ConfigError(format!("{}: the list is empty; name at least one", given.origin)));
        }
        let by = match &given.origin {
            origin @ (Origin::File(..) | Origin::Default) => format!("{origin}: {}", key.row().name),
            origin @ (Origin::Flag(_) | Origin::Env(_)) => origin.to_string(),
        };
        let one = |word: &String| parse(word).map_err(|why| ConfigError(format!("{by}: {why}")));
        given.words.iter().map(one).collect()
    }
}

/// Password: the file, else the URL, else `REDISCLI_AUTH`, which redis-cli reads too.
fn credentials(
    words: &Words,
    server: &Upstream,
    world: &dyn World,
    warnings: &mut Vec<String>,
) -> Result<Option<Credentials>, ConfigError> {
    let text = |text: &str| Ok(text.to_owned());
    let from_file = words.maybe(Key::ControlPasswordFile, |path| password(path, world))?;
    if server.password.is_some() {
        let by = words.0.given(Key::Upstream).map(|given| &given.origin);
        if matches!(by, Some(Origin::Flag(_))) {
            warnings.push(
                "a password on the command line is seen by every user of this machine (ps): use \
                           --control-password-file or REDISCLI_AUTH"
                    .to_owned(),
            );
        }
        if from_file.is_some() {
            warnings.push("control-password-file overrides the password in the upstream URL".to_owned());
        }
    }
    let from_env = || world.env("REDISCLI_AUTH").filter(|text| !text.is_empty()).map(Secret);
    let password = from_file.or_else(|| server.password.clone()).or_else(from_env);
    let user = words.maybe(Key::ControlUser, text)?.or_else(|| server.user.clone());
    match (user, password) {
        (user, Some(password)) => Ok(Some(Credentials { user, password })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(ConfigError(
            "the control connection has a user and no password; give --control-password-file or REDISCLI_AUTH, \
             or, when the word before @ in the URL was the password, write a colon before it: \
             redis://:password@host"
                .to_owned(),
        )),
    }
}

/// The first line of a file.
fn password(path: &str, world: &dyn World) -> Result<Secret, String> {
    let text =
        world.read(Path::new(path)).map_err(|e| format!("{path}: {e}; create it, readable by bgsafe"))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    match line.strip_suffix('\r').unwrap_or(line) {
        "" => Err(format!("{path} is empty; write the password into it")),
        password => Ok(Secret(password.to_owned())),
    }
}

fn sentinels(words: &Words, server: &Upstream, world: &dyn World) -> Result<Sentinels, ConfigError> {
    let text = |text: &str| Ok(text.to_owned());
    let given = words.all(Key::Sentinels, text)?;
    let off = given.iter().any(|word| word == "off");
    let seek = match (off, given.is_empty()) {
        (true, _) if given.len() > 1 => {
            return Err(ConfigError("sentinels are named and off at once; keep one of both".into()));
        }
        (true, _) => Seek::Off,
        (false, true) => Seek::Discover,
        (false, false) => Seek::Named,
    };
    if server.group.is_some() && seek != Seek::Discover {
        return Err(ConfigError("upstream and sentinels both name Sentinels; remove sentinels".into()));
    }
    let addresses = match seek {
        Seek::Named => words.all(Key::Sentinels, |at| url::host_port(at, Some(url::SENTINEL_PORT)))?,
        Seek::Off | Seek::Discover => Vec::new(),
    };
    let user = words.maybe(Key::SentinelUser, text)?;
    let password = words.maybe(Key::SentinelPasswordFile, |path| password(path, world))?;
    let credentials = match (user, password) {
        (user, Some(password)) => Some(Credentials { user, password }),
        (None, None) => None,
        (Some(_), None) => {
            return Err(ConfigError("sentinel-user needs a password; give --sentinel-password-file".into()));
        }
    };
    let name = words.need(Key::SentinelName, text)?;
    let follow = server.group.is_some();
    let (seek, addresses, name) = match server.group.clone() {
        Some(group) => (Seek::Named, group.sentinels, group.name),
        None => (seek, addresses, name),
    };
    Ok(Sentinels {
        seek,
        addresses,
        name,
        credentials,
        follow,
        policy: words.need(Key::SentinelPolicy, |text| choose(&SENTINEL_POLICIES, text))?,
    })
}

/// The directory, and how the default was found.
fn state_dir(
    words: &Words,
    world: &dyn World,
    warnings: &mut Vec<String>,
) -> Result<(PathBuf, Option<&'static str>), ConfigError> {
    if let Some(dir) = words.maybe(Key::StateDir, |text| Ok(PathBuf::from(text)))? {
        return Ok((dir, None));
    }
    let absolute = |name: &str| world.env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // systemd separates several state directories by colons.
    let systemd = world.env("STATE_DIRECTORY").and_then(|all| all.split(':').next().map(PathBuf::from));
    if let Some(dir) = systemd.filter(|path| path.is_absolute()) {
        return Ok((dir, Some("default, $STATE_DIRECTORY")));
    }
    if let Some(dir) = absolute("XDG_STATE_HOME") {
        return Ok((dir.join("bgsafe"), Some("default, $XDG_STATE_HOME")));
    }
    let system = PathBuf::from("/var/lib/bgsafe");
    if world.writable(&system) {
        return Ok((system, Some("default")));
    }
    match absolute("HOME").map(|home| home.join(".local/state/bgsafe")).filter(|dir| world.writable(dir)) {
        Some(dir) => {
            warnings.push(format!("/var/lib/bgsafe cannot be written, so state is kept in {}", dir.display()));
            Ok((dir, Some("default, /var/lib/bgsafe cannot be written")))
        }
        None => Err(ConfigError(
            "neither /var/lib/bgsafe nor ~/.local/state/bgsafe can be written, and what bgsafe owes the server \
             must survive a crash; give --state-dir a directory on a disk"
                .to_owned(),
        )),
    }
}

fn hold_errors(text: &str) -> Result<UnreadySet, String> {
    if text == "none" {
        return Ok(UnreadySet::NONE);
    }
    let named = |code: &str| {
        unready_named(code.trim()).ok_or_else(|| {
            let known: Vec<_> = unready_names(|_| true).collect();
            format!("`{code}` is not one of {}, none", known.join(", "))
        })
    };
    let list: Result<Vec<_>, _> = text.split(',').map(named).collect();
    Ok(UnreadySet::of(&list?))
}

fn choose<T: Copy>(table: &[(&str, Offer<T>)], word: &str) -> Result<T, String> {
    let offered = || {
        let words: Vec<_> =
            table.iter().filter(|(_, offer)| matches!(offer, Is(_))).map(|(word, _)| *word).collect();
        words.join(", ")
    };
    match table.iter().find(|(known, _)| *known == word) {
        Some((_, Is(value))) => Ok(*value),
        Some((_, NotYet(why))) => Err(format!("`{word}`: {why}; use one of {}", offered())),
        None => Err(format!("`{word}` is not one of {}", offered())),
    }
}

fn admin(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    let ip = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    ip.parse().map(Some).map_err(|_| format!("`{text}` is no ip:port; write 127.0.0.1:9380, or off"))
}

/// `EnvFilter` takes any bare word for a target and then logs everything of it: a misspelt level
/// would be silence. So a bare word must be a level here.
fn log_level(text: &str) -> Result<String, String> {
    let wrong = || {
        format!(
            "`{text}` is no level; use {}, or a filter such as info,bgsafe::guard=debug",
            LEVELS.join(", ")
        )
    };
    let bare = text.split(',').map(str::trim).filter(|part| !part.contains('='));
    let sound = bare.collect::<HashSet<_>>().iter().all(|part| LEVELS.contains(part));
    match sound && EnvFilter::try_new(text).is_ok() {
        true => Ok(text.to_owned()),
        false => Err(wrong()),
    }
}

fn usize_of(n: u64) -> Result<usize, String> {
    usize::try_from(n).map_err(|_| format!("{n} is too large"))
}
