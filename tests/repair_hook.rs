//! The operator's own program: told of the cause on standard input, and believed when it says that it is gone.

mod common;

use std::time::Duration;

use bgsafe::testing::faults::Fault;
use common::{Lab, eventually, program};

/// Types what the finding says, as a trusting human would.
const CURE: &str = r#"read -r news; echo "$news" >> "$HOOK_LOG"
sh -c "$(echo "$news" | sed -n 's/.*"remedy":"\([^"]*\)".*/\1/p')""#;

#[test]
fn a_cause_that_bgsafe_may_not_cure_is_cured_by_the_operators_program_and_proved() {
    let scratch = tempfile::tempdir().unwrap();
    let (hook, log) = (scratch.path().join("hook"), scratch.path().join("log"));
    std::fs::write(&hook, CURE).unwrap();
    let command = format!("HOOK_LOG={} sh {}", log.display(), hook.display());
    let mut lab = Lab::new(Fault::DumpDir.options(&program()), &["--repair-hook", &command]);
    lab.write();
    std::thread::sleep(Duration::from_millis(700));
    let broken = Fault::DumpDir.strike(lab.server.site()).unwrap();
    lab.wait_until_quiet("yes");
    let before = lab.acked();
    eventually("writes to flow again", Duration::from_secs(5), || lab.acked() > before + 200);

    let score = lab.judge();
    lab.assert_perfect(&score);
    lab.assert_saved();
    lab.assert_no_debt_file();
    let incident = lab.assert_incident("rdb", &["rearmed"]);
    let told: Vec<serde_json::Value> = std::fs::read_to_string(&log)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let ids: Vec<_> = told.iter().map(|news| &news["finding"]["id"]).collect();
    assert_eq!(ids.iter().filter(|id| **id == "dir-permission").count(), 1, "told once: {told:#?}");
    assert!(told.iter().all(|news| news["incident"] == incident["id"]), "{told:#?}");
    assert!(told[0]["finding"]["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()));
    let events: Vec<_> = incident["timeline"].as_array().unwrap().iter().map(|e| &e["event"]).collect();
    assert!(events.iter().any(|event| **event == "repair hook ended"), "{events:?}");
    drop(broken);
}
