//! What the server's answers mean for the incident: one function an answer.

use std::time::Duration;

use super::{Action, Guard, Now, Past, Unwind};
use crate::config::WhenExposed;
use crate::guard::dialogue::{Answer, Heard, Talk};
use crate::guard::evidence::{Look, Target};
use crate::guard::policy::{AOF_PROBE_EVERY, CHILD_POLL, Course, LOOK_EVERY, STUCK_AFTER, course};
use crate::guard::record::Phase;
use crate::guard::saver::{BgsaveReply, Saver, Verdict};
use crate::posture::{Posture, Variant};

/// Between PINGs that answered neither PONG nor a refusal, or contradicted the switch.
const AGAIN: Duration = Duration::from_millis(100);

impl Guard {
    pub(super) fn answered(&mut self, now: Now, sightings: u64, answer: Answer) {
        match answer {
            Answer::Probed { heard, role } => {
                self.role = role.known().copied();
                self.heard(now, sightings, heard);
            }
            Answer::Looked(look) => self.looked(now, *look),
            Answer::Lowered { previous, heard } => self.lowered(now, sightings, &previous, heard),
            Answer::NotLowered(why) => self.not_lowered(now, why),
            Answer::Restored { reads, heard } => self.restored(now, sightings, &reads, heard),
            Answer::NotOurs { found } => self.taken_over(now, format!("it reads {found}")),
            Answer::NotRestored(why) => {
                self.say(now, "switch not restored", why);
                self.due = now.mono + LOOK_EVERY;
            }
            Answer::Bgsave(reply) => self.bgsave(now, reply),
        }
    }

    fn heard(&mut self, now: Now, sightings: u64, heard: Heard) {
        match heard {
            Heard::Pong => self.pong(now, sightings),
            Heard::Refused(refusal, text) => self.refused(now, refusal.variant, text),
            Heard::Other(text) => {
                self.say(now, "ping answered otherwise", text);
                self.probe_after = now.mono + AGAIN;
                self.due = now.mono + AGAIN;
            }
        }
    }

    // ---- PING ----

    /// Gated commands pass: every ticket issued before that PING is good.
    fn pong(&mut self, now: Now, sightings: u64) {
        self.opened = self.opened.max(sightings);
        self.suspicious = false;
        self.out.push_back(Action::OpenThrough(sightings));
        match self.phase {
            Phase::Quiet => self.first = None,
            Phase::Alarmed
            | Phase::Holding
            | Phase::Exposed
            | Phase::Rearming
            | Phase::Mitigated
            | Phase::Diagnosing
            | Phase::Repairing
            | Phase::Verifying
            | Phase::Stuck => {
                self.set_posture(Posture::Forward);
                match self.lowered {
                    true => self.writes_open(now),
                    false => {
                        self.past.ending = true;
                        self.talk(Talk::Look);
                    }
                }
            }
        }
    }

    fn writes_open(&mut self, now: Now) {
        if let Some(journal) = &mut self.journal {
            journal.mitigated(now);
        }
        if !self.is_open() {
            self.enter(now, Phase::Mitigated, "writes opened", "PONG heard with the switch down".into());
            self.course = None;
            self.due = now.mono;
        }
    }

    fn refused(&mut self, now: Now, variant: Variant, text: String) {
        self.own_refusals += 1;
        let turned = self.journal.is_some() && variant != self.variant;
        let fresh = self.journal.is_none();
        self.open(now, variant);
        if fresh {
            self.set_posture(Posture::Hold);
            self.enter(now, Phase::Alarmed, "refusal heard", text);
            self.due = now.mono;
            return;
        }
        if turned {
            self.say(now, "refusal changed", text);
        }
        match (self.is_open(), variant) {
            (true, Variant::Aof) => {
                self.set_posture(Posture::Hold);
                self.enter(now, Phase::Holding, "writes parked", "the append-only file refuses too".into());
                self.due = now.mono + AOF_PROBE_EVERY;
            }
            // Somebody set the switch; the look tells. Do not ask PING faster than that is told.
            (true, Variant::Rdb) => {
                self.probe_after = now.mono + AGAIN;
                self.talk(Talk::Look);
            }
            (false, _) => self.refused_closed(now),
        }
    }

    fn refused_closed(&mut self, now: Now) {
        if self.phase == Phase::Alarmed && self.course.is_none() {
            let doubtful = std::mem::take(&mut self.past.doubtful);
            self.due = if doubtful { now.mono + AGAIN } else { now.mono };
            return;
        }
        match self.phase {
            Phase::Exposed => self.set_posture(Posture::Refuse),
            _ => self.set_posture(Posture::Hold),
        }
        let stale = self.look.as_ref().is_none_or(|(at, _)| now.mono.saturating_sub(*at) >= LOOK_EVERY);
        if self.variant == Variant::Rdb || stale {
            self.talk(Talk::Look);
        } else {
            self.due = now.mono + AOF_PROBE_EVERY;
        }
    }

    // ---- looks ----

    fn looked(&mut self, now: Now, look: Look) {
        self.look = Some((now.mono, look.clone()));
        if self.lowered {
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
        match self.phase {
            Phase::Quiet => self.looked_quiet(now, &look),
            Phase::Alarmed if self.course.is_none() => {
                if look.knob.is("no".to_string()) {
                    self.past.doubtful = true;
                    self.talk(Talk::Probe);
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
                true => self.looked_lowered(now, &look),
                false => self.looked_closed(now, &look),
            },
        }
    }

    /// The first look of a connection, against the debt: what did we, or our last life, leave?
    fn reconcile(&mut self, now: Now, look: &Look) {
        let Some(debt) = self.debt.clone() else {
            self.reconciled = true;
            self.due = now.mono;
            if self.phase == Phase::Quiet {
                self.looked_quiet(now, look);
            }
            return;
        };
        let (Some(run_id), Some(knob)) = (look.run_id.known(), look.knob.known()) else {
            self.say(now, "debt kept", "the server does not tell its run id or its switch".into());
            self.due = now.mono + LOOK_EVERY;
            return;
        };
        self.reconciled = true;
        self.due = now.mono;
        match (run_id == &debt.run_id, knob.as_str()) {
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
        if self.unwind == Some(Unwind::Spent) {
            return;
        }
        self.unwind = None;
        self.saver = Saver::default();
        self.set_posture(Posture::Forward);
        self.enter(now, Phase::Mitigated, "switch is down", "a save must prove the cure".into());
    }

    fn looked_quiet(&mut self, now: Now, look: &Look) {
        self.due = now.mono + LOOK_EVERY;
        if look.refuses_for_rdb() || look.aof_ok.is(false) {
            self.suspicious = true;
        } else if let Some(target) = Target::of(look)
            && look.save_ok.is(true)
            && !target.dir.is_empty()
            && !target.is_break_in(self.healthy.as_ref())
        {
            self.healthy = Some(target);
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
    }

    /// PONG was heard and the switch was not ours: how did that come?
    fn looked_last(&mut self, now: Now, look: &Look) {
        if look.knob.is("no".to_string()) {
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
        let verdict = self.saver.look(now, look);
        if verdict == Verdict::Proved {
            self.verified(now, look);
            self.unwind = Some(Unwind::Proved);
            self.enter(now, Phase::Rearming, "save proved", look.line());
            self.due = now.mono;
            return;
        }
        if self.spent(now) {
            return;
        }
        self.follow(now, verdict, look);
        if self.phase == Phase::Holding {
            self.due = self.due.min(now.mono + AOF_PROBE_EVERY);
        }
    }

    fn looked_closed(&mut self, now: Now, look: &Look) {
        let row = course(&self.facts(now));
        if self.course != Some(row.why) && row.course != Course::Look {
            self.course = None;
            if row.course == Course::Lower {
                self.enter(now, Phase::Alarmed, "course changed", row.why.into());
                self.due = now.mono;
            } else {
                self.decide(now);
            }
            return;
        }
        match row.course {
            Course::Observe | Course::Freeze | Course::Look | Course::Lower => {
                self.due = now.mono + LOOK_EVERY;
            }
            Course::ParkAof => self.due = now.mono + AOF_PROBE_EVERY,
            Course::Park | Course::Refuse => {
                let verdict = self.saver.look(now, look);
                self.follow(now, verdict, look);
            }
        }
    }

    fn follow(&mut self, now: Now, verdict: Verdict, look: &Look) {
        match verdict {
            // Only where the switch is not ours: PING will say the rest.
            Verdict::Proved => self.due = now.mono + CHILD_POLL.0,
            Verdict::Running(until) | Verdict::Wait(until) => self.due = until,
            Verdict::Try(_) if self.past.frozen || self.is_break_in(look) => {
                if !self.past.frozen {
                    self.freeze(now);
                }
                self.due = now.mono + LOOK_EVERY;
            }
            Verdict::Try(schedule) => self.talk(Talk::Bgsave { schedule }),
        }
        self.stuck(now, look);
    }

    fn verified(&mut self, now: Now, look: &Look) {
        if let Some(journal) = &mut self.journal {
            journal.verified(now);
        }
        self.say(now, "saving works", look.line());
    }

    fn stuck(&mut self, now: Now, look: &Look) {
        if self.saver.failures() < STUCK_AFTER || self.past.told_stuck {
            return;
        }
        self.past.told_stuck = true;
        let gone = look.dir.known().is_some_and(String::is_empty);
        let home = self.healthy.as_ref().map_or("DIR", |target| target.dir.as_str()).to_string();
        let cli = self.cli();
        let (id, remedy) = match gone {
            true => ("dir-missing", format!("mkdir -p {home} && {cli} CONFIG SET dir {home} && {cli} BGSAVE")),
            false => ("unknown", format!("read the server's log for the cause, then: {cli} BGSAVE")),
        };
        let evidence = format!("{} saves failed in a row; {}", self.saver.failures(), look.line());
        self.find(id, "crit", evidence.clone(), remedy.clone());
        match self.lowered && self.phase != Phase::Holding {
            true => self.enter(now, Phase::Stuck, "saves keep failing", format!("{evidence}; type: {remedy}")),
            false => self.say(now, "saves keep failing", format!("{evidence}; type: {remedy}")),
        }
    }

    fn bgsave(&mut self, now: Now, reply: BgsaveReply) {
        self.saver.said(now, &reply);
        self.due = now.mono + CHILD_POLL.0;
        let (event, detail) = match reply {
            BgsaveReply::Started => ("bgsave started", format!("try {}", self.saver.tries())),
            BgsaveReply::Scheduled => ("bgsave scheduled", String::new()),
            BgsaveReply::InProgress => ("bgsave waits", "another child saves".into()),
            BgsaveReply::OtherChild => ("bgsave waits", "another child runs".into()),
            BgsaveReply::ForkFailed => ("bgsave failed", "the server could not fork".into()),
            BgsaveReply::Failed(words) => ("bgsave failed", words),
            BgsaveReply::Denied(words) => {
                self.find("config-blocked", "warn", words.clone(), self.remedy_config());
                ("bgsave denied", words)
            }
        };
        match self.phase {
            Phase::Mitigated => self.enter(now, Phase::Verifying, event, detail),
            _ => self.say(now, event, detail),
        }
    }

    // ---- the switch ----

    fn lowered(&mut self, now: Now, sightings: u64, previous: &str, heard: Heard) {
        let in_doubt = std::mem::take(&mut self.lower_in_doubt);
        if previous == "no" && !in_doubt {
            // Somebody else's `no`, read in the transaction itself: ours changed nothing.
            self.past.hands_off = true;
            self.say(now, "switch was down already", "the operator's own choice: left alone".into());
            self.erase_debt();
            self.course = None;
            self.enter(now, Phase::Holding, "hands off", String::new());
            self.due = now.mono;
            if heard == Heard::Pong {
                self.opened = self.opened.max(sightings);
                self.out.push_back(Action::OpenThrough(sightings));
                self.set_posture(Posture::Forward);
            }
            return;
        }
        let changes = self.look.as_ref().and_then(|(_, look)| look.changes.known().copied()).unwrap_or(0);
        self.lowered = true;
        self.lowered_at = (now.unix_ms, changes);
        self.saver = Saver::default();
        // What was seen before is what we changed.
        self.look = None;
        self.due = now.mono;
        self.suspicious = true;
        let detail = format!("it was {previous}");
        match heard {
            Heard::Pong => self.say(now, "switch lowered", detail),
            Heard::Refused(..) | Heard::Other(_) => self.enter(now, Phase::Mitigated, "switch lowered", detail),
        }
        self.heard(now, sightings, heard);
    }

    fn not_lowered(&mut self, now: Now, why: String) {
        self.lower_in_doubt = false;
        self.config_refused = true;
        self.say(now, "switch not lowered", why);
        self.erase_debt();
        self.due = now.mono;
    }

    fn restored(&mut self, now: Now, sightings: u64, reads: &str, heard: Heard) {
        let owed = self.debt.as_ref().map_or("yes", |debt| debt.owed.as_str());
        if reads != owed {
            self.say(now, "switch not restored", format!("it reads {reads}, not {owed}"));
            self.due = now.mono + LOOK_EVERY;
            return;
        }
        let refused_again = matches!(&heard, Heard::Refused(refusal, _) if refusal.variant == Variant::Rdb);
        let proved = self.unwind == Some(Unwind::Proved);
        self.lowered = false;
        self.look = None;
        if refused_again && proved {
            // It failed anew between the proof and the restore. The debt stays for the next round.
            self.unwind = None;
            self.course = None;
            self.own_refusals += 1;
            self.set_posture(Posture::Hold);
            self.enter(now, Phase::Alarmed, "refused again", "a save failed after the proof".into());
            self.due = now.mono;
            return;
        }
        self.say(now, "switch restored", format!("it reads {reads}"));
        self.put_back(now);
        match heard {
            Heard::Pong => {
                self.opened = self.opened.max(sightings);
                self.suspicious = false;
                self.out.push_back(Action::OpenThrough(sightings));
                return self.finish(now);
            }
            Heard::Refused(refusal, _) => {
                self.own_refusals += 1;
                self.open(now, refusal.variant);
            }
            Heard::Other(_) => {}
        }
        self.wait_for_pong(now);
    }

    /// The operator's value is back.
    fn put_back(&mut self, now: Now) {
        let spent = self.unwind.take() == Some(Unwind::Spent);
        self.past = Past { rearmed: !spent, exposed: spent, ..self.past };
        self.course = spent.then(|| course(&self.facts(now)).why);
        self.due = now.mono;
    }

    /// … but PING has not said PONG yet.
    fn wait_for_pong(&mut self, now: Now) {
        self.erase_debt();
        if self.phase != Phase::Exposed {
            self.enter(now, Phase::Holding, "switch is back", "waiting for PONG".into());
        }
    }

    /// The switch does not read the `no` we set: an operator's hand. It is theirs from here on.
    fn taken_over(&mut self, now: Now, detail: String) {
        self.say(now, "operator set the switch", detail);
        self.lowered = false;
        self.unwind = None;
        self.past.hands_off = true;
        self.course = None;
        if self.look.as_ref().is_some_and(|(_, look)| look.refuses_for_rdb()) {
            self.set_posture(Posture::Hold);
        }
        self.erase_debt();
        self.enter(now, Phase::Holding, "hands off", "a save is still tried".into());
        self.due = now.mono;
    }

    // ---- exposure ----

    /// Is the budget spent, and did we begin to act on it?
    fn spent(&mut self, now: Now) -> bool {
        let exposure = self.exposure(now);
        let over = |value: u64, max: u64| max > 0 && value >= max;
        if !over(exposure.secs, exposure.secs_max) && !over(exposure.changes, exposure.changes_max) {
            return false;
        }
        let detail = format!("{} s and {} changes unsaved", exposure.secs, exposure.changes);
        match self.settings.when_exposed {
            WhenExposed::Keep => {
                if !std::mem::replace(&mut self.past.told_keep, true) {
                    self.say(now, "exposure budget spent", format!("{detail}; writes stay open by --when-exposed keep"));
                }
                false
            }
            WhenExposed::Rearm => {
                self.unwind = Some(Unwind::Spent);
                self.set_posture(Posture::Refuse);
                self.enter(now, Phase::Exposed, "exposure budget spent", detail);
                self.due = now.mono;
                true
            }
        }
    }
}
