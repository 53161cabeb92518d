//! The table of checks. One row an id of interface.md.

use super::{Check, Hit, Kind, Severity, Source};

/// Every check. The order decides between equals.
pub const CHECKS: &[Check] = &[Check {
    id: "unknown",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Info],
    when: |e| match e.look.save_ok.is(false) {
        true => Hit::likely("the last save failed, and nothing that could be seen says why"),
        false => None,
    },
    what: "Saving fails, and what bgsafe could see does not say why.",
    why: "Until a save succeeds the server refuses writes, or goes on unsaved.",
    cure: "Read the server's log for the line of the failed save.",
    explain: "",
    source: "rdb.c:backgroundSaveDoneHandlerDisk",
}];
