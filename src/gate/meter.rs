//! How many gated commands may still pass while a budget of changes is being spent: lent to sessions in small
//! portions, so that the last one is used up to the command, whoever sends it.
//!
//! Refuses to know: what a change is, who counts them, what happens when none may pass. Invariants: never more is
//! lent than was allowed; a command counts as answered only when its reply was read, so what the server counted
//! when asked is never less than what was answered before the question.

use std::sync::atomic::{AtomicU64, Ordering::*};

/// See the module's page. Numbers only grow, but for what is given back unused.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Lent and not given back: sent, or about to be.
    sent: AtomicU64,
    /// Of these, not answered.
    open: AtomicU64,
    /// What `sent` may reach.
    most: AtomicU64,
    /// Answered when the server was asked for the count that `most` was reckoned from.
    base: AtomicU64,
}

impl Meter {
    /// Up to `most` commands may be sent now; 0 when all is used up.
    pub(super) fn lend(&self, most: u64) -> u64 {
        // Open before it is sent: whoever reads both in the other order never takes it for answered.
        self.open.fetch_add(most, AcqRel);
        let mut lent = 0;
        let _ = self.sent.fetch_update(AcqRel, Acquire, |sent| {
            lent = self.most.load(Acquire).saturating_sub(sent).min(most);
            Some(sent + lent)
        });
        self.open.fetch_sub(most - lent, AcqRel);
        lent
    }

    /// What was lent and not used.
    pub(super) fn give_back(&self, n: u64) {
        self.sent.fetch_sub(n, AcqRel);
        self.open.fetch_sub(n, AcqRel);
    }

    /// Sent whether allowed or not.
    pub(super) fn spend(&self, n: u64) {
        self.open.fetch_add(n, AcqRel);
        self.sent.fetch_add(n, AcqRel);
    }

    /// Replies came.
    pub(super) fn settle(&self, n: u64) {
        self.open.fetch_sub(n, AcqRel);
    }

    /// Commands sent so far, and of these answered, at the least.
    pub(super) fn counted(&self) -> (u64, u64) {
        let sent = self.sent.load(Acquire);
        (sent, sent.saturating_sub(self.open.load(Acquire)))
    }

    /// From here on `n` may pass, counted from when `answered` were.
    pub(super) fn allow(&self, answered: u64, n: u64) {
        self.base.store(answered, Release);
        self.most.store(answered.saturating_add(n), Release);
    }

    pub(super) fn has_room(&self) -> bool {
        self.sent.load(Acquire) < self.most.load(Acquire)
    }

    /// Sent since the server was asked, or not answered then.
    pub(super) fn since(&self) -> u64 {
        self.sent.load(Acquire).saturating_sub(self.base.load(Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_borrow_is_never_more_than_was_allowed() {
        let meter = Meter::default();
        meter.allow(0, 10_000);
        let used: u64 = std::thread::scope(|scope| {
            let borrower = || {
                let mut used = 0;
                for turn in 1.. {
                    let lent = meter.lend(64);
                    if lent == 0 {
                        return used;
                    }
                    let kept = lent.min(turn % 65);
                    meter.give_back(lent - kept);
                    used += kept;
                }
                used
            };
            let borrowers: Vec<_> = (0..4).map(|_| scope.spawn(borrower)).collect();
            borrowers.into_iter().map(|b| b.join().expect("no panic")).sum()
        });
        // Somebody may have found nothing while another held what it gave back: less is sent, never more.
        assert!(used <= 10_000 && used > 9_700, "{used}");
        assert_eq!((meter.since(), meter.counted().1), (used, 0));
        meter.settle(used);
        assert_eq!(meter.counted().1, used);
    }

    #[test]
    fn what_is_not_answered_counts_against_the_next_allowance() {
        let meter = Meter::default();
        meter.allow(0, 10);
        assert_eq!(meter.lend(8), 8);
        meter.settle(5);
        let asked = meter.counted().1;
        assert_eq!(meter.lend(8), 2);
        meter.allow(asked, 10);
        // Ten from the five that were answered: five of these are sent already.
        assert_eq!((meter.since(), meter.lend(64), meter.has_room()), (5, 5, false));
        meter.spend(3);
        assert_eq!((meter.lend(1), meter.since()), (0, 13));
    }
}
