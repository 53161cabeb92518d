//! Where an incident begins and where it ends: after the last debt was erased, with the outcome
//! that its past commands.

use super::aof::Aof;
use super::over::Over;
use super::{Action, Guard, Now, Past};
use crate::guard::journal::Journal;
use crate::guard::record::{Outcome, Phase};
use crate::guard::saver::Saver;
use crate::posture::{Posture, Variant};

impl Guard {
    pub(super) fn stored(&mut self, now: Now, result: Result<(), String>) {
        self.storing = false;
        if let Err(why) = result {
            self.say(now, "debt not stored", why.clone());
            // What failed late may have been written all the same, and what was not erased is still there: the
            // next life would take the operator's own `no` for ours.
            self.stale_note = true;
            // A debt that is owed already is owed without its note too.
            if !self.lowered && !mutant!(TrustsAFailedStore) && self.debt.take().is_some() {
                self.past.debt_failed = true;
                let remedy = "make --state-dir writable and give its filesystem room".to_string();
                self.find("unknown", "warn", format!("bgsafe could not write its debt: {why}"), remedy);
            }
        }
        if self.closing {
            self.close(now);
        }
    }

    /// Ends the incident, once no debt is left to erase.
    pub(super) fn finish(&mut self, now: Now) {
        if self.take_back(now) {
            return;
        }
        self.closing = true;
        self.erase_debt();
        if !self.storing {
            self.close(now);
        }
    }

    fn close(&mut self, now: Now) {
        let outcome = match self.past {
            Past { redirected: true, .. } => Outcome::Redirected,
            Past { exposed: true, .. } => Outcome::Exposed,
            Past { hands_off: true, .. } | Past { restarted: true, .. } => Outcome::Operator,
            Past { frozen: true, .. } => Outcome::Operator,
            Past { rearmed: true, .. } => Outcome::Rearmed,
            Past { .. } => Outcome::SelfHealed,
        };
        self.forget_copies();
        self.watched.end();
        self.set_posture(Posture::Forward);
        self.enter(now, Phase::Quiet, "incident closed", outcome.name().into());
        if let Some(journal) = self.journal.take() {
            self.out.push_back(Action::Record(Box::new(journal.close(now, outcome))));
        }
        self.closing = false;
        self.several.begin();
        self.lowered = false;
        self.lower_in_doubt = false;
        self.restore_in_doubt = false;
        self.unwind = None;
        self.suspicious = false;
        self.counted = None;
        self.lowered_at = (0, 0);
        self.own_refusals = 0;
        self.pings_refused = 0;
        self.course = None;
        self.saver = Saver::default();
        self.past = Past::default();
        self.neighbours.over();
        self.over = Over::Idle;
        self.refusal = None;
        self.care.begin(now);
        self.aof = Aof::default();
        // A fresh look at once: the next refusal may come at any moment.
        self.due = now.mono;
    }

    /// Opens an incident unless one is open.
    pub(super) fn open(&mut self, now: Now, variant: Variant) {
        if self.journal.is_none() {
            let first = self.first.take().unwrap_or(now);
            self.journal = Some(Journal::open(first, self.settings.nonce, &self.settings.address, variant));
            self.saver = Saver::default();
            self.past = Past::default();
            self.course = None;
            self.several.begin();
            self.care.begin(now);
            self.aof = Aof::default();
            self.out.push_back(Action::Opened);
        }
        self.variant = variant;
        if let Some(journal) = &mut self.journal {
            journal.variant(variant);
        }
    }
}
