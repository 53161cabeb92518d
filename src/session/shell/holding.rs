//! The waiting of what is held: for the gate, for a server that is ready, for a deadline, for its client's leaving.
//! Refuses to know why it is held.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::posture::Posture;
use crate::proxy::upstream::jittered;

use super::super::core::Holding;
use super::{LOOK, Session};

/// The shortest and the longest pause before an unready server is asked again.
const ASK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

impl Session {
    /// What is held waits for the gate, its deadline, or its client's leaving. Ready when it moved.
    pub(super) fn poll_hold(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let Some(holding) = self.core.holds() else {
            self.leave_gate();
            return Poll::Pending;
        };
        let deadline = self.core.next_deadline().unwrap_or(now);
        let gate = Arc::clone(&self.here.gate);
        if holding != Holding::Draining {
            // Registered before looking, or a change in between would be missed.
            let place = *self.place.get_or_insert_with(|| gate.place(deadline));
            gate.wait(place, cx.waker());
        }
        let posture = gate.posture();
        // A client that has half-closed took the server's reading side with it: nothing can be sent again.
        let mute = self.up.write_closed && self.core.is_here();
        let open = match holding {
            _ if mute || !self.core.is_here() => false,
            Holding::Draining => false,
            // Without a ticket it was refused by a server that we have left.
            Holding::Refused => self.ticket.map_or_else(|| gate.passes(), |ticket| gate.is_open(ticket)),
            // It asks in its own time; a write all the same only as the budget allows.
            Holding::Unready => self.asks_again(now, deadline) && self.may_spend(),
            Holding::Parked => gate.passes(),
        };
        if open {
            self.again = None;
            self.credit.note(gate.stance());
            self.core.opened(now);
            self.carry_ripe = true;
            return self.forward(cx, &[]);
        }
        if now >= deadline || posture == Posture::Refuse || mute {
            self.core.timed_out();
            self.carry_ripe = true;
            return self.deliver(cx, &[]);
        }
        if !self.down.read_closed && self.down.has_left(cx) {
            self.core.abandoned();
            self.down.carry = Vec::new();
            self.down.read_closed = true;
            return self.deliver(cx, &[]);
        }
        // Past, and still waiting: for the gate, which wakes us.
        let again = self.again.filter(|at| *at > now);
        let until = [Some(deadline), again].into_iter().flatten().fold(now + LOOK, Instant::min).into();
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() > until || timer.is_elapsed() {
            timer.as_mut().reset(until);
        }
        if timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    pub(super) fn leave_gate(&mut self) {
        if let Some(place) = self.place.take() {
            self.here.gate.leave(place);
        }
        if self.budget != (0, 0) {
            self.here.gate.unhold(self.budget.0, self.budget.1);
            self.budget = (0, 0);
        }
        self.timer = None;
        self.again = None;
    }

    /// What an unready server has refused is asked again after as long as it has waited already, so that each pause is
    /// twice the one before.
    fn asks_again(&mut self, now: Instant, deadline: Instant) -> bool {
        let waited = self.core.hold_time().saturating_sub(deadline.saturating_duration_since(now));
        let at = *self.again.get_or_insert_with(|| now + jittered(waited.clamp(ASK.0, ASK.1)));
        now >= at
    }

    /// May what is held be sent now, as far as changes are counted?
    fn may_spend(&self) -> bool {
        !self.here.gate.stance().is_metered() || !self.core.holds_gated() || self.here.gate.passes()
    }
}
