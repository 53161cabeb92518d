//! One application's connection: requests in one write, replies in order.
//!
//! Refuses to know: what is written. Invariant: as many replies as requests, or an error and no further use.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use redis_protocol::codec::Resp2;
use redis_protocol::resp2::types::BytesFrame;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::codec::Framed;

use super::Target;

trait Bytestream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Bytestream for S {}

pub(super) struct Link {
    framed: Framed<Box<dyn Bytestream>, Resp2>,
}

/// Longer than any hold: a reply that takes more than this does not come.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

impl Link {
    pub(super) async fn connect(target: &Target) -> io::Result<Link> {
        let connecting = async {
            let stream: Box<dyn Bytestream> = match target {
                Target::Tcp(address) => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    Box::new(stream)
                }
                Target::Unix(path) => Box::new(UnixStream::connect(path).await?),
            };
            io::Result::Ok(stream)
        };
        let stream = timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(Link { framed: Framed::new(stream, Resp2::default()) })
    }

    /// Sends all requests at once; the replies that came, in order, and why no more did.
    pub(super) async fn exchange(&mut self, requests: Vec<BytesFrame>) -> (Vec<BytesFrame>, io::Result<()>) {
        let wanted = requests.len();
        let mut replies = Vec::with_capacity(wanted);
        let talk = async {
            for request in requests {
                self.framed.feed(request).await.map_err(side)?;
            }
            SinkExt::<BytesFrame>::flush(&mut self.framed).await.map_err(side)?;
            while replies.len() < wanted {
                match self.framed.next().await {
                    Some(frame) => replies.push(frame.map_err(side)?),
                    None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                }
            }
            Ok(())
        };
        let ended = match timeout(REPLY_TIMEOUT, talk).await {
            Ok(ended) => ended,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        (replies, ended)
    }

    /// Bytes that came without being asked for: a reply too many.
    pub(super) fn surplus(&self) -> &BytesMut {
        self.framed.read_buffer()
    }
}

fn side(error: redis_protocol::error::RedisProtocolError) -> io::Error {
    io::Error::other(error.to_string())
}
