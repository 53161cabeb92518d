//! Sentinel beside the guard: who watches this server, what they say of it, and what that forbids. A server that was
//! replaced and still takes writes loses them the moment it is made a replica.
//!
//! Refuses to know: how Sentinels are asked. Invariants: the switch is not lowered while another primary is named or
//! a failover is under way; while it is down and that happens, nothing is let through until the view or the role
//! says otherwise.

use std::time::Duration;

use super::care::Stage;
use super::{Action, Guard, Now};
use crate::config::{Seek, SentinelPolicy};
use crate::guard::dialogue::Talk;
use crate::guard::evidence::{Fact, Role};
use crate::guard::policy::{VIEW_FRESH, VIEW_WAIT};
use crate::guard::record::Phase;
use crate::posture::Posture;
use crate::topology::view::{Report, View, Watch};

/// Before the question who watches is put again, when it could not be put.
const AGAIN: Duration = Duration::from_millis(100);

/// See the module's page.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Watched {
    /// Sentinels that the server shows; `None`: it was not asked yet.
    seen: Option<Fact<u64>>,
    /// What they said, and when that came.
    report: Option<(Duration, Report)>,
    /// Since when a view is missing that should be there.
    missing: Option<Duration>,
    scouting: bool,
    /// While the switch is down: nothing is let through for Sentinel's sake.
    shunned: bool,
    /// When an incident was first seen in which a failover is preferred.
    waiting: Option<Duration>,
}

impl Watched {
    /// Another incident begins as if nothing had been.
    pub(super) fn end(&mut self) {
        self.shunned = false;
        self.waiting = None;
    }

    #[cfg(test)]
    pub(super) fn print(&self, now: Now, h: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        let age = |at: Duration| now.mono.saturating_sub(at).min(VIEW_WAIT + AGAIN);
        format!("{:?}{:?}", self.seen, self.report.as_ref().map(|(_, r)| r)).hash(h);
        (self.report.as_ref().map(|(at, _)| age(*at)), self.missing.map(age)).hash(h);
        (self.scouting, self.shunned, self.waiting.map(age)).hash(h);
    }
}

impl Guard {
    /// What is known of Sentinel now.
    pub(super) fn watch(&self, now: Now) -> Watch {
        if self.settings.seek == Seek::Off {
            return Watch::Nobody;
        }
        if let Some(report) = self.fresh_report(now) {
            return Watch::Sees(report.view.clone());
        }
        let missing = || match self.watched.missing {
            Some(since) if now.mono.saturating_sub(since) >= VIEW_WAIT => Watch::Blind,
            Some(_) | None => Watch::Awaited,
        };
        match (self.settings.seek, &self.watched.seen) {
            (Seek::Off, _) => Watch::Nobody,
            (Seek::Named, _) => missing(),
            // Who was heard once watches, whatever the server shows.
            (Seek::Discover, _) if self.watched.report.is_some() => missing(),
            (Seek::Discover, None) => Watch::Unasked,
            (Seek::Discover, Some(Fact::Known(0))) => Watch::Nobody,
            (Seek::Discover, Some(Fact::Known(_))) => missing(),
            (Seek::Discover, Some(Fact::Unknown(_))) => Watch::Untold,
        }
    }

    /// For the status: a replica's Sentinels are not asked before it is more.
    pub(super) fn watch_name(&self, now: Now) -> &'static str {
        let replica = self.role == Some(Role::Replica) && self.watched.report.is_none();
        if replica { Watch::Unasked.name() } else { self.watch(now).name() }
    }

    /// Lately, and more than silence.
    fn fresh_report(&self, now: Now) -> Option<&Report> {
        let (at, report) = self.watched.report.as_ref()?;
        let fresh = now.mono.saturating_sub(*at) <= VIEW_FRESH && report.view != View::Silent;
        fresh.then_some(report)
    }

    /// A view that was had until now, or that is due from now on, is waited for before it is given up; and the time
    /// that Sentinel has begins with the incident.
    pub(super) fn keep_time(&mut self, now: Now) {
        if self.journal.is_some() && self.settings.sentinel_policy == SentinelPolicy::PreferFailover {
            self.watched.waiting.get_or_insert(now.mono);
        }
        self.watched.missing = match self.watch(now) {
            Watch::Awaited | Watch::Blind => Some(self.watched.missing.unwrap_or(now.mono)),
            Watch::Unasked | Watch::Untold | Watch::Nobody | Watch::Sees(_) => None,
        };
    }

    /// The operator prefers a failover, Sentinel could make one, and its time is not over.
    pub(super) fn may_fail_over(&self, now: Now) -> bool {
        let prefers = self.settings.sentinel_policy == SentinelPolicy::PreferFailover;
        let within = self.fresh_report(now).and_then(|report| report.fails_over_within);
        let waited = self.watched.waiting.map_or(Duration::ZERO, |since| now.mono.saturating_sub(since));
        prefers && within.is_some_and(|within| waited < within)
    }

    /// By an inquiry.
    pub(super) fn told_who_watches(&mut self, now: Now, sentinels: Fact<u64>) {
        let known = sentinels.known().is_some() || self.watched.seen.is_none();
        if known {
            self.watched.seen = Some(sentinels);
        }
        let watched = self.watched.seen.as_ref().is_some_and(|seen| seen.is_and(|n| *n > 0));
        // What they say of a replica is asked when it has become a primary.
        let replica = self.look.as_ref().is_some_and(|(_, look)| look.role.is(Role::Replica));
        if watched
            && !replica
            && self.settings.seek == Seek::Discover
            && !std::mem::replace(&mut self.watched.scouting, true)
        {
            self.out.push_back(Action::Scout);
        }
        self.keep_time(now);
    }

    /// Before anything is decided by it.
    pub(super) fn ask_who_watches(&mut self, now: Now) {
        match self.care.stage {
            Stage::Idle => {
                self.care.stage = Stage::Asking;
                self.talk(Talk::Inquire { own: self.settings.name.clone() });
            }
            Stage::Asking | Stage::Examining | Stage::Mending(_) | Stage::TakingBack => {
                self.due = now.mono + AGAIN
            }
        }
    }

    pub(super) fn viewed(&mut self, now: Now, report: Report) {
        let before = self.watch(now);
        self.watched.report = Some((now.mono, report));
        self.keep_time(now);
        let after = self.watch(now);
        if before == after {
            return;
        }
        let line = self.watched.report.as_ref().map_or_else(String::new, |(_, report)| report.line());
        self.say(now, "sentinel's view", format!("{}: {line}", after.name()));
        self.shun_while_lowered(now);
        if !self.lowered && self.journal.is_some() {
            // What was decided by the old view is decided anew.
            self.due = now.mono;
        }
    }

    /// The course of a server that Sentinel replaces, has replaced, or may have.
    pub(super) fn shun(&mut self, now: Now, why: &'static str) {
        self.set_posture(Posture::Hold);
        let line = self.watched.report.as_ref().map_or_else(String::new, |(_, report)| report.line());
        self.enter(now, Phase::Holding, "writes parked, nothing is tried", format!("{why}; {line}"));
        match self.watch(now) {
            Watch::Sees(View::SaysOther(other)) => self.name_zombie(now, &other),
            Watch::Sees(View::FailingOver | View::Disagree) => self.warn(now, "left to Sentinel", line),
            Watch::Sees(View::Agrees | View::SDown { .. } | View::Silent)
            | Watch::Unasked
            | Watch::Untold
            | Watch::Nobody
            | Watch::Awaited
            | Watch::Blind => {}
        }
    }

    /// The switch is down and the server is replaced: what comes through us stops here. It is put back after a
    /// proved save only: set back on a server that Sentinel makes a replica, it would abort that process.
    pub(super) fn shun_while_lowered(&mut self, now: Now) {
        if !self.lowered || self.journal.is_none() || mutant!(LowersAZombie) {
            return;
        }
        let role = self.look.as_ref().and_then(|(_, look)| look.role.known().copied()).or(self.role);
        let watch = self.watch(now);
        let replaced = matches!(watch, Watch::Sees(View::SaysOther(_) | View::FailingOver));
        let demoted = role == Some(Role::Replica);
        let agreed = matches!(watch, Watch::Sees(View::Agrees | View::SDown { .. }));
        if !self.watched.shunned && replaced && !demoted {
            self.watched.shunned = true;
            if self.posture == Posture::Forward {
                self.set_posture(Posture::Hold);
            }
            match watch {
                Watch::Sees(View::SaysOther(other)) => self.name_zombie(now, &other),
                _ => {
                    self.warn(now, "Sentinel is failing over", "writes parked, the switch stays down".into())
                }
            }
        } else if self.watched.shunned && (demoted || agreed) {
            self.watched.shunned = false;
            self.say(
                now,
                "writes let through again",
                if demoted { "a replica now" } else { "Sentinel agrees" }.into(),
            );
            if self.posture == Posture::Hold && self.is_open() {
                self.set_posture(Posture::Forward);
            }
        }
    }

    pub(super) fn is_shunned(&self) -> bool {
        self.lowered && self.watched.shunned
    }

    fn name_zombie(&mut self, now: Now, other: &str) {
        let state =
            if self.lowered { "its switch stays down until a save is proved" } else { "nothing is tried" };
        let evidence =
            format!("Sentinel says that the primary is {other}; this one takes itself for one too");
        self.find("zombie-primary", "crit", evidence.clone(), self.leave_zombie(other));
        self.warn(now, "Sentinel names another primary", format!("{evidence}; writes parked, {state}"));
    }

    /// What a human does about it.
    pub(super) fn leave_zombie(&self, other: &str) -> String {
        format!(
            "send applications to {other}; what only this one has is lost when Sentinel makes it a replica"
        )
    }

    /// In peace: a server that was replaced is no place for writes, whether or not it can save.
    pub(super) fn zombie(&self, now: Now) -> Option<String> {
        match self.watch(now) {
            Watch::Sees(View::SaysOther(other)) if self.role != Some(Role::Replica) => Some(other),
            Watch::Sees(_)
            | Watch::Unasked
            | Watch::Untold
            | Watch::Nobody
            | Watch::Awaited
            | Watch::Blind => None,
        }
    }
}
