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
mod aof;
mod budget;
mod care;
mod decide;
mod escrow;
mod facts;
mod following;
mod hands;
mod line;
mod looks;
mod mend;
mod messages;
mod neighbours;
mod over;
#[cfg(test)]
pub(crate) mod print;
mod rewrites;
mod rights;
mod several;
mod span;
mod view;
mod watched;

use std::collections::VecDeque;
use std::time::Duration;

use self::budget::Budget;
use self::care::Care;
use self::escrow::Copies;
pub use self::messages::{Action, Event, News, Now, Tone};
use self::neighbours::Neighbours;
use self::over::Over;
use self::rewrites::Rewrites;
use self::several::Several;
use self::watched::Watched;
use super::debt::Debt;
use super::dialogue::Talk;
use super::evidence::{Healthy, Look, Rights, Role};
use super::journal::Journal;
use super::policy::{BLIND_AFTER, Settings};
use super::record::Phase;
use super::saver::Saver;
use crate::config::Policy;
use crate::posture::{Posture, Variant};

/// Why the switch is being put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unwind {
    /// A save is proved.
    Proved,
    /// The exposure budget is spent.
    Spent,
    /// An intruder's save must not find writes open.
    Frozen,
    /// The role was to move, and did not.
    Stayed,
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
    /// Replicas were waited for long enough.
    waited: bool,
    /// The role has moved.
    redirected: bool,
    /// When another attempt may be made.
    over_after: Option<Duration>,
    /// The budget is spent, and a replica was to take over.
    spending: bool,
    told_keep: bool,
    /// Tenths of the exposure budget that were told of.
    told_tenths: u64,
    told_stuck: bool,
    told_role: bool,
    /// The switch read `no` and yet PING was refused: ask again, slowly.
    doubtful: bool,
    /// PONG was heard with the switch untouched: a last look tells how it ended.
    ending: bool,
}

/// See the module's page.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
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
    /// CONFIG SET was, in the server's words.
    config_refused: Option<String>,
    /// What we may do, as far as this connection told, and what of it was said.
    rights: Rights,
    rights_told: Option<Rights>,
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
    healthy: Option<Healthy>,
    /// MISCONFs the server had counted, and the sightings then.
    counted: Option<(u64, u64)>,
    /// Of our own PINGs, since then.
    own_refusals: u64,
    /// … since the incident began.
    pings_refused: u64,
    variant: Variant,
    course: Option<&'static str>,
    saver: Saver,
    /// The others before this server.
    several: Several,
    care: Care,
    neighbours: Neighbours,
    rewrites: Rewrites,
    copies: Copies,
    /// Who else watches this server, and what they say.
    watched: Watched,
    aof: aof::Aof,
    over: Over,
    budget: Budget,
    /// The newest refusal that we heard, in the server's words.
    refusal: Option<String>,
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
            config_refused: None,
            rights: Rights::default(),
            rights_told: None,
            sighted: 0,
            opened: 0,
            suspicious: false,
            look: None,
            role: None,
            healthy: None,
            counted: None,
            own_refusals: 0,
            pings_refused: 0,
            variant: Variant::Rdb,
            course: None,
            saver: Saver::default(),
            several: Several::default(),
            care: Care::default(),
            neighbours: Neighbours::default(),
            rewrites: Rewrites::default(),
            copies: Copies::default(),
            watched: Watched::default(),
            aof: aof::Aof::default(),
            over: Over::Idle,
            budget: Budget::default(),
            refusal: None,
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

    /// What was so while saving worked, as an earlier life recorded it.
    pub fn with_healthy(mut self, healthy: Option<Healthy>) -> Self {
        self.healthy = healthy;
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
                self.config_refused = None;
                (self.rights, self.rights_told) = (Rights::default(), None);
                self.care.lost(now);
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
                self.several_heard(now);
            }
            Event::Stored(result) => self.stored(now, result),
            Event::Examined(host) => self.examined(now, *host),
            Event::Changed(errand, result) => self.changed(now, errand, result),
            Event::Pulled(result) => self.pulled(now, result),
            Event::Hooked(id, result) => self.hooked(now, &id, result),
            Event::Endangered { known, asked } => self.endangered(now, known, asked),
            Event::Candidate(fit) => self.candidate(now, fit),
            Event::Roused => self.roused(now),
            Event::Viewed(report) => self.viewed(now, report),
            Event::Passed { sent, answered } => return self.passed(sent, answered),
            Event::UsedUp => self.used_up(now),
            Event::Timer => {}
        }
        self.keep_time(now);
        if self.is_blind(now) {
            // Nobody will ever open a ticket: to withhold refusals would only delay them.
            self.set_posture(Posture::Refuse);
        }
        self.keep_count();
        self.step(now);
        self.tell_neighbours();
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
        let due = self.care.due().filter(|_| self.cares()).map_or(self.due, |care| self.due.min(care));
        let due = self
            .rewrites_due()
            .filter(|_| self.reconciled && !self.is_moving())
            .map_or(due, |count| due.min(count));
        idle.then(|| if eager { due.min(self.probe_after) } else { due })
    }

    /// Picks the next question, if none is under way.
    fn step(&mut self, now: Now) {
        if !self.up || self.talking.is_some() || self.storing {
            return;
        }
        let due = now.mono >= self.due;
        if !self.reconciled || (due && self.is_waited_for()) {
            if due {
                self.talk(Talk::Look);
            }
            return;
        }
        if self.is_moving() {
            if let Some(talk) = self.over_talk(now) {
                self.talk(talk);
            }
            return;
        }
        if self.aof_step(now) {
            return;
        }
        let urgent = if self.is_open() { self.unproven() && now.mono >= self.probe_after } else { due };
        if !urgent
            && !self.closing
            && let Some(talk) =
                self.name_talk().or_else(|| self.rewrites_talk(now)).or_else(|| self.care_talk(now))
        {
            self.talk(talk);
            return;
        }
        if self.unwind == Some(Unwind::Stayed) && self.is_replica() {
            // Moved by somebody else meanwhile.
            self.unwind = None;
        }
        if matches!(self.unwind, Some(Unwind::Frozen | Unwind::Stayed)) && self.lowered {
            if due {
                self.restore();
            }
            return;
        }
        if self.is_open() {
            if urgent {
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

    /// Is this a time to look for causes? Not while seconds count.
    fn cares(&self) -> bool {
        let early = self.phase == Phase::Alarmed && self.course.is_none();
        !early
            && self.phase != Phase::Rearming
            && !self.closing
            && !self.past.ending
            && self.reconciled
            && !self.is_moving()
    }

    /// Are writes open as far as we know, so that looking matters more than asking PING?
    fn is_open(&self) -> bool {
        match self.phase {
            Phase::Quiet => true,
            Phase::Mitigated | Phase::Diagnosing | Phase::Repairing | Phase::Verifying | Phase::Stuck => {
                self.lowered || self.follows()
            }
            Phase::Alarmed | Phase::Rearming | Phase::Holding | Phase::Exposed => false,
        }
    }

    /// Are there tickets, or suspicions, that no PONG has answered yet?
    fn unproven(&self) -> bool {
        self.suspicious || self.sighted > self.opened
    }

    fn is_blind(&self, now: Now) -> bool {
        self.down_since.is_some_and(|since| now.mono >= since + BLIND_AFTER)
    }
}
