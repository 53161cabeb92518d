//! One side of a session: a socket, what it did not take at once, and what was read from it too early.
//!
//! Refuses to know the other side. Invariant: bytes leave in the order in which they were sent.

use std::io;
use std::task::{Context, Poll, ready};

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
}

impl Side {
    pub fn new(io: Stream) -> Self {
        Side { io, out: Vec::new(), sent: 0, carry: Vec::new(), read_closed: false, write_closed: false }
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
