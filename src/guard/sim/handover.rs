//! The primary's role is handed over: it moves once or not at all, whatever breaks meanwhile.

use super::scenarios::outcomes;
use super::*;
use crate::testing::fake_redis::Failover;

const TO: &str = "10.0.0.2:6379";
/// A save fails; some time later the cause is gone. Once it is a replica, its new primary writes.
const FAILS: [(u64, Hand); 4] = [(0, Hand::Stream(true)), (2000, FORK), (2010, Hand::Bgsave), (20_000, WELL)];

fn redirect() -> Settings {
    Settings { policy: Policy::Redirect, ..settings() }
}

fn world(settings: Settings, fit: Option<Result<String, String>>) -> World {
    let mut world = World::new(1, settings);
    world.fit = fit;
    world
}

fn fit() -> Option<Result<String, String>> {
    Some(Ok(TO.into()))
}

fn results(world: &World) -> Vec<bool> {
    let over = |news: &News| match news {
        News::Over(result) => Some(result.is_ok()),
        News::Replicas(_) | News::Endangered(_) | News::Alarmed | News::Looked | News::WantsOver(_) => None,
    };
    world.news.iter().filter_map(over).collect()
}

#[test]
fn the_role_moves_and_the_old_primary_is_repaired_as_a_replica() {
    let mut world = world(redirect(), fit());
    world.run(2100, &FAILS[..3]);
    assert!(!world.fake.primary && !world.fake.knob && world.debt().is_some(), "{}", world.story);
    assert_eq!((results(&world), world.posture), (vec![true], Posture::Forward), "{}", world.story);
    let moved = world.guard.record().unwrap().mitigated_after_ms.unwrap();
    assert!((30..80).contains(&moved), "{moved}\n{}", world.story);
    world.run(60_000, &FAILS[3..]);
    world.converged();
    assert_eq!((world.aborts, outcomes(&world)), (0, vec![Outcome::Redirected]), "{}", world.story);
}

#[test]
fn whatever_step_bgsafe_dies_at_nothing_is_left_owed_and_nobody_ends_himself() {
    for failover in [Failover::Works, Failover::TimesOut, Failover::Missing] {
        let mut whole = world(redirect(), fit());
        whole.fake.failover = failover;
        whole.run(60_000, &FAILS);
        whole.converged();
        for at in 1..=whole.steps {
            let mut world = world(redirect(), fit());
            world.fake.failover = failover;
            world.rng = Rng(at);
            world.crash_at = Some(at);
            world.run(90_000, &FAILS);
            world.converged();
            assert_eq!(world.aborts, 0, "{failover:?}, crash at {at}\n{}", world.story);
        }
    }
}

#[test]
fn a_line_that_breaks_over_it_leaves_no_doubt() {
    for (failover, ms) in [(Failover::Works, 0..60), (Failover::TimesOut, 0..60)] {
        for ms in ms {
            let mut world = world(redirect(), fit());
            world.fake.failover = failover;
            let mut plan = FAILS.to_vec();
            plan.insert(3, (2030 + ms, Hand::Cut));
            world.run(90_000, &plan);
            world.converged();
            let moved = results(&world).last() == Some(&true);
            assert_eq!((world.aborts, moved), (0, !world.fake.primary), "{failover:?} {ms}\n{}", world.story);
        }
    }
}

#[test]
fn a_role_that_does_not_move_costs_nothing_but_time() {
    for failover in [Failover::TimesOut, Failover::Missing] {
        let mut world = world(redirect(), fit());
        world.fake.failover = failover;
        world.run(8000, &FAILS[..3]);
        assert!(world.fake.primary && world.fake.knob && world.debt().is_none(), "{}", world.story);
        assert_eq!((world.guard.phase(), world.posture), (Phase::Holding, Posture::Hold), "{}", world.story);
        assert_eq!(results(&world), [false], "{}", world.story);
        assert!(
            world.story.contains("redis-cli -h 127.0.0.1 -p 6379 FAILOVER TO 10.0.0.2 6379"),
            "{}",
            world.story
        );
        world.run(60_000, &FAILS[3..]);
        world.converged();
        assert_eq!(outcomes(&world), [Outcome::SelfHealed], "{}", world.story);
    }
}

#[test]
fn with_nobody_fit_the_switch_is_never_touched_and_it_is_tried_again() {
    for fit in [Some(Err("no replica is fit".into())), None] {
        let mut world = world(redirect(), fit);
        world.run(40_000, &FAILS[..3]);
        assert!(world.fake.primary && world.fake.knob && world.lowerings == 0, "{}", world.story);
        assert_eq!((results(&world), world.posture), (vec![false; 2], Posture::Hold), "{}", world.story);
        world.fit = self::fit();
        world.run(70_000, &[]);
        assert!(!world.fake.primary && results(&world).last() == Some(&true), "{}", world.story);
    }
}

#[test]
fn a_spent_budget_may_be_the_reason() {
    let spent =
        Settings { exposure_time: Duration::from_secs(3), when_exposed: WhenExposed::Redirect, ..settings() };
    let mut world = world(spent.clone(), fit());
    world.run(60_000, &FAILS);
    world.converged();
    assert_eq!((world.aborts, outcomes(&world)), (0, vec![Outcome::Redirected]), "{}", world.story);
    for (fit, failover) in [(None, Failover::Works), (fit(), Failover::TimesOut), (fit(), Failover::Missing)]
    {
        let mut world = self::world(spent.clone(), fit);
        world.fake.failover = failover;
        world.run(12_000, &FAILS[..3]);
        let state = (world.guard.phase(), world.posture, world.fake.knob);
        assert_eq!(state, (Phase::Exposed, Posture::Refuse, true), "{}", world.story);
        world.run(60_000, &FAILS[3..]);
        world.converged();
        assert_eq!(outcomes(&world), [Outcome::Exposed], "{}", world.story);
    }
}
