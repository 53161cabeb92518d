//! When is a copy asked for? A table, for a fork of the server and its one place for a child are not to be had for
//! nothing.
//!
//! Refuses to know: how a copy is fetched. Invariants: the first row that holds decides, and the last always holds;
//! no copy is asked for after signs of a break-in, or where another fork could cost the server.

use std::time::Duration;

use crate::config::Escrow;

/// The operator's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// When copies are wanted.
    pub when: Escrow,
    /// Between two of them.
    pub every: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Plan { when: Escrow::Off, every: Duration::from_secs(600) }
    }
}

/// After a first failed copy; each further one doubles it.
pub const AGAIN_FIRST: Duration = Duration::from_secs(30);
/// And the longest.
pub const AGAIN_MOST: Duration = Duration::from_secs(600);
/// So many tenths of the exposure budget are as good as being stuck: a copy takes its time, too.
pub const TENTHS: u64 = 5;

/// How long to wait after the `failures`-th failed copy in a row.
pub fn again_after(failures: u32) -> Duration {
    AGAIN_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(AGAIN_MOST)
}

/// What is known when one may be asked for.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The operator's choice.
    pub when: Escrow,
    /// Policy observe.
    pub observes: bool,
    /// An incident is open, and it is ours: we lowered the switch, spent the budget, or called a human.
    pub open: bool,
    /// The snapshot's target moved to a suspect place.
    pub break_in: bool,
    /// One is being fetched.
    pub pulling: bool,
    /// ROLE says primary.
    pub primary: bool,
    /// Run id, last save and changes are.
    pub known: bool,
    /// A save failed in this incident.
    pub failed: bool,
    /// Nothing is left to try, or the budget is spent.
    pub stuck: bool,
    /// Of the exposure budget.
    pub tenths: u64,
    /// The newest copy holds every change that is counted.
    pub covered: bool,
    /// The pause since the last one is over.
    pub due: bool,
    /// One failed in this incident, and the next would.
    pub lasting: bool,
    /// A child was killed for want of memory, or crashed.
    pub harmful: bool,
    /// The server cannot fork.
    pub no_fork: bool,
    /// A child runs, or is about to.
    pub busy: bool,
    /// `repl-diskless-sync` is known to be `no`.
    pub by_disk: bool,
}

/// One row of [`ROWS`].
pub struct Row {
    /// Why, as the timeline tells it.
    pub why: &'static str,
    /// Does the row hold?
    pub when: fn(&Facts) -> bool,
    /// Is one asked for?
    pub pull: bool,
    /// Somebody waits for a copy and none comes: it is told.
    pub told: bool,
}

const fn not(why: &'static str, when: fn(&Facts) -> bool) -> Row {
    Row { why, when, pull: false, told: false }
}

const fn never(why: &'static str, when: fn(&Facts) -> bool) -> Row {
    Row { why, when, pull: false, told: true }
}

/// Is a copy asked for? First row that holds.
pub const ROWS: [Row; 17] = [
    not("escrow is off", |f| f.when == Escrow::Off),
    not("policy observe", |f| f.observes),
    not("no incident of ours", |f| !f.open),
    never("the snapshot's target moved to a suspect place: nothing is touched", |f| f.break_in),
    not("one is being fetched", |f| f.pulling),
    not("the server is not a primary", |f| !f.primary),
    not("INFO does not tell its age", |f| !f.known),
    not("a save may still work", |f| f.when == Escrow::WhenStuck && !f.stuck && f.tenths < TENTHS),
    not("no save failed yet", |f| !f.stuck && !f.failed),
    not("the newest copy has everything", |f| f.covered),
    not("not so soon", |f| !f.due),
    not("it would fail like the last", |f| f.lasting),
    never("a child was killed for want of memory, or crashed: another fork could cost the server", |f| {
        f.harmful
    }),
    never("the server cannot fork", |f| f.no_fork),
    not("a child of the server runs", |f| f.busy),
    never("repl-diskless-sync is no: the server would write to its own disk first", |f| f.by_disk),
    Row { why: "nothing else keeps what is unsaved", when: |_| true, pull: true, told: false },
];

/// The row of [`ROWS`] that decides.
pub fn decide(facts: &Facts) -> &'static Row {
    const LAST: &Row = &ROWS[ROWS.len() - 1];
    ROWS.iter().find(|row| (row.when)(facts)).unwrap_or(LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Facts = Facts {
        when: Escrow::WhenStuck,
        observes: false,
        open: true,
        break_in: false,
        pulling: false,
        primary: true,
        known: true,
        failed: true,
        stuck: true,
        tenths: 0,
        covered: false,
        due: true,
        lasting: false,
        harmful: false,
        no_fork: false,
        busy: false,
        by_disk: false,
    };

    #[test]
    fn each_reason_against_a_copy_wins_over_the_wish_for_one() {
        let always = Facts { when: Escrow::Always, stuck: false, ..WANTED };
        let spending = Facts { stuck: false, tenths: TENTHS, ..WANTED };
        for (facts, pulls, told) in [
            (WANTED, true, false),
            (always, true, false),
            (spending, true, false),
            (Facts { tenths: TENTHS - 1, ..spending }, false, false),
            (Facts { failed: false, ..always }, false, false),
            (Facts { failed: false, ..WANTED }, true, false),
            (Facts { when: Escrow::Off, ..WANTED }, false, false),
            (Facts { observes: true, ..WANTED }, false, false),
            (Facts { open: false, ..WANTED }, false, false),
            (Facts { break_in: true, ..WANTED }, false, true),
            (Facts { pulling: true, ..WANTED }, false, false),
            (Facts { primary: false, ..WANTED }, false, false),
            (Facts { known: false, ..WANTED }, false, false),
            (Facts { covered: true, ..WANTED }, false, false),
            (Facts { due: false, ..WANTED }, false, false),
            (Facts { lasting: true, ..WANTED }, false, false),
            (Facts { harmful: true, ..WANTED }, false, true),
            (Facts { harmful: true, ..always }, false, true),
            (Facts { no_fork: true, ..WANTED }, false, true),
            (Facts { busy: true, ..WANTED }, false, false),
            (Facts { by_disk: true, ..WANTED }, false, true),
        ] {
            let row = decide(&facts);
            assert_eq!((row.pull, row.told), (pulls, told), "{}: {facts:?}", row.why);
        }
    }

    /// What is asked for in vain is asked for ever less.
    #[test]
    fn failed_copies_back_off_and_are_capped() {
        let secs: Vec<u64> = [1, 2, 3, 4, 5, 6, 99].map(|n| again_after(n).as_secs()).to_vec();
        assert_eq!(secs, [30, 60, 120, 240, 480, 600, 600]);
    }
}
