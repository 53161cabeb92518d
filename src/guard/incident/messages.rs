//! What goes into the guard and what comes out of it.

use std::time::Duration;

use crate::guard::debt::Debt;
use crate::guard::dialogue::{Answer, Talk};
use crate::guard::escrow::{Order, PullError, Snapshot};
use crate::guard::evidence::{Healthy, HostFacts, Look, Peer, ServerFacts};
use crate::guard::finding::headroom::Headroom;
use crate::guard::finding::trend::Ahead;
use crate::guard::record::{Finding, Incident, Phase};
use crate::guard::remedy::Change;
use crate::posture::{Posture, Refusal};
use crate::topology::view::Report;

/// The two clocks, as the shell read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since any fixed moment; never goes back.
    pub mono: Duration,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// What the guard is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Sessions saw refusals; so many tickets were issued so far.
    Sighted {
        /// [`crate::gate::Gate::sightings`].
        sightings: u64,
        /// The newest.
        refusal: Option<Refusal>,
    },
    /// The control connection is up.
    Up,
    /// It is down; whatever was asked may or may not have happened.
    Down(String),
    /// The server answered.
    Answered {
        /// Tickets issued when the last batch of the question was about to be sent.
        sightings: u64,
        /// What it said.
        answer: Answer,
    },
    /// The debt was written or erased durably, or could not be.
    Stored(Result<(), String>),
    /// The host was looked at; all unknown when it did not answer in time.
    Examined(Box<HostFacts>),
    /// The change of this number was made, in words, or why not.
    Changed(u64, Result<String, String>),
    /// The operator's program ended, for this finding.
    Hooked(String, Result<(), String>),
    /// Of the server's replicas.
    Endangered {
        /// So many are in danger, in their own guards' words.
        known: u32,
        /// … and of so many the guards were roused and have not answered yet.
        asked: u32,
    },
    /// A server that this one replicates to or from is in trouble: look at once.
    Roused,
    /// A copy is on our disk, or why there is none.
    Pulled(Result<Box<Snapshot>, PullError>),
    /// Sentinel's view of this server, as often as anything is heard of it.
    Viewed(Report),
    /// The replica that is to become the primary, or why there is none.
    Candidate(Result<String, String>),
    /// So many gated commands were sent and answered, as far as they are counted, before the question was asked
    /// whose answer is told next ([`crate::gate::Gate::counted`]).
    Passed {
        /// On their way, or further.
        sent: u64,
        /// Of these, answered.
        answered: u64,
    },
    /// What [`Action::Allow`] allowed is used up: sessions wait.
    UsedUp,
    /// A deadline passed.
    Timer,
}

/// What a guard tells those of the server's peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The server names other replicas than before.
    Replicas(Vec<Peer>),
    /// It is a replica that would end itself at its primary's next write, or is one no longer.
    Endangered(bool),
    /// It refuses writes, and nothing was done about it yet.
    Alarmed,
    /// Roused, it has looked: what it tells now is so.
    Looked,
    /// It would hand its role to one of these.
    WantsOver(Vec<Peer>),
    /// It did, to this one, or did not.
    Over(Result<String, String>),
}

/// How loudly something is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// For who follows closely.
    Aside,
    /// For the log of every day.
    Note,
    /// A warning in the log.
    Caution,
    /// Somebody must hear of it, though the phase is the same.
    Warning,
    /// The phase is new.
    Turn,
}

/// What the guard wants done. In order, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the server; tell with [`Event::Answered`] or [`Event::Down`].
    Talk(Talk),
    /// Make this durable; tell with [`Event::Stored`].
    WriteDebt(Debt),
    /// Make its absence durable; tell with [`Event::Stored`].
    EraseDebt,
    /// For the gate.
    SetPosture(Posture),
    /// For the gate: tickets up to this one may be replayed.
    OpenThrough(u64),
    /// For the gate: `(answered, n)`: from when `answered` commands were answered, `n` may pass; `None`: nobody
    /// counts.
    Allow(Option<(u64, u64)>),
    /// An incident was opened: begin to count.
    Opened,
    /// For log, feed and alerts: the phase after it, what happened, the evidence, and how loud.
    Said(Phase, &'static str, String, Tone),
    /// For the incident file and the counters: the state of the record now.
    Record(Box<Incident>),
    /// So many refusals reached no session.
    Silent(u64),
    /// Look at the host of the server that told this; tell with [`Event::Examined`].
    Examine(Box<(Look, ServerFacts)>),
    /// Change the host; tell with [`Event::Changed`] and this number.
    Change(u64, Change),
    /// A remedy for this finding ended: `ok`, `failed`, `refused`.
    Remedied(&'static str, &'static str),
    /// For the gauges: what is left after the next save, and when nothing will be.
    Headroom(Headroom, Ahead),
    /// Keep this over restarts.
    Remember(Box<Healthy>),
    /// For the guards of the server's peers.
    News(News),
    /// Fetch a copy of the data onto our disk; tell with [`Event::Pulled`].
    Pull(Order),
    /// Give up the one under way; its end is told all the same.
    StopPull,
    /// Listen for the Sentinels that watch this server; tell with [`Event::Viewed`].
    Scout,
    /// Run the operator's program with this finding; tell with [`Event::Hooked`].
    Hook(Box<Finding>),
}
