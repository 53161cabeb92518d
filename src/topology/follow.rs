//! Turns the route to where the primary is: when a majority of the Sentinels names another one, and that one itself
//! says that it is a primary.
//!
//! Refuses to know: sessions, incidents. Invariants: nothing is turned to a server that does not call itself a
//! primary, nor to one that nobody guards; while the named one is not ready the way leads nowhere, so that nothing
//! more is sent to the old one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis_protocol::resp2::types::BytesFrame as Frame;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::health::Health;
use super::sentinel::Who;
use super::view::View;
use super::watch::Watcher;
use crate::config::Address;
use crate::control::{Control, Endpoint};
use crate::guard::fleet::Crew;
use crate::route::Route;

/// Between two looks in peace, and while the named primary is not ready.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(50));
/// One that does not answer by then is not ready.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// For so long a primary whose role moves is sent nothing: less than a command may wait.
const SHUT_MOST: Duration = Duration::from_secs(3);
/// Before it is said again that nobody names a primary.
const SAY_AGAIN: Duration = Duration::from_secs(5);

/// A failover that has begun: Sentinel promotes the replica a moment after it says so, and demotes the old primary
/// only later. What that one accepts in between is lost (`sentinel.c:sentinelFailoverStateMachine`), so nothing is
/// sent there; not for ever, for it may be given up without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stays {
    /// Nothing moves.
    Open,
    /// Nothing is sent, since then.
    Shut(Instant),
    /// That was for too long.
    Patience,
}

impl Stays {
    fn next(self, moving: bool, now: Instant) -> Stays {
        match self {
            _ if !moving => Stays::Open,
            Stays::Open => Stays::Shut(now),
            Stays::Shut(since) if now >= since + SHUT_MOST => Stays::Patience,
            Stays::Shut(_) | Stays::Patience => self,
        }
    }
}

/// Waits until a majority names a primary: there is nothing to serve before.
pub async fn first(watcher: &mut Watcher) -> String {
    loop {
        if let Some((primary, epoch)) = watcher.primary() {
            info!(primary, epoch, "named by Sentinel");
            return primary;
        }
        let changed = async {
            loop {
                watcher.changed().await;
                if watcher.primary().is_some() {
                    return;
                }
            }
        };
        if tokio::time::timeout(SAY_AGAIN, changed).await.is_err() {
            let silent = watcher.silent().join("; ");
            warn!(side = "sentinel", "no majority of the Sentinels names a primary; {silent}");
        }
    }
}

/// Follows, from where the route leads now, until the token is cancelled.
pub async fn follow(
    mut at: String,
    mut watcher: Watcher,
    route: Arc<Route>,
    crew: Arc<Crew>,
    endpoint: Endpoint,
    closing: CancellationToken,
) {
    let (mut told, mut pause) = (None, LOOK.0);
    let mut stays = Stays::Open;
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            () = watcher.changed() => {}
            () = sleep(pause) => {}
        }
        pause = LOOK.0;
        let Some((named, epoch)) = watcher.primary() else { continue };
        crew.enlist(&named);
        if named == at {
            let who = Who { addresses: vec![at.clone()], run_id: None };
            let moving = watcher.report(&who).view == View::FailingOver;
            let open = matches!(stays, Stays::Open | Stays::Patience);
            stays = stays.next(moving, Instant::now());
            pause = if moving { LOOK.1 } else { LOOK.0 };
            match stays {
                Stays::Shut(_) if open => {
                    info!(upstream = at, "Sentinel moves the primary's role: nothing more is sent there");
                    route.nowhere();
                }
                Stays::Open | Stays::Patience if !open => {
                    if let Some((_, gate)) = crew.gate(&at, None) {
                        info!(upstream = at, "the role has not moved");
                        route.turn(Address::Tcp(at.clone()), gate);
                    }
                }
                Stays::Open | Stays::Shut(_) | Stays::Patience => {}
            }
            continue;
        }
        pause = LOOK.1;
        stays = Stays::Open;
        let endpoint = Endpoint { address: Address::Tcp(named.clone()), ..endpoint.clone() };
        let (health, run_id) = probe(&endpoint).await;
        let gate = crew.gate(&named, run_id.as_deref());
        let Some((known, gate)) = gate.filter(|_| health.is_primary()) else {
            route.nowhere();
            let words = format!("{named} is named by Sentinel and not ready: {health:?}");
            if told.as_ref() != Some(&words) {
                warn!(side = "upstream", "{words}");
            }
            told = Some(words);
            continue;
        };
        route.turn(Address::Tcp(named.clone()), gate);
        crew.serves(&known);
        info!(from = at, to = named, epoch, ?health, "the primary is another one: sessions follow");
        (at, told) = (named, None);
    }
}

/// How it is, and its run id.
async fn probe(endpoint: &Endpoint) -> (Health, Option<String>) {
    let asked = async {
        let mut control = Control::connect(endpoint).await?;
        let batch = ["PING", "ROLE", "INFO server"].map(|line| line.split(' ').map(String::from).collect());
        control.exchange(&batch, ANSWER_TIMEOUT).await
    };
    match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
        Err(_) => (Health::Unreachable("no answer".into()), None),
        Ok(Err(why)) => (Health::Unreachable(why.to_string()), None),
        Ok(Ok(replies)) => match replies.as_slice() {
            [ping, role, info] => (Health::read(ping, role), run_id(info)),
            _ => (Health::Unreachable("replies missing".into()), None),
        },
    }
}

fn run_id(info: &Frame) -> Option<String> {
    let Frame::BulkString(text) = info else { return None };
    let text = String::from_utf8_lossy(text);
    text.lines().find_map(|line| line.strip_prefix("run_id:")).map(|id| id.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_whose_role_moves_is_sent_nothing_and_not_for_ever() {
        let now = Instant::now();
        let shut = Stays::Open.next(true, now);
        assert_eq!(shut, Stays::Shut(now));
        assert_eq!(shut.next(true, now + SHUT_MOST / 2), shut);
        assert_eq!(shut.next(true, now + SHUT_MOST), Stays::Patience);
        assert_eq!(Stays::Patience.next(true, now + SHUT_MOST * 2), Stays::Patience);
        assert_eq!([shut, Stays::Patience].map(|stays| stays.next(false, now)), [Stays::Open; 2]);
    }
}
