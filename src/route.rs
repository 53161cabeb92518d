//! Where sessions go now. Topology writes it, sessions read it, and nobody else decides.
//!
//! Refuses to know why the way turned, what a session is, any socket.
//!
//! Invariant: each change moves the epoch, and each destination carries the epoch that made it, so a session that
//! compares two numbers never misses a turn, however many there were since it last looked. A gate belongs to a
//! server: with the destination its gate changes, and no ticket or hold is carried from one to the other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::config::Address;
use crate::gate::Gate;

/// A server that sessions go to, and its gate.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Where it listens.
    pub address: Address,
    /// Where its refusals are told, and holds for it wait.
    pub gate: Arc<Gate>,
    /// The turn that made it the destination.
    pub epoch: u64,
}

impl Destination {
    /// The same server as far as sessions are concerned: a connection to the one is a connection to the other.
    pub fn is(&self, other: &Destination) -> bool {
        self.address == other.address && Arc::ptr_eq(&self.gate, &other.gate)
    }
}

/// See the module's page.
#[derive(Debug)]
pub struct Route {
    /// Of `now`, to be read without its lock.
    epoch: AtomicU64,
    /// `None`: nowhere. The primary is not known at the moment.
    now: Mutex<Option<Destination>>,
    turned: Notify,
    /// There is somebody who may turn it.
    turns: AtomicBool,
}

impl Route {
    /// A way to `address`, whose server is guarded behind `gate`.
    pub fn new(address: Address, gate: Arc<Gate>) -> Self {
        let now = Some(Destination { address, gate, epoch: 1 });
        Route {
            epoch: AtomicU64::new(1),
            now: Mutex::new(now),
            turned: Notify::new(),
            turns: AtomicBool::new(false),
        }
    }

    /// It may turn: a replica's READONLY is a reason to wait. Of one that never turns it is the answer.
    #[must_use]
    pub fn turning(self) -> Self {
        self.turns.store(true, Relaxed);
        self
    }

    /// A way that leads nowhere yet: topology has still to find the primary.
    pub fn nowhere_yet() -> Self {
        Route {
            epoch: AtomicU64::new(1),
            now: Mutex::new(None),
            turned: Notify::new(),
            turns: AtomicBool::new(true),
        }
    }

    // ---- the sessions' side ----

    /// The number of the newest turn. One load: looked at once a wake-up.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    /// Where to go; `None` while the primary is not known: what would go there waits within the holds' budgets.
    pub fn now(&self) -> Option<Destination> {
        self.lock().clone()
    }

    /// May another server become the destination?
    pub fn may_turn(&self) -> bool {
        self.turns.load(Relaxed)
    }

    /// Waits until the epoch is another than `seen`; the new one.
    pub async fn changed(&self, seen: u64) -> u64 {
        loop {
            let mut turned = std::pin::pin!(self.turned.notified());
            // Registered before looking, or a turn in between would be missed.
            turned.as_mut().enable();
            match self.epoch() {
                epoch if epoch != seen => return epoch,
                _ => turned.await,
            }
        }
    }

    // ---- topology's side ----

    /// From now on sessions go to `address`, behind `gate`; the epoch of that turn. To where they go already is
    /// no turn.
    pub fn turn(&self, address: Address, gate: Arc<Gate>) -> u64 {
        let mut now = self.lock();
        let epoch = self.epoch.load(Relaxed);
        let next = Destination { address, gate, epoch: epoch + 1 };
        if now.as_ref().is_some_and(|now| now.is(&next)) {
            return epoch;
        }
        *now = Some(next);
        self.publish(now, epoch + 1)
    }

    /// The primary is not known: sessions send nothing more until the next [`Route::turn`], also not to where they
    /// are connected. A turn back to there lets them go on as if nothing had been.
    pub fn nowhere(&self) -> u64 {
        let mut now = self.lock();
        let epoch = self.epoch.load(Relaxed);
        if now.take().is_none() {
            return epoch;
        }
        self.publish(now, epoch + 1)
    }

    /// The epoch is stored under the lock, so that it never runs ahead of a destination or behind another turn.
    fn publish(&self, now: MutexGuard<'_, Option<Destination>>, epoch: u64) -> u64 {
        self.turns.store(true, Relaxed);
        self.epoch.store(epoch, Release);
        drop(now);
        self.turned.notify_waiters();
        epoch
    }

    /// A poisoned lock means a panic elsewhere while it was held; what it guards is replaced whole, so go on.
    fn lock(&self) -> MutexGuard<'_, Option<Destination>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Address {
        Address::Tcp(format!("127.0.0.1:{port}"))
    }

    fn gate() -> Arc<Gate> {
        Arc::new(Gate::new(1))
    }

    #[test]
    fn each_turn_moves_the_epoch_and_a_turn_to_the_same_place_is_none() {
        let (first, second) = (gate(), gate());
        let route = Route::new(at(1), Arc::clone(&first));
        let here = route.now().expect("somewhere");
        assert_eq!((route.epoch(), here.epoch), (1, 1));
        assert_eq!(route.turn(at(1), Arc::clone(&first)), 1, "we are there");
        assert_eq!(route.turn(at(2), second), 2);
        assert_eq!(route.now().map(|d| (d.address, d.epoch)), Some((at(2), 2)));
        // Another process at the same address has a gate of its own: its tickets are not the old one's.
        assert_eq!(route.turn(at(2), gate()), 3);
    }

    #[test]
    fn nowhere_is_a_turn_and_the_way_back_leads_to_the_same_destination() {
        let gate = gate();
        let route = Route::new(at(1), Arc::clone(&gate));
        let here = route.now().expect("somewhere");
        assert_eq!((route.nowhere(), route.nowhere()), (2, 2));
        assert!(route.now().is_none());
        assert_eq!(route.turn(at(1), gate), 3);
        assert!(route.now().is_some_and(|now| now.is(&here) && now.epoch == 3));
    }

    #[tokio::test]
    async fn a_turn_before_or_during_the_wait_is_never_missed() {
        let route = Arc::new(Route::nowhere_yet());
        let waiting = tokio::spawn({
            let route = Arc::clone(&route);
            async move { route.changed(1).await }
        });
        tokio::task::yield_now().await;
        route.turn(at(1), gate());
        assert_eq!(waiting.await.expect("it ends"), 2);
        assert_eq!(route.changed(1).await, 2);
    }
}
