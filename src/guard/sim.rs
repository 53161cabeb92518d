//! The guard against a fake Redis under a seed: faults, an operator's hand, lost connections, torn
//! writes of the debt and a crash at any step. A failing seed prints its timeline.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use redis_protocol::resp2::decode::decode_bytes;

use super::debt::{self, Debt};
use super::dialogue::{Answer, Command, Dialogue, Heard, Next, Talk};
use super::incident::{Action, Event, Guard, Now};
use super::policy::Settings;
use super::record::{Incident, Outcome, Phase};
use crate::config::{Policy, WhenExposed};
use crate::posture::Posture;
use crate::testing::fake_redis::{FakeRedis, Faults};

const EPOCH: u64 = 1_700_000_000_000;

/// Numbers that a seed gives again (splitmix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What happens to the server, by itself or by hand.
#[derive(Clone, Copy, Debug)]
enum Hand {
    Fault(Faults),
    Bgsave,
    SetKnob(bool),
    KillChild,
    Diskless,
    Rewrite,
    Restart,
    Cut,
    Move(&'static str),
    Save(bool),
    Primary(bool),
}

struct World {
    now: u64,
    fake: FakeRedis,
    guard: Guard,
    settings: Settings,
    page: Vec<u8>,
    rng: Rng,
    /// Lost connections, torn and failed writes happen by chance.
    chaos: bool,
    /// So many writes of the page still fail.
    bad_writes: u32,
    up: bool,
    up_at: u64,
    posture: Posture,
    sightings: u64,
    opened: u64,
    steps: u64,
    crash_at: Option<u64>,
    lives: u64,
    sent: u64,
    refused: u64,
    saves_when_lowered: u64,
    /// What the operator wants the switch to be.
    wanted: bool,
    closed: Vec<Incident>,
    opened_incidents: u64,
    story: String,
}

struct Crash;

impl World {
    fn new(seed: u64, settings: Settings) -> Self {
        World {
            now: EPOCH,
            fake: FakeRedis::new(EPOCH - 10_000),
            guard: Guard::new(settings.clone(), None),
            settings,
            page: debt_blank(),
            rng: Rng(seed),
            chaos: false,
            bad_writes: 0,
            up: false,
            up_at: EPOCH,
            posture: Posture::Forward,
            sightings: 0,
            opened: 0,
            steps: 0,
            crash_at: None,
            lives: 1,
            sent: 0,
            refused: 0,
            saves_when_lowered: 0,
            wanted: true,
            closed: Vec::new(),
            opened_incidents: 0,
            story: String::new(),
        }
    }

    fn clock(&self) -> Now {
        Now { mono: Duration::from_millis(self.now - EPOCH), unix_ms: self.now }
    }

    fn tell(&mut self, line: String) {
        let _ = writeln!(self.story, "{:>8} #{:<4} {line}", self.now - EPOCH, self.steps);
    }

    fn debt(&self) -> Option<Debt> {
        debt::decode(&self.page).ok().flatten()
    }

    fn fail(&self, why: &str) -> ! {
        panic!("{why}\n{}", self.story);
    }

    /// A place where the process may die.
    fn step(&mut self) -> Result<(), Crash> {
        self.steps += 1;
        match self.crash_at == Some(self.steps) {
            true => Err(Crash),
            false => Ok(()),
        }
    }

    fn event(&mut self, event: Event) {
        if !matches!(event, Event::Answered { answer: Answer::Looked(_), .. } | Event::Timer) {
            self.tell(format!("-> {event:?}"));
        }
        let now = self.clock();
        self.guard.handle(now, event);
        if self.drain().is_err() {
            self.crash();
        }
    }

    fn crash(&mut self) {
        self.tell("CRASH".into());
        self.crash_at = None;
        self.lives += 1;
        self.posture = Posture::Forward;
        (self.sightings, self.opened) = (0, 0);
        self.guard = Guard::new(self.settings.clone(), self.debt());
        self.up = false;
        self.up_at = self.now + 30;
        self.fake.disconnect(1);
    }

    fn cut(&mut self) {
        if self.up {
            self.up = false;
            self.up_at = self.now + 50;
            self.fake.disconnect(1);
            self.event(Event::Down("cut".into()));
        }
    }

    fn drain(&mut self) -> Result<(), Crash> {
        while let Some(action) = self.guard.poll_action() {
            if !matches!(action, Action::Talk(Talk::Look) | Action::Record(_)) {
                self.tell(format!("   {action:?}"));
            }
            match action {
                Action::Talk(talk) => self.talk(talk)?,
                Action::WriteDebt(debt) => self.store(debt::encode(&debt))?,
                Action::EraseDebt => self.store(debt_blank())?,
                Action::SetPosture(posture) => self.posture = posture,
                Action::OpenThrough(n) => self.opened = self.opened.max(n),
                Action::Opened => self.opened_incidents += 1,
                Action::Record(record) if record.outcome.is_some() => self.closed.push(*record),
                Action::Record(_) | Action::Said(..) | Action::Silent(_) => {}
            }
        }
        Ok(())
    }

    fn store(&mut self, page: Vec<u8>) -> Result<(), Crash> {
        self.step()?;
        if self.crash_at == Some(self.steps + 1) && self.steps.is_multiple_of(2) {
            let tear = 1 + self.rng.below(page.len() as u64 - 1) as usize;
            self.page[..tear].copy_from_slice(&page[..tear]);
            self.tell(format!("torn at {tear}"));
            return Err(Crash);
        }
        if self.bad_writes > 0 || (self.chaos && self.rng.one_in(20)) {
            self.bad_writes = self.bad_writes.saturating_sub(1);
            let late = self.bad_writes == 0 && self.rng.one_in(2);
            self.tell(format!("the page could not be written{}", if late { ", but was" } else { "" }));
            if late {
                self.page = page;
            }
            let now = self.clock();
            self.guard.handle(now, Event::Stored(Err("I/O error".into())));
            return Ok(());
        }
        self.page = page;
        self.step()?;
        let now = self.clock();
        self.guard.handle(now, Event::Stored(Ok(())));
        Ok(())
    }

    fn talk(&mut self, talk: Talk) -> Result<(), Crash> {
        self.step()?;
        let (mut dialogue, mut batch) = Dialogue::new(talk.clone());
        loop {
            if self.chaos && self.rng.one_in(150) {
                self.now += 1;
                return self.lose("before it was heard");
            }
            let sightings = self.sightings;
            let replies: Vec<_> = batch.iter().map(|command| self.command(command)).collect();
            self.step()?;
            self.now += self.rng.below(2);
            if self.chaos && self.rng.one_in(150) {
                return self.lose("before it was answered");
            }
            match dialogue.hear(&replies) {
                Next::Send(more) => batch = more,
                Next::Done(answer) => {
                    if !matches!(answer, Answer::Looked(_)) {
                        self.tell(format!("-> {answer:?}"));
                    }
                    let now = self.clock();
                    self.guard.handle(now, Event::Answered { sightings, answer });
                    return Ok(());
                }
            }
        }
    }

    fn lose(&mut self, when: &str) -> Result<(), Crash> {
        self.tell(format!("connection lost {when}"));
        self.up = false;
        self.up_at = self.now + 50;
        self.fake.disconnect(1);
        let now = self.clock();
        self.guard.handle(now, Event::Down(when.into()));
        Ok(())
    }

    /// One command of the guard, and what must never happen by it.
    fn command(&mut self, command: &Command) -> redis_protocol::resp2::types::BytesFrame {
        let before = self.fake.knob;
        let argv: Vec<Vec<u8>> = command.iter().map(|w| w.clone().into_bytes()).collect();
        if command[0] == "BGSAVE" {
            self.sent += 1;
        }
        let reply = self.fake.execute(self.now, 1, &argv);
        match (before, self.fake.knob) {
            (true, false) => {
                let run_id = self.fake.run_id();
                if self.debt().is_none_or(|debt| debt.run_id != run_id || debt.owed != "yes") {
                    self.fail("lowered without a durable debt");
                }
                if !self.wanted {
                    self.fail("the operator's value is no: there was nothing to lower");
                }
                self.saves_when_lowered = self.fake.good_saves;
            }
            (false, true) => {
                if !self.wanted {
                    self.fail("the operator's own `no` was touched");
                }
                if self.fake.good_saves == self.saves_when_lowered && self.guard.phase() != Phase::Exposed {
                    self.fail("re-armed without a proven save");
                }
            }
            (true, true) | (false, false) => {}
        }
        decode_bytes(&Bytes::from(reply)).expect("the fake speaks RESP").expect("a whole reply").0
    }

    fn hand(&mut self, hand: Hand) {
        self.tell(format!("** {hand:?}"));
        let words = |line: &str| -> Vec<Vec<u8>> { line.split(' ').map(|w| w.as_bytes().to_vec()).collect() };
        match hand {
            Hand::Fault(faults) => self.fake.faults = faults,
            Hand::Bgsave => drop(self.fake.execute(self.now, 9, &words("BGSAVE"))),
            // An operator's `no` on top of ours cannot be told from ours; one that falls between
            // our PING and our transaction is lost if we also die there. Neither is simulated.
            Hand::SetKnob(false) if self.debt().is_some() || !self.fake.knob => {}
            Hand::SetKnob(value) => {
                self.fake.knob = value;
                self.wanted = value;
            }
            Hand::KillChild => self.fake.kill_child(),
            Hand::Diskless => self.fake.diskless_sync(self.now),
            Hand::Rewrite => self.fake.rewrite_aof(self.now),
            Hand::Restart => {
                self.fake.restart(self.now);
                self.wanted = true;
                self.cut();
            }
            Hand::Cut => self.cut(),
            Hand::Save(points) => self.fake.save = if points { vec![(3600, 1)] } else { Vec::new() },
            Hand::Primary(primary) => self.fake.primary = primary,
            Hand::Move(dir) => self.fake.dir = dir.into(),
        }
    }

    /// A client's write every 37 ms, as the sessions would treat it.
    fn client(&mut self) {
        if self.posture == Posture::Hold {
            return;
        }
        let argv = [b"SET".to_vec(), b"k".to_vec(), b"v".to_vec()];
        let reply = self.fake.execute(self.now, 2, &argv);
        if reply.starts_with(b"-MISCONF") {
            self.refused += 1;
            self.sightings += 1;
            let sightings = self.sightings;
            self.event(Event::Sighted { sightings, refusal: None });
        }
    }

    /// Runs until `until`, with `plan` of (when, what) in order.
    fn run(&mut self, until: u64, plan: &[(u64, Hand)]) {
        let mut plan = plan.iter().peekable();
        let mut spins = 0;
        while self.now < EPOCH + until {
            let before = self.now;
            let client = self.now - (self.now - EPOCH) % 37 + 37;
            let deadline = self.guard.next_deadline().map(|d| EPOCH + d.as_micros().div_ceil(1000) as u64);
            let up = if self.up { u64::MAX } else { self.up_at };
            let planned = plan.peek().map_or(u64::MAX, |(at, _)| EPOCH + at);
            let next = client.min(deadline.unwrap_or(u64::MAX)).min(up).min(planned).max(self.now);
            self.now = next;
            self.fake.tick(self.now);
            if planned <= next {
                let (_, hand) = plan.next().expect("peeked");
                self.hand(*hand);
            } else if up <= next {
                self.up = true;
                self.event(Event::Up);
            } else if deadline.is_some_and(|d| d <= next) {
                self.event(Event::Timer);
            } else {
                self.client();
            }
            spins = if self.now == before { spins + 1 } else { 0 };
            if spins > 50 {
                self.fail("the guard spins");
            }
            // A guard that wants attention in every millisecond starves the client above.
            if self.now / 37 != before / 37 {
                self.client();
            }
        }
        self.bounded();
    }

    fn bounded(&self) {
        let secs = (self.now - EPOCH) / 1000;
        let most = 3 * (self.lives + self.opened_incidents) + secs / 5;
        if self.sent > most {
            self.fail(&format!("{} BGSAVEs in {secs} s", self.sent));
        }
    }

    /// After the last fault everything is as the operator wants it.
    fn converged(&self) {
        let quiet = self.guard.phase() == Phase::Quiet && self.posture == Posture::Forward;
        if !quiet || self.fake.knob != self.wanted || self.debt().is_some() || self.guard.debt().is_some() {
            let state = format!("phase={:?} posture={:?}", self.guard.phase(), self.posture);
            self.fail(&format!(
                "{state} knob={} wanted={} debt={:?}",
                self.fake.knob,
                self.wanted,
                self.debt()
            ));
        }
        if self.wanted && !self.fake.status_ok() {
            self.fail("quiet although the server refuses");
        }
        if self.opened < self.sightings {
            self.fail("tickets left closed");
        }
    }
}

fn debt_blank() -> Vec<u8> {
    vec![b' '; debt::SECTOR]
}

fn settings() -> Settings {
    Settings {
        address: "127.0.0.1:6379".into(),
        policy: Policy::Mitigate,
        exposure_time: Duration::from_secs(3600),
        exposure_changes: 0,
        when_exposed: WhenExposed::Rearm,
        nonce: 7,
    }
}

const FORK: Hand =
    Hand::Fault(Faults { fork: true, disk: false, aof: false, no_config: false, no_bgsave: false });
const DISK: Hand =
    Hand::Fault(Faults { fork: false, disk: true, aof: false, no_config: false, no_bgsave: false });
const AOF: Hand =
    Hand::Fault(Faults { fork: false, disk: false, aof: true, no_config: false, no_bgsave: false });
const NO_CONFIG: Hand =
    Hand::Fault(Faults { fork: true, disk: false, aof: false, no_config: true, no_bgsave: false });
const WELL: Hand =
    Hand::Fault(Faults { fork: false, disk: false, aof: false, no_config: false, no_bgsave: false });

fn outcomes(world: &World) -> Vec<Outcome> {
    world.closed.iter().filter_map(|incident| incident.outcome).collect()
}

fn scenario(settings: Settings, until: u64, plan: &[(u64, Hand)]) -> World {
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
    assert_eq!(world.guard.record().unwrap().findings[0].id, "config-blocked");
    let still = Hand::Fault(Faults { no_config: true, ..Faults::default() });
    world.run(20_000, &[(5000, still)]);
    world.converged();
    assert_eq!(outcomes(&world), [Outcome::SelfHealed]);
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
    let status = world.guard.status(world.clock(), super::record::Held::default());
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
    // A write every 37 ms, a look every 100 ms.
    assert!((20..25).contains(&exposed), "{exposed}\n{}", world.story);
}

#[test]
fn a_moved_target_freezes_everything() {
    let plan = [(2000, Hand::Move("/var/spool/cron")), (3500, FORK), (3510, Hand::Bgsave), (3511, WELL)];
    let world = scenario(settings(), 30_000, &plan);
    assert_eq!((world.guard.phase(), world.posture), (Phase::Stuck, Posture::Hold), "{}", world.story);
    assert!(world.fake.knob && world.sent == 0);
    assert_eq!(world.guard.record().unwrap().findings[0].id, "break-in-signs");
}

#[test]
fn a_replica_is_not_mitigated() {
    let mut world = World::new(1, settings());
    world.fake.primary = false;
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
    let probed = |heard| Answer::Probed { heard, role: super::evidence::Fact::UNKNOWN };
    let noperm = Heard::Other("NOPERM this user has no permissions to run the 'ping' command".into());
    guard.handle(at(3), Event::Answered { sightings: 1, answer: probed(noperm) });
    assert_eq!((guard.phase(), guard.posture()), (Phase::Quiet, Posture::Refuse));
    let finding = &guard.status(at(4), super::record::Held::default()).findings[0];
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
    let status = world.guard.status(world.clock(), super::record::Held::default());
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
                match rng.below(17) {
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
                    _ => Hand::Cut,
                },
            ));
        }
        plan.extend([(at + 1, WELL), (at + 1, Hand::Save(true)), (at + 1, Hand::Primary(true))]);
        // An operator who said `no` for ever would hide the rest.
        plan.push((at + 70_000, Hand::SetKnob(true)));
        let exposure_time = Duration::from_secs([3600, 5][rng.below(2) as usize]);
        let policy = if rng.one_in(5) { Policy::Hold } else { Policy::Mitigate };
        let mut world = World::new(seed, Settings { exposure_time, policy, ..settings() });
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
