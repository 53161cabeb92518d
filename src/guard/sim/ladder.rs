//! Incidents by what the guard may spend and may do: the exposure budget, and the rights of the control user.

use super::*;

const HALF: &str = "half of the exposure budget spent";
const MOST: &str = "nine tenths of the exposure budget spent";

/// How often each of these words stands in the open incident's timeline.
fn told(world: &World, event: &str) -> usize {
    world.guard.record().unwrap().timeline.iter().filter(|entry| entry.event == event).count()
}

#[test]
fn half_and_nine_tenths_of_a_budget_are_told_once_each() {
    for settings in [
        Settings { exposure_time: Duration::from_secs(20), ..settings() },
        Settings { exposure_changes: 540, ..settings() },
        Settings { exposure_time: Duration::from_secs(20), exposure_changes: 540, ..settings() },
    ] {
        let mut world = World::new(1, settings);
        world.run(2100, &[(2000, DISK), (2010, Hand::Bgsave)]);
        let mut until = 2100;
        while world.guard.phase() != Phase::Exposed {
            let expected: &[&str] = match world.guard.exposure(world.clock()).tenths() {
                0..5 => &[],
                5..9 => &[HALF],
                9.. => &[HALF, MOST],
            };
            // What was spent since the newest look is told by the next, at the most a second later.
            until += 1100;
            world.run(until, &[]);
            assert!(
                world.warnings.starts_with(expected),
                "{expected:?} {:?}\n{}",
                world.warnings,
                world.story
            );
            let most = world.guard.exposure(world.clock()).tenths();
            assert!(world.warnings.len() <= usize::from(most >= 5) + usize::from(most >= 9) || most == 0);
            assert!(until < 25_000, "{}", world.story);
        }
        assert_eq!((told(&world, HALF), told(&world, MOST), world.warnings.len()), (1, 1, 2));
        // The next incident tells again.
        world.run(120_500, &[(30_000, WELL), (100_000, DISK), (100_010, Hand::Bgsave)]);
        assert_eq!(world.warnings, [HALF, MOST, HALF, MOST], "{}", world.story);
    }
}

#[test]
fn a_budget_kept_open_is_told_of_once_when_it_is_spent_and_one_without_limit_never() {
    let ten = Settings { exposure_time: Duration::from_secs(10), ..settings() };
    let mut world = World::new(1, Settings { when_exposed: WhenExposed::Keep, ..ten });
    world.run(60_000, &[(2000, DISK), (2010, Hand::Bgsave)]);
    assert_eq!(world.warnings, [HALF, MOST, "exposure budget spent"], "{}", world.story);
    let mut world = World::new(1, Settings { exposure_time: Duration::ZERO, ..settings() });
    world.run(60_000, &[(2000, DISK), (2010, Hand::Bgsave)]);
    assert_eq!(world.warnings, [] as [&str; 0], "{}", world.story);
}

fn rights(world: &World) -> (Vec<String>, Vec<String>) {
    let rights = world.guard.status(world.clock(), crate::guard::record::Held::default()).rights;
    (rights.allowed, rights.denied)
}

#[test]
fn what_the_control_user_may_do_is_known_in_peace() {
    let mut world = World::new(1, settings());
    world.run(1000, &[]);
    let all =
        ["ping", "info", "role", "config-get", "config-set", "bgsave", "lastsave", "multi", "config-rewrite"];
    assert_eq!(rights(&world), (all.map(String::from).to_vec(), vec![]), "{}", world.story);
    assert!(world.fake.knob && world.sent == 0);
}

/// Nothing is tried that is known to be refused: no debt is written, the first step is the save.
#[test]
fn a_denied_config_parks_at_once_and_a_granted_one_lowers() {
    let faults = Faults { fork: true, no_config: true, ..Faults::default() };
    let mut world = World::new(1, settings());
    world.fake.faults = Faults { no_config: true, ..Faults::default() };
    world.run(3000, &[(2000, Hand::Fault(faults)), (2010, Hand::Bgsave)]);
    assert_eq!(rights(&world).1, ["config-get", "config-set", "config-rewrite"], "{}", world.story);
    assert_eq!((world.guard.phase(), world.posture), (Phase::Holding, Posture::Hold), "{}", world.story);
    assert!(!world.story.contains("WriteDebt") && !world.story.contains("Talk(Lower)"), "{}", world.story);
    assert!(world.story.contains("hold-time is short") && world.sent == 1, "{}", world.story);
    let record = world.guard.record().unwrap();
    let blocked = record.findings.iter().find(|finding| finding.id == "config-blocked").unwrap();
    let remedy = "redis-cli -h 127.0.0.1 -p 6379 ACL SETUSER default '+config|get' '+config|set'";
    assert_eq!(blocked.remedy, remedy, "{record:#?}");
    // An operator types it.
    world.run(40_000, &[(3000, FORK)]);
    assert!(!world.fake.knob && world.posture == Posture::Forward, "{}", world.story);
    world.run(100_000, &[(40_000, WELL)]);
    world.converged();
    assert_eq!(world.closed[0].outcome, Some(Outcome::Rearmed), "{}", world.story);
}
