//! The server's side of the conversation: replies in, replies on.
//!
//! Two regimes. *Plain*: nothing is kept back and no slot is special; replies are walked and the chunk
//! goes on as it is. *Taking apart*: each reply is copied to where it belongs (the client, the withheld
//! buffer, nowhere), which costs a copy and lasts as long as a hold.

use std::time::Instant;

use crate::command::Kind;
use crate::posture::Posture;
use crate::resp::error::{REFUSAL_BYTES_MAX, may_become_refusal};
use crate::resp::scan::Step;

use super::super::ledger::{Flags, Slot};
use super::super::replay::{Entry, Outcome};
use super::super::state::State;
use super::errors::{line, outcome_of};
use super::requests::{ALL_TOPICS, ExecEffects};
use super::{Core, Degraded, Degree, Held, Hold, Run, Taken};

/// Past this much of one reply, its bytes are not collected any more but passed on as they come.
const COLLECT_MAX: usize = 64 * 1024;

/// Where a reply goes.
enum Dest {
    Client,
    Nowhere,
    Withheld(Option<Slot>),
}

/// What a reply answers.
enum Claim {
    /// The oldest request, in full.
    Front,
    /// The oldest request, in part: one confirmation of several.
    PartOfFront,
    /// Nothing: a push.
    Nobody,
}

impl Core {
    /// Replies from the server. What must reach the client: the `direct` bytes, then [`Core::down`].
    /// `kept` bytes are to be handed in again with more behind them; what lies between is used up.
    pub fn replies(&mut self, buf: &[u8], posture: Posture, now: Instant) -> Taken {
        if self.degree == Degree::Opaque {
            return Taken { direct: buf.len(), kept: 0 };
        }
        if self.is_plain() && self.pending.is_empty() {
            return self.walk(buf, posture, now);
        }
        self.pending.extend_from_slice(buf);
        self.take_apart(posture, now);
        Taken { direct: 0, kept: 0 }
    }

    fn is_plain(&self) -> bool {
        matches!(self.hold, Hold::None) && !self.ledger.has_special() && !self.cut_through
    }

    /// The plain regime.
    fn walk(&mut self, buf: &[u8], posture: Posture, now: Instant) -> Taken {
        let all = Taken { direct: buf.len(), kept: 0 };
        let now_us = self.micros(now);
        let mut at = 0;
        loop {
            match self.scan.next(buf, at) {
                Step::More => return all,
                Step::Value { end, kind } => {
                    at = end;
                    if self.answer(kind, outcome_of(kind), now_us, posture, now).is_withheld() {
                        unreachable!("only a refusal begins a hold, and refusals are errors");
                    }
                }
                Step::Error { text, end, top: false, closes } => {
                    self.look_at_nested(buf, text, end);
                    at = end;
                    if let Some(kind) = closes {
                        self.answer(kind, Outcome::Answered, now_us, posture, now);
                    }
                }
                Step::Error { text, end, top: true, .. } => {
                    let outcome = self.look_at_error(line(buf, text, end));
                    at = end;
                    if let Dest::Withheld(slot) = self.answer(b'-', outcome, now_us, posture, now) {
                        self.withhold(slot, outcome, &buf[text - 1..end]);
                        self.pending.extend_from_slice(&buf[end..]);
                        self.scanned = 0;
                        self.take_apart(posture, now);
                        return Taken { direct: text - 1, kept: 0 };
                    }
                }
                Step::Line { start } => {
                    if may_become_refusal(&buf[start + 1..]) {
                        return Taken { direct: start, kept: buf.len() - start };
                    }
                    self.scan.pass_line();
                    at = start;
                }
                Step::Malformed { .. } => {
                    self.degrade(Degree::Opaque, Degraded::MalformedReply);
                    return all;
                }
            }
        }
    }

    /// The other regime: one reply at a time from `pending`.
    pub(super) fn take_apart(&mut self, posture: Posture, now: Instant) {
        let pending = std::mem::take(&mut self.pending);
        let now_us = self.micros(now);
        let (mut start, mut at) = (0, std::mem::take(&mut self.scanned));
        loop {
            if self.is_plain() && start == at {
                // Nothing is special any more: what is left goes the plain way.
                let rest = &pending[start..];
                let before = std::mem::take(&mut self.down);
                let taken = self.walk(rest, posture, now);
                // A hold may have begun in there, ended, and queued replies of its own: they come last.
                let behind = std::mem::replace(&mut self.down, before);
                self.down.extend_from_slice(&rest[..taken.direct]);
                self.down.extend_from_slice(&behind);
                if taken.kept > 0 {
                    self.pending = rest[taken.direct..].to_vec();
                }
                return;
            }
            let (end, kind, outcome) = match self.scan.next(&pending, at) {
                Step::More => {
                    at = pending.len();
                    break;
                }
                Step::Line { start: line } => {
                    at = line;
                    if pending.len() - line <= REFUSAL_BYTES_MAX {
                        break;
                    }
                    self.scan.pass_line();
                    continue;
                }
                Step::Value { end, kind } => (end, kind, outcome_of(kind)),
                Step::Error { text, end, top: false, closes } => {
                    self.look_at_nested(&pending, text, end);
                    at = end;
                    match closes {
                        Some(kind) => (end, kind, Outcome::Answered),
                        None => continue,
                    }
                }
                Step::Error { text, end, .. } => (end, b'-', self.look_at_error(line(&pending, text, end))),
                Step::Malformed { .. } => {
                    self.degrade(Degree::Opaque, Degraded::MalformedReply);
                    self.down.extend_from_slice(&pending[start..]);
                    return;
                }
            };
            let reply = &pending[start..end];
            (start, at) = (end, end);
            if std::mem::take(&mut self.cut_through) {
                self.down.extend_from_slice(reply);
                self.answer(kind, Outcome::Answered, now_us, posture, now);
            } else {
                match self.answer(kind, outcome, now_us, posture, now) {
                    Dest::Client => self.down.extend_from_slice(reply),
                    Dest::Nowhere => {}
                    Dest::Withheld(slot) => self.withhold(slot, outcome, reply),
                }
            }
            self.settle();
            if self.degree == Degree::Opaque {
                self.down.extend_from_slice(&pending[start..]);
                return;
            }
        }
        self.pending = pending;
        self.pending.drain(..start);
        self.scanned = at - start;
        self.bound_pending();
    }

    /// No more is collected than the budgets allow.
    fn bound_pending(&mut self) {
        let partial = self.pending.len();
        let withheld = match &self.hold {
            Hold::Draining(held) => held.bytes.len(),
            Hold::Waiting(_) | Hold::None => 0,
        };
        if withheld + partial > self.rules.withhold_max {
            let end = self.give_up();
            self.tally.held = self.tally.held.wrapping_sub(end.counted);
            self.tally.over_budget += end.counted + end.uncounted;
        }
        let mid_reply = partial > 0 && self.scanned == partial && !self.scan.at_boundary();
        if matches!(self.hold, Hold::None) && mid_reply {
            let swallows = self.ledger.front().is_some_and(|slot| slot.flags.has(Flags::SWALLOW));
            if !self.ledger.has_special() || (partial > COLLECT_MAX && !swallows) {
                self.cut_through = self.ledger.has_special();
                self.down.append(&mut self.pending);
                self.scanned = 0;
            }
        }
    }

    /// Slots whose turn has come and that no reply will answer: replies that are known already, and what
    /// ends the count.
    pub(super) fn settle(&mut self) {
        while self.ledger.has_special() {
            if self.ledger.front().is_some_and(|slot| slot.flags.has(Flags::LAST))
                && let Some((degree, why)) = self.turning.take()
            {
                return self.degrade(degree, why);
            }
            let Some((slot, reply)) = self.ledger.pop_canned() else { return };
            match self.hold {
                Hold::Draining(_) => self.withhold(Some(slot), Outcome::Answered, &reply),
                Hold::Waiting(_) | Hold::None => {
                    self.ledger.release(&slot);
                    self.down.extend_from_slice(&reply);
                }
            }
        }
    }

    /// A complete reply: what it answers, what it changes, where it goes.
    #[inline]
    fn answer(&mut self, kind: u8, outcome: Outcome, now_us: u32, posture: Posture, now: Instant) -> Dest {
        if self.degree != Degree::Ledgered {
            return Dest::Client;
        }
        if kind == b'>' || (kind == b'*' && self.state.reads_words()) {
            match self.claim(kind) {
                Claim::Front => {}
                Claim::PartOfFront if self.settles() => return Dest::Nowhere,
                Claim::PartOfFront | Claim::Nobody => {
                    return if matches!(self.hold, Hold::Draining(_)) {
                        Dest::Withheld(None)
                    } else {
                        Dest::Client
                    };
                }
            }
        }
        let Some(slot) = self.ledger.pop() else {
            self.degrade(Degree::Watched, Degraded::Unpaired);
            return Dest::Client;
        };
        match &self.hold {
            Hold::Draining(_) => {
                self.confirm(&slot, outcome, now_us);
                return Dest::Withheld(Some(slot));
            }
            Hold::Waiting(_) | Hold::None => {}
        }
        if outcome.is_refusal() {
            if self.may_hold(&slot, outcome, posture) {
                self.begin_hold(&slot, now);
                return Dest::Withheld(Some(slot));
            }
            self.seal(slot.transaction);
        }
        self.confirm(&slot, outcome, now_us);
        if self.degree == Degree::Ledgered {
            self.ledger.release(&slot);
        }
        if slot.flags.has(Flags::SWALLOW) && !mutant!(TellsSwallowed) {
            self.recreated(&slot, outcome);
            return Dest::Nowhere;
        }
        Dest::Client
    }

    /// What a push, or an array that may be one in RESP2, answers.
    fn claim(&mut self, kind: u8) -> Claim {
        let unasked = kind == b'>';
        if !unasked && self.state.proto != 2 {
            return Claim::Front;
        }
        let Some((topic, on)) = State::confirmation(self.scan.word()) else {
            let message = unasked || (self.state.is_subscribed() && State::is_message(self.scan.word()));
            return if message { Claim::Nobody } else { Claim::Front };
        };
        let before = self.state.topics(topic);
        let total = self.scan.last_int();
        let Some(slot) = self.ledger.front().filter(|slot| {
            slot.transaction == 0
                && slot.kind == if on { Kind::Subscribe(topic) } else { Kind::Unsubscribe(topic) }
        }) else {
            if unasked || self.state.is_subscribed() {
                self.state.confirm(topic, total);
                self.scan.read_words(self.state.reads_words());
                return Claim::Nobody;
            }
            return Claim::Front;
        };
        if slot.arg == ALL_TOPICS {
            slot.arg = before.clamp(1, u64::from(ALL_TOPICS - 1)) as u32;
        }
        slot.arg -= 1;
        let done = slot.arg == 0;
        self.state.confirm(topic, total);
        if done { Claim::Front } else { Claim::PartOfFront }
    }

    /// What a reply confirms about the session.
    #[inline]
    fn confirm(&mut self, slot: &Slot, outcome: Outcome, now_us: u32) {
        self.note_latency(slot, now_us);
        match slot.kind {
            Kind::Read | Kind::Write | Kind::Ping | Kind::Script => {
                self.wary &= matches!(outcome, Outcome::Unready(_));
            }
            Kind::Effect => {}
            _ => self.confirm_state(slot, outcome),
        }
    }

    fn confirm_state(&mut self, slot: &Slot, outcome: Outcome) {
        let answered = outcome == Outcome::Answered;
        if answered && slot.kind.sets_up() {
            self.note_setup(slot);
        }
        match slot.kind {
            Kind::Subscribe(_) | Kind::Unsubscribe(_) if slot.transaction == 0 => {
                self.state.subscribing -= 1;
                self.scan.read_words(self.state.reads_words());
            }
            Kind::Select if slot.transaction == 0 && answered => self.state.db = Some(slot.arg),
            Kind::Hello if slot.transaction == 0 && answered && matches!(slot.arg, 2 | 3) => {
                self.state.proto = slot.arg as u8;
            }
            Kind::Reset if answered => {
                self.state.reset();
                self.scan.read_words(self.state.reads_words());
            }
            // It began nothing, or was nested. Either way its transaction is not what requests say.
            Kind::Multi if !answered => self.distrust(slot.transaction),
            Kind::Exec if answered => {
                let effects = ExecEffects::from(slot.arg);
                if slot.transaction != 0 && effects.selects {
                    self.state.db = None;
                }
                if slot.transaction != 0 && effects.uncountable {
                    self.degrade(Degree::Watched, Degraded::Unpaired);
                }
            }
            _ => {}
        }
    }

    /// MULTI failed: nothing that seems to belong to this transaction may be sent again.
    fn distrust(&mut self, id: u32) {
        self.seal(id);
        self.state.watching = true;
        self.state.db = None;
    }

    /// Nothing of this transaction may be sent again: its client knows that part of it was refused.
    pub(super) fn seal(&mut self, id: u32) {
        if id == 0 {
            return;
        }
        self.ledger.mark(Flags::SEALED, |slot| slot.transaction == id);
        if let Some(open) = self.state.transaction.as_mut().filter(|open| open.id == id) {
            open.sealed = true;
        }
    }

    #[inline]
    fn note_latency(&mut self, slot: &Slot, now_us: u32) {
        if slot.flags.has(Flags::SWALLOW) {
            return;
        }
        let run = Run { class: slot.kind.class(), micros: now_us.wrapping_sub(slot.sent_us), n: 1 };
        match self.tally.runs.last_mut() {
            Some(last) if (last.class, last.micros) == (run.class, run.micros) => last.n += 1,
            _ => self.tally.runs.push(run),
        }
    }

    /// May a refusal of this request be kept back?
    fn may_hold(&self, slot: &Slot, outcome: Outcome, posture: Posture) -> bool {
        self.rules.intercept
            && !slot.flags.has(Flags::AS_IS)
            // What does not set up what the client had ends the session.
            && !slot.flags.has(Flags::RECREATES)
            && match posture {
                // No guard has a part in it.
                _ if matches!(outcome, Outcome::Unready(_)) => true,
                Posture::Forward | Posture::Hold => true,
                Posture::Redirect | Posture::Refuse => false,
            }
    }

    fn begin_hold(&mut self, slot: &Slot, now: Instant) {
        let fresh = now + self.rules.hold_time;
        let deadline = if slot.flags.has(Flags::REPLAYED) { self.deadline.unwrap_or(fresh) } else { fresh };
        self.deadline = Some(deadline);
        let db = self.state.db;
        self.hold = Hold::Draining(Box::new(Held {
            deadline,
            entries: Vec::new(),
            bytes: Vec::new(),
            refused: 0,
            unready: false,
            db,
        }));
    }

    /// Keeps a reply back; judges once it was the last one in flight.
    fn withhold(&mut self, slot: Option<Slot>, outcome: Outcome, reply: &[u8]) {
        let Hold::Draining(held) = &mut self.hold else {
            // The count was lost between the reply and here: deliver.
            self.down.extend_from_slice(reply);
            return;
        };
        let from = held.bytes.len();
        held.bytes.extend_from_slice(reply);
        held.entries.push(Entry { slot, outcome, bytes: (from, held.bytes.len()) });
        self.judge_if_drained();
    }
}

impl Dest {
    fn is_withheld(&self) -> bool {
        matches!(self, Dest::Withheld(_))
    }
}
