//! A session on its way from one server to another: because the way has turned, or because its server has gone while
//! nothing was owed. The core says when it may part and what it must say on arrival; here is the waiting.
//!
//! Refuses to know RESP and where servers are. Invariant: a session is on its way for the hold time at the most, and a
//! request that came meanwhile is sent once, or answered with an error and never sent.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

use crate::metrics::SessionEnd;
use crate::proxy::stream::Stream;
use crate::proxy::upstream::{Unreachable, Who};
use crate::resp::encode;
use crate::route::Destination;

use super::super::core::Fixed;
use super::{LOOK, Session, Side};

/// What a client that was blocked on a demoted server is told, in the server's own words
/// (`replication.c:replicationSetMaster`).
const UNBLOCKED: &str =
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)";
/// What a client is told whose session cannot be moved. Its request was not sent.
const TURNED: &str = "UNBLOCKED instance state changed (master -> replica?), connect again: this connection holds state \
    that cannot be moved to the new primary";
/// … or not now.
const NOWHERE: &str = "ERR bgsafe: the primary is not known at the moment";

type Looking = Pin<Box<dyn Future<Output = Result<(Stream, Destination), Unreachable>> + Send>>;

/// See the module's page.
pub(super) struct Away {
    /// Then it ends.
    until: Instant,
    looking: Option<Looking>,
    timer: Pin<Box<Sleep>>,
}

impl fmt::Debug for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Away").field("until", &self.until).finish_non_exhaustive()
    }
}

impl Away {
    fn new(until: Instant, now: Instant) -> Box<Self> {
        let timer = Box::pin(tokio::time::sleep_until(until.min(now + LOOK).into()));
        Box::new(Away { until, looking: None, timer })
    }
}

impl Session {
    /// The way has turned: what goes on elsewhere sends nothing more here.
    #[cold]
    pub(super) fn turned(&mut self, now: Instant) {
        self.seen = self.world.ways.epoch();
        self.core.expects_turns(self.world.ways.route().may_turn());
        let next = self.world.ways.route().now();
        if let Some(to) = next.filter(|to| to.is(&self.here) && !self.core.is_away()) {
            self.here = to;
            self.core.stay();
            if self.core.is_here() {
                self.away = None;
                self.carry_ripe = true;
            }
            return;
        }
        if self.core.is_settling() {
            // Nothing of the client's is on that connection.
            self.core.part();
            self.look_for(now, None);
        } else {
            self.core.leave();
            let until = now + self.core.hold_time();
            self.away.get_or_insert_with(|| Away::new(until, now));
        }
    }

    /// The server's connection has ended: had it answered all, and may the session go on with another?
    pub(super) fn parted_in_peace(&mut self, read: &io::Result<usize>, now: Instant) -> bool {
        debug_assert!(!matches!(read, Ok(1..)));
        let core = &self.core;
        let unsent = !self.up.out.is_empty() && !core.is_settling();
        let may = core.is_answered() && core.fixed().is_none() && self.up.carry.is_empty() && !unsent;
        let over = self.down.read_closed || self.drain.is_on() || core.hold_time().is_zero();
        if !may || over {
            return false;
        }
        // A server that answers another connection has not gone: it has hung up on this client, and means it.
        let on_purpose = (core.is_here() && self.seen == self.here.epoch).then(|| self.here.clone());
        self.core.part();
        self.look_for(now, on_purpose);
        true
    }

    /// `hung_up`: the server that ended the connection, if it may have meant to.
    fn look_for(&mut self, now: Instant, hung_up: Option<Destination>) {
        let until = now + self.core.hold_time();
        let away = self.away.get_or_insert_with(|| Away::new(until, now));
        let (ways, until) = (Arc::clone(&self.world.ways), away.until);
        away.looking = Some(Box::pin(async move {
            if let Some(server) = hung_up {
                ways.has_gone(&server).await?;
            }
            ways.reach(Who::Established, until).await
        }));
    }

    /// One step on the way. Ready when it moved.
    #[inline]
    pub(super) fn poll_way(&mut self, cx: &mut Context<'_>, now: Instant, scratch: &mut [u8]) -> Poll<()> {
        if self.away.is_none() && !self.core.is_stranded() {
            Poll::Pending
        } else {
            self.go(cx, now, scratch)
        }
    }

    fn go(&mut self, cx: &mut Context<'_>, now: Instant, scratch: &mut [u8]) -> Poll<()> {
        if self.core.is_stranded() && !self.has_finished() {
            return self.end(cx, scratch, Some(TURNED));
        }
        if self.core.is_here() {
            self.carry_ripe = true;
            return if self.away.take().is_some() { Poll::Ready(()) } else { Poll::Pending };
        }
        let Some(away) = &mut self.away else { return Poll::Pending };
        if let Some(looking) = &mut away.looking
            && self.core.is_away()
        {
            match looking.as_mut().poll(cx) {
                Poll::Ready(Ok(found)) => return self.arrive(cx, found, now),
                Poll::Ready(Err(Unreachable::HungUp)) => return self.end(cx, scratch, None),
                Poll::Ready(Err(why)) => return self.end(cx, scratch, Some(&why.to_string())),
                Poll::Pending => {}
            }
        } else if !self.core.is_settling() {
            let fixed = self.core.fixed();
            let answered = fixed == Some(Fixed::Wire)
                || (self.core.is_answered() && self.up.carry.is_empty() && self.up.out.is_empty());
            if answered && self.world.ways.route().now().is_some() {
                return match fixed {
                    None => {
                        self.core.part();
                        self.look_for(now, None);
                        Poll::Ready(())
                    }
                    Some(Fixed::Wire) => self.end(cx, scratch, None),
                    Some(Fixed::Watch | Fixed::Transaction | Fixed::Setup(_)) => {
                        self.end(cx, scratch, Some(TURNED))
                    }
                };
            }
            if now >= away.until {
                // What a refusal keeps back comes before what is in flight: then its own words are enough.
                if !answered && self.core.holds().is_none() && self.core.may_be_told() {
                    encode::error(&mut self.core.down, UNBLOCKED);
                    let _ = self.deliver(cx, &[]);
                    return self.end(cx, scratch, None);
                }
                return self.end(cx, scratch, Some(NOWHERE).filter(|_| answered));
            }
        }
        self.wait(cx, now, scratch)
    }

    /// Until the time is up, the client has left, or something wakes us.
    fn wait(&mut self, cx: &mut Context<'_>, now: Instant, scratch: &mut [u8]) -> Poll<()> {
        let Some(away) = &mut self.away else { return Poll::Pending };
        if now >= away.until && self.core.is_settling() {
            return self.end(cx, scratch, None);
        }
        let next = if now >= away.until { now + LOOK } else { away.until.min(now + LOOK) };
        if away.timer.as_mut().poll(cx).is_ready() {
            away.timer.as_mut().reset(next.into());
            if away.timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        if !self.down.read_closed && self.down.has_left(cx) {
            self.core.abandoned();
            return self.finish(SessionEnd::DownstreamClosed);
        }
        Poll::Pending
    }

    fn arrive(&mut self, cx: &mut Context<'_>, (up, to): (Stream, Destination), now: Instant) -> Poll<()> {
        self.up = Side::new(up);
        let held = self.budget;
        self.leave_gate();
        if !to.is(&self.here) {
            self.ticket = None;
        }
        if !self.down.read_closed {
            self.end = None;
        }
        self.credit.moves(&self.here.gate, &to.gate);
        self.seen = to.epoch;
        self.here = to;
        // What was refused where we were is asked here at once.
        self.again = Some(now);
        if let Some(away) = &mut self.away {
            away.looking = None;
        }
        if held != (0, 0) {
            // What is held comes along, and counts at the new server's gate.
            if self.here.gate.hold(held.0, held.1) {
                self.budget = held;
            } else {
                self.core.over_budget();
            }
        }
        self.core.arrive(now);
        self.forward(cx, &[])
    }

    /// The session cannot go on. What is held gets the server's own answer; a request that was never sent gets
    /// `words`; a client that asked nothing is told nothing, for it would take it for the answer to what it asks next.
    fn end(&mut self, cx: &mut Context<'_>, scratch: &mut [u8], words: Option<&str>) -> Poll<()> {
        if self.core.holds().is_some() {
            self.core.timed_out();
        } else if let Some(words) = words {
            let asked = !self.down.carry.is_empty()
                || matches!(self.down.poll_read(cx, scratch), Poll::Ready(Ok(1..)));
            if asked {
                encode::error(&mut self.core.down, words);
            }
        }
        let _ = self.deliver(cx, &[]);
        self.down.carry = Vec::new();
        self.end.get_or_insert(SessionEnd::UpstreamClosed);
        let _ = self.finish(SessionEnd::UpstreamClosed);
        Poll::Ready(())
    }
}
