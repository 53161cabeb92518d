//! Findings: what is wrong, what will be, and what could be better, by the table of checks. A check
//! is a pure question to the [`Evidence`]; status, incidents, `bgsafe doctor`, `--explain` and the
//! docs all read the same rows.
//!
//! Refuses to know: how evidence was gathered, what is done about a finding ([`super::remedy`]).
//! Invariants: a check that lacks its evidence says nothing; `unknown` is found only where saving fails
//! and no other cause is; the worst comes first.

use super::evidence::{Evidence, Target};

pub use headroom::{Headroom, headroom};
pub use page::markdown;
pub use table::CHECKS;
pub use unseen::unseen;

pub(super) mod aof;
mod child;
pub(super) mod failing;
mod fork;
mod hazards;
pub mod headroom;
pub(super) mod memory;
mod page;
mod place;
pub(super) mod settings;
mod space;
mod table;
pub mod trend;
mod unseen;

#[cfg(test)]
mod random;
#[cfg(test)]
pub(crate) mod scenarios;
#[cfg(test)]
mod tests;

/// What a check is about. The order is the order of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Why saving fails now.
    Cause,
    /// What will fail next, or who will make it worse.
    Danger,
    /// What could be better.
    Advice,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Data is at risk now.
    Crit,
    /// It soon may be.
    Warn,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// The word in reports, records and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Crit => "crit",
            Severity::Warn => "warn",
            Severity::Info => "info",
        }
    }
}

/// Where evidence comes from: for the report of what could not be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// INFO.
    Info,
    /// CONFIG GET.
    Config,
    /// CLIENT LIST.
    Clients,
    /// /proc/PID.
    Process,
    /// /proc/sys, /proc/meminfo, /sys/kernel.
    Kernel,
    /// Control groups.
    Cgroup,
    /// The data directory.
    Place,
    /// The server's log.
    Log,
    /// The kernel's log.
    KernelLog,
}

/// A check that found something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The evidence alone decides; false: it is the likeliest of several.
    pub sure: bool,
    /// About something else than the row: what is the cause of a failure is in peace the danger of one.
    pub kind: Option<Kind>,
    /// Worse or better than the row's own severity.
    pub severity: Option<Severity>,
    /// What was seen: numbers, errno texts. Never a key, a value or a secret.
    pub says: String,
}

impl Hit {
    /// The evidence alone decides.
    pub fn sure(says: impl Into<String>) -> Option<Hit> {
        Some(Hit { sure: true, kind: None, severity: None, says: says.into() })
    }

    /// The likeliest of several.
    pub fn likely(says: impl Into<String>) -> Option<Hit> {
        Some(Hit { sure: false, kind: None, severity: None, says: says.into() })
    }
}

impl Hit {
    /// About this instead.
    pub fn kind(self, kind: Kind) -> Hit {
        Hit { kind: Some(kind), ..self }
    }

    /// As bad as this instead.
    pub fn severity(self, severity: Severity) -> Hit {
        Hit { severity: Some(severity), ..self }
    }
}

/// One row of [`CHECKS`].
pub struct Check {
    /// One of interface.md's ids.
    pub id: &'static str,
    /// What it is about.
    pub kind: Kind,
    /// How bad it is, unless the hit knows better.
    pub severity: Severity,
    /// The evidence it asks: any of these will do.
    pub needs: &'static [Source],
    /// The question.
    pub when: fn(&Evidence) -> Option<Hit>,
    /// One sentence: what is wrong.
    pub what: &'static str,
    /// One sentence: why it hurts.
    pub why: &'static str,
    /// One sentence: what cures it.
    pub cure: &'static str,
    /// A paragraph for `--explain`: what people ask about it, answered.
    pub explain: &'static str,
    /// Where the facts come from: source file and function, manual page, issue.
    pub source: &'static str,
}

/// A finding: a row and what it saw.
#[derive(Clone)]
pub struct Found {
    /// The row.
    pub check: &'static Check,
    /// What it saw.
    pub hit: Hit,
}

impl Found {
    /// What it is about.
    pub fn kind(&self) -> Kind {
        self.hit.kind.unwrap_or(self.check.kind)
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.hit.severity.unwrap_or(self.check.severity)
    }
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.check.id, self.severity().name(), self.hit.says)
    }
}

/// The row of this id.
pub fn check(id: &str) -> Option<&'static Check> {
    CHECKS.iter().find(|check| check.id == id)
}

/// Everything the evidence shows, worst first: signs of a break-in before all, causes before dangers before
/// advice, sure before likely, then by severity, then in the table's order.
pub fn diagnose(evidence: &Evidence) -> Vec<Found> {
    let mut found: Vec<Found> =
        CHECKS.iter().filter_map(|check| (check.when)(evidence).map(|hit| Found { check, hit })).collect();
    // What is only said for want of anything better, best last.
    for id in ["unknown", "dead-end"] {
        if found.iter().any(|f| f.kind() == Kind::Cause && f.check.id != id) {
            found.retain(|f| f.check.id != id);
        }
    }
    // Any other cure would help the intruder's save to succeed.
    if found.iter().any(|f| f.check.id == BREAK_IN) {
        found.retain(|f| f.check.id == BREAK_IN || f.kind() == Kind::Advice);
    }
    found.sort_by_key(|f| (f.check.id != BREAK_IN, f.kind(), !f.hit.sure, f.severity()));
    found
}

/// The finding under which nothing is repaired.
pub const BREAK_IN: &str = "break-in-signs";

/// The snapshot goes where only an intruder sends it.
pub fn break_in(evidence: &Evidence) -> bool {
    let healthy = evidence.healthy.as_ref().map(super::evidence::Healthy::target);
    Target::of(&evidence.look).is_some_and(|target| target.is_break_in(healthy.as_ref()))
}
