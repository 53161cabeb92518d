//! How a session leaves one server for another: everything in flight is answered first, then what the client has set
//! up is said to the new server, and only when that has answered does the client's next request go on.
//!
//! Refuses to know where the servers are and why the session goes. What it holds back for a refusal goes with it:
//! a refused command did not run, so it may be sent to the new server as well as to the old.

use std::time::Instant;

use super::super::ledger::{Flags, Slot};
use super::super::replay::Outcome;
use super::super::setup::Lost;
use super::{Core, Degree, Hold};
use crate::command::Kind;
use crate::resp::request::{Parsed, parse};
use crate::resp::scan::Scan;

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// With its server.
    Here,
    /// It sends nothing new, and waits for what is in flight.
    Leaving,
    /// Between servers. What it had selected, and the protocol it spoke.
    Away { db: u32, proto: u8 },
    /// With a new server, which is being told what the client has set up. As above, for the case that it goes away.
    Settling { db: u32, proto: u8 },
}

/// Why a session cannot go on at another server: it ends, so that its client begins anew.
///
/// | why | what its client is told |
/// |---|---|
/// | `Watch`, `Transaction` | nothing ran: an error to the request at hand, if there is one, and the close |
/// | `Setup` | the same |
/// | `Wire` (MONITOR, replication, CLIENT REPLY OFF, policy `observe`) | the close: what it reads next would not be told from a reply |
///
/// A blocked command is none of them: it is in flight. The server that is demoted answers it with its own
/// `-UNBLOCKED` (`replication.c:replicationSetMaster`); one that does not in time, the session answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fixed {
    /// It is not read along.
    Wire,
    /// A WATCH stands: the new server does not know what changed meanwhile.
    Watch,
    /// An open MULTI cannot be queued again: part of it was refused, or not retained.
    Transaction,
    /// What it has set up is not known in full.
    Setup(Option<Lost>),
}

impl Core {
    /// Why the session cannot go on at another server, if it cannot.
    pub fn fixed(&self) -> Option<Fixed> {
        let state = &self.state;
        if !self.rules.intercept || self.degree != Degree::Ledgered || self.turning.is_some() {
            return Some(Fixed::Wire);
        }
        if state.watching {
            return Some(Fixed::Watch);
        }
        // An open one is queued again from its MULTI on: nothing of it has run.
        if state.transaction.is_some_and(|open| open.sealed) && !matches!(self.hold, Hold::Waiting(_)) {
            return Some(Fixed::Transaction);
        }
        let known = state.setup.lost().is_none() && self.set_up().is_some();
        (!known).then(|| Fixed::Setup(state.setup.lost()))
    }

    /// Database and protocol to be set up elsewhere, if they and the topics are known.
    fn set_up(&self) -> Option<(u32, u8)> {
        match self.way {
            Way::Away { db, proto } | Way::Settling { db, proto } => Some((db, proto)),
            Way::Here | Way::Leaving => {
                let db = self.state.db.filter(|_| self.state.knows_topics())?;
                Some((db, self.state.proto))
            }
        }
    }

    /// Nothing that was sent for the client is unanswered, and no reply or message is half delivered.
    pub fn is_answered(&self) -> bool {
        let settling = matches!(self.way, Way::Settling { .. });
        settling || (self.nothing_in_flight() && self.scan.at_boundary())
    }

    fn nothing_in_flight(&self) -> bool {
        self.ledger.is_empty() && self.partial.is_none() && self.pending.is_empty()
    }

    /// Some request awaits its reply, of which nothing has been delivered: an error may take its place.
    pub fn may_be_told(&self) -> bool {
        self.degree == Degree::Ledgered && self.pending.is_empty() && self.scan.at_boundary()
    }

    /// With its server: what it sends goes there.
    pub fn is_here(&self) -> bool {
        self.way == Way::Here
    }

    /// Between two servers.
    pub fn is_away(&self) -> bool {
        matches!(self.way, Way::Away { .. })
    }

    /// The new server is being told what the client has set up.
    pub fn is_settling(&self) -> bool {
        matches!(self.way, Way::Settling { .. })
    }

    /// The new server did not take what the client had set up, or will not get the transaction that the client believes
    /// to be open: the session must end.
    pub fn is_stranded(&self) -> bool {
        self.stranded
    }

    /// As one of a group of servers, of which another may become the primary.
    #[cfg(test)]
    pub(in crate::session) fn in_a_group(mut self) -> Self {
        self.turns = true;
        self
    }

    /// May another server become the primary?
    pub fn expects_turns(&mut self, turns: bool) {
        self.turns = turns;
    }

    /// Sends nothing new from now on.
    pub fn leave(&mut self) {
        if self.way == Way::Here {
            self.way = Way::Leaving;
        }
    }

    /// It need not go after all.
    pub fn stay(&mut self) {
        if self.way == Way::Leaving {
            self.way = Way::Here;
        }
    }

    /// Parted from its server, at a moment when [`Core::is_answered`] and not [`Core::fixed`].
    pub fn part(&mut self) {
        debug_assert!(self.is_answered() && self.fixed().is_none());
        let Some((db, proto)) = self.set_up() else { return };
        self.way = Way::Away { db, proto };
        self.unqueued = self.state.transaction.is_some() && matches!(self.hold, Hold::Waiting(_));
        self.ledger.forget();
        self.scan = Scan::new();
        self.up.clear();
        self.pending.clear();
        self.scanned = 0;
        self.cut_through = false;
    }

    /// Connected to a new server: tells it what the client has set up.
    pub fn arrive(&mut self, now: Instant) {
        let Way::Away { db, proto } = self.way else { return };
        self.way = Way::Settling { db, proto };
        self.wary = true;
        let sent_us = self.micros(now);
        let transaction = self.state.transaction;
        self.state.arrive();
        self.state.transaction = transaction;
        let setup = std::mem::take(&mut self.state.setup);
        let (ledger, state) = (&mut self.ledger, &mut self.state);
        setup.say(db, proto, &mut self.up, |said| {
            state.subscribing += u32::from(matches!(said.kind, Kind::Subscribe(_)));
            let flags = Flags::SWALLOW.with_if(said.needed, Flags::RECREATES);
            ledger.push(Slot { kind: said.kind, arg: said.arg, sent_us, ..Slot::marker(flags) });
        });
        self.state.setup = setup;
        self.scan.read_words(self.state.reads_words());
        if let Some(open) = transaction.filter(|_| matches!(self.hold, Hold::None)) {
            self.queue_again(open.start..self.ledger.retained.end(), open.id, Flags::RECREATES, sent_us);
        }
        if self.ledger.is_empty() {
            self.settled();
        }
    }

    /// Confirmations of the topics of one request, but for the last, are nobody's to hear.
    pub(super) fn settles(&self) -> bool {
        self.is_settling()
    }

    /// A swallowed reply: one to what a new server was told?
    pub(super) fn recreated(&mut self, slot: &Slot, outcome: Outcome) {
        if !self.is_settling() {
            return;
        }
        self.stranded |= slot.flags.has(Flags::RECREATES) && outcome != Outcome::Answered;
        if self.ledger.is_empty() && !self.stranded {
            self.settled();
        }
    }

    fn settled(&mut self) {
        self.way = Way::Here;
        if self.state.setup.is_tracking() && self.state.proto == 3 {
            // What the old server would have told of is not known: all that the client has cached is void, in the
            // words in which a server says so (`tracking.c:trackingInvalidateKeysOnFlush`).
            self.down.extend_from_slice(b">2\r\n$10\r\ninvalidate\r\n_\r\n");
        }
    }

    /// The client has set something up, as a reply confirms.
    #[cold]
    pub(super) fn note_setup(&mut self, slot: &Slot) {
        if slot.transaction != 0 || slot.flags.has(Flags::SWALLOW) || !self.rules.intercept {
            return;
        }
        let request = self.ledger.retained.slice(slot.start, slot.len as usize);
        let words = match parse(request) {
            Parsed::Whole { head, .. } if !request.is_empty() => head.words(),
            _ => None,
        };
        match words {
            None if request.is_empty() => self.state.setup.lose(Lost::TooMuch),
            words => self.state.setup.note(slot.kind, words),
        }
    }
}
