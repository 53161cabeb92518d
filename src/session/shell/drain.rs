//! How a worker tells its sessions to look up, or to come to an end. Refuses to know what a session owes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// Tells sessions to end as soon as nothing is owed to either side. A flag to look at and wakers to call
/// once, because a future that each session polls beside its sockets would cost at every wake-up.
#[derive(Debug, Default)]
pub struct Drain {
    on: AtomicBool,
    wakers: Mutex<(u64, HashMap<u64, Waker>)>,
}

impl Drain {
    /// From now on.
    pub fn begin(&self) {
        self.on.store(true, Ordering::Release);
        for (_, waker) in self.lock().1.drain() {
            waker.wake();
        }
    }

    /// Has them look at the world again: the way has turned.
    pub fn ring(&self) {
        for waker in self.lock().1.values() {
            waker.wake_by_ref();
        }
    }

    /// Has it begun?
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    pub(super) fn enter(&self, waker: &Waker) -> u64 {
        let mut wakers = self.lock();
        wakers.0 += 1;
        let place = wakers.0;
        wakers.1.insert(place, waker.clone());
        place
    }

    pub(super) fn leave(&self, place: u64) {
        self.lock().1.remove(&place);
    }

    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Waker>)> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
