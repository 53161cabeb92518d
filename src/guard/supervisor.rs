//! The shell around [`Guard`]: the control connection, the store's thread, two clocks, the gate.
//! It asks, waits, tells and publishes; it decides nothing.
//!
//! Refuses to know: what any event means. Invariants: actions run in the order the guard gave
//! them; held sessions are woken in steps; a debt that is owed at the end stays on disk, and the
//! log says what a human must type to pay it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc as inbox;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::feed::{Shared, Tally, held, lock};
use super::incident::{Action, Event, Guard, Now};
use super::record::{Incident, Phase};
use super::remedy::REMEDIES;
use super::store::{Job, StoreError};
use crate::control::Control;
use crate::escrow::keep::Keep;
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::posture::Posture;

pub use opened::Opened;
pub use params::{Keeping, Params};
pub use seat::Seat;

use alerts::Alerts;
use copies::Copies;
use errands::Errands;
use line::{Line, wait_line};
use watching::Watching;

pub mod alerts;
mod copies;
mod errands;
mod line;
mod opened;
mod params;
mod program;
mod records;
mod seat;
mod telling;
mod watching;

/// Sessions woken in one step, and the pause after it: ten thousand held writes do not arrive as one.
const WAKE_STEP: (usize, Duration) = (128, Duration::from_millis(1));
/// A debt that is not durable by then is treated as one that cannot be.
const STORE_TIMEOUT: Duration = Duration::from_secs(3);

/// A running guard. Dropping it leaves the task running; abort [`Supervisor::task`] to end it as a
/// crash would, cancel the token to end it as an operator would.
#[derive(Debug)]
pub struct Supervisor {
    /// For status, incidents and the live feed.
    pub shared: Arc<Shared>,
    /// Ends when the token is cancelled.
    pub task: JoinHandle<()>,
}

/// Opens the state directory, reads the debt there, and starts to guard, alone.
///
/// # Errors
/// When the directory cannot be used.
pub fn spawn(
    params: Params,
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> Result<Supervisor, StoreError> {
    let opened = Opened::new(&params)?;
    spawn_at(Seat::alone(), opened, params, gate, metrics, shutdown)
}

/// Starts to guard, among others.
///
/// # Errors
/// When there is no thread to be had.
pub fn spawn_at(
    seat: Seat,
    opened: Opened,
    params: Params,
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> Result<Supervisor, StoreError> {
    let Opened { store, debt, strays, healthy, incidents, keep } = opened;
    let (answers, stored) = inbox::unbounded_channel();
    let path = params.state_dir.clone();
    let jobs = store
        .start(move |result| drop(answers.send(result)))
        .map_err(|source| StoreError::Io { path, source })?;
    let copy = keep.as_ref().and_then(Keep::newest);
    let guard =
        Guard::new(params.settings.clone(), debt).with_strays(strays).with_healthy(healthy).with_copy(copy);
    let cured: Vec<&str> = REMEDIES.iter().map(|remedy| remedy.finding).collect();
    lock(&metrics.guard).seed_remedies(&cured);
    let alerts = Alerts::spawn(params.alerts.clone(), metrics.clone());
    let (done, errands_done) = inbox::unbounded_channel();
    let copies = Copies::new(&params.endpoint, keep, metrics.clone(), done.clone());
    let errands = Errands {
        host: params.host.clone(),
        address: params.endpoint.address.clone(),
        hook: params.hook.clone(),
        done,
        looking: Arc::default(),
    };
    let watching = Watching::new(params.sentinels.clone());
    let start = Instant::now();
    let status = guard.status(clock(start), held(&gate));
    let shared = Arc::new(Shared::new(gate.clone(), status, incidents));
    let shell = Shell {
        seat,
        params,
        calm: Tally::read(&metrics),
        gate,
        metrics,
        guard,
        shared: shared.clone(),
        jobs,
        stored,
        alerts,
        errands,
        errands_done,
        copies,
        watching,
        store_by: None,
        stale: 0,
        start,
        control: None,
        line: None,
        retry: line::RECONNECT.0,
        answers: false,
        failed: String::new(),
        found: Vec::new(),
        wakes: 0,
        alarmed: None,
        seen: 0,
        asked: (0, 0),
        base: None,
        settling: None,
        record: None,
    };
    Ok(Supervisor { shared, task: tokio::spawn(shell.run(shutdown)) })
}

struct Shell {
    seat: Seat,
    params: Params,
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    guard: Guard,
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    stored: inbox::UnboundedReceiver<Result<(), String>>,
    alerts: Alerts,
    errands: Errands,
    errands_done: inbox::UnboundedReceiver<Event>,
    copies: Copies,
    watching: Watching,
    /// A job of the debt is under way; when its time is up.
    store_by: Option<Instant>,
    /// Jobs of the debt that were given up and will still be answered: not the answer that is awaited.
    stale: usize,
    start: Instant,
    control: Option<Control>,
    line: Option<Pin<Box<dyn Future<Output = Line> + Send>>>,
    retry: Duration,
    /// Has this connection answered yet, and which failure was told last?
    answers: bool,
    failed: String,
    /// Findings the log has told of, so that each is told once.
    found: Vec<String>,
    /// Steps of waking still to be made.
    wakes: usize,
    /// When the first unanswered sighting was heard of.
    alarmed: Option<Instant>,
    /// Sightings the guard was told of.
    seen: u64,
    /// Gated commands sent, and answered, when the newest question was asked.
    asked: (u64, u64),
    /// Counters while nothing was wrong, and when the open incident began; none of a replica's, where no session is.
    calm: Tally,
    base: Option<Tally>,
    /// The last ended incident, whose holds may still be ending.
    settling: Option<(Instant, Option<Tally>, Incident)>,
    /// A record that waits for the debt to be written first.
    record: Option<Box<Incident>>,
}

impl Shell {
    async fn run(mut self, shutdown: CancellationToken) {
        self.connect(Duration::ZERO);
        let mut revision = 0;
        loop {
            self.act();
            if self.guard.revision() != revision {
                revision = self.guard.revision();
                self.publish();
            }
            let deadline = self.guard.next_deadline().map(|due| self.start + due);
            let (by, wakes) = (self.store_by, self.wakes);
            let settle = self.settling.is_some();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                line = wait_line(&mut self.line) => self.heard(line),
                // Before the debt's answer: what the others say may have to come first.
                Some(event) = self.seat.hear() => self.tell(event),
                Some(result) = self.stored.recv() => {
                    if self.stale > 0 {
                        self.stale -= 1;
                    } else {
                        self.store_by = None;
                        if let Err(why) = &result {
                            warn!(side = "host", "the debt's page could not be written: {why}; look at --state-dir");
                        }
                        self.tell(Event::Stored(result));
                    }
                }
                Some(event) = self.errands_done.recv() => self.tell(event),
                () = self.watching.changed() => self.viewed(),
                () = self.gate.sighted() => {
                    self.alarmed.get_or_insert_with(Instant::now);
                    let sightings = self.gate.sightings();
                    self.seen = sightings;
                    let refusal = self.gate.take_refusal();
                    self.tell(Event::Sighted { sightings, refusal });
                }
                () = self.gate.used_up() => self.tell(Event::UsedUp),
                () = sleep(WAKE_STEP.1), if wakes > 0 => {
                    self.gate.wake(WAKE_STEP.0);
                    self.wakes -= 1;
                }
                () = until(by) => {
                    self.store_by = None;
                    self.stale += 1;
                    self.tell(Event::Stored(Err(format!("not durable within {STORE_TIMEOUT:?}"))));
                }
                () = until(deadline) => self.tell(Event::Timer),
                () = sleep(Duration::from_millis(100)), if settle => self.settle(),
            }
        }
        self.end().await;
    }

    fn tell(&mut self, event: Event) {
        if self.guard.phase() == Phase::Quiet
            && !matches!(event, Event::Sighted { .. })
            && self.alarmed.is_none()
        {
            let calm = Tally::read(&self.metrics);
            // A session sights before it counts: with a sighting still to be heard of, or a hold not yet over,
            // what was just read may have one end of a hold and not the other.
            if self.gate.sightings() == self.seen && self.gate.held().0 == 0 {
                self.calm = calm;
            }
        }
        self.guard.handle(clock(self.start), event);
    }

    fn act(&mut self) {
        let (mut opens, mut waits) = (false, false);
        while let Some(action) = self.guard.poll_action() {
            match action {
                Action::Talk(talk) => {
                    let gate = self.gate.clone();
                    self.asked = gate.counted();
                    match self.control.take() {
                        Some(mut control) => {
                            self.line = Some(Box::pin(async move {
                                let answer = control.talk(talk, || gate.sightings()).await;
                                Line::Answered(control, answer)
                            }));
                        }
                        None => warn!("bgsafe: asked to talk without a connection: {talk:?}"),
                    }
                }
                Action::WriteDebt(debt) => self.store(Job::Write(debt)),
                Action::EraseDebt => self.store(Job::Erase),
                Action::SetPosture(posture) => {
                    self.gate.set_posture(posture);
                    opens |= posture != Posture::Hold;
                }
                Action::OpenThrough(sightings) => {
                    self.gate.open_through(sightings);
                    opens = true;
                    if self.guard.phase() == Phase::Quiet {
                        self.alarmed = None;
                    }
                }
                Action::Allow(allowance) => {
                    self.gate.allow(allowance);
                    waits = true;
                }
                Action::Opened => self.base = (!self.guard.is_replica()).then_some(self.calm),
                Action::Said(phase, event, detail, tone) => self.said(phase, event, detail, tone),
                Action::Record(record) => self.recorded(record),
                Action::Silent(n) => lock(&self.metrics.guard).silent_refusals += n,
                Action::Examine(told) => self.errands.examine(told.0, told.1),
                Action::Change(errand, change) => self.errands.change(errand, change),
                Action::Hook(finding) => {
                    let incident = self.guard.record().map(|record| record.id.clone());
                    self.errands.hook(*finding, incident, self.params.settings.address.clone());
                }
                Action::Remedied(finding, result) => {
                    lock(&self.metrics.guard).remedied(finding, result);
                }
                Action::Headroom(left, ahead) => {
                    if !self.guard.is_replica() {
                        let mut stats = lock(&self.metrics.guard);
                        (stats.headroom, stats.ahead) = (left, ahead);
                    }
                }
                Action::News(news) => self.seat.tell(&self.params.settings.address, news),
                Action::Pull(order) => self.copies.pull(order),
                Action::StopPull => self.copies.stop(),
                Action::Remember(healthy) => self.job(Job::Remember(healthy)),
                Action::Scout => self.watching.scout(&self.params),
            }
        }
        if (opens || waits) && self.gate.posture() != Posture::Hold {
            let left = self.gate.wake(WAKE_STEP.0);
            // As many steps as there are sleepers now: those who lie down again wait for the next proof.
            self.wakes = left.div_ceil(WAKE_STEP.0);
        }
        if opens && self.gate.posture() != Posture::Hold {
            self.mitigated();
        }
        if self.store_by.is_none()
            && let Some(record) = self.record.take()
        {
            self.job(Job::Save(record));
        }
    }

    fn store(&mut self, job: Job) {
        self.store_by = Some(Instant::now() + STORE_TIMEOUT);
        self.job(job);
    }

    fn job(&mut self, job: Job) {
        // The thread lives as long as this sender; if it panicked the deadline tells the guard.
        if self.jobs.send(job).is_err() {
            warn!("bgsafe: the store's thread is gone");
        }
    }

    async fn end(mut self) {
        self.watching.end();
        self.settle_now();
        if let Some(record) = self.guard.record() {
            let mut record = Box::new(record.clone());
            self.fill(self.base, &mut record);
            self.job(Job::Save(record));
        }
        // To set it back unproved would refuse writes to everybody at the moment we leave; the next
        // bgsafe finds the debt and pays it.
        if let Some(payment) = self.guard.payment() {
            warn!(
                upstream = self.params.settings.address,
                "leaving with the switch down: saves are not proved. The next bgsafe restores it; by hand: {payment}"
            );
        }
        // The store's thread ends with its last job, and with it the other end of this channel: a process
        // that left before would cut a record short.
        drop(self.jobs);
        let told = async { while self.stored.recv().await.is_some() {} };
        let _ = timeout(STORE_TIMEOUT, told).await;
        self.copies.finish().await;
        self.alerts.finish().await;
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn clock(start: Instant) -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { mono: start.elapsed(), unix_ms: unix.as_millis() as u64 }
}
