//! The Sentinels beside a supervisor: those that were named, or those that a scout meets on the server.
//!
//! Refuses to know: what their view means. Invariant: what was started here for this server alone ends with it.

use std::net::SocketAddr;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Params, Shell};
use crate::guard::incident::Event;
use crate::topology::sentinel::Who;
use crate::topology::watch::{self, Watcher};

/// See the module's page.
pub struct Watching {
    watcher: Option<Watcher>,
    /// The server, as a number.
    peer: Option<SocketAddr>,
    /// Of our own scout and its watcher.
    own: Option<DropGuard>,
}

impl Watching {
    pub fn new(named: Option<Watcher>) -> Self {
        Watching { watcher: named, peer: None, own: None }
    }

    /// A connection was made, to there.
    pub fn reached(&mut self, peer: Option<SocketAddr>) {
        self.peer = peer;
    }

    /// Waits until the view may be another.
    pub async fn changed(&mut self) {
        match &mut self.watcher {
            Some(watcher) => watcher.changed().await,
            None => std::future::pending().await,
        }
    }

    /// Finds out by the server itself who watches it.
    pub fn scout(&mut self, of: &Params) {
        if self.watcher.is_some() {
            return;
        }
        let end = CancellationToken::new();
        let params = watch::Params {
            name: None,
            sentinels: Vec::new(),
            credentials: of.sentinel_credentials.clone(),
            client: of.endpoint.name.clone(),
        };
        let watcher = Watcher::spawn(params, end.clone());
        let (scouting, ends) = (watch::scout(of.endpoint.clone(), watcher.clone()), end.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = ends.cancelled() => {}
                () = scouting => {}
            }
        });
        self.watcher = Some(watcher);
        self.own = Some(end.drop_guard());
    }

    /// Nobody is asked any more.
    pub fn end(&mut self) {
        self.own = None;
        self.watcher = None;
    }
}

impl Shell {
    pub(super) fn viewed(&mut self) {
        let Some(watcher) = &self.watching.watcher else { return };
        let peer = self.watching.peer.map(|peer| peer.to_string());
        let addresses = [Some(self.params.settings.address.clone()), peer];
        let who = Who { run_id: self.guard.run_id(), addresses: addresses.into_iter().flatten().collect() };
        let report = watcher.report(&who);
        self.tell(Event::Viewed(report));
    }
}
