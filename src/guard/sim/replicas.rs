//! A replica that would end itself, and a primary that waits for such a one.

use super::scenarios::{outcomes, scenario};
use super::*;
use crate::guard::policy::{ANSWER, SHELTER};

/// It cannot save; a second and more later its primary writes again; then the cause is gone.
const FAILS: [(u64, Hand); 6] = [
    (0, Hand::Primary(false)),
    (2000, FORK),
    (2010, Hand::Bgsave),
    (4500, Hand::Stream(true)),
    (20_000, WELL),
    (40_000, Hand::Stream(false)),
];

#[test]
fn a_replica_that_cannot_save_lives_through_its_primarys_writes() {
    let world = scenario(settings(), 41_000, &FAILS);
    world.converged();
    assert_eq!((world.aborts, world.lowerings), (0, 1), "{}", world.story);
    assert_eq!(outcomes(&world), [Outcome::Rearmed], "{}", world.story);
    let told = [News::Endangered(true), News::Endangered(false)];
    assert_eq!(world.news, told, "{}", world.story);
    assert!(world.story.contains("replica made safe") && !world.story.contains("no longer a primary"));
}

#[test]
fn without_a_guard_it_ends_itself() {
    for settings in [
        Settings { guard_replicas: false, ..settings() },
        Settings { policy: Policy::Hold, ..settings() },
        Settings { policy: Policy::Observe, ..settings() },
    ] {
        let world = scenario(settings, 41_000, &FAILS);
        assert!(world.aborts > 0 && world.lowerings == 0, "{}", world.story);
    }
}

#[test]
fn it_lives_whichever_step_bgsafe_dies_at() {
    let whole = scenario(settings(), 41_000, &FAILS);
    for at in 1..=whole.steps {
        let mut world = World::new(at, settings());
        world.crash_at = Some(at);
        world.run(60_000, &FAILS);
        world.converged();
        assert_eq!(world.aborts, 0, "crash at {at}\n{}", world.story);
    }
}

#[test]
fn one_that_ignores_errors_by_its_operators_will_is_only_repaired() {
    let mut world = World::new(1, settings());
    world.fake.ignores_errors = true;
    world.run(41_000, &FAILS);
    world.converged();
    assert_eq!((world.aborts, world.lowerings), (0, 0), "{}", world.story);
    assert!(world.sent > 0 && world.news.is_empty(), "{}", world.story);
    assert_eq!(outcomes(&world), [Outcome::SelfHealed], "{}", world.story);
}

/// To put the switch back unproved would end the process: no budget is worth that, and no intruder is kept out by it.
#[test]
fn nothing_but_a_proved_save_puts_a_replicas_switch_back() {
    let tight = Settings { exposure_time: Duration::from_secs(3), exposure_changes: 5, ..settings() };
    let mut plan = FAILS.to_vec();
    plan.insert(4, (9000, Hand::Move("/etc/cron.d")));
    for (settings, plan) in [(tight, FAILS.to_vec()), (settings(), plan)] {
        let mut world = World::new(1, settings);
        world.run(19_000, &plan[..plan.len() - 2]);
        assert!(!world.fake.knob && world.debt().is_some() && world.aborts == 0, "{}", world.story);
        assert_eq!(world.warnings, [] as [&str; 0], "{}", world.story);
    }
}

/// The look of every second could be too late for the save that fails between two: while one runs it is seen at once.
#[test]
fn a_save_that_fails_is_answered_within_a_blink() {
    let mut world = World::new(1, settings());
    world.run(
        10_000,
        &[(0, Hand::Primary(false)), (2000, DISK), (2010, Hand::Bgsave), (2120, Hand::Stream(true))],
    );
    // The save takes 80 ms; seen to begin by the look of 3000 at the latest, were it longer.
    world.run(20_000, &[(10_000, Hand::Stream(false)), (10_001, WELL), (12_000, Hand::Bgsave)]);
    let mut world = World::new(1, settings());
    world.fake.save_ms = 3000;
    let plan = [(0, Hand::Primary(false)), (2000, DISK), (2010, Hand::Bgsave), (5050, Hand::Stream(true))];
    world.run(10_000, &plan);
    assert_eq!((world.aborts, world.lowerings), (0, 1), "{}", world.story);
}

#[test]
fn a_neighbours_alarm_is_reason_enough_to_look() {
    let plan = [(0, Hand::Primary(false)), (2100, FORK), (2110, Hand::Bgsave), (2111, Hand::Roused)];
    let mut world = World::new(1, settings());
    world.run(2120, &plan);
    assert!(!world.fake.knob, "{}", world.story);
    let told = [News::Endangered(true), News::Looked, News::Endangered(false)];
    assert_eq!(world.news, told, "{}", world.story);
    // One that is well answers PONG, and no more comes of it.
    let mut world = World::new(1, settings());
    world.run(5000, &[(2111, Hand::Roused)]);
    assert!(world.closed.is_empty() && world.guard.record().is_none() && world.sent == 0, "{}", world.story);
    assert_eq!(world.news, [News::Looked], "{}", world.story);
}

/// When the switch went down, since the refusal was heard; in milliseconds.
fn lowered_after(world: &World) -> u64 {
    let record = world.guard.record().unwrap_or_else(|| world.fail("an open incident"));
    let lowered = record.timeline.iter().find(|entry| entry.event == "switch lowered");
    lowered.unwrap_or_else(|| world.fail("lowered")).at_ms
}

#[test]
fn a_primarys_writes_wait_for_replicas_in_danger_and_no_longer_than_the_bound() {
    let [answer, bound] = [ANSWER, SHELTER].map(|time| time.as_millis() as u64);
    for (plan, least, most) in [
        (vec![], 0, 5),
        // Guards that are still looking are waited for, and found to be slow.
        (vec![(1000, Hand::Endangered(0, 2))], answer, answer + 5),
        (vec![(1000, Hand::Endangered(0, 2)), (2036, Hand::Endangered(0, 0))], 0, 5),
        (vec![(1000, Hand::Endangered(0, 2)), (2036, Hand::Endangered(2, 0))], bound, bound + 5),
        (vec![(1000, Hand::Endangered(2, 0)), (1500, Hand::Endangered(0, 0))], 0, 5),
        // The client writes at the latest 37 ms after the failed save; they are safe 100 ms after it.
        (
            vec![
                (1000, Hand::Endangered(2, 0)),
                (2100, Hand::Endangered(1, 0)),
                (2110, Hand::Endangered(0, 0)),
            ],
            50,
            101,
        ),
        (vec![(1000, Hand::Endangered(1, 0))], bound, bound + 5),
    ] {
        let mut world = World::new(1, settings());
        let mut all = vec![(2000, FORK), (2010, Hand::Bgsave)];
        all.extend(plan.iter().copied());
        all.sort_by_key(|(at, _)| *at);
        world.run(3000, &all);
        let after = lowered_after(&world);
        assert!((least..=most).contains(&after), "{plan:?}: {after} ms\n{}", world.story);
        let left = world.warnings.contains(&"replicas left in danger");
        assert_eq!(left, least == bound, "{:?}\n{}", world.warnings, world.story);
        world.run(30_000, &[(3000, WELL)]);
        world.converged();
    }
}
