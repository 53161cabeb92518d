//! What all sessions together may retain for replay. Each has a small share of its own for nothing; what
//! goes beyond it is taken from here, in steps, and given back when the session retains nothing.
//!
//! Refuses to know what is retained. Invariant: the grants of all sessions never exceed the allowance.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A session retains this much without asking: pipelines of small commands never touch the shared count.
const OWN: usize = 64 * 1024;
/// More is asked for in steps of this size.
const STEP: usize = 256 * 1024;

/// See the module's page.
#[derive(Debug)]
pub struct Allowance {
    bytes_max: usize,
    granted: AtomicUsize,
}

impl Allowance {
    /// `bytes_max` beyond the sessions' own shares.
    pub fn new(bytes_max: usize) -> Self {
        Allowance { bytes_max, granted: AtomicUsize::new(0) }
    }

    /// Granted now.
    pub fn granted(&self) -> usize {
        self.granted.load(Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let fits = |granted: usize| granted.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        self.granted.fetch_update(Relaxed, Relaxed, fits).is_ok()
    }
}

/// What one session was granted. Gives it back when dropped.
#[derive(Debug, Default)]
pub struct Grant {
    /// `None`: nobody counts.
    of: Option<Arc<Allowance>>,
    bytes: usize,
}

impl Grant {
    /// Nothing yet, of this allowance.
    pub fn of(allowance: Arc<Allowance>) -> Self {
        Grant { of: Some(allowance), bytes: 0 }
    }

    /// May the session retain `bytes` in all? Asks for more if need be.
    #[inline]
    pub fn covers(&mut self, bytes: usize) -> bool {
        bytes <= OWN + self.bytes || self.grow(bytes)
    }

    #[cold]
    fn grow(&mut self, bytes: usize) -> bool {
        let Some(allowance) = &self.of else { return true };
        let more = (bytes - OWN - self.bytes).next_multiple_of(STEP);
        let granted = allowance.take(more);
        if granted {
            self.bytes += more;
        }
        granted
    }

    /// The session retains nothing any more.
    #[inline]
    pub fn give_back(&mut self) {
        if self.bytes > 0
            && let Some(allowance) = &self.of
        {
            allowance.granted.fetch_sub(std::mem::take(&mut self.bytes), Relaxed);
        }
    }
}

/// Sessions of the model are copied, and none of them counts.
#[cfg(test)]
impl Clone for Grant {
    fn clone(&self) -> Self {
        assert!(self.of.is_none(), "a copy would give back what it was not granted");
        Grant::default()
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sessions_together_never_hold_more_than_the_allowance() {
        let allowance = Arc::new(Allowance::new(2 * STEP));
        let mut grants: Vec<_> = (0..3).map(|_| Grant::of(Arc::clone(&allowance))).collect();
        assert!(grants.iter_mut().all(|g| g.covers(OWN)));
        assert_eq!(allowance.granted(), 0);
        let covered: Vec<_> = grants.iter_mut().map(|g| g.covers(OWN + 1)).collect();
        assert_eq!((covered, allowance.granted()), (vec![true, true, false], 2 * STEP));
        grants[0].give_back();
        assert!(grants[2].covers(OWN + STEP) && !grants[2].covers(OWN + STEP + 1));
        drop(grants);
        assert_eq!(allowance.granted(), 0);
    }
}
