//! What ails the host, told as plans: named, cured where that is allowed, proved, and taken back.

use super::scenarios::{found, outcomes, scenario};
use super::*;

/// What `--repair host` may cure, and the finding it is named by.
pub(super) const HOST_ILLS: [(Ill, &str); 4] = [
    (Ill::Overcommit, "fork-enomem"),
    (Ill::Nproc, "fork-eagain"),
    (Ill::WrongOwner, "dir-permission"),
    (Ill::DirGone, "dir-missing"),
];

fn with_repair(repair: Repair) -> Settings {
    Settings { repair, ..settings() }
}

#[test]
fn each_illness_of_the_host_is_named_cured_and_the_cure_proved() {
    for (ill, id) in HOST_ILLS {
        for policy in [Policy::Mitigate, Policy::Hold] {
            let settings = Settings { policy, ..with_repair(Repair::Host) };
            let world = scenario(settings, 20_000, &[(2000, Hand::Ill(Some(ill))), (2010, Hand::Bgsave)]);
            world.converged();
            let incident = &world.closed[0];
            let finding = &incident.findings[0];
            assert_eq!((finding.id.as_str(), finding.applied), (id, true), "{ill:?}\n{}", world.story);
            assert!(world.sent <= 2 && incident.closed_after_ms.unwrap() < 2500, "{ill:?}\n{}", world.story);
            assert_eq!(world.fake.dir, "/data");
        }
    }
}

#[test]
fn without_leave_the_cure_is_told_and_nothing_touched() {
    for (ill, id) in HOST_ILLS {
        for repair in [Repair::Off, Repair::Redis] {
            let plan = [(2000, Hand::Ill(Some(ill))), (2010, Hand::Bgsave)];
            let mut world = scenario(with_repair(repair), 9000, &plan);
            let record = world.guard.record().expect("open").clone();
            assert_eq!(
                (record.findings[0].id.as_str(), record.findings[0].applied),
                (id, false),
                "{}",
                world.story
            );
            assert!(!record.findings[0].remedy.is_empty());
            assert!(
                record.timeline.iter().any(|e| e.event == "remedy not allowed"),
                "{ill:?}\n{}",
                world.story
            );
            world.hand(Hand::Ill(None));
            world.run(40_000, &[]);
            world.converged();
        }
    }
}

/// Each try could kill the server: protect it, try once more, then leave it to a human.
#[test]
fn two_kills_for_want_of_memory_are_enough_and_the_shield_is_taken_back() {
    let plan = [(2000, Hand::Ill(Some(Ill::OomKiller))), (2010, Hand::Bgsave)];
    let mut world = scenario(settings(), 120_000, &plan);
    assert!(world.fake.oom_score_adj && world.sent <= 2, "{} tries\n{}", world.sent, world.story);
    assert_eq!(world.guard.phase(), Phase::Stuck, "{}", world.story);
    world.hand(Hand::Ill(None));
    world.hand(Hand::Bgsave);
    world.run(130_000, &[]);
    world.converged();
    assert!(!world.fake.oom_score_adj, "{}", world.story);
    assert_eq!(outcomes(&world), [Outcome::Rearmed]);
}

#[test]
fn a_crash_at_every_step_of_a_repair_still_repays() {
    for (ill, _) in HOST_ILLS {
        let plan = [(2000, Hand::Ill(Some(ill))), (2010, Hand::Bgsave), (30_000, Hand::Ill(None))];
        let steps = scenario(with_repair(Repair::Host), 20_000, &plan[..2]).steps;
        for crash_at in 1..=steps {
            let mut world = World::new(crash_at, with_repair(Repair::Host));
            world.crash_at = Some(crash_at);
            world.run(60_000, &plan);
            world.converged();
        }
    }
}

/// Enlarge a volume, page someone: told once a cause, and believed when it succeeds.
#[test]
fn the_operators_own_program_is_told_once_of_each_cause() {
    let plan = [(2000, DISK), (2010, Hand::Bgsave)];
    let world = scenario(Settings { hook: true, ..settings() }, 60_000, &plan);
    assert_eq!(world.hooks, 1, "{}", world.story);
}

/// A disk that hangs under a change must not hide that the server has healed.
#[test]
fn a_change_that_hangs_holds_no_write_that_the_server_would_take() {
    for policy in [Policy::Mitigate, Policy::Hold] {
        let mut world = World::new(1, Settings { policy, ..with_repair(Repair::Host) });
        world.change_ms = 20_000;
        let ill = [(2000, Hand::Ill(Some(Ill::WrongOwner))), (2010, Hand::Bgsave)];
        world.run(4000, &ill);
        assert!(world.guard.record().is_some() && world.changes.len() == 1, "{}", world.story);
        world.run(6500, &[(4000, Hand::Ill(None)), (4500, Hand::Bgsave)]);
        assert_eq!((world.guard.phase(), world.posture), (Phase::Quiet, Posture::Forward), "{}", world.story);
    }
}

/// The result of a change says nothing of another one.
#[test]
fn a_change_that_outlives_its_incident_is_not_taken_for_one_of_the_next() {
    let mut world = World::new(1, with_repair(Repair::Host));
    world.change_ms = 8000;
    let first = [(2000, Hand::Ill(Some(Ill::WrongOwner))), (2010, Hand::Bgsave)];
    world.run(4000, &first);
    world.run(7000, &[(4000, Hand::Ill(None)), (4500, Hand::Bgsave)]);
    assert_eq!(outcomes(&world), [Outcome::Rearmed], "{}", world.story);
    world.run(30_000, &[(7000, Hand::Ill(Some(Ill::DirGone))), (7010, Hand::Bgsave)]);
    let told = world.closed[1].timeline.iter();
    let applied: Vec<u64> = told.filter(|e| e.event == "remedy applied").map(|e| e.at_ms).collect();
    assert!(applied.len() == 1 && applied[0] >= 8000, "{applied:?}\n{}", world.story);
    world.converged();
}

/// Under signs of a break-in not even what was begun before is ended.
#[test]
fn a_remedy_under_way_is_given_up_when_the_target_moves() {
    let mut world = World::new(1, with_repair(Repair::Host));
    world.change_ms = 3000;
    let plan =
        [(2000, Hand::Ill(Some(Ill::DirGone))), (2010, Hand::Bgsave), (3000, Hand::Move("/root/.ssh"))];
    world.run(20_000, &plan);
    assert_eq!(world.guard.phase(), Phase::Stuck, "{}", world.story);
    assert_eq!(world.fake.dir, "/root/.ssh", "it is evidence\n{}", world.story);
}

/// While writes are parked we PING again and again: only those of others are probes that see the server dead.
#[test]
fn our_own_pings_are_no_probes() {
    let hold = Settings { policy: Policy::Hold, ..settings() };
    let mut world = World::new(1, hold);
    world.run(9000, &[(2000, FORK), (2010, Hand::Bgsave)]);
    assert!(!found(&world, "probe-hazard"), "{}", world.story);
    let ping = [b"PING".to_vec()];
    assert!(world.fake.execute(world.now, 9, &ping).starts_with(b"-MISCONF"));
    world.run(20_000, &[]);
    assert!(found(&world, "probe-hazard"), "{}", world.story);
    let says = |world: &World| {
        let findings = &world.guard.record().unwrap().findings;
        findings.iter().find(|f| f.id == "probe-hazard").map(|f| f.evidence.clone())
    };
    assert_eq!(says(&world).as_deref(), Some("1 PINGs were refused"), "{}", world.story);
    world.run(60_000, &[(20_000, WELL)]);
    world.converged();
    world.run(80_000, &[(61_000, FORK), (61_010, Hand::Bgsave)]);
    assert!(!found(&world, "probe-hazard"), "those of the last incident are over\n{}", world.story);
}

/// One incident after another, each shorter than the program: it is not started beside itself.
#[test]
fn the_operators_own_program_never_runs_twice_at_once_for_one_cause() {
    let mut world = World::new(1, Settings { hook: true, ..settings() });
    world.hook_ms = 30_000;
    for round in 0..5 {
        let at = 2000 + round * 4000;
        let plan = [(at, FORK), (at + 10, Hand::Bgsave), (at + 1500, WELL), (at + 2000, Hand::Bgsave)];
        world.run(at + 3900, &plan);
    }
    assert!(world.closed.len() > 2 && world.hooks <= 2, "{} hooks\n{}", world.hooks, world.story);
    let before = world.hooks;
    world.run(50_000, &[]);
    world.run(60_000, &[(51_000, FORK), (51_010, Hand::Bgsave)]);
    assert!(world.hooks > before, "it has ended\n{}", world.story);
}

/// Somebody cured it by hand; whether the next look for causes came before the save or after it is chance.
#[test]
fn a_cause_that_was_found_is_in_the_record_at_the_end() {
    for late in (0..4000).step_by(100) {
        let mut world = World::new(1, Settings { policy: Policy::Hold, ..with_repair(Repair::Off) });
        world.run(6000, &[(2000, Hand::Ill(Some(Ill::WrongOwner))), (2010, Hand::Bgsave)]);
        assert!(found(&world, "dir-permission"), "{}", world.story);
        world.run(30_000, &[(6000 + late, Hand::Ill(None)), (6000 + late * 2, Hand::Bgsave)]);
        world.converged();
        let named = world.closed[0].findings.iter().any(|finding| finding.id == "dir-permission");
        assert!(named, "{late}: {:?}\n{}", world.closed[0].findings, world.story);
    }
}
