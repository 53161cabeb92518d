//! Copies are fetched on a thread of their own: disks that hang cost neither the guard nor the sessions anything.
//!
//! Refuses to know: when one is wanted. Invariants: one at a time; each ends as one [`Event::Pulled`]; given up, it
//! leaves no part behind.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc::UnboundedSender, oneshot};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::control::Endpoint;
use crate::escrow::keep::Keep;
use crate::escrow::pull::pull;
use crate::guard::escrow::{Order, PullError, Snapshot};
use crate::guard::feed::lock;
use crate::guard::incident::Event;
use crate::metrics::Metrics;

/// How long a copy that is given up may take to clear away its part, when bgsafe ends.
const END_TIME: Duration = Duration::from_secs(1);

/// See the module's page.
pub struct Copies {
    endpoint: Endpoint,
    /// `None`: escrow is off.
    keep: Option<Keep>,
    metrics: Arc<Metrics>,
    done: UnboundedSender<Event>,
    /// The one under way: dropped, it is given up.
    pulling: Option<(DropGuard, oneshot::Receiver<()>)>,
}

impl Copies {
    pub fn new(
        control: &Endpoint,
        keep: Option<Keep>,
        metrics: Arc<Metrics>,
        done: UnboundedSender<Event>,
    ) -> Self {
        // Another word before the colon: it is no guard that could be taken for one of several.
        let (_, nonce) = control.name.split_once(':').unwrap_or(("", &control.name));
        let endpoint = Endpoint { name: format!("bgsafe-escrow:{nonce}"), ..control.clone() };
        Copies { endpoint, keep, metrics, done, pulling: None }
    }

    /// Ends as [`Event::Pulled`].
    pub fn pull(&mut self, order: Order) {
        let (token, (over, ended)) = (CancellationToken::new(), oneshot::channel());
        let (endpoint, keep, stop) = (self.endpoint.clone(), self.keep.clone(), token.clone());
        let (metrics, done) = (self.metrics.clone(), self.done.clone());
        self.pulling = Some((token.drop_guard(), ended));
        let work = move || {
            // The guard waits for an end.
            let work = AssertUnwindSafe(|| run(&endpoint, keep.as_ref(), order, &stop));
            let result =
                catch_unwind(work).unwrap_or_else(|_| Err(PullError::passing("us: the copy failed")));
            if !stop.is_cancelled() {
                lock(&metrics.guard).copied(result.is_ok());
            }
            let _ = over.send(());
            // The guard may have ended meanwhile.
            let _ = done.send(Event::Pulled(result.map(Box::new)));
        };
        if thread::Builder::new().name("bgsafe-escrow".into()).spawn(work).is_err() {
            let why = PullError::passing("host: no thread is to be had for a copy");
            let _ = self.done.send(Event::Pulled(Err(why)));
        }
    }

    /// Gives up the one under way.
    pub fn stop(&mut self) {
        self.pulling = None;
    }

    /// … and waits a moment until nothing is left of it.
    pub async fn finish(&mut self) {
        if let Some((guard, ended)) = self.pulling.take() {
            drop(guard);
            let _ = timeout(END_TIME, ended).await;
        }
    }
}

fn run(
    endpoint: &Endpoint,
    keep: Option<&Keep>,
    order: Order,
    stop: &CancellationToken,
) -> Result<Snapshot, PullError> {
    let keep = keep.ok_or_else(|| PullError::lasting("us: escrow is off"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| PullError::passing(format!("host: {e}")))?;
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(PullError::passing("us: not wanted any more")),
            result = pull(endpoint, keep, order) => result,
        }
    })
}
