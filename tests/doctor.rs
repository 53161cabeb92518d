//! `bgsafe doctor` against real servers, as a shell sees it: words in, exit code and two streams out.
//!
//! Invariant: `--fix` goes with `--only`, so that no test ever changes the machine it runs on.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use assert_cmd::Command;
use bgsafe::testing::client::Direct;
use bgsafe::testing::faults::Fault;
use bgsafe::testing::find::for_tests;
use bgsafe::testing::proxy::Proxy;
use bgsafe::testing::server::{Options, Server, we_are_root};
use serde_json::Value;

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}{}", self.out, self.err))
    }

    fn all(&self) -> String {
        format!("exit {}\n{}{}", self.code, self.out, self.err)
    }
}

/// `bgsafe doctor` with an environment of its own and no terminal.
fn doctor(args: &[&str]) -> Ran {
    doctor_with(args, &[])
}

fn doctor_with(args: &[&str], env: &[(&str, &str)]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bgsafe"));
    command.arg("doctor").args(args).current_dir(dir.path()).env_clear().env("HOME", dir.path());
    command.envs(env.iter().copied()).timeout(Duration::from_secs(60));
    let output = command.output().expect("bgsafe starts");
    Ran {
        code: output.status.code().expect("it exits by itself"),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn server(options: Options) -> Server {
    let program = for_tests().unwrap_or_else(|why| panic!("{why}"));
    Server::start(&program, options).unwrap()
}

fn url(server: &Server) -> String {
    format!("redis://{}", server.site().address)
}

/// A server with one good save behind it.
fn saved(options: Options) -> Server {
    let server = server(options);
    let mut direct = server.direct().unwrap();
    direct.demand(&["SET", "the-key", "the-value"]).unwrap();
    direct.demand(&["SAVE"]).unwrap();
    server
}

fn ids(report: &Value, kind: &str) -> Vec<String> {
    let findings = report["findings"].as_array().expect("findings");
    let of_kind = findings.iter().filter(|f| f["kind"] == kind);
    of_kind.map(|f| f["id"].as_str().expect("an id").to_owned()).collect()
}

/// 0, or 1 for things that do not keep the server from saving.
fn assert_no_cause(ran: &Ran) {
    let report = ran.json();
    assert!(ids(&report, "cause").is_empty(), "{}", ran.all());
    let findings = report["findings"].as_array().expect("findings").len();
    assert_eq!(ran.code, i32::from(findings > 0), "{}", ran.all());
}

fn is_saved(direct: &mut Direct) -> bool {
    direct.info("rdb_last_bgsave_status").unwrap().as_deref() == Some("ok")
}

#[test]
fn a_healthy_server_has_no_cause_and_every_field_has_its_place() {
    let server = saved(Options::default());
    let ran = doctor(&[&url(&server), "--json"]);
    assert_no_cause(&ran);
    let report = ran.json();
    for field in ["findings", "server", "unseen", "not_checked", "fixed", "proved"] {
        assert!(report.get(field).is_some(), "{field}: {}", ran.out);
    }
    let seen = &report["server"];
    assert_eq!(seen["address"], server.site().address.to_string());
    assert_eq!((&seen["role"], &seen["last_save_ok"]), (&Value::from("primary"), &Value::from(true)));
    for finding in report["findings"].as_array().unwrap() {
        let fields =
            ["id", "severity", "kind", "sure", "what", "why", "cure", "evidence", "command", "remedies"];
        assert!(fields.iter().all(|field| finding.get(field).is_some()), "{finding:#}");
    }
    let text = doctor(&[&url(&server)]);
    assert_eq!(text.code, ran.code);
    assert!(text.out.contains("primary") && !text.out.contains('\u{1b}'), "{}", text.all());
    assert!(!text.out.contains("the-key") && !text.out.contains("the-value"));
    let crit_only = doctor(&[&url(&server), "--fail-on", "crit"]);
    assert_eq!(crit_only.code, 0, "{}", crit_only.all());
}

#[test]
fn who_cannot_be_looked_at_ends_with_three_and_the_cure() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = doctor(&[&format!("redis://{free}")]);
    assert_eq!(ran.code, 3, "{}", ran.all());
    assert!(ran.err.contains(&free.to_string()) && ran.err.contains("upstream: "), "{}", ran.err);
    assert!(
        ran.err.contains("give its URL: bgsafe doctor redis://host:port") && ran.out.is_empty(),
        "{}",
        ran.err
    );

    let ran = doctor(&["unix:/no/such/socket"]);
    assert!(ran.code == 3 && ran.err.contains("check the socket's path"), "{}", ran.all());

    // Something that speaks, but not RESP.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = other.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = other.accept().unwrap();
        let _ = stream.read(&mut [0; 512]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = stream.read(&mut [0; 512]);
    });
    let ran = doctor(&[&format!("redis://{at}")]);
    assert!(ran.code == 3 && ran.err.contains("is not a Redis"), "{}", ran.all());
}

#[test]
fn a_wrong_password_ends_with_three_and_is_shown_nowhere() {
    let server = server(Options::default());
    server.cli(&["CONFIG", "SET", "requirepass", "right-one"]).unwrap();
    let at = server.site().address;
    let ran = doctor(&[&format!("redis://:wrong-one@{at}")]);
    assert!(ran.code == 3 && ran.err.contains("WRONGPASS"), "{}", ran.all());
    assert!(!ran.all().contains("wrong-one"), "{}", ran.all());
    let ran = doctor(&[&url(&server)]);
    assert!(
        ran.code == 3 && ran.err.contains("NOAUTH") && ran.err.contains("REDISCLI_AUTH"),
        "{}",
        ran.all()
    );
    let ran = doctor_with(&[&url(&server), "--json"], &[("REDISCLI_AUTH", "right-one")]);
    assert_no_cause(&ran);
    assert!(!ran.all().contains("right-one"), "{}", ran.all());
    // What a file keeps for another server is not sent to one whose URL was typed.
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "right-one\n").unwrap();
    let path = password.path().to_str().unwrap();
    let ran = doctor_with(&[&url(&server)], &[("BGSAFE_CONTROL_PASSWORD_FILE", path)]);
    assert_eq!(ran.code, 3, "{}", ran.all());
    let ran = doctor(&[&url(&server), "--json", "--control-password-file", path]);
    assert_no_cause(&ran);
}

#[test]
fn wrong_words_end_with_two() {
    let table: &[(&[&str], &str)] = &[
        (&["--no-such-flag"], "--no-such-flag"),
        (&["--yes"], "--fix"),
        (&["--fail-on", "fatal"], "fatal"),
        (&["--timeout", "10"], "no unit"),
        (&["rediss://h"], "does not speak TLS"),
        (&["--explain", "unknwon"], "unknown"),
        (&["--fix", "--yes", "--only", "thp-alwas"], "thp-always"),
        (&["--only", "thp-always"], "--fix"),
        (&["--fix"], "--yes"),
    ];
    for (args, says) in table {
        let ran = doctor(args);
        assert!(ran.code == 2 && ran.err.contains(says) && ran.out.is_empty(), "{args:?}: {}", ran.all());
    }
}

#[test]
fn the_tables_and_each_entry_are_explained() {
    let all = doctor(&["--explain"]);
    assert_eq!(all.code, 0, "{}", all.all());
    for check in bgsafe::guard::finding::CHECKS {
        assert!(all.out.contains(check.id), "{}", check.id);
    }
    let one = doctor(&["--explain", "unknown"]);
    assert!(one.code == 0 && one.out.contains("backgroundSaveDoneHandlerDisk"), "{}", one.all());
}

#[test]
fn a_user_with_few_rights_sees_little_and_is_told_what_is_missing() {
    let server = saved(Options::default());
    let mut direct = server.direct().unwrap();
    let least = ["+ping", "+info", "+config|get", "+client|setname", "+client|list", "+role", "+acl|whoami"];
    for (user, rights) in [("least", &least[..]), ("pinger", &least[..1])] {
        let mut words = vec!["ACL", "SETUSER", user, "on", ">secret", "resetkeys", "-@all"];
        words.extend(rights);
        direct.demand(&words).unwrap();
    }
    let at = server.site().address;
    let unseen = |ran: &Ran| -> Vec<String> {
        let report = ran.json();
        report["unseen"]
            .as_array()
            .unwrap()
            .iter()
            .map(|u| u["source"].as_str().unwrap().to_owned())
            .collect()
    };
    let ran = doctor(&[&format!("redis://least:secret@{at}"), "--json"]);
    assert_no_cause(&ran);
    for source in ["info", "config", "clients"] {
        assert!(!unseen(&ran).iter().any(|u| u == source), "{source}: {}", ran.all());
    }

    let ran = doctor(&[&format!("redis://pinger:secret@{at}"), "--json"]);
    assert!(ran.code <= 1, "{}", ran.all());
    for source in ["info", "config", "clients"] {
        assert!(unseen(&ran).iter().any(|u| u == source), "{source}: {}", ran.all());
    }
    let report = ran.json();
    let blind = report["not_checked"].as_array().unwrap();
    assert!(!blind.is_empty());
    for found in report["findings"].as_array().unwrap() {
        assert!(!blind.contains(&found["id"]), "found, and said not to be checked: {report:#}");
    }
    let ran = doctor(&[&format!("redis://pinger:secret@{at}")]);
    assert!(ran.out.contains("could not be seen") && ran.out.contains("NOPERM"), "{}", ran.all());
    assert!(ran.out.contains("ACL SETUSER pinger +info '+config|get'"), "{}", ran.all());
    assert!(!ran.all().contains("secret"), "{}", ran.all());
}

#[test]
fn a_failed_save_is_a_cause_and_once_healed_one_save_cures_it() {
    let fault = Fault::DumpDir;
    let server = saved(fault.options(&for_tests().unwrap()));
    let mut direct = server.direct().unwrap();
    let broken = fault.strike(server.site()).unwrap();
    let ran = doctor(&[&url(&server), "--json"]);
    let report = ran.json();
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(
        report["findings"][0]["kind"] == "cause" && report["server"]["last_save_ok"] == false,
        "{}",
        ran.all()
    );

    // Still broken: whatever is tried, nothing is claimed, and the switch is as it was.
    let found = cause(&server);
    let only = ["--fix", "--yes", "--only", &found];
    let ran = doctor(&[&[&url(&server), "--json", "--timeout", "20s"], &only[..]].concat());
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert_ne!(ran.json()["proved"], true, "{}", ran.all());
    assert!(!is_saved(&mut direct));
    assert_eq!(direct.config("stop-writes-on-bgsave-error").unwrap().as_deref(), Some("yes"));

    broken.heal().unwrap();
    let ran = doctor(&[&url(&server), "--json", "--fix", "--yes", "--only", &cause(&server)]);
    assert_no_cause(&ran);
    let report = ran.json();
    assert_eq!(report["proved"], true, "{}", ran.all());
    assert!(report["fixed"].as_array().unwrap().iter().any(|f| f["proved"] == true), "{}", ran.all());
    assert!(ran.err.contains("PROVED") && ran.err.contains("fork:"), "{}", ran.all());
    assert!(is_saved(&mut direct));
}

/// With a terminal to ask on; `answer` is typed ahead.
fn doctor_on_a_terminal(args: &[&str], answer: &str) -> Ran {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::io::Write as _;
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let terminal = std::fs::OpenOptions::new().read(true).write(true).open(name).unwrap();
    let mut master = std::fs::File::from(master);
    master.write_all(answer.as_bytes()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_bgsafe"))
        .arg("doctor")
        .args(args)
        .current_dir(dir.path())
        .env_clear()
        .stdin(terminal)
        .output()
        .expect("bgsafe starts");
    Ran {
        code: output.status.code().expect("it exits by itself"),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A failed save whose cause is gone, and the id of the finding that remains.
fn healed() -> (Server, String) {
    let fault = Fault::DumpDir;
    let server = saved(fault.options(&for_tests().unwrap()));
    fault.strike(server.site()).unwrap().heal().unwrap();
    let cause = cause(&server);
    (server, cause)
}

fn cause(server: &Server) -> String {
    let report = doctor(&[&url(server), "--json"]).json();
    ids(&report, "cause").first().unwrap_or_else(|| panic!("no cause: {report:#}")).clone()
}

#[test]
fn on_a_terminal_it_asks_and_only_a_yes_is_a_yes() {
    let (server, cause) = healed();
    let mut direct = server.direct().unwrap();
    let fix = [&url(&server), "--fix", "--only", &cause];
    for no in ["\n\n\n\n\n\n", "n\nno\nnope\nx\n\n\n"] {
        let ran = doctor_on_a_terminal(&fix, no);
        assert!(ran.code == 1 && ran.out.contains("BGSAVE"), "{}", ran.all());
        assert!(ran.out.contains("apply? [y/N]") && ran.out.contains("nothing was changed"), "{}", ran.all());
        assert!(!is_saved(&mut direct), "{}", ran.all());
    }
    let ran = doctor_on_a_terminal(&fix, "y\ny\ny\ny\ny\ny\n");
    assert!(ran.out.contains("PROVED") && is_saved(&mut direct), "{}", ran.all());
}

/// Needs root, and a host that can be looked at.
#[test]
fn a_change_of_the_host_is_made_proved_and_can_be_taken_back() {
    let fault = Fault::DirReadonly;
    let server = saved(fault.options(&for_tests().unwrap()));
    let mut direct = server.direct().unwrap();
    let seen = doctor(&[&url(&server), "--json"]).json()["server"]["pid"] == server.pid();
    if !we_are_root() || !seen {
        eprintln!("SKIPPED: needs root and /proc");
        return;
    }
    let broken = fault.strike(server.site()).unwrap();
    let ran = doctor(&[&url(&server), "--json"]);
    assert_eq!(ran.json()["findings"][0]["id"], "dir-permission", "{}", ran.all());
    let ran = doctor(&[&url(&server), "--json", "--fix", "--yes", "--only", "dir-permission"]);
    let report = ran.json();
    let fixed = &report["fixed"][0];
    assert!(report["proved"] == true && fixed["proved"] == true && is_saved(&mut direct), "{}", ran.all());
    assert!(ran.err.contains("0500 \u{2192} 0700"), "{}", ran.err);
    assert!(fixed["undo"][0].as_str().unwrap().starts_with("chmod 0500 "), "{report:#}");
    broken.heal().unwrap();
}

#[test]
fn a_long_save_is_told_of_and_waited_for_no_longer_than_was_said() {
    let fault = Fault::DumpDir;
    let server = saved(fault.options(&for_tests().unwrap()));
    let mut direct = server.direct().unwrap();
    for n in 0..400 {
        direct.demand(&["SET", &format!("key:{n}"), "x"]).unwrap();
    }
    fault.strike(server.site()).unwrap().heal().unwrap();
    // Microseconds a key: four seconds in all.
    direct.demand(&["CONFIG", "SET", "rdb-key-save-delay", "10000"]).unwrap();
    let fix = |server: &Server, more: &[&str]| {
        doctor(&[&[&url(server), "--json", "--fix", "--yes", "--only", &cause(server)], more].concat())
    };
    let ran = fix(&server, &["--timeout", "1s"]);
    assert!(ran.code == 1 && ran.json()["proved"] == false, "{}", ran.all());
    assert!(ran.err.contains("no save was proved within 1s (--timeout)"), "{}", ran.all());
    // The save that still runs is waited for, and proves as much as one of our own.
    let ran = fix(&server, &[]);
    assert!(ran.json()["proved"] == true && is_saved(&mut direct), "{}", ran.all());
    if for_tests().unwrap().at_least(6, 2) {
        assert!(ran.err.contains("saving for 2s") && ran.err.contains(" keys ("), "{}", ran.all());
    }
}

#[test]
fn the_switch_goes_back_only_after_a_save_was_proved() {
    let fault = Fault::DumpDir;
    let server = saved(fault.options(&for_tests().unwrap()));
    let mut direct = server.direct().unwrap();
    let switch = "stop-writes-on-bgsave-error";
    direct.demand(&["CONFIG", "SET", switch, "no"]).unwrap();
    let broken = fault.strike(server.site()).unwrap();
    let fix = [&url(&server), "--json", "--fix", "--yes", "--timeout", "20s", "--only", "switch-left-off"];
    let ran = doctor(&fix);
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert_eq!(direct.config(switch).unwrap().as_deref(), Some("no"), "{}", ran.all());

    broken.heal().unwrap();
    let ran = doctor(&[&fix[..], &["--only", &cause(&server)]].concat());
    assert!(is_saved(&mut direct), "{}", ran.all());
    assert_eq!(direct.config(switch).unwrap().as_deref(), Some("yes"), "{}", ran.all());
    let report = ran.json();
    let put_back =
        report["fixed"].as_array().unwrap().iter().find(|f| f["finding"] == "switch-left-off").unwrap();
    let change = &put_back["changes"][0];
    assert_eq!(
        (&change["before"], &change["after"]),
        (&Value::from("no"), &Value::from("yes")),
        "{report:#}"
    );
    assert!(
        put_back["undo"][0].as_str().unwrap().ends_with(&format!("CONFIG SET {switch} no")),
        "{report:#}"
    );
}

#[test]
fn without_fix_nothing_is_changed() {
    let server = saved(Options::default());
    let mut direct = server.direct().unwrap();
    let settings = |direct: &mut Direct| format!("{:?}", direct.demand(&["CONFIG", "GET", "*"]).unwrap());
    let (before, at) = (settings(&mut direct), direct.last_save().unwrap());
    doctor(&[&url(&server)]);
    assert_eq!((settings(&mut direct), direct.last_save().unwrap()), (before, at));
}

#[test]
fn under_break_in_signs_nothing_is_saved_and_nothing_changed() {
    if !for_tests().unwrap().at_least(7, 0) {
        eprintln!("SKIPPED: this server has no enable-protected-configs");
        return;
    }
    let server = saved(Options::default().arg(&["--enable-protected-configs", "yes"]));
    let mut direct = server.direct().unwrap();
    let suspect = server.site().root.join(".ssh");
    std::fs::create_dir(&suspect).unwrap();
    direct.demand(&["CONFIG", "SET", "dir", suspect.to_str().unwrap()]).unwrap();
    direct.demand(&["CONFIG", "SET", "dbfilename", "authorized_keys"]).unwrap();
    // A save that has failed, and now would succeed: there is everything to tempt a repair.
    std::fs::create_dir(suspect.join("authorized_keys")).unwrap();
    direct.demand(&["BGSAVE"]).unwrap();
    while is_saved(&mut direct) {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::remove_dir(suspect.join("authorized_keys")).unwrap();
    let only = ["--only", "dead-end", "--only", "unknown", "--only", "dir-permission"];
    let ran = doctor(&[&[&url(&server), "--fix", "--yes"], &only[..]].concat());
    assert_eq!(ran.code, 1, "{}", ran.all());
    assert!(ran.out.contains("signs of a break-in"), "{}", ran.all());
    assert_eq!(std::fs::read_dir(&suspect).unwrap().count(), 0, "a save was made");
    assert!(!is_saved(&mut direct));
    assert_eq!(direct.config("dbfilename").unwrap().as_deref(), Some("authorized_keys"));
}

#[test]
fn through_a_running_bgsafe_it_sees_the_same_server() {
    let server = saved(Options::default());
    let proxy = Proxy::start(Path::new(env!("CARGO_BIN_EXE_bgsafe")), &url(&server), &[]).unwrap();
    let run_id = |url: &str| doctor(&[url, "--json"]).json()["server"]["run_id"].clone();
    let through = run_id(&format!("redis://{}", proxy.listen()));
    assert!(through.is_string());
    assert_eq!(through, run_id(&url(&server)));
}

/// Once the directory is gone only the host knows where it was, and nobody whose.
#[test]
fn what_a_bgsafe_saw_while_all_was_well_names_and_cures_a_deleted_directory() {
    let fault = Fault::DirDeleted;
    let server = saved(fault.options(&for_tests().unwrap()));
    let site = server.site();
    // A life in peace, ended as a crash would end it.
    let program = Path::new(env!("CARGO_BIN_EXE_bgsafe"));
    let mut bgsafe = Proxy::start(program, &url(&server), &[]).unwrap();
    let state = bgsafe.state_dir();
    let dir = state.to_str().unwrap();
    let records = || std::fs::read_dir(state.join("healthy")).is_ok_and(|mut all| all.next().is_some());
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !records() {
        assert!(std::time::Instant::now() < deadline, "nothing was recorded");
        std::thread::sleep(Duration::from_millis(20));
    }
    bgsafe.kill9();
    let broken = fault.strike(site).unwrap();
    let blind = doctor(&["--json", &url(&server)]);
    let seen = doctor(&["--json", "--state-dir", dir, &url(&server)]);
    let cure = |ran: &Ran| {
        let remedy = ran.json()["findings"][0]["remedies"][0].clone();
        (remedy["consent"].as_str().unwrap().to_owned(), remedy["command"].as_str().unwrap().to_owned())
    };
    assert_eq!(cure(&blind).0, "never", "{}", blind.all());
    let (consent, typed) = cure(&seen);
    let data = site.data.to_str().unwrap();
    assert!(consent == "auto" && typed.contains(&format!("CONFIG SET dir {data}")), "{}", seen.all());
    if we_are_root() {
        let fixed = doctor(&["--fix", "--yes", "--only", "dir-missing", "--state-dir", dir, &url(&server)]);
        assert!(fixed.all().contains("PROVED"), "{}", fixed.all());
    }
    broken.heal().unwrap();
}

/// A cache without save points is no mistake: a yes to everything does not give it some.
#[test]
fn what_may_be_meant_so_is_changed_only_by_its_name() {
    let server = saved(Options::default());
    let mut direct = server.direct().unwrap();
    direct.demand(&["CONFIG", "SET", "save", ""]).unwrap();
    let points = |direct: &mut Direct| {
        bgsafe::testing::client::text(&direct.demand(&["CONFIG", "GET", "save"]).unwrap())
    };
    let unset = points(&mut direct);
    // The machine is not this test's to change: only what may be meant so is agreed to by its name.
    let named = doctor(&["--fix", "--yes", "--only", "save-points-missing", &url(&server)]);
    assert_ne!(points(&mut direct), unset, "{}", named.all());
}
