//! A connected socket, TCP or unix. Refuses to know which side it is and what flows over it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// See the module's page.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP, Nagle off.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
}

/// The same call on whichever socket it is.
macro_rules! on {
    ($stream:expr, $io:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($io) => $call,
            Stream::Unix($io) => $call,
        }
    };
}

impl Stream {
    /// Reads into `buf`; 0 is the end. A read that does not fill `buf` tells the reactor that the socket
    /// is dry, so the next call costs no system call.
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(buf);
        let polled = on!(self, io => Pin::new(io).poll_read(cx, &mut read));
        polled.map_ok(|()| read.filled().len())
    }

    /// Writes some of `bytes`.
    #[inline]
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on!(self, io => Pin::new(io).poll_write(cx, bytes))
    }

    /// Says that nothing more will be written.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on!(self, io => Pin::new(io).poll_shutdown(cx))
    }

    /// Has the peer closed its side, or broken off? Looks without reading, so that what it has sent
    /// stays where it is; asks to be woken if nothing at all is there.
    pub fn has_left(&self, cx: &mut Context<'_>) -> bool {
        if on!(self, io => io.poll_read_ready(cx)).is_pending() {
            return false;
        }
        let flags = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let seen = on!(self, io => {
            let mut fds = [PollFd::new(io, flags)];
            poll(&mut fds, Some(&Timespec::default())).map(|_| fds[0].revents())
        });
        seen.is_ok_and(|seen| seen.intersects(flags))
    }
}
