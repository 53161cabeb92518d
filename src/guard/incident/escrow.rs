//! The guard's part in a copy: whether one is asked for, what it means for the exposure, what is told of it.
//!
//! Refuses to know: how it is fetched. Invariants: at most one is under way; a copy moves no phase and no switch; it
//! is counted on only for the very process it is of.

use std::time::Duration;

use super::{Action, Guard, Now, Tone, Unwind};
use crate::config::Policy;
use crate::guard::dialogue::Talk;
use crate::guard::escrow::plan::{Facts, again_after, decide};
use crate::guard::escrow::{Order, PullError, Snapshot};
use crate::guard::evidence::{Look, Role};
use crate::guard::finding::Kind;
use crate::guard::journal::rfc3339;
use crate::guard::record::{EscrowView, Exposure, Phase};

/// Under these another fork could cost the server.
const HARMFUL: [&str; 2] = ["child-oom-killed", "child-crashed"];
/// Under these there is none.
const NO_FORK: [&str; 5] =
    ["fork-enomem", "fork-eagain", "overcommit-memory", "cgroup-headroom", "memory-headroom"];

/// A save waits so long for a copy whose child is not seen.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module's page.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Copies {
    /// The newest.
    newest: Option<Snapshot>,
    /// One is being fetched, since then.
    pulling: Option<Duration>,
    /// It was given up; its end is still awaited.
    stopped: bool,
    not_before: Duration,
    /// Failed ones in a row.
    failures: u32,
    lasting: bool,
    /// Copies taken in this incident.
    taken: u32,
    /// Why there is none, as it was told last.
    told: Option<&'static str>,
}

#[cfg(test)]
impl Copies {
    /// For the model: what decides the future.
    pub(super) fn print(&self, now: Now) -> impl std::hash::Hash + use<> {
        let left = self.not_before.saturating_sub(now.mono);
        let newest = self.newest.as_ref().map(|copy| (copy.run_id.clone(), copy.changes));
        let since = self.pulling.map(|at| now.mono.saturating_sub(at).min(PATIENCE));
        (newest, since, self.stopped, left, self.failures, self.lasting)
    }
}

impl Guard {
    /// The newest copy that an earlier life took.
    pub fn with_copy(mut self, copy: Option<Snapshot>) -> Self {
        self.copies.newest = copy;
        self
    }

    /// One is being fetched.
    pub(super) fn pulls(&self) -> bool {
        self.copies.pulling.is_some()
    }

    /// … and the server's one place for a child is about to be taken by us. Once it is, the server shows it; a fetch
    /// that hangs on our own disk must not keep saves from being tried.
    pub(super) fn copy_is_near(&self, now: Now) -> bool {
        self.copies.pulling.is_some_and(|since| now.mono < since + PATIENCE)
    }

    /// After each look: is a copy asked for?
    pub(super) fn consider_copy(&mut self, now: Now, look: &Look) {
        let row = decide(&self.copy_facts(now, look));
        if row.told && self.copies.told != Some(row.why) {
            self.copies.told = Some(row.why);
            let detail = format!("{}; what is unsaved is in the server's memory only", row.why);
            self.tell(now, "no copy", detail, Tone::Caution);
        }
        let (Some(run_id), Some(&changes), Some(&last_save)) =
            (look.run_id.known(), look.changes.known(), look.last_save.known())
        else {
            return;
        };
        if !row.pull {
            return;
        }
        let order = Order { at_ms: now.unix_ms, changes, last_save, run_id: run_id.clone() };
        self.copies.pulling = Some(now.mono);
        self.copies.stopped = false;
        self.copies.not_before = now.mono + self.settings.escrow.every;
        self.saver.lend();
        self.say(now, "copy asked for", format!("{}: {changes} changes unsaved", row.why));
        self.out.push_back(Action::Pull(order));
    }

    fn copy_facts(&self, now: Now, look: &Look) -> Facts {
        let cause = |ids: &[&str]| {
            self.care.found.iter().any(|f| f.kind() == Kind::Cause && ids.contains(&f.check.id))
        };
        let role = self.role.or_else(|| look.role.known().copied());
        let ours = self.lowered || self.past.exposed || self.past.told_stuck;
        let known = look.run_id.known().is_some()
            && look.changes.known().is_some()
            && look.last_save.known().is_some();
        Facts {
            when: self.settings.escrow.when,
            observes: self.settings.policy == Policy::Observe,
            open: self.journal.is_some() && ours && self.phase != Phase::Rearming && !self.closing,
            break_in: self.past.frozen || self.is_break_in(look),
            pulling: self.pulls(),
            primary: role == Some(Role::Primary),
            known,
            failed: self.saver.failures() > 0,
            stuck: self.past.told_stuck || self.past.exposed,
            tenths: self.exposure(now).tenths(),
            covered: self.copies.newest.as_ref().is_some_and(|copy| {
                look.run_id.is(copy.run_id.clone())
                    && look.last_save.is(copy.last_save)
                    && look.changes.is(copy.changes)
            }),
            due: now.mono >= self.copies.not_before,
            lasting: self.copies.lasting,
            harmful: cause(&HARMFUL),
            no_fork: self.saver.fork_failed() || cause(&NO_FORK),
            busy: !look.saving.is(false)
                || look.other_child.is(true)
                || matches!(self.talking, Some(Talk::Bgsave { .. } | Talk::Apply(_))),
            by_disk: self.copies_go_by_disk(),
        }
    }

    /// Given up: saving works again, or nothing may be touched any more.
    pub(super) fn stop_copy(&mut self) {
        if self.pulls() && !std::mem::replace(&mut self.copies.stopped, true) {
            self.out.push_back(Action::StopPull);
        }
    }

    /// Another incident: what failed in the last may go now. The pause between copies stays.
    pub(super) fn forget_copies(&mut self) {
        self.stop_copy();
        let Copies { newest, pulling, stopped, not_before, .. } = std::mem::take(&mut self.copies);
        self.copies = Copies { newest, pulling, stopped, not_before, ..Copies::default() };
    }

    pub(super) fn pulled(&mut self, now: Now, result: Result<Box<Snapshot>, PullError>) {
        self.copies.pulling = None;
        self.saver.returned();
        let stopped = std::mem::take(&mut self.copies.stopped);
        match result {
            Ok(copy) => {
                let keys = copy.keys.map_or(String::new(), |n| format!(", {n} keys"));
                let mut detail = format!(
                    "{}: {} bytes{keys}; checked: {}",
                    copy.path,
                    copy.bytes,
                    copy.checked.join(", ")
                );
                if self.lowered {
                    detail += "; exposure counts from it, the switch stays down";
                }
                self.copies.newest = Some(*copy);
                if self.lowered && mutant!(RearmsOnACopy) {
                    self.unwind = Some(Unwind::Proved);
                    self.enter(now, Phase::Rearming, "copy taken", String::new());
                    self.due = now.mono;
                }
                (self.copies.failures, self.copies.told) = (0, None);
                self.copies.taken += 1;
                // Who was called hears once that there is something to fall back on.
                let tone = if self.copies.taken == 1 { Tone::Warning } else { Tone::Note };
                self.tell(now, "copy taken", detail, tone);
            }
            Err(_) if stopped => self.say(now, "copy given up", String::new()),
            Err(error) => {
                self.copies.failures += 1;
                self.copies.lasting |= error.lasting;
                let again = again_after(self.copies.failures);
                self.copies.not_before = now.mono + again;
                let then = match error.lasting {
                    true => "not tried again in this incident".to_string(),
                    false => format!("tried again in {} s", again.as_secs()),
                };
                let tone = if self.copies.failures == 1 { Tone::Warning } else { Tone::Caution };
                self.tell(now, "copy failed", format!("{}; {then}", error.why), tone);
            }
        }
    }

    /// What a copy of this process holds is not lost with its memory: exposure counts from the moment before it
    /// was asked for. A clock that was set back leaves it out.
    pub(super) fn bound_by_copy(&self, now: Now, exposure: &mut Exposure, look: &Look) {
        let Some(copy) = self.copies.newest.as_ref().filter(|copy| look.run_id.is(copy.run_id.clone()))
        else {
            return;
        };
        let Some(age) = now.unix_ms.checked_sub(copy.at_ms).map(|ms| ms / 1000) else { return };
        if age >= exposure.secs {
            return;
        }
        exposure.secs = age;
        if look.last_save.is(copy.last_save)
            && let Some(changes) = look.changes.known()
        {
            exposure.changes = exposure.changes.min(changes.saturating_sub(copy.changes));
        }
    }

    pub(super) fn escrow_view(&self, now: Now) -> Option<EscrowView> {
        let copy = self.copies.newest.as_ref()?;
        Some(EscrowView {
            path: copy.path.clone(),
            bytes: copy.bytes,
            at: rfc3339(copy.at_ms),
            age_secs: now.unix_ms.saturating_sub(copy.at_ms) / 1000,
            run_id: copy.run_id.clone(),
            keys: copy.keys,
            checked: copy.checked.clone(),
        })
    }
}
