//! When an incident's record is written: at each phase, at its end, and once more when its last hold has ended.

use std::time::Duration;

use tokio::time::Instant;

use super::Shell;
use crate::guard::feed::{Tally, lock};
use crate::guard::record::Incident;
use crate::guard::store::Job;

/// How long after the end the counters of an incident may still move: holds end a little later.
const SETTLE: Duration = Duration::from_secs(10);

impl Shell {
    pub(super) fn recorded(&mut self, mut record: Box<Incident>) {
        self.fill(self.base, &mut record);
        if let Some(outcome) = record.outcome {
            self.settle_now();
            let mut stats = lock(&self.metrics.guard);
            stats.incident(record.variant, outcome);
            if let Some(ms) = record.verified_after_ms {
                stats.verified(ms * 1000);
            }
            drop(stats);
            self.alarmed = None;
            self.settling = Some((Instant::now() + SETTLE, self.base, (*record).clone()));
        }
        self.shared.keep((*record).clone());
        self.record = Some(record);
    }

    /// Holds end a moment after the incident: count them to it until none is left.
    pub(super) fn settle(&mut self) {
        let over = |by: &Instant| Instant::now() >= *by || self.gate.held().0 == 0;
        if self.settling.as_ref().is_some_and(|(by, ..)| over(by)) {
            self.settle_now();
        }
    }

    /// What was counted since `base`.
    pub(super) fn fill(&self, base: Option<Tally>, record: &mut Incident) {
        if let Some(base) = base {
            base.fill(&Tally::read(&self.metrics), record);
        }
    }

    pub(super) fn settle_now(&mut self) {
        if let Some((_, base, mut record)) = self.settling.take() {
            self.fill(base, &mut record);
            self.shared.keep(record.clone());
            self.job(Job::Save(Box::new(record)));
        }
    }
}
