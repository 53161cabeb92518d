//! What bgsafe may do on a real server, from everything to next to nothing, and under another name: what the status
//! says of it, and what eight writers notice of an incident.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bgsafe::testing::client::{Reply, text};
use bgsafe::testing::faults::Fault;
use bgsafe::testing::server::{Options, Server};
use bgsafe::testing::workload::{Plan, Score};
use common::{Lab, eventually, program};
use serde_json::Value;

const SECRET: &str = "hush-the-control-user";

/// A lab whose control user has these rights, and a scratch directory for files beside it.
fn lab(rights: &str, options: Options, args: &[&str]) -> (Lab, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let mut all = vec!["--control-user", "guard", "--control-password-file", file.to_str().unwrap()];
    all.extend(args);
    let line = format!("ACL SETUSER guard on >{SECRET} resetkeys -@all {rights}");
    let lab = Lab::prepared(options, &all, |direct| {
        direct.demand(&line.split(' ').collect::<Vec<_>>()).unwrap();
    });
    (lab, dir)
}

fn options() -> Options {
    Fault::DumpDir.options(&program())
}

/// Writers at work; the dump's place is taken, and given back after two seconds.
fn incident(lab: &mut Lab) -> (Score, Value) {
    lab.write_as(|plan| Plan { writers: 8, ..plan });
    // LASTSAVE counts whole seconds.
    std::thread::sleep(Duration::from_millis(700));
    let broken = Fault::DumpDir.strike(lab.server.site()).unwrap();
    std::thread::sleep(Duration::from_millis(2000));
    broken.heal().unwrap();
    let before = lab.acked();
    eventually("quiet", Duration::from_secs(20), || lab.phase() == "quiet");
    eventually("writes to flow again", Duration::from_secs(5), || lab.acked() > before + 50);
    let score = lab.judge();
    let incident = lab.bgsafe.incidents().unwrap().remove(0);
    (score, incident)
}

fn names(rights: &Value, which: &str) -> Vec<String> {
    rights[which].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// What the status says, once an inquiry has been answered.
fn rights(lab: &Lab) -> (Vec<String>, Vec<String>) {
    let read = || lab.bgsafe.upstream_status().unwrap()["rights"].take();
    eventually("rights known", Duration::from_secs(5), || !names(&read(), "allowed").is_empty());
    (names(&read(), "allowed"), names(&read(), "denied"))
}

/// Before 7.0 there is no dry run (ACL DRYRUN): what it would tell stays unknown until it is needed.
fn is_told_beforehand(lab: &Lab) -> bool {
    let version = lab.server.direct().unwrap().info("redis_version").unwrap().unwrap();
    version.split('.').next().unwrap().parse::<u32>().unwrap() >= 7
}

fn events(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn with_every_right_nobody_notices_and_each_turn_is_told() {
    let told = tempfile::tempdir().unwrap();
    let file: PathBuf = told.path().join("alerts");
    let command = format!("cat >> {}", file.display());
    let rights_of = "+ping +info +config|get +config|set +bgsave +lastsave +client|setname +role +multi +exec +discard \
        +acl|whoami +acl|dryrun +config|rewrite";
    let (mut lab, _dir) = lab(rights_of, options(), &["--alert-command", &command]);
    let (allowed, denied) = rights(&lab);
    let known = if is_told_beforehand(&lab) { 9 } else { 5 };
    assert_eq!((allowed.len(), denied.len()), (known, 0), "{allowed:?} {denied:?}");
    let (score, incident) = incident(&mut lab);
    assert!(score.total.perfect() && score.total.acknowledged > 200, "{score:#?}");
    assert_eq!(incident["outcome"], "rearmed", "{incident:#}");
    let id = incident["id"].as_str().unwrap();
    eventually("the end told", Duration::from_secs(5), || {
        events(&file).last().is_some_and(|last| last["phase"] == "quiet" && last["incident"] == id)
    });
    let phases: Vec<String> =
        events(&file).iter().map(|event| event["phase"].as_str().unwrap().to_owned()).collect();
    for phase in ["alarmed", "mitigated", "verifying", "rearming", "quiet"] {
        assert!(phases.iter().any(|told| told == phase), "{phase}: {phases:?}");
    }
    assert!(!std::fs::read_to_string(&file).unwrap().contains(SECRET));
}

#[test]
fn without_config_writes_wait_for_the_second_save() {
    let rights_of = "+ping +info +role +bgsave +lastsave +multi +exec +discard +acl|whoami +acl|dryrun";
    let (mut lab, _dir) = lab(rights_of, options(), &["--hold-time", "15s"]);
    let (_, denied) = rights(&lab);
    let lacks = if is_told_beforehand(&lab) { 2 } else { 1 };
    // There the last is told by a dry run only.
    assert_eq!(denied, ["config-get", "config-set", "config-rewrite"][..lacks * 2 - 1]);
    let status = lab.bgsafe.upstream_status().unwrap();
    let finding = &status["findings"][0];
    assert_eq!(finding["id"], "config-blocked", "{status:#}");
    let typed = finding["remedy"].as_str().unwrap();
    assert!(
        typed.contains(
            ["ACL SETUSER guard '+config|get'", "ACL SETUSER guard '+config|get' '+config|set'"][lacks - 1]
        ),
        "{typed}"
    );
    assert!(lab.bgsafe.log().contains("may not: config-get"), "{}", lab.bgsafe.log());
    assert!(!lab.bgsafe.log().contains("hold-time"), "15 s are enough");
    let (score, incident) = incident(&mut lab);
    assert!(score.total.perfect() && score.total.acknowledged > 100, "{score:#?}");
    assert_eq!(incident["outcome"], "self-healed", "{incident:#}");
    assert_eq!(lab.switch(), "yes");
}

#[test]
fn without_config_and_with_a_short_hold_clients_get_the_servers_own_error_and_nothing_is_lost() {
    let rights_of = "+ping +info +role +bgsave +lastsave +multi +exec +discard +acl|whoami +acl|dryrun";
    let (mut lab, _dir) = lab(rights_of, options(), &[]);
    rights(&lab);
    assert!(lab.bgsafe.log().contains("raise hold-time to 8s or more"), "{}", lab.bgsafe.log());
    let (score, _) = incident(&mut lab);
    assert!(score.total.honest() && score.total.refused > 0, "{score:#?}");
}

/// Nothing opens the writes but the server's own next try.
#[test]
fn with_ping_and_info_alone_writes_wait_for_the_servers_own_retry() {
    let (mut lab, _dir) = lab("+ping +info", options().arg(&["--save", "1", "1"]), &["--hold-time", "20s"]);
    let (allowed, denied) = rights(&lab);
    assert!(allowed.contains(&"info".into()), "{allowed:?}");
    for name in ["role", "config-get", "lastsave", "multi"] {
        assert!(denied.contains(&name.into()), "{name}: {denied:?}");
    }
    let (score, incident) = incident(&mut lab);
    assert!(score.total.perfect() && score.total.acknowledged > 100, "{score:#?}");
    assert_eq!(incident["outcome"], "self-healed", "{incident:#}");
    let (allowed, denied) = rights(&lab);
    assert!(allowed.contains(&"ping".into()) && denied.contains(&"bgsave".into()), "{allowed:?} {denied:?}");
    assert_eq!(lab.switch(), "yes");
}

/// A server whose CONFIG has another name, which nobody may read in our log.
#[test]
fn a_renamed_config_is_used_under_its_name_and_missed_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("rename.conf");
    std::fs::write(&conf, "rename-command CONFIG cfg9-hidden\n").unwrap();
    let renamed = || options().arg(&["--include", conf.to_str().unwrap()]);

    let mut lab = Lab::new(renamed(), &["--rename", "CONFIG=cfg9-hidden"]);
    let (allowed, denied) = rights(&lab);
    let known = if is_told_beforehand(&lab) { 9 } else { 5 };
    assert_eq!((allowed.len(), denied.len()), (known, 0), "{allowed:?} {denied:?}");
    let (score, incident) = incident(&mut lab);
    assert!(score.total.perfect() && score.total.acknowledged > 200, "{score:#?}");
    assert_eq!(incident["outcome"], "rearmed", "{incident:#}");
    let mut direct = lab.server.direct().unwrap();
    let switch = direct.demand(&["cfg9-hidden", "GET", common::SWITCH]).unwrap();
    assert!(matches!(&switch, Reply::Array(pair) if text(&pair[1]) == "yes"), "{switch:?}");
    assert!(!lab.bgsafe.log().contains("cfg9"), "{}", lab.bgsafe.log());
    drop(lab);

    let mut lab = Lab::new(renamed(), &["--hold-time", "15s"]);
    let (_, denied) = rights(&lab);
    assert_eq!(denied, ["config-get", "config-set", "config-rewrite"]);
    let status = lab.bgsafe.upstream_status().unwrap();
    let typed = status["findings"][0]["remedy"].as_str().unwrap();
    assert!(typed.contains("--rename CONFIG=NEWNAME"), "{status:#}");
    let (score, incident) = self::incident(&mut lab);
    assert!(score.total.perfect(), "{score:#?}");
    assert_eq!(incident["outcome"], "self-healed", "{incident:#}");
}

/// As a managed service does it. Nothing is tried to find that out.
#[test]
fn a_service_that_withdraws_commands_is_named_in_peace() {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("rename.conf");
    for (gone, product) in [
        (&["CONFIG", "BGSAVE"][..], "Amazon ElastiCache"),
        (&["CONFIG", "BGSAVE", "LASTSAVE"], "Google Memorystore"),
    ] {
        let lines: String = gone.iter().map(|name| format!("rename-command {name} \"\"\n")).collect();
        std::fs::write(&conf, format!("{lines}rename-command DEBUG hidden\n")).unwrap();
        let options = options().arg(&["--include", conf.to_str().unwrap()]);
        let server = Server::start(&program(), options).unwrap();
        let bgsafe = common::start_bgsafe(&format!("redis://{}", server.site().address), &[]);
        eventually("named", Duration::from_secs(5), || {
            let status = bgsafe.upstream_status().unwrap();
            status["findings"].as_array().unwrap().iter().any(|finding| {
                finding["id"] == "config-blocked" && finding["evidence"].as_str().unwrap().contains(product)
            })
        });
        let status = bgsafe.upstream_status().unwrap();
        assert!(names(&status["rights"], "denied").contains(&"bgsave".into()), "{status:#}");
        assert!(bgsafe.log().contains(product), "{}", bgsafe.log());
        let typed = status["findings"][0]["remedy"].as_str().unwrap();
        assert!(typed.contains("a managed service gives it to nobody"), "{status:#}");
        let stats = server.cli(&["INFO", "commandstats"]).unwrap();
        assert!(!text(&stats).contains("cmdstat_config|set"));
    }
}
