//! How much may be unsaved, on a real server: writers at full speed through the real bgsafe, and what the server
//! itself counts when the switch is back.

mod common;

use std::time::{Duration, Instant};

use bgsafe::testing::faults::{Broken, Fault};
use bgsafe::testing::workload::{Kind, Plan};
use common::{Lab, eventually, program};

/// For what happens at once on an idle machine.
const SOON: Duration = Duration::from_secs(30);

fn lab(args: &[&str]) -> Lab {
    Lab::new(Fault::DumpDir.options(&program()), args)
}

/// Nobody writes; a save fails, and bgsafe opens the writes before anybody is refused.
fn lowered(lab: &Lab) -> Broken {
    let broken = Fault::DumpDir.strike(lab.server.site()).unwrap();
    eventually("lowered", SOON, || lab.switch() == "no");
    eventually("open", SOON, || exposure(lab, "changes_since_save") >= exposure(lab, "changes"));
    broken
}

fn exposure(lab: &Lab, name: &str) -> u64 {
    lab.bgsafe.upstream_status().unwrap()["exposure"][name].as_u64().unwrap_or(0)
}

fn unsaved(lab: &Lab) -> u64 {
    lab.server.direct().unwrap().info("rdb_changes_since_last_save").unwrap().unwrap().parse().unwrap()
}

/// Budget, writers and what they write: not more than a hundredth past the budget, as the server counts.
fn spend(budget: u64, writers: usize, kinds: &[Kind]) {
    let mut lab = lab(&["--exposure-changes", &budget.to_string()]);
    let broken = lowered(&lab);
    let before = unsaved(&lab);
    let began = Instant::now();
    lab.write_as(|plan| Plan { writers, think: Duration::ZERO, kinds: kinds.to_vec(), ..plan });
    eventually("spent", Duration::from_secs(120), || lab.phase() == "exposed" && lab.switch() == "yes");
    let spent = unsaved(&lab) - before;
    eprintln!(
        "budget {budget}: {spent} changes unsaved after {:?}, {writers} writers of {kinds:?}",
        began.elapsed()
    );
    assert!((budget..=budget + budget / 100).contains(&spent), "{spent} of {budget}\n{}", lab.bgsafe.log());
    // Nothing more gets in, and nobody's connection suffers.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(unsaved(&lab) - before, spent);

    broken.heal().unwrap();
    lab.wait_until_quiet_for("yes", SOON);
    let flowing = lab.acked();
    eventually("writes to flow again", SOON, || lab.acked() > flowing + 200);
    lab.assert_incident("rdb", &["exposed"]);

    // The next incident has a budget of its own.
    let broken = Fault::DumpDir.strike(lab.server.site()).unwrap();
    eventually("spent again", Duration::from_secs(120), || lab.phase() == "exposed" && lab.switch() == "yes");
    broken.heal().unwrap();
    lab.wait_until_quiet_for("yes", SOON);
    let score = lab.judge();
    lab.assert_honest(&score);
    lab.assert_no_debt_file();
}

#[test]
fn a_budget_of_changes_is_kept_within_one_per_cent_at_full_speed() {
    spend(10_000, 20, &[Kind::Set, Kind::Incr, Kind::Rpush, Kind::Xadd]);
}

#[test]
fn pipelines_and_transactions_keep_it_too() {
    spend(10_000, 12, &[Kind::Pipeline, Kind::Multi, Kind::Queue, Kind::Ping]);
}

#[test]
fn a_budget_that_is_kept_open_is_told_of_and_nobody_notices() {
    let mut lab = lab(&["--exposure-changes", "500", "--when-exposed", "keep"]);
    let broken = lowered(&lab);
    lab.write_as(|plan| Plan { writers: 9, think: Duration::from_millis(2), ..plan });
    eventually("more than that written", SOON, || unsaved(&lab) > 1000);
    let status = lab.bgsafe.upstream_status().unwrap();
    assert_eq!((status["posture"].as_str(), lab.switch().as_str()), (Some("forward"), "no"), "{status:#}");
    broken.heal().unwrap();
    lab.wait_until_quiet_for("yes", SOON);
    let score = lab.judge();
    lab.assert_perfect(&score);
    let incident = lab.assert_incident("rdb", &["rearmed"]);
    assert!(incident.to_string().contains("exposure budget spent"), "{incident:#}");
}

#[test]
fn a_budget_of_seconds_is_kept_within_one() {
    let lab = lab(&["--exposure-time", "3s"]);
    let mut direct = lab.server.direct().unwrap();
    let mut switch = || (direct.config(common::SWITCH).unwrap().unwrap(), Instant::now());
    let broken = Fault::DumpDir.strike(lab.server.site()).unwrap();
    let until = |wanted: &str, switch: &mut dyn FnMut() -> (String, Instant)| loop {
        let (value, at) = switch();
        if value == wanted {
            return at;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let down = until("no", &mut switch);
    let back = until("yes", &mut switch);
    let open = back - down;
    eprintln!("open for {open:?} of 3 s");
    // What was seen is a little later than what was done, at either end.
    assert!(
        open >= Duration::from_millis(2900) && open <= Duration::from_secs(4),
        "{open:?}\n{}",
        lab.bgsafe.log()
    );
    broken.heal().unwrap();
    lab.wait_until_quiet_for("yes", SOON);
    lab.assert_incident("rdb", &["exposed"]);
}
