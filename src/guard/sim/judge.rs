//! What must hold of a simulated world: while it runs, and when all is well again.

use super::{EPOCH, World};
use crate::guard::record::Phase;
use crate::posture::Posture;

impl World {
    pub(super) fn bounded(&self) {
        let secs = (self.now - EPOCH) / 1000;
        let most = 3 * (self.lives + self.opened_incidents) + secs / 5;
        if self.sent > most {
            self.fail(&format!("{} BGSAVEs in {secs} s", self.sent));
        }
    }

    /// After the last fault everything is as the operator wants it.
    pub(super) fn converged(&self) {
        let quiet = self.guard.phase() == Phase::Quiet && self.posture == Posture::Forward;
        if !quiet || self.fake.knob != self.wanted || self.debt().is_some() || self.guard.debt().is_some() {
            let state = format!("phase={:?} posture={:?}", self.guard.phase(), self.posture);
            self.fail(&format!(
                "{state} knob={} wanted={} debt={:?}",
                self.fake.knob,
                self.wanted,
                self.debt()
            ));
        }
        if self.wanted && !self.fake.status_ok() {
            self.fail("quiet although the server refuses");
        }
        if self.opened < self.sightings {
            self.fail("tickets left closed");
        }
    }
}
