//! What everybody may read while the guard works: the status, the incidents, the live feed, and
//! the counters an incident is told with.
//!
//! Refuses to know: how any of it came about. Invariant: a reader never waits for the guard, only
//! for another reader's copy.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::broadcast;

use super::record::{Held, Incident, Phase, UpstreamStatus};
use super::store::INCIDENTS_MOST;
use crate::gate::Gate;
use crate::metrics::{HoldEnd, Metrics};

/// A line of the live feed: what `/api/events` sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PhaseChange {
    /// RFC 3339.
    pub at: String,
    /// Of whom.
    pub upstream: String,
    /// The phase after it.
    pub phase: Phase,
    /// What happened.
    pub event: String,
    /// The evidence.
    pub detail: String,
    /// The open incident.
    pub incident: Option<String>,
}

/// The live feed. Who is told by one clone is told by all.
#[derive(Clone, Debug)]
pub struct Turns(broadcast::Sender<PhaseChange>);

impl Default for Turns {
    fn default() -> Self {
        Turns(broadcast::channel(256).0)
    }
}

impl Turns {
    /// Phase changes from now on. A reader that is too slow misses some.
    pub fn subscribe(&self) -> broadcast::Receiver<PhaseChange> {
        self.0.subscribe()
    }

    /// Nobody listening is no error.
    pub fn tell(&self, change: PhaseChange) {
        let _ = self.0.send(change);
    }
}

/// What everybody may read while the guard works.
#[derive(Debug)]
pub struct Shared {
    gate: Arc<Gate>,
    status: Mutex<UpstreamStatus>,
    /// Newest first; the open one, if any, is the first.
    incidents: Mutex<VecDeque<Incident>>,
}

impl Shared {
    pub(super) fn new(gate: Arc<Gate>, status: UpstreamStatus, incidents: Vec<Incident>) -> Self {
        Shared { gate, status: Mutex::new(status), incidents: Mutex::new(incidents.into()) }
    }

    /// `upstreams[…]` of `/api/status`, as of now.
    pub fn status(&self) -> UpstreamStatus {
        let mut status = lock(&self.status).clone();
        status.held = held(&self.gate);
        // The newest of both counts: the server's at the last look, and what passed us since.
        let passed = self.gate.passed();
        status.exposure.changes += passed;
        status.exposure.changes_since_save = status.exposure.changes_since_save.map(|n| n + passed);
        status
    }

    /// Where refusals of this server are told.
    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// Newest first, the open one included.
    pub fn incidents(&self) -> Vec<Incident> {
        lock(&self.incidents).iter().cloned().collect()
    }

    /// One of them.
    pub fn incident(&self, id: &str) -> Option<Incident> {
        lock(&self.incidents).iter().find(|incident| incident.id == id).cloned()
    }

    pub(super) fn set_status(&self, status: UpstreamStatus) {
        *lock(&self.status) = status;
    }

    pub(super) fn keep(&self, incident: Incident) {
        let mut incidents = lock(&self.incidents);
        match incidents.iter_mut().find(|known| known.id == incident.id) {
            Some(known) => *known = incident,
            None => incidents.push_front(incident),
        }
        incidents.truncate(INCIDENTS_MOST);
    }
}

/// The counters an incident is told with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    refusals: u64,
    held: u64,
    replayed: u64,
    timed_out: u64,
    abandoned: u64,
}

impl Tally {
    pub(super) fn read(metrics: &Metrics) -> Tally {
        let ends = |end: HoldEnd| metrics.sum(|w| w.holds[end as usize].load());
        Tally {
            refusals: metrics.sum(|w| w.refusals.iter().map(|count| count.load()).sum()),
            held: metrics.sum(|w| w.held.load()),
            replayed: ends(HoldEnd::Released),
            timed_out: ends(HoldEnd::TimedOut),
            abandoned: ends(HoldEnd::Abandoned),
        }
    }

    /// What was counted from here to `end`.
    pub(super) fn fill(&self, end: &Tally, record: &mut Incident) {
        record.refusals = end.refusals.saturating_sub(self.refusals);
        record.held = end.held.saturating_sub(self.held);
        record.replayed = end.replayed.saturating_sub(self.replayed);
        record.timed_out = end.timed_out.saturating_sub(self.timed_out);
        record.abandoned = end.abandoned.saturating_sub(self.abandoned);
    }
}

pub(super) fn held(gate: &Gate) -> Held {
    let (commands, bytes) = gate.held();
    Held { commands, bytes }
}

/// A poisoned lock means a panic elsewhere while it was held; what is behind stays sound.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
