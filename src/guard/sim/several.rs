//! Several guards before one fake Redis: messages take their time and overtake each other, lines break, guards
//! die for ever or come back with their page. Whoever lowers has a durable note, there is one owner at a time,
//! and in the end the switch is the operator's as long as one guard lives.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use redis_protocol::resp2::decode::decode_bytes;
use redis_protocol::resp2::types::BytesFrame;

use super::rng::Rng;
use super::{DISK, EPOCH, FORK, Hand, WELL, debt_blank, settings};
use crate::guard::debt;
use crate::guard::dialogue::{Answer, Command, Dialogue, Next, Talk};
use crate::guard::evidence::HostFacts;
use crate::guard::incident::{Action, Event, Guard, Now};
use crate::guard::policy::Settings;
use crate::guard::record::{Incident, Outcome, Phase};
use crate::model::mutant::{Mutant, with};
use crate::posture::Posture;
use crate::testing::fake_redis::{FakeRedis, Faults};

/// What happens to one of them, or to the server.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Server(Hand),
    /// kill -9; it comes back so many milliseconds later, if at all.
    Kill(usize, Option<u64>),
    /// Whoever owes the switch.
    KillOwner(Option<u64>),
    CutOwner,
    /// Its process stands still, its connection stands.
    StopOwner(u64),
    Cut(usize),
}

struct Flight {
    dialogue: Dialogue,
    batch: Vec<Command>,
    replies: Option<Vec<BytesFrame>>,
    at: u64,
    sightings: u64,
}

struct Bgsafe {
    guard: Guard,
    settings: Settings,
    page: Vec<u8>,
    alive: bool,
    /// It does nothing before then.
    stopped: u64,
    /// … and was not answered since.
    dazed: bool,
    back_at: Option<u64>,
    up_at: Option<u64>,
    connection: u64,
    flight: Option<Flight>,
    storing: Option<(u64, Vec<u8>)>,
    errand: Option<u64>,
    posture: Posture,
    sightings: u64,
    opened: u64,
    closed: Vec<Incident>,
}

struct World {
    now: u64,
    fake: FakeRedis,
    all: Vec<Bgsafe>,
    rng: Rng,
    chaos: bool,
    wanted: bool,
    connections: u64,
    lowerings: u64,
    restores: u64,
    lower_commands: u64,
    sent: u64,
    refused: u64,
    saves_when_lowered: u64,
    steps: u64,
    crash_at: Option<(u64, Option<u64>)>,
    /// Whoever lowers first is dead before anybody reads its name.
    dies_lowering: bool,
    /// All applications write at one moment, so that claims queue up.
    together: bool,
    client_at: u64,
    turn: usize,
    story: String,
}

impl World {
    fn new(seed: u64, many: usize) -> World {
        let bgsafe = |n: usize| {
            let settings = Settings { name: format!("bgsafe:{n}"), nonce: n as u16, ..settings() };
            Bgsafe {
                guard: Guard::new(settings.clone(), None),
                settings,
                page: debt_blank(),
                alive: true,
                stopped: 0,
                dazed: false,
                back_at: None,
                up_at: Some(EPOCH + n as u64),
                connection: 0,
                flight: None,
                storing: None,
                errand: None,
                posture: Posture::Forward,
                sightings: 0,
                opened: 0,
                closed: Vec::new(),
            }
        };
        World {
            now: EPOCH,
            fake: FakeRedis::new(EPOCH - 10_000),
            all: (0..many).map(bgsafe).collect(),
            rng: Rng(seed),
            chaos: false,
            wanted: true,
            connections: 10,
            lowerings: 0,
            restores: 0,
            lower_commands: 0,
            sent: 0,
            refused: 0,
            saves_when_lowered: 0,
            steps: 0,
            crash_at: None,
            dies_lowering: false,
            together: false,
            client_at: EPOCH + 7,
            turn: 0,
            story: String::new(),
        }
    }

    fn clock(&self) -> Now {
        Now { mono: Duration::from_millis(self.now - EPOCH), unix_ms: self.now }
    }

    fn tell(&mut self, i: usize, line: &str) {
        let _ = writeln!(self.story, "{:>8} {i} {line}", self.now - EPOCH);
    }

    fn fail(&self, why: &str) -> ! {
        let tail: Vec<&str> = self.story.lines().rev().take(400).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        panic!("{why}\n{}", tail.join("\n"));
    }

    fn owner(&self) -> Option<usize> {
        let owes = |b: &Bgsafe| b.alive && b.stopped <= self.now && b.guard.acts_as_owner();
        self.all.iter().position(owes)
    }

    /// A place where the one at work may die.
    fn step(&mut self, i: usize) -> bool {
        self.steps += 1;
        match self.crash_at {
            Some((at, back)) if at == self.steps => {
                self.kill(i, back);
                true
            }
            Some(_) | None => false,
        }
    }

    fn kill(&mut self, i: usize, back: Option<u64>) {
        self.tell(i, "KILLED");
        let connection = self.all[i].connection;
        self.fake.disconnect(connection);
        let now = self.now;
        let b = &mut self.all[i];
        (b.alive, b.flight, b.errand, b.up_at) = (false, None, None, None);
        // What was on its way to the disk is there, or is not.
        if let Some((_, page)) = b.storing.take()
            && self.rng.one_in(2)
        {
            b.page = page;
        }
        b.back_at = back.map(|ms| now + ms);
    }

    fn come_back(&mut self, i: usize) {
        self.tell(i, "COMES BACK");
        let b = &mut self.all[i];
        let owed = debt::decode(&b.page).ok().flatten();
        b.guard = Guard::new(b.settings.clone(), owed);
        (b.alive, b.back_at, b.up_at, b.stopped) = (true, None, Some(self.now + 20), 0);
        (b.posture, b.sightings, b.opened) = (Posture::Forward, 0, 0);
    }

    fn cut(&mut self, i: usize) {
        let b = &mut self.all[i];
        if !b.alive || b.up_at.is_some() {
            return;
        }
        let connection = b.connection;
        (b.flight, b.up_at) = (None, Some(self.now + 50));
        self.fake.disconnect(connection);
        self.event(i, Event::Down("cut".into()));
    }

    fn event(&mut self, i: usize, event: Event) {
        let now = self.clock();
        match &event {
            Event::Answered { answer: Answer::Looked(_) | Answer::Inquired(_), .. } | Event::Timer => {}
            Event::Examined(_) => {}
            event => self.tell(i, &format!("-> {event:?}")),
        }
        let answered = matches!(event, Event::Answered { .. });
        self.all[i].guard.handle(now, event);
        self.all[i].dazed &= !answered;
        while let Some(action) = self.all[i].guard.poll_action() {
            match &action {
                Action::Talk(Talk::Look | Talk::Inquire { .. }) | Action::Record(_) => {}
                Action::Headroom(..) | Action::Examine(_) => {}
                action => self.tell(i, &format!("   {action:?}")),
            }
            self.act(i, action);
        }
        self.one_owner();
    }

    fn one_owner(&self) {
        let owners = self.all.iter().filter(|b| b.alive && !b.dazed && b.guard.acts_as_owner()).count();
        if owners > 1 {
            self.fail("two owners at once");
        }
    }

    fn act(&mut self, i: usize, action: Action) {
        let soon = self.now + self.rng.below(3);
        let late = self.now + if self.chaos && self.rng.one_in(40) { self.rng.below(400) } else { 0 };
        let b = &mut self.all[i];
        match action {
            Action::Talk(talk) => {
                if b.up_at.is_some() || b.flight.is_some() {
                    self.fail(&format!("{talk:?} was asked without a free line"));
                }
                let (dialogue, batch) = Dialogue::new(talk);
                let sightings = b.sightings;
                b.flight = Some(Flight { dialogue, batch, replies: None, at: soon.max(late), sightings });
            }
            Action::WriteDebt(debt) => b.storing = Some((soon.max(late) + 2, debt::encode(&debt))),
            Action::EraseDebt => b.storing = Some((soon.max(late) + 2, debt_blank())),
            Action::SetPosture(posture) => b.posture = posture,
            Action::OpenThrough(n) => b.opened = b.opened.max(n),
            Action::Record(record) if record.outcome.is_some() => b.closed.push(*record),
            Action::Examine(_) => b.errand = Some(soon + 1),
            Action::Change(..) => self.fail("nobody allowed a change of the host"),
            Action::Allow(_) => self.fail("nobody set a budget of changes"),
            Action::Record(_) | Action::Opened | Action::Said(..) | Action::Silent(_) | Action::News(_) => {}
            Action::Hook(_) | Action::Remedied(..) | Action::Headroom(..) | Action::Remember(_) => {}
            Action::Scout | Action::Pull(_) | Action::StopPull => {}
        }
    }

    /// One command of a guard, and what must never happen by it.
    fn command(&mut self, i: usize, command: &Command) -> BytesFrame {
        let before = self.fake.knob;
        let argv: Vec<Vec<u8>> = command.iter().map(|w| w.clone().into_bytes()).collect();
        let sets =
            command.last().is_some_and(|w| w == "no") && command[1..].first().is_some_and(|w| w == "SET");
        self.lower_commands += u64::from(sets);
        if command[0] == "BGSAVE" {
            self.sent += 1;
            if self.all[i].guard.owner().is_some() {
                self.fail("a follower saves");
            }
        }
        let reply = self.fake.execute(self.now, self.all[i].connection, &argv);
        match (before, self.fake.knob) {
            (true, false) => {
                let owed = debt::decode(&self.all[i].page).ok().flatten();
                if owed.is_none_or(|debt| debt.run_id != self.fake.run_id()) {
                    self.fail("lowered without a durable debt");
                }
                if !self.wanted {
                    self.fail("the operator's value is no: there was nothing to lower");
                }
                self.lowerings += 1;
                self.saves_when_lowered = self.fake.good_saves;
            }
            (false, true) => {
                self.restores += 1;
                if !self.wanted {
                    self.fail("the operator's own `no` was touched");
                }
                if self.fake.good_saves == self.saves_when_lowered
                    && self.all[i].guard.phase() != Phase::Exposed
                {
                    self.fail("re-armed without a proven save");
                }
            }
            (true, true) | (false, false) => {}
        }
        decode_bytes(&Bytes::from(reply)).expect("the fake speaks RESP").expect("a whole reply").0
    }

    /// What is on its way arrives: at the server, or back.
    fn arrive(&mut self, i: usize) {
        if self.chaos && self.rng.one_in(200) {
            return self.cut(i);
        }
        let mut flight = self.all[i].flight.take().expect("on its way");
        match flight.replies.take() {
            None => {
                let batch = flight.batch.clone();
                flight.replies = Some(batch.iter().map(|command| self.command(i, command)).collect());
                flight.at = self.now + self.rng.below(3);
                self.all[i].flight = Some(flight);
                if self.dies_lowering && self.lowerings == 1 {
                    self.dies_lowering = false;
                    self.kill(i, None);
                }
                self.step(i);
            }
            Some(replies) => match flight.dialogue.hear(&replies) {
                Next::Send(batch) => {
                    let at = self.now + self.rng.below(3);
                    let sightings = self.all[i].sightings;
                    self.all[i].flight = Some(Flight { batch, at, sightings, ..flight });
                }
                Next::Done(answer) => {
                    if !self.step(i) {
                        self.event(i, Event::Answered { sightings: flight.sightings, answer });
                    }
                }
            },
        }
    }

    fn blow(&mut self, blow: Blow) {
        let line = format!("** {blow:?}");
        self.tell(99, &line);
        let owner = self.owner();
        match blow {
            Blow::Server(hand) => self.hand(hand),
            Blow::Kill(i, back) if self.all[i].alive => self.kill(i, back),
            Blow::Kill(..) => {}
            Blow::KillOwner(back) => {
                if let Some(i) = owner {
                    self.kill(i, back);
                }
            }
            Blow::CutOwner => {
                if let Some(i) = owner {
                    self.cut(i);
                    self.all[i].up_at = Some(self.now + 900);
                }
            }
            Blow::StopOwner(ms) => {
                if let Some(i) = owner {
                    (self.all[i].stopped, self.all[i].dazed) = (self.now + ms, true);
                }
            }
            Blow::Cut(i) => self.cut(i),
        }
    }

    fn hand(&mut self, hand: Hand) {
        let noted = self.all.iter().any(|b| b.page != debt_blank() || b.storing.is_some());
        match hand {
            Hand::Fault(faults) => self.fake.faults = faults,
            Hand::Bgsave => drop(self.fake.execute(self.now, 9, &[b"BGSAVE".to_vec()])),
            Hand::SetKnob(false) if noted || !self.fake.knob => {}
            Hand::SetKnob(value) => (self.fake.knob, self.wanted) = (value, value),
            Hand::KillChild => self.fake.kill_child(),
            Hand::Restart => {
                self.fake.restart(self.now);
                self.wanted = true;
                (0..self.all.len()).for_each(|i| self.cut(i));
            }
            other => panic!("{other:?} is not for several"),
        }
    }

    /// Applications write through all that live, in turn.
    fn client(&mut self) {
        self.turn += 1;
        let i = self.turn % self.all.len();
        if !self.all[i].alive || self.all[i].stopped > self.now || self.all[i].posture == Posture::Hold {
            return;
        }
        let argv = [b"SET".to_vec(), b"k".to_vec(), b"v".to_vec()];
        if self.fake.execute(self.now, 2, &argv).starts_with(b"-MISCONF") {
            self.refused += 1;
            self.all[i].sightings += 1;
            let sightings = self.all[i].sightings;
            self.event(i, Event::Sighted { sightings, refusal: None });
        }
    }

    fn run(&mut self, until: u64, plan: &[(u64, Blow)]) {
        let mut plan = plan.iter().peekable();
        let mut spins = 0;
        while self.now < EPOCH + until {
            let before = self.now;
            let planned = plan.peek().map_or(u64::MAX, |(at, _)| EPOCH + at);
            let next = self.all.iter().map(|b| self.next(b)).min().unwrap_or(u64::MAX);
            self.now = next.min(planned).min(self.client_at).max(self.now);
            self.fake.tick(self.now);
            if self.client_at <= self.now {
                self.client_at = self.now + 7;
                // All at once, when it matters that claims queue up.
                (1..self.all.len() * usize::from(self.together || self.dies_lowering))
                    .for_each(|_| self.client());
                self.client();
            } else if planned <= self.now {
                let (_, blow) = plan.next().expect("peeked");
                self.blow(*blow);
            } else if let Some(i) = (0..self.all.len()).find(|i| self.next(&self.all[*i]) <= self.now) {
                self.serve(i);
            }
            spins = if self.now == before { spins + 1 } else { 0 };
            if spins > 200 {
                self.fail("somebody spins");
            }
        }
    }

    /// When something happens to it.
    fn next(&self, b: &Bgsafe) -> u64 {
        if !b.alive {
            return b.back_at.unwrap_or(u64::MAX);
        }
        let due = b.guard.next_deadline().map(|d| EPOCH + d.as_micros().div_ceil(1000) as u64);
        let flight = b.flight.as_ref().map(|f| f.at);
        let storing = b.storing.as_ref().map(|s| s.0);
        let times = [due, flight, storing, b.up_at, b.errand];
        times.into_iter().flatten().min().unwrap_or(u64::MAX).max(b.stopped)
    }

    fn serve(&mut self, i: usize) {
        let now = self.now;
        let b = &mut self.all[i];
        b.stopped = 0;
        if !b.alive {
            self.come_back(i);
        } else if b.up_at.is_some_and(|at| at <= now) {
            self.connections += 1;
            (b.up_at, b.connection) = (None, self.connections);
            let name = ["CLIENT", "SETNAME", &b.settings.name].map(String::from).to_vec();
            self.command(i, &name);
            self.event(i, Event::Up);
        } else if b.storing.as_ref().is_some_and(|(at, _)| *at <= now) {
            let (_, page) = b.storing.take().expect("checked");
            b.page = page;
            if !self.step(i) {
                self.event(i, Event::Stored(Ok(())));
            }
        } else if b.errand.is_some_and(|at| at <= now) {
            b.errand = None;
            self.event(i, Event::Examined(Box::new(HostFacts::elsewhere("far away"))));
        } else if b.flight.as_ref().is_some_and(|f| f.at <= now) {
            self.arrive(i);
        } else {
            self.event(i, Event::Timer);
        }
    }

    fn converged(&self) {
        for (i, b) in self.all.iter().enumerate().filter(|(_, b)| b.alive) {
            let quiet = b.guard.phase() == Phase::Quiet && b.posture == Posture::Forward;
            if !quiet || debt::decode(&b.page) != Ok(None) || b.opened < b.sightings {
                let (phase, owner) = (b.guard.phase(), b.guard.owner());
                self.fail(&format!("{i}: {phase:?} {:?} {owner:?} {:?}", b.posture, debt::decode(&b.page)));
            }
        }
        if self.fake.knob != self.wanted || (self.wanted && !self.fake.status_ok()) {
            self.fail(&format!("knob {} ok {}", self.fake.knob, self.fake.status_ok()));
        }
    }

    fn outcomes(&self) -> Vec<Option<Outcome>> {
        self.all.iter().flat_map(|b| b.closed.iter().map(|incident| incident.outcome)).collect()
    }
}

const FAILS: (u64, Blow) = (2000, Blow::Server(DISK));
const SHOWS: (u64, Blow) = (2010, Blow::Server(Hand::Bgsave));

fn heals(at: u64) -> (u64, Blow) {
    (at, Blow::Server(WELL))
}

#[test]
fn of_twenty_one_lowers_saves_and_restores() {
    for seed in 0..6 {
        let mut world = World::new(seed, 20);
        world.run(20_000, &[FAILS, SHOWS, heals(2095)]);
        world.converged();
        assert_eq!((world.lowerings, world.lower_commands, world.restores), (1, 1, 1), "{}", world.story);
        assert!(world.sent <= 2, "{} BGSAVEs\n{}", world.sent, world.story);
        let outcomes = world.outcomes();
        let rearmed = outcomes.iter().filter(|o| **o == Some(Outcome::Rearmed)).count();
        assert_eq!(rearmed, 1, "{outcomes:?}\n{}", world.story);
        assert!(!outcomes.contains(&Some(Outcome::Operator)), "{outcomes:?}\n{}", world.story);
    }
}

/// Also by those whose applications saw no refusal.
#[test]
fn the_debt_of_a_dead_owner_is_inherited_and_its_return_changes_nothing() {
    for back in [None, Some(500), Some(4000), Some(9000), Some(30_000)] {
        let mut world = World::new(7, 4);
        let dies = (4000, Blow::KillOwner(back));
        world.run(60_000, &[FAILS, SHOWS, dies, heals(20_000)]);
        world.converged();
        assert_eq!((world.lowerings, world.restores), (1, 1), "back {back:?}\n{}", world.story);
        assert!(!world.outcomes().contains(&Some(Outcome::Operator)) || back.is_some(), "{}", world.story);
    }
}

#[test]
fn a_whole_row_of_owners_may_die() {
    let mut world = World::new(7, 4);
    let dies = |at| (at, Blow::KillOwner(None));
    world.run(90_000, &[FAILS, SHOWS, dies(4000), dies(14_000), dies(24_000), heals(40_000)]);
    world.converged();
    assert_eq!((world.lowerings, world.restores), (1, 1), "{}", world.story);
    assert_eq!(world.all.iter().filter(|b| b.alive).count(), 1);
}

#[test]
fn an_owner_whose_line_blinks_stays_the_owner() {
    let mut world = World::new(7, 4);
    let blinks = [FAILS, SHOWS, (4000, Blow::CutOwner), (7000, Blow::CutOwner), heals(20_000)];
    world.run(6000, &blinks[..3]);
    let owner = world.owner();
    assert!(owner.is_some(), "{}", world.story);
    world.run(60_000, &blinks[3..]);
    world.converged();
    assert!(!world.story.contains("debt inherited"), "{}", world.story);
}

/// It comes to itself when an heir has been at work for long: there is one restore all the same.
#[test]
fn an_owner_that_stood_still_gives_way_or_is_given_way_to() {
    let mut world = World::new(7, 3);
    world.run(80_000, &[FAILS, SHOWS, (4000, Blow::StopOwner(25_000)), heals(40_000)]);
    world.converged();
    assert!(world.story.contains("debt inherited"), "{}", world.story);
    assert_eq!((world.lowerings, world.restores), (1, 1), "{}", world.story);
}

#[test]
fn who_may_not_see_the_others_takes_their_switch_for_the_operators_and_says_so() {
    let mut world = World::new(7, 3);
    let blind = Faults { disk: true, no_client: true, ..Faults::default() };
    world.run(60_000, &[(1000, Blow::Server(Hand::Fault(blind))), SHOWS, heals(9000)]);
    world.converged();
    assert_eq!((world.lowerings, world.restores), (1, 1), "{}", world.story);
    assert!(world.story.contains("cannot see other bgsafes"), "{}", world.story);
}

#[test]
fn an_operators_yes_ends_it_for_all() {
    let mut world = World::new(7, 4);
    let yes = (5000, Blow::Server(Hand::SetKnob(true)));
    world.run(9000, &[FAILS, SHOWS, yes]);
    assert!(world.fake.knob && world.lowerings == 1, "{}", world.story);
    world.run(120_000, &[heals(9000)]);
    world.converged();
    assert_eq!(world.lowerings, 1, "{}", world.story);
}

#[test]
fn a_spent_budget_is_spent_for_all() {
    let mut world = World::new(7, 4);
    for b in &mut world.all {
        b.settings.exposure_time = Duration::from_secs(10);
        b.guard = Guard::new(b.settings.clone(), None);
    }
    world.run(40_000, &[FAILS, SHOWS]);
    assert!(world.fake.knob && world.lowerings == 1, "{}", world.story);
    world.run(160_000, &[heals(40_000)]);
    world.converged();
    assert_eq!(world.lowerings, 1, "{}", world.story);
}

#[test]
fn a_death_at_every_step_is_repaid_by_those_who_live() {
    let plan = [FAILS, SHOWS, heals(4500)];
    let mut calm = World::new(1, 3);
    calm.run(2000, &plan[..0]);
    let from = calm.steps;
    calm.run(9000, &plan);
    let to = calm.steps;
    let mut unseen = 0;
    for step in from + 1..=to {
        for back in [None, Some(100), Some(6000)] {
            let mut world = World::new(1, 3);
            world.crash_at = Some((step, back));
            world.tell(99, &format!("step {step}, back {back:?}"));
            world.run(40_000, &plan);
            // Dead before anybody read its name: the `no` could be the operator's, and only its own note tells.
            if back.is_none() && !world.fake.knob && !world.story.contains("another bgsafe lowered") {
                unseen += 1;
                let dead = world.all.iter().position(|b| !b.alive).expect("killed");
                world.come_back(dead);
                world.run(60_000, &[]);
            }
            world.converged();
        }
    }
    assert!(unseen <= 8, "{unseen} of {} steps", to - from);
}

/// Each promise has its bug, and a story in which it shows.
#[test]
fn each_bug_of_several_is_found() {
    type Story = fn();
    let stories: [(Mutant, Story); 4] = [
        (Mutant::FollowsNobody, the_debt_of_a_dead_owner_is_inherited_and_its_return_changes_nothing),
        (Mutant::ClaimsNothing, of_twenty_one_lowers_saves_and_restores),
        (Mutant::InheritsAtOnce, an_owner_whose_line_blinks_stays_the_owner),
        (Mutant::ForgetsTheDeadClaimant, a_claimant_that_dies_as_it_lowers_is_inherited),
    ];
    for (bug, story) in stories {
        let found = with(Some(bug), || std::panic::catch_unwind(story).is_err());
        assert!(found, "{bug:?} was not found");
    }
}

/// Those who queued behind it know whose `no` they read.
#[test]
fn a_claimant_that_dies_as_it_lowers_is_inherited() {
    for seed in 0..40 {
        let mut world = World::new(seed, 6);
        world.dies_lowering = true;
        world.run(40_000, &[FAILS, SHOWS, heals(9000)]);
        let queued = world.story.contains("stance: Claims");
        if queued {
            world.converged();
            assert_eq!((world.lowerings, world.restores), (1, 1), "{}", world.story);
            return;
        }
    }
    panic!("nobody ever queued");
}

/// Of two that would lower at once on top of an operator's `no`, neither may take the other for its owner.
#[test]
fn an_operators_own_no_is_nobodys_debt() {
    for seed in 0..20 {
        let mut world = World::new(seed, 6);
        // All look, all are refused, and then somebody sets the switch, before any of them can.
        world.together = true;
        let no = Blow::Server(Hand::SetKnob(false));
        world.run(40_000, &[FAILS, SHOWS, (2094, no)]);
        assert!(!world.fake.knob && world.restores == 0, "{}", world.story);
    }
}

#[test]
fn many_seeds_of_several_converge() {
    let seeds = std::env::var("BGSAFE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let first = std::env::var("BGSAFE_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds {
        let mut rng = Rng(seed ^ 0x5e7e_4a15);
        let many = 2 + rng.below(4) as usize;
        let mut at = 1500;
        let mut plan = Vec::new();
        for _ in 0..3 + rng.below(12) {
            at += [rng.below(30), rng.below(1500), rng.below(9000)][rng.below(3) as usize];
            let back = [None, Some(rng.below(200)), Some(rng.below(9000))][rng.below(3) as usize];
            // One lives for ever.
            let mortal = 1 + rng.below(many as u64 - 1) as usize;
            let blow = match rng.below(14) {
                0 => Blow::Server(FORK),
                1 | 2 => Blow::Server(DISK),
                3 | 4 => Blow::Server(Hand::Bgsave),
                5 => Blow::Server(WELL),
                6 => Blow::Server(Hand::SetKnob(true)),
                7 => Blow::Server(Hand::KillChild),
                8 => Blow::Server(Hand::Restart),
                9 | 10 => Blow::Kill(mortal, back),
                11 => Blow::KillOwner(Some(rng.below(9000))),
                12 => Blow::CutOwner,
                _ => Blow::Cut(rng.below(many as u64) as usize),
            };
            plan.push((at, blow));
        }
        plan.push((at + 1, Blow::Server(WELL)));
        plan.push((at + 75_000, Blow::Server(Hand::Bgsave)));
        let mut world = World::new(seed, many);
        world.tell(99, &format!("seed {seed}: BGSAFE_SEED={seed} BGSAFE_SEEDS=1"));
        world.chaos = true;
        world.fake.save_ms = [5, 80, 2500][rng.below(3) as usize];
        world.run(at + 150_000, &plan);
        world.chaos = false;
        world.run(at + 230_000, &[]);
        world.converged();
    }
}
