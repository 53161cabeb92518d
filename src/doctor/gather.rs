//! Looking: one connection to the server, one inquiry, one look at its host; all of it into [`Evidence`].
//!
//! Refuses to know: what any of it means. Invariants: looking changes nothing; a host that does not answer costs
//! five seconds and no more; every error names the side at fault and the cure.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use redis_protocol::resp2::types::BytesFrame as Frame;

use crate::config::Address;
use crate::control::{Control, ControlError, Endpoint};
use crate::guard::dialogue::{Answer, Talk};
use crate::guard::evidence::{Evidence, Healthy, HostFacts};
use crate::host::{self, Applied, Asked, Host, HostError};

/// A dying disk blocks a stat for ever.
const HOST_TIMEOUT: Duration = Duration::from_secs(5);
/// A change waits for the disk too, and is worth waiting for.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
const EXCHANGE: Duration = Duration::from_secs(5);

/// Why there is nothing to report on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Blind {
    /// The server's side.
    #[error("{0}; {1}")]
    Upstream(String, &'static str),
}

/// A way to the server and to its host.
pub(super) struct Ward {
    endpoint: Endpoint,
    control: Option<Control>,
    host: Arc<dyn Host>,
    /// What a bgsafe in front of it saw while all was well.
    healthy: Option<Healthy>,
    /// Why INFO tells nothing, in the server's words.
    pub(super) info_denied: Option<String>,
}

impl Ward {
    /// Connects, and makes sure that a Redis answers.
    pub(super) async fn reach(endpoint: Endpoint, healthy: Option<Healthy>) -> Result<Ward, Blind> {
        let mut ward = Ward { endpoint, control: None, host: host::here(), healthy, info_denied: None };
        // Not PING: where the server refuses it, ours would count among those of the probes.
        let replies = ward.exchange(&["INFO server"]).await.map_err(|why| ward.blind(&why))?;
        match &replies[..] {
            [Frame::Error(why)] if why.starts_with("NOAUTH") => {
                return Err(Blind::Upstream(format!("upstream: {}: {why}", ward.address()), AUTH));
            }
            [Frame::Error(why)] => ward.info_denied = Some(why.to_string()),
            [Frame::BulkString(info)] if is_sentinel(info) => {
                let what = format!("upstream: {} is a Sentinel, which saves nothing", ward.address());
                return Err(Blind::Upstream(what, "give the URL of the server it watches"));
            }
            _ => {}
        }
        Ok(ward)
    }

    /// As the commands that are printed name it.
    pub(super) fn address(&self) -> String {
        self.endpoint.address.to_string()
    }

    /// The ACL user we are to the server.
    pub(super) fn user(&self) -> &str {
        self.endpoint.credentials.as_ref().and_then(|c| c.user.as_deref()).unwrap_or("default")
    }

    /// Everything that can be seen now.
    pub(super) async fn look(&mut self) -> Result<Evidence, Blind> {
        let own = self.endpoint.name.clone();
        let answer = self.talk(Talk::Inquire { own }).await.map_err(|why| self.blind(&why))?;
        let Answer::Inquired(told) = answer else { return Ok(Evidence::default()) };
        let (look, server) = *told;
        let asked = Asked::new(&look, &server, false);
        let host = self.host_facts(asked).await;
        let healthy = self.healthy.clone();
        Ok(Evidence { address: self.address(), look, server, host, healthy, ..Evidence::default() })
    }

    async fn host_facts(&self, asked: Asked) -> HostFacts {
        let (host, address) = (self.host.clone(), self.endpoint.address.clone());
        let look = tokio::task::spawn_blocking(move || {
            host.facts(&Asked { local: host::is_local(&address), ..asked })
        });
        match tokio::time::timeout(HOST_TIMEOUT, look).await {
            Ok(Ok(facts)) => facts,
            Ok(Err(_)) => HostFacts::elsewhere("looking at the host failed inside bgsafe"),
            Err(_) => HostFacts::elsewhere("the host did not answer within 5 s: perhaps its disk hangs"),
        }
    }

    /// Makes one change of the host.
    pub(super) async fn change(&self, change: crate::guard::remedy::Change) -> Result<Applied, HostError> {
        let (host, command) = (self.host.clone(), change.command());
        let made = tokio::task::spawn_blocking(move || host.apply(&change));
        match tokio::time::timeout(CHANGE_TIMEOUT, made).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(HostError::Refused {
                what: "the change".into(),
                why: "it did not end within 30 s and may still be made".into(),
                command,
            }),
        }
    }

    /// One question. After an error the connection is gone and the next question makes another.
    pub(super) async fn talk(&mut self, talk: Talk) -> Result<Answer, ControlError> {
        let mut control = self.connected().await?;
        let (_, answer) = control.talk(talk, || 0).await?;
        self.control = Some(control);
        Ok(answer)
    }

    /// Plain commands, words separated by blanks.
    pub(super) async fn exchange(&mut self, lines: &[&str]) -> Result<Vec<Frame>, ControlError> {
        let mut control = self.connected().await?;
        let batch: Vec<_> = lines.iter().map(|line| line.split(' ').map(String::from).collect()).collect();
        let replies = control.exchange(&batch, EXCHANGE).await?;
        self.control = Some(control);
        Ok(replies)
    }

    async fn connected(&mut self) -> Result<Control, ControlError> {
        match self.control.take() {
            Some(control) => Ok(control),
            None => Control::connect(&self.endpoint).await,
        }
    }

    /// Lets the connection go; the next question makes another.
    pub(super) fn hang_up(&mut self) {
        self.control = None;
    }

    /// INFO, as text; empty when it is not told.
    pub(super) async fn info(&mut self, section: &str) -> Result<String, ControlError> {
        let replies = self.exchange(&[&format!("INFO {section}")]).await?;
        Ok(match replies.first() {
            Some(Frame::BulkString(text)) => String::from_utf8_lossy(text).into_owned(),
            _ => String::new(),
        })
    }

    /// One CONFIG value.
    pub(super) async fn config(&mut self, name: &str) -> Option<String> {
        let replies = self.exchange(&[&format!("CONFIG GET {name}")]).await.ok()?;
        match replies.first()? {
            Frame::Array(pair) => match pair.get(1)? {
                Frame::BulkString(value) => Some(String::from_utf8_lossy(value).into_owned()),
                _ => None,
            },
            _ => None,
        }
    }

    pub(super) fn blind(&self, error: &ControlError) -> Blind {
        let at = self.address();
        let text = error.to_string();
        let words = text.strip_prefix("upstream: ").unwrap_or(&text);
        Blind::Upstream(format!("upstream: {at}: {words}"), cure(error, &self.endpoint.address))
    }
}

const AUTH: &str = "put user and password into the URL, or use --control-user with --control-password-file \
    or REDISCLI_AUTH";

fn cure(error: &ControlError, address: &Address) -> &'static str {
    match (error, address) {
        (ControlError::Refused(why, _), _) if why.starts_with("ERR max") => "try again, or raise maxclients",
        (ControlError::Refused(why, _), _) if why.starts_with("DENIED") => {
            "look from the server's own machine, or give the server a password"
        }
        (ControlError::Refused(..), _) => AUTH,
        (ControlError::Protocol(_), _) => {
            "what listens there is not a Redis, or it speaks TLS: check the address"
        }
        (ControlError::Timeout(_), _) => {
            "it is silent: a firewall, a port that speaks TLS, or a server that hangs"
        }
        (ControlError::Closed, _) => {
            "check the address: a port that speaks TLS does this, a server that stops too"
        }
        (ControlError::Io(e), Address::Unix(_)) if e.kind() == ErrorKind::PermissionDenied => {
            "run bgsafe as a user who may open this socket"
        }
        (ControlError::Io(_), Address::Unix(_)) => "check the socket's path, and that the server runs",
        (ControlError::Io(e), Address::Tcp(_)) if e.kind() == ErrorKind::ConnectionRefused => {
            "start the server there, or give its URL: bgsafe doctor redis://host:port"
        }
        (ControlError::Io(_), Address::Tcp(_)) => "check the address and the network",
    }
}

fn is_sentinel(info: &[u8]) -> bool {
    String::from_utf8_lossy(info).lines().any(|line| line.trim_end() == "redis_mode:sentinel")
}
