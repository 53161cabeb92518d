//! The loop that owns two sockets and one core. It reads, writes, waits, and decides nothing.
//!
//! One task a session polls both sockets: whichever wakes it, what can flow flows. A chunk is read into
//! the worker's scratch buffer, walked by the core, and written from there; only what the other side does
//! not take at once is copied, and then that side's reader stops: backpressure without a limit to set.
//!
//! Refuses to know RESP. Invariants: bytes leave in the order in which the core gave them; while bytes
//! wait for a side nothing more is read for it, so a session never owns more than a chunk a direction
//! besides what its core retains under budget.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::gate::{Place, Ticket};
use crate::metrics::{SessionEnd, WorkerStats};
use crate::posture::Posture;
use crate::proxy::stream::Stream;
use crate::proxy::upstream::Ways;
use crate::resp::encode;
use crate::route::Destination;

use super::core::Core;

use away::Away;
use count::count;
use credit::Credit;
use side::{CHUNK, Side, keep, lay_out};

pub use drain::Drain;

mod away;
mod count;
mod credit;
mod drain;
mod holding;
mod side;

/// Rounds in one poll before other sessions of the worker get their turn.
const ROUNDS_MAX: usize = 16;
/// How often a held session looks whether its client is still there, when the socket cannot tell.
const LOOK: Duration = Duration::from_millis(250);
/// Every how many polls the time spent in here is recorded.
const SAMPLE: u32 = 16;

thread_local! {
    /// Where this worker reads into. Lent to one session for one poll.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// What a session needs from its worker.
#[derive(Clone, Debug)]
pub struct World {
    /// Where it goes, and how.
    pub ways: Arc<Ways>,
    /// Where it counts.
    pub stats: Arc<WorkerStats>,
    /// Idle clients are closed after this; zero is never.
    pub client_timeout: Duration,
}

/// A session: resolves when it has ended, to why.
#[derive(Debug)]
pub struct Session {
    down: Side,
    up: Side,
    core: Core,
    world: World,
    /// Our server, and where its refusals are told and its holds wait.
    here: Destination,
    /// The newest turn we know of.
    seen: u64,
    /// On the way to another server.
    away: Option<Box<Away>>,
    ticket: Option<Ticket>,
    place: Option<Place>,
    /// What the gate counts as held for us.
    budget: (u64, u64),
    /// What the gate counts as passed and unanswered.
    credit: Credit,
    timer: Option<Pin<Box<Sleep>>>,
    /// When what an unready server refused is sent again.
    again: Option<Instant>,
    idle: Option<Pin<Box<Sleep>>>,
    active_at: Instant,
    /// The client's carry may be looked at again without new bytes.
    carry_ripe: bool,
    polls: u32,
    drain: Arc<Drain>,
    /// Our place among those that a drain wakes; taken at the first poll.
    drain_place: Option<u64>,
    end: Option<SessionEnd>,
}

impl Session {
    /// A session over two connected sockets.
    pub fn new(
        down: Stream,
        (up, here): (Stream, Destination),
        core: Core,
        world: World,
        drain: Arc<Drain>,
    ) -> Self {
        Session {
            down: Side::new(down),
            up: Side::new(up),
            core,
            world,
            seen: here.epoch,
            here,
            away: None,
            ticket: None,
            place: None,
            budget: (0, 0),
            credit: Credit::default(),
            timer: None,
            again: None,
            idle: None,
            active_at: Instant::now(),
            carry_ripe: false,
            polls: 0,
            drain,
            drain_place: None,
            end: None,
        }
    }

    /// Server to client.
    fn pump_replies(&mut self, cx: &mut Context<'_>, scratch: &mut Vec<u8>, now: Instant) -> Poll<()> {
        match self.down.poll_flush(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return self.finish(SessionEnd::DownstreamError),
        }
        if !self.core.down.is_empty() {
            // A request, or a budget, ended a hold: what was kept back comes before what is read next.
            return self.deliver(cx, &[]);
        }
        if self.core.is_away() {
            return Poll::Pending;
        }
        if self.up.read_closed {
            // All that was answered is delivered.
            return self.finish(self.end.unwrap_or(SessionEnd::UpstreamClosed));
        }
        let carried = lay_out(scratch, &self.up.carry);
        let read = match self.up.poll_read(cx, &mut scratch[carried..]) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(read) => read,
        };
        let n = match read {
            Ok(n @ 1..) => n,
            _ if self.parted_in_peace(&read, now) => return Poll::Ready(()),
            end => {
                self.up.read_closed = true;
                let why = if end.is_ok() { SessionEnd::UpstreamClosed } else { SessionEnd::UpstreamError };
                self.end.get_or_insert(why);
                self.core.upstream_closed();
                let carry = std::mem::take(&mut self.up.carry);
                return self.deliver(cx, &carry);
            }
        };
        self.active_at = now;
        let buf = &scratch[..carried + n];
        let taken = self.core.replies(buf, self.here.gate.posture(), now);
        keep(&mut self.up.carry, &buf[buf.len() - taken.kept..]);
        self.deliver(cx, &buf[..taken.direct])
    }

    /// `direct` and then whatever the core has queued, to the client.
    fn deliver(&mut self, cx: &mut Context<'_>, direct: &[u8]) -> Poll<()> {
        self.world.stats.bytes[1].add((direct.len() + self.core.down.len()) as u64);
        let mut sent = self.down.send(cx, direct);
        if !self.core.down.is_empty() {
            let queued = std::mem::take(&mut self.core.down);
            sent = sent.and_then(|()| self.down.send(cx, &queued));
        }
        self.after_core();
        match sent {
            Ok(()) => Poll::Ready(()),
            Err(_) => self.finish(SessionEnd::DownstreamError),
        }
    }

    /// Client to server.
    fn pump_requests(&mut self, cx: &mut Context<'_>, scratch: &mut Vec<u8>, now: Instant) -> Poll<()> {
        match self.up.poll_flush(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return self.upstream_write_failed(),
        }
        if !self.core.reads_downstream() {
            return Poll::Pending;
        }
        let ripe = std::mem::take(&mut self.carry_ripe) && !self.down.carry.is_empty();
        let carried = lay_out(scratch, &self.down.carry);
        let n = if ripe || self.down.read_closed {
            0
        } else {
            match self.down.poll_read(cx, &mut scratch[carried..]) {
                Poll::Pending => {
                    if carried == 0 {
                        self.core.dry();
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => {
                    self.down.read_closed = true;
                    self.end.get_or_insert(SessionEnd::DownstreamClosed);
                    0
                }
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(_)) => return self.finish(SessionEnd::DownstreamError),
            }
        };
        if carried + n > 0 {
            self.active_at = now;
            let buf = &scratch[..carried + n];
            // A head that will never be complete is the server's to judge.
            let stance = self.here.gate.stance();
            self.credit.note(stance);
            let posture = match self.down.read_closed {
                true => Posture::Forward,
                false => self.credit.lend(&mut self.core, &self.here.gate, stance.posture()),
            };
            let taken = self.core.requests(buf, posture, now);
            let stopped = self.credit.used(&mut self.core, &self.here.gate);
            keep(&mut self.down.carry, &buf[buf.len() - taken.kept..]);
            // Kept for a hold, not for want of bytes: to be looked at as soon as the hold is over.
            self.carry_ripe = taken.kept > 0 && (stopped || !self.core.reads_downstream());
            return self.forward(cx, &buf[..taken.direct]);
        }
        if self.down.read_closed && !self.up.write_closed {
            // A half-close travels as a half-close.
            if self.up.io.poll_shutdown(cx).is_ready() {
                self.up.write_closed = true;
            }
        }
        Poll::Pending
    }

    /// `direct` and then whatever the core has queued, to the server.
    fn forward(&mut self, cx: &mut Context<'_>, direct: &[u8]) -> Poll<()> {
        self.world.stats.bytes[0].add((direct.len() + self.core.up.len()) as u64);
        let mut sent = self.up.send(cx, direct);
        if !self.core.up.is_empty() {
            let queued = std::mem::take(&mut self.core.up);
            sent = sent.and_then(|()| self.up.send(cx, &queued));
        }
        self.after_core();
        match sent {
            Ok(()) => Poll::Ready(()),
            Err(_) => self.upstream_write_failed(),
        }
    }

    /// The server takes nothing any more. What it has answered already is still to be read.
    fn upstream_write_failed(&mut self) -> Poll<()> {
        self.up.write_closed = true;
        self.up.out = Vec::new();
        self.up.sent = 0;
        self.end.get_or_insert(SessionEnd::UpstreamError);
        Poll::Ready(())
    }

    fn finish(&mut self, why: SessionEnd) -> Poll<()> {
        self.end.get_or_insert(why);
        self.down.read_closed = true;
        self.up.read_closed = true;
        self.down.write_closed = true;
        self.up.write_closed = true;
        Poll::Pending
    }

    fn may_end(&self) -> bool {
        self.core.is_idle()
            && self.down.out.is_empty()
            && self.up.out.is_empty()
            && self.down.carry.is_empty()
    }

    /// A request, or a budget, ended a hold: its replies go in the next round, nothing else need come first.
    fn owes_replies(&self) -> bool {
        !self.core.down.is_empty() && self.down.out.is_empty() && !self.down.write_closed
    }

    fn has_finished(&self) -> bool {
        self.up.read_closed && self.down.write_closed
    }

    /// Tells the guard, asks for budgets.
    fn after_core(&mut self) {
        self.credit.balance(&self.core, &self.here.gate);
        if let Some(refusal) = self.core.take_sighting() {
            self.ticket = Some(self.here.gate.sight(refusal));
        }
        if let Some((commands, bytes)) = self.core.take_budget_request() {
            if self.here.gate.hold(commands, bytes) {
                self.budget = (self.budget.0 + commands, self.budget.1 + bytes);
            } else {
                self.core.over_budget();
                self.carry_ripe = true;
            }
        }
    }

    /// A client that has been silent for too long, with nothing owed to it, is closed.
    fn poll_idle(&mut self, cx: &mut Context<'_>, now: Instant) {
        if self.world.client_timeout.is_zero() {
            return;
        }
        let due = self.active_at + self.world.client_timeout;
        if now >= due && self.core.may_be_closed() {
            let _ = self.finish(SessionEnd::Limit);
            return;
        }
        let next = if now >= due { now + self.world.client_timeout } else { due }.into();
        let idle = self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
        // It may stand at an older deadline: it is moved when it rings, not at each request.
        if idle.as_mut().poll(cx).is_ready() {
            idle.as_mut().reset(next);
            if idle.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
    }

    fn pump(&mut self, cx: &mut Context<'_>, scratch: &mut Vec<u8>, now: Instant) {
        if self.world.ways.epoch() != self.seen {
            self.turned(now);
        }
        for _ in 0..ROUNDS_MAX {
            // Each direction until it is dry: a second look at a dry socket would cost a waker's lock.
            let (mut replies, mut requests) = (0, 0);
            while replies < ROUNDS_MAX && self.pump_replies(cx, scratch, now).is_ready() {
                replies += 1;
            }
            while requests < ROUNDS_MAX && self.pump_requests(cx, scratch, now).is_ready() {
                requests += 1;
            }
            let moved = self.poll_way(cx, now, scratch).is_ready()
                || self.poll_hold(cx, now).is_ready()
                || self.owes_replies();
            if self.has_finished() {
                return;
            }
            if !moved && replies < ROUNDS_MAX && requests < ROUNDS_MAX {
                return;
            }
            if !moved {
                break;
            }
        }
        // Others of this worker first; the sockets are still ready, so nobody else will wake us.
        cx.waker().wake_by_ref();
    }
}

impl Future for Session {
    type Output = SessionEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        let this = &mut *self;
        let now = Instant::now();
        SCRATCH.with_borrow_mut(|scratch| this.pump(cx, scratch, now));
        count(&mut this.core.tally, &this.world.stats);
        this.poll_idle(cx, now);
        if let Some(error) = this.core.overrun_error()
            && !this.has_finished()
        {
            encode::error(&mut this.core.down, error);
            let _ = this.deliver(cx, &[]);
            let _ = this.finish(SessionEnd::Limit);
        }
        if this.drain_place.is_none() {
            this.drain_place = Some(this.drain.enter(cx.waker()));
        }
        if this.drain.is_on() && this.may_end() {
            let _ = this.finish(SessionEnd::Drained);
        }
        this.polls = this.polls.wrapping_add(1);
        if this.polls.is_multiple_of(SAMPLE) {
            let spent = now.elapsed().as_micros() as u64;
            this.world.stats.latency(|l| l.overhead.saturating_record(spent.max(1)));
        }
        if !this.has_finished() {
            return Poll::Pending;
        }
        // What the client has sent and nobody read would turn our close into a reset, and that could cost
        // it the last reply.
        let _ = this.down.io.poll_shutdown(cx);
        SCRATCH.with_borrow_mut(
            |scratch| {
                while let Poll::Ready(Ok(1..)) = this.down.io.poll_read(cx, scratch) {}
            },
        );
        Poll::Ready(this.end.unwrap_or(SessionEnd::DownstreamClosed))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.core.abandoned();
        count(&mut self.core.tally, &self.world.stats);
        self.leave_gate();
        self.credit.leave(&self.here.gate);
        if let Some(place) = self.drain_place {
            self.drain.leave(place);
        }
    }
}
