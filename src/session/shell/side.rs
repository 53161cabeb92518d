//! One side of a session: a socket, what it did not take at once, and what was read from it too early.
//!
//! Refuses to know the other side. Invariant: bytes leave in the order in which they were sent.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use crate::proxy::stream::Stream;

/// What one read may bring. Larger costs cache, smaller costs system calls.
pub(super) const CHUNK: usize = 64 * 1024;

/// One direction's writer: a socket and the bytes that it did not take at once.
#[derive(Debug)]
pub(super) struct Side {
    pub io: Stream,
    pub out: Vec<u8>,
    pub sent: usize,
    /// Bytes read from here that the core wants again, with more behind them.
    pub carry: Vec<u8>,
    pub read_closed: bool,
    /// Shut down, or broken.
    pub write_closed: bool,
    alarm: Option<(Arc<Alarm>, Waker)>,
    /// The reactor has our alarm: until it rings there is nothing to read.
    armed: bool,
}

/// Tells which of a session's two sockets woke its task. To poll the other one too would cost a lock in
/// the reactor at each wake-up, half of all polls at one request at a time.
#[derive(Debug)]
struct Alarm {
    rang: AtomicBool,
    task: Waker,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl Side {
    pub fn new(io: Stream) -> Self {
        Side {
            io,
            out: Vec::new(),
            sent: 0,
            carry: Vec::new(),
            read_closed: false,
            write_closed: false,
            alarm: None,
            armed: false,
        }
    }

    /// Reads into `buf`, unless nothing has happened here since the last time nothing was there.
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let (alarm, waker) = match &self.alarm {
            Some(alarm) if alarm.0.task.will_wake(cx.waker()) => alarm,
            _ => {
                self.armed = false;
                let alarm = Arc::new(Alarm { rang: AtomicBool::new(false), task: cx.waker().clone() });
                let waker = Waker::from(Arc::clone(&alarm));
                self.alarm.insert((alarm, waker))
            }
        };
        if self.armed && !alarm.rang.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Cleared before the look, so that what happens during it rings again.
        alarm.rang.store(false, Ordering::Release);
        let polled = self.io.poll_read(&mut Context::from_waker(waker), buf);
        self.armed = polled.is_pending();
        polled
    }

    /// Has the peer closed its side, or broken off? Asks to be woken if nothing at all is there.
    pub fn has_left(&mut self, cx: &mut Context<'_>) -> bool {
        match &self.alarm {
            Some((_, waker)) => self.io.has_left(&mut Context::from_waker(waker)),
            None => self.io.has_left(cx),
        }
    }

    /// Sends `bytes` behind what waits, without a copy if they go at once.
    pub fn send(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        if self.write_closed {
            return Ok(());
        }
        if self.out.is_empty() {
            while !bytes.is_empty() {
                match self.io.poll_write(cx, bytes)? {
                    Poll::Ready(n) => bytes = &bytes[n..],
                    Poll::Pending => break,
                }
            }
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Sends on what waits. Ready when nothing waits.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            if self.write_closed {
                break;
            }
            self.sent += ready!(self.io.poll_write(cx, &self.out[self.sent..]))?;
        }
        if !self.out.is_empty() {
            self.out = Vec::new();
            self.sent = 0;
        }
        Poll::Ready(Ok(()))
    }
}

/// Puts what was carried at the front of the scratch buffer, with room for a chunk behind it.
#[inline]
pub(super) fn lay_out(scratch: &mut Vec<u8>, carry: &[u8]) -> usize {
    if !carry.is_empty() {
        if scratch.len() < carry.len() + CHUNK {
            scratch.resize(carry.len() + CHUNK, 0);
        }
        scratch[..carry.len()].copy_from_slice(carry);
    }
    carry.len()
}

#[inline]
pub(super) fn keep(carry: &mut Vec<u8>, kept: &[u8]) {
    if kept.is_empty() {
        if !carry.is_empty() {
            *carry = Vec::new();
        }
    } else {
        carry.clear();
        carry.extend_from_slice(kept);
    }
}
