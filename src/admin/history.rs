//! The last fifteen minutes, second by second: throughput, latencies, refusals, what is held.
//!
//! Refuses to know who asks, and what any of it means. Invariant: at most [`KEPT`] samples, each the difference
//! between two readings of counters that only grow, so that nothing here touches the hot path.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::View;
use crate::metrics::{Latency, Metrics};

/// Between two samples.
pub const EVERY: Duration = Duration::from_secs(1);
/// Samples kept: fifteen minutes of them.
pub const KEPT: usize = 900;
/// Of latencies: the middle, and two of the tail.
const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];

/// One second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Unix seconds at its end.
    pub at: u64,
    /// Requests answered or sent on in it.
    pub requests: u64,
    /// Refusals seen in it.
    pub refusals: u64,
    /// Commands that wait at its end.
    pub held: u64,
    /// Connected clients at its end.
    pub sessions: u64,
    /// Bytes sent on in it: to the server, to clients.
    pub bytes: [u64; 2],
    /// Microseconds from request to reply: p50, p99, p99.9; `None` when nothing was answered.
    pub latency_us: Option<[u64; 3]>,
    /// Microseconds spent inside bgsafe, likewise.
    pub overhead_us: Option<[u64; 3]>,
}

/// The samples, oldest first.
#[derive(Debug, Default)]
pub struct History(Mutex<VecDeque<Sample>>);

impl History {
    /// All that is kept, oldest first.
    pub fn all(&self) -> Vec<Sample> {
        self.lock().iter().cloned().collect()
    }

    /// The newest.
    pub fn newest(&self) -> Option<Sample> {
        self.lock().back().cloned()
    }

    fn push(&self, sample: Sample) {
        let mut samples = self.lock();
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// A poisoned lock means a panic elsewhere; whole samples stand behind it.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Samples `view` until `shutdown`.
pub async fn record(view: Arc<dyn View>, history: Arc<History>, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(EVERY);
    // After a stall one longer second is the truth; a burst of empty ones is not.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    let mut before = Totals::read(view.metrics());
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        let after = Totals::read(view.metrics());
        let held = view.status().iter().map(|upstream| upstream.held.commands).sum();
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let sessions = view.metrics().sum(|worker| worker.connections.load());
        history.push(Sample { at, held, sessions, ..after.since(&before) });
        before = after;
    }
}

/// One reading of the counters.
struct Totals {
    requests: u64,
    refusals: u64,
    bytes: [u64; 2],
    latency: Option<Histogram<u64>>,
    overhead: Option<Histogram<u64>>,
}

impl Totals {
    fn read(metrics: &Metrics) -> Totals {
        Totals {
            requests: metrics.sum(|w| w.requests.iter().map(|n| n.load()).sum()),
            refusals: metrics.sum(|w| w.refusals.iter().map(|n| n.load()).sum()),
            bytes: [0, 1].map(|way| metrics.sum(|w| w.bytes[way].load())),
            latency: merged(metrics, |latency| latency.request.iter().collect()),
            overhead: merged(metrics, |latency| vec![&latency.overhead]),
        }
    }

    fn since(&self, before: &Totals) -> Sample {
        let [up, down] = [0, 1].map(|way| self.bytes[way].saturating_sub(before.bytes[way]));
        Sample {
            requests: self.requests.saturating_sub(before.requests),
            refusals: self.refusals.saturating_sub(before.refusals),
            bytes: [up, down],
            latency_us: quantiles(&self.latency, &before.latency),
            overhead_us: quantiles(&self.overhead, &before.overhead),
            ..Sample::default()
        }
    }
}

/// All of a kind, of all workers, in one. A worker is locked while it is added.
fn merged(metrics: &Metrics, pick: fn(&Latency) -> Vec<&Histogram<u64>>) -> Option<Histogram<u64>> {
    let mut sum: Option<Histogram<u64>> = None;
    for worker in &metrics.workers {
        worker.latency(|latency| {
            for one in pick(latency) {
                match &mut sum {
                    Some(sum) => sum.add(one).expect("every histogram of a kind has the same bounds"),
                    None => sum = Some(one.clone()),
                }
            }
        });
    }
    sum
}

fn quantiles(after: &Option<Histogram<u64>>, before: &Option<Histogram<u64>>) -> Option<[u64; 3]> {
    let mut grown = after.clone()?;
    if let Some(before) = before {
        grown.subtract(before).ok()?;
    }
    (!grown.is_empty()).then(|| QUANTILES.map(|q| grown.value_at_quantile(q)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_what_came_between_two_readings() {
        let metrics = Metrics::new(2);
        let record = |worker: usize, micros, n| {
            metrics.workers[worker].latency(|l| l.request[0].saturating_record_n(micros, n));
            metrics.workers[worker].requests[0].add(n);
        };
        record(0, 10_000, 500);
        let before = Totals::read(&metrics);
        assert_eq!(before.since(&Totals::read(&Metrics::new(2))).requests, 500);
        record(0, 100, 990);
        record(1, 5_000, 10);
        metrics.workers[1].refusals[0].add(3);
        metrics.workers[1].bytes[1].add(70);
        let sample = Totals::read(&metrics).since(&before);
        assert_eq!((sample.requests, sample.refusals, sample.bytes), (1000, 3, [0, 70]));
        let [p50, p99, p999] = sample.latency_us.unwrap();
        assert!((99..=101).contains(&p50) && (99..=101).contains(&p99), "{p50} {p99}");
        assert!((4900..=5100).contains(&p999), "{p999}");
        assert_eq!(sample.overhead_us, None, "nothing was measured, which is not zero");
    }

    #[test]
    fn only_the_newest_are_kept() {
        let history = History::default();
        for at in 0..KEPT as u64 + 7 {
            history.push(Sample { at, ..Sample::default() });
        }
        let all = history.all();
        assert_eq!((all.len(), all[0].at, history.newest().unwrap().at), (KEPT, 7, KEPT as u64 + 6));
    }
}
