//! Copies under a seed: when they are asked for, what they are worth, and every step they may die at.

use super::*;
use crate::config::Escrow;
use crate::guard::escrow::{Order, PullError};
use crate::guard::record::Held;

impl World {
    /// [`Action::Pull`]: a diskless child of the server, for as long as it takes.
    pub(super) fn pull(&mut self, order: Order) -> Result<(), Crash> {
        self.step()?;
        self.pulls += 1;
        if self.settings.escrow.when == Escrow::Off || self.settings.policy == Policy::Observe {
            self.fail("a copy that nobody allowed");
        }
        if self.fake.dir != "/data" && !self.fake.dir.is_empty() {
            self.fail("a copy after signs of a break-in");
        }
        if self.errands.iter().any(|(_, event)| matches!(event, Event::Pulled(_))) {
            self.fail("two copies at a time");
        }
        let bad = self.bad_copies > 0 || self.fake.faults.fork || (self.chaos && self.rng.one_in(4));
        let result = match bad {
            true => {
                self.bad_copies = self.bad_copies.saturating_sub(1);
                Err(PullError { why: "upstream: hung up".into(), lasting: self.chaos && self.rng.one_in(8) })
            }
            false => {
                self.fake.diskless_sync(self.now);
                Ok(Box::new(copy(order, self.copies.len())))
            }
        };
        let late = if self.chaos { self.rng.below(2 * self.copy_ms) } else { self.copy_ms };
        self.errands.push((self.now + late, Event::Pulled(result)));
        self.step()
    }

    /// [`Action::StopPull`]: its end is told at once, unless it is here already.
    pub(super) fn stop_pull(&mut self) {
        let under_way = self.errands.iter_mut().find(|(_, event)| matches!(event, Event::Pulled(_)));
        let Some((at, event)) = under_way else { return };
        if *at > self.now + 5 {
            (*at, *event) = (self.now + 1, Event::Pulled(Err(PullError::passing("us: not wanted any more"))));
        }
    }

    fn lines(&self, event: &str) -> usize {
        self.guard.record().unwrap().timeline.iter().filter(|entry| entry.event == event).count()
    }
}

fn copy(order: Order, n: usize) -> Snapshot {
    let Order { at_ms, changes, last_save, run_id } = order;
    Snapshot {
        path: format!("/escrow/{n}.rdb"),
        bytes: 1000,
        at_ms,
        changes,
        last_save,
        run_id,
        server: "redis 7.0.15".into(),
        version: 10,
        keys: Some(1),
        checked: vec!["end".into(), "sum".into()],
    }
}

fn escrow(when: Escrow, every: u64) -> Settings {
    Settings { escrow: Plan { when, every: Duration::from_secs(every) }, ..settings() }
}

const BROKEN: [(u64, Hand); 2] = [(2000, DISK), (2010, Hand::Bgsave)];

#[test]
fn a_server_that_is_stuck_is_copied_and_exposure_counts_from_the_copy() {
    let mut world = World::new(1, escrow(Escrow::WhenStuck, 600));
    world.run(15_000, &BROKEN);
    assert_eq!((world.pulls, world.guard.tries().1 < 3), (0, true), "not before: {}", world.story);
    world.run(60_000, &[]);
    assert_eq!((world.pulls, world.lines("copy taken")), (1, 1), "{}", world.story);
    assert_eq!(world.warnings, ["copy taken"], "{}", world.story);
    let exposure = world.guard.exposure(world.clock());
    let at = world.copies[0].at_ms;
    assert_eq!(exposure.secs, (world.now - at) / 1000, "{}", world.story);
    // What was changed since the look that the copy was asked for by; the newest look is a second old at the most.
    let since = world.fake.dirty() - world.copies[0].changes;
    assert!((since.saturating_sub(100)..=since).contains(&exposure.changes), "{exposure:?} {since}");
    assert!(world.copies[0].changes > 100, "{exposure:?}");
    let view = world.guard.status(world.clock(), Held::default()).escrow.unwrap();
    assert_eq!((view.path.as_str(), view.age_secs), ("/escrow/0.rdb", exposure.secs));
    // It proves nothing of the server's disk: the switch stays down until a save does.
    assert!(!world.fake.knob && world.guard.phase() == Phase::Stuck, "{}", world.story);
    assert_eq!(world.guard.debt().map(|debt| debt.owed.as_str()), Some("yes"));
    world.run(200_000, &[(60_000, WELL)]);
    world.converged();
    assert_eq!(world.closed[0].outcome, Some(Outcome::Rearmed), "{}", world.story);
    assert_eq!(world.pulls, 1);
}

/// As long as copies are to be had the budget is not spent: it is one of what may be lost.
#[test]
fn copies_keep_a_budget_from_being_spent_and_without_them_it_is() {
    for (when, phase) in [(Escrow::Always, Phase::Stuck), (Escrow::Off, Phase::Exposed)] {
        let settings = Settings { exposure_time: Duration::from_secs(60), ..escrow(when, 20) };
        let mut world = World::new(1, settings);
        world.run(300_000, &BROKEN);
        assert_eq!(world.guard.phase(), phase, "{when:?} {}", world.story);
        let pulls = if when == Escrow::Off { 0..1 } else { 12..16 };
        assert!(pulls.contains(&world.pulls), "{when:?} {}", world.pulls);
        world.run(500_000, &[(300_000, WELL)]);
        world.converged();
    }
}

#[test]
fn half_of_the_budget_is_as_good_as_being_stuck_and_a_spent_one_too() {
    let settings = Settings { exposure_time: Duration::from_secs(12), ..escrow(Escrow::WhenStuck, 600) };
    let mut world = World::new(1, settings);
    world.run(9500, &BROKEN);
    assert_eq!(world.pulls, 1, "{}", world.story);
    // The last one failed, then the budget was spent: what was acknowledged until then is worth a copy still.
    let settings = Settings { exposure_time: Duration::from_secs(12), ..escrow(Escrow::WhenStuck, 600) };
    let mut world = World::new(1, settings);
    world.bad_copies = 1;
    world.run(60_000, &BROKEN);
    assert_eq!((world.guard.phase(), world.pulls), (Phase::Exposed, 2), "{}", world.story);
    assert_eq!(world.copies.len(), 1);
    world.run(200_000, &[(60_000, WELL)]);
    world.converged();
}

#[test]
fn where_a_fork_does_harm_or_is_not_to_be_had_no_copy_is_asked_for() {
    let always = escrow(Escrow::Always, 5);
    for (settings, plan, story) in [
        (always.clone(), vec![(2000, FORK), (2010, Hand::Bgsave)], "the server cannot fork"),
        (
            always.clone(),
            vec![(2000, Hand::Ill(Some(Ill::OomKiller))), (2010, Hand::Bgsave)],
            "another fork could cost",
        ),
        (always.clone(), [BROKEN.to_vec(), vec![(2005, Hand::Move("/var/spool/cron"))]].concat(), "frozen"),
        (Settings { policy: Policy::Observe, ..always.clone() }, BROKEN.to_vec(), "only watching"),
        (
            Settings { policy: Policy::Mitigate, ..escrow(Escrow::Off, 5) },
            BROKEN.to_vec(),
            "saves keep failing",
        ),
    ] {
        let mut world = World::new(1, settings);
        let mut plan = plan;
        plan.sort_by_key(|(at, _)| *at);
        world.run(90_000, &plan);
        assert_eq!(world.pulls, 0, "{story}: {}", world.story);
        assert!(world.story.contains(story), "{story}: {}", world.story);
    }
}

/// What moved away while a copy is under way gives it up.
#[test]
fn a_copy_under_way_is_given_up_at_signs_of_a_break_in_and_when_saving_works() {
    let mut world = World::new(1, escrow(Escrow::Always, 600));
    world.copy_ms = 60_000;
    world.run(8000, &BROKEN);
    assert_eq!(world.pulls, 1, "{}", world.story);
    world.run(12_000, &[(8000, Hand::Move("/root/.ssh"))]);
    assert!(world.story.contains("StopPull") && world.lines("copy given up") == 1, "{}", world.story);
    assert!(world.copies.is_empty());

    let mut world = World::new(1, escrow(Escrow::Always, 600));
    world.copy_ms = 60_000;
    world.run(8000, &BROKEN);
    // Before the server forks for it a save of its own is done.
    world.fake.kill_child();
    world.run(12_000, &[(8000, WELL), (9000, Hand::Bgsave)]);
    world.converged();
    assert!(world.story.contains("StopPull") && world.copies.is_empty(), "{}", world.story);
}

/// The server has one place for a child; and the end of the one that was lent is no failed save.
#[test]
fn no_save_is_tried_while_a_copy_is_fetched_and_its_child_counts_as_none() {
    let mut world = World::new(1, escrow(Escrow::Always, 600));
    world.copy_ms = 40_000;
    world.fake.save_ms = 700;
    world.run(9000, &BROKEN);
    assert_eq!(world.pulls, 1, "{}", world.story);
    let (tries, failures) = world.guard.tries();
    world.run(40_000, &[]);
    assert_eq!(world.guard.tries(), (tries, failures), "{}", world.story);
    world.run(200_000, &[(60_000, WELL)]);
    world.converged();
}

#[test]
fn failed_copies_are_tried_ever_less_and_a_lasting_failure_only_once() {
    let mut world = World::new(1, escrow(Escrow::Always, 5));
    world.bad_copies = u32::MAX;
    world.run(400_000, &BROKEN);
    assert!((4..8).contains(&world.pulls), "{} {}", world.pulls, world.story);
    assert_eq!(world.warnings, ["copy failed"], "{:?}", world.warnings);
}

#[test]
fn a_crash_at_every_step_still_repays_and_the_next_life_counts_from_the_copy() {
    let settings = || Settings { exposure_time: Duration::from_secs(600), ..escrow(Escrow::Always, 10) };
    let plan = [BROKEN.to_vec(), vec![(25_000, Hand::Cut), (40_000, WELL)]].concat();
    let mut whole = World::new(1, settings());
    whole.run(120_000, &plan);
    whole.converged();
    assert!(whole.pulls > 2 && whole.steps > 100, "{} {}", whole.pulls, whole.steps);
    for crash_at in 1..=whole.steps {
        let mut world = World::new(crash_at, settings());
        world.crash_at = Some(crash_at);
        world.run(120_000, &plan);
        world.converged();
    }
    let mut world = World::new(1, settings());
    world.run(30_000, &BROKEN);
    let copy = world.copies.last().unwrap().clone();
    world.crash();
    world.bad_copies = u32::MAX;
    world.run(32_000, &[]);
    assert_eq!(world.guard.exposure(world.clock()).secs, (world.now - copy.at_ms) / 1000, "{}", world.story);
    // Of another process it bounds nothing.
    world.run(40_000, &[(32_000, Hand::Restart), (32_500, DISK), (32_600, Hand::Bgsave)]);
    let exposure = world.guard.exposure(world.clock());
    assert!(exposure.secs < 8, "{exposure:?} {}", world.story);
}
