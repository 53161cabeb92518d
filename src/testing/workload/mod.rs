//! Concurrent writers with unique tokens, and the count of what became of them.
//!
//! A writer is a plain, honest and strict application: it writes a token, notes what it was told, and keeps every
//! word that was not the one it expected. After the run [`Ran::verify`] asks the server itself, past the proxy,
//! which tokens are there. Acknowledged must mean: exactly once, and in its writer's order.
//!
//! | kind | writes | what Redis can tell afterwards |
//! |---|---|---|
//! | `set` | SET of a new key, then GET of it | lost |
//! | `incr` | INCR of one counter | lost, doubled |
//! | `rpush` | RPUSH of numbers | lost, doubled, reordered |
//! | `xadd` | XADD of numbers | lost, doubled, reordered |
//! | `multi` | MULTI, RPUSH to two lists, EXEC; at once and word by word in turn | the same, and torn |
//! | `pipeline` | 15 RPUSH and an LLEN in their midst, in one write | lost, doubled, reordered |
//! | `queue` | RPUSH by one task, BLPOP and RPUSH to a second list by another | lost, doubled, reordered |
//! | `big` | a large value, then GET of it, now and then | lost, reordered (an older value stands) |
//! | `ping` | PING | nothing: it is refused like a write, and must not be |
//!
//! Refuses to know: bgsafe. Invariant: a token has one [`Fate`], decided only by the reply it got.

mod link;
mod score;
mod writer;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

pub use score::{KindScore, Score, table};

/// Where writers connect.
#[derive(Clone, Debug)]
pub enum Target {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a unix socket.
    Unix(PathBuf),
}

/// What a writer writes; see the module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Set,
    Incr,
    Rpush,
    Xadd,
    Multi,
    Pipeline,
    Queue,
    Big,
    Ping,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 9] = [
        Kind::Set,
        Kind::Incr,
        Kind::Rpush,
        Kind::Xadd,
        Kind::Multi,
        Kind::Pipeline,
        Kind::Queue,
        Kind::Big,
        Kind::Ping,
    ];

    /// The name in keys and tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Set => "set",
            Kind::Incr => "incr",
            Kind::Rpush => "rpush",
            Kind::Xadd => "xadd",
            Kind::Multi => "multi",
            Kind::Pipeline => "pipeline",
            Kind::Queue => "queue",
            Kind::Big => "big",
            Kind::Ping => "ping",
        }
    }
}

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Usually bgsafe.
    pub target: Target,
    /// First word of every key: two runs on one server need two names.
    pub name: String,
    /// Writers in all; they take the kinds in turn. A `queue` writer has a consumer beside it.
    pub writers: usize,
    /// Which kinds.
    pub kinds: Vec<Kind>,
    /// How long a writer thinks between two steps.
    pub think: Duration,
    /// Bytes of a `big` value.
    pub big_bytes: usize,
}

impl Plan {
    /// 50 writers of every kind, 5 ms between steps, big values of 1 MB.
    pub fn new(target: Target, name: &str) -> Plan {
        Plan {
            target,
            name: name.to_owned(),
            writers: 50,
            kinds: Kind::ALL.to_vec(),
            think: Duration::from_millis(5),
            big_bytes: 1_000_000,
        }
    }
}

/// What a writer knows of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The server said it was done: it must be there once, in order.
    Acked,
    /// The server said it was not done: it must not be there.
    Refused,
    /// The connection ended before the reply: it may be there once.
    Unknown,
}

/// Counts while the writers run.
#[derive(Debug, Default)]
pub struct Live {
    acked: AtomicU64,
    errors: AtomicU64,
}

impl Live {
    /// Tokens acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.acked.load(Relaxed)
    }

    /// Wrong replies and broken connections so far.
    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }
}

/// Everything one writer noted.
#[derive(Debug)]
struct Journal {
    kind: Kind,
    id: usize,
    /// By token number.
    fates: Vec<Fate>,
    /// Error replies.
    refused: u64,
    /// Replies that were neither an error nor what was expected.
    unexpected: u64,
    /// Connections that failed or ended.
    broken: u64,
    /// What was wrong, in words, and how often; at most [`TEXTS_MAX`] different ones.
    texts: BTreeMap<String, u64>,
    latency: Histogram<u64>,
    longest_pause: Duration,
    /// Tokens a consumer may have taken and not written down, because its connection ended or time was up.
    in_hand: u64,
}

const TEXTS_MAX: usize = 16;

/// Writers at work.
#[derive(Debug)]
pub struct Running {
    plan: Plan,
    live: Arc<Live>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Journal>,
}

/// Starts the writers on the present runtime. They connect by themselves, and again after a broken connection.
pub fn start(plan: Plan) -> Running {
    let mut running = Running { plan, live: Arc::default(), stop: Arc::default(), tasks: JoinSet::new() };
    let (plan, live, stop) = (&running.plan, &running.live, &running.stop);
    for id in 0..plan.writers {
        let kind = plan.kinds[id % plan.kinds.len()];
        let writer = |live: &Arc<Live>| writer::Writer::new(plan, kind, id, live.clone(), stop.clone());
        if kind == Kind::Queue {
            running.tasks.spawn(writer(live).consume());
        }
        running.tasks.spawn(writer(live).produce());
    }
    running
}

impl Running {
    /// Counts so far.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Lets every writer end its step, and collects what they noted. Takes as long as the slowest reply,
    /// at the most the writers' own reply timeout (20 s).
    pub async fn stop(mut self) -> Ran {
        self.stop.store(true, Release);
        let mut journals = Vec::with_capacity(self.plan.writers);
        while let Some(journal) = self.tasks.join_next().await {
            journals.push(journal.expect("a writer keeps what is wrong and does not panic"));
        }
        Ran { plan: self.plan, journals }
    }
}

/// A run that is over, not yet judged.
#[derive(Debug)]
pub struct Ran {
    plan: Plan,
    journals: Vec<Journal>,
}

/// The keys of a run. Written by writers, read by the judge: said once, here.
mod keys {
    use super::Kind;

    /// The one key of a writer, or the stem of its keys.
    pub fn stem(run: &str, kind: Kind, id: usize) -> String {
        format!("{run}:{}:{id}", kind.name())
    }

    /// Second list of `multi`, and where `queue`'s consumer writes down what it took.
    pub fn second(stem: &str) -> String {
        format!("{stem}:second")
    }

    /// A `set` token's key, or a `big` slot's.
    pub fn nth(stem: &str, number: usize) -> String {
        format!("{stem}:{number}")
    }

    /// A `big` writer's values take turns in this many keys.
    pub const BIG_SLOTS: usize = 4;

    /// A large value that says whose and which it is at both ends.
    pub fn big_value(id: usize, number: usize, bytes: usize) -> Vec<u8> {
        let mark = format!("<{id}:{number}>");
        let mut value = mark.clone().into_bytes();
        value.resize(bytes.max(2 * mark.len()) - mark.len(), b'.');
        value.extend_from_slice(mark.as_bytes());
        value
    }
}
