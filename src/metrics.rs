//! Counters: who counts what, and where it is kept until somebody asks. No text, no HTTP: the
//! admin room renders them. Nothing here locks or allocates on the hot path but the latency
//! histograms, which are locked once per chunk of replies by the one worker that owns them.
//!
//! Invariant: a [`WorkerStats`] has one writer, its worker; everybody else only reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use hdrhistogram::Histogram;

use crate::command::Class;
use crate::guard::finding::headroom::Headroom;
use crate::guard::finding::trend::Ahead;
use crate::guard::record::Outcome;
use crate::posture::{Form, Variant};
pub use crate::session::core::Degraded;

/// A counter with one writer (a plain load and store: no locked bus cycle) and many readers.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only the owner may call it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes `n` off (gauges). Only the owner may call it.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// The value now.
    pub fn load(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How a hold ended: `held = released + timed_out + abandoned`; an `over_budget` never was a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldEnd {
    /// Sent (again) once writes were open.
    Released,
    /// The client got the server's own answer when its time was up.
    TimedOut,
    /// The client left.
    Abandoned,
    /// Not held: a budget was spent.
    OverBudget,
}

impl HoldEnd {
    /// Every end, with the value of the label `end`.
    pub const ALL: [(HoldEnd, &'static str); 4] = [
        (HoldEnd::Released, "released"),
        (HoldEnd::TimedOut, "timed_out"),
        (HoldEnd::Abandoned, "abandoned"),
        (HoldEnd::OverBudget, "over_budget"),
    ];
}

/// Which side ended a session, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// The client closed.
    DownstreamClosed,
    /// The client's connection broke.
    DownstreamError,
    /// The server closed.
    UpstreamClosed,
    /// The server's connection broke.
    UpstreamError,
    /// The server could not be reached.
    UpstreamUnreachable,
    /// Too many clients, or idle for too long.
    Limit,
    /// We are shutting down.
    Drained,
}

impl SessionEnd {
    /// Every end, with the values of the labels `side` and `why`.
    pub const ALL: [(SessionEnd, &'static str, &'static str); 7] = [
        (SessionEnd::DownstreamClosed, "downstream", "closed"),
        (SessionEnd::DownstreamError, "downstream", "error"),
        (SessionEnd::UpstreamClosed, "upstream", "closed"),
        (SessionEnd::UpstreamError, "upstream", "error"),
        (SessionEnd::UpstreamUnreachable, "upstream", "unreachable"),
        (SessionEnd::Limit, "bgsafe", "limit"),
        (SessionEnd::Drained, "bgsafe", "drained"),
    ];
}

/// Latencies of one worker, in microseconds, two significant digits, up to a minute.
#[derive(Debug)]
pub struct Latency {
    /// Request read to last byte of its reply read, one per [`Class`].
    pub request: [Histogram<u64>; Class::ALL.len()],
    /// Time a request or reply spent inside bgsafe: read to written.
    pub overhead: Histogram<u64>,
}

impl Latency {
    fn new() -> Self {
        let one = || Histogram::new_with_bounds(1, 60_000_000, 2).expect("bounds are constants and valid");
        Latency { request: std::array::from_fn(|_| one()), overhead: one() }
    }
}

/// What one worker counts.
#[derive(Debug)]
pub struct WorkerStats {
    /// Sessions open now.
    pub connections: Count,
    /// Sessions accepted.
    pub connections_total: Count,
    /// Requests by class, indexed by `Class as usize`.
    pub requests: [Count; Class::ALL.len()],
    /// Bytes sent on: `[to upstream, to downstream]`.
    pub bytes: [Count; 2],
    /// Refusals by form, indexed by `Form as usize`.
    pub refusals: [Count; Form::ALL.len()],
    /// Commands held.
    pub held: Count,
    /// Ends of holds, indexed by `HoldEnd as usize`.
    pub holds: [Count; HoldEnd::ALL.len()],
    /// Commands sent a second time.
    pub replays: Count,
    /// Indexed by `Degraded as usize`.
    pub degraded: [Count; Degraded::ALL.len()],
    /// Indexed by `SessionEnd as usize`.
    pub ends: [Count; SessionEnd::ALL.len()],
    /// Locked once per chunk by the worker, once per scrape by the reader.
    pub latency: Mutex<Latency>,
}

impl WorkerStats {
    /// All at zero.
    pub fn new() -> Self {
        WorkerStats {
            connections: Count::default(),
            connections_total: Count::default(),
            requests: Default::default(),
            bytes: Default::default(),
            refusals: Default::default(),
            held: Count::default(),
            holds: Default::default(),
            replays: Count::default(),
            degraded: Default::default(),
            ends: Default::default(),
            latency: Mutex::new(Latency::new()),
        }
    }

    /// Runs `record` on the histograms.
    #[inline]
    pub fn latency<R>(&self, record: impl FnOnce(&mut Latency) -> R) -> R {
        record(&mut self.latency.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for WorkerStats {
    fn default() -> Self {
        Self::new()
    }
}

/// Who is told of alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertSink {
    /// `--alert-url`.
    Url,
    /// `--alert-command`.
    Command,
}

impl AlertSink {
    /// Every sink, with the value of the label `sink`.
    pub const ALL: [(AlertSink, &'static str); 2] =
        [(AlertSink::Url, "url"), (AlertSink::Command, "command")];

    /// The value of the label `sink`.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// What became of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertEnd {
    /// Taken.
    Ok,
    /// Not taken, after all tries.
    Failed,
    /// The oldest of a full queue, or left behind at the end.
    Dropped,
}

impl AlertEnd {
    /// Every end, with the value of the label `result`.
    pub const ALL: [(AlertEnd, &'static str); 3] =
        [(AlertEnd::Ok, "ok"), (AlertEnd::Failed, "failed"), (AlertEnd::Dropped, "dropped")];
}

/// How a remedy may end: the values of the label `result`.
pub const REMEDY_RESULTS: [&str; 3] = ["ok", "failed", "refused"];

/// What the guard counts. Written a few times an incident, so a lock is cheap enough.
#[derive(Debug)]
pub struct GuardStats {
    /// Ended incidents.
    pub incidents: BTreeMap<(&'static str, Outcome), u64>,
    /// Remedies tried, by finding id and result (`ok`, `failed`, `refused`).
    pub remedies: BTreeMap<(String, &'static str), u64>,
    /// First sighting to open writes, in microseconds, two significant digits, up to a day.
    pub mitigation: Histogram<u64>,
    /// First sighting to a proven save, in microseconds.
    pub verify: Histogram<u64>,
    /// Sums of the two above, in microseconds.
    pub sums: [u64; 2],
    /// Refusals that reached no session, by the server's own count (`errorstats`).
    pub silent_refusals: u64,
    /// What is left after the next save.
    pub headroom: Headroom,
    /// Hand-overs of the primary's role: made, and not made.
    pub redirects: [u64; 2],
    /// Alerts, indexed by `AlertSink as usize` and `AlertEnd as usize`.
    pub alerts: [[u64; AlertEnd::ALL.len()]; AlertSink::ALL.len()],
    /// When nothing will be, at the present pace.
    pub ahead: Ahead,
    /// Copies of the data: taken, failed.
    pub copies: [u64; 2],
}

/// Longest duration the guard's histograms tell apart: a day.
const GUARD_MICROS_MOST: u64 = 86_400_000_000;

impl Default for GuardStats {
    fn default() -> Self {
        Self::new()
    }
}

impl GuardStats {
    /// All at zero.
    pub fn new() -> Self {
        let one =
            || Histogram::new_with_bounds(1, GUARD_MICROS_MOST, 2).expect("bounds are constants and valid");
        GuardStats {
            incidents: BTreeMap::new(),
            remedies: BTreeMap::new(),
            mitigation: one(),
            verify: one(),
            sums: [0; 2],
            silent_refusals: 0,
            headroom: Headroom::default(),
            redirects: [0; 2],
            alerts: Default::default(),
            ahead: Ahead::default(),
            copies: [0; 2],
        }
    }

    /// Puts a zero for every result of each of these findings, so that the metric's labels exist
    /// from the start. Whoever owns the table of remedies calls it once.
    pub fn seed_remedies(&mut self, findings: &[&str]) {
        for finding in findings {
            for result in REMEDY_RESULTS {
                self.remedies.entry(((*finding).to_owned(), result)).or_default();
            }
        }
    }

    /// So many alerts ended.
    pub fn alerted(&mut self, sink: AlertSink, end: AlertEnd, n: u64) {
        self.alerts[sink as usize][end as usize] += n;
    }

    /// A copy was taken, or failed.
    pub fn copied(&mut self, taken: bool) {
        self.copies[usize::from(!taken)] += 1;
    }

    /// A remedy ended.
    pub fn remedied(&mut self, finding: &str, result: &'static str) {
        *self.remedies.entry((finding.to_owned(), result)).or_default() += 1;
    }

    /// Writes were open so many microseconds after the first sighting.
    pub fn mitigated(&mut self, micros: u64) {
        self.mitigation.saturating_record(micros.max(1));
        self.sums[0] += micros;
    }

    /// A save was proved so many microseconds after the first sighting.
    pub fn verified(&mut self, micros: u64) {
        self.verify.saturating_record(micros.max(1));
        self.sums[1] += micros;
    }

    /// Counts an ended incident.
    pub fn incident(&mut self, variant: Variant, outcome: Outcome) {
        *self.incidents.entry((variant.name(), outcome)).or_default() += 1;
    }
}

/// Everything bgsafe counts.
#[derive(Debug)]
pub struct Metrics {
    /// One per worker thread.
    pub workers: Vec<Arc<WorkerStats>>,
    /// The guard's.
    pub guard: Mutex<GuardStats>,
}

impl Metrics {
    /// Zeroed counters for `workers` worker threads.
    pub fn new(workers: usize) -> Self {
        Metrics {
            workers: (0..workers).map(|_| Arc::new(WorkerStats::new())).collect(),
            guard: Mutex::default(),
        }
    }

    /// The sum over all workers of what `pick` reads.
    pub fn sum(&self, pick: impl Fn(&WorkerStats) -> u64) -> u64 {
        self.workers.iter().map(|w| pick(w)).sum()
    }
}
