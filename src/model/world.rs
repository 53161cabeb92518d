//! The whole of it in one value that can be copied: server, guard, page, gate, sessions, clients, clock.
//! [`World::take`] lets one [`Step`] happen and says what broke.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis_protocol::resp2::decode::decode_bytes;
use redis_protocol::resp2::types::BytesFrame;

use super::client::Client;
use super::session::{Gate, Session};
use super::step::{Budget, Step};
use crate::command::Table;
use crate::config::{AofRepair, Escrow, Policy, Repair, Seek, SentinelPolicy, WhenExposed};
use crate::guard::debt::Debt;
use crate::guard::dialogue::{Command, Dialogue, Next, Talk};
use crate::guard::escrow::plan::Plan;
use crate::guard::escrow::{Order, PullError, Snapshot};
use crate::guard::evidence::HostFacts;
use crate::guard::incident::{Action, Event, Guard, Now};
use crate::guard::policy::Settings;
use crate::guard::record::Phase;
use crate::posture::Posture;
use crate::session::core::{Core, Rules, ScriptReplay};
use crate::testing::fake_redis::FakeRedis;

pub const EPOCH: u64 = 1_700_000_000_000;
/// Shorter than whatever the guard waits for when it is not answered.
pub const HOLD: Duration = Duration::from_secs(2);

pub static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| {
    Arc::new(Rules {
        intercept: true,
        hold_time: HOLD,
        scripts: ScriptReplay::Declared,
        holds: crate::posture::UnreadySet::NONE,
        bulk_max: 1 << 20,
        retain_request_max: 4096,
        retain_session_max: 1 << 16,
        withhold_max: 1 << 16,
    })
});
pub static TABLE: LazyLock<Arc<Table>> = LazyLock::new(|| Arc::new(Table::builtin()));
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A question of the guard's on its way.
#[derive(Clone, Debug)]
pub struct Asked {
    pub dialogue: Dialogue,
    pub batch: Vec<Command>,
    pub replies: Option<Vec<BytesFrame>>,
    pub sightings: u64,
}

/// See the module's page.
#[derive(Clone, Debug)]
pub struct World {
    pub now: u64,
    pub fake: FakeRedis,
    pub guard: Guard,
    pub page: Option<Debt>,
    pub gate: Gate,
    pub sessions: Vec<Session>,
    pub budget: Budget,
    pub up: bool,
    pub asked: Option<Asked>,
    pub storing: Option<Option<Debt>>,
    /// A copy that was asked for, and the newest on our disk.
    pub pulling: Option<Order>,
    pub copy: Option<Snapshot>,
    copies: bool,
    /// What the operator wants the switch to be.
    pub wanted: bool,
    /// Good saves when the guard lowered it, unless it is up.
    pub lowered_at: Option<u64>,
    /// We died while a debt was on the page, or the line broke while we set the switch: until the page
    /// is blank again nothing tells an operator's `no` from ours.
    pub in_doubt: bool,
    /// A rewrite from elsewhere wrote our `no`, and nobody was told.
    pub unfound: bool,
    /// Events of the guard since time moved.
    spins: u32,
}

fn settings(copies: bool) -> Settings {
    Settings {
        address: "127.0.0.1:6379".into(),
        upstream: "127.0.0.1:6379".into(),
        policy: Policy::Mitigate,
        exposure_time: Duration::ZERO,
        exposure_changes: 0,
        when_exposed: WhenExposed::Rearm,
        repair: Repair::Off,
        repair_rewrite: false,
        escrow: Plan { when: if copies { Escrow::Always } else { Escrow::Off }, ..Plan::default() },
        aof_repair: AofRepair::Off,
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

impl World {
    /// Peace: the guard has looked at everything once, nobody has asked anything.
    pub fn new(clients: Vec<Client>, budget: Budget) -> World {
        let mut fake = FakeRedis::new(EPOCH - 10_000);
        fake.save_ms = 1 << 40;
        // Counting rewrites is one question more a second: where none are, it would only widen the space.
        fake.counts_subcommands = budget.rewrites > 0;
        let mut world = World {
            now: 0,
            fake,
            guard: Guard::new(settings(budget.copies > 0), None),
            page: None,
            gate: Gate::default(),
            sessions: Vec::new(),
            budget: Budget::default(),
            up: false,
            asked: None,
            storing: None,
            pulling: None,
            copy: None,
            copies: budget.copies > 0,
            wanted: true,
            lowered_at: None,
            in_doubt: false,
            unfound: false,
            spins: 0,
        };
        for _ in 0..20 {
            let step = world.fair().unwrap_or(Step::Timer);
            world.take(step).expect("peace");
        }
        world.budget = budget;
        world.sessions = clients.into_iter().map(Session::new).collect();
        world
    }

    pub fn instant(&self) -> Instant {
        *START + Duration::from_millis(self.now)
    }

    pub fn clock(&self) -> Now {
        Now { mono: Duration::from_millis(self.now), unix_ms: EPOCH + self.now }
    }

    pub fn take(&mut self, step: Step) -> Result<(), String> {
        self.in_doubt &= self.page.is_some();
        match step {
            Step::Ask(i) | Step::Read(i) | Step::Reply(i) | Step::Wake(i) => self.session(i, step)?,
            Step::Serve(i) => {
                let command = self.sessions[i].next_command();
                let argv: Vec<Vec<u8>> = command.split(|b| *b == b' ').map(<[u8]>::to_vec).collect();
                let reply = self.fake.execute(EPOCH + self.now, 10 + i as u64, &argv);
                self.sessions[i].answered(reply);
            }
            Step::ServeGuard => self.serve_guard()?,
            Step::HearGuard => self.hear_guard()?,
            Step::Stored => {
                self.page = self.storing.take().expect("enabled");
                self.event(Event::Stored(Ok(())))?;
            }
            Step::StoreFails(written) => {
                self.budget.bad_stores -= 1;
                let job = self.storing.take().expect("enabled");
                if written {
                    self.page = job;
                }
                self.event(Event::Stored(Err("I/O error".into())))?;
            }
            Step::Up => {
                self.up = true;
                self.event(Event::Up)?;
            }
            Step::Due => self.event(Event::Timer)?,
            Step::Timer => {
                self.budget.timers = self.budget.timers.saturating_sub(1);
                self.pass()?;
            }
            Step::Late => {
                (self.budget.timers, self.budget.late) = (self.budget.timers - 1, self.budget.late - 1);
                self.pass()?;
            }
            Step::ChildEnds => self.fake.end_child(EPOCH + self.now),
            Step::ChildFails => {
                self.budget.bad_children -= 1;
                self.fake.kill_child();
                self.fake.tick(EPOCH + self.now);
            }
            Step::Copied(whole) => self.copied(whole)?,
            Step::Fault => {
                self.budget.faults -= 1;
                self.fake.faults.fork = true;
                self.fake.execute(EPOCH + self.now, 9, &[b"BGSAVE".to_vec()]);
            }
            Step::Heal => self.fake.faults.fork = false,
            Step::Bgsave => {
                self.budget.saves -= 1;
                self.fake.execute(EPOCH + self.now, 9, &[b"BGSAVE".to_vec()]);
            }
            Step::Yes => {
                self.budget.yes -= 1;
                (self.fake.knob, self.wanted, self.lowered_at) = (true, true, None);
            }
            Step::No => self.operators_no(),
            Step::Crash(written) => self.crash(written)?,
            Step::Cut => {
                self.budget.cuts -= 1;
                self.cut("cut")?;
            }
            Step::Restart => {
                self.budget.restarts -= 1;
                self.fake.restart(EPOCH + self.now);
                (self.wanted, self.lowered_at) = (true, None);
                self.end_sessions(true)?;
                self.cut("restarted")?;
            }
            Step::Rewrite => {
                self.budget.rewrites -= 1;
                // Ours is in the file when the switch is down and the operator wants it up.
                self.unfound |= !self.fake.knob && self.wanted;
                self.fake.execute(EPOCH + self.now, 9, &["CONFIG", "REWRITE"].map(|w| w.as_bytes().to_vec()));
            }
            Step::Leave(i) => {
                self.budget.leaves -= 1;
                self.sessions[i].leave();
            }
        }
        self.holds()
    }

    /// What is true at every moment.
    fn holds(&self) -> Result<(), String> {
        self.sessions.iter().try_for_each(|session| session.client.order(&self.fake))?;
        if let Some(before) = self.lowered_at
            && self.page.as_ref().is_none_or(|debt| debt.run_id != self.fake.run_id())
        {
            return Err(format!("the switch is down since save {before}, and no debt is on the page"));
        }
        Ok(())
    }

    /// A `no` that falls between our refused PING and our transaction is lost when the answer of the latter, or
    /// the page, is: docs/architecture.md, the guard's choices. So neither comes behind it here, and it does
    /// not come behind a line that broke just then.
    fn operators_no(&mut self) {
        self.budget.no -= 1;
        let engaged = self.guard.phase() != Phase::Quiet || self.asked.is_some() || self.page.is_some();
        if engaged || self.storing.is_some() {
            let left = &mut self.budget;
            (left.crashes, left.cuts, left.bad_stores, left.restarts) = (0, 0, 0, 0);
        }
        (self.fake.knob, self.wanted) = (false, false);
    }

    fn session(&mut self, i: usize, step: Step) -> Result<(), String> {
        let (now, mut gate) = (self.instant(), self.gate);
        let session = &mut self.sessions[i];
        let sighted = match step {
            Step::Ask(_) => session.ask(&gate, now),
            Step::Read(_) => session.read(&gate, now),
            Step::Wake(_) => session.wake(&gate, now)?,
            _ => session.reply(&gate, now),
        };
        if let Some(refusal) = sighted {
            gate.sightings += 1;
            session.ticket = gate.sightings;
            session.proved = false;
            self.gate = gate;
            self.event(Event::Sighted { sightings: gate.sightings, refusal: Some(refusal) })?;
        }
        self.sessions[i].deliver(&self.fake)
    }

    fn event(&mut self, event: Event) -> Result<(), String> {
        self.spins += 1;
        if self.spins > 60 {
            return Err("the guard spins".into());
        }
        self.guard.handle(self.clock(), event);
        while let Some(action) = self.guard.poll_action() {
            match action {
                Action::Talk(talk) => self.ask_server(talk)?,
                Action::WriteDebt(debt) => self.store(Some(debt))?,
                Action::EraseDebt => self.store(None)?,
                Action::SetPosture(posture) => self.gate.posture = posture,
                Action::OpenThrough(n) => {
                    let n = if mutant!(OpensYoungerTickets) { self.gate.sightings } else { n };
                    self.gate.open_through = self.gate.open_through.max(n);
                }
                // Another host answers at once that it is another.
                Action::Examine(_) => {
                    let facts = Box::new(HostFacts::elsewhere("the model has no host"));
                    self.guard.handle(self.clock(), Event::Examined(facts));
                }
                Action::Pull(_) if !self.copies => return Err("nobody allowed a copy".into()),
                Action::Pull(order) => {
                    if self.pulling.replace(order).is_some() {
                        return Err("two copies at a time".into());
                    }
                }
                // Its end comes when it comes.
                Action::StopPull => {}
                Action::Allow(_) => return Err("nobody set a budget of changes".into()),
                Action::Change(..) => return Err("nobody allowed a change of the host".into()),
                Action::Said(_, "configuration file has our no", ..) => self.unfound = false,
                Action::Opened | Action::Said(..) | Action::Record(_) | Action::Silent(_) => {}
                Action::Hook(_) | Action::Remedied(..) | Action::Headroom(..) | Action::Remember(..) => {}
                Action::News(_) | Action::Scout => {}
            }
        }
        match self.guard.posture() == self.gate.posture {
            true => Ok(()),
            false => Err("the guard and the gate disagree about the posture".into()),
        }
    }

    fn copied(&mut self, whole: bool) -> Result<(), String> {
        let Order { at_ms, changes, last_save, run_id } = self.pulling.take().expect("enabled");
        // The server that died in the meantime has sent nothing.
        if !whole || run_id != self.fake.run_id() {
            return self.event(Event::Pulled(Err(PullError::passing("upstream: hung up"))));
        }
        let (path, server, checked) = (String::new(), String::new(), Vec::new());
        let (bytes, version, keys) = (1, 10, None);
        let copy =
            Snapshot { path, bytes, at_ms, changes, last_save, run_id, server, version, keys, checked };
        self.copy = Some(copy.clone());
        self.event(Event::Pulled(Ok(Box::new(copy))))
    }

    fn store(&mut self, job: Option<Debt>) -> Result<(), String> {
        match self.storing.replace(job) {
            None => Ok(()),
            Some(job) => Err(format!("two writes of the page at once: {job:?}")),
        }
    }

    fn ask_server(&mut self, talk: Talk) -> Result<(), String> {
        if !self.up || self.asked.is_some() {
            return Err(format!("{talk:?} was asked without a free line"));
        }
        let (dialogue, batch) = Dialogue::new(talk);
        self.asked = Some(Asked { dialogue, batch, replies: None, sightings: self.gate.sightings });
        Ok(())
    }

    fn serve_guard(&mut self) -> Result<(), String> {
        let mut asked = self.asked.take().expect("enabled");
        let batch = asked.batch.clone();
        let replies: Result<Vec<_>, String> = batch.iter().map(|command| self.command(command)).collect();
        asked.replies = Some(replies?);
        self.asked = Some(asked);
        Ok(())
    }

    fn hear_guard(&mut self) -> Result<(), String> {
        let mut asked = self.asked.take().expect("enabled");
        match asked.dialogue.hear(&asked.replies.take().expect("enabled")) {
            Next::Send(batch) => {
                self.asked = Some(Asked { batch, sightings: self.gate.sightings, ..asked });
                Ok(())
            }
            Next::Done(answer) => self.event(Event::Answered { sightings: asked.sightings, answer }),
        }
    }

    /// One command of the guard, and what must never happen by it.
    fn command(&mut self, command: &Command) -> Result<BytesFrame, String> {
        let before = self.fake.knob;
        let argv: Vec<Vec<u8>> = command.iter().map(|w| w.clone().into_bytes()).collect();
        let reply = self.fake.execute(EPOCH + self.now, 1, &argv);
        if reply == b"+PONG\r\n" {
            self.sessions.iter_mut().for_each(|session| session.proved = true);
        }
        match (before, self.fake.knob) {
            (true, false) if !self.wanted => {
                return Err("the operator's value is no: nothing to lower".into());
            }
            (true, false) => self.lowered_at = Some(self.fake.good_saves),
            (false, true) if !self.wanted => return Err("the operator's own `no` was touched".into()),
            (false, true) if self.lowered_at == Some(self.fake.good_saves) => {
                return Err("re-armed without a proven save".into());
            }
            (false, true) => self.lowered_at = None,
            (true, true) | (false, false) => {}
        }
        Ok(decode_bytes(&Bytes::from(reply)).expect("the fake speaks RESP").expect("a whole reply").0)
    }

    /// To the next deadline of anybody.
    fn pass(&mut self) -> Result<(), String> {
        let guard = self.guard.next_deadline().map(|at| at.as_micros().div_ceil(1000) as u64);
        let after = |at: Instant| (at - *START).as_micros().div_ceil(1000) as u64;
        let holds = self.sessions.iter().filter_map(|s| s.core.next_deadline().map(after));
        let next = holds.chain(guard).filter(|at| *at > self.now).min();
        self.now = next.unwrap_or(self.now + 1000);
        self.spins = 0;
        self.fake.tick(EPOCH + self.now);
        let now = self.instant();
        if let Some(late) = self.sessions.iter().find(|s| s.ends.is_some_and(|ends| ends < now)) {
            return Err(format!("client {}'s hold outlasted its deadline", late.client.id));
        }
        if self.guard.next_deadline().is_some_and(|at| at <= self.clock().mono) {
            self.event(Event::Timer)?;
        }
        Ok(())
    }

    fn cut(&mut self, why: &str) -> Result<(), String> {
        let sets =
            |asked: Asked| asked.batch.iter().any(|words| words[1..].first().is_some_and(|w| w == "SET"));
        self.in_doubt |= self.asked.take().is_some_and(sets);
        self.fake.disconnect(1);
        match std::mem::take(&mut self.up) {
            true => self.event(Event::Down(why.into())),
            false => Ok(()),
        }
    }

    fn crash(&mut self, written: bool) -> Result<(), String> {
        self.budget.crashes -= 1;
        if let Some(job) = self.storing.take().filter(|_| written) {
            self.page = job;
        }
        self.in_doubt |= self.page.is_some();
        self.end_sessions(false)?;
        self.gate = Gate::default();
        self.fake.disconnect(1);
        (self.asked, self.up) = (None, false);
        let page = self.page.clone().filter(|_| !mutant!(ForgetsTheDebt));
        self.pulling = None;
        self.guard = Guard::new(settings(self.copies), page).with_copy(self.copy.clone());
        Ok(())
    }

    /// Every session ends; its client comes again with what it has not asked yet.
    fn end_sessions(&mut self, by_server: bool) -> Result<(), String> {
        for i in 0..self.sessions.len() {
            self.fake.disconnect(10 + i as u64);
            if by_server {
                self.sessions[i].upstream_closed(&self.fake)?;
            }
            let mut client = self.sessions[i].client.clone();
            client.cut();
            self.sessions[i] = Session::new(client);
        }
        Ok(())
    }

    /// Is all as it should be for ever?
    pub fn settled(&self) -> Result<(), String> {
        let quiet = self.guard.phase() == Phase::Quiet && self.gate.posture == Posture::Forward;
        if !quiet {
            return Err(format!("the guard stays {:?}, the gate {}", self.guard.phase(), self.gate.posture));
        }
        if self.fake.knob != self.wanted {
            return Err(format!("the switch reads {}, the operator wants {}", self.fake.knob, self.wanted));
        }
        if self.page.is_some() || self.guard.debt().is_some() {
            return Err("a debt is left".into());
        }
        if self.unfound {
            return Err("our `no` is in the server's file, and nobody was told".into());
        }
        if self.wanted && !self.fake.status_ok() {
            return Err("quiet although the server refuses".into());
        }
        if self.gate.open_through < self.gate.sightings {
            return Err("tickets are left closed".into());
        }
        self.sessions.iter().try_for_each(|session| session.judge(&self.fake))
    }
}

/// A fresh conversation.
pub fn core(now: Instant) -> Core {
    Core::new(Arc::clone(&RULES), Arc::clone(&TABLE), now)
}
