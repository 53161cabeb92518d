//! Our own connection to the server, beside those of the applications: named, authenticated,
//! every exchange under a timeout. It carries [`Dialogue`]s and knows nothing of why.
//!
//! Invariant: after an error the connection is useless and must be dropped: an answer that comes
//! late could be taken for that of another question.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt as _};
use redis_protocol::codec::Resp2;
use redis_protocol::error::{RedisProtocolError, RedisProtocolErrorKind};
use redis_protocol::resp2::types::BytesFrame as Frame;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::codec::Framed;

use crate::config::rename::Renames;
use crate::config::{Address, Credentials};
use crate::guard::dialogue::{Answer, Command, Dialogue, Next, Talk};

/// Connecting, AUTH and CLIENT SETNAME together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// One batch. A server that is silent for longer serves nobody.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// BGSAVE answers only after fork, which takes seconds on a large instance.
const FORK_TIMEOUT: Duration = Duration::from_secs(30);

/// Whom to connect to, and as whom.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The server.
    pub address: Address,
    /// For AUTH.
    pub credentials: Option<Credentials>,
    /// For CLIENT SETNAME; no spaces.
    pub name: String,
    /// Commands that the server has under other names.
    pub renames: Renames,
}

/// Why the connection is lost. Always the upstream's side.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Could not be reached, or broke.
    #[error("upstream: {0}")]
    Io(#[from] io::Error),
    /// Did not answer in time.
    #[error("upstream: no answer within {0:?}")]
    Timeout(Duration),
    /// Closed by the server.
    #[error("upstream: closed the control connection")]
    Closed,
    /// Answered what is not RESP2.
    #[error("upstream: {0}")]
    Protocol(String),
    /// The server wants somebody else, or nobody at all: AUTH refused, no AUTH given, too many clients.
    #[error("upstream: {0} ({1})")]
    Refused(String, &'static str),
}

const CHECK_PASSWORD: &str = "check --control-user and --control-password-file";

/// An error that speaks of the connection, not of the command: `networking.c:acceptCommonHandler` and
/// `server.c:processCommand`.
fn turned_away(why: &str) -> Option<ControlError> {
    let cure = if why.starts_with("NOAUTH") {
        CHECK_PASSWORD
    } else if why.starts_with("ERR max number of clients") {
        "raise maxclients on the server"
    } else if why.starts_with("DENIED") {
        "give the server a password, or turn its protected mode off"
    } else {
        return None;
    };
    Some(ControlError::Refused(why.to_string(), cure))
}

/// What a connection is made of, whatever it goes over.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// See the module's page.
pub struct Control {
    framed: Framed<Box<dyn Stream>, Resp2>,
    renames: Renames,
    peer: Option<SocketAddr>,
}

impl Control {
    /// Connects, authenticates, names itself.
    pub async fn connect(endpoint: &Endpoint) -> Result<Control, ControlError> {
        timeout(CONNECT_TIMEOUT, Self::connect_unhurried(endpoint))
            .await
            .unwrap_or(Err(ControlError::Timeout(CONNECT_TIMEOUT)))
    }

    async fn connect_unhurried(endpoint: &Endpoint) -> Result<Control, ControlError> {
        let mut peer = None;
        let stream: Box<dyn Stream> = match &endpoint.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                peer = stream.peer_addr().ok();
                Box::new(stream)
            }
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
        };
        let framed = Framed::new(stream, Resp2::default());
        let mut control = Control { framed, renames: endpoint.renames.clone(), peer };
        if let Some(Credentials { user, password }) = &endpoint.credentials {
            let words = ["AUTH".to_string()].into_iter().chain(user.clone()).chain([password.0.clone()]);
            let replies = control.exchange(&[words.collect()], EXCHANGE_TIMEOUT).await?;
            if let [Frame::Error(why)] = replies.as_slice() {
                return Err(
                    turned_away(why).unwrap_or(ControlError::Refused(why.to_string(), CHECK_PASSWORD))
                );
            }
        }
        // A name is a courtesy to whoever reads CLIENT LIST: a refusal of the name changes nothing, one
        // of the whole connection does.
        let name = ["CLIENT", "SETNAME", &endpoint.name].map(String::from).to_vec();
        match control.exchange(&[name], EXCHANGE_TIMEOUT).await?.as_slice() {
            [Frame::Error(why)] => turned_away(why).map_or(Ok(control), Err),
            _ => Ok(control),
        }
    }

    /// Where the server is, as a number: what its name resolved to.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The next message of a subscription, however long that takes.
    pub async fn listen(&mut self) -> Result<Frame, ControlError> {
        match self.framed.next().await {
            Some(message) => message.map_err(protocol),
            None => Err(ControlError::Closed),
        }
    }

    /// Asks one thing. `sightings` is read just before the last batch is sent: what was sighted by
    /// then is older than the server's answer.
    pub async fn talk(
        &mut self,
        talk: Talk,
        sightings: impl Fn() -> u64,
    ) -> Result<(u64, Answer), ControlError> {
        let limit = match talk {
            // A rewrite waits for the disk (`config.c:rewriteConfigOverwriteFile` syncs).
            Talk::Bgsave { .. } | Talk::Apply(_) | Talk::Rewrite { .. } | Talk::Aof(_) => FORK_TIMEOUT,
            Talk::Failover { .. }
            | Talk::Probe
            | Talk::Look
            | Talk::Inquire { .. }
            | Talk::Lower { .. }
            | Talk::Restore { .. }
            | Talk::Claim { .. }
            | Talk::Peers { .. }
            | Talk::Name(_)
            | Talk::Count => EXCHANGE_TIMEOUT,
        };
        let (mut dialogue, mut batch) = Dialogue::new(talk);
        loop {
            let seen = sightings();
            let replies = self.exchange(&batch, limit).await?;
            match dialogue.hear(&replies) {
                Next::Send(more) => batch = more,
                Next::Done(answer) => return Ok((seen, answer)),
            }
        }
    }

    /// Sends a batch in one write and reads as many replies. Renamed commands go out under their new names; no
    /// error tells those.
    pub async fn exchange(&mut self, batch: &[Command], limit: Duration) -> Result<Vec<Frame>, ControlError> {
        timeout(limit, self.exchange_unhurried(batch)).await.unwrap_or(Err(ControlError::Timeout(limit)))
    }

    async fn exchange_unhurried(&mut self, batch: &[Command]) -> Result<Vec<Frame>, ControlError> {
        for command in batch {
            let words = self.renames.apply(command.clone());
            let words = words.into_iter().map(|word| Frame::BulkString(word.into())).collect();
            self.framed.feed(Frame::Array(words)).await.map_err(protocol)?;
        }
        SinkExt::<Frame>::flush(&mut self.framed).await.map_err(protocol)?;
        let mut replies = Vec::with_capacity(batch.len());
        while replies.len() < batch.len() {
            match self.framed.next().await {
                Some(reply) => replies.push(self.plain(reply.map_err(protocol)?)),
                None => return Err(ControlError::Closed),
            }
        }
        Ok(replies)
    }

    /// Sends a command whose answer is no RESP, and gives the stream away, with what of the answer was read already.
    pub async fn into_raw(mut self, command: Command) -> Result<(Box<dyn Stream>, BytesMut), ControlError> {
        let words =
            self.renames.apply(command).into_iter().map(|word| Frame::BulkString(word.into())).collect();
        let sent = async {
            self.framed.feed(Frame::Array(words)).await?;
            SinkExt::<Frame>::flush(&mut self.framed).await
        };
        let sent =
            timeout(EXCHANGE_TIMEOUT, sent).await.map_err(|_| ControlError::Timeout(EXCHANGE_TIMEOUT))?;
        sent.map_err(protocol)?;
        let parts = self.framed.into_parts();
        Ok((parts.io, parts.read_buf))
    }

    fn plain(&self, reply: Frame) -> Frame {
        match reply {
            Frame::Error(why) => Frame::Error(self.renames.restore(&why).map_or(why, Into::into)),
            other => other,
        }
    }
}

fn protocol(e: RedisProtocolError) -> ControlError {
    match e.kind() {
        RedisProtocolErrorKind::IO(e) => ControlError::Io(io::Error::new(e.kind(), e.to_string())),
        _ => ControlError::Protocol(e.to_string()),
    }
}
