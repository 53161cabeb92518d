//! The conversation, without I/O: two byte streams in, two out.
//!
//! In peace it is a wire that reads along: bytes handed in are handed back untouched, as they come. When
//! the server refuses a command it keeps that reply back, waits until everything in flight is answered,
//! lets [`replay`](super::replay) judge, and sends again what may be sent again once the shell says that
//! writes are open. When the posture is Hold it parks the first gated request and what follows it.
//!
//! Refuses to know sockets, clocks (`now` is handed in), why writes are shut, and who opens them.
//!
//! Invariants: each byte of a reply is delivered once, or belongs to a request that is sent again; each
//! request is sent once, or again after a reply that proves it did not run; per session everything keeps
//! its order. When it loses count the session becomes a wire: cleverness is lost, never bytes.

mod errors;
mod moving;
#[cfg(test)]
mod print;
mod replies;
mod requests;
mod resend;
mod tally;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::command::Table;
use crate::posture::{Refusal, UnreadySet};
use crate::resp::request::{HEAD_BYTES_MAX, Rest};
use crate::resp::scan::Scan;

use super::allowance::{Allowance, Grant};
use super::ledger::{Flags, Ledger, Slot};
use super::replay::Entry;
use super::state::State;

use moving::Way;

pub use moving::Fixed;
pub use tally::{Run, Tally};

/// How much of a session is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Degree {
    /// Each reply is paired with its request.
    Ledgered,
    /// Requests and replies are read, but no longer paired: refusals are told, not replayed.
    Watched,
    /// A wire.
    Opaque,
}

/// Why a session is no longer understood in full: the label `why` of `bgsafe_sessions_degraded_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Degraded {
    /// MONITOR: the server talks unasked.
    Monitor,
    /// SYNC or PSYNC: no dialogue any more.
    Replication,
    /// CLIENT REPLY OFF or SKIP: requests without replies.
    ReplyMode,
    /// The client sent what no server accepts.
    MalformedRequest,
    /// The server sent what no client accepts.
    MalformedReply,
    /// A reply came that no request asked for, or a transaction hid how many will come.
    Unpaired,
}

impl Degraded {
    /// Every reason, with its label.
    pub const ALL: [(Degraded, &'static str); 6] = [
        (Degraded::Monitor, "monitor"),
        (Degraded::Replication, "replication"),
        (Degraded::ReplyMode, "reply_mode"),
        (Degraded::MalformedRequest, "malformed_request"),
        (Degraded::MalformedReply, "malformed_reply"),
        (Degraded::Unpaired, "unpaired"),
    ];
}

/// May a script that was refused be sent again?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptReplay {
    /// Only when it declares its flags (`#!lua`, functions): then the server refuses it before it runs.
    Declared,
    /// Always: the operator vouches that scripts do nothing before their first write.
    All,
    /// Never.
    None,
}

/// What every session of a listener shares.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// False: refusals are told and delivered, nothing is held (policy `observe`, hold time zero).
    pub intercept: bool,
    /// How long one command may wait.
    pub hold_time: Duration,
    /// Scripts' rule.
    pub scripts: ScriptReplay,
    /// Errors of the family that are held.
    pub holds: UnreadySet,
    /// A longer bulk string in a request ends the session.
    pub bulk_max: u64,
    /// A larger request is not retained, so never replayed.
    pub retain_request_max: usize,
    /// Bytes one session may retain.
    pub retain_session_max: usize,
    /// Bytes of replies one session may keep back.
    pub withhold_max: usize,
}

/// What of a chunk was used: `direct + kept` is its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// This many leading bytes go on as they are, behind what was queued before.
    pub direct: usize,
    /// This many trailing bytes must be handed in again, with more behind them.
    pub kept: usize,
}

/// A request that a chunk cut.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Partial {
    rest: Rest,
    /// Where its bytes are retained.
    start: u64,
    /// Its beginning, at most `HEAD_BYTES_MAX` of it, once it has grown too large to be retained.
    prefix: Option<Vec<u8>>,
    as_is: bool,
}

/// What a session waits for before its replies may go on.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
enum Hold {
    /// Nothing.
    None,
    /// A refusal was seen: everything in flight must be answered first.
    Draining(Box<Held>),
    /// Judged; writes must open.
    Waiting(Box<Held>),
}

/// Replies kept back, and what they answer.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Held {
    deadline: Instant,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    /// Refused commands held; set by the verdict.
    refused: u64,
    /// No guard opens for them: they ask again.
    unready: bool,
    /// The database before the first entry.
    db: Option<u32>,
}

/// A gated request that was not sent.
#[derive(Clone, Copy, Debug)]
struct Parked {
    deadline: Instant,
    /// Its wait is over: it goes as soon as it is handed in again.
    ripe: bool,
}

/// No credit is so large.
const NOBODY_COUNTS: u32 = u32::MAX;

/// See the module's page.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Core {
    rules: Arc<Rules>,
    grant: Grant,
    table: Arc<Table>,
    degree: Degree,
    /// What the session becomes when the slot marked [`Flags::LAST`] has its turn.
    turning: Option<(Degree, Degraded)>,
    state: State,
    scan: Scan,
    ledger: Ledger,
    partial: Option<Partial>,
    hold: Hold,
    parked: Option<Parked>,
    /// The last hold's deadline: a command refused again does not get a new one.
    deadline: Option<Instant>,
    /// Time was up: what waited behind it passes as it is, until the client's socket is dry.
    passing: bool,
    /// A request was longer than allowed: it is the last.
    overrun: bool,
    way: Way,
    /// What the client had set up could not be set up where the session went.
    stranded: bool,
    /// The client's open transaction waits to be sent again, and its server does not know of it.
    unqueued: bool,
    /// The server may not be ready: what only reads is retained too, until the first is answered.
    wary: bool,
    /// Another server may become the primary.
    turns: bool,
    transactions: u32,
    /// Replies that are taken apart, from the start of the first undecided one.
    pending: Vec<u8>,
    /// How far `pending` was scanned.
    scanned: usize,
    /// The reply in `pending` is being delivered before its end is here.
    cut_through: bool,
    sighted: Option<Refusal>,
    budget: Option<(u64, u64)>,
    /// Gated requests that may still go on; [`NOBODY_COUNTS`]: any number.
    credit: u32,
    born: Instant,
    /// When the requests at hand came: reckoned once a chunk.
    now_us: u32,
    /// Bytes of ours toward the server.
    pub up: Vec<u8>,
    /// Bytes toward the client that do not stand in the chunk at hand.
    pub down: Vec<u8>,
    /// What happened.
    pub tally: Tally,
}

impl Core {
    /// A conversation that has not begun.
    pub fn new(rules: Arc<Rules>, table: Arc<Table>, now: Instant) -> Self {
        Core {
            wary: rules.intercept,
            rules,
            grant: Grant::default(),
            table,
            degree: Degree::Ledgered,
            turning: None,
            state: State::default(),
            scan: Scan::new(),
            ledger: Ledger::default(),
            partial: None,
            hold: Hold::None,
            parked: None,
            deadline: None,
            passing: false,
            overrun: false,
            way: Way::Here,
            stranded: false,
            unqueued: false,
            turns: false,
            transactions: 0,
            pending: Vec::new(),
            scanned: 0,
            cut_through: false,
            sighted: None,
            budget: None,
            credit: NOBODY_COUNTS,
            born: now,
            now_us: 0,
            up: Vec::new(),
            down: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// What it retains beyond its own share counts against `allowance`.
    #[must_use]
    pub fn within(mut self, allowance: Arc<Allowance>) -> Self {
        self.grant = Grant::of(allowance);
        self
    }

    /// How much of the session is understood.
    pub fn degree(&self) -> Degree {
        self.degree
    }

    /// How long one command may wait; zero when nothing is held.
    pub fn hold_time(&self) -> Duration {
        self.rules.hold_time
    }

    /// The newest refusal since the last call: to be told to the guard, whose ticket decides when
    /// [`Core::opened`] may be called.
    pub fn take_sighting(&mut self) -> Option<Refusal> {
        self.sighted.take()
    }

    /// `(commands, bytes)` that began to be held, for which a budget must be asked; if it is refused,
    /// [`Core::over_budget`] follows.
    pub fn take_budget_request(&mut self) -> Option<(u64, u64)> {
        self.budget.take()
    }

    /// So many gated requests may go on, or any number: before the next one [`Core::requests`] stops, and keeps
    /// what is left of the chunk. Returns what was left of the last credit.
    pub fn set_credit(&mut self, credit: Option<u32>) -> u32 {
        match std::mem::replace(&mut self.credit, credit.unwrap_or(NOBODY_COUNTS)) {
            NOBODY_COUNTS => 0,
            left => left,
        }
    }

    /// Gated requests that await their replies.
    pub fn gated_in_flight(&self) -> u32 {
        self.ledger.gated() as u32
    }

    /// Should the client's socket be read?
    pub fn reads_downstream(&self) -> bool {
        match self.hold {
            _ if self.overrun || self.stranded => false,
            // What is half sent must be sent, or its reply never comes.
            _ if self.way != Way::Here => self.partial.is_some(),
            Hold::None => self.waiting_parked().is_none(),
            Hold::Draining(_) => self.partial.is_some(),
            Hold::Waiting(_) => mutant!(SendsPastAHold),
        }
    }

    /// Something waits for the gate: a refused command (`refused`) or only a parked one.
    pub fn holds(&self) -> Option<Holding> {
        match (&self.hold, self.waiting_parked()) {
            (Hold::Waiting(held), _) if held.unready => Some(Holding::Unready),
            (Hold::Waiting(_), _) => Some(Holding::Refused),
            (Hold::Draining(_), _) => Some(Holding::Draining),
            (Hold::None, Some(_)) => Some(Holding::Parked),
            (Hold::None, None) => None,
        }
    }

    /// When [`Core::timed_out`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let held = match &self.hold {
            Hold::None => None,
            Hold::Draining(held) | Hold::Waiting(held) if mutant!(ForgetsTheHoldsEnd) => {
                Some(held.deadline + Duration::from_secs(3600))
            }
            Hold::Draining(held) | Hold::Waiting(held) => Some(held.deadline),
        };
        [held, self.waiting_parked().map(|p| p.deadline)].into_iter().flatten().min()
    }

    /// Is every request answered and nothing kept back? Then the session may be closed.
    pub fn is_idle(&self) -> bool {
        self.ledger.is_empty() && self.partial.is_none() && self.holds().is_none() && self.pending.is_empty()
    }

    /// Bytes retained and withheld now; none of either when nothing is understood.
    #[cfg(test)]
    pub(super) fn memory(&self) -> Option<(usize, usize)> {
        let withheld = match &self.hold {
            Hold::None => 0,
            Hold::Draining(held) | Hold::Waiting(held) => held.bytes.len(),
        };
        (self.degree != Degree::Opaque).then_some((self.ledger.retained.len(), withheld))
    }

    /// A request was longer than allowed, and all before it is answered: the session ends with this error.
    pub fn overrun_error(&self) -> Option<&'static str> {
        (self.overrun && self.ledger.is_empty() && self.holds().is_none())
            .then_some("ERR Protocol error: invalid bulk length")
    }

    /// May a silent client be closed? Not one that is owed something, listens, or is a replica or monitor
    /// (`timeout.c:clientsCronHandleTimeout`).
    pub fn may_be_closed(&self) -> bool {
        self.degree == Degree::Ledgered && self.is_idle() && !self.state.is_subscribed()
    }

    /// The client's socket has nothing more to give now: what was passed as it is, is through.
    pub fn dry(&mut self) {
        self.passing = false;
        self.ledger.shrink();
        if self.ledger.retained.is_empty() {
            self.grant.give_back();
        }
    }

    fn waiting_parked(&self) -> Option<Parked> {
        self.parked.filter(|parked| !parked.ripe)
    }

    fn micros(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.born).as_micros() as u32
    }

    /// Loses count when all that was sent before is answered: until then each reply has its request.
    fn turn(&mut self, degree: Degree, why: Degraded) {
        if self.degree != Degree::Ledgered {
            return self.degrade(degree, why);
        }
        let why = self.turning.map_or(why, |(_, first)| first);
        self.turning = Some((degree, why));
        self.ledger.push(Slot::marker(Flags::LAST));
        self.settle();
    }

    /// Loses count: from here on the session is read along at the most.
    fn degrade(&mut self, degree: Degree, why: Degraded) {
        self.flush_held();
        self.degree = degree;
        self.turning = None;
        self.tally.degraded.get_or_insert(why);
        if let Some(partial) = &mut self.partial
            && partial.prefix.is_none()
        {
            // Its bytes go with the ledger; its head is still to be read.
            let retained = &self.ledger.retained;
            let had = (retained.end() - partial.start) as usize;
            partial.prefix = Some(retained.slice(partial.start, had.min(HEAD_BYTES_MAX)).to_vec());
        }
        for reply in self.ledger.clear() {
            self.down.extend_from_slice(&reply);
        }
        if let Some(partial) = &mut self.partial {
            partial.start = self.ledger.retained.end();
        }
        if degree == Degree::Opaque {
            self.partial = None;
            self.down.append(&mut self.pending);
        }
        self.state.transaction = None;
    }
}

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// Replies to what is in flight.
    Draining,
    /// Open writes, proved later than the refusal.
    Refused,
    /// A server that is ready: to be asked again, in one's own time.
    Unready,
    /// A posture other than Hold.
    Parked,
}
