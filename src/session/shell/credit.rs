//! A session's part in a budget of changes: what it borrows of the gate's allowance, and what of that is answered.
//!
//! Refuses to know: RESP, why anybody counts. Invariant: while nobody counts it costs two looks at its own
//! fields a chunk, and the gate is not touched; it is small, for each idle session has one.

use super::super::core::Core;
use crate::gate::{Gate, Stance};
use crate::posture::Posture;

/// Borrowed at a time: small, so that others find some; a chunk with more is taken in several steps.
const PORTION: u16 = 256;

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Credit {
    counts: bool,
    lent: u16,
    /// What the gate has as sent by us and not answered.
    open: u32,
}

impl Credit {
    /// Does anybody count now?
    #[inline]
    pub(super) fn note(&mut self, stance: Stance) {
        self.counts = stance.is_metered();
    }

    /// Borrows for one chunk. What posture it is to be walked in: Hold when nothing is left to borrow.
    #[inline]
    pub(super) fn lend(&mut self, core: &mut Core, gate: &Gate, posture: Posture) -> Posture {
        if !self.counts || posture != Posture::Forward {
            return posture;
        }
        self.borrow(core, gate)
    }

    #[cold]
    fn borrow(&mut self, core: &mut Core, gate: &Gate) -> Posture {
        self.lent = gate.lend(PORTION.into()) as u16;
        if self.lent == 0 {
            return Posture::Hold;
        }
        core.set_credit(Some(self.lent.into()));
        Posture::Forward
    }

    /// The chunk was walked: gives back what was not needed. True when it stopped for want of more.
    #[inline]
    pub(super) fn used(&mut self, core: &mut Core, gate: &Gate) -> bool {
        if self.lent == 0 {
            return false;
        }
        let left = core.set_credit(None);
        gate.give_back(left.into());
        self.open += u32::from(self.lent) - left;
        self.lent = 0;
        left == 0
    }

    /// Tells the gate what was answered since, and what was sent without borrowing: a hold's replay, what
    /// passed as it was.
    #[inline]
    pub(super) fn balance(&mut self, core: &Core, gate: &Gate) {
        if !self.counts && self.open == 0 {
            return;
        }
        let in_flight = core.gated_in_flight();
        if in_flight < self.open {
            gate.settle((self.open - in_flight).into());
            self.open = in_flight;
        } else if in_flight > self.open && self.counts {
            gate.spend((in_flight - self.open).into());
            self.open = in_flight;
        }
    }

    /// The session goes on behind another gate: what was counted stays with the old one, and what it sends again
    /// where it comes to counts there.
    pub(super) fn moves(&mut self, from: &Gate, to: &Gate) {
        self.leave(from);
        self.note(to.stance());
    }

    /// Nothing more is awaited there. What was sent may still be run: the server's own count will show it.
    pub(super) fn leave(&mut self, gate: &Gate) {
        gate.settle(std::mem::take(&mut self.open).into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::command::Table;
    use crate::resp::error::held_by_default;
    use crate::session::core::{Rules, ScriptReplay};

    fn core(now: Instant) -> Core {
        let rules = Rules {
            intercept: true,
            hold_time: Duration::from_secs(5),
            scripts: ScriptReplay::Declared,
            holds: held_by_default(),
            bulk_max: 1 << 20,
            retain_request_max: 1 << 16,
            retain_session_max: 1 << 18,
            withhold_max: 1 << 18,
        };
        Core::new(Arc::new(rules), Arc::new(Table::builtin()), now)
    }

    fn metered(n: u64) -> Gate {
        let gate = Gate::new(1);
        gate.allow(Some((0, n)));
        gate
    }

    /// A transaction is open, and is queued again at two other servers, the second of which goes away meanwhile.
    #[test]
    fn what_was_borrowed_goes_back_to_the_gate_it_came_from_and_is_counted_anew_behind_the_next() {
        let now = Instant::now();
        let (first, second, third) = (metered(10), metered(10), Gate::new(1));
        let (mut core, mut credit) = (core(now), Credit::default());
        let in_peace = |core: &mut Core, credit: &mut Credit, gate: &Gate, bytes: &[u8]| {
            credit.note(gate.stance());
            assert_eq!(credit.lend(core, gate, Posture::Forward), Posture::Forward);
            assert_eq!(core.requests(bytes, Posture::Forward, now).kept, 0);
            assert!(!credit.used(core, gate));
            credit.balance(core, gate);
        };
        in_peace(&mut core, &mut credit, &first, b"SET a 1\r\nMULTI\r\nINCR n\r\nINCR n\r\n");
        assert_eq!(first.counted(), (3, 0));
        core.replies(b"+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n", Posture::Forward, now);
        credit.balance(&core, &first);
        assert_eq!((first.counted(), first.lend(64)), ((3, 3), 7));
        first.give_back(7);

        core.part();
        credit.moves(&first, &second);
        core.arrive(now);
        credit.balance(&core, &second);
        assert_eq!((first.counted(), second.counted()), ((3, 3), (2, 0)));

        // Nobody counts at the third.
        core.part();
        credit.moves(&second, &third);
        core.arrive(now);
        credit.balance(&core, &third);
        assert_eq!((second.counted(), third.counted()), ((2, 2), (0, 0)));
        core.replies(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n", Posture::Forward, now);
        credit.balance(&core, &third);
        in_peace(&mut core, &mut credit, &third, b"EXEC\r\n");
        credit.leave(&third);
        assert_eq!((first.counted(), second.counted(), third.counted()), ((3, 3), (2, 2), (0, 0)));
    }
}
