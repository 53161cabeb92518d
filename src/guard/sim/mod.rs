//! The guard against a fake Redis under a seed: faults, an operator's hand, lost connections, torn
//! writes of the debt and a crash at any step. A failing seed prints its timeline.

mod aof;
mod budget;
mod copies;
mod handover;
mod host;
mod judge;
mod ladder;
mod repairs;
mod replicas;
mod rewrites;
mod rng;
mod scenarios;
mod several;
mod watched;

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use redis_protocol::resp2::decode::decode_bytes;

use self::host::Ill;
use self::rng::Rng;
use self::watched::Said;
use crate::config::{AofRepair, Policy, Repair, Seek, SentinelPolicy, WhenExposed};
use crate::guard::debt::{self, Debt};
use crate::guard::dialogue::{Answer, Command, Dialogue, Heard, Next, Talk};
use crate::guard::escrow::Snapshot;
use crate::guard::escrow::plan::Plan;
use crate::guard::incident::{Action, Event, Guard, News, Now, Tone};
use crate::guard::policy::Settings;
use crate::guard::record::{Incident, Outcome, Phase};
use crate::guard::remedy::Change;
use crate::posture::Posture;
use crate::testing::fake_redis::{FakeRedis, Faults};

const EPOCH: u64 = 1_700_000_000_000;

/// What happens to the server, by itself or by hand.
#[derive(Clone, Copy, Debug)]
enum Hand {
    Fault(Faults),
    Bgsave,
    SetKnob(bool),
    KillChild,
    Diskless,
    Rewrite,
    RewriteConfig,
    /// From now on it has no configuration file.
    LoseFile,
    Restart,
    Cut,
    Move(&'static str),
    Save(bool),
    Primary(bool),
    /// Writes come from its primary, or none do.
    Stream(bool),
    /// So many replicas are in danger, as their guards say, and so many are looked at.
    Endangered(u32, u32),
    Roused,
    Ill(Option<Ill>),
    Watch(i64, Option<Said>),
    /// fsync of the append-only file fails, or works again.
    Sync(bool),
    /// A key expires.
    Expire,
    /// An operator's hand at the append-only file.
    SetAof(bool),
    /// So many writes at once through us, and past us.
    Burst(u64),
    Past(u64),
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
    stream: bool,
    /// Times the server ended itself at a write of its primary.
    aborts: u32,
    /// What the guards of its peers were told.
    news: Vec<News>,
    /// Who is fit to take over, when asked; `None`: nobody answers.
    fit: Option<Result<String, String>>,
    sightings: u64,
    opened: u64,
    /// Writes that passed while they were counted, when the newest question was asked, and how many may.
    passed: u64,
    asked: u64,
    passed_most: Option<u64>,
    steps: u64,
    crash_at: Option<u64>,
    lives: u64,
    sent: u64,
    refused: u64,
    saves_when_lowered: u64,
    lowerings: u64,
    /// What the operator wants the switch to be.
    wanted: bool,
    closed: Vec<Incident>,
    opened_incidents: u64,
    story: String,
    /// What was sent away and is not back yet.
    errands: Vec<(u64, Event)>,
    hooks: u64,
    /// What somebody must hear of though the phase is the same.
    warnings: Vec<&'static str>,
    /// How long the operator's program runs; 0: for ever.
    hook_ms: u64,
    ill: Option<Ill>,
    oom_kills: u64,
    /// Changes of the host, each with its incident.
    changes: Vec<(String, Change)>,
    /// How long one takes.
    change_ms: u64,
    /// What became of copies: how long one takes, how many still fail, those on disk, how many were asked for.
    copy_ms: u64,
    bad_copies: u32,
    copies: Vec<Snapshot>,
    pulls: u64,
    /// What the Sentinels say once a second, and what of it this life's guard was told, when.
    said: Option<Said>,
    told: Option<(u64, Said)>,
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
            stream: false,
            aborts: 0,
            news: Vec::new(),
            fit: Some(Err("no replica is fit".into())),
            sightings: 0,
            opened: 0,
            passed: 0,
            asked: 0,
            passed_most: None,
            steps: 0,
            crash_at: None,
            lives: 1,
            sent: 0,
            refused: 0,
            saves_when_lowered: 0,
            lowerings: 0,
            wanted: true,
            closed: Vec::new(),
            opened_incidents: 0,
            story: String::new(),
            errands: Vec::new(),
            hooks: 0,
            warnings: Vec::new(),
            hook_ms: 0,
            ill: None,
            oom_kills: 0,
            changes: Vec::new(),
            change_ms: 5,
            copy_ms: 400,
            bad_copies: 0,
            copies: Vec::new(),
            pulls: 0,
            said: None,
            told: None,
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
        match &event {
            Event::Answered { answer: Answer::Looked(_), .. } | Event::Timer => {}
            // Pages of facts: the findings say what matters of them.
            Event::Pulled(result) => {
                if let Ok(copy) = result {
                    self.copies.push((**copy).clone());
                }
                self.tell(format!("-> {event:?}"));
            }
            Event::Examined(_) => self.tell("-> Examined".into()),
            event => self.tell(format!("-> {event:?}")),
        }
        self.hear_of(&event);
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
        (self.passed, self.passed_most) = (0, None);
        self.guard = Guard::new(self.settings.clone(), self.debt()).with_copy(self.copies.last().cloned());
        self.errands.clear();
        self.told = None;
        self.sentinels_speak(1);
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
            match &action {
                Action::Talk(Talk::Look) | Action::Record(_) | Action::Headroom(..) => {}
                Action::Examine(_) => self.tell("   Examine".into()),
                action => self.tell(format!("   {action:?}")),
            }
            match action {
                Action::Talk(talk) => self.talk(talk)?,
                Action::WriteDebt(debt) => self.store(debt::encode(&debt))?,
                Action::EraseDebt => self.store(debt_blank())?,
                Action::SetPosture(posture) => self.posture = posture,
                Action::OpenThrough(n) => self.opened = self.opened.max(n),
                Action::Allow(allowed) => self.passed_most = allowed.map(|(answered, n)| answered + n),
                Action::Opened => self.opened_incidents += 1,
                Action::Record(record) if record.outcome.is_some() => self.closed.push(*record),
                Action::Examine(_) => self.examine(),
                Action::Pull(order) => self.pull(order)?,
                Action::StopPull => self.stop_pull(),
                Action::Change(errand, change) => self.change(errand, &change),
                Action::Said(_, event, _, Tone::Warning) => self.warnings.push(event),
                Action::Hook(finding) => {
                    self.hooks += 1;
                    if self.hook_ms > 0 {
                        self.errands.push((self.now + self.hook_ms, Event::Hooked(finding.id, Ok(()))));
                    }
                }
                Action::Remedied(..) | Action::Headroom(..) | Action::Remember(_) | Action::Scout => {}
                Action::News(news) => {
                    if let (News::WantsOver(_), Some(fit)) = (&news, self.fit.clone()) {
                        self.errands.push((self.now + 1, Event::Candidate(fit)));
                    }
                    self.news.push(news);
                }
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
            self.asked = self.passed;
            let replies: Vec<_> = batch.iter().map(|command| self.command(command)).collect();
            self.step()?;
            self.now += self.rng.below(2);
            if self.chaos && self.rng.one_in(150) {
                return self.lose("before it was answered");
            }
            match dialogue.hear(&replies) {
                Next::Send(more) => batch = more,
                Next::Done(answer) => {
                    match &answer {
                        Answer::Looked(_) => {}
                        Answer::Inquired(_) => self.tell("-> Inquired".into()),
                        answer => self.tell(format!("-> {answer:?}")),
                    }
                    let now = self.clock();
                    self.guard.handle(now, Event::Passed { sent: self.asked, answered: self.asked });
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
        let off = self.fake.aof.switched_off;
        let reply = self.fake.execute(self.now, 1, &argv);
        if self.fake.aof.switched_off > off {
            self.switched_off();
        }
        match (before, self.fake.knob) {
            (true, false) => {
                let run_id = self.fake.run_id();
                if self.debt().is_none_or(|debt| debt.run_id != run_id || debt.owed != "yes") {
                    self.fail("lowered without a durable debt");
                }
                if !self.wanted {
                    self.fail("the operator's value is no: there was nothing to lower");
                }
                self.lowers_what_sentinel_agrees_to();
                self.lowerings += 1;
                self.saves_when_lowered = self.fake.good_saves;
            }
            (false, true) => {
                if !self.wanted {
                    self.fail("the operator's own `no` was touched");
                }
                let unproved = self.fake.good_saves == self.saves_when_lowered;
                let broken_in = self.fake.dir != "/data" && !self.fake.dir.is_empty();
                // A role that did not move leaves the switch as it was.
                let stayed = self.fake.primary && matches!(self.news.last(), Some(News::Over(Err(_))));
                if unproved && self.guard.phase() != Phase::Exposed && !broken_in && !stayed {
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
            Hand::RewriteConfig => drop(self.fake.execute(self.now, 9, &words("CONFIG REWRITE"))),
            Hand::LoseFile => self.fake.has_file = false,
            Hand::Restart => {
                self.fake.restart(self.now);
                self.wanted = self.fake.knob;
                self.cut();
            }
            Hand::Cut => self.cut(),
            Hand::Save(points) => self.fake.save = if points { vec![(3600, 1)] } else { Vec::new() },
            Hand::Primary(primary) => self.fake.primary = primary,
            Hand::Stream(on) => self.stream = on,
            Hand::Endangered(known, asked) => self.event(Event::Endangered { known, asked }),
            Hand::Roused => self.event(Event::Roused),
            Hand::Move(dir) => self.fake.dir = dir.into(),
            Hand::Ill(ill) => self.fall_ill(ill),
            Hand::Watch(sentinels, said) => self.are_watched(sentinels, said),
            Hand::Sync(fails) => self.fake.aof.sync_fails = fails,
            Hand::Expire => self.fake.expire(),
            Hand::SetAof(on) => self.fake.set_aof(on),
            Hand::Burst(writes) => (0..writes).for_each(|_| self.client()),
            Hand::Past(writes) => {
                let argv = words("SET k v");
                for _ in 0..writes {
                    self.fake.execute(self.now, 8, &argv);
                }
            }
        }
    }

    /// A client's write every 37 ms, as the sessions would treat it.
    fn client(&mut self) {
        if !self.fake.primary && self.stream {
            if self.fake.replicate(self.now) {
                self.aborts += 1;
                self.hand(Hand::Restart);
            }
            return;
        }
        if self.posture == Posture::Hold {
            return;
        }
        let counted = self.posture == Posture::Forward;
        if counted && self.passed_most.is_some_and(|most| self.passed >= most) {
            self.event(Event::UsedUp);
            return;
        }
        self.passed += u64::from(self.passed_most.is_some());
        self.lets_nothing_through_to_a_zombie();
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
            let errand = self.errands.iter().map(|(at, _)| *at).min().unwrap_or(u64::MAX);
            let next =
                client.min(deadline.unwrap_or(u64::MAX)).min(up).min(planned).min(errand).max(self.now);
            self.now = next;
            self.fake.tick(self.now);
            if planned <= next {
                let (_, hand) = plan.next().expect("peeked");
                self.hand(*hand);
            } else if errand <= next {
                let at = self.errands.iter().position(|(at, _)| *at == errand).expect("the earliest");
                let (_, event) = self.errands.swap_remove(at);
                self.event(event);
                self.sentinels_speak_again();
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
}

fn debt_blank() -> Vec<u8> {
    vec![b' '; debt::SECTOR]
}

fn settings() -> Settings {
    Settings {
        address: "127.0.0.1:6379".into(),
        upstream: "127.0.0.1:6379".into(),
        policy: Policy::Mitigate,
        exposure_time: Duration::from_secs(3600),
        exposure_changes: 0,
        when_exposed: WhenExposed::Rearm,
        repair: Repair::Redis,
        repair_rewrite: false,
        escrow: Plan::default(),
        aof_repair: AofRepair::Rewrite,
        hook: false,
        name: "bgsafe:7".into(),
        user: "default".into(),
        hold_time: Duration::from_secs(5),
        seek: Seek::Discover,
        sentinel_policy: SentinelPolicy::MitigateFirst,
        nonce: 7,
        guard_replicas: true,
    }
}

const FORK: Hand = Hand::Fault(Faults {
    fork: true,
    disk: false,
    aof: false,
    no_client: false,
    no_config: false,
    no_bgsave: false,
});
const DISK: Hand = Hand::Fault(Faults {
    fork: false,
    disk: true,
    aof: false,
    no_client: false,
    no_config: false,
    no_bgsave: false,
});
const AOF: Hand = Hand::Fault(Faults {
    fork: false,
    disk: false,
    aof: true,
    no_client: false,
    no_config: false,
    no_bgsave: false,
});
const NO_CONFIG: Hand = Hand::Fault(Faults {
    fork: true,
    disk: false,
    aof: false,
    no_client: false,
    no_config: true,
    no_bgsave: false,
});
const WELL: Hand = Hand::Fault(Faults {
    fork: false,
    disk: false,
    aof: false,
    no_client: false,
    no_config: false,
    no_bgsave: false,
});
