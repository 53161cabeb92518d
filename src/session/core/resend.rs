//! How a hold ends: sent again, given up, abandoned.

use std::ops::Range;
use std::time::Instant;

use crate::command::Kind;
use crate::resp::encode;
use crate::resp::request::{Parsed, parse};

use super::super::ledger::{Flags, Slot};
use super::super::replay::{Entry, Outcome, judge, resends};
use super::{Core, Degree, Held, Hold};

/// Refused commands that a hold ended for.
pub(super) struct GivenUp {
    /// The tally has them as held.
    pub counted: u64,
    /// No verdict had come yet: it has not.
    pub uncounted: u64,
}

impl Core {
    /// Everything in flight is answered: what may be sent again, waits; the rest is delivered.
    pub(super) fn judge_if_drained(&mut self) {
        if !self.ledger.is_empty() || self.partial.is_some() {
            return;
        }
        let Hold::Draining(mut held) = std::mem::replace(&mut self.hold, Hold::None) else { return };
        let verdict = judge(&held.entries).filter(|v| self.can_rewind(&held, v.from));
        let Some(verdict) = verdict else {
            self.deliver(&held.entries, &held.bytes);
            self.release_all();
            return;
        };
        held.db = db_at(&held, verdict.from);
        self.deliver(&held.entries[..verdict.from], &held.bytes);
        held.entries.drain(..verdict.from);
        if let Some(first) = held.entries.iter().find_map(|e| e.slot)
            && (first.transaction == 0 || first.kind == Kind::Multi)
        {
            // What was delivered is not needed; a transaction that began earlier begins the retained bytes.
            self.ledger.retained.release(first.start);
        }
        // Pushes are nobody's replies: they need not wait.
        let (pushes, entries): (Vec<_>, Vec<_>) = held.entries.iter().partition(|e| e.slot.is_none());
        self.deliver(&pushes, &held.bytes);
        held.entries = entries;
        held.refused = verdict.refused;
        held.unready = !held.entries.iter().any(|e| matches!(e.outcome, Outcome::Refused(_)));
        let bytes = held.bytes.len() + self.ledger.retained.len();
        self.tally.held += verdict.refused;
        self.budget = Some((verdict.refused, bytes as u64));
        self.hold = Hold::Waiting(held);
    }

    /// Is a gated request among what waits to be sent again?
    pub fn holds_gated(&self) -> bool {
        let Hold::Waiting(held) = &self.hold else { return false };
        held.entries.iter().any(|entry| entry.slot.is_some_and(|slot| slot.kind.is_gated()))
    }

    /// Writes are open, as proved later than the last refusal: sends what waits again. What is parked
    /// goes when it is handed to [`Core::requests`] again.
    pub fn opened(&mut self, now: Instant) {
        match std::mem::replace(&mut self.hold, Hold::None) {
            Hold::Waiting(held) => self.resend(*held, now),
            other => {
                self.hold = other;
                if let Some(parked) = &mut self.parked {
                    parked.ripe = true;
                }
            }
        }
    }

    /// A deadline has passed: what was kept back is delivered as the server said it, and what waits
    /// behind it goes to the server as it is.
    pub fn timed_out(&mut self) {
        let end = self.give_up();
        self.tally.held += end.uncounted;
        self.tally.timed_out += end.counted + end.uncounted + u64::from(self.parked.take().is_some());
        self.passing = true;
        if let Some(partial) = &mut self.partial {
            partial.as_is = true;
        }
    }

    /// The budget of all sessions is spent: nothing more is held here.
    pub fn over_budget(&mut self) {
        let parked = u64::from(self.parked.take().is_some());
        let end = self.give_up();
        // They never were holds; the shell asks right after the call that counted them.
        self.tally.held = self.tally.held.wrapping_sub(end.counted + parked);
        self.tally.over_budget += end.counted + end.uncounted + parked;
        self.passing = true;
    }

    /// The client has left: what was held for it is dropped, and nothing is held any more.
    pub fn abandoned(&mut self) {
        let refused = match std::mem::replace(&mut self.hold, Hold::None) {
            Hold::Waiting(held) => held.refused,
            Hold::Draining(_) | Hold::None => 0,
        };
        self.tally.abandoned += refused + u64::from(self.parked.take().is_some());
        self.ledger.mark(Flags::AS_IS, |_| true);
        self.release_all();
    }

    /// The server has left: the client gets all that was answered, as it was answered.
    pub fn upstream_closed(&mut self) {
        self.flush_held();
        self.tally.abandoned += u64::from(self.parked.take().is_some());
        if self.ledger.front().is_some_and(|slot| slot.flags.has(Flags::SWALLOW)) {
            self.pending.clear();
        }
        self.down.append(&mut self.pending);
        // Known replies behind one that will never come are not delivered in its place.
        drop(self.ledger.clear());
        self.state.transaction = None;
        self.partial = None;
        self.turning = None;
        self.degree = Degree::Opaque;
    }

    /// Delivers what is kept back, as it was answered; so will be what is still in flight.
    pub(super) fn give_up(&mut self) -> GivenUp {
        let (held, counted) = match std::mem::replace(&mut self.hold, Hold::None) {
            Hold::None => return GivenUp { counted: 0, uncounted: 0 },
            Hold::Waiting(held) => (held, true),
            Hold::Draining(held) => (held, false),
        };
        self.stranded |= std::mem::take(&mut self.unqueued);
        if !mutant!(DropsWhatTimedOut) {
            self.deliver(&held.entries, &held.bytes);
        }
        self.ledger.mark(Flags::AS_IS, |_| true);
        self.release_all();
        if counted {
            return GivenUp { counted: held.refused, uncounted: 0 };
        }
        let refused = held.entries.iter().filter(|e| e.outcome.is_refusal()).count();
        GivenUp { counted: 0, uncounted: refused as u64 }
    }

    /// As [`Core::give_up`], for a session that loses count or its server.
    pub(super) fn flush_held(&mut self) {
        self.tally.abandoned += self.give_up().counted;
    }

    fn deliver(&mut self, entries: &[Entry], bytes: &[u8]) {
        for entry in entries {
            if entry.slot.is_some_and(|slot| slot.flags.has(Flags::SWALLOW)) {
                continue;
            }
            self.down.extend_from_slice(&bytes[entry.bytes.0..entry.bytes.1]);
            if let Some(slot) = entry.slot.filter(|_| entry.outcome.is_refusal()) {
                self.seal(slot.transaction);
            }
        }
    }

    /// Lets go of retained bytes that neither a slot, the open transaction nor the request at hand needs.
    fn release_all(&mut self) {
        let keep = [self.state.transaction.map(|t| t.start), self.partial.as_ref().map(|p| p.start)];
        self.ledger.release_unneeded(keep.into_iter().flatten().min());
    }

    /// The database in which the entry at `from` ran can be selected again, if it is not selected now.
    fn can_rewind(&self, held: &Held, from: usize) -> bool {
        let then = db_at(held, from);
        then.is_some() || (self.state.db.is_none() && !held.entries[from..].iter().any(selects))
    }

    /// Sends the suffix again: behind it the session is where the client believes it to be.
    fn resend(&mut self, held: Held, now: Instant) {
        let sent_us = self.micros(now);
        self.unqueued = false;
        let ours = |kind, arg| Slot { kind, arg, sent_us, ..Slot::marker(Flags::SWALLOW) };
        if self.state.transaction.is_some() {
            // A refused command has spoilt it (`multi.c:flagTransaction`), or it began too early.
            encode::command(&mut self.up, &[b"DISCARD"]);
            self.ledger.push(ours(Kind::Discard, 1));
        }
        if let Some(db) = held.db
            && self.state.db != held.db
        {
            encode::command(&mut self.up, &[b"SELECT", db.to_string().as_bytes()]);
            self.ledger.push(ours(Kind::Select, db));
        }
        let first = held.entries.first().and_then(|e| e.slot).expect("a verdict begins with a request");
        if first.transaction != 0 && first.kind != Kind::Multi {
            let retained = self.ledger.retained.start();
            self.queue_again(retained..first.start, first.transaction, Flags::REPLAYED, sent_us);
        }
        for entry in &held.entries {
            let Some(slot) = entry.slot else { continue };
            if resends(entry) {
                self.up.extend_from_slice(self.ledger.retained.slice(slot.start, slot.len as usize));
                self.ledger.push(Slot { flags: slot.flags.with(Flags::REPLAYED), ..slot });
                self.tally.replays += 1;
                if mutant!(ReplaysTwice) {
                    self.up.extend_from_slice(self.ledger.retained.slice(slot.start, slot.len as usize));
                    self.ledger.push(ours(slot.kind, 1));
                }
            } else {
                let reply = held.bytes[entry.bytes.0..entry.bytes.1].to_vec();
                self.ledger.push_canned(Slot { flags: slot.flags.with(Flags::CANNED), ..slot }, reply);
            }
        }
        if !mutant!(MiscountsReleases) {
            self.tally.released += held.refused;
        }
    }

    /// Sends again what of a transaction was answered and delivered before: the requests retained at `range`, from its
    /// MULTI on. Their replies are swallowed.
    pub(super) fn queue_again(&mut self, range: Range<u64>, transaction: u32, flags: Flags, sent_us: u32) {
        let mut at = range.start;
        while at < range.end {
            let rest = self.ledger.retained.slice(at, (range.end - at) as usize);
            let Parsed::Whole { len, head } = parse(rest) else {
                unreachable!("only whole requests are retained");
            };
            let kind = self.table.kind(&head);
            debug_assert!(kind == Kind::Multi || at > range.start, "it begins with MULTI");
            self.up.extend_from_slice(&rest[..len]);
            self.ledger.push(Slot {
                kind,
                flags: flags.with(Flags::SWALLOW),
                transaction,
                arg: 1,
                sent_us,
                len: len as u32,
                start: at,
            });
            self.tally.replays += 1;
            at += len as u64;
        }
    }
}

fn selects(entry: &Entry) -> bool {
    entry.slot.is_some_and(|slot| slot.kind == Kind::Select)
}

/// The database before the entry at `from`.
fn db_at(held: &Held, from: usize) -> Option<u32> {
    held.entries[..from].iter().fold(held.db, |db, entry| match entry.slot {
        // Known from an earlier hold: a SELECT that is kept is one that failed.
        Some(slot) if slot.flags.has(Flags::CANNED) => db,
        Some(slot)
            if slot.kind == Kind::Select && slot.transaction == 0 && entry.outcome == Outcome::Answered =>
        {
            Some(slot.arg)
        }
        Some(slot) if slot.kind == Kind::Reset => Some(0),
        // What seemed to be queued ran at once: see `Core::distrust`.
        Some(slot) if slot.kind == Kind::Multi && entry.outcome != Outcome::Answered => None,
        Some(slot) if slot.kind == Kind::Exec && slot.transaction != 0 && slot.arg & 1 != 0 => None,
        _ => db,
    })
}
