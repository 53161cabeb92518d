//! A blocking connection straight to a server: the lab's own eyes and hands.
//!
//! Refuses to know: bgsafe. It never goes through the proxy, so what it reads is what the server holds.
//! Invariant: one request, one reply; a connection that failed once is not used again.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::encode::extend_encode;
use redis_protocol::resp2::types::{BytesFrame, OwnedFrame};

/// A reply, as the server gave it. An error reply is a reply, not an `Err`.
pub type Reply = OwnedFrame;

/// How long the server may take for one reply. Lab servers are small; more than this is a hang.
const REPLY_TIMEOUT: Duration = Duration::from_secs(15);

/// See the module's page.
#[derive(Debug)]
pub struct Direct {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Direct {
    /// Connects over TCP. Errors name the server's side.
    pub fn connect(address: SocketAddr) -> io::Result<Direct> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Direct { stream, unread: Vec::new() })
    }

    /// Sends one command and waits for its reply.
    pub fn command<A: AsRef<[u8]>>(&mut self, words: &[A]) -> io::Result<Reply> {
        let mut out = BytesMut::new();
        extend_encode(&mut out, &request(words), false).map_err(io::Error::other)?;
        self.stream.write_all(&out)?;
        self.reply()
    }

    /// Sends one command and insists on success: an error reply becomes an `Err` with the server's words.
    pub fn demand<A: AsRef<[u8]>>(&mut self, words: &[A]) -> io::Result<Reply> {
        match self.command(words)? {
            OwnedFrame::Error(text) => Err(io::Error::other(format!("upstream answered: {text}"))),
            reply => Ok(reply),
        }
    }

    /// One field of INFO (all sections), or `None` when this server has no such field.
    pub fn info(&mut self, field: &str) -> io::Result<Option<String>> {
        let text = text(&self.demand(&["INFO"])?);
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(line.map(str::to_owned))
    }

    /// A setting's present value, or `None` when this server has no such setting.
    pub fn config(&mut self, name: &str) -> io::Result<Option<String>> {
        match self.demand(&["CONFIG", "GET", name])? {
            OwnedFrame::Array(pair) => Ok(pair.get(1).map(text)),
            _ => Ok(None),
        }
    }

    /// Unix seconds of the last good save.
    pub fn last_save(&mut self) -> io::Result<i64> {
        match self.demand(&["LASTSAVE"])? {
            OwnedFrame::Integer(at) => Ok(at),
            other => Err(io::Error::other(format!("LASTSAVE answered {other:?}"))),
        }
    }

    fn reply(&mut self) -> io::Result<Reply> {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            if let Some((frame, used)) = decode(&self.unread).map_err(io::Error::other)? {
                self.unread.drain(..used);
                return Ok(frame);
            }
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.unread.extend_from_slice(&chunk[..count]),
            }
        }
    }
}

/// A command as a frame of bulk strings.
pub fn request<A: AsRef<[u8]>>(words: &[A]) -> BytesFrame {
    let bulk = |word: &A| BytesFrame::BulkString(bytes::Bytes::copy_from_slice(word.as_ref()));
    BytesFrame::Array(words.iter().map(bulk).collect())
}

/// The words of a scalar reply; an array's are joined by spaces.
pub fn text(reply: &Reply) -> String {
    match reply {
        OwnedFrame::SimpleString(bytes) | OwnedFrame::BulkString(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        OwnedFrame::Error(text) => text.clone(),
        OwnedFrame::Integer(number) => number.to_string(),
        OwnedFrame::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        OwnedFrame::Null => String::new(),
    }
}
