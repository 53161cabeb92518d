//! CONFIG REWRITE writes down what is live: while the switch is down, the `no` that is ours (M §1.14). Those that did
//! not come through us (a Sentinel sends one at each failover) are counted by the server (7.0+): they are told, and
//! written over with the operator's value where he consented (`--repair-rewrite`).
//!
//! Refuses to know: RESP, sessions. Invariant: a rewrite is held to be somebody's only when the count says so without
//! those that were, or may have been, our own.

use std::time::Duration;

use super::{Guard, Now, Tone};
use crate::guard::dialogue::Talk;
use crate::guard::evidence::{Fact, Look, Right};
use crate::guard::policy::REWRITES_EVERY;

/// What the server's count is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Base {
    /// Nothing yet: the next count.
    #[default]
    Wanted,
    /// So many were carried out, and are accounted for.
    Known(u64),
    /// This server does not count them by themselves.
    Blind,
}

/// See the module's page.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Rewrites {
    /// The process that all this is about.
    run_id: Option<String>,
    base: Base,
    /// Our own whose answer was lost: they may be in the count.
    lost: u64,
    due: Duration,
    /// From elsewhere while the switch was down, and nobody has written the file again since.
    persisted: u64,
    /// To write over them was tried.
    tried: bool,
    /// The server was started again and its switch is off: why that may be nobody's choice.
    left_off: Option<String>,
}

impl Guard {
    /// The switch went down, and so many had been carried out then.
    pub(super) fn count_from(&mut self, now: Now, run_id: Option<String>, count: &Fact<u64>) {
        let before = std::mem::take(&mut self.rewrites);
        let same = before.run_id.is_some() && before.run_id == run_id;
        self.rewrites = Rewrites {
            run_id,
            base: count.get().map_or(Base::Blind, Base::Known),
            due: now.mono + REWRITES_EVERY,
            persisted: if same { before.persisted } else { 0 },
            ..Rewrites::default()
        };
        if self.rewrites.base == Base::Blind {
            self.say_blind(now);
        }
    }

    /// The switch is down since an earlier life: what was before the next count is not known.
    pub(super) fn count_anew(&mut self, now: Now, run_id: &str) {
        if self.rewrites.run_id.as_deref() != Some(run_id) {
            let due = now.mono;
            self.rewrites = Rewrites { run_id: Some(run_id.into()), due, ..Rewrites::default() };
        }
    }

    fn say_blind(&mut self, now: Now) {
        let why = "the server does not tell how often CONFIG REWRITE ran (Redis 7.0 and INFO do): one from elsewhere \
                   would write the lowered switch into its file unnoticed";
        self.say(now, "rewrites not counted", why.into());
    }

    /// When a question of this module's is due.
    pub(super) fn rewrites_due(&self) -> Option<Duration> {
        let counts = self.lowered && self.rewrites.base != Base::Blind;
        counts.then_some(self.rewrites.due)
    }

    /// The next question: how many, or to write the right value down.
    pub(super) fn rewrites_talk(&mut self, now: Now) -> Option<Talk> {
        if self.wants_repair() {
            self.rewrites.tried = true;
            let owed = self.debt.as_ref().map_or_else(|| "yes".into(), |debt| debt.owed.clone());
            return Some(Talk::Rewrite { owed });
        }
        let due = self.rewrites_due().is_some_and(|due| now.mono >= due);
        due.then_some(Talk::Count)
    }

    /// With the switch down the transaction writes; else what is live must be the operator's again.
    pub(super) fn wants_repair(&self) -> bool {
        let Rewrites { persisted, tried, .. } = self.rewrites;
        let back = || self.look.as_ref().is_some_and(|(_, look)| look.knob.is("yes".into()));
        let may = self.settings.repair_rewrite && !self.rights.denied(Right::ConfigRewrite);
        may && persisted > 0 && !tried && (self.lowered || (self.debt.is_none() && back()))
    }

    pub(super) fn counted(&mut self, now: Now, count: &Fact<u64>) {
        self.rewrites.due = now.mono + REWRITES_EVERY;
        match (self.rewrites.base, count.get()) {
            (Base::Blind, _) | (Base::Known(_), None) => {}
            (Base::Wanted, None) => {
                self.rewrites.base = Base::Blind;
                self.say_blind(now);
            }
            (Base::Wanted, Some(count)) => self.rewrites.base = Base::Known(count),
            // CONFIG RESETSTAT: whether one ran just before it is not known.
            (Base::Known(base), Some(count)) if count < base => {
                (self.rewrites.base, self.rewrites.lost) = (Base::Known(count), 0);
                self.say(now, "rewrites counted anew", "the server's counters were reset".into());
            }
            (Base::Known(base), Some(count)) => {
                let sure = (count - base).saturating_sub(self.rewrites.lost);
                if sure > 0 && !mutant!(OverlooksARewrite) {
                    self.rewrites.base = Base::Known(base + sure);
                    self.persisted(now, sure);
                }
            }
        }
    }

    fn persisted(&mut self, now: Now, n: u64) {
        self.rewrites.persisted += n;
        self.rewrites.tried = false;
        let then = match self.settings.repair_rewrite {
            true => "bgsafe writes the file again (--repair-rewrite yes)".into(),
            false => format!("when the switch is back, type: {}", self.remedy_rewrite()),
        };
        let detail = format!("{}; {then}", self.rewrites.says().unwrap_or_default());
        self.find("rewrite-persisted-no", "crit", detail.clone(), self.remedy_rewrite());
        self.warn(now, "configuration file has our no", detail);
        self.care_soon(now);
    }

    /// The switch is back; the last count of its time.
    pub(super) fn counted_last(&mut self, now: Now, count: &Fact<u64>) {
        self.counted(now, count);
        if self.rewrites.persisted > 0 && !self.settings.repair_rewrite {
            let says = self.rewrites.says().unwrap_or_default();
            self.warn(
                now,
                "configuration file still has our no",
                format!("{says}; type: {}", self.remedy_rewrite()),
            );
        }
    }

    pub(super) fn rewritten(&mut self, now: Now, said: Result<String, String>) {
        match said {
            Ok(_) => {
                if let Base::Known(base) = &mut self.rewrites.base {
                    *base += 1;
                }
                self.rewrites.persisted = 0;
                self.tell(
                    now,
                    "configuration file written",
                    "it has the operator's switch again".into(),
                    Tone::Note,
                );
            }
            Err(why) => self.not_rewritten(now, why),
        }
    }

    pub(super) fn not_rewritten(&mut self, now: Now, why: String) {
        if self.rewrites.persisted > 0 {
            let detail = format!("{why}; when the switch is back, type: {}", self.remedy_rewrite());
            self.warn(now, "configuration file not written", detail);
        }
    }

    /// The line broke over a [`Talk::Rewrite`]: it may be in the count, and is asked for again.
    pub(super) fn rewrite_lost(&mut self) {
        self.rewrites.lost += 1;
        self.rewrites.tried = false;
    }

    /// In peace: somebody wrote the file while what is live is the operator's.
    pub(super) fn counted_in_peace(&mut self, now: Now, count: &Fact<u64>) {
        let Base::Known(base) = self.rewrites.base else { return };
        let sure = count.get().is_some_and(|count| count > base + self.rewrites.lost);
        let back = self.look.as_ref().is_some_and(|(_, look)| look.knob.is("yes".into()));
        if self.rewrites.persisted > 0 && !self.lowered && self.debt.is_none() && sure && back {
            self.rewrites.persisted = 0;
            self.tell(
                now,
                "configuration file written",
                "by somebody, with the switch back".into(),
                Tone::Note,
            );
        }
    }

    /// Another process than the one whose switch we lowered, and its switch is off: a choice, or our own `no`, read
    /// from the file?
    pub(super) fn compare_process(&mut self, now: Now, look: &Look) {
        let owed = self
            .debt
            .as_ref()
            .filter(|debt| !debt.is_aof())
            .map(|debt| (debt.run_id.clone(), debt.owed.clone()));
        let before = owed.as_ref().map(|(run_id, _)| run_id).or(self.rewrites.run_id.as_ref());
        let Some((run_id, before)) = look.run_id.known().zip(before).filter(|(now, then)| now != then) else {
            return;
        };
        debug_assert_ne!(run_id, before);
        let says = self.rewrites.says();
        self.rewrites = Rewrites { run_id: Some(run_id.clone()), ..Rewrites::default() };
        if !look.knob.is("no".into()) {
            return;
        }
        let since = "the server was started again and its switch is off";
        let why = match (says, owed) {
            (Some(says), _) => format!("{since}: {says}"),
            (None, Some((_, owed))) => format!(
                "{since}: it was {owed} before bgsafe lowered it, so its file, or whoever started it, says so now"
            ),
            (None, None) => return,
        };
        let cli = self.cli();
        let typed = format!("{cli} CONFIG SET stop-writes-on-bgsave-error yes; {cli} CONFIG REWRITE");
        self.warn(now, "switch left off", format!("{why}; if nobody chose that, type: {typed}"));
        self.rewrites.left_off = Some(why);
        self.care_soon(now);
    }

    /// Somebody set it: no more to be said.
    pub(super) fn forgive(&mut self, look: &Look) {
        if look.knob.is("yes".into()) {
            self.rewrites.left_off = None;
        }
    }

    /// For the checks: rewrites from elsewhere that wrote our `no`, and why a switch that is off may be nobody's choice.
    pub(super) fn rewrites_seen(&self) -> (Fact<u64>, Option<String>) {
        let Rewrites { persisted, base, ref left_off, .. } = self.rewrites;
        let told = persisted > 0 || (self.lowered && matches!(base, Base::Known(_)));
        (told.then_some(persisted).into(), left_off.clone())
    }

    fn remedy_rewrite(&self) -> String {
        format!("{} CONFIG REWRITE", self.cli())
    }
}

impl Rewrites {
    fn says(&self) -> Option<String> {
        let n = self.persisted;
        (n > 0).then(|| {
            format!(
                "CONFIG REWRITE ran {n} times from elsewhere while bgsafe had the switch down, so the server's file says no"
            )
        })
    }
}

#[cfg(test)]
impl Rewrites {
    /// For the model: the count relative to the server's.
    pub(super) fn print(&self, now: Now, counted: u64, h: &mut impl std::hash::Hasher) {
        let base = match self.base {
            Base::Known(base) => Some(counted.wrapping_sub(base)),
            Base::Wanted | Base::Blind => None,
        };
        let due = (base.is_some() || self.base == Base::Wanted).then(|| self.due.saturating_sub(now.mono));
        let flags = (self.base == Base::Blind, self.tried, self.left_off.is_some());
        std::hash::Hash::hash(&(base, due, self.lost, self.persisted, flags, &self.run_id), h);
    }
}
