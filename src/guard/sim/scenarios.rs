//! Incidents told as plans: what strikes when, and what must have come of it.

use super::repairs::HOST_ILLS;
use super::*;
use crate::config::Escrow;

pub(super) fn outcomes(world: &World) -> Vec<Outcome> {
    world.closed.iter().filter_map(|incident| incident.outcome).collect()
}

pub(super) fn scenario(settings: Settings, until: u64, plan: &[(u64, Hand)]) -> World {
    let mut world = World::new(1, settings);
    world.run(until, plan);
    world
}

#[test]
fn a_dead_end_is_cured_by_one_bgsave() {
    let world = scenario(settings(), 10_000, &[(2000, FORK), (2010, Hand::Bgsave), (2011, WELL)]);
    world.converged();
    assert_eq!(outcomes(&world), [Outcome::Rearmed], "{}", world.story);
    let incident = &world.closed[0];
    assert!(incident.mitigated_after_ms.unwrap() < 5, "{}", world.story);
    assert!(incident.closed_after_ms.unwrap() < 1500, "{}", world.story);
    assert_eq!(world.sent, 1);
}

#[test]
fn a_killed_child_is_proved_fast() {
    let plan = [(2000, Hand::Bgsave), (2020, Hand::KillChild)];
    let world = scenario(settings(), 10_000, &plan);
    world.converged();
    assert_eq!(outcomes(&world), [Outcome::Rearmed]);
    assert!(world.closed[0].closed_after_ms.unwrap() < 1500, "{}", world.story);
}

#[test]
fn three_failures_call_a_human_and_writes_stay_open() {
    let mut world = World::new(1, settings());
    world.run(60_000, &[(2000, DISK), (2010, Hand::Bgsave)]);
    assert_eq!(world.guard.phase(), Phase::Stuck, "{}", world.story);
    assert_eq!(world.posture, Posture::Forward);
    assert!(!world.fake.knob && world.sent <= 5, "{}", world.story);
    assert_eq!(world.guard.record().unwrap().findings[0].id, "unknown");
    world.fake.faults = Faults::default();
    world.hand(Hand::Bgsave);
    world.run(63_000, &[]);
    world.converged();
    assert_eq!(outcomes(&world), [Outcome::Rearmed]);
}

#[test]
fn the_aof_is_never_answered_with_the_switch() {
    let mut world = World::new(1, settings());
    world.run(8000, &[(2000, AOF)]);
    assert_eq!((world.guard.phase(), world.posture), (Phase::Holding, Posture::Hold), "{}", world.story);
    assert!(world.fake.knob && world.sent == 0 && world.page == debt_blank());
    world.run(10_000, &[(8000, WELL)]);
    world.converged();
    assert_eq!(outcomes(&world), [Outcome::SelfHealed]);
}

#[test]
fn both_at_once_are_told_apart() {
    let both = Hand::Fault(Faults { fork: true, aof: true, ..Faults::default() });
    let mut world = World::new(1, settings());
    world.run(8000, &[(2000, both), (2010, Hand::Bgsave)]);
    assert_eq!((world.guard.phase(), world.posture), (Phase::Holding, Posture::Hold), "{}", world.story);
    world.run(30_000, &[(8000, AOF), (20_000, WELL)]);
    world.converged();
    assert_eq!(outcomes(&world), [Outcome::Rearmed], "{}", world.story);
}

#[test]
fn without_config_writes_are_parked_and_bgsave_is_tried() {
    let mut world = World::new(1, settings());
    world.run(5000, &[(1500, NO_CONFIG), (1600, Hand::Bgsave)]);
    assert_eq!((world.guard.phase(), world.posture), (Phase::Holding, Posture::Hold), "{}", world.story);
    assert!(world.fake.knob);
    assert!(found(&world, "config-blocked"), "{}", world.story);
    let still = Hand::Fault(Faults { no_config: true, ..Faults::default() });
    world.run(20_000, &[(5000, still)]);
    world.converged();
    assert_eq!(outcomes(&world), [Outcome::SelfHealed]);
}

pub(super) fn found(world: &World, id: &str) -> bool {
    world.guard.record().unwrap().findings.iter().any(|finding| finding.id == id)
}

#[test]
fn policies_hold_and_observe_never_touch_the_switch() {
    for policy in [Policy::Hold, Policy::Observe] {
        let mut world = World::new(1, Settings { policy, ..settings() });
        world.run(5000, &[(1500, FORK), (1600, Hand::Bgsave)]);
        assert!(world.fake.knob, "{}", world.story);
        let (phase, posture) = match policy {
            Policy::Observe => (Phase::Alarmed, Posture::Forward),
            _ => (Phase::Holding, Posture::Hold),
        };
        assert_eq!((world.guard.phase(), world.posture), (phase, posture), "{}", world.story);
        assert_eq!(world.sent > 0, policy == Policy::Hold);
        let told = |words| world.guard.record().unwrap().timeline.iter().any(|e| e.detail.contains(words));
        assert_eq!(told("would lower the switch"), policy == Policy::Observe, "{}", world.story);
        let more = [(5000, WELL), (12_000, Hand::Bgsave)];
        world.run(30_000, &more);
        world.converged();
        assert_eq!(outcomes(&world), [Outcome::SelfHealed], "{}", world.story);
    }
}

#[test]
fn the_operators_own_no_is_left_alone() {
    let plan = [(1500, Hand::SetKnob(false)), (1600, FORK), (1700, Hand::Bgsave)];
    let world = scenario(settings(), 30_000, &plan);
    assert!(!world.fake.knob && world.closed.is_empty() && world.sent == 0, "{}", world.story);
    assert_eq!(world.guard.phase(), Phase::Quiet);
    let status = world.guard.status(world.clock(), crate::guard::record::Held::default());
    assert_eq!(status.findings[0].id, "switch-left-off");
}

#[test]
fn an_operators_yes_while_lowered_is_theirs() {
    let plan = [(2000, FORK), (2010, Hand::Bgsave), (4000, Hand::SetKnob(true))];
    let mut world = scenario(settings(), 8000, &plan);
    assert_eq!((world.guard.phase(), world.posture), (Phase::Holding, Posture::Hold), "{}", world.story);
    assert!(world.fake.knob && world.page == debt_blank(), "{}", world.story);
    world.run(40_000, &[(8000, WELL)]);
    world.converged();
    assert_eq!(outcomes(&world), [Outcome::Operator]);
}

#[test]
fn a_spent_budget_puts_the_switch_back_unproved_or_goes_on_telling() {
    let tight = Settings { exposure_time: Duration::from_secs(10), ..settings() };
    let mut world = World::new(1, tight.clone());
    world.run(20_000, &[(2000, DISK), (2010, Hand::Bgsave)]);
    assert_eq!((world.guard.phase(), world.posture), (Phase::Exposed, Posture::Refuse), "{}", world.story);
    assert!(world.fake.knob && world.page == debt_blank());
    world.run(90_000, &[(20_000, WELL)]);
    world.converged();
    assert_eq!(outcomes(&world), [Outcome::Exposed]);

    let mut world = World::new(1, Settings { when_exposed: WhenExposed::Keep, ..tight });
    world.run(20_000, &[(2000, DISK), (2010, Hand::Bgsave)]);
    assert!(!world.fake.knob && world.posture == Posture::Forward, "{}", world.story);
    assert!(world.guard.record().unwrap().timeline.iter().any(|e| e.event == "exposure budget spent"));

    let mut world = World::new(1, Settings { exposure_changes: 20, ..settings() });
    world.run(6000, &[(2000, DISK), (2010, Hand::Bgsave)]);
    assert_eq!(world.guard.phase(), Phase::Exposed, "{}", world.story);
    let exposed = world.guard.record().unwrap().changes_exposed;
    assert_eq!(exposed, 20, "{}", world.story);
}

#[test]
fn a_moved_target_freezes_everything() {
    let plan = [(2000, Hand::Move("/var/spool/cron")), (3500, FORK), (3510, Hand::Bgsave), (3511, WELL)];
    let world = scenario(settings(), 30_000, &plan);
    assert_eq!((world.guard.phase(), world.posture), (Phase::Stuck, Posture::Hold), "{}", world.story);
    assert!(world.fake.knob && world.sent == 0);
    assert_eq!(world.guard.record().unwrap().findings[0].id, "break-in-signs");
}

/// The newest look was from before the intruder came.
#[test]
fn a_target_that_moved_a_moment_ago_freezes_before_anything_is_lowered() {
    let plan = [(2499, Hand::Move("/root/.ssh")), (2500, FORK), (2501, Hand::Bgsave)];
    let world = scenario(settings(), 30_000, &plan);
    assert_eq!((world.guard.phase(), world.posture), (Phase::Stuck, Posture::Hold), "{}", world.story);
    assert!(world.fake.knob && world.sent == 0 && world.lowerings == 0, "{}", world.story);
    let findings = &world.guard.record().unwrap().findings;
    assert!(findings.iter().all(|f| f.id == "break-in-signs"), "nobody is told to complete it: {findings:?}");
}

/// What we opened must not serve the intruder's save.
#[test]
fn a_target_that_moves_while_writes_are_open_puts_the_switch_back() {
    let plan = [(2000, FORK), (2010, Hand::Bgsave), (6000, Hand::Move("/root/.ssh"))];
    let mut world = scenario(settings(), 30_000, &plan);
    assert_eq!((world.guard.phase(), world.posture), (Phase::Stuck, Posture::Hold), "{}", world.story);
    assert!(world.fake.knob && world.page == debt_blank(), "{}", world.story);
    world.hand(Hand::Move("/data"));
    world.hand(WELL);
    world.hand(Hand::Bgsave);
    world.run(40_000, &[]);
    world.converged();
    assert_eq!(outcomes(&world), [Outcome::Operator]);
}

#[test]
fn a_replica_that_would_not_end_itself_is_not_mitigated() {
    let mut world = World::new(1, settings());
    (world.fake.primary, world.fake.ignores_errors) = (false, true);
    world.run(5000, &[(2000, FORK), (2010, Hand::Bgsave), (2011, WELL)]);
    world.converged();
    assert_eq!(outcomes(&world), [Outcome::SelfHealed], "{}", world.story);
}

#[test]
fn other_children_are_waited_for() {
    for child in [Hand::Diskless, Hand::Rewrite] {
        let mut world = World::new(1, settings());
        world.fake.save_ms = 700;
        world.run(30_000, &[(2000, FORK), (2010, Hand::Bgsave), (2011, WELL), (2012, child)]);
        world.converged();
        assert_eq!(outcomes(&world), [Outcome::Rearmed], "{}", world.story);
    }
}

#[test]
fn a_blind_guard_delivers_refusals_and_sees_again() {
    let mut world = World::new(1, settings());
    world.up_at = EPOCH + 12_000;
    let now = world.clock();
    world.guard.handle(now, Event::Down("refused".into()));
    world.run(11_000, &[(2000, FORK), (2010, Hand::Bgsave)]);
    assert_eq!(world.posture, Posture::Refuse);
    world.run(40_000, &[(11_500, WELL)]);
    world.converged();
    assert_eq!(outcomes(&world), [Outcome::Rearmed], "{}", world.story);
}

/// A server that is full accepts, says so and hangs up: as good as none.
#[test]
fn a_connection_that_never_answers_leaves_the_guard_blind() {
    let mut guard = Guard::new(settings(), None);
    let at = |ms| Now { mono: Duration::from_millis(ms), unix_ms: EPOCH + ms };
    for ms in (0..6000).step_by(50) {
        guard.handle(at(ms), Event::Up);
        guard.handle(at(ms + 1), Event::Down("closed".into()));
    }
    assert_eq!(guard.posture(), Posture::Refuse);
    guard.handle(at(6000), Event::Up);
    let answer = Answer::Looked(Box::default());
    guard.handle(at(6001), Event::Answered { sightings: 0, answer });
    assert_eq!(guard.posture(), Posture::Forward);
}

/// Left on disk it would make the next life take the operator's own `no` for ours.
#[test]
fn a_debt_that_could_not_be_erased_is_erased_later() {
    let mut world = World::new(1, settings());
    world.run(2100, &[(2000, FORK), (2010, Hand::Bgsave), (2011, WELL)]);
    assert!(world.debt().is_some(), "{}", world.story);
    world.bad_writes = 2;
    world.run(10_000, &[]);
    assert_eq!(outcomes(&world), [Outcome::Rearmed], "{}", world.story);
    world.converged();
    world.hand(Hand::SetKnob(false));
    world.crash();
    world.run(20_000, &[]);
    assert!(!world.fake.knob, "{}", world.story);
}

/// Every refusal would wait for its whole hold time, and for nothing.
#[test]
fn who_may_not_ping_delivers_refusals_and_says_why() {
    let mut guard = Guard::new(settings(), None);
    let at = |ms| Now { mono: Duration::from_millis(ms), unix_ms: EPOCH + ms };
    guard.handle(at(0), Event::Up);
    guard.handle(at(1), Event::Answered { sightings: 0, answer: Answer::Looked(Box::default()) });
    guard.handle(at(2), Event::Sighted { sightings: 1, refusal: None });
    let probed = |heard| Answer::Probed { heard, role: crate::guard::evidence::Fact::UNKNOWN, target: None };
    let noperm = Heard::Other("NOPERM this user has no permissions to run the 'ping' command".into());
    guard.handle(at(3), Event::Answered { sightings: 1, answer: probed(noperm) });
    assert_eq!((guard.phase(), guard.posture()), (Phase::Quiet, Posture::Refuse));
    let finding = &guard.status(at(4), crate::guard::record::Held::default()).findings[0];
    assert!(finding.id == "config-blocked" && finding.evidence.contains("may not PING"), "{finding:?}");
    guard.handle(at(1004), Event::Timer);
    guard.handle(at(1005), Event::Answered { sightings: 1, answer: probed(Heard::Pong) });
    assert_eq!(guard.posture(), Posture::Forward);
}

#[test]
fn a_debt_noted_under_another_address_is_paid() {
    let mut world = World::new(1, settings());
    world.run(2100, &[(2000, FORK), (2010, Hand::Bgsave), (2011, WELL)]);
    let debt = world.debt().expect("lowered");
    let stray = Debt { address: "unix:/run/redis.sock".into(), ..debt };
    world.page = debt_blank();
    world.crash();
    world.guard = Guard::new(settings(), None).with_strays(vec![stray]);
    world.run(20_000, &[]);
    world.converged();
    assert!(world.fake.knob && outcomes(&world) == [Outcome::Rearmed], "{}", world.story);
}

#[test]
fn who_may_not_read_config_is_told_so_in_peace() {
    let world = scenario(settings(), 3000, &[(500, NO_CONFIG)]);
    assert_eq!(world.guard.phase(), Phase::Quiet);
    let status = world.guard.status(world.clock(), crate::guard::record::Held::default());
    assert_eq!(status.findings[0].id, "config-blocked");
}

#[test]
fn a_restart_voids_the_debt() {
    let world = scenario(
        settings(),
        20_000,
        &[(2000, DISK), (2010, Hand::Bgsave), (5000, Hand::Restart), (5001, WELL)],
    );
    world.converged();
    assert_eq!(outcomes(&world), [Outcome::Operator], "{}", world.story);
}

#[test]
fn a_crash_at_every_step_still_repays() {
    let plan = [
        (2000, DISK),
        (2010, Hand::Bgsave),
        (4000, WELL),
        (4500, Hand::Cut),
        (40_000, Hand::Fault(Faults::default())),
    ];
    let steps = scenario(settings(), 60_000, &plan).steps;
    assert!(steps > 50);
    for crash_at in 1..=steps {
        let mut world = World::new(crash_at, settings());
        world.crash_at = Some(crash_at);
        world.run(60_000, &plan);
        world.converged();
    }
}

#[test]
fn a_crash_at_every_step_of_an_unwinding_still_repays() {
    let tight = Settings { exposure_time: Duration::from_secs(3), ..settings() };
    let plan = [(2000, DISK), (2010, Hand::Bgsave), (9000, WELL)];
    let steps = scenario(tight.clone(), 100_000, &plan).steps;
    for crash_at in 1..=steps.min(400) {
        let mut world = World::new(crash_at, tight.clone());
        world.crash_at = Some(crash_at);
        world.run(100_000, &plan);
        world.converged();
    }
}

#[test]
fn many_seeds_converge() {
    let seeds = std::env::var("BGSAFE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(120);
    let first = std::env::var("BGSAFE_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds {
        let mut rng = Rng(seed ^ 0xb65a_fe00);
        let mut at = 1000;
        let mut plan = Vec::new();
        for _ in 0..3 + rng.below(12) {
            at += match rng.below(3) {
                0 => rng.below(30),
                1 => rng.below(1500),
                _ => rng.below(9000),
            };
            plan.push((
                at,
                match rng.below(19) {
                    0 => FORK,
                    1 | 2 => DISK,
                    3 => AOF,
                    4 => NO_CONFIG,
                    5 => WELL,
                    6 | 7 => Hand::Bgsave,
                    8 => Hand::SetKnob(true),
                    9 => Hand::SetKnob(false),
                    10 => Hand::KillChild,
                    11 => [Hand::Diskless, Hand::Rewrite][rng.below(2) as usize],
                    12 => Hand::Restart,
                    13 => Hand::Save(false),
                    14 => Hand::Save(true),
                    15 => Hand::Primary(rng.one_in(2)),
                    16 => Hand::Ill(Some(HOST_ILLS[rng.below(4) as usize].0)),
                    17 => Hand::Ill(Some(Ill::OomKiller)),
                    _ => Hand::Cut,
                },
            ));
        }
        plan.extend([(at + 1, Hand::Ill(None)), (at + 1, Hand::Save(true)), (at + 1, Hand::Primary(true))]);
        // An operator who said `no` for ever would hide the rest.
        plan.push((at + 70_000, Hand::SetKnob(true)));
        // Nor may one who never comes: after two kills for want of memory nothing is tried without them.
        plan.push((at + 75_000, Hand::Bgsave));
        let exposure_time = Duration::from_secs([3600, 5][rng.below(2) as usize]);
        let policy = if rng.one_in(5) { Policy::Hold } else { Policy::Mitigate };
        let repair = [Repair::Off, Repair::Redis, Repair::Host][rng.below(3) as usize];
        let when = [Escrow::Off, Escrow::WhenStuck, Escrow::Always][rng.below(3) as usize];
        let escrow = Plan { when, every: Duration::from_secs([5, 60][rng.below(2) as usize]) };
        let exposure_changes = [0, 0, 50][rng.below(3) as usize];
        let settings = Settings { exposure_time, exposure_changes, policy, repair, escrow, ..settings() };
        let mut world = World::new(seed, settings);
        world.bad_copies = rng.below(3) as u32;
        world.copy_ms = [20, 1500, 20_000][rng.below(3) as usize];
        world.tell(format!("seed {seed}: BGSAFE_SEED={seed} BGSAFE_SEEDS=1"));
        world.chaos = true;
        world.fake.save_ms = [5, 80, 2500][rng.below(3) as usize];
        if rng.one_in(3) {
            world.fake.save = vec![(2, 1)];
        }
        world.crash_at = rng.one_in(2).then(|| 1 + rng.below(400));
        world.run(at + 150_000, &plan);
        // The last lost connection may have been a moment ago.
        world.chaos = false;
        world.run(at + 230_000, &[]);
        world.converged();
    }
}
