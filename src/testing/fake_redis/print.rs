//! What decides how the fake goes on, hashed, for the model; and the counters that others compare with.

use std::hash::{Hash, Hasher};

use super::{Child, FakeRedis};

/// Since when somebody owes is told, and decides nothing.
fn print_name(name: &[u8]) -> &[u8] {
    let end = name.windows(7).position(|w| w == b",since=").unwrap_or(name.len());
    &name[..end]
}

impl FakeRedis {
    pub(crate) fn print(&self, now: u64, h: &mut impl Hasher) {
        format!("{:?}", self.faults).hash(h);
        (self.knob, self.configured_knob, self.status_ok, self.scheduled, self.run, self.primary).hash(h);
        (self.ignores_errors, self.failover, self.failing_over.is_some()).hash(h);
        // Seconds are what LASTSAVE tells: how far into one are we?
        ((now / 1000).saturating_sub(self.last_save / 1000).min(2), now % 1000).hash(h);
        let child = match self.child {
            None => 0,
            Some(Child::Disk { killed, .. }) => 1 + u8::from(killed),
            Some(Child::Diskless { .. }) => 3,
            Some(Child::Rewrite { .. }) => 4,
        };
        child.hash(h);
        let aof = &self.aof;
        (aof.on, aof.waits, aof.sync_failed, aof.scheduled, aof.rewrite_ok).hash(h);
        let mut open: Vec<_> = self
            .connections
            .iter()
            .map(|(id, c)| (*id, &c.queue, c.dirty, c.db, print_name(&c.name)))
            .collect();
        open.sort();
        open.hash(h);
    }

    /// LASTSAVE in seconds, saves started, MISCONFs told.
    pub(crate) fn counters(&self) -> (u64, u64, u64) {
        (self.last_save / 1000, self.saves, self.errors.get("MISCONF").copied().unwrap_or(0))
    }
}
