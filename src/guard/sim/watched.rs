//! Incidents of a server that Sentinel watches: what they say, when it turns, and what must never happen then.

use super::scenarios::outcomes;
use super::*;
use crate::model::mutant::{Mutant, with};
use crate::topology::view::{Report, View};

const OTHER: &str = "10.0.0.2:6379";

/// What the Sentinels say, as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Agrees,
    SDown,
    FailingOver,
    Other,
    Disagree,
    Silent,
}

impl Said {
    fn report(self) -> Report {
        let view = match self {
            Said::Agrees => View::Agrees,
            Said::SDown => View::SDown { by: 2, of: 3 },
            Said::FailingOver => View::FailingOver,
            Said::Other => View::SaysOther(OTHER.into()),
            Said::Disagree => View::Disagree,
            Said::Silent => View::Silent,
        };
        let able = matches!(self, Said::Agrees | Said::SDown);
        let fails_over_within = able.then_some(Duration::from_secs(6));
        Report { view, epoch: 3, heard: 3, known: 3, fails_over_within }
    }
}

impl World {
    /// So many Sentinels watch from now on and say this; `None`: they cannot be asked.
    pub(super) fn are_watched(&mut self, sentinels: i64, said: Option<Said>) {
        self.fake.sentinels = sentinels;
        self.said = said;
        self.errands.retain(|(_, event)| !matches!(event, Event::Viewed(_)));
        self.sentinels_speak(1);
    }

    pub(super) fn sentinels_speak(&mut self, after_ms: u64) {
        if let Some(said) = self.said {
            self.errands.push((self.now + after_ms, Event::Viewed(said.report())));
        }
    }

    pub(super) fn sentinels_speak_again(&mut self) {
        if !self.errands.iter().any(|(_, event)| matches!(event, Event::Viewed(_))) {
            self.sentinels_speak(1000);
        }
    }

    pub(super) fn hear_of(&mut self, event: &Event) {
        if let (Event::Viewed(_), Some(said)) = (event, self.said) {
            self.told = Some((self.now, said));
        }
    }

    pub(super) fn lowers_what_sentinel_agrees_to(&self) {
        if self.fake.sentinels == 0 || !self.fake.primary {
            return;
        }
        match self.told {
            Some((_, Said::Agrees | Said::SDown)) => {}
            Some((_, told)) => self.fail(&format!("lowered although Sentinel said {told:?}")),
            None => self.fail("lowered without asking Sentinel"),
        }
    }

    pub(super) fn lets_nothing_through_to_a_zombie(&self) {
        let replaced = matches!(self.told, Some((_, Said::Other | Said::FailingOver)));
        let ours = !self.fake.knob && self.wanted && self.debt().is_some();
        // Between two lives the posture is Forward, and the first look finds the debt.
        if replaced && ours && self.fake.primary && self.up && self.guard.phase() != Phase::Quiet {
            self.fail("a write was let through to a server that was replaced, with its switch down");
        }
    }
}

const WATCHED: Hand = Hand::Watch(3, Some(Said::Agrees));

fn watched(settings: Settings, plan: &[(u64, Hand)], until: u64) -> World {
    let mut world = World::new(1, settings);
    world.hand(WATCHED);
    world.run(until, plan);
    world
}

#[test]
fn while_sentinel_agrees_writes_open_as_fast_as_ever() {
    for said in [Said::Agrees, Said::SDown] {
        let plan = [(1000, Hand::Watch(3, Some(said))), (4000, FORK), (4010, Hand::Bgsave), (4011, WELL)];
        let world = watched(settings(), &plan, 12_000);
        world.converged();
        assert_eq!(
            (outcomes(&world).as_slice(), world.lowerings),
            (&[Outcome::Rearmed][..], 1),
            "{}",
            world.story
        );
        assert!(world.closed[0].mitigated_after_ms.unwrap() < 5, "{}", world.story);
    }
}

/// bgsafe starts in front of it when all is over: it does not know yet that anybody watches.
#[test]
fn an_old_primary_is_not_opened_nor_saved() {
    for said in [Some(Said::Other), Some(Said::FailingOver), Some(Said::Disagree)] {
        let mut world = World::new(1, settings());
        world.fake.sentinels = 3;
        world.fake.faults.fork = true;
        drop(world.fake.execute(EPOCH, 9, &[b"BGSAVE".to_vec()]));
        world.run(30_000, &[(1500, Hand::Watch(3, said))]);
        assert_eq!((world.lowerings, world.sent), (0, 0), "{said:?}\n{}", world.story);
        assert_eq!((world.guard.phase(), world.posture), (Phase::Holding, Posture::Hold), "{}", world.story);
        let found: Vec<&str> = world.guard.record().unwrap().findings.iter().map(|f| f.id.as_str()).collect();
        assert_eq!(found.contains(&"zombie-primary"), said == Some(Said::Other), "{found:?}");
        // They come to agree on it after all: it is a primary like any other.
        world.run(45_000, &[(30_000, WATCHED), (30_500, WELL)]);
        world.converged();
        assert_eq!((outcomes(&world), world.lowerings), (vec![Outcome::Rearmed], 1), "{}", world.story);
    }
}

#[test]
fn sentinels_that_cannot_be_asked_never_count_as_agreeing() {
    let world =
        watched(settings(), &[(1000, Hand::Watch(3, None)), (20_000, FORK), (20_010, Hand::Bgsave)], 40_000);
    assert_eq!(world.lowerings, 0, "{}", world.story);
    assert!(world.sent > 0, "a save is tried all the same\n{}", world.story);
    let mut world = world;
    world.run(140_000, &[(40_000, WELL)]);
    world.converged();
}

#[test]
fn a_failover_that_begins_while_the_switch_is_down_stops_what_comes_through_us() {
    let plan = [
        (2000, DISK),
        (2010, Hand::Bgsave),
        (5000, Hand::Watch(3, Some(Said::FailingOver))),
        (7000, Hand::Watch(3, Some(Said::Other))),
    ];
    let mut world = watched(settings(), &plan, 9000);
    assert_eq!((world.posture, world.fake.knob), (Posture::Hold, false), "{}", world.story);
    // Demoted, it answers READONLY by itself; put back is the switch after a proved save only.
    world.run(20_000, &[(12_000, Hand::Primary(false))]);
    assert_eq!((world.posture, world.fake.knob), (Posture::Forward, false), "{}", world.story);
    world.run(90_000, &[(20_000, WELL)]);
    world.converged();
    assert_eq!(outcomes(&world), [Outcome::Rearmed]);
}

#[test]
fn a_failover_that_is_given_up_lets_writes_through_again() {
    let plan = [
        (2000, DISK),
        (2010, Hand::Bgsave),
        (5000, Hand::Watch(3, Some(Said::FailingOver))),
        (9000, WATCHED),
    ];
    let world = watched(settings(), &plan, 12_000);
    assert_eq!((world.posture, world.fake.knob), (Posture::Forward, false), "{}", world.story);
}

#[test]
fn who_prefers_a_failover_waits_for_it_and_no_longer() {
    let prefers = Settings { sentinel_policy: SentinelPolicy::PreferFailover, ..settings() };
    let world = watched(prefers.clone(), &[(2000, DISK), (2010, Hand::Bgsave)], 7500);
    assert_eq!((world.lowerings, world.posture), (0, Posture::Hold), "{}", world.story);
    // It does not come: the writes are opened.
    let world = watched(prefers.clone(), &[(2000, DISK), (2010, Hand::Bgsave)], 12_000);
    assert_eq!((world.lowerings, world.posture), (1, Posture::Forward), "{}", world.story);
    // It comes.
    let plan = [(2000, DISK), (2010, Hand::Bgsave), (5000, Hand::Watch(3, Some(Said::Other)))];
    let world = watched(prefers, &plan, 30_000);
    assert_eq!((world.lowerings, world.posture), (0, Posture::Hold), "{}", world.story);
}

#[test]
fn switched_off_nobody_is_asked() {
    let off = Settings { seek: Seek::Off, ..settings() };
    let mut world = World::new(1, off);
    world.run(12_000, &[(2000, FORK), (2010, Hand::Bgsave), (2011, WELL)]);
    world.converged();
    assert_eq!(world.lowerings, 1);
}

/// Crash at every step, lost messages, views that turn at any moment.
#[test]
fn whatever_sentinel_says_and_whenever_we_die_no_zombie_is_opened() {
    const WORDS: [Option<Said>; 7] = [
        Some(Said::Agrees),
        Some(Said::SDown),
        Some(Said::FailingOver),
        Some(Said::Other),
        Some(Said::Disagree),
        Some(Said::Silent),
        None,
    ];
    for seed in 0..400 {
        let mut rng = Rng(seed + 1);
        let mut plan = vec![(2000, FORK), (2010, Hand::Bgsave), (9000 + rng.below(9000), WELL)];
        for _ in 0..4 {
            let said = WORDS[rng.below(WORDS.len() as u64) as usize];
            plan.push((500 + rng.below(20_000), Hand::Watch(3, said)));
        }
        plan.push((25_000, WATCHED));
        plan.sort_by_key(|(at, _)| *at);
        let mut world = World::new(seed, settings());
        world.chaos = seed % 2 == 0;
        world.crash_at = Some(1 + seed / 2 % 120);
        world.hand(WATCHED);
        world.run(60_000, &plan);
        world.chaos = false;
        world.run(190_000, &[]);
        world.converged();
    }
}

#[test]
fn the_bugs_that_open_a_zombie_are_found() {
    for mutant in [Mutant::LowersAZombie, Mutant::TakesSilenceForConsent] {
        let found = std::panic::catch_unwind(|| {
            with(Some(mutant), || match mutant {
                Mutant::LowersAZombie => an_old_primary_is_not_opened_nor_saved(),
                _ => sentinels_that_cannot_be_asked_never_count_as_agreeing(),
            });
        });
        with(None, || ());
        assert!(found.is_err(), "{mutant:?}");
    }
}
