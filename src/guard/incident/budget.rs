//! The budget of changes, spent to the command: what sessions may still send before the server is asked again.
//!
//! Two counts meet here. The server's own has everything, also what never came through us, and is as old as the
//! newest look; the gate's has what passed since. So a look's answer allows some more commands, reckoned from
//! those that were answered before it was asked, and when these are used up the gate shuts until the next look.
//! One that was sent long before and is not answered blocks: it is accounted for, or consumers would shut the gate.
//!
//! Refuses to know: sessions, who counts. Invariant: what is allowed reaches to the end of the budget and not
//! past it, if each command changes as much as those before it did, and something.

use std::time::Duration;

use super::{Action, Guard, Now};
use crate::config::WhenExposed;
use crate::guard::policy::COUNT_EVERY;

/// The shortest time between looks while a budget of changes runs out: writers past us are seen by looks only, and
/// where every command under way blocks (BLPOP) no look would allow one more.
const COUNT_FASTEST: Duration = Duration::from_millis(1);
/// What was sent so long ago is run, or blocks: the server's count has what it changed.
const ARRIVED: Duration = Duration::from_millis(5);
/// Commands from which on it is known how much one changes.
const SAMPLE: u64 = 32;

/// See the module's page.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Budget {
    /// The gate counts.
    metered: bool,
    /// Commands sent and answered when the newest question was asked.
    sent: u64,
    answered: u64,
    /// Sent by the time of an older look, and of one that is to become it.
    arrived: u64,
    arriving: (Duration, u64),
    /// At the newest look: when, commands accounted for, changes.
    last: Option<(Duration, u64, u64)>,
    /// What so many commands changed.
    weight: Option<(u64, u64)>,
    /// Somebody waits for the next look.
    used_up: bool,
}

/// How many changes may follow `spent` before the next look: half of what is left, but not past the next mark
/// of which somebody is told; all of it near the end; little while nobody knows what a command changes.
fn changes_until_look(budget: u64, spent: u64, known: bool) -> u64 {
    let left = budget.saturating_sub(spent);
    let marks = [budget.div_ceil(2), (budget.saturating_mul(9)).div_ceil(10), budget];
    let mark = marks.into_iter().find(|mark| *mark > spent).map_or(0, |mark| mark - spent);
    let step = if known { (left / 2).max(budget / 100) } else { budget / 20 };
    step.min(mark).min(left).max(1)
}

/// So many commands change no more than that, if each does as much as those of the sample (commands, changes).
/// Those that change nothing are no reason to ask after each: a two-hundredth of the budget may always pass.
fn commands(budget: u64, changes: u64, weight: Option<(u64, u64)>) -> u64 {
    let commands = match weight {
        Some((commands, changed)) if changed > commands => {
            (u128::from(changes) * u128::from(commands) / u128::from(changed)) as u64
        }
        Some((commands, changed)) if changed < commands => changes.max(budget / 200),
        Some(_) | None => changes,
    };
    commands.max(1)
}

impl Guard {
    /// So many gated commands were answered when the question was asked that is answered next.
    pub(super) fn passed(&mut self, sent: u64, answered: u64) {
        (self.budget.sent, self.budget.answered) = (sent, answered);
    }

    /// Sessions found nothing left: the server's own count decides.
    pub(super) fn used_up(&mut self, now: Now) {
        if self.budget.metered && self.lowered {
            self.budget.used_up = true;
            let last = self.budget.last.map_or(Duration::ZERO, |(at, ..)| at);
            self.due = self.due.min((last + COUNT_FASTEST).max(now.mono));
        }
    }

    /// Sessions wait for a look, and for nothing else.
    pub(super) fn is_waited_for(&self) -> bool {
        self.budget.used_up && self.lowered && self.is_open()
    }

    /// After each event: the gate counts as long as a budget is being spent, and not longer.
    pub(super) fn keep_count(&mut self) {
        let max = self.settings.exposure_changes;
        let wanted = self.lowered && max > 0 && !self.past.told_keep && !self.is_replica();
        if wanted == self.budget.metered {
            return;
        }
        let Budget { sent, answered, .. } = self.budget;
        self.budget = Budget { metered: wanted, sent, answered, ..Budget::default() };
        let first = changes_until_look(max, 0, false);
        self.out.push_back(Action::Allow(wanted.then_some((answered, first))));
    }

    /// A look told the server's count, and the budget is not spent: allows the next commands.
    pub(super) fn allow(&mut self, now: Now) {
        if !self.budget.metered {
            return;
        }
        let (accounted, max) = (self.accounted(now), self.settings.exposure_changes);
        let spent = self.exposure(now).changes;
        self.budget.used_up = false;
        let mut every = COUNT_EVERY;
        if let Some((at, before, changes)) = self.budget.last {
            let (commands, changed) = (accounted.saturating_sub(before), spent.saturating_sub(changes));
            if commands >= SAMPLE || (commands > 0 && self.budget.weight.is_none()) {
                self.budget.weight = Some((commands, changed));
            }
            // At this pace, half of what is left lasts so long.
            let took = now.mono.saturating_sub(at);
            let lasts = took.as_micros() as u64 * (max.saturating_sub(spent) / 2);
            every = lasts.checked_div(changed).map_or(every, Duration::from_micros);
        }
        self.budget.last = Some((now.mono, accounted, spent));
        self.due = self.due.min(now.mono + every.clamp(COUNT_FASTEST, COUNT_EVERY));
        let changes = changes_until_look(max, spent, self.budget.weight.is_some());
        let n = commands(max, changes, self.budget.weight);
        self.out.push_back(Action::Allow(Some((accounted, n))));
    }

    /// Commands that the server's count has, whatever became of them.
    fn accounted(&mut self, now: Now) -> u64 {
        let budget = &mut self.budget;
        if now.mono.saturating_sub(budget.arriving.0) >= ARRIVED {
            budget.arrived = budget.arriving.1;
            budget.arriving = (now.mono, budget.sent);
        }
        budget.answered.max(budget.arrived)
    }

    /// When the budget of seconds will be spent, if nothing is saved before: to be looked at then.
    pub(super) fn secs_spent_at(&self, now: Now) -> Option<Duration> {
        let told = self.settings.when_exposed == WhenExposed::Keep && self.past.told_keep;
        if self.settings.exposure_time.is_zero() || told || self.is_replica() {
            return None;
        }
        let exposure = self.exposure(now);
        let exact = self.exposed_ms(now);
        // What a copy holds is not exposed: its age is known in whole seconds only.
        let spent_ms = if exposure.secs == exact / 1000 { exact } else { exposure.secs * 1000 };
        Some(now.mono + Duration::from_millis((exposure.secs_max * 1000).saturating_sub(spent_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writers at full speed, each command so many changes: how far past the budget, in how many looks.
    fn run(budget: u64, weight: u64) -> (u64, u32) {
        let (mut spent, mut looks, mut known) = (0, 0, None);
        while spent < budget {
            let n = commands(budget, changes_until_look(budget, spent, known.is_some()), known);
            spent += n * weight;
            known = Some((n, n * weight));
            looks += 1;
        }
        (spent - budget, looks)
    }

    #[test]
    fn a_budget_is_spent_to_the_command_in_few_looks() {
        for (budget, weight) in [(10_000, 1), (1_000_000, 1), (20, 1), (1, 1), (10_000, 7), (10_000, 15)] {
            let (over, looks) = run(budget, weight);
            assert!(over < weight && looks <= 16, "{budget} x{weight}: {over} in {looks}");
        }
    }

    #[test]
    fn no_allowance_jumps_over_a_mark_that_is_told() {
        for spent in 0..1000 {
            let next = spent + changes_until_look(1000, spent, true);
            for mark in [500, 900, 1000] {
                assert!(spent >= mark || next <= mark, "{spent} -> {next}");
            }
        }
    }

    #[test]
    fn commands_that_change_nothing_are_not_asked_after_each() {
        assert_eq!(commands(10_000, 3, Some((100, 0))), 50);
        assert_eq!(commands(10_000, 3, Some((100, 100))), 3);
        assert_eq!(commands(10_000, 300, Some((100, 1000))), 30);
    }
}
