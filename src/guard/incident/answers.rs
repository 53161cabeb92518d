//! What the server's answers to PING, to the switch and to BGSAVE mean for the incident. What it
//! showed to a look is in [`super::looks`].

use std::time::Duration;

use super::aof::Stage;
use super::over::Over;
use super::several::Claim;
use super::{Action, Guard, Now, Past, Unwind};
use crate::guard::dialogue::{Answer, Heard, Talk};
use crate::guard::evidence::Fact;
use crate::guard::policy::{AOF_PROBE_EVERY, CHILD_POLL, LOOK_EVERY, course};
use crate::guard::record::Phase;
use crate::guard::saver::{BgsaveReply, Saver};
use crate::posture::{Posture, Variant};

/// Between PINGs that answered neither PONG nor a refusal, or contradicted the switch.
const AGAIN: Duration = Duration::from_millis(100);

impl Guard {
    pub(super) fn answered(&mut self, now: Now, sightings: u64, answer: Answer) {
        self.learn(&answer);
        match answer {
            Answer::Probed { heard, role, target } => {
                self.role = role.known().copied();
                // The look that an incident is decided by may be from before an intruder came.
                if let (Some(target), Some((_, look))) = (target, &mut self.look) {
                    (look.dir, look.dbfilename) = (Fact::Known(target.dir), Fact::Known(target.dbfilename));
                }
                self.heard(now, sightings, heard);
            }
            Answer::Looked(look) => self.looked(now, *look),
            Answer::Inquired(found) => {
                self.told_who_watches(now, found.1.sentinels.clone());
                self.inquired(now, found.0, found.1);
            }
            Answer::Applied(result) => self.stepped(now, result.map(|()| "accepted".into())),
            Answer::Lowered { previous, heard, rewrites } => {
                self.lowered(now, sightings, &previous, heard, &rewrites);
            }
            Answer::NotLowered(why) => self.not_lowered(now, why),
            Answer::Restored { reads, heard, rewrites } => {
                self.restored(now, sightings, &reads, heard, &rewrites);
            }
            Answer::Rewritten(said) => self.rewritten(now, said),
            Answer::NotRewritten(why) => self.not_rewritten(now, why),
            Answer::Counted(rewrites) => self.counted(now, &rewrites),
            Answer::NotOurs { found } => self.taken_over(now, format!("it reads {found}")),
            Answer::NotRestored(why) => {
                self.say(now, "switch not restored", why);
                if self.unwind == Some(Unwind::Spent) {
                    // Nobody knows for how long: what is parked for nothing comes only later.
                    self.set_posture(Posture::Refuse);
                }
                self.due = now.mono + LOOK_EVERY;
            }
            Answer::Bgsave(reply) => self.bgsave(now, reply),
            Answer::Claimed(result) => self.claimed(now, result),
            Answer::Listed(result) => self.listed(now, result),
            Answer::Named(result) => self.named(now, result),
            Answer::Aof(answer) => self.aof_answered(now, answer),
            Answer::FailedOver(result) => self.failover(now, result),
        }
    }

    fn heard(&mut self, now: Now, sightings: u64, heard: Heard) {
        match heard {
            Heard::Pong => self.pong(now, sightings),
            Heard::Refused(refusal, text) => self.refused(now, refusal.variant, text),
            Heard::Other(text) => {
                self.mute = text.starts_with("NOPERM") || text.starts_with("ERR unknown command");
                self.say(now, "ping answered otherwise", text);
                let wait = if self.mute { LOOK_EVERY } else { AGAIN };
                self.probe_after = now.mono + wait;
                self.due = now.mono + wait;
                if self.mute {
                    // Nobody will ever open a ticket: to withhold refusals would only delay them.
                    self.set_posture(Posture::Refuse);
                }
            }
        }
    }

    // ---- PING ----

    /// Gated commands pass: every ticket issued before that PING is good.
    fn pong(&mut self, now: Now, sightings: u64) {
        self.mute = false;
        if self.aof_doubts(sightings) {
            return;
        }
        self.opened = self.opened.max(sightings);
        self.suspicious = false;
        self.out.push_back(Action::OpenThrough(sightings));
        match self.phase {
            Phase::Quiet => {
                if self.first.take().is_some() {
                    // Refused, and passed a moment later: who lowered the switch is looked at while its owner lives.
                    self.due = now.mono;
                }
                self.set_posture(Posture::Forward);
            }
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
                match self.lowered || self.follows() {
                    true => self.writes_open(now),
                    false => {
                        self.past.ending = true;
                        self.talk(Talk::Look);
                    }
                }
            }
        }
    }

    pub(super) fn writes_open(&mut self, now: Now) {
        if let Some(journal) = &mut self.journal {
            journal.mitigated(now);
        }
        if !self.is_open() {
            let (event, detail) = match self.is_replica() {
                true => ("replica made safe", "it lives on through its primary's writes"),
                false => ("writes opened", "PONG heard with the switch down"),
            };
            self.enter(now, Phase::Mitigated, event, detail.into());
            self.course = None;
            self.due = now.mono;
            self.care_soon(now);
        }
    }

    fn own_ping_refused(&mut self) {
        self.own_refusals += 1;
        self.pings_refused += 1;
    }

    fn refused(&mut self, now: Now, variant: Variant, text: String) {
        self.own_ping_refused();
        self.refusal = Some(text.clone());
        let turned = self.journal.is_some() && variant != self.variant;
        let fresh = self.journal.is_none();
        self.open(now, variant);
        if fresh {
            self.set_posture(Posture::Hold);
            self.enter(now, Phase::Alarmed, "refusal heard", text);
            self.due = now.mono;
            return;
        }
        if variant == Variant::Rdb {
            self.aof.give_up();
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
        if self.phase == Phase::Alarmed && self.follows() {
            // Its owner is about to lower it, or gave up.
            self.talk(Talk::Look);
            return;
        }
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
        // One of before the refusal tells nothing of it.
        let before = self.look.as_ref().is_some_and(|(_, look)| look.aof_ok.is(true));
        if self.variant == Variant::Rdb || stale || before || self.aof.stage == Stage::Prove {
            self.talk(Talk::Look);
        } else {
            self.due = now.mono + AOF_PROBE_EVERY;
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
            Phase::Mitigated | Phase::Diagnosing | Phase::Repairing => {
                self.enter(now, Phase::Verifying, event, detail);
            }
            _ => self.say(now, event, detail),
        }
    }

    // ---- the switch ----

    fn lowered(&mut self, now: Now, sightings: u64, previous: &str, heard: Heard, rewrites: &Fact<u64>) {
        let in_doubt = std::mem::take(&mut self.lower_in_doubt);
        if previous == "no" && !in_doubt && !mutant!(TakesAnOperatorsNoForYes) {
            // Somebody else's `no`, read in the transaction itself: ours changed nothing.
            self.several.none_owes = false;
            if self.ask_whose() {
                self.several.read_no = true;
                return;
            }
            self.over = Over::Idle;
            self.leave_alone(now);
            if heard == Heard::Pong {
                self.opened = self.opened.max(sightings);
                self.out.push_back(Action::OpenThrough(sightings));
                self.set_posture(Posture::Forward);
            }
            return;
        }
        let changes = self.look.as_ref().and_then(|(_, look)| look.changes.known().copied()).unwrap_or(0);
        self.lowered = true;
        self.neighbours.lowered_as_replica = self.is_replica();
        self.several.claim = Claim::None;
        self.lowered_at = (now.unix_ms, changes);
        self.count_from(now, self.debt.as_ref().map(|debt| debt.run_id.clone()), rewrites);
        self.saver = Saver::default();
        // What was seen before is what we changed.
        self.look = None;
        self.due = now.mono;
        self.suspicious = true;
        let detail = format!("it was {previous}");
        if let Over::Lowering(to) = self.over.clone() {
            self.say(now, "switch lowered", detail);
            return self.move_over(now, to);
        }
        match heard {
            Heard::Pong => self.say(now, "switch lowered", detail),
            Heard::Refused(..) | Heard::Other(_) => {
                self.enter(now, Phase::Mitigated, "switch lowered", detail)
            }
        }
        self.heard(now, sightings, heard);
    }

    /// Nobody owes this `no`.
    pub(super) fn leave_alone(&mut self, now: Now) {
        self.past.hands_off = true;
        self.say(now, "switch was down already", "the operator's own choice: left alone".into());
        self.several.claim = Claim::None;
        self.erase_debt();
        self.course = None;
        self.enter(now, Phase::Holding, "hands off", String::new());
        self.due = now.mono;
    }

    fn not_lowered(&mut self, now: Now, why: String) {
        self.lower_in_doubt = false;
        // BUSY, LOADING and their like pass; what was forbidden or renamed stays so.
        let lasting = ["NOPERM", "ERR", "EXECABORT"].iter().any(|code| why.starts_with(code));
        self.config_refused = lasting.then(|| why.clone());
        self.over = Over::Idle;
        self.say(now, "switch not lowered", why);
        self.several.claim = Claim::None;
        self.erase_debt();
        self.due = if lasting { now.mono } else { now.mono + LOOK_EVERY };
    }

    fn restored(&mut self, now: Now, sightings: u64, reads: &str, heard: Heard, rewrites: &Fact<u64>) {
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
            self.own_ping_refused();
            self.set_posture(Posture::Hold);
            self.enter(now, Phase::Alarmed, "refused again", "a save failed after the proof".into());
            self.due = now.mono;
            return;
        }
        self.say(now, "switch restored", format!("it reads {reads}"));
        self.counted_last(now, rewrites);
        self.put_back(now);
        match heard {
            // It is the append-only file that must be sound now: PING again, and look.
            Heard::Pong if self.variant == Variant::Aof => {}
            Heard::Pong => {
                self.opened = self.opened.max(sightings);
                self.suspicious = false;
                self.out.push_back(Action::OpenThrough(sightings));
                return self.finish(now);
            }
            Heard::Refused(refusal, _) => {
                self.own_ping_refused();
                self.open(now, refusal.variant);
            }
            Heard::Other(_) => {}
        }
        self.wait_for_pong(now);
    }

    /// The operator's value is back.
    pub(super) fn put_back(&mut self, now: Now) {
        let (spent, proved) = match self.unwind.take() {
            Some(Unwind::Spent) => (true, false),
            Some(Unwind::Frozen | Unwind::Stayed) => (false, false),
            Some(Unwind::Proved) | None => (false, true),
        };
        self.past = Past { rearmed: proved, exposed: spent, ..self.past };
        if spent {
            self.set_posture(Posture::Refuse);
        }
        self.course = spent.then(|| course(&self.facts(now)).why);
        self.due = now.mono;
    }

    /// … but PING has not said PONG yet.
    pub(super) fn wait_for_pong(&mut self, now: Now) {
        self.erase_debt();
        if self.phase != Phase::Exposed && !self.past.frozen {
            self.enter(now, Phase::Holding, "switch is back", "waiting for PONG".into());
        }
    }

    /// The switch does not read the `no` we set: an operator's hand. It is theirs from here on.
    pub(super) fn taken_over(&mut self, now: Now, detail: String) {
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
}
