//! What decides how a session goes on, hashed: times relative to now, positions to what is retained. What
//! only counts (latencies, tallies that add up) is left out, so that equal futures have equal prints.

use std::hash::{Hash, Hasher};
use std::time::Instant;

use super::super::ledger::Slot;
use super::{Core, Hold};

impl Core {
    pub(crate) fn print(&self, now: Instant, h: &mut impl Hasher) {
        let left = |at: Instant| at.saturating_duration_since(now);
        let base = self.ledger.retained.start();
        let slot = |slot: &Slot, h: &mut dyn Hasher| {
            let start = slot.start.wrapping_sub(base);
            let words = format!("{:?}{:?}", slot.kind, slot.flags);
            h.write(words.as_bytes());
            for n in [u64::from(slot.transaction), u64::from(slot.arg), u64::from(slot.len), start] {
                h.write_u64(n);
            }
        };
        assert!(self.partial.is_none() && self.sighted.is_none() && self.budget.is_none());
        let mut state = self.state.clone();
        if let Some(open) = &mut state.transaction {
            open.start = open.start.wrapping_sub(base);
        }
        format!("{:?}{:?}{state:?}", self.degree, self.turning).hash(h);
        self.ledger.print(h, slot);
        match &self.hold {
            Hold::None => 0.hash(h),
            Hold::Draining(held) | Hold::Waiting(held) => {
                (1 + u8::from(matches!(self.hold, Hold::Waiting(_)))).hash(h);
                (left(held.deadline), &held.bytes, held.refused, held.unready, held.db).hash(h);
                for entry in &held.entries {
                    (format!("{:?}", entry.outcome), entry.bytes).hash(h);
                    if let Some(s) = &entry.slot {
                        slot(s, h);
                    }
                }
            }
        }
        self.parked.map(|parked| (left(parked.deadline), parked.ripe)).hash(h);
        // Counted from a refusal that is answered: only a command sent again still asks for it.
        if !self.ledger.is_empty() || !matches!(self.hold, Hold::None) {
            self.deadline.map(left).hash(h);
        }
        format!("{:?}{:?}", self.way, (self.stranded, self.unqueued, self.wary, self.turns)).hash(h);
        (self.passing, self.overrun, self.transactions, &self.pending, self.scanned, self.cut_through)
            .hash(h);
        (&self.up, &self.down).hash(h);
        let tally = &self.tally;
        let ended = tally.released.wrapping_add(tally.timed_out).wrapping_add(tally.abandoned);
        tally.held.wrapping_sub(ended).hash(h);
    }
}
