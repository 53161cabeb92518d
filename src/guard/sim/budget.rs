//! A budget of changes, spent to the command: by writers through us, past us, at full speed, and with a crash at
//! any step.

use super::scenarios::outcomes;
use super::*;

fn budget(changes: u64) -> Settings {
    Settings { exposure_changes: changes, ..settings() }
}

/// Lowered and failing, with the unsaved changes of before.
fn lowered(settings: Settings) -> (World, u64) {
    let mut world = World::new(1, settings);
    world.run(2200, &[(2000, DISK), (2010, Hand::Bgsave)]);
    assert!(!world.fake.knob, "{}", world.story);
    let seen = world.guard.exposure(world.clock());
    let before = seen.changes_since_save.unwrap() - seen.changes;
    (world, before)
}

/// Hundreds of writers, each millisecond more than the guard could look at.
#[test]
fn writers_through_us_spend_a_budget_to_the_command() {
    for (changes, burst) in [(20, 3), (1000, 40), (10_000, 700)] {
        let (mut world, before) = lowered(budget(changes));
        for ms in 2201.. {
            world.hand(Hand::Burst(burst));
            world.run(ms, &[]);
            if world.fake.knob {
                break;
            }
            assert!(ms < 6000, "never spent: {}", world.story);
        }
        assert_eq!(world.fake.dirty() - before, changes, "{}", world.story);
        world.run(6000, &[]);
        assert_eq!(
            (world.guard.phase(), world.posture),
            (Phase::Exposed, Posture::Refuse),
            "{}",
            world.story
        );
        assert_eq!(world.guard.record().unwrap().changes_exposed, changes);
        assert_eq!(world.warnings.len(), 2, "{:?}", world.warnings);
        world.run(90_000, &[(6100, WELL)]);
        world.converged();
        assert_eq!(outcomes(&world), [Outcome::Exposed], "{}", world.story);
    }
}

/// Only the server's count has them, so looks come faster the nearer the end.
#[test]
fn writers_past_us_are_seen_by_looks_that_come_faster_toward_the_end() {
    let (mut world, before) = lowered(budget(10_000));
    for ms in 2201.. {
        world.hand(Hand::Past(20));
        world.run(ms, &[]);
        if world.fake.knob {
            break;
        }
        assert!(ms < 6000, "never spent: {}", world.story);
    }
    let spent = world.fake.dirty() - before;
    assert!((10_000..10_100).contains(&spent), "{spent}\n{}", world.story);
}

#[test]
fn a_budget_of_changes_that_is_kept_open_counts_no_more() {
    let (mut world, _) = lowered(Settings { when_exposed: WhenExposed::Keep, ..budget(100) });
    world.run(4000, &[(2300, Hand::Burst(500)), (2400, Hand::Burst(500)), (2500, Hand::Burst(500))]);
    assert!(!world.fake.knob && world.passed_most.is_none(), "{}", world.story);
    assert_eq!(world.posture, Posture::Forward);
    world.run(60_000, &[(4000, WELL)]);
    world.converged();
    assert_eq!(outcomes(&world), [Outcome::Rearmed], "{}", world.story);
}

#[test]
fn of_two_budgets_the_nearer_end_decides() {
    for (changes, told) in [(50, "50 changes"), (100_000, "4 s")] {
        let (mut world, _) = lowered(Settings { exposure_time: Duration::from_secs(4), ..budget(changes) });
        world.run(12_000, &[]);
        let record = world.guard.record().unwrap();
        let spent = record.timeline.iter().find(|entry| entry.event == "exposure budget spent").unwrap();
        assert!(spent.detail.contains(told), "{spent:?}");
    }
}

/// From the lowering to the restore: within a second of the budget, and not before.
#[test]
fn a_budget_of_seconds_is_kept_within_one() {
    for secs in [2, 7, 30] {
        let mut world = World::new(1, Settings { exposure_time: Duration::from_secs(secs), ..settings() });
        world.run(2000, &[(1990, DISK), (1995, Hand::Bgsave)]);
        let mut down = 0;
        for ms in 2001.. {
            world.run(ms, &[]);
            match (down, world.fake.knob) {
                (0, false) => down = ms,
                (1.., true) => {
                    let open = ms - down;
                    assert!(
                        (secs * 1000..=secs * 1000 + 1000).contains(&open),
                        "{open} ms of {secs} s\n{}",
                        world.story
                    );
                    break;
                }
                _ => assert!(ms < 40_000, "{}", world.story),
            }
        }
    }
}

#[test]
fn a_crash_at_every_step_of_a_metered_exposure_still_repays() {
    let plan = [
        (2000, DISK),
        (2010, Hand::Bgsave),
        (2300, Hand::Burst(60)),
        (2400, Hand::Past(30)),
        (2500, Hand::Burst(60)),
        (9000, WELL),
    ];
    let whole = || {
        let mut world = World::new(1, budget(200));
        world.run(100_000, &plan);
        world
    };
    for crash_at in 1..=whole().steps.min(300) {
        let mut world = World::new(crash_at, budget(200));
        world.crash_at = Some(crash_at);
        world.run(100_000, &plan);
        world.converged();
        assert!(world.passed_most.is_none(), "nobody counts in peace: {}", world.story);
    }
}
