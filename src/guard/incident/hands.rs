//! What the guard's hands do: ask, write the debt, set the posture, tell. No decision is taken here.

use super::{Action, Guard, Now, Tone, Unwind};
use crate::config::Policy;
use crate::guard::debt::{Debt, VERSION, VERSION_SETTING};
use crate::guard::dialogue::{KNOB, Talk};
use crate::guard::policy::{Course, Facts, course};
use crate::guard::record::{Finding, Phase};
use crate::posture::Posture;

impl Guard {
    pub(super) fn talk(&mut self, talk: Talk) {
        self.talking = Some(talk.clone());
        self.out.push_back(Action::Talk(talk));
    }

    pub(super) fn restore(&mut self) {
        match &self.debt {
            Some(debt) => {
                let owed = debt.owed.clone();
                self.talk(Talk::Restore { owed });
            }
            // Unreachable by the invariants; asking PING is what leads out of any confusion.
            None => self.talk(Talk::Probe),
        }
    }

    /// Notes that this setting, which reads `yes` now, is to be `yes` again.
    pub(super) fn write_debt(&mut self, now: Now, setting: &str) {
        let run_id = self.look.as_ref().and_then(|(_, look)| look.run_id.known().cloned());
        let incident = self.journal.as_ref().map(|j| j.record().id.clone());
        let (Some(run_id), Some(incident)) = (run_id, incident) else { return };
        let debt = Debt {
            version: if setting == KNOB { VERSION } else { VERSION_SETTING },
            setting: setting.into(),
            address: self.settings.address.clone(),
            upstream: self.settings.upstream.clone(),
            run_id,
            // The switch is a boolean and the server refuses for it, so it reads `yes`; what the
            // transaction reads decides in the end.
            owed: self.several.owed().unwrap_or_else(|| "yes".into()),
            since_ms: now.unix_ms,
            incident,
        };
        self.debt = Some(debt.clone());
        self.stale_note = false;
        self.storing = !mutant!(LowersBeforeTheDebtIsDurable);
        self.out.push_back(Action::WriteDebt(debt));
    }

    pub(super) fn erase_debt(&mut self) {
        if self.debt.take().is_some() {
            self.storing = true;
            self.out.push_back(Action::EraseDebt);
        }
    }

    /// While nothing is owed: what could not be erased is tried again.
    pub(super) fn erase_stale_note(&mut self) {
        if self.debt.is_none() && std::mem::take(&mut self.stale_note) {
            self.storing = true;
            self.out.push_back(Action::EraseDebt);
        }
    }

    /// Policy observe: tells what another policy would have done.
    pub(super) fn only_watch(&mut self, now: Now) {
        let would = course(&Facts { policy: Policy::Mitigate, ..self.facts(now) });
        let what = match would.course {
            Course::Lower
            | Course::HandOver
            | Course::Shelter
            | Course::Look
            | Course::Ask
            | Course::Observe => "would lower the switch and try a BGSAVE",
            Course::ParkAof => "would park writes until the append-only file heals",
            Course::Park => "would park writes and try a BGSAVE",
            Course::Shun => "would park writes and try nothing",
            Course::Freeze => "would park writes and touch nothing",
            Course::Refuse => "would deliver refusals and try a BGSAVE",
        };
        self.say(now, "only watching", format!("policy observe; mitigate {what}: {}", would.why));
    }

    pub(super) fn freeze(&mut self, now: Now) {
        self.past.frozen = true;
        self.give_up();
        self.stop_copy();
        self.aof.give_up();
        let evidence = self.look.as_ref().map_or_else(String::new, |(_, look)| {
            format!("dir={:?} dbfilename={:?}, were {:?}", look.dir, look.dbfilename, self.healthy)
        });
        let remedy = format!("{} CONFIG GET dir dbfilename; who set them? rotate its secrets", self.cli());
        self.find("break-in-signs", "crit", evidence, remedy);
        self.set_posture(Posture::Hold);
        // On a replica it lets nobody write, and to put it back would end the process.
        if self.lowered && !self.is_replica() {
            self.unwind = Some(Unwind::Frozen);
            self.due = now.mono;
        }
        self.enter(now, Phase::Stuck, "frozen", "the snapshot's target moved to a suspect place".into());
    }

    pub(super) fn set_posture(&mut self, posture: Posture) {
        // The switch is down, and Sentinel has replaced this server or is about to: nothing opens it meanwhile.
        let posture = if posture == Posture::Forward && self.is_shunned() { Posture::Hold } else { posture };
        // Policy observe delivers what comes, as it comes.
        if self.posture != posture && (self.settings.policy != Policy::Observe) {
            self.posture = posture;
            self.out.push_back(Action::SetPosture(posture));
        }
    }

    pub(super) fn enter(&mut self, now: Now, phase: Phase, event: &'static str, detail: String) {
        let new = self.phase != phase;
        self.phase = phase;
        self.tell(now, event, detail, if new { Tone::Turn } else { Tone::Aside });
        if new && let Some(journal) = &self.journal {
            self.out.push_back(Action::Record(Box::new(journal.record().clone())));
        }
    }

    pub(super) fn say(&mut self, now: Now, event: &'static str, detail: String) {
        self.tell(now, event, detail, Tone::Aside);
    }

    /// The phase is the same, and yet somebody must hear of it.
    pub(super) fn warn(&mut self, now: Now, event: &'static str, detail: String) {
        self.tell(now, event, detail, Tone::Warning);
    }

    pub(super) fn tell(&mut self, now: Now, event: &'static str, detail: String, tone: Tone) {
        // The same words again tell nothing.
        let said = (self.phase, event, detail.clone());
        if tone != Tone::Turn && self.said.as_ref() == Some(&said) {
            return;
        }
        self.said = Some(said);
        if let Some(journal) = &mut self.journal {
            journal.note(now, self.phase, event, detail.clone());
        }
        self.out.push_back(Action::Said(self.phase, event, detail, tone));
    }

    pub(super) fn find(&mut self, id: &str, severity: &str, evidence: String, remedy: String) {
        if let Some(journal) = &mut self.journal {
            let (id, severity) = (id.to_string(), severity.to_string());
            journal.finding(Finding { id, severity, evidence, remedy, applied: false });
        }
    }
}
