//! What decides how the guard goes on, hashed: times relative to now, counters relative to the server's and
//! the gate's. Words for the log and the record are left out, so that equal futures have equal prints.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::care::Stage;
use super::{Guard, Now};

/// What the guard's numbers are compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counters {
    pub sightings: u64,
    pub last_save: u64,
    pub saves: u64,
    pub misconf: u64,
    pub rewrites: u64,
}

impl Guard {
    /// Does it act as the owner of a switch that it, or whom it inherited from, lowered?
    pub(crate) fn acts_as_owner(&self) -> bool {
        self.lowered && self.reconciled && self.up
    }

    /// Whom does it follow?
    pub(crate) fn owner(&self) -> Option<&str> {
        self.several.owner().map(|(id, _)| id)
    }

    pub(crate) fn print(&self, now: Now, than: Counters, h: &mut impl Hasher) {
        let left = |at: Duration| at.saturating_sub(now.mono);
        let age = |at: Duration, most: u64| now.mono.saturating_sub(at).min(Duration::from_millis(most));
        assert!(self.out.is_empty() && self.strays.is_empty());
        (self.phase, self.posture, self.up, self.reconciled, self.storing).hash(h);
        (self.mute, self.stale_note, self.lowered, self.lower_in_doubt, self.restore_in_doubt).hash(h);
        (self.suspicious, self.variant, self.course, self.closing, self.journal.is_some()).hash(h);
        (self.config_refused.is_some(), self.own_refusals, self.down_since.map(|at| age(at, 5001))).hash(h);
        format!("{:?}{:?}{:?}{:?}", self.talking, self.unwind, self.role, self.past).hash(h);
        format!("{:?}", self.over).hash(h);
        self.debt.as_ref().map(|debt| (&debt.run_id, &debt.setting, &debt.owed)).hash(h);
        (than.sightings.wrapping_sub(self.sighted), than.sightings.wrapping_sub(self.opened)).hash(h);
        let counted = |(n, at)| (than.misconf.wrapping_sub(n), than.sightings.wrapping_sub(at));
        self.counted.map(counted).hash(h);
        if let Some((at, look)) = &self.look {
            age(*at, 2001).hash(h);
            format!("{:?}{:?}{:?}{:?}", look.run_id, look.role, look.knob, look.save_ok).hash(h);
            format!("{:?}{:?}", look.saving, look.aof_ok).hash(h);
        }
        self.saver.print(now.mono, than.last_save, than.saves).hash(h);
        (left(self.due), left(self.probe_after)).hash(h);
        let stage = match self.care.stage {
            Stage::Idle => 0,
            Stage::Asking => 1,
            Stage::Examining => 2,
            Stage::Mending(_) => 3,
            Stage::TakingBack => 4,
        };
        (stage, left(self.care.due), left(self.care.patience)).hash(h);
        self.care.found.iter().for_each(|found| found.check.id.hash(h));
        self.care.print(h);
        self.neighbours.print(now, h);
        self.rewrites.print(now, than.rewrites, h);
        self.copies.print(now).hash(h);
        self.watched.print(now, h);
        self.several.print(now.mono, h);
        self.aof.print(now, h);
    }
}
