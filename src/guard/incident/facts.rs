//! What a decision is taken by, as far as the guard knows it at this moment.
//!
//! Refuses to know: what is decided. Invariant: nothing here changes anything.

use std::time::Duration;

use super::{Guard, Now};
use crate::guard::evidence::{Healthy, Look, Role, Target};
use crate::guard::policy::{Facts, LOOK_FRESH};

impl Guard {
    pub(super) fn facts(&self, now: Now) -> Facts {
        // A switch that read `no` while PING is refused is old news.
        let fresh = self.look.as_ref().filter(|(_, look)| !look.knob.is("no".to_string()));
        self.facts_by(now, fresh)
    }

    /// … and of one that may be down.
    pub(super) fn facts_of_any_switch(&self, now: Now) -> Facts {
        self.facts_by(now, self.look.as_ref())
    }

    fn facts_by(&self, now: Now, look: Option<&(Duration, Look)>) -> Facts {
        let look = look.filter(|(at, _)| now.mono.saturating_sub(*at) <= LOOK_FRESH);
        let seen = look.map(|(_, look)| look);
        let role = self.role.or_else(|| seen.and_then(|l| l.role.known().copied()));
        Facts {
            policy: self.settings.policy,
            break_in: self.past.frozen || self.look.as_ref().is_some_and(|(_, look)| self.is_break_in(look)),
            variant: self.variant,
            exposed: self.past.exposed,
            hands_off: self.past.hands_off,
            looked: look.is_some(),
            primary: role == Some(Role::Primary),
            would_abort: role == Some(Role::Replica)
                && self.settings.guard_replicas
                && seen.is_some_and(Look::aborts_on_errors),
            replicas_endangered: self.neighbours.endangered(now),
            waited: self.past.waited,
            handover: self.past.over_after.is_none_or(|after| now.mono >= after),
            sentinel: self.sentinel_rules(),
            config: self.config_refused.is_none()
                && self.may_lower()
                && seen.is_some_and(|l| l.knob.known().is_some()),
            run_id: seen.is_some_and(|l| l.run_id.known().is_some()),
            debt_failed: self.past.debt_failed,
            watch: self.watch(now),
            may_fail_over: self.may_fail_over(now),
        }
    }

    pub(super) fn is_break_in(&self, look: &Look) -> bool {
        let healthy = self.healthy.as_ref().map(Healthy::target);
        Target::of(look).is_some_and(|target| target.is_break_in(healthy.as_ref()))
    }
}
