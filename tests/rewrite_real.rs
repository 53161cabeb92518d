//! CONFIG REWRITE while the switch is lowered, on a real server with a real configuration file.

mod common;

use std::time::Duration;

use bgsafe::testing::faults::Fault;
use bgsafe::testing::server::Options;
use common::{Lab, SWITCH, eventually, program};
use serde_json::Value;

fn options() -> Options {
    Options { config_file: true, ..Fault::DumpDir.options(&program()) }
}

/// The value of the switch in the configuration file, where a line names it.
fn in_file(lab: &Lab) -> Option<String> {
    let text = lab.server.config_text();
    let line = text.lines().rev().find(|line| line.starts_with(SWITCH))?;
    line.split_whitespace().last().map(str::to_owned)
}

/// Before 7.0 subcommands are not counted by themselves: then nothing can be known.
fn is_counted(lab: &Lab) -> bool {
    let version = lab.server.direct().unwrap().info("redis_version").unwrap().unwrap();
    version.split('.').next().unwrap().parse::<u32>().unwrap() >= 7
}

fn finding(lab: &Lab, id: &str) -> Option<Value> {
    let status = lab.bgsafe.upstream_status().unwrap();
    status["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == id).cloned()
}

/// Writers at work, the dump's place taken, the switch down.
fn lowered(lab: &mut Lab) -> bgsafe::testing::faults::Broken {
    lab.write_as(|plan| bgsafe::testing::workload::Plan { writers: 4, ..plan });
    // LASTSAVE counts whole seconds.
    std::thread::sleep(Duration::from_millis(700));
    let broken = Fault::DumpDir.strike(lab.server.site()).unwrap();
    eventually("the switch down", Duration::from_secs(20), || lab.switch() == "no");
    broken
}

/// The incident ends, nobody noticed it.
fn ends(mut lab: Lab, broken: bgsafe::testing::faults::Broken) -> Lab {
    broken.heal().unwrap();
    lab.wait_until_quiet_for("yes", Duration::from_secs(60));
    let score = lab.judge();
    assert!(score.total.perfect(), "{score:#?}");
    lab
}

#[test]
fn one_from_elsewhere_is_noticed_and_stands_until_the_file_is_written_again() {
    let mut lab = Lab::new(options(), &[]);
    let broken = lowered(&mut lab);
    lab.server.direct().unwrap().demand(&["CONFIG", "REWRITE"]).unwrap();
    assert_eq!(in_file(&lab).as_deref(), Some("no"));
    if !is_counted(&lab) {
        drop(ends(lab, broken));
        return;
    }
    eventually("the finding", Duration::from_secs(10), || finding(&lab, "rewrite-persisted-no").is_some());
    let lab = ends(lab, broken);
    assert_eq!(in_file(&lab).as_deref(), Some("no"), "nobody consented");
    let log = lab.bgsafe.log();
    for words in ["configuration file has our no", "configuration file still has our no", "CONFIG REWRITE"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    eventually("the finding in peace", Duration::from_secs(40), || {
        finding(&lab, "rewrite-persisted-no").is_some_and(|finding| finding["severity"] == "crit")
    });
    lab.server.direct().unwrap().demand(&["CONFIG", "REWRITE"]).unwrap();
    assert_ne!(in_file(&lab).as_deref(), Some("no"));
    eventually("nothing more to say", Duration::from_secs(70), || {
        finding(&lab, "rewrite-persisted-no").is_none()
    });
}

#[test]
fn with_consent_the_file_has_the_operators_value_before_the_incident_ends() {
    let mut lab = Lab::new(options(), &["--repair-rewrite", "yes"]);
    let broken = lowered(&mut lab);
    lab.server.direct().unwrap().demand(&["CONFIG", "REWRITE"]).unwrap();
    if is_counted(&lab) {
        eventually("the file written again", Duration::from_secs(10), || {
            in_file(&lab).as_deref() != Some("no")
        });
        assert_eq!(lab.switch(), "no", "what is live stays");
    }
    let lab = ends(lab, broken);
    assert!(finding(&lab, "rewrite-persisted-no").is_none() || !is_counted(&lab));
}

#[test]
fn a_server_that_comes_back_with_our_no_is_told_of() {
    let mut lab = Lab::new(options(), &[]);
    let broken = lowered(&mut lab);
    lab.server.direct().unwrap().demand(&["CONFIG", "REWRITE"]).unwrap();
    broken.heal().unwrap();
    lab.server.restart().unwrap();
    eventually("the finding", Duration::from_secs(40), || {
        finding(&lab, "switch-left-off").is_some_and(|finding| {
            finding["severity"] == "crit" && finding["evidence"].as_str().unwrap().contains("started again")
        })
    });
    assert_eq!(lab.switch(), "no", "it is told, not touched");
}
