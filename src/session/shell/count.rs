//! From a core's tally to the worker's counters. Refuses to know sockets.

use crate::metrics::{HoldEnd, WorkerStats};

use super::super::core::Tally;

/// Adds what happened in the core to the worker's counters.
#[inline]
pub(super) fn count(tally: &mut Tally, stats: &WorkerStats) {
    for (n, count) in tally.requests.iter_mut().zip(&stats.requests) {
        if *n > 0 {
            count.add(u64::from(std::mem::take(n)));
        }
    }
    if !tally.runs.is_empty() {
        stats.latency(|latency| {
            for run in tally.runs.drain(..) {
                latency.request[run.class as usize]
                    .saturating_record_n(u64::from(run.micros.max(1)), run.n.into());
            }
        });
    }
    if tally.has_incident() {
        count_incident(tally, stats);
    }
}

#[cold]
fn count_incident(tally: &mut Tally, stats: &WorkerStats) {
    for (n, count) in tally.refusals.iter_mut().zip(&stats.refusals) {
        count.add(u64::from(std::mem::take(n)));
    }
    stats.held.add(std::mem::take(&mut tally.held));
    for (n, end) in [
        (&mut tally.released, HoldEnd::Released),
        (&mut tally.timed_out, HoldEnd::TimedOut),
        (&mut tally.abandoned, HoldEnd::Abandoned),
        (&mut tally.over_budget, HoldEnd::OverBudget),
    ] {
        stats.holds[end as usize].add(std::mem::take(n));
    }
    stats.replays.add(std::mem::take(&mut tally.replays));
    if let Some(why) = tally.degraded.take() {
        stats.degraded[why as usize].add(1);
    }
}
