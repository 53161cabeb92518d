//! The table of remedies: M §10 as rows. A finding may have several; the first that applies is tried first.

use super::{Consent, Plan, Proof, Reach, Remedy};

/// Every remedy.
pub const REMEDIES: &[Remedy] = &[Remedy {
    finding: "unknown",
    does: "read the server's log",
    reach: Reach::Human,
    needs: "eyes",
    survives: true,
    undo: "nothing to undo",
    consent: Consent::Never,
    proof: Proof::Save,
    plan: |_| Plan::NotHere,
}];
