//! Which request each reply answers, and the bytes of those requests that may have to be sent again.
//!
//! Requests enter at the back as they are sent, replies take them from the front. Bytes are retained
//! only where a refusal could make them needed: gated requests, what follows one, and transactions.
//! Refuses to know policy and sockets.
//!
//! Invariant: retained bytes are those of the oldest slot (or of the open transaction's MULTI) and
//! younger; an empty ledger retains nothing and, but for a small buffer, owns no memory.

use std::collections::VecDeque;

use crate::command::Kind;

/// A request awaiting its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What it does.
    pub kind: Kind,
    /// See [`Flags`].
    pub flags: Flags,
    /// The transaction it is part of (MULTI and EXEC included), or 0.
    pub transaction: u32,
    /// Database of SELECT, version of HELLO, topics of SUBSCRIBE; else 1.
    pub arg: u32,
    /// When it was sent, in microseconds of the session's life.
    pub sent_us: u32,
    /// Length of its retained bytes; 0 when they were not retained.
    pub len: u32,
    /// Their position.
    pub start: u64,
}

/// Marks of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// Nothing in its transaction may be sent again.
    pub const SEALED: Flags = Flags(1);
    /// A script whose refusal proves that nothing of it ran.
    pub const SCRIPT_SAFE: Flags = Flags(2);
    /// A refusal of it is delivered: its client's time is up, or it was asked to be a wire.
    pub const AS_IS: Flags = Flags(4);
    /// Sent a second time: its deadline is that of its first refusal.
    pub const REPLAYED: Flags = Flags(8);
    /// We sent it for ourselves, or its client has its reply already: the reply is swallowed.
    pub const SWALLOW: Flags = Flags(16);
    /// Not sent again: its reply is known and waits for its turn.
    pub const CANNED: Flags = Flags(32);
    /// A script of which the operator says that it does nothing before its first write.
    pub const SCRIPT_VOUCHED: Flags = Flags(64);
    /// From its turn on replies are not paired with requests any more.
    pub const LAST: Flags = Flags(128);
    /// Re-creates what the client had set up, on a new server: anything but success ends the session.
    pub const RECREATES: Flags = Flags(256);

    /// Has all marks of `other`.
    #[inline]
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// With the marks of `other` too.
    #[must_use]
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// With the marks of `other` if `on`.
    #[must_use]
    pub fn with_if(self, on: bool, other: Flags) -> Flags {
        if on { self.with(other) } else { self }
    }
}

impl Slot {
    /// A slot that stands for no request of the client.
    pub fn marker(flags: Flags) -> Slot {
        Slot { kind: Kind::Unknown, flags, transaction: 0, arg: 1, sent_us: 0, len: 0, start: 0 }
    }

    /// Its reply needs more than to be passed on.
    fn is_special(&self) -> bool {
        self.flags.0 & (Flags::SWALLOW.0 | Flags::CANNED.0 | Flags::LAST.0) != 0
    }
}

/// See the module's page.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub struct Ledger {
    slots: VecDeque<Slot>,
    /// Replies of the slots marked [`Flags::CANNED`], in order.
    canned: VecDeque<Vec<u8>>,
    /// Requests whose bytes must be kept until they are answered.
    pub retained: Retained,
    gated: usize,
    special: usize,
}

impl Ledger {
    /// A request was sent.
    #[inline]
    pub fn push(&mut self, slot: Slot) {
        self.gated += usize::from(slot.kind.is_gated());
        self.special += usize::from(slot.is_special());
        self.slots.push_back(slot);
    }

    /// A reply that is known already takes its place.
    pub fn push_canned(&mut self, slot: Slot, reply: Vec<u8>) {
        debug_assert!(slot.flags.has(Flags::CANNED));
        self.canned.push_back(reply);
        self.push(slot);
    }

    /// The request that the next reply answers.
    #[inline]
    pub fn front(&mut self) -> Option<&mut Slot> {
        self.slots.front_mut()
    }

    /// It is answered. Its bytes stay until [`Ledger::release`].
    #[inline]
    pub fn pop(&mut self) -> Option<Slot> {
        let slot = self.slots.pop_front()?;
        self.gated -= usize::from(slot.kind.is_gated());
        self.special -= usize::from(slot.is_special());
        Some(slot)
    }

    /// A popped slot's answer stands: its bytes, and all before them, are not needed any more. Those of a
    /// transaction are needed until its end is answered.
    #[inline]
    pub fn release(&mut self, slot: &Slot) {
        if slot.transaction == 0 || matches!(slot.kind, Kind::Exec | Kind::Discard) {
            self.retained.release(slot.start + u64::from(slot.len));
        }
    }

    /// Lets go of all bytes before `keep_from` that no slot needs.
    pub fn release_unneeded(&mut self, keep_from: Option<u64>) {
        let needed = self.slots.iter().find(|s| s.len > 0).map(|s| s.start);
        let from = [needed, keep_from].into_iter().flatten().min();
        self.retained.release(from.unwrap_or(self.retained.end()));
    }

    /// The front slot, if its reply is known already.
    pub fn pop_canned(&mut self) -> Option<(Slot, Vec<u8>)> {
        if !self.slots.front()?.flags.has(Flags::CANNED) {
            return None;
        }
        let slot = self.pop()?;
        Some((slot, self.canned.pop_front()?))
    }

    /// Marks the slots that are `which`. Not for marks that make a slot special.
    pub fn mark(&mut self, flags: Flags, which: impl Fn(&Slot) -> bool) {
        for slot in self.slots.iter_mut().filter(|slot| which(slot)) {
            slot.flags = slot.flags.with(flags);
        }
    }

    /// Nothing awaits a reply.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Requests awaiting replies.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// A gated request awaits its reply: what is sent behind it must be retained.
    #[inline]
    pub fn has_gated(&self) -> bool {
        self.gated > 0
    }

    /// Gated requests that await their replies.
    pub fn gated(&self) -> usize {
        self.gated
    }

    /// Some slot's reply needs more than to be passed on.
    #[inline]
    pub fn has_special(&self) -> bool {
        self.special > 0
    }

    /// Forgets everything: the session is not understood any more. The replies that were known already.
    pub fn clear(&mut self) -> impl Iterator<Item = Vec<u8>> {
        std::mem::take(self).canned.into_iter()
    }

    /// Forgets the slots, whose server is gone; what is retained stays.
    pub fn forget(&mut self) {
        self.slots.clear();
        self.canned.clear();
        (self.gated, self.special) = (0, 0);
    }

    /// Gives back what a burst has left allocated.
    pub fn shrink(&mut self) {
        if self.slots.is_empty() && self.slots.capacity() > SLOTS_KEPT {
            self.slots = VecDeque::new();
        }
    }
}

#[cfg(test)]
impl Ledger {
    /// For the model: each slot by `slot`, and the bytes that are retained.
    pub(super) fn print<H: std::hash::Hasher>(
        &self,
        h: &mut H,
        slot: impl Fn(&Slot, &mut dyn std::hash::Hasher),
    ) {
        for each in &self.slots {
            slot(each, h);
        }
        std::hash::Hash::hash(&(&self.canned, &self.retained.bytes[self.retained.dead..]), h);
    }
}

/// An idle session keeps room for this many slots.
const SLOTS_KEPT: usize = 32;
/// … and this many retained bytes.
const BYTES_KEPT: usize = 1024;

/// A window of the stream of requests, addressed by position.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub struct Retained {
    /// Position of `bytes[dead]`.
    base: u64,
    /// Bytes at the front that nobody needs any more.
    dead: usize,
    bytes: Vec<u8>,
}

impl Retained {
    /// Position of the first retained byte.
    pub fn start(&self) -> u64 {
        self.base
    }

    /// Position after the last retained byte.
    #[inline]
    pub fn end(&self) -> u64 {
        self.base + (self.bytes.len() - self.dead) as u64
    }

    /// Bytes retained now.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.dead
    }

    /// Nothing is retained.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.len() == self.dead
    }

    /// Retains `bytes` behind the others.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// As [`Retained::push`], when `behind` more bytes will probably follow at once: room is made for all
    /// of them together, not by doubling.
    #[inline]
    pub fn push_before(&mut self, bytes: &[u8], behind: usize) {
        if self.bytes.capacity() - self.bytes.len() < bytes.len() {
            self.bytes.reserve(bytes.len() + behind);
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The `len` bytes at `start`, which must be retained.
    pub fn slice(&self, start: u64, len: usize) -> &[u8] {
        let at = self.dead + (start - self.base) as usize;
        &self.bytes[at..at + len]
    }

    /// Forgets what lies at `from` and behind.
    pub fn truncate(&mut self, from: u64) {
        self.bytes.truncate(self.dead + (from - self.base) as usize);
        if self.is_empty() {
            self.empty();
        }
    }

    /// Forgets what lies before `from`. Moves bytes only when at least half of them are dead, so each
    /// byte is moved once at the most.
    #[inline]
    pub fn release(&mut self, from: u64) {
        if from <= self.base {
            return;
        }
        debug_assert!(from <= self.end(), "only what was retained is released");
        self.dead += (from - self.base) as usize;
        self.base = from;
        if self.is_empty() {
            self.empty();
        } else if self.dead > 4096 && self.dead > self.bytes.len() / 2 {
            self.bytes.drain(..self.dead);
            self.dead = 0;
        }
    }

    /// Nothing is retained: gives back all but a small buffer.
    #[inline]
    fn empty(&mut self) {
        self.dead = 0;
        self.bytes.clear();
        if self.bytes.capacity() > BYTES_KEPT {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(kind: Kind, start: u64, len: u32) -> Slot {
        Slot { kind, flags: Flags::default(), transaction: 0, arg: 1, sent_us: 0, len, start }
    }

    #[test]
    fn retained_bytes_live_exactly_as_long_as_a_slot_needs_them() {
        let mut ledger = Ledger::default();
        let mut expected = VecDeque::new();
        for i in 0..5_000u32 {
            let bytes = i.to_le_bytes().repeat(1 + (i % 7) as usize);
            let start = ledger.retained.end();
            ledger.retained.push(&bytes);
            ledger.push(slot(Kind::Write, start, bytes.len() as u32));
            expected.push_back(bytes);
            if i % 3 != 0 {
                let front = *ledger.front().expect("just pushed");
                let want = expected.pop_front().expect("as many as slots");
                assert_eq!(ledger.retained.slice(front.start, front.len as usize), want);
                let slot = ledger.pop().expect("just seen");
                ledger.release(&slot);
            }
        }
        while let Some(slot) = ledger.pop() {
            ledger.release(&slot);
        }
        assert!(ledger.retained.is_empty() && !ledger.has_gated());
    }

    #[test]
    fn a_large_request_that_is_let_go_leaves_no_memory_behind() {
        let mut retained = Retained::default();
        retained.push(b"small");
        let start = retained.end();
        retained.push(&vec![0; 1 << 20]);
        retained.truncate(start);
        retained.release(start);
        assert!(retained.is_empty() && retained.bytes.capacity() <= BYTES_KEPT);
        let start = retained.end();
        retained.push(&vec![0; 1 << 20]);
        retained.truncate(start);
        assert_eq!((retained.start(), retained.end()), (start, start));
        assert!(retained.bytes.capacity() <= BYTES_KEPT);
    }

    #[test]
    fn an_open_transaction_keeps_its_answered_requests() {
        let mut ledger = Ledger::default();
        ledger.retained.push(b"MULTI");
        ledger.push(Slot { transaction: 1, ..slot(Kind::Multi, 0, 5) });
        let multi = ledger.pop().expect("just pushed");
        ledger.release(&multi);
        assert_eq!(ledger.retained.slice(0, 5), b"MULTI");
        ledger.release_unneeded(Some(0));
        assert_eq!(ledger.retained.len(), 5);
        ledger.release_unneeded(None);
        assert!(ledger.retained.is_empty());
    }
}
