//! The guard's decisions, as data: what to do about a refusal, and how long things may take.
//!
//! Refuses to know: how anything is done. Invariant: tables are read from the top, the first row
//! that holds decides, and the last row always holds.

use std::time::Duration;

use super::escrow::plan::Plan;
use crate::config::{AofRepair, Policy, Repair, Seek, SentinelPolicy, WhenExposed};
use crate::posture::Variant;
use crate::topology::view::{View, Watch};

/// The operator's choices that the guard obeys.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of the server, without credentials.
    pub address: String,
    /// The configured upstream: this one, or the one through which it was found.
    pub upstream: String,
    /// What to do about a refusal.
    pub policy: Policy,
    /// How long writes may stay open unsaved. Zero is no limit.
    pub exposure_time: Duration,
    /// How many changes may be unsaved; 0 is no limit.
    pub exposure_changes: u64,
    /// What happens then.
    pub when_exposed: WhenExposed,
    /// When a copy of the data is fetched.
    pub escrow: Plan,
    /// How far remedies may reach.
    pub repair: Repair,
    /// May CONFIG REWRITE write the operator's value over our `no` in the server's file?
    pub repair_rewrite: bool,
    /// How a failed sync of the append-only file may be cleared.
    pub aof_repair: AofRepair,
    /// Is there a program of the operator's to tell of findings?
    pub hook: bool,
    /// CLIENT SETNAME of the control connection.
    pub name: String,
    /// ACL user of the control connection.
    pub user: String,
    /// How long one command may wait.
    pub hold_time: Duration,
    /// How Sentinels are found.
    pub seek: Seek,
    /// Before Sentinel, or after it?
    pub sentinel_policy: SentinelPolicy,
    /// Tells incidents of two processes in one second apart.
    pub nonce: u16,
    /// May the switch be lowered on a replica that would end itself?
    pub guard_replicas: bool,
}

/// A look no older than this, on the same connection, may stand in for a new one when seconds
/// count: the atomic read-and-lower guards against what changed since.
pub const LOOK_FRESH: Duration = Duration::from_secs(2);
/// Between looks while nothing is wrong, and while we wait without a child.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between PINGs while the AOF refuses: it heals within one of the server's own loops.
pub const AOF_PROBE_EVERY: Duration = Duration::from_millis(100);
/// Between looks while a budget of changes is being spent.
pub const COUNT_EVERY: Duration = Duration::from_millis(100);
/// Between looks while a child runs: from, to, and to after the first minute.
pub const CHILD_POLL: (Duration, Duration, Duration) =
    (Duration::from_millis(20), Duration::from_millis(250), Duration::from_secs(1));
/// Between counts of CONFIG REWRITE while the switch is down.
pub const REWRITES_EVERY: Duration = Duration::from_secs(1);
/// The first wait after a failed save: Redis's own delay is 5 s (`server.h:CONFIG_BGSAVE_RETRY_DELAY`).
pub const RETRY_FIRST: Duration = Duration::from_secs(6);
/// And the longest.
pub const RETRY_MOST: Duration = Duration::from_secs(60);
/// Without a control connection for so long, refusals are delivered as they come.
pub const BLIND_AFTER: Duration = Duration::from_secs(5);
/// After so many failed saves a human is told what to type.
pub const STUCK_AFTER: u32 = 3;
/// After so many kills or crashes of children nothing more is tried: the next could be the server's.
pub const CRASHES_MOST: u32 = 2;
/// Between two looks for causes, in peace or while nothing changes.
pub const CARE_EVERY: Duration = Duration::from_secs(30);
/// … while writes are parked for the AOF's sake.
pub const CARE_AOF_EVERY: Duration = Duration::from_secs(2);
/// How long a save waits for a diagnosis.
pub const CARE_PATIENCE: Duration = Duration::from_millis(300);
/// … and for a remedy.
pub const REPAIR_PATIENCE: Duration = Duration::from_secs(30);
/// How long writes wait, at the most, for replicas that are known to be in danger.
pub const SHELTER: Duration = Duration::from_millis(300);
/// … and for guards of replicas to look whether theirs are: that is one round trip, beside the write of the debt.
pub const ANSWER: Duration = Duration::from_millis(10);
/// Between looks at a replica that would end itself, while a save of it runs.
pub const NURSE_EVERY: Duration = Duration::from_millis(20);
/// Sentinel's view is as good as this is young.
pub const VIEW_FRESH: Duration = Duration::from_secs(5);
/// How long it is waited for, where none was had before: Sentinels greet each other every 2 s.
pub const VIEW_WAIT: Duration = Duration::from_secs(6);
/// For so long those who claimed to lower the switch before us are waited for; the transaction decides then.
pub const CLAIM_PATIENCE: Duration = Duration::from_secs(2);
/// Between looks at their names: from, doubled each time, to.
pub const CLAIM_POLL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(80));
/// An owner out of sight for so long is gone: a connection that only broke is back by then.
pub const HEIR_GRACE: Duration = Duration::from_secs(3);
/// Each heir waits so much longer than the one before it, in the order of ids …
pub const HEIR_RANK: Duration = Duration::from_secs(1);
/// … but not longer than so many of them.
pub const HEIR_RANKS: u32 = 5;
/// Between two questions whose `no` it is, while a save failed.
pub const WHOSE_EVERY: Duration = Duration::from_secs(30);
/// How long the server may try to hand its role over: less than a command may wait.
pub const FAILOVER_TIMEOUT: Duration = Duration::from_secs(2);
/// For who knows them to say which replica is fit.
pub const OVER_CHOICE: Duration = Duration::from_millis(500);
/// Between attempts to hand over in one incident.
pub const OVER_AGAIN: Duration = Duration::from_secs(30);
/// Lines of one incident's timeline.
pub const TIMELINE_MOST: usize = 400;

/// What is known when a refusal has been heard by ourselves.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The operator's policy.
    pub policy: Policy,
    /// The snapshot goes where only an intruder sends it.
    pub break_in: bool,
    /// What the server's own words said.
    pub variant: Variant,
    /// The exposure budget of this incident is spent.
    pub exposed: bool,
    /// The operator set the switch by hand during this incident.
    pub hands_off: bool,
    /// Is there a look recent enough to act on?
    pub looked: bool,
    /// ROLE says primary.
    pub primary: bool,
    /// A replica that would end itself at its primary's next write, and that may be kept from it.
    pub would_abort: bool,
    /// Replicas that would end themselves at the first write that is let through, or may, and that are being looked after.
    pub replicas_endangered: u32,
    /// They were waited for long enough.
    pub waited: bool,
    /// A hand-over may be tried: the last attempt is a while ago.
    pub handover: bool,
    /// Sentinel watches this server: who is primary is for it to say.
    pub sentinel: bool,
    /// The switch could be read, and lowering it was not refused before.
    pub config: bool,
    /// The server's run id is known: without it no debt can be written.
    pub run_id: bool,
    /// The debt could not be made durable.
    pub debt_failed: bool,
    /// What Sentinel says of this server.
    pub watch: Watch,
    /// The operator prefers a failover, and one may still come.
    pub may_fail_over: bool,
}

impl Facts {
    /// A server that takes itself for the primary, and Sentinel's view of it is this.
    fn seen_as(&self, is: fn(&View) -> bool) -> bool {
        match &self.watch {
            Watch::Sees(view) => self.primary && is(view) && !mutant!(LowersAZombie),
            Watch::Unasked | Watch::Untold | Watch::Nobody | Watch::Awaited | Watch::Blind => false,
        }
    }
}

/// What to do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// Watch and tell.
    Observe,
    /// Touch nothing, park writes, call a human.
    Freeze,
    /// The budget is spent: deliver refusals, go on trying to save.
    Refuse,
    /// Park writes; the AOF must heal.
    ParkAof,
    /// Park writes while a BGSAVE is tried.
    Park,
    /// Park writes and try nothing: a save, too, would open a server that may have been replaced.
    Shun,
    /// Find out first who watches.
    Ask,
    /// Look first.
    Look,
    /// Wait a moment: replicas first.
    Shelter,
    /// Hand the role to a replica.
    HandOver,
    /// Write the debt, lower the switch.
    Lower,
}

/// One row of [`COURSES`].
pub struct Row {
    /// Why, as the timeline tells it.
    pub why: &'static str,
    /// Does the row hold?
    pub when: fn(&Facts) -> bool,
    /// What is done then.
    pub course: Course,
}

/// What to do about a refusal that we heard ourselves. First row that holds.
pub const COURSES: [Row; 25] = [
    Row { why: "policy observe", when: |f| f.policy == Policy::Observe, course: Course::Observe },
    Row {
        why: "the snapshot's target moved to a suspect place",
        when: |f| f.break_in,
        course: Course::Freeze,
    },
    Row {
        why: "Sentinel names another primary",
        when: |f| f.seen_as(|view| matches!(view, View::SaysOther(_))),
        course: Course::Shun,
    },
    Row {
        why: "Sentinel is failing over",
        when: |f| f.seen_as(|view| *view == View::FailingOver),
        course: Course::Shun,
    },
    Row {
        why: "the Sentinels disagree about the primary",
        when: |f| f.seen_as(|view| *view == View::Disagree),
        course: Course::Shun,
    },
    Row { why: "exposure budget spent", when: |f| f.exposed, course: Course::Refuse },
    Row {
        why: "the append-only file refuses: the switch does not govern it",
        when: |f| f.variant == Variant::Aof,
        course: Course::ParkAof,
    },
    Row {
        why: "whether a Sentinel watches is not known yet",
        when: |f| f.primary && f.watch == Watch::Unasked,
        course: Course::Ask,
    },
    Row {
        why: "Sentinel's view is awaited",
        when: |f| f.primary && f.watch == Watch::Awaited,
        course: Course::Shun,
    },
    Row { why: "policy hold", when: |f| f.policy == Policy::Hold, course: Course::Park },
    Row { why: "the operator set the switch by hand", when: |f| f.hands_off, course: Course::Park },
    Row { why: "the debt could not be written", when: |f| f.debt_failed, course: Course::Park },
    Row { why: "nothing recent is known", when: |f| !f.looked, course: Course::Look },
    Row { why: "the server is not a primary", when: |f| !f.primary && !f.would_abort, course: Course::Park },
    Row {
        why: "a Sentinel watches, and its view cannot be had",
        when: |f| f.primary && f.watch == Watch::Blind && !mutant!(TakesSilenceForConsent),
        course: Course::Park,
    },
    Row {
        why: "waiting for Sentinel to fail over, as --sentinel-policy says",
        when: |f| f.primary && f.may_fail_over,
        course: Course::Park,
    },
    Row { why: "CONFIG is not allowed", when: |f| !f.config, course: Course::Park },
    Row { why: "INFO does not tell the run id", when: |f| !f.run_id, course: Course::Park },
    Row {
        why: "a replica that cannot save ends itself at its primary's next write",
        when: |f| f.would_abort,
        course: Course::Lower,
    },
    Row {
        why: "replicas would end themselves at the first write: they come first",
        when: |f| f.replicas_endangered > 0 && !f.waited,
        course: Course::Shelter,
    },
    Row {
        why: "the last snapshot failed, and whether a Sentinel watches cannot be asked",
        when: |f| f.watch == Watch::Untold,
        course: Course::Lower,
    },
    Row {
        why: "policy redirect, but Sentinel rules here: type SENTINEL FAILOVER to it",
        when: |f| f.policy == Policy::Redirect && f.sentinel,
        course: Course::Park,
    },
    Row {
        why: "policy redirect",
        when: |f| f.policy == Policy::Redirect && f.handover,
        course: Course::HandOver,
    },
    Row {
        why: "policy redirect: writes wait until a replica is fit, or a save works",
        when: |f| f.policy == Policy::Redirect,
        course: Course::Park,
    },
    Row { why: "the last snapshot failed", when: |_| true, course: Course::Lower },
];

/// The row of [`COURSES`] that decides.
pub fn course(facts: &Facts) -> &'static Row {
    const LAST: &Row = &COURSES[COURSES.len() - 1];
    COURSES.iter().find(|row| (row.when)(facts)).unwrap_or(LAST)
}

/// How long to wait after the `failures`-th failed save in a row: 6, 12, 24 … 60 s.
pub fn retry_after(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(RETRY_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_not_to_lower_wins_over_lowering() {
        let fine = Facts {
            policy: Policy::Mitigate,
            break_in: false,
            variant: Variant::Rdb,
            exposed: false,
            hands_off: false,
            looked: true,
            primary: true,
            would_abort: false,
            replicas_endangered: 0,
            waited: false,
            handover: true,
            sentinel: false,
            config: true,
            run_id: true,
            debt_failed: false,
            watch: Watch::Nobody,
            may_fail_over: false,
        };
        let fine = || fine.clone();
        let sees = |view| Facts { watch: Watch::Sees(view), ..fine() };
        let watch = |watch| Facts { watch, ..fine() };
        for (facts, expected) in [
            (fine(), Course::Lower),
            (sees(View::Agrees), Course::Lower),
            (sees(View::SDown { by: 2, of: 3 }), Course::Lower),
            (watch(Watch::Untold), Course::Lower),
            (sees(View::SaysOther("h:1".into())), Course::Shun),
            (Facts { exposed: true, ..sees(View::SaysOther("h:1".into())) }, Course::Shun),
            (Facts { policy: Policy::Hold, ..sees(View::SaysOther("h:1".into())) }, Course::Shun),
            (Facts { primary: false, ..sees(View::SaysOther("h:1".into())) }, Course::Park),
            (sees(View::FailingOver), Course::Shun),
            (sees(View::Disagree), Course::Shun),
            (watch(Watch::Unasked), Course::Ask),
            (watch(Watch::Awaited), Course::Shun),
            (watch(Watch::Blind), Course::Park),
            (Facts { may_fail_over: true, ..sees(View::Agrees) }, Course::Park),
            (Facts { policy: Policy::Observe, break_in: true, ..fine() }, Course::Observe),
            (Facts { break_in: true, variant: Variant::Aof, ..fine() }, Course::Freeze),
            (Facts { exposed: true, ..fine() }, Course::Refuse),
            (Facts { variant: Variant::Aof, looked: false, ..fine() }, Course::ParkAof),
            (Facts { policy: Policy::Hold, ..fine() }, Course::Park),
            (Facts { hands_off: true, ..fine() }, Course::Park),
            (Facts { looked: false, primary: false, ..fine() }, Course::Look),
            (Facts { primary: false, ..fine() }, Course::Park),
            (Facts { config: false, ..fine() }, Course::Park),
            (Facts { run_id: false, ..fine() }, Course::Park),
            (Facts { debt_failed: true, ..fine() }, Course::Park),
            (Facts { primary: false, would_abort: true, ..fine() }, Course::Lower),
            (Facts { primary: false, would_abort: true, policy: Policy::Hold, ..fine() }, Course::Park),
            (Facts { primary: false, would_abort: true, run_id: false, ..fine() }, Course::Park),
            (Facts { replicas_endangered: 1, ..fine() }, Course::Shelter),
            (Facts { replicas_endangered: 1, waited: true, ..fine() }, Course::Lower),
            (Facts { replicas_endangered: 1, config: false, ..fine() }, Course::Park),
            (Facts { policy: Policy::Redirect, ..fine() }, Course::HandOver),
            (Facts { policy: Policy::Redirect, handover: false, ..fine() }, Course::Park),
            (Facts { policy: Policy::Redirect, sentinel: true, ..fine() }, Course::Park),
            (Facts { policy: Policy::Redirect, variant: Variant::Aof, ..fine() }, Course::ParkAof),
            (Facts { policy: Policy::Redirect, primary: false, would_abort: true, ..fine() }, Course::Lower),
        ] {
            assert_eq!(course(&facts).course, expected, "{facts:?}");
        }
    }

    #[test]
    fn retries_back_off_and_are_capped() {
        let secs: Vec<u64> = [1, 2, 3, 4, 5, 99].map(|n| retry_after(n).as_secs()).to_vec();
        assert_eq!(secs, [6, 12, 24, 48, 60, 60]);
    }
}
