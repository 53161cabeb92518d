//! The layers together: precedence, provenance, refusals, secrets. Each rule of each file is tested
//! beside it; here is what only the whole can show.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layers::{Layer, Origin};
use super::options::{Key, OPTIONS};
use super::*;

/// A machine made of maps.
#[derive(Default)]
pub(super) struct Toy {
    env: HashMap<String, String>,
    files: HashMap<PathBuf, String>,
    sealed: Vec<&'static str>,
    cpus: usize,
}

impl Toy {
    pub(super) fn new() -> Self {
        Toy { cpus: 8, ..Toy::default() }
    }
    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }
    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.into(), text.into());
        self
    }
    fn sealed(mut self, dir: &'static str) -> Self {
        self.sealed.push(dir);
        self
    }
}

impl World for Toy {
    fn env(&self, name: &str) -> Option<String> {
        self.env.get(name).cloned()
    }
    fn read(&self, path: &Path) -> io::Result<String> {
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn writable(&self, dir: &Path) -> bool {
        !self.sealed.iter().any(|sealed| dir.starts_with(sealed))
    }
    fn cpus(&self) -> usize {
        self.cpus
    }
}

fn flags(given: &[(Key, &str)]) -> Layer {
    let mut layer = Layer::default();
    for (key, text) in given {
        layer.set(*key, key.split(text), Origin::Flag(*key));
    }
    layer
}

pub(super) fn built(given: &[(Key, &str)], toy: &Toy) -> Loaded {
    load(flags(given), None, toy).unwrap_or_else(|e| panic!("{given:?}: {e}"))
}

fn refused(given: &[(Key, &str)], toy: &Toy) -> String {
    load(flags(given), None, toy).expect_err("must be refused").to_string()
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let Loaded { config, warnings, .. } = built(&[], &Toy::new());
    let expected = Config {
        listen: vec![Address::Tcp("127.0.0.1:6380".into())],
        upstream: Address::Tcp("127.0.0.1:6379".into()),
        credentials: None,
        admin: Some("127.0.0.1:9380".parse().expect("an address")),
        policy: Policy::Mitigate,
        hold_time: Duration::from_secs(5),
        hold_bytes: 64 << 20,
        exposure_time: Duration::from_secs(3600),
        exposure_changes: 0,
        when_exposed: WhenExposed::Rearm,
        escrow: Escrow::Off,
        escrow_dir: None,
        escrow_keep: 2,
        escrow_max_bytes: 0,
        escrow_every: Duration::from_secs(600),
        repair: Repair::Redis,
        repair_rewrite: false,
        aof_repair: AofRepair::Rewrite,
        repair_hook: None,
        alert_url: None,
        alert_command: None,
        renames: rename::Renames::default(),
        sentinels: Sentinels {
            seek: Seek::Discover,
            addresses: Vec::new(),
            name: "mymaster".into(),
            credentials: None,
            follow: false,
            policy: SentinelPolicy::MitigateFirst,
        },
        hold_errors: crate::resp::error::held_by_default(),
        replay_scripts: ReplayScripts::Declared,
        guard_replicas: true,
        state_dir: "/var/lib/bgsafe".into(),
        workers: 4,
        max_clients: 10_000,
        client_timeout: Duration::ZERO,
        max_request_bytes: 512 << 20,
        log_json: false,
        log_level: "info".into(),
    };
    assert_eq!(config, expected);
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn sentinels_are_named_switched_off_or_left_to_be_found() {
    let toy = Toy::new().file("/pass", "hush\n");
    let read = |given: &[(Key, &str)]| built(given, &toy).config.sentinels;
    let named = read(&[
        (Key::Sentinels, "h1,h2:7"),
        (Key::SentinelName, "cache"),
        (Key::SentinelPasswordFile, "/pass"),
    ]);
    assert_eq!((named.seek, named.name.as_str()), (Seek::Named, "cache"));
    assert_eq!(named.addresses, ["h1:26379", "h2:7"]);
    assert_eq!(named.credentials.map(|c| c.password), Some(Secret("hush".into())));
    assert_eq!(read(&[(Key::Sentinels, "off")]).seek, Seek::Off);
    let prefers = read(&[(Key::SentinelPolicy, "prefer-failover")]);
    assert_eq!((prefers.seek, prefers.policy), (Seek::Discover, SentinelPolicy::PreferFailover));
    let url = "redis+sentinel://:hush@h1,h2:7/cache";
    let built = built(&[(Key::Upstream, url)], &toy).config;
    let Sentinels { seek, addresses, name, follow, .. } = built.sentinels;
    assert_eq!((seek, follow, name.as_str()), (Seek::Named, true, "cache"));
    assert_eq!(addresses, ["h1:26379", "h2:7"]);
    assert!(built.credentials.is_some(), "of the servers");
    for (given, says) in [
        (vec![(Key::Upstream, url), (Key::Sentinels, "h3")], "both name Sentinels"),
        (vec![(Key::Sentinels, "off,h1")], "named and off at once"),
        (vec![(Key::Sentinels, "h1:x")], "port must be a number"),
        (vec![(Key::SentinelUser, "u")], "needs a password"),
        (vec![(Key::SentinelPolicy, "never")], "not one of mitigate-first, prefer-failover"),
    ] {
        let error = refused(&given, &toy);
        assert!(error.contains(says), "{given:?}: {error}");
    }
}

#[test]
fn the_example_file_parses_and_says_the_defaults() {
    let text = include_str!("../../bgsafe.example.toml");
    let plain = built(&[], &Toy::new()).config;
    assert_eq!(built(&[], &Toy::new().file("./bgsafe.toml", text)).config, plain);
    // And with every comment mark before a key taken off: what is shown there is sound too.
    let open: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ").and_then(|rest| Some((rest, rest.split_once(" = ")?.0))) {
            Some((rest, name)) if Key::named(name).is_some() => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let toy = Toy::new().file("./bgsafe.toml", &open).file("/run/secrets/bgsafe-control", "hush\n");
    let toy = toy.file("/run/secrets/bgsafe-sentinel", "hush\n");
    let Loaded { config, settings, .. } = built(&[], &toy);
    assert!(settings.iter().all(|s| s.origin.starts_with("file ./bgsafe.toml:")), "{settings:?}");
    assert_eq!(
        Config {
            credentials: None,
            escrow_dir: None,
            repair_hook: None,
            alert_url: None,
            alert_command: None,
            renames: rename::Renames::default(),
            sentinels: plain.sentinels.clone(),
            workers: plain.workers,
            ..config
        },
        plain
    );
}

#[test]
fn flag_wins_over_environment_over_file_over_default() {
    let toy = Toy::new()
        .file("./bgsafe.toml", "hold-time = \"3s\"\nhold-bytes = \"3MiB\"\nworkers = 3\n")
        .file("/etc/bgsafe/bgsafe.toml", "policy = \"observe\"\n")
        .env("BGSAFE_HOLD_TIME", "2s")
        .env("BGSAFE_HOLD_BYTES", "2MiB")
        .env("BGSAFE_POLICY", "")
        .env("BGSAFE_PORT", "tcp://10.0.0.1:6380");
    let Loaded { config, settings, .. } = built(&[(Key::HoldTime, "1s")], &toy);
    let origin = |key: Key| settings[key as usize].origin.as_str();
    let seen = (config.hold_time.as_secs(), config.hold_bytes, config.workers, config.policy);
    assert_eq!(seen, (1, 2 << 20, 3, Policy::Mitigate));
    assert_eq!(origin(Key::HoldTime), "flag --hold-time");
    assert_eq!(origin(Key::HoldBytes), "environment BGSAFE_HOLD_BYTES");
    assert_eq!(origin(Key::Workers), "file ./bgsafe.toml:3:11");
    assert_eq!(origin(Key::Policy), "default");
}

#[test]
fn a_named_file_is_read_instead_of_the_usual_ones_and_must_exist() {
    let toy = Toy::new().file("./bgsafe.toml", "workers = 1\n").file("/else.toml", "workers = 2\n");
    let named = |path: &str| load(Layer::default(), Some(Path::new(path)), &toy);
    assert_eq!(named("/else.toml").map(|l| l.config.workers), Ok(2));
    assert!(named("/none.toml").expect_err("missing").to_string().contains("/none.toml: "));
    let toy = toy.env("BGSAFE_CONFIG", "/else.toml");
    assert_eq!(built(&[], &toy).config.workers, 2);
}

#[test]
fn every_refusal_names_its_side_and_the_cure() {
    let toy = Toy::new().env("BGSAFE_HOLD_BYTES", "1M");
    assert_eq!(
        refused(&[], &toy),
        "configuration: environment BGSAFE_HOLD_BYTES: `M` is no unit of size; use B, KiB, MiB, GiB, KB, MB or GB"
    );
    let toy = Toy::new().file("./bgsafe.toml", "\n policy = \"redirekt\"");
    assert_eq!(
        refused(&[], &toy),
        "configuration: file ./bgsafe.toml:2:11: policy: `redirekt` is not one of mitigate, hold, \
         observe, redirect"
    );
    let table: &[(&[(Key, &str)], &str)] = &[
        (&[(Key::Policy, "both")], "flag --policy: `both` is not one of mitigate, hold, observe, redirect"),
        (&[(Key::WhenExposed, "redirekt")], "is not one of rearm, keep, redirect"),
        (&[(Key::Upstream, "rediss://h")], "flag --upstream: `rediss://`: this version does not speak TLS"),
        (
            &[(Key::AlertUrl, "https://:hush@h/")],
            "flag --alert-url: `https://`: this version does not speak TLS",
        ),
        (&[(Key::Rename, "GET=hush")], "flag --rename: GET is no command bgsafe sends; those are ACL"),
        (&[(Key::Rename, "CONFIG=hush,CONFIG=hush2")], "rename names CONFIG twice"),
        (&[(Key::HoldErrors, "loading,misconf")], "not one of loading, masterdown"),
        (&[(Key::ReplayScripts, "some")], "not one of declared, all, none"),
        (&[(Key::Admin, "9380")], "write 127.0.0.1:9380, or off"),
        (&[(Key::LogFormat, "xml")], "not one of text, json"),
        (&[(Key::LogLevel, "verbos")], "`verbos` is no level"),
        (&[(Key::LogLevel, "bgsafe=loud")], "is no level"),
        (&[(Key::HoldTime, "5")], "flag --hold-time: `5` has no unit; write 5s or 5ms"),
        (&[(Key::Workers, "0")], "workers must be"),
        (&[(Key::Workers, "many")], "not a whole number"),
        (&[(Key::MaxClients, "0")], "max-clients must be"),
        (&[(Key::MaxRequestBytes, "1KiB")], "at least 1MiB"),
        (&[(Key::Listen, "a:1,a:1")], "twice"),
        (&[(Key::Listen, "a:1,")], "flag --listen: the port is missing"),
        (&[(Key::Listen, "127.0.0.1:6379")], "call itself"),
        (&[(Key::Listen, "127.0.0.1:9380")], "listen and admin"),
        (&[(Key::Policy, "hold"), (Key::HoldTime, "0")], "holds nothing"),
        (&[(Key::Policy, "hold"), (Key::HoldBytes, "0")], "holds nothing"),
        (&[(Key::ClientTimeout, "5s")], "closed as idle"),
        (&[(Key::ExposureTime, "10ms")], "less than 1s"),
        (&[(Key::ControlUser, "u")], "no password; give --control-password-file"),
        (&[(Key::Upstream, "redis://hush@h")], "write a colon before it"),
        (&[(Key::ControlPasswordFile, "/none")], "flag --control-password-file: /none: "),
        (&[(Key::StateDir, "")], "state-dir is empty"),
    ];
    for (given, says) in table {
        let error = refused(given, &Toy::new());
        assert!(error.starts_with("configuration: ") && error.contains(says), "{given:?}: {error}");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn unknown_keys_are_refused_with_line_and_column() {
    let toy = Toy::new().file("./bgsafe.toml", "workers = 1\n\nhold_time = \"5s\"\n");
    assert_eq!(
        refused(&[], &toy),
        "configuration: ./bgsafe.toml:3:1: unknown key `hold_time`; did you mean `hold-time`?"
    );
}

#[test]
fn the_password_comes_from_the_file_then_the_url_then_the_environment() {
    let url = (Key::Upstream, "redis://u:from-url@h");
    let file = (Key::ControlPasswordFile, "/p");
    let toy = Toy::new().file("/p", "from-file\r\n").env("REDISCLI_AUTH", "from-env");
    type Row<'a> = (&'a [(Key, &'a str)], Option<&'a str>, &'a str);
    let table: &[Row] = &[
        (&[], None, "from-env"),
        (&[url], Some("u"), "from-url"),
        (&[url, file], Some("u"), "from-file"),
        (&[url, (Key::ControlUser, "me")], Some("me"), "from-url"),
        (&[(Key::Upstream, "redis://u@h")], Some("u"), "from-env"),
    ];
    for (given, user, password) in table {
        let found = built(given, &toy).config.credentials.expect("credentials");
        assert_eq!((found.user.as_deref(), found.password.0.as_str()), (*user, *password), "{given:?}");
    }
    assert!(refused(&[file], &Toy::new().file("/p", "\n")).contains("/p is empty"));
}

#[test]
fn no_face_shows_a_password_and_the_command_line_is_warned_of() {
    let toy = Toy::new().file("/p", "hush-file");
    let given = [(Key::Upstream, "redis://u:hush-url@h"), (Key::ControlPasswordFile, "/p")];
    let loaded = built(&given, &toy);
    let faces = format!("{loaded:?} {}", loaded.text());
    assert!(!faces.contains("hush"), "{faces}");
    assert!(loaded.text().contains("upstream = \"redis://u:***@h:6379\""), "{}", loaded.text());
    assert!(loaded.warnings.iter().any(|w| w.contains("ps")), "{:?}", loaded.warnings);
    let quiet = built(&[], &Toy::new().env("BGSAFE_UPSTREAM", "redis://:hush@h"));
    assert_eq!(quiet.warnings, Vec::<String>::new());
}

#[test]
fn what_check_config_prints_is_a_file_that_gives_the_same() {
    let toy = Toy::new().env("XDG_STATE_HOME", "/x").env("BGSAFE_LISTEN", "a:1, unix:/b \"c\".sock");
    let first = built(&[(Key::HoldTime, "1500ms"), (Key::HoldBytes, "1000")], &toy);
    let again = built(&[], &Toy::new().file("./bgsafe.toml", &first.text()));
    assert_eq!(first.config, again.config, "{}", first.text());
    assert_eq!(first.text().lines().count(), OPTIONS.len() + 1);
}

#[test]
fn the_state_directory_is_the_first_that_can_be() {
    let home = || Toy::new().env("HOME", "/home/u");
    let table = [
        (home().env("STATE_DIRECTORY", "/s:/t").env("XDG_STATE_HOME", "/x"), "/s", 0),
        (home().env("XDG_STATE_HOME", "/x"), "/x/bgsafe", 0),
        (home().env("XDG_STATE_HOME", "relative"), "/var/lib/bgsafe", 0),
        (home(), "/var/lib/bgsafe", 0),
        (home().sealed("/var"), "/home/u/.local/state/bgsafe", 1),
    ];
    for (toy, dir, warnings) in table {
        let loaded = built(&[], &toy);
        assert_eq!(loaded.config.state_dir, Path::new(dir));
        assert_eq!(loaded.warnings.len(), warnings, "{:?}", loaded.warnings);
    }
    assert!(refused(&[], &Toy::new().sealed("/")).contains("give --state-dir"));
}

#[test]
fn half_the_cpus_work_but_never_none_and_never_more_than_four() {
    for (cpus, workers) in [(1, 1), (2, 1), (4, 2), (7, 3), (64, 4)] {
        assert_eq!(built(&[], &Toy { cpus, ..Toy::new() }).config.workers, workers, "{cpus}");
    }
}

#[test]
fn status_finds_the_admin_address_where_run_would_put_it() {
    let find = |given: &[(Key, &str)], toy: &Toy| admin_address(flags(given), None, toy);
    let toy = Toy::new().file("./bgsafe.toml", "admin = \"10.0.0.1:1\"\nhold-time = \"never\"");
    assert_eq!(find(&[], &Toy::new()), Ok("127.0.0.1:9380".into()));
    assert_eq!(find(&[], &toy), Ok("10.0.0.1:1".into()));
    assert_eq!(find(&[(Key::Admin, "http://proxy.local:2/")], &toy), Ok("proxy.local:2".into()));
    assert!(find(&[(Key::Admin, "off")], &toy).expect_err("off").to_string().contains("nobody answers"));
}

#[test]
fn dangerous_but_allowed_is_told() {
    let loud = [(Key::Admin, "0.0.0.0:9380"), (Key::ExposureTime, "0")];
    let warnings = built(&loud, &Toy::new()).warnings;
    assert!(warnings.len() == 2 && warnings[0].contains("firewall") && warnings[1].contains("for ever"));
}

#[test]
fn alerts_and_renames_are_shown_without_their_secrets() {
    let toy = Toy::new().env("BGSAFE_RENAME", "config=cfg-hush,BGSAVE=hush-it");
    let loaded = built(&[(Key::AlertUrl, "http://u:hush@h:9093/hook/hush")], &toy);
    let text = loaded.text();
    assert!(text.contains("alert-url = \"http://***@h:9093/***\""), "{text}");
    assert!(text.contains("rename = [\"CONFIG=***\", \"BGSAVE=***\"]"), "{text}");
    assert!(!format!("{text}{loaded:?}").contains("hush"));
}

#[test]
fn a_hold_too_short_for_a_second_save_is_told_where_only_holding_helps() {
    for (policy, hold, told) in [("hold", "5s", true), ("hold", "8s", false), ("mitigate", "5s", false)] {
        let loaded = built(&[(Key::Policy, policy), (Key::HoldTime, hold)], &Toy::new());
        assert_eq!(loaded.warnings.iter().any(|w| w == HOLD_TOO_SHORT), told, "{policy} {hold}");
    }
}
