//! Each way in which persistence fails, made for real on a real server, with fifty writers through the real bgsafe.
//!
//! What must hold is written in each row; that nothing acknowledged is lost, doubled or reordered holds in all.
//! Tests that need root, a compiler or a newer server and have none say `SKIPPED`, why, and how many that makes.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::time::Duration;

use bgsafe::testing::client::{Direct, Reply, text};
use bgsafe::testing::faults::Fault;
use common::{Lab, eventually, is_misconf, program};

/// How an RDB incident that we opened the writes for ends.
const REARMED: &[&str] = &["rearmed"];
/// How one ends that was over before, or without, our opening the writes.
const REARMED_OR_HEALED: &[&str] = &["rearmed", "self-healed"];

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

fn skipped(fault: Fault) -> bool {
    let Err(why) = fault.possible_for(&program()) else { return false };
    let count = SKIPPED.fetch_add(1, AcqRel) + 1;
    eprintln!("SKIPPED {fault:?} ({count} so far): {why}");
    true
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Writers at work, the fault strikes, lasts, is healed: nobody notices, and all is as it was.
fn invisible(fault: Fault, lasts: Duration, variant: &str, outcomes: &[&str]) {
    if skipped(fault) {
        return;
    }
    let mut lab = Lab::new(fault.options(&program()), &[]);
    lab.write();
    // LASTSAVE counts whole seconds: the proof must fall into a later one than the lab's own save.
    std::thread::sleep(millis(700));
    let broken = fault.strike(lab.server.site()).unwrap();
    std::thread::sleep(lasts);
    broken.heal().unwrap();
    let before = lab.acked();
    lab.wait_until_quiet("yes");
    eventually("writes to flow again", Duration::from_secs(5), || lab.acked() > before + 200);

    let score = lab.judge();
    lab.assert_perfect(&score);
    lab.assert_no_debt_file();
    let incident = lab.assert_incident(variant, outcomes);
    assert!(incident["refusals"].as_u64() > Some(0), "{incident:#}");
    if variant == "rdb" {
        lab.assert_saved();
    }
}

/// The gate opens and shuts many times: what was held meets the next refusal.
#[test]
fn one_incident_after_another_is_invisible() {
    let fault = Fault::DumpDir;
    let mut lab = Lab::new(fault.options(&program()), &[]);
    lab.write();
    for _ in 0..5 {
        let broken = fault.strike(lab.server.site()).unwrap();
        std::thread::sleep(millis(150));
        broken.heal().unwrap();
        lab.wait_until_quiet("yes");
    }
    let score = lab.judge();
    lab.assert_perfect(&score);
    lab.assert_no_debt_file();
    lab.assert_incident("rdb", REARMED);
}

#[test]
fn a_failing_fork_is_invisible() {
    invisible(Fault::ForkFails, millis(2000), "rdb", REARMED);
}

#[test]
fn a_process_limit_is_invisible() {
    invisible(Fault::Nproc, millis(2000), "rdb", REARMED);
}

#[test]
fn a_deleted_directory_is_invisible() {
    invisible(Fault::DirDeleted, millis(2000), "rdb", REARMED);
}

#[test]
fn a_read_only_directory_is_invisible() {
    invisible(Fault::DirReadonly, millis(2000), "rdb", REARMED);
}

#[test]
fn a_full_disk_is_invisible() {
    invisible(Fault::DiskFull, millis(2000), "rdb", REARMED);
}

#[test]
fn a_directory_in_the_place_of_the_dump_is_invisible() {
    invisible(Fault::DumpDir, millis(2000), "rdb", REARMED);
}

#[test]
fn a_fork_that_should_be_tried_again_is_invisible() {
    invisible(Fault::ForkEagain, millis(2000), "rdb", REARMED);
}

#[test]
fn strict_accounting_is_invisible() {
    // The shortest that shows it: the whole machine lives under it.
    invisible(Fault::Overcommit, millis(500), "rdb", REARMED);
}

#[test]
fn a_full_pids_group_is_invisible() {
    invisible(Fault::PidsLimit, millis(2000), "rdb", REARMED);
}

#[test]
fn an_oom_killed_child_is_invisible() {
    invisible(Fault::CgroupOom, millis(2000), "rdb", REARMED);
}

#[test]
fn a_directory_of_roots_is_invisible() {
    invisible(Fault::WrongOwner, millis(2000), "rdb", REARMED);
}

#[test]
fn an_immutable_directory_is_invisible() {
    invisible(Fault::ImmutableDir, millis(2000), "rdb", REARMED);
}

#[test]
fn a_dump_of_roots_in_a_sticky_directory_is_invisible() {
    invisible(Fault::StickyDump, millis(2000), "rdb", REARMED);
}

#[test]
fn a_file_system_without_inodes_is_invisible() {
    invisible(Fault::InodesFull, millis(2000), "rdb", REARMED);
}

#[test]
fn a_file_system_remounted_read_only_is_invisible() {
    invisible(Fault::RemountRo, millis(2000), "rdb", REARMED);
}

#[test]
fn a_limit_of_file_sizes_is_invisible() {
    invisible(Fault::FsizeLimit, millis(2000), "rdb", REARMED);
}

#[test]
fn crashing_children_are_invisible() {
    invisible(Fault::ChildCrash, millis(2000), "rdb", REARMED);
}

#[test]
fn files_of_dead_saves_are_invisible() {
    invisible(Fault::DeadTemps, millis(2000), "rdb", REARMED);
}

/// The one failure that must stay visible: a save that works again would be the intruder's.
#[test]
fn a_break_in_is_told_and_nothing_is_touched() {
    let fault = Fault::BreakIn;
    let mut lab = Lab::new(fault.options(&program()), &["--hold-time", "300ms"]);
    lab.write();
    std::thread::sleep(millis(700));
    let broken = fault.strike(lab.server.site()).unwrap();
    let log = |lab: &Lab| lab.server.log().matches("Background saving started").count();
    let saves = log(&lab);
    std::thread::sleep(millis(2000));
    assert_eq!(lab.switch(), "yes", "the switch is not lowered");
    assert_eq!(log(&lab), saves, "no save is started");
    let mut direct = lab.server.direct().unwrap();
    assert!(direct.config("dir").unwrap().is_some_and(|dir| dir.ends_with("/.ssh")), "it is evidence");
    let incident = lab.bgsafe.incidents().unwrap().into_iter().next().expect("an incident is open");
    let findings = incident["findings"].as_array().into_iter().flatten();
    assert!(findings.into_iter().any(|finding| finding["id"] == "break-in-signs"), "{incident:#}");
    broken.heal().unwrap();
    eventually("a save", Duration::from_secs(5), || {
        let _ = direct.command(&["BGSAVE"]).unwrap();
        direct.info("rdb_last_bgsave_status").unwrap().as_deref() == Some("ok")
    });
    std::thread::sleep(millis(500));
    let score = lab.judge();
    lab.assert_honest(&score);
    assert!(score.total.refused > 0, "holds that end must be told");
    lab.assert_no_debt_file();
}

#[test]
fn one_killed_child_is_invisible() {
    invisible(Fault::KilledChild, millis(0), "rdb", REARMED_OR_HEALED);
}

#[test]
fn a_killer_of_children_is_invisible() {
    invisible(Fault::ChildKiller, millis(2000), "rdb", REARMED);
}

/// The switch does not open writes that the AOF refuses: they are held while the disk is cured.
#[test]
fn a_full_append_disk_that_is_cured_within_the_hold_is_invisible() {
    invisible(Fault::AofFull, millis(1200), "aof", &["self-healed"]);
}

#[test]
fn a_sticky_fsync_error_that_is_cured_within_the_hold_is_invisible() {
    invisible(Fault::AofFsync, millis(800), "aof", &["self-healed"]);
}

#[test]
fn an_append_disk_full_for_longer_than_the_hold_gets_the_servers_own_error() {
    if skipped(Fault::AofFull) {
        return;
    }
    let mut lab = Lab::new(Fault::AofFull.options(&program()), &["--hold-time", "300ms"]);
    lab.write();
    let broken = Fault::AofFull.strike(lab.server.site()).unwrap();
    std::thread::sleep(millis(1500));
    assert_eq!(lab.switch(), "yes", "the switch would not help, so it is not touched");
    let refusal = Direct::connect(lab.bgsafe.listen()).unwrap().command(&["SET", "lab:direct", "1"]).unwrap();
    let own = lab.server.cli(&["SET", "lab:direct", "1"]).unwrap();
    assert!(is_misconf(&own), "{own:?}");
    assert_eq!(refusal, own, "the server's own words");
    broken.heal().unwrap();
    lab.wait_until_quiet("yes");
    std::thread::sleep(millis(300));

    let score = lab.judge();
    lab.assert_honest(&score);
    assert_eq!(score.total.broken, 0, "{:#?}", score.texts);
    assert!(score.total.refused > 0, "holds that end must be told");
    let incident = lab.assert_incident("aof", &["self-healed"]);
    assert!(incident["timed_out"].as_u64() > Some(0), "{incident:#}");
}

/// Nothing is wrong any more, and Redis alone would refuse for ever: one BGSAVE cures it.
#[test]
fn a_dead_end_is_invisible() {
    let fault = Fault::DeadEnd;
    let mut lab = Lab::new(fault.options(&program()), &[]);
    std::thread::sleep(millis(1100));
    let _broken = fault.strike(lab.server.site()).unwrap();
    lab.write();
    lab.wait_until_quiet("yes");
    let score = lab.judge();
    lab.assert_perfect(&score);
    lab.assert_no_debt_file();
    lab.assert_saved();
    lab.assert_incident("rdb", REARMED_OR_HEALED);
}

/// A script can answer a refusal's very words. The server is asked, not believed.
#[test]
fn a_forged_refusal_is_delivered_and_changes_nothing() {
    let mut lab = Lab::new(Default::default(), &[]);
    lab.write();
    let mut direct = lab.server.direct().unwrap();
    // Whoever tries to set anything is on record, whatever the version.
    direct.demand(&["ACL", "SETUSER", "default", "-config", "+config|get"]).unwrap();
    let tried = |direct: &mut Direct| text(&direct.demand(&["ACL", "LOG"]).unwrap()).contains("config");
    let forge = "return redis.error_reply('MISCONF Redis is configured to save RDB snapshots, but it is currently \
                 unable to persist to disk.')";
    let own = direct.command(&["EVAL", forge, "0"]).unwrap();
    assert!(is_misconf(&own), "{own:?}");
    let mut through = Direct::connect(lab.bgsafe.listen()).unwrap();
    for _ in 0..5 {
        assert_eq!(through.command(&["EVAL", forge, "0"]).unwrap(), own, "the script's own words");
        assert_eq!(text(&through.command(&["SET", "lab:forger", "1"]).unwrap()), "OK");
    }
    lab.wait_until_quiet("yes");
    assert!(!tried(&mut direct), "the switch was touched for a forged refusal");
    assert!(matches!(direct.command(&["CONFIG", "SET", common::SWITCH, "yes"]).unwrap(), Reply::Error(_)));
    assert!(tried(&mut direct), "a try would have been on record");
    let score = lab.judge();
    lab.assert_perfect(&score);
    lab.assert_no_debt_file();
}

#[test]
fn an_operators_own_no_stays_no() {
    let fault = Fault::DumpDir;
    let set_no = |direct: &mut Direct| drop(direct.demand(&["CONFIG", "SET", common::SWITCH, "no"]).unwrap());
    let mut lab = Lab::prepared(fault.options(&program()), &[], set_no);
    lab.write();
    let broken = fault.strike(lab.server.site()).unwrap();
    for _ in 0..10 {
        std::thread::sleep(millis(100));
        assert_eq!(lab.switch(), "no");
    }
    broken.heal().unwrap();
    std::thread::sleep(millis(1500));
    let score = lab.judge();
    lab.assert_perfect(&score);
    assert_eq!(lab.switch(), "no", "the operator chose it");
    lab.assert_no_debt_file();
    assert!(lab.bgsafe.upstream_status().unwrap()["debt"].is_null());
}

/// A bgsafe that dies while the switch is down leaves a debt; the next one pays it.
fn killed_while_mitigated(healed_before_the_restart: bool) {
    let fault = Fault::DumpDir;
    let mut lab = Lab::new(fault.options(&program()), &[]);
    lab.write();
    std::thread::sleep(millis(700));
    let broken = fault.strike(lab.server.site()).unwrap();
    eventually("the switch to be lowered", Duration::from_secs(5), || lab.switch() == "no");
    std::thread::sleep(millis(300));
    lab.bgsafe.kill9();
    assert_eq!(lab.switch(), "no", "nobody is there to put it back");

    let mut broken = Some(broken);
    let mut heal = || broken.take().map_or(Ok(()), |broken| broken.heal()).unwrap();
    std::thread::sleep(millis(300));
    if healed_before_the_restart {
        heal();
    }
    lab.bgsafe.restart().unwrap();
    std::thread::sleep(millis(500));
    heal();
    lab.wait_until_quiet("yes");
    let before = lab.acked();
    eventually("writes to flow again", Duration::from_secs(5), || lab.acked() > before + 200);

    let score = lab.judge();
    lab.assert_honest(&score);
    assert!(score.total.broken > 0, "connections broke with the process");
    assert_eq!(score.total.refused, 0, "no refusal reached a writer: {:#?}", score.texts);
    lab.assert_saved();
    lab.assert_no_debt_file();
    lab.assert_incident("rdb", REARMED);
}

#[test]
fn a_bgsafe_killed_while_mitigated_pays_its_debt_after_the_restart() {
    killed_while_mitigated(false);
}

#[test]
fn a_debt_is_paid_even_when_the_cause_went_away_meanwhile() {
    killed_while_mitigated(true);
}

/// The switch is flipped by hand, fast, while saving fails: each batch in flight meets both states.
#[test]
fn a_switch_that_flips_within_batches_is_invisible() {
    let fault = Fault::DumpDir;
    let mut lab = Lab::new(fault.options(&program()), &[]);
    lab.write();
    let broken = fault.strike(lab.server.site()).unwrap();
    let mut direct = lab.server.direct().unwrap();
    for _ in 0..40 {
        // bgsafe takes this for an operator's word or for its own loss; either way no writer may notice.
        direct.demand(&["CONFIG", "SET", common::SWITCH, "yes"]).unwrap();
        std::thread::sleep(millis(5));
        direct.demand(&["CONFIG", "SET", common::SWITCH, "no"]).unwrap();
        std::thread::sleep(millis(15));
    }
    drop(direct);
    broken.heal().unwrap();
    direct = lab.server.direct().unwrap();
    eventually("a save", Duration::from_secs(5), || {
        // One that was forked before the heal may still run, and fail.
        let _ = direct.command(&["BGSAVE"]).unwrap();
        direct.info("rdb_last_bgsave_status").unwrap().as_deref() == Some("ok")
    });
    std::thread::sleep(millis(300));
    let score = lab.judge();
    lab.assert_perfect(&score);
}

/// A drained SIGTERM leaves the operator's setting as it was found, or a debt that says so.
#[test]
fn a_bgsafe_that_is_told_to_stop_while_mitigated_does_not_forget() {
    let fault = Fault::DumpDir;
    let mut lab = Lab::new(fault.options(&program()), &[]);
    lab.write();
    let broken = fault.strike(lab.server.site()).unwrap();
    eventually("the switch to be lowered", Duration::from_secs(5), || lab.switch() == "no");
    let status = lab.bgsafe.terminate().unwrap();
    assert!(status.success(), "{status}");
    let score = lab.judge();
    lab.assert_honest(&score);
    lab.bgsafe.restart().unwrap();
    broken.heal().unwrap();
    // Nobody writes any more: the debt alone must bring it back.
    lab.wait_until_quiet("yes");
    lab.assert_no_debt_file();
}

/// Peace: bgsafe in front of a healthy server is not there at all.
#[test]
fn peace_is_invisible_and_leaves_no_record() {
    let mut lab = Lab::new(Default::default(), &[]);
    lab.write();
    std::thread::sleep(millis(800));
    let score = lab.judge();
    lab.assert_perfect(&score);
    assert!(matches!(lab.server.cli(&["PING"]).unwrap(), Reply::SimpleString(_)));
    assert!(lab.bgsafe.incidents().unwrap().is_empty());
    assert_eq!(lab.switch(), "yes");
}
