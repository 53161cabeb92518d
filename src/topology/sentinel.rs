//! Many Sentinels as one machine: what each said last goes in, whom to ask and what they say together comes out.
//!
//! Refuses to know: sockets, RESP, the server itself. Invariants: whoever was not heard for [`FRESH`] counts as
//! known and says nothing; a view needs a majority of all that are known, as a failover does
//! (`sentinel.c:sentinelGetLeader`); the newest configuration wins over older ones, however many still tell those
//! (`sentinel.c:sentinelProcessHelloMessage`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::view::{Report, View};

/// An answer older than this is no answer.
pub const FRESH: Duration = Duration::from_secs(5);
/// An election lasts no longer (`sentinel.c:sentinelFailoverWaitStart`); whoever is taken for down by a quorum for
/// longer, with no failover in sight, is not being replaced.
const ELECTION: Duration = Duration::from_secs(10);
/// The end of a failover is not always told to those who only voted.
const FAILOVER_MOST: Duration = Duration::from_secs(20);

/// One Sentinel's answer about the group.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Said {
    /// `host:port` of the primary.
    pub primary: String,
    /// Its run id, when Sentinel has asked it already.
    pub run_id: Option<String>,
    /// Configuration epoch: grows with every failover.
    pub epoch: u64,
    /// This one thinks it down.
    pub s_down: bool,
    /// A quorum does, for so long.
    pub o_down: Option<Duration>,
    /// This one leads a failover.
    pub failing_over: bool,
    /// Replicas to choose from.
    pub replicas: u64,
    /// Other Sentinels that this one knows.
    pub others: usize,
    /// `down-after-milliseconds`.
    pub down_after: Duration,
    /// `failover-timeout`.
    pub failover_timeout: Duration,
}

/// Another Sentinel, as one tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `host:port`.
    pub address: String,
    /// Its id: two addresses with one id are one Sentinel.
    pub id: String,
}

/// What a Sentinel tells unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stir {
    /// A failover begins, or a vote for one was cast.
    Begins,
    /// It ended, or was given up.
    Ends,
    /// Something else that makes asking worth while.
    Other,
}

/// What the machine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An answer.
    Told {
        /// By the Sentinel at this address.
        from: String,
        /// To a question of this moment.
        asked: Duration,
        /// Its own id, when it has one.
        id: Option<String>,
        /// About the group.
        said: Said,
        /// The others that it knows.
        peers: Vec<Peer>,
    },
    /// It answers and does not know the group.
    Refused {
        /// Which one.
        from: String,
        /// In its words.
        why: String,
    },
    /// It cannot be reached, or not any more.
    Lost {
        /// Which one.
        from: String,
        /// Why.
        why: String,
    },
    /// It tells of a change.
    Stirred {
        /// Which one.
        from: String,
        /// What kind.
        stir: Stir,
    },
    /// Somebody else tells of a Sentinel.
    Met(Peer),
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Keep a connection to this one, and ask it.
    Sit(String),
    /// Not to this one any more.
    Leave(String),
}

/// The server that a view is about.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Who {
    /// As it told itself.
    pub run_id: Option<String>,
    /// All that it is reached by.
    pub addresses: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Seat {
    /// Named by the operator: never forgotten.
    configured: bool,
    id: Option<String>,
    /// Its newest answer, and when that was asked for.
    said: Option<(Duration, Said)>,
    peers: Vec<Peer>,
    /// It told of a failover's beginning.
    stirred: Option<Duration>,
    /// It does not know the group.
    refused: bool,
    why: String,
}

/// See the module's page.
#[derive(Clone, Debug, Default)]
pub struct Council {
    seats: BTreeMap<String, Seat>,
    out: VecDeque<Action>,
}

impl Council {
    /// Of these addresses, and whomever they tell of.
    pub fn new(addresses: &[String]) -> Council {
        let mut council = Council::default();
        for address in addresses {
            council.seat(address, None, true);
        }
        council
    }

    /// Takes an event in.
    pub fn handle(&mut self, now: Duration, event: Event) {
        match event {
            Event::Told { from, asked, id, said, peers } => self.told(&from, asked, id, said, peers),
            Event::Refused { from, why } => {
                if let Some(seat) = self.seats.get_mut(&from) {
                    (seat.said, seat.refused, seat.why) = (None, true, why);
                }
            }
            Event::Lost { from, why } => {
                if let Some(seat) = self.seats.get_mut(&from) {
                    (seat.said, seat.why) = (None, why);
                }
            }
            Event::Stirred { from, stir } => {
                if let Some(seat) = self.seats.get_mut(&from) {
                    match stir {
                        Stir::Begins => seat.stirred = Some(now),
                        Stir::Ends => seat.stirred = None,
                        Stir::Other => {}
                    }
                }
            }
            Event::Met(peer) => self.seat(&peer.address, Some(peer.id), false),
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.out.pop_front()
    }

    /// Does any answer speak of trouble, so that asking more often is worth while?
    pub fn is_stirred(&self, now: Duration) -> bool {
        self.fresh(now)
            .iter()
            .any(|(seat, said)| said.s_down || said.o_down.is_some() || failing(now, seat, said))
    }

    /// The primary that a majority names in the newest configuration, and its epoch.
    pub fn primary(&self, now: Duration) -> Option<(String, u64)> {
        let fresh = self.fresh(now);
        let (named, epoch) = newest(&fresh)?;
        let behind = fresh.iter().filter(|(_, said)| said.primary == named).count();
        (behind >= majority(self.known(&fresh))).then(|| (named.to_string(), epoch))
    }

    /// What they say of this server, taken together.
    pub fn report(&self, now: Duration, who: &Who) -> Report {
        let fresh = self.fresh(now);
        let (heard, known) = (fresh.len(), self.known(&fresh));
        let epoch = fresh.iter().map(|(_, said)| said.epoch).max().unwrap_or(0);
        let able = heard >= majority(known) && fresh.iter().any(|(_, said)| said.replicas > 0);
        let slowest =
            fresh.iter().map(|(_, said)| said.down_after + said.failover_timeout.min(ELECTION)).max();
        let view = self.view(now, &fresh, known, who);
        Report { view, epoch, heard, known, fails_over_within: slowest.filter(|_| able) }
    }

    /// One line a Sentinel that says nothing, for a warning.
    pub fn silent(&self, now: Duration) -> Vec<String> {
        let quiet = |seat: &Seat| seat.said.as_ref().is_none_or(|(at, _)| now.saturating_sub(*at) > FRESH);
        let why = |seat: &Seat| if seat.why.is_empty() { "no answer yet".into() } else { seat.why.clone() };
        self.seats.iter().filter(|(_, s)| quiet(s)).map(|(at, s)| format!("{at}: {}", why(s))).collect()
    }

    fn view(&self, now: Duration, fresh: &[(&Seat, &Said)], known: usize, who: &Who) -> View {
        let majority = majority(known);
        let us = |said: &Said| {
            let same = said.run_id.is_some() && said.run_id == who.run_id;
            same || who.addresses.contains(&said.primary)
        };
        if fresh.is_empty() {
            return View::Silent;
        }
        let Some((named, _)) = newest(fresh) else { return View::Disagree };
        let behind: Vec<_> = fresh.iter().filter(|(_, said)| said.primary == named).collect();
        let ours = behind.iter().any(|(_, said)| us(said));
        if behind.len() < majority {
            // Too few were heard: one that names another is a reason all the same, one that agrees is none.
            let all_ours = fresh.iter().all(|(_, said)| us(said));
            return if fresh.len() < majority && all_ours { View::Silent } else { View::Disagree };
        }
        if !ours {
            return View::SaysOther(named.to_string());
        }
        let ours = || fresh.iter().filter(|(_, said)| us(said));
        if ours().any(|(seat, said)| failing(now, seat, said)) {
            return View::FailingOver;
        }
        match ours().filter(|(_, said)| said.s_down).count() {
            0 => View::Agrees,
            by => View::SDown { by, of: known },
        }
    }

    fn fresh(&self, now: Duration) -> Vec<(&Seat, &Said)> {
        let young = |at: Duration| now.saturating_sub(at) <= FRESH;
        let said = |seat| -> Option<(&Seat, &Said)> {
            let seat: &Seat = seat;
            seat.said.as_ref().filter(|(at, _)| young(*at)).map(|(_, said)| (seat, said))
        };
        self.seats.values().filter_map(said).collect()
    }

    /// As many as we know, or as many as one of them knows: a failover needs a majority of those.
    fn known(&self, fresh: &[(&Seat, &Said)]) -> usize {
        let ours = self.seats.values().filter(|seat| !seat.refused).count();
        fresh.iter().map(|(_, said)| said.others + 1).max().unwrap_or(0).max(ours)
    }

    fn told(&mut self, from: &str, asked: Duration, id: Option<String>, said: Said, peers: Vec<Peer>) {
        let Some(seat) = self.seats.get_mut(from) else { return };
        if seat.said.as_ref().is_some_and(|(before, _)| asked < *before) {
            return;
        }
        seat.refused = false;
        seat.why.clear();
        seat.peers.clone_from(&peers);
        seat.said = Some((asked, said));
        if let Some(id) = id {
            seat.id = Some(id.clone());
            self.merge(from, &id);
        }
        for peer in peers {
            self.seat(&peer.address, Some(peer.id), false);
        }
        self.forget();
    }

    fn seat(&mut self, address: &str, id: Option<String>, configured: bool) {
        let known = id.is_some() && self.seats.values().any(|seat| seat.id == id);
        if known || self.seats.contains_key(address) {
            return;
        }
        self.seats.insert(address.to_string(), Seat { configured, id, ..Seat::default() });
        self.out.push_back(Action::Sit(address.to_string()));
    }

    /// The same Sentinel under two addresses is one: the operator's word for it stays.
    fn merge(&mut self, from: &str, id: &str) {
        let twin = self.seats.iter().find(|(at, seat)| *at != from && seat.id.as_deref() == Some(id));
        let Some((twin, configured)) = twin.map(|(at, seat)| (at.clone(), seat.configured)) else { return };
        let goes = if configured { from.to_string() } else { twin };
        self.seats.remove(&goes);
        self.out.push_back(Action::Leave(goes));
    }

    /// A Sentinel that was learned of, that says nothing and that nobody tells of any more, was taken away.
    fn forget(&mut self) {
        let told: BTreeSet<&str> =
            self.seats.values().flat_map(|s| s.peers.iter().map(|p| p.id.as_str())).collect();
        let gone = |seat: &Seat| {
            let named = seat.id.as_deref().is_none_or(|id| told.contains(id));
            !seat.configured && seat.said.is_none() && !named
        };
        let gone: Vec<String> =
            self.seats.iter().filter(|(_, s)| gone(s)).map(|(at, _)| at.clone()).collect();
        for at in gone {
            self.seats.remove(&at);
            self.out.push_back(Action::Leave(at));
        }
    }
}

/// More than half.
fn majority(known: usize) -> usize {
    known / 2 + 1
}

/// Whom most of those with the newest configuration name; `None` when as many name another.
fn newest<'a>(fresh: &[(&Seat, &'a Said)]) -> Option<(&'a str, u64)> {
    let top = fresh.iter().map(|(_, said)| said.epoch).max()?;
    let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, said) in fresh.iter().filter(|(_, said)| said.epoch == top) {
        *votes.entry(&said.primary).or_default() += 1;
    }
    let most = votes.values().max()?;
    let mut first = votes.iter().filter(|(_, n)| *n == most).map(|(at, _)| *at);
    match (first.next(), first.next()) {
        (Some(at), None) => Some((at, top)),
        (Some(_) | None, _) => None,
    }
}

/// Is a failover away from the primary under way in this one's eyes, or to be expected at any moment?
fn failing(now: Duration, seat: &Seat, said: &Said) -> bool {
    let begun = seat.stirred.is_some_and(|at| now.saturating_sub(at) <= FAILOVER_MOST);
    let doomed = said.replicas > 0 && said.o_down.is_some_and(|since| since < ELECTION);
    said.failing_over || begun || doomed
}

#[cfg(test)]
mod tests;
