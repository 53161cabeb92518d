//! The client's side of the conversation: requests in, requests on.

use std::time::Instant;

use crate::command::{Kind, Topic};
use crate::posture::Posture;
use crate::resp::request::{Fed, HEAD_BYTES_MAX, Head, Parsed, parse};

use super::super::ledger::{Flags, Slot};
use super::super::setup::Lost;
use super::super::state::Transaction;
use super::{Core, Degraded, Degree, Hold, NOBODY_COUNTS, Parked, Partial, ScriptReplay, Taken, Way};

/// UNSUBSCRIBE without names: how many replies come is known when it is answered.
pub(super) const ALL_TOPICS: u32 = u32::MAX;

impl Core {
    /// Requests from the client. `kept` bytes are to be handed in again: with more behind them, or when
    /// what the session waits for has come.
    pub fn requests(&mut self, buf: &[u8], posture: Posture, now: Instant) -> Taken {
        self.now_us = self.micros(now);
        let all = Taken { direct: buf.len(), kept: 0 };
        if self.is_deaf() {
            return all;
        }
        let mut at = 0;
        if self.partial.is_some() {
            match self.feed_partial(buf) {
                Fed::End(end) => at = end,
                Fed::More | Fed::Malformed => return all,
            }
            if self.is_deaf() {
                return all;
            }
            // It was what a hold waited for, if it needs no reply itself.
            self.judge_if_drained();
        }
        let waits = !matches!(self.hold, Hold::None) && !mutant!(SendsPastAHold);
        if waits || self.way != Way::Here {
            return Taken { direct: at, kept: buf.len() - at };
        }
        let was_parked = self.parked.take();
        let taken = self.walk_requests(buf, at, posture, was_parked, now);
        if was_parked.is_some() && self.parked.is_none() {
            self.tally.released += 1;
        }
        taken
    }

    fn walk_requests(
        &mut self,
        buf: &[u8],
        mut at: usize,
        posture: Posture,
        was_parked: Option<Parked>,
        now: Instant,
    ) -> Taken {
        let all = Taken { direct: buf.len(), kept: 0 };
        let gating = posture == Posture::Hold && self.rules.intercept && !self.passing;
        while at < buf.len() {
            match parse(&buf[at..]) {
                Parsed::Whole { len, head } => {
                    let kind = self.table.kind(&head);
                    if gating && kind.is_gated() {
                        return self.park(at, buf.len(), was_parked, now);
                    }
                    if kind.is_gated() && self.lacks_credit() {
                        return Taken { direct: at, kept: buf.len() - at };
                    }
                    self.admit(
                        kind,
                        &head,
                        Bytes::Here { bytes: &buf[at..at + len], behind: buf.len() - at - len },
                    );
                    at += len;
                    if self.is_deaf() {
                        return all;
                    }
                }
                Parsed::Empty { len } => at += len,
                Parsed::Part { head, rest } => {
                    // What its head does not tell yet may be gated, too.
                    if self.lacks_credit() && head.as_ref().is_none_or(|h| self.table.kind(h).is_gated()) {
                        return Taken { direct: at, kept: buf.len() - at };
                    }
                    if gating {
                        match head {
                            None => return Taken { direct: at, kept: buf.len() - at },
                            Some(head) if self.table.kind(&head).is_gated() => {
                                return self.park(at, buf.len(), was_parked, now);
                            }
                            Some(_) => {}
                        }
                    }
                    if rest.bulk() > self.rules.bulk_max {
                        return self.overrun(at);
                    }
                    let start = self.ledger.retained.end();
                    self.partial = Some(Partial { rest, start, prefix: None, as_is: self.passing });
                    self.retain_partial(&buf[at..]);
                    return all;
                }
                Parsed::Malformed => {
                    self.turn(Degree::Opaque, Degraded::MalformedRequest);
                    return all;
                }
            }
        }
        all
    }

    /// Somebody counts, and no more may go on now.
    #[inline]
    fn lacks_credit(&self) -> bool {
        self.credit == 0 && self.rules.intercept && !self.passing
    }

    /// No request is looked at any more.
    fn is_deaf(&self) -> bool {
        self.degree == Degree::Opaque || matches!(self.turning, Some((Degree::Opaque, _)))
    }

    /// Keeps a gated request and all behind it from the server.
    fn park(&mut self, at: usize, len: usize, was: Option<Parked>, now: Instant) -> Taken {
        if was.is_none() {
            self.tally.held += 1;
            self.budget = Some((1, (len - at) as u64));
        }
        let deadline = was.map_or(now + self.rules.hold_time, |was| was.deadline);
        self.parked = Some(Parked { deadline, ripe: false });
        Taken { direct: at, kept: len - at }
    }

    /// A bulk string is longer than allowed: nothing of the client is read any more, and once all that was
    /// sent is answered it is told so and closed, as `networking.c:processMultibulkBuffer` would.
    fn overrun(&mut self, at: usize) -> Taken {
        self.overrun = true;
        self.drop_partial();
        self.judge_if_drained();
        Taken { direct: at, kept: 0 }
    }

    fn feed_partial(&mut self, buf: &[u8]) -> Fed {
        let Some(partial) = &mut self.partial else { return Fed::End(0) };
        let fed = partial.rest.feed(buf);
        match fed {
            Fed::More if partial.rest.bulk() > self.rules.bulk_max => {
                self.overrun(0);
            }
            Fed::More => self.retain_partial(buf),
            Fed::Malformed => {
                self.drop_partial();
                self.turn(Degree::Opaque, Degraded::MalformedRequest);
            }
            Fed::End(end) => {
                self.retain_partial(&buf[..end]);
                self.finish_partial();
            }
        }
        fed
    }

    /// Retains a piece of the request at hand, or gives up retaining it.
    fn retain_partial(&mut self, piece: &[u8]) {
        let rules = &self.rules;
        let retained = &mut self.ledger.retained;
        let Some(partial) = &mut self.partial else { return };
        if let Some(prefix) = &mut partial.prefix {
            let room = HEAD_BYTES_MAX - prefix.len();
            prefix.extend_from_slice(&piece[..piece.len().min(room)]);
            return;
        }
        let len = (retained.end() - partial.start) as usize + piece.len();
        let all = retained.len() + piece.len();
        if len <= rules.retain_request_max && all <= rules.retain_session_max && self.grant.covers(all) {
            retained.push(piece);
            return;
        }
        let had = (retained.end() - partial.start) as usize;
        let mut prefix = retained.slice(partial.start, had.min(HEAD_BYTES_MAX)).to_vec();
        prefix.extend_from_slice(&piece[..piece.len().min(HEAD_BYTES_MAX - prefix.len())]);
        partial.prefix = Some(prefix);
        retained.truncate(partial.start);
    }

    /// The request that earlier chunks began will never be one.
    fn drop_partial(&mut self) {
        if let Some(partial) = self.partial.take() {
            self.ledger.retained.truncate(partial.start);
        }
    }

    /// The request that earlier chunks began is complete.
    fn finish_partial(&mut self) {
        let Some(partial) = self.partial.take() else { return };
        let len = match partial.prefix {
            Some(_) => 0,
            None => (self.ledger.retained.end() - partial.start) as usize,
        };
        // The head is read from a copy: what is retained may be let go while the request is taken in.
        let mut head = [0; HEAD_BYTES_MAX];
        let line;
        let source = match &partial.prefix {
            Some(prefix) => prefix,
            None => self.ledger.retained.slice(partial.start, len),
        };
        let copy = if source.first() == Some(&b'*') {
            let seen = source.len().min(HEAD_BYTES_MAX);
            head[..seen].copy_from_slice(&source[..seen]);
            &head[..seen]
        } else {
            // An inline request says how many words it has only at its end.
            line = source.to_vec();
            &line[..]
        };
        let passing = std::mem::replace(&mut self.passing, partial.as_is);
        match parse(copy) {
            Parsed::Whole { head, .. } | Parsed::Part { head: Some(head), .. } => {
                let kind = self.table.kind(&head);
                self.admit(kind, &head, Bytes::Retained { start: partial.start, len });
            }
            // An inline request too large to be kept: who knows how many replies it gets.
            Parsed::Part { head: None, .. } | Parsed::Malformed => {
                self.ledger.retained.truncate(partial.start);
                self.turn(Degree::Watched, Degraded::Unpaired);
            }
            Parsed::Empty { .. } => self.ledger.retained.truncate(partial.start),
        }
        self.passing = passing;
    }

    /// Takes a request into the ledger and notes what it announces.
    fn admit(&mut self, kind: Kind, head: &Head<'_>, bytes: Bytes<'_>) {
        self.tally.requests[kind.class() as usize] += 1;
        if kind.is_gated() && self.credit != NOBODY_COUNTS {
            self.credit = self.credit.saturating_sub(1);
        }
        if self.degree != Degree::Ledgered {
            if let Bytes::Retained { start, .. } = bytes {
                self.ledger.retained.truncate(start);
            }
            if kind == Kind::Replicate {
                self.degrade(Degree::Opaque, Degraded::Replication);
            }
            return;
        }
        let turn = match kind {
            Kind::Monitor => Some((Degree::Watched, Degraded::Monitor)),
            Kind::ReplyOff => Some((Degree::Watched, Degraded::ReplyMode)),
            Kind::Replicate => Some((Degree::Opaque, Degraded::Replication)),
            _ => None,
        };
        if let Some((degree, why)) = turn {
            if let Bytes::Retained { start, .. } = bytes {
                self.ledger.retained.truncate(start);
            }
            return self.turn(degree, why);
        }
        let starts = kind == Kind::Multi && self.state.transaction.is_none();
        let wants_bytes = self.rules.intercept
            && (kind.is_gated()
                || starts
                || self.state.transaction.is_some()
                || self.ledger.has_gated()
                || kind.sets_up()
                || self.wary
                || !matches!(self.hold, Hold::None));
        let (start, len) = self.retain(bytes, wants_bytes);
        let transaction = self.transaction(kind, starts, start, len);
        let mut slot = Slot {
            kind,
            flags: Flags::default()
                .with_if(self.passing, Flags::AS_IS)
                .with_if(transaction.is_some_and(|t| t.sealed), Flags::SEALED)
                .with_if(kind == Kind::Script, self.script_flags(head)),
            transaction: transaction.map_or(0, |t| t.id),
            arg: 1,
            sent_us: self.now_us,
            len: len as u32,
            start,
        };
        match (kind, transaction) {
            // EXEC's slot carries what its reply will change.
            (Kind::Exec, Some(t)) => {
                slot.arg = ExecEffects { selects: t.selects, uncountable: t.uncountable }.into()
            }
            (Kind::Multi | Kind::Discard, _) | (_, None) => slot.arg = self.announce(kind, head),
            (_, Some(_)) => {}
        }
        self.ledger.push(slot);
    }

    /// The transaction this request belongs to, MULTI and EXEC included.
    fn transaction(&mut self, kind: Kind, starts: bool, start: u64, len: usize) -> Option<Transaction> {
        if starts {
            self.transactions = self.transactions.wrapping_add(1).max(1);
            let sealed = self.state.watching || len == 0;
            self.state.transaction = Some(Transaction {
                id: self.transactions,
                start,
                sealed,
                selects: false,
                uncountable: false,
            });
            return self.state.transaction;
        }
        let open = self.state.transaction.as_mut()?;
        open.selects |= matches!(kind, Kind::Select | Kind::Reset);
        open.uncountable |= matches!(kind, Kind::Subscribe(_) | Kind::Unsubscribe(_) | Kind::Hello);
        open.sealed |= len == 0 || open.uncountable;
        if matches!(kind, Kind::Setting | Kind::State) {
            self.state.setup.lose(Lost::Transaction);
        }
        let now = *open;
        match kind {
            Kind::Exec | Kind::Discard => {
                self.state.transaction = None;
                self.state.watching = false;
            }
            Kind::Reset => {
                self.state.transaction = None;
                self.state.watching = false;
                return None;
            }
            _ => {}
        }
        Some(now)
    }

    /// What a request that runs at once announces; the slot's argument.
    fn announce(&mut self, kind: Kind, head: &Head<'_>) -> u32 {
        match kind {
            Kind::Watch => self.state.watching = true,
            // EXEC and DISCARD without MULTI are errors and leave the watches alone.
            Kind::Unwatch | Kind::Reset => self.state.watching = false,
            Kind::Select | Kind::Hello => return number(head.word(1)).unwrap_or(u32::MAX),
            Kind::Subscribe(_) | Kind::Unsubscribe(_) => {
                self.state.subscribing += 1;
                self.scan.read_words(true);
                let topics = head.argc - 1;
                return match (kind, topics) {
                    (Kind::Unsubscribe(Topic::Channel | Topic::Pattern | Topic::Shard), 0) => ALL_TOPICS,
                    // SUBSCRIBE without names is an arity error: one reply.
                    _ => topics.clamp(1, u64::from(ALL_TOPICS - 1)) as u32,
                };
            }
            _ => {}
        }
        1
    }

    fn script_flags(&self, head: &Head<'_>) -> Flags {
        match self.rules.scripts {
            ScriptReplay::All => Flags::SCRIPT_SAFE.with(Flags::SCRIPT_VOUCHED),
            ScriptReplay::None => Flags::default(),
            // `eval.c:evalExtractShebangFlags`; a function always has flags (`function_lua.c`).
            ScriptReplay::Declared => {
                let name = head.name;
                let declared = name.eq_ignore_ascii_case(b"fcall")
                    || name.eq_ignore_ascii_case(b"eval") && head.word(1).starts_with(b"#!");
                Flags::default().with_if(declared, Flags::SCRIPT_SAFE)
            }
        }
    }

    /// Where the request's bytes are retained, and how many; none when they are not wanted or not allowed.
    #[inline]
    fn retain(&mut self, bytes: Bytes<'_>, wanted: bool) -> (u64, usize) {
        let retained = &mut self.ledger.retained;
        match bytes {
            Bytes::Here { bytes, behind }
                if wanted
                    && bytes.len() <= self.rules.retain_request_max
                    && retained.len() + bytes.len() <= self.rules.retain_session_max
                    && self.grant.covers(retained.len() + bytes.len()) =>
            {
                let start = retained.end();
                retained.push_before(bytes, behind);
                (start, bytes.len())
            }
            Bytes::Here { .. } => (retained.end(), 0),
            Bytes::Retained { start, len } if wanted => (start, len),
            Bytes::Retained { start, .. } => {
                retained.truncate(start);
                (start, 0)
            }
        }
    }
}

/// What a transaction's end changes, as the argument of EXEC's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExecEffects {
    /// A SELECT ran: the database is not known any more.
    pub selects: bool,
    /// A SUBSCRIBE or HELLO ran: replies cannot be counted any more.
    pub uncountable: bool,
}

impl From<ExecEffects> for u32 {
    fn from(effects: ExecEffects) -> u32 {
        u32::from(effects.selects) | u32::from(effects.uncountable) << 1
    }
}

impl From<u32> for ExecEffects {
    fn from(arg: u32) -> Self {
        ExecEffects { selects: arg & 1 != 0, uncountable: arg & 2 != 0 }
    }
}

/// Where a request's bytes are.
#[derive(Clone, Copy)]
enum Bytes<'a> {
    /// In the chunk at hand, with so many more behind it.
    Here { bytes: &'a [u8], behind: usize },
    /// Retained already, because chunks cut the request; `len` is 0 when they could not be.
    Retained { start: u64, len: usize },
}

fn number(word: &[u8]) -> Option<u32> {
    std::str::from_utf8(word).ok()?.parse().ok()
}
