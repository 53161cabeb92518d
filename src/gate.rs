//! The only seam between the data path and the guard. Sightings go up, a posture comes down.
//!
//! Refuses to know: what a session is, why a posture was chosen, any socket.
//!
//! Invariant: a [`Ticket`] is open only when the guard itself has heard the server accept a gated
//! command *after* the ticket was issued. A refusal that is older than the guard's proof can thus
//! never be mistaken for one that is younger, whatever the threads do in between.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::*};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use tokio::sync::Notify;

use crate::posture::{Posture, Refusal};

use meter::Meter;

mod meter;

/// In the byte of the posture: what passes is counted. One load tells both.
const METERED: u8 = 1 << 7;

/// Proof that a refusal was told to the guard. Numbers only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A place in the queue of sessions that wait for the gate: nearest deadline first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    deadline: Instant,
    id: u64,
}

/// What sessions do now, in one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stance(u8);

impl Stance {
    /// What is done with gated commands.
    #[inline]
    pub fn posture(self) -> Posture {
        Posture::from_u8(self.0 & !METERED)
    }

    /// A budget of changes is being spent: gated commands pass only as [`Gate::lend`] allows.
    #[inline]
    pub fn is_metered(self) -> bool {
        self.0 & METERED != 0
    }
}

/// See the module's page.
#[derive(Debug)]
pub struct Gate {
    /// Bytes that may wait in all sessions together.
    hold_bytes_max: u64,
    posture: AtomicU8,
    sightings: AtomicU64,
    open_through: AtomicU64,
    held_commands: AtomicU64,
    held_bytes: AtomicU64,
    places: AtomicU64,
    last: Mutex<Option<Refusal>>,
    waiting: Mutex<BTreeMap<Place, Waker>>,
    sighted: Notify,
    meter: Meter,
    used_up: Notify,
    closed: AtomicBool,
}

impl Gate {
    /// A gate in posture Forward. `hold_bytes_max` bytes may wait in all sessions together.
    pub fn new(hold_bytes_max: u64) -> Self {
        Gate {
            hold_bytes_max,
            posture: AtomicU8::new(Posture::Forward as u8),
            sightings: AtomicU64::new(0),
            open_through: AtomicU64::new(0),
            held_commands: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
            places: AtomicU64::new(0),
            last: Mutex::new(None),
            waiting: Mutex::new(BTreeMap::new()),
            sighted: Notify::new(),
            meter: Meter::default(),
            used_up: Notify::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// What sessions do with writes now.
    #[inline]
    pub fn posture(&self) -> Posture {
        self.stance().posture()
    }

    /// The posture, and whether what passes is counted. One load: called once per chunk of requests.
    #[inline]
    pub fn stance(&self) -> Stance {
        Stance(self.posture.load(Acquire))
    }

    // ---- the data path's side ----

    /// Tells the guard of a refusal. Cheap and coalesced: a thousand refusals wake the guard once.
    pub fn sight(&self, refusal: Refusal) -> Ticket {
        *lock(&self.last) = Some(refusal);
        let ticket = Ticket(self.sightings.fetch_add(1, AcqRel) + 1);
        self.sighted.notify_one();
        ticket
    }

    /// May the command whose refusal drew `ticket` be sent again?
    pub fn is_open(&self, ticket: Ticket) -> bool {
        self.passes() && self.open_through.load(Acquire) >= ticket.0
    }

    /// Do gated commands pass that were not refused: forward, and allowed if they are counted?
    pub fn passes(&self) -> bool {
        let stance = self.stance();
        stance.posture() == Posture::Forward && (!stance.is_metered() || self.has_room())
    }

    fn has_room(&self) -> bool {
        let room = self.meter.has_room();
        if !room {
            self.used_up.notify_one();
        }
        room
    }

    /// While metered: up to `most` gated commands may be sent now. 0 when the allowance is used up: then the
    /// guard is told, asks the server for its own count, and allows more or closes the gate.
    pub fn lend(&self, most: u64) -> u64 {
        let lent = self.meter.lend(most);
        if lent == 0 {
            self.used_up.notify_one();
        }
        lent
    }

    /// What was lent and not used. Of a portion that was needed whole, perhaps the last, the guard hears at
    /// once: it may allow more before anybody waits.
    pub fn give_back(&self, n: u64) {
        match n {
            0 => drop(self.has_room()),
            n => self.meter.give_back(n),
        }
    }

    /// Gated commands that were sent without asking: what a hold sends again, what the gate may not keep.
    pub fn spend(&self, n: u64) {
        self.meter.spend(n);
    }

    /// So many gated commands that were lent or spent are answered.
    pub fn settle(&self, n: u64) {
        self.meter.settle(n);
    }

    /// A new place in the queue for a hold that ends at `deadline`.
    pub fn place(&self, deadline: Instant) -> Place {
        Place { deadline, id: self.places.fetch_add(1, Relaxed) }
    }

    /// Asks to be woken when the gate changes. Look at the gate again *after* this call, or a
    /// change in between is missed.
    pub fn wait(&self, place: Place, waker: &Waker) {
        let mut waiting = lock(&self.waiting);
        match waiting.get_mut(&place) {
            Some(known) => known.clone_from(waker),
            None => {
                waiting.insert(place, waker.clone());
            }
        }
    }

    /// Gives the place back. Idempotent.
    pub fn leave(&self, place: Place) {
        lock(&self.waiting).remove(&place);
    }

    /// Counts a hold of `commands` in `bytes`; false when the byte budget of all sessions is spent.
    pub fn hold(&self, commands: u64, bytes: u64) -> bool {
        let before = self.held_bytes.fetch_add(bytes, AcqRel);
        if before + bytes > self.hold_bytes_max {
            self.held_bytes.fetch_sub(bytes, AcqRel);
            return false;
        }
        self.held_commands.fetch_add(commands, AcqRel);
        true
    }

    /// Ends a hold that [`Gate::hold`] counted.
    pub fn unhold(&self, commands: u64, bytes: u64) {
        self.held_bytes.fetch_sub(bytes, AcqRel);
        self.held_commands.fetch_sub(commands, AcqRel);
    }

    // ---- the guard's side ----

    /// Waits until somebody sighted a refusal since the last call.
    pub async fn sighted(&self) {
        self.sighted.notified().await;
    }

    /// Tickets issued so far. Read this *before* the probe that may open them.
    pub fn sightings(&self) -> u64 {
        self.sightings.load(Acquire)
    }

    /// The newest refusal since the last call.
    pub fn take_refusal(&self) -> Option<Refusal> {
        lock(&self.last).take()
    }

    /// Changes the posture. Waiting sessions learn of it by [`Gate::wake`].
    pub fn set_posture(&self, posture: Posture) {
        if !self.closed.load(Acquire) {
            // One thread writes: nothing is lost between the load and the store.
            let metered = self.posture.load(Acquire) & METERED;
            self.posture.store(posture as u8 | metered, Release);
        }
    }

    /// Waits until a session found the allowance used up.
    pub async fn used_up(&self) {
        self.used_up.notified().await;
    }

    /// Gated commands sent and answered so far while metered. Read this *before* the server is asked how many
    /// changes it has: those answered are among them.
    pub fn counted(&self) -> (u64, u64) {
        self.meter.counted()
    }

    /// `Some((answered, n))`: from when `answered` commands were answered, `n` may pass. `None`: all pass, and
    /// nothing is counted. Waiting sessions learn of it by [`Gate::wake`].
    pub fn allow(&self, allowance: Option<(u64, u64)>) {
        if let Some((answered, n)) = allowance {
            self.meter.allow(answered, n);
        }
        if !self.closed.load(Acquire) {
            let posture = self.posture.load(Acquire) & !METERED;
            self.posture.store(posture | if allowance.is_some() { METERED } else { 0 }, Release);
        }
    }

    /// What passed, or may be on its way, since the server was asked for the count that the allowance was
    /// reckoned from; 0 while nothing is counted.
    pub fn passed(&self) -> u64 {
        if self.stance().is_metered() { self.meter.since() } else { 0 }
    }

    /// We leave: from now on refusals are delivered, whatever the guard says, and what waits ends with the
    /// server's own error instead of a cut. Called on the guard's own thread, so it has the last word.
    pub fn close(&self) {
        self.closed.store(true, Release);
        self.posture.store(Posture::Refuse as u8, Release);
        self.wake(usize::MAX);
    }

    /// The server was heard accepting a gated command after `sightings` tickets had been issued.
    pub fn open_through(&self, sightings: u64) {
        self.open_through.fetch_max(sightings, AcqRel);
    }

    /// Wakes up to `most` waiting sessions, nearest deadline first; how many still wait. The
    /// guard calls it in small steps, so that ten thousand released writes do not arrive as one.
    pub fn wake(&self, most: usize) -> usize {
        let mut wakers = Vec::with_capacity(most.min(64));
        let left = {
            let mut waiting = lock(&self.waiting);
            while wakers.len() < most {
                match waiting.pop_first() {
                    Some((_, waker)) => wakers.push(waker),
                    None => break,
                }
            }
            waiting.len()
        };
        for waker in wakers {
            waker.wake();
        }
        left
    }

    /// Commands and bytes held now.
    pub fn held(&self) -> (u64, u64) {
        (self.held_commands.load(Acquire), self.held_bytes.load(Acquire))
    }
}

/// A poisoned lock means a panic elsewhere while it was held; the maps stay sound, so go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::posture::{Form, Variant};

    fn gate() -> Gate {
        Gate::new(100)
    }

    #[test]
    fn a_ticket_opens_only_by_a_proof_younger_than_itself() {
        let gate = gate();
        let refusal = Refusal { variant: Variant::Rdb, form: Form::Command };
        let first = gate.sight(refusal);
        let seen = gate.sightings();
        let second = gate.sight(refusal);
        gate.open_through(seen);
        assert!(gate.is_open(first) && !gate.is_open(second));
        gate.set_posture(Posture::Hold);
        assert!(!gate.is_open(first));
    }

    #[test]
    fn the_byte_budget_is_for_all_sessions_together() {
        let gate = gate();
        assert!(gate.hold(1, 60) && !gate.hold(1, 41) && gate.hold(2, 40));
        gate.unhold(1, 60);
        assert_eq!(gate.held(), (2, 40));
    }

    #[test]
    fn a_metered_gate_shuts_when_the_allowance_is_used_up_and_opens_with_the_next() {
        let gate = gate();
        let ticket = gate.sight(Refusal { variant: Variant::Rdb, form: Form::Command });
        gate.open_through(1);
        assert!(gate.passes() && !gate.stance().is_metered() && gate.passed() == 0);
        gate.allow(Some((gate.counted().1, 3)));
        gate.set_posture(Posture::Hold);
        assert!(gate.stance().is_metered() && !gate.passes());
        gate.set_posture(Posture::Forward);
        assert_eq!((gate.lend(2), gate.passes(), gate.lend(2), gate.passes()), (2, true, 1, false));
        assert!(!gate.is_open(ticket) && gate.passed() == 3);
        gate.settle(2);
        gate.allow(Some((gate.counted().1, 2)));
        assert!(gate.is_open(ticket));
        gate.allow(None);
        assert_eq!((gate.stance().is_metered(), gate.passed()), (false, 0));
    }

    #[test]
    fn a_closed_gate_refuses_whatever_the_guard_says() {
        let gate = gate();
        gate.set_posture(Posture::Hold);
        gate.close();
        gate.set_posture(Posture::Hold);
        assert_eq!(gate.posture(), Posture::Refuse);
    }

    #[test]
    fn the_nearest_deadline_wakes_first() {
        struct Flag(AtomicU64);
        impl std::task::Wake for Flag {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.fetch_add(1, Relaxed);
            }
        }
        let (gate, now) = (gate(), Instant::now());
        let flags: Vec<_> = (0..2).map(|_| std::sync::Arc::new(Flag(AtomicU64::new(0)))).collect();
        gate.wait(gate.place(now + Duration::from_secs(2)), &flags[0].clone().into());
        gate.wait(gate.place(now + Duration::from_secs(1)), &flags[1].clone().into());
        assert_eq!(gate.wake(1), 1);
        assert_eq!([flags[0].0.load(Relaxed), flags[1].0.load(Relaxed)], [0, 1]);
    }
}
