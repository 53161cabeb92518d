//! The incident as a state machine: [`Guard::handle`] takes an event, [`Guard::poll_action`] gives
//! what is to be done, [`Guard::next_deadline`] says when to come back. No I/O, no clock, no file.
//!
//! It is level-triggered: after every event [`Guard::step`] looks at where things stand and picks
//! the next thing to ask, so a lost connection or a repeated step never needs a path of its own.
//! At most one question to the server and one write of the debt are under way at a time.
//!
//! Refuses to know: sockets, RESP, files, sessions. Invariants: the switch is lowered only while a
//! debt is durable; the debt is erased only when the switch does not read the `no` we set; the
//! operator's value is put back unproved only when the exposure budget says so.

mod answers;
mod hands;
mod looks;
mod span;
mod view;

use std::collections::VecDeque;
use std::time::Duration;

use super::debt::Debt;
use super::dialogue::{Answer, Talk};
use super::evidence::{Look, Role, Target};
use super::journal::Journal;
use super::policy::{BLIND_AFTER, Course, Facts, LOOK_FRESH, Settings, course};
use super::record::{Incident, Phase};
use super::saver::Saver;
use crate::config::Policy;
use crate::posture::{Posture, Refusal, Variant};

/// The two clocks, as the shell read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since any fixed moment; never goes back.
    pub mono: Duration,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// What the guard is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Sessions saw refusals; so many tickets were issued so far.
    Sighted {
        /// [`crate::gate::Gate::sightings`].
        sightings: u64,
        /// The newest.
        refusal: Option<Refusal>,
    },
    /// The control connection is up.
    Up,
    /// It is down; whatever was asked may or may not have happened.
    Down(String),
    /// The server answered.
    Answered {
        /// Tickets issued when the last batch of the question was about to be sent.
        sightings: u64,
        /// What it said.
        answer: Answer,
    },
    /// The debt was written or erased durably, or could not be.
    Stored(Result<(), String>),
    /// A deadline passed.
    Timer,
}

/// What the guard wants done. In order, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the server; tell with [`Event::Answered`] or [`Event::Down`].
    Talk(Talk),
    /// Make this durable; tell with [`Event::Stored`].
    WriteDebt(Debt),
    /// Make its absence durable; tell with [`Event::Stored`].
    EraseDebt,
    /// For the gate.
    SetPosture(Posture),
    /// For the gate: tickets up to this one may be replayed.
    OpenThrough(u64),
    /// An incident was opened: begin to count.
    Opened,
    /// For the log: the phase after it, what happened, the evidence, and whether the phase is new.
    Said(Phase, &'static str, String, bool),
    /// For the incident file and the counters: the state of the record now.
    Record(Box<Incident>),
    /// So many refusals reached no session.
    Silent(u64),
}

/// Why the switch is being put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unwind {
    /// A save is proved.
    Proved,
    /// The exposure budget is spent.
    Spent,
}

/// What happened in this incident that its end depends on.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    rearmed: bool,
    exposed: bool,
    hands_off: bool,
    restarted: bool,
    frozen: bool,
    debt_failed: bool,
    told_keep: bool,
    told_stuck: bool,
    told_role: bool,
    /// The switch read `no` and yet PING was refused: ask again, slowly.
    doubtful: bool,
    /// PONG was heard with the switch untouched: a last look tells how it ended.
    ending: bool,
}

/// See the module's page.
#[derive(Debug)]
pub struct Guard {
    settings: Settings,
    phase: Phase,
    posture: Posture,
    out: VecDeque<Action>,
    up: bool,
    /// When the control connection was lost, or first could not be made.
    down_since: Option<Duration>,
    /// The first look on this connection was compared with the debt.
    reconciled: bool,
    /// The question whose answer is awaited.
    talking: Option<Talk>,
    /// A write of the debt is under way.
    storing: bool,
    /// What was told to [`Action::WriteDebt`] last and not erased since.
    debt: Option<Debt>,
    /// Debts that the disk has under other addresses: this server's, if the run id is.
    strays: Vec<Debt>,
    /// PING is forbidden to us: nobody will ever open a ticket.
    mute: bool,
    /// The disk may still tell of a debt that is none: to be erased before anybody reads it.
    stale_note: bool,
    /// We set the switch to `no` and did not put it back.
    lowered: bool,
    /// A transaction that lowers was sent and its answer never came.
    lower_in_doubt: bool,
    /// So was a restore.
    restore_in_doubt: bool,
    unwind: Option<Unwind>,
    config_refused: bool,
    /// Tickets issued, and tickets known to be open.
    sighted: u64,
    opened: u64,
    /// A look said that writes should be refused: ask PING.
    suspicious: bool,
    /// The newest look on this connection, and when.
    look: Option<(Duration, Look)>,
    /// ROLE, from the newest probe on this connection.
    role: Option<Role>,
    /// Where the snapshot went while all was well.
    healthy: Option<Target>,
    /// MISCONFs the server had counted, and the sightings then.
    counted: Option<(u64, u64)>,
    /// Of our own PINGs, since then.
    own_refusals: u64,
    variant: Variant,
    course: Option<&'static str>,
    saver: Saver,
    past: Past,
    /// Unix milliseconds when the switch went down, and the unsaved changes then.
    lowered_at: (u64, u64),
    journal: Option<Journal>,
    /// Close with this once the debt is erased.
    closing: bool,
    /// When the first sighting came that no PONG has answered: an incident begins there.
    first: Option<Now>,
    due: Duration,
    probe_after: Duration,
    /// The newest line told.
    said: Option<(Phase, &'static str, String)>,
    revision: u64,
}

impl Guard {
    /// A quiet guard. `debt` is what the disk says is owed.
    pub fn new(settings: Settings, debt: Option<Debt>) -> Self {
        Guard {
            settings,
            phase: Phase::Quiet,
            posture: Posture::Forward,
            out: VecDeque::new(),
            up: false,
            down_since: None,
            reconciled: false,
            talking: None,
            storing: false,
            debt,
            strays: Vec::new(),
            mute: false,
            stale_note: false,
            lowered: false,
            lower_in_doubt: false,
            restore_in_doubt: false,
            unwind: None,
            config_refused: false,
            sighted: 0,
            opened: 0,
            suspicious: false,
            look: None,
            role: None,
            healthy: None,
            counted: None,
            own_refusals: 0,
            variant: Variant::Rdb,
            course: None,
            saver: Saver::default(),
            past: Past::default(),
            lowered_at: (0, 0),
            journal: None,
            closing: false,
            first: None,
            due: Duration::ZERO,
            probe_after: Duration::ZERO,
            said: None,
            revision: 0,
        }
    }

    /// What the disk knows of other addresses: the server may have been reached by another name.
    pub fn with_strays(mut self, strays: Vec<Debt>) -> Self {
        self.strays = strays;
        self
    }

    /// Takes an event in.
    pub fn handle(&mut self, now: Now, event: Event) {
        self.revision += 1;
        match event {
            Event::Sighted { sightings, refusal: _ } => {
                self.sighted = self.sighted.max(sightings);
                if self.journal.is_none() && self.unproven() {
                    self.first.get_or_insert(now);
                }
            }
            Event::Up => {
                self.up = true;
                self.reconciled = false;
                self.config_refused = false;
                self.due = now.mono;
            }
            Event::Down(why) => self.down(now, why),
            Event::Answered { sightings, answer } => {
                let talk = self.talking.take();
                debug_assert!(talk.is_some(), "an answer nobody asked for: {answer:?}");
                // A connection that is accepted and cut off tells nothing: sight begins with an answer. What
                // an incident wants instead of Forward is found out by the first PING.
                if self.down_since.take().is_some() && self.phase != Phase::Exposed {
                    self.set_posture(Posture::Forward);
                }
                self.answered(now, sightings, answer);
            }
            Event::Stored(result) => self.stored(now, result),
            Event::Timer => {}
        }
        if self.is_blind(now) {
            // Nobody will ever open a ticket: to withhold refusals would only delay them.
            self.set_posture(Posture::Refuse);
        }
        self.step(now);
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.out.pop_front()
    }

    /// When to send [`Event::Timer`], if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Duration> {
        let patient = self.posture != Posture::Refuse && self.settings.policy != Policy::Observe;
        let blind = self.down_since.filter(|_| patient).map(|since| since + BLIND_AFTER);
        if blind.is_some() || !self.up {
            return blind;
        }
        let idle = self.up && self.talking.is_none() && !self.storing;
        let eager = self.reconciled && self.is_open() && self.unproven();
        idle.then(|| if eager { self.due.min(self.probe_after) } else { self.due })
    }

    /// Picks the next question, if none is under way.
    fn step(&mut self, now: Now) {
        if !self.up || self.talking.is_some() || self.storing {
            return;
        }
        let due = now.mono >= self.due;
        if !self.reconciled {
            if due {
                self.talk(Talk::Look);
            }
            return;
        }
        if self.is_open() {
            if self.unproven() && now.mono >= self.probe_after {
                self.talk(Talk::Probe);
            } else if due {
                self.talk(Talk::Look);
            }
            return;
        }
        if !due {
            return;
        }
        match self.phase {
            Phase::Alarmed if self.course.is_none() => self.decide(now),
            Phase::Rearming => self.restore(),
            Phase::Exposed if self.lowered => self.restore(),
            // Writes are closed, or only watched: PING first, it alone says whether they open.
            Phase::Quiet
            | Phase::Alarmed
            | Phase::Mitigated
            | Phase::Diagnosing
            | Phase::Repairing
            | Phase::Verifying
            | Phase::Stuck
            | Phase::Holding
            | Phase::Exposed => self.talk(Talk::Probe),
        }
    }

    /// Are writes open as far as we know, so that looking matters more than asking PING?
    fn is_open(&self) -> bool {
        match self.phase {
            Phase::Quiet => true,
            Phase::Mitigated | Phase::Diagnosing | Phase::Repairing | Phase::Verifying | Phase::Stuck => {
                self.lowered
            }
            Phase::Alarmed | Phase::Rearming | Phase::Holding | Phase::Exposed => false,
        }
    }

    /// Chooses the course of an incident by the table, and takes its first step.
    fn decide(&mut self, now: Now) {
        let row = course(&self.facts(now));
        if row.course == Course::Look {
            self.talk(Talk::Look);
            return;
        }
        if row.course == Course::Lower {
            self.set_posture(Posture::Hold);
            match self.debt.is_some() {
                true => self.talk(Talk::Lower),
                false => self.write_debt(now),
            }
            return;
        }
        self.course = Some(row.why);
        // Watch the server closely at first: its own retry may end the matter.
        self.due = now.mono;
        match row.course {
            Course::Observe => self.only_watch(now),
            Course::Freeze => self.freeze(now),
            Course::Refuse => {
                self.set_posture(Posture::Refuse);
                self.enter(now, Phase::Exposed, "refusals are delivered", row.why.into());
            }
            Course::ParkAof | Course::Park => {
                self.set_posture(Posture::Hold);
                self.enter(now, Phase::Holding, "writes parked", row.why.into());
                if !self.facts(now).config && row.course == Course::Park {
                    self.find("config-blocked", "warn", row.why.into(), self.remedy_config());
                }
            }
            Course::Look | Course::Lower => {}
        }
    }

    fn facts(&self, now: Now) -> Facts {
        // A switch that read `no` while PING is refused is old news.
        let look = self.look.as_ref().filter(|(at, look)| {
            now.mono.saturating_sub(*at) <= LOOK_FRESH && !look.knob.is("no".to_string())
        });
        let seen = look.map(|(_, look)| look);
        let role = self.role.or_else(|| seen.and_then(|l| l.role.known().copied()));
        Facts {
            policy: self.settings.policy,
            break_in: self.past.frozen || self.look.as_ref().is_some_and(|(_, look)| self.is_break_in(look)),
            variant: self.variant,
            exposed: self.past.exposed,
            hands_off: self.past.hands_off,
            looked: look.is_some(),
            primary: role == Some(Role::Primary),
            config: !self.config_refused && seen.is_some_and(|l| l.knob.known().is_some()),
            run_id: seen.is_some_and(|l| l.run_id.known().is_some()),
            debt_failed: self.past.debt_failed,
        }
    }

    fn is_break_in(&self, look: &Look) -> bool {
        Target::of(look).is_some_and(|target| target.is_break_in(self.healthy.as_ref()))
    }

    /// Are there tickets, or suspicions, that no PONG has answered yet?
    fn unproven(&self) -> bool {
        self.suspicious || self.sighted > self.opened
    }

    fn is_blind(&self, now: Now) -> bool {
        self.down_since.is_some_and(|since| now.mono >= since + BLIND_AFTER)
    }

    fn down(&mut self, now: Now, why: String) {
        self.down_since.get_or_insert(now.mono);
        match self.talking.take() {
            Some(Talk::Lower) => self.lower_in_doubt = true,
            Some(Talk::Restore { .. }) => self.restore_in_doubt = true,
            Some(Talk::Probe | Talk::Look | Talk::Inquire { .. } | Talk::Apply(_) | Talk::Bgsave { .. })
            | None => {}
        }
        if self.up {
            self.say(now, "control connection lost", why);
        }
        self.up = false;
        self.past.ending = false;
        self.reconciled = false;
        self.look = None;
        self.role = None;
        self.counted = None;
        self.saver.lost();
        // Without a view of the server we are a wire: refusals still wait for their own deadline.
        if self.posture == Posture::Hold {
            self.set_posture(Posture::Forward);
        }
    }
}
