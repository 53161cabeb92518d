//! What a look at the server means for the incident, phase by phase: the debt is compared, saves
//! are proved or tried, the exposure budget is watched.

use super::over::Over;
use super::several::{Claim, Turn};
use super::{Action, Guard, Now, Unwind};
use crate::config::WhenExposed;
use crate::guard::debt::Debt;
use crate::guard::dialogue::Talk;
use crate::guard::evidence::{Healthy, Look, Role, Target};
use crate::guard::policy::{
    AOF_PROBE_EVERY, CHILD_POLL, Course, LOOK_EVERY, NURSE_EVERY, STUCK_AFTER, Settings, course,
};
use crate::guard::record::{Exposure, Phase};
use crate::guard::saver::{Saver, Verdict};
use crate::posture::{Posture, Variant};

impl Guard {
    pub(super) fn looked(&mut self, now: Now, look: Look) {
        self.look = Some((now.mono, look.clone()));
        self.forgive(&look);
        if self.pulls() {
            self.saver.lend();
        }
        if self.lowered || self.follows() {
            let changes = self.exposure(now).changes;
            if let Some(journal) = &mut self.journal {
                journal.exposed(changes);
            }
        }
        if !self.reconciled {
            self.reconcile(now, &look);
            return;
        }
        if std::mem::take(&mut self.past.ending) {
            return self.looked_last(now, &look);
        }
        if self.is_moving() {
            return self.looked_moving(now, &look);
        }
        if self.aof_looked(now, &look) {
            return;
        }
        match self.phase {
            Phase::Quiet => self.looked_quiet(now, &look),
            Phase::Alarmed if self.course.is_none() => {
                if look.knob.is("no".to_string()) {
                    self.past.doubtful = true;
                    self.talk(Talk::Probe);
                } else if self.follows() {
                    self.unfollow_alarmed(now);
                }
            }
            Phase::Rearming => {}
            Phase::Alarmed
            | Phase::Holding
            | Phase::Exposed
            | Phase::Mitigated
            | Phase::Diagnosing
            | Phase::Repairing
            | Phase::Verifying
            | Phase::Stuck => match self.lowered {
                _ if self.follows() => self.looked_following(now, &look),
                true => self.looked_lowered(now, &look),
                false => self.looked_closed(now, &look),
            },
        }
        self.consider_copy(now, &look);
    }

    /// The first look of a connection, against the debt: what did we, or our last life, leave?
    fn reconcile(&mut self, now: Now, look: &Look) {
        self.claim_stray(look);
        self.compare_process(now, look);
        if self.debt.as_ref().is_some_and(Debt::is_aof) {
            return self.reconcile_aof(now, look);
        }
        let Some(debt) = self.debt.clone() else {
            self.reconciled = true;
            self.due = now.mono;
            if self.phase == Phase::Quiet {
                self.looked_quiet(now, look);
            }
            return;
        };
        let (Some(run_id), Some(knob)) = (look.run_id.known(), look.knob.known()) else {
            self.several.claim = Claim::None;
            self.say(now, "debt kept", "the server does not tell its run id or its switch".into());
            self.due = now.mono + LOOK_EVERY;
            return;
        };
        self.due = now.mono;
        if run_id == &debt.run_id && knob == "no" {
            // Another bgsafe may have lowered it, or taken our debt over while we were away.
            match self.turn(now, true) {
                Turn::Ask(talk) => return self.talk(talk),
                Turn::Go => {}
            }
        }
        self.reconciled = true;
        self.several.claim = Claim::None;
        match (run_id == &debt.run_id || mutant!(AdoptsAnybodysDebt), knob.as_str()) {
            // A restart took the switch back to its configured value (M: CONFIG SET does not last).
            (false, _) => {
                self.say(now, "debt void", "the server was restarted".into());
                self.lowered = false;
                self.unwind = None;
                self.erase_debt();
                if self.journal.is_some() {
                    self.past.restarted = true;
                    self.course = None;
                    self.saver = Saver::default();
                    self.enter(now, Phase::Holding, "server restarted", "its switch is its own again".into());
                }
            }
            // A debt of this very incident, and nothing that lowers was ever sent: an operator's hand.
            (true, "no") if self.owes_without_lowering(&debt) => {
                self.taken_over(now, "it was set to no while we were away".into());
            }
            (true, "no") => self.adopt(now, &debt.incident, debt.since_ms),
            // It reads `yes`: our own restore arrived, though its answer did not …
            (true, _) if self.restore_in_doubt => {
                self.lowered = false;
                self.put_back(now);
                self.wait_for_pong(now);
            }
            // … or the operator set it …
            (true, _) if self.lowered => self.taken_over(now, "it was set while we were away".into()),
            // … or we died, or lost the line, before it was lowered.
            (true, _) if self.phase == Phase::Alarmed => {}
            (true, _) => {
                self.say(now, "debt already paid", format!("the switch reads {knob}"));
                self.erase_debt();
            }
        }
        self.restore_in_doubt = false;
    }

    fn owes_without_lowering(&self, debt: &Debt) -> bool {
        let ours = self.record().is_some_and(|record| record.id == debt.incident);
        ours && !self.lowered && !self.lower_in_doubt && !mutant!(TakesANoForOurs)
    }

    /// A debt of this very process, noted when it was reached under another address, is ours to pay.
    fn claim_stray(&mut self, look: &Look) {
        let owed = |debt: &Debt| debt.is_aof() || look.knob.is("no".to_string());
        let of_this = |debt: &Debt| look.run_id.is(debt.run_id.clone()) && owed(debt);
        let Some(at) = self.strays.iter().position(of_this).filter(|_| self.debt.is_none()) else { return };
        let Settings { address, upstream, .. } = self.settings.clone();
        let debt = Debt { address, upstream, ..self.strays.remove(at) };
        self.debt = Some(debt.clone());
        self.storing = true;
        self.out.push_back(Action::WriteDebt(debt));
    }

    /// The switch reads the `no` that the debt tells of: go on where it was left.
    fn adopt(&mut self, now: Now, incident: &str, since_ms: u64) {
        if self.journal.is_none() {
            self.open(now, Variant::Rdb);
            self.lowered_at = (since_ms, 0);
            self.say(now, "debt adopted", format!("of incident {incident}"));
        }
        if self.lowered_at.0 == 0 {
            self.lowered_at = (since_ms, 0);
        }
        self.lowered = true;
        self.lower_in_doubt = false;
        self.suspicious = true;
        if let Some(debt) = self.debt.clone() {
            self.count_anew(now, &debt.run_id);
        }
        match self.over.clone() {
            Over::Lowering(to) => return self.move_over(now, to),
            Over::Moving { .. } => return self.set_posture(Posture::Hold),
            Over::Idle | Over::Choosing(_) => {}
        }
        if matches!(self.unwind, Some(Unwind::Spent | Unwind::Frozen | Unwind::Stayed)) {
            self.set_posture(Posture::Hold);
            return;
        }
        self.unwind = None;
        self.saver = Saver::default();
        self.set_posture(Posture::Forward);
        self.enter(now, Phase::Mitigated, "switch is down", "a save must prove the cure".into());
    }

    fn looked_quiet(&mut self, now: Now, look: &Look) {
        self.due = now.mono + if self.is_nursed(look) { NURSE_EVERY } else { LOOK_EVERY };
        self.erase_stale_note();
        if look.refuses_for_rdb() || look.aof_ok.is(false) {
            self.suspicious = true;
        } else if let Some(target) = Target::of(look)
            && look.save_ok.is(true)
            && !target.dir.is_empty()
            && !self.is_break_in(look)
            && let Some(save) = look.save.known()
        {
            let known = self.healthy.take().filter(|healthy| healthy.dir == target.dir).unwrap_or_default();
            let Target { dir, dbfilename } = target;
            self.healthy = Some(Healthy { dir, dbfilename, save: save.clone(), ..known });
        }
        if let Some(&misconf) = look.misconf.known() {
            if let Some((before, sighted)) = self.counted {
                let seen = self.sighted.saturating_sub(sighted) + self.own_refusals;
                let silent = misconf.saturating_sub(before).saturating_sub(seen);
                if silent > 0 {
                    self.out.push_back(Action::Silent(silent));
                    self.suspicious = true;
                }
            }
            self.counted = Some((misconf, self.sighted));
            self.own_refusals = 0;
        }
        self.ask_whose_in_peace(now, look);
    }

    /// PONG was heard and the switch was not ours: how did that come?
    fn looked_last(&mut self, now: Now, look: &Look) {
        if self.aof_judged(now, look) {
            return;
        }
        if look.knob.is("no".to_string()) {
            if self.ask_whose() {
                self.past.ending = true;
                return;
            }
            self.past.hands_off = true;
        }
        if self.variant == Variant::Rdb && look.save_ok.is(true) {
            self.verified(now, look);
        }
        self.finish(now);
    }

    fn looked_lowered(&mut self, now: Now, look: &Look) {
        if look.knob.known().is_some_and(|knob| knob != "no") {
            return self.taken_over(now, "somebody set it".into());
        }
        // Putting it back on a replica whose save failed would abort the process at the next write of
        // its primary (replication panic of 7.0, server.c:processCommand); lowered it answers READONLY.
        let new = look.role.is(Role::Replica) && !std::mem::replace(&mut self.past.told_role, true);
        if new && !self.neighbours.lowered_as_replica {
            self.say(now, "no longer a primary", "the switch stays down until a save is proved".into());
        }
        self.shun_while_lowered(now);
        if !self.past.frozen && self.is_break_in(look) {
            return self.freeze(now);
        }
        let verdict = self.saver.look(now, look);
        if verdict == Verdict::Proved {
            self.verified(now, look);
            self.unwind = Some(Unwind::Proved);
            self.enter(now, Phase::Rearming, "save proved", look.line());
            if mutant!(ErasesTheDebtEarly) {
                self.storing = true;
                self.out.push_back(Action::EraseDebt);
            }
            self.due = now.mono;
            return;
        }
        // Nobody's writes are let in by it on a replica, so there is no budget to spend.
        if !self.is_replica() && self.spent(now) {
            return;
        }
        self.follow(now, verdict, look);
        if self.phase == Phase::Holding {
            self.due = self.due.min(now.mono + AOF_PROBE_EVERY);
        }
        self.allow(now);
        if let Some(at) = self.secs_spent_at(now) {
            self.due = self.due.min(at);
        }
    }

    fn looked_closed(&mut self, now: Now, look: &Look) {
        let row = course(&self.facts(now));
        if self.course != Some(row.why) && !matches!(row.course, Course::Look | Course::Ask) {
            self.course = None;
            if matches!(row.course, Course::Lower | Course::Shelter | Course::HandOver) {
                self.enter(now, Phase::Alarmed, "course changed", row.why.into());
                self.due = now.mono;
            } else {
                self.decide(now);
            }
            return;
        }
        match row.course {
            Course::Ask => self.ask_who_watches(now),
            Course::Observe
            | Course::Freeze
            | Course::Shun
            | Course::Look
            | Course::Shelter
            | Course::HandOver
            | Course::Lower => {
                self.due = now.mono + LOOK_EVERY;
            }
            Course::ParkAof => self.aof_parked(now, look),
            Course::Park | Course::Refuse => {
                let verdict = self.saver.look(now, look);
                self.follow(now, verdict, look);
            }
        }
    }

    pub(super) fn follow(&mut self, now: Now, verdict: Verdict, look: &Look) {
        match verdict {
            // Only where the switch is not ours: PING will say the rest.
            Verdict::Proved => self.due = now.mono + CHILD_POLL.0,
            Verdict::Running(_) if mutant!(Spins) => self.due = now.mono,
            Verdict::Running(until) | Verdict::Wait(until) => self.due = until,
            Verdict::Try(_) if self.past.frozen || self.is_break_in(look) => {
                if !self.past.frozen {
                    self.freeze(now);
                }
                self.due = now.mono + LOOK_EVERY;
            }
            // The server has one place for a child, and it is lent to a copy.
            Verdict::Try(_) if self.copy_is_near(now) => self.due = now.mono + LOOK_EVERY,
            Verdict::Try(_) if self.tries_do_harm() => {
                self.due = now.mono + LOOK_EVERY;
                self.call_a_human(now, look);
            }
            Verdict::Try(schedule) => match self.care_is_near(now) {
                // The server may heal meanwhile, or the budget be spent: it is looked at all the same.
                Some(until) => self.due = until.min(now.mono + LOOK_EVERY),
                None => self.talk(Talk::Bgsave { schedule }),
            },
        }
        self.care_about_failures(now);
        if self.saver.failures() >= STUCK_AFTER {
            self.call_a_human(now, look);
        }
    }

    pub(super) fn verified(&mut self, now: Now, look: &Look) {
        if let Some(journal) = &mut self.journal {
            journal.verified(now);
        }
        // What the operator asks next: did the cure make forks slower, or faster?
        let fork = match (self.fork_before(), look.fork_usec.get()) {
            (Some(before), Some(after)) => format!(" fork_usec={before}->{after}"),
            (Some(_), None) | (None, _) => String::new(),
        };
        match self.variant {
            Variant::Rdb => self.say(now, "saving works", look.line() + &fork),
            Variant::Aof => self.say(now, "append-only file is sound", "every sign of it is good".into()),
        }
    }

    fn call_a_human(&mut self, now: Now, look: &Look) {
        if std::mem::replace(&mut self.past.told_stuck, true) {
            return;
        }
        let remedy = match self.cause() {
            // Nothing is tried any more: the human's own save is the proof.
            Some(cause) if self.tries_do_harm() => format!("{}; then: {} BGSAVE", cause.remedy, self.cli()),
            Some(cause) => cause.remedy,
            None => format!("read the server's log for the cause, then: {} BGSAVE", self.cli()),
        };
        let evidence = format!("{} saves failed in a row; {}", self.saver.failures(), look.line());
        if self.record().is_none_or(|record| record.findings.is_empty()) {
            self.find("unknown", "crit", evidence.clone(), remedy.clone());
        }
        let detail = format!("{evidence}; type: {remedy}");
        match self.lowered && self.phase != Phase::Holding {
            true => self.enter(now, Phase::Stuck, "saves keep failing", detail),
            false => self.say(now, "saves keep failing", detail),
        }
    }

    /// Is the budget spent, and did we begin to act on it?
    fn spent(&mut self, now: Now) -> bool {
        let exposure = self.exposure(now);
        let over = |value: u64, max: u64| max > 0 && value >= max;
        if !over(exposure.secs, exposure.secs_max) && !over(exposure.changes, exposure.changes_max) {
            self.warn_of_exposure(now, &exposure);
            return false;
        }
        let detail = format!("{} s and {} changes unsaved", exposure.secs, exposure.changes);
        match self.settings.when_exposed {
            WhenExposed::Keep => {
                if !std::mem::replace(&mut self.past.told_keep, true) {
                    self.warn(
                        now,
                        "exposure budget spent",
                        format!("{detail}; writes stay open by --when-exposed keep"),
                    );
                }
                false
            }
            WhenExposed::Redirect if !self.past.spending && !self.sentinel_rules() => {
                self.past.spending = true;
                self.enter(now, Phase::Holding, "exposure budget spent", detail);
                self.hand_over(now, "the exposure budget is spent");
                true
            }
            WhenExposed::Rearm | WhenExposed::Redirect => {
                self.unwind = Some(Unwind::Spent);
                // Parked until the switch is back: what is forwarded before would be taken, and unsaved.
                self.set_posture(Posture::Hold);
                self.enter(now, Phase::Exposed, "exposure budget spent", detail);
                self.due = now.mono;
                true
            }
        }
    }

    /// Half of a budget, and nine tenths: while there is time to act. Each is told once in an incident.
    fn warn_of_exposure(&mut self, now: Now, exposure: &Exposure) {
        let share = exposure.tenths();
        let told = self.past.told_tenths;
        let (tenths, event) = match share {
            9.. if told < 9 => (9, "nine tenths of the exposure budget spent"),
            5.. if told < 5 => (5, "half of the exposure budget spent"),
            _ => return,
        };
        self.past.told_tenths = tenths;
        let limit = |max: u64, unit: &str| if max == 0 { String::new() } else { format!(" of {max}{unit}") };
        let Exposure { secs, changes, secs_max, changes_max, .. } = *exposure;
        let then = match self.settings.when_exposed {
            WhenExposed::Rearm => "then writes are refused again",
            WhenExposed::Redirect => "then a replica is to take over",
            WhenExposed::Keep => "writes stay open by --when-exposed keep",
        };
        let (of_secs, of_changes) = (limit(secs_max, " s"), limit(changes_max, ""));
        self.warn(now, event, format!("{secs} s{of_secs} and {changes} changes{of_changes} unsaved; {then}"));
    }
}
