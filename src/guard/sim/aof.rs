//! The append-only file's illnesses, told as plans: what heals by itself, what sticks, what is only said to be well.

use super::scenarios::outcomes;
use super::*;

/// Between two writes of the client, the first of which is synced in vain.
const STUCK: [(u64, Hand); 2] = [(2000, Hand::Sync(true)), (2050, Hand::Sync(false))];

impl World {
    /// The guard has just switched the file off.
    pub(super) fn switched_off(&self) {
        let run_id = self.fake.run_id();
        if self.debt().is_none_or(|debt| !debt.is_aof() || debt.run_id != run_id || debt.owed != "yes") {
            self.fail("switched off without a durable debt");
        }
        if self.settings.aof_repair != AofRepair::Switch {
            self.fail("switched off without leave");
        }
        if self.fake.good_saves == 0 {
            self.fail("switched off without a proved save");
        }
    }

    /// Sound, and as the operator wants it.
    fn sound(&self) {
        self.converged();
        let aof = &self.fake.aof;
        if !aof.on || aof.waits || aof.sync_failed {
            self.fail(&format!("quiet with {aof:?}"));
        }
    }
}

fn with(aof_repair: AofRepair) -> Settings {
    Settings { aof_repair, ..settings() }
}

fn world(aof_repair: AofRepair, version: &'static str) -> World {
    let mut world = World::new(1, with(aof_repair));
    world.fake.version = version;
    world.fake.aof.rewrite_clears = !version.starts_with("7.0");
    world
}

#[test]
fn each_version_is_cured_its_own_way_and_proved() {
    for (version, repair, asked, off) in [
        ("6.2.14", AofRepair::Rewrite, 1, 0),
        ("7.2.4", AofRepair::Rewrite, 1, 0),
        ("7.2.4", AofRepair::Switch, 1, 0),
        ("7.0.15", AofRepair::Switch, 0, 1),
    ] {
        let mut world = world(repair, version);
        world.run(20_000, &STUCK);
        world.sound();
        assert_eq!((world.fake.aof.asked, world.fake.aof.switched_off), (asked, off), "{}", world.story);
        let incident = &world.closed[0];
        assert!(incident.verified_after_ms.is_some(), "{}", world.story);
        assert_eq!(world.fake.aof.bare, 0, "a write was let in before the rewrite\n{}", world.story);
        let outcome = if off == 1 { Outcome::Rearmed } else { Outcome::SelfHealed };
        assert_eq!(outcomes(&world), [outcome], "{}", world.story);
    }
}

#[test]
fn without_leave_or_without_a_known_way_it_is_told_and_left_alone() {
    for (version, repair, why) in [
        ("7.0.15", AofRepair::Rewrite, "needs --aof-repair switch"),
        ("7.2.4", AofRepair::Off, "needs --aof-repair"),
        ("6.0.9", AofRepair::Switch, "nothing clears it"),
    ] {
        let mut world = world(repair, version);
        world.run(20_000, &STUCK);
        assert_eq!((world.guard.phase(), world.posture), (Phase::Holding, Posture::Hold), "{}", world.story);
        assert_eq!((world.fake.aof.asked, world.fake.aof.switched_off, world.sent), (0, 0, 0));
        assert_eq!(world.warnings, ["append-only file left alone"], "{}", world.story);
        assert!(world.story.contains(why), "{}", world.story);
        world.run(30_000, &[(20_500, Hand::Expire)]);
        world.sound();
        assert_eq!(outcomes(&world), [Outcome::SelfHealed], "{}", world.story);
        assert!(world.closed[0].verified_after_ms.is_some(), "{}", world.story);
    }
}

#[test]
fn a_write_error_is_held_until_there_is_room_and_nothing_is_asked() {
    let mut world = world(AofRepair::Switch, "7.2.4");
    world.run(9000, &[(2000, AOF)]);
    assert_eq!((world.guard.phase(), world.posture), (Phase::Holding, Posture::Hold), "{}", world.story);
    world.run(12_000, &[(9000, WELL)]);
    world.sound();
    assert_eq!((world.fake.aof.asked, world.fake.aof.switched_off, world.sent), (0, 0, 0));
    assert!(world.closed[0].verified_after_ms.is_some(), "{}", world.story);
}

/// Somebody typed `appendonly no` and `yes` while the disk was still bad: PONG, status ok, and nothing on disk.
#[test]
fn a_false_recovery_stays_held_and_is_told() {
    let mut world = world(AofRepair::Rewrite, "7.0.15");
    let by_hand = [(2000, Hand::Sync(true)), (3000, Hand::SetAof(false)), (3000, Hand::SetAof(true))];
    world.run(20_000, &by_hand);
    assert_eq!((world.guard.phase(), world.posture), (Phase::Holding, Posture::Hold), "{}", world.story);
    assert!(world.warnings.contains(&"false recovery"), "{:?}\n{}", world.warnings, world.story);
    world.run(40_000, &[(20_000, Hand::Sync(false))]);
    world.sound();
    assert!(world.closed[0].verified_after_ms.is_some(), "{}", world.story);
}

#[test]
fn a_file_switched_off_by_hand_is_the_operators() {
    let mut world = world(AofRepair::Switch, "6.0.9");
    world.run(20_000, &[(2000, Hand::Sync(true)), (5000, Hand::SetAof(false))]);
    world.converged();
    assert!(!world.fake.aof.on, "{}", world.story);
    assert_eq!(outcomes(&world), [Outcome::Operator], "{}", world.story);
}

/// A disk that is still bad: tried again at the pace of saves, held meanwhile.
#[test]
fn a_way_that_fails_goes_back_to_holding() {
    for (version, repair) in [("7.2.4", AofRepair::Rewrite), ("7.0.15", AofRepair::Switch)] {
        let mut world = world(repair, version);
        world.run(60_000, &[(2000, Hand::Sync(true))]);
        assert_eq!((world.guard.phase(), world.posture), (Phase::Holding, Posture::Hold), "{}", world.story);
        assert!(world.fake.aof.asked <= 6 && world.fake.aof.switched_off <= 6, "{}", world.story);
        world.run(140_000, &[(60_000, Hand::Sync(false))]);
        world.sound();
    }
}

#[test]
fn a_yes_that_is_not_accepted_is_asked_for_again_also_by_the_next_life() {
    for crash in [false, true] {
        let mut world = world(AofRepair::Switch, "7.0.15");
        world.fake.no_aof = true;
        world.run(9000, &STUCK);
        assert!(!world.fake.aof.on && world.debt().is_some_and(|debt| debt.is_aof()), "{}", world.story);
        assert_eq!(world.posture, Posture::Hold, "{}", world.story);
        if crash {
            world.crash();
        }
        world.fake.no_aof = false;
        world.run(20_000, &[]);
        world.sound();
        assert_eq!(outcomes(&world), [Outcome::Rearmed], "{}", world.story);
    }
}

#[test]
fn both_at_once_end_with_both_settings_back() {
    let mut world = world(AofRepair::Switch, "7.0.15");
    let plan = [
        (2000, DISK),
        (2001, Hand::Sync(true)),
        (2010, Hand::Bgsave),
        (6000, WELL),
        (6000, Hand::Sync(false)),
    ];
    world.run(60_000, &plan);
    world.sound();
    assert!(world.fake.knob, "{}", world.story);
}

#[test]
fn a_crash_at_every_step_leaves_the_file_on() {
    for (version, cut) in [("7.0.15", 2700), ("7.0.15", 90_000), ("7.2.4", 2600)] {
        let plan = [STUCK[0], STUCK[1], (cut, Hand::Cut), (40_000, Hand::Expire)];
        let mut whole = world(AofRepair::Switch, version);
        whole.run(60_000, &plan);
        whole.sound();
        for crash_at in 1..=whole.steps.min(260) {
            let mut world = world(AofRepair::Switch, version);
            world.crash_at = Some(crash_at);
            world.run(60_000, &plan);
            world.sound();
        }
    }
}

#[test]
fn many_seeds_of_a_sick_file_converge() {
    for seed in 0..60 {
        let mut rng = Rng(seed ^ 0xa0f0_0a0f);
        let mut at = 1500;
        let mut plan = Vec::new();
        for _ in 0..4 + rng.below(10) {
            at += if rng.one_in(2) { rng.below(300) } else { rng.below(6000) };
            let hand = match rng.below(10) {
                0..=2 => Hand::Sync(true),
                3 | 4 => Hand::Sync(false),
                5 => AOF,
                6 => WELL,
                7 => Hand::Cut,
                8 => [DISK, Hand::Bgsave][rng.below(2) as usize],
                _ => Hand::Restart,
            };
            plan.push((at, hand));
        }
        plan.extend([(at + 1, WELL), (at + 1, Hand::Sync(false)), (at + 2, Hand::Bgsave)]);
        plan.push((at + 150_000, Hand::Expire));
        let version = ["6.2.14", "7.0.15", "7.2.4"][rng.below(3) as usize];
        let repair = [AofRepair::Off, AofRepair::Rewrite, AofRepair::Switch][rng.below(3) as usize];
        let mut world = world(repair, version);
        (world.rng, world.chaos) = (Rng(seed), true);
        world.crash_at = rng.one_in(2).then(|| 1 + rng.below(300));
        world.tell(format!("seed {seed}"));
        world.run(at + 150_000, &plan);
        world.chaos = false;
        world.run(at + 230_000, &[(at + 155_000, Hand::Expire)]);
        world.sound();
    }
}
