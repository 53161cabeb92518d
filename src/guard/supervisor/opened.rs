//! What the disk knew of a server when its guard began.
//!
//! Refuses to know: what follows from it. It blocks for as long as the disk does: not to be done on a task that
//! others wait for.

use tracing::warn;

use super::Params;
use crate::escrow::keep::Keep;
use crate::guard::debt::Debt;
use crate::guard::evidence::Healthy;
use crate::guard::record::Incident;
use crate::guard::store::{Store, StoreError};

/// See the module's page.
#[derive(Debug)]
pub struct Opened {
    pub(super) store: Store,
    pub(super) debt: Option<Debt>,
    pub(super) strays: Vec<Debt>,
    pub(super) healthy: Option<Healthy>,
    pub(super) incidents: Vec<Incident>,
    /// Copies of its data; `None`: escrow is off.
    pub(super) keep: Option<Keep>,
}

impl Opened {
    /// Opens the state directory, locks the server's page there, and reads.
    ///
    /// # Errors
    /// When the directory cannot be used, or another bgsafe holds the page.
    pub fn new(params: &Params) -> Result<Opened, StoreError> {
        let address = &params.settings.address;
        let (store, debt) = Store::open(&params.state_dir, address)?;
        let debt = debt.unwrap_or_else(|why| {
            warn!("{why}: treated as none; if nobody chose it, the switch may have to be set back by hand");
            None
        });
        let (strays, healthy) = (store.strays(), store.healthy());
        let mut incidents = store.incidents();
        store.close_left_open(&mut incidents, address);
        let keep = params.escrow.as_ref().map(|keeping| keeping.open(address)).transpose()?;
        Ok(Opened { store, debt, strays, healthy, incidents, keep })
    }
}
