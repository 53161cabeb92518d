//! The ladder of the append-only file: held while it may heal by itself; after a failed sync, once the disk is good,
//! made sound by the way of the server's version; released only when every sign is good. M §7 and §11.20.
//!
//! Refuses to know: versions and signs ([`crate::guard::aof`]). Invariants: the file is switched off only while a debt
//! that says so is durable and after a save was proved; what we switched off is switched on again by us, or by the
//! next life; after our own `yes` PONG alone opens nothing.

use std::time::Duration;

use super::{Action, Guard, Now};
use crate::config::{AofRepair, Policy, Repair};
use crate::guard::aof::{APPENDONLY, Ail, Sign, WRITE_STATUS, Way, ail, sign, way};
use crate::guard::dialogue::{AofAnswer, AofTalk, Talk};
use crate::guard::evidence::{Evidence, Look};
use crate::guard::finding::failing;
use crate::guard::policy::{AOF_PROBE_EVERY, CHILD_POLL, LOOK_EVERY, retry_after};
use crate::guard::record::Phase;
use crate::guard::saver::{Saver, Verdict};
use crate::posture::{Posture, Variant};

/// The finding that all this is about.
const STICKY: &str = "aof-fsync-sticky";
/// A rewrite that had failed before is no news for so long.
const FALSE_AFTER: Duration = Duration::from_secs(2);

/// A sign that is bad for so long is.
const BAD_FOR: Duration = Duration::from_secs(1);

/// Where the ladder stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// Held; PING tells when it heals.
    #[default]
    Idle,
    /// A rewrite is to be asked for.
    Rewrite,
    /// A save must be proved before the file is switched off.
    Prove,
    /// The debt is on its way to the disk; then the transaction is sent.
    Reopen,
    /// It is off, by us.
    Owing,
    /// The signs must turn good.
    Judge,
}

/// See the module's page.
#[derive(Clone, Debug, Default)]
pub(super) struct Aof {
    pub(super) stage: Stage,
    /// The transaction was sent: the file may be off, or open anew.
    sent: bool,
    /// What is judged was begun by us.
    ours: bool,
    /// The file was switched off and on in this incident: `aof_last_write_status:ok` says nothing.
    reopened: bool,
    /// A rewrite ran while writes were still refused: it is none that an opening anew began.
    rewriting_before: bool,
    /// PONG was heard for these tickets; a look tells whether to believe it.
    waiting: Option<u64>,
    /// A look after PONG saw the file off.
    off_seen: bool,
    failures: u32,
    not_before: Duration,
    judging_since: Duration,
    bad_since: Option<Duration>,
    /// Why nothing is done, as it was told last.
    told: Option<String>,
    told_false: bool,
}

#[cfg(test)]
impl Aof {
    /// For the model: what decides.
    pub(super) fn print(&self, now: Now, h: &mut impl std::hash::Hasher) {
        let left = self.not_before.saturating_sub(now.mono);
        let flags = (self.sent, self.reopened, self.rewriting_before, self.off_seen, self.waiting.is_some());
        std::hash::Hash::hash(&(self.stage, flags, self.failures, left), h);
    }
}

impl Aof {
    /// The connection broke: what was asked on it is asked again, or found out by [`Guard::reconcile_aof`].
    pub(super) fn lost(&mut self) {
        self.waiting = None;
        match self.stage {
            Stage::Rewrite | Stage::Judge if !self.sent => self.stage = Stage::Idle,
            Stage::Idle | Stage::Rewrite | Stage::Prove | Stage::Reopen | Stage::Owing | Stage::Judge => {}
        }
    }

    /// Nothing was changed yet: leave it so.
    pub(super) fn give_up(&mut self) {
        if matches!(self.stage, Stage::Rewrite | Stage::Prove) {
            self.stage = Stage::Idle;
        }
    }
}

impl Guard {
    /// Evidence was gathered: begin what clears a failed sync, or tell why not.
    pub(super) fn aof_ladder(&mut self, now: Now, e: &Evidence) {
        let held = self.phase == Phase::Holding && self.variant == Variant::Aof && !self.past.ending;
        let free = self.aof.stage == Stage::Idle && self.debt.is_none() && !self.lowered && !self.past.frozen;
        let due = now.mono >= self.aof.not_before && self.settings.policy != Policy::Observe;
        if !(held && free && due && failing::aof(e) && ail(e) == Ail::Sync) {
            return;
        }
        let allowed = match self.settings.repair {
            Repair::Off => AofRepair::Off,
            Repair::Redis | Repair::Host => self.settings.aof_repair,
        };
        // What reads and sets the switch in one reads and sets this too.
        let blocked = self.rights.blocked();
        let way = match (way(allowed, e), blocked) {
            (Ok(Way::Reopen), Some(why)) => Err(why),
            (way, _) => way,
        };
        match way {
            Ok(Way::Rewrite) => {
                self.aof.stage = Stage::Rewrite;
                self.say(now, "remedy begun", format!("{STICKY}: have the file rewritten: BGREWRITEAOF"));
            }
            Ok(Way::Reopen) => {
                self.aof.stage = Stage::Prove;
                self.saver = Saver::default();
                let what = "switch the file off and on, after a proved save";
                self.say(now, "remedy begun", format!("{STICKY}: {what}"));
            }
            Err(why) => self.aof_left_alone(now, why),
        }
        self.due = self.due.min(now.mono);
    }

    fn aof_left_alone(&mut self, now: Now, why: String) {
        if self.aof.told.as_ref() == Some(&why) {
            return;
        }
        self.aof.told = Some(why.clone());
        self.out.push_back(Action::Remedied(STICKY, "refused"));
        let typed = self.aof_typed().map(|typed| format!("; type: {typed}")).unwrap_or_default();
        self.warn(now, "append-only file left alone", why + &typed);
    }

    /// What a human types, when there is something.
    fn aof_typed(&self) -> Option<String> {
        let found = self.record()?.findings.iter().find(|finding| finding.id == STICKY)?;
        Some(found.remedy.clone()).filter(|remedy| !remedy.is_empty())
    }

    /// The ladder's own question, if it is time for one.
    pub(super) fn aof_step(&mut self, now: Now) -> bool {
        if now.mono < self.due {
            return false;
        }
        let talk = match self.aof.stage {
            Stage::Idle | Stage::Prove => return false,
            Stage::Rewrite => Talk::Aof(AofTalk::Rewrite),
            Stage::Reopen if self.owes_aof() => {
                self.aof.sent = true;
                Talk::Aof(AofTalk::Reopen)
            }
            Stage::Reopen => {
                self.aof_failed(now, "the debt could not be written".into());
                return false;
            }
            Stage::Owing => Talk::Aof(AofTalk::On),
            Stage::Judge => Talk::Look,
        };
        self.talk(talk);
        true
    }

    fn owes_aof(&self) -> bool {
        self.debt.as_ref().is_some_and(|debt| debt.is_aof())
    }

    pub(super) fn aof_answered(&mut self, now: Now, answer: AofAnswer) {
        self.due = now.mono;
        match answer {
            AofAnswer::Rewriting => {
                self.aof.ours = true;
                self.aof_judge(now);
                self.say(now, "rewrite asked for", "the signs of the file must turn good".into());
                self.due = now.mono + CHILD_POLL.0;
            }
            AofAnswer::NotRewriting(why) => self.aof_failed(now, why),
            AofAnswer::Reopened | AofAnswer::On => {
                (self.aof.ours, self.aof.reopened) = (true, true);
                self.aof_judge(now);
                self.say(now, "append-only file opened anew", "its first rewrite must prove it".into());
            }
            AofAnswer::LeftOff(why) => {
                (self.aof.ours, self.aof.reopened) = (true, true);
                self.aof.stage = Stage::Owing;
                self.warn(now, "append-only file is off", format!("{why}; asked again each second"));
                self.due = now.mono + LOOK_EVERY;
            }
            AofAnswer::Untouched(why) => self.aof_failed(now, why),
            AofAnswer::WasOff => self.aof_taken_over(now),
        }
    }

    fn aof_judge(&mut self, now: Now) {
        self.aof.stage = Stage::Judge;
        (self.aof.judging_since, self.aof.bad_since) = (now.mono, None);
    }

    /// The operator switched the file off: it is theirs from here on.
    fn aof_taken_over(&mut self, now: Now) {
        self.say(now, "operator switched the append-only file off", "left as it is".into());
        self.past.hands_off = true;
        (self.aof.stage, self.aof.sent) = (Stage::Idle, false);
        self.erase_debt();
        self.due = now.mono;
    }

    /// Back to holding; tried again at the pace of saves.
    fn aof_failed(&mut self, now: Now, why: String) {
        let ours = self.aof.ours || self.aof.stage != Stage::Judge;
        (self.aof.stage, self.aof.sent, self.aof.ours) = (Stage::Idle, false, false);
        self.aof.failures = self.aof.failures.saturating_add(1);
        self.aof.not_before = now.mono + retry_after(self.aof.failures);
        if self.owes_aof() {
            self.erase_debt();
        }
        if ours {
            self.out.push_back(Action::Remedied(STICKY, "failed"));
            self.warn(now, "append-only file not repaired", why);
        }
        self.due = now.mono;
    }

    /// Held, and not by the ladder: a look at the server.
    pub(super) fn aof_parked(&mut self, now: Now, look: &Look) {
        if self.aof.stage == Stage::Prove {
            match self.saver.look(now, look) {
                Verdict::Proved => {
                    self.say(now, "save proved", look.line());
                    self.aof.stage = Stage::Reopen;
                    self.write_debt(now, APPENDONLY);
                    self.due = now.mono;
                    return;
                }
                verdict @ (Verdict::Running(_) | Verdict::Wait(_) | Verdict::Try(_)) => {
                    self.follow(now, verdict, look);
                }
            }
        } else {
            self.due = now.mono + AOF_PROBE_EVERY;
        }
        self.due = self.due.min(now.mono + AOF_PROBE_EVERY);
    }

    /// A look while the signs are awaited. False: it is somebody else's.
    pub(super) fn aof_looked(&mut self, now: Now, look: &Look) -> bool {
        if look.aof_ok.is(false) {
            self.aof.rewriting_before = look.aof.busy();
        }
        if self.aof.stage != Stage::Judge {
            return false;
        }
        self.due = now.mono + AOF_PROBE_EVERY;
        let sign = sign(look);
        match sign {
            // 6.2 syncs the new file on another thread after the rewrite ended (aof.c:aof_background_fsync).
            Sign::Bad(_) if now.mono < *self.aof.bad_since.get_or_insert(now.mono) + BAD_FOR => return true,
            Sign::Good | Sign::Bad(_) | Sign::Busy { .. } | Sign::Off | Sign::Untold => {
                self.aof.bad_since = None
            }
        }
        match sign {
            // Proved: what was owed is paid, before anything else may be owed.
            Sign::Good if self.owes_aof() => {
                self.past.rearmed = true;
                self.erase_debt();
                self.due = now.mono;
            }
            Sign::Good | Sign::Untold => self.talk(Talk::Probe),
            Sign::Busy { failed } => self.aof_waits(now, failed),
            Sign::Off => self.aof_taken_over(now),
            Sign::Bad(why) => self.aof_failed(now, why.into()),
        }
        true
    }

    fn aof_waits(&mut self, now: Now, failed: bool) {
        let lasting = failed && now.mono >= self.aof.judging_since + FALSE_AFTER;
        if lasting && !std::mem::replace(&mut self.aof.told_false, true) {
            let why = "the server answers PONG and its status is ok, but rewrites fail: nothing is persisted";
            self.warn(now, "false recovery", why.into());
        }
    }

    /// Is PONG to be believed only after a look?
    pub(super) fn aof_doubts(&mut self, sightings: u64) -> bool {
        let doubts = self.variant == Variant::Aof
            && self.journal.is_some()
            && matches!(self.phase, Phase::Alarmed | Phase::Holding)
            && self.settings.policy != Policy::Observe
            && !self.past.frozen;
        if doubts {
            self.aof.waiting = Some(sightings);
            self.past.ending = true;
            self.talk(Talk::Look);
        }
        doubts
    }

    /// PONG was heard; this look tells whether the file is sound. False: no PONG of the file's was awaited.
    pub(super) fn aof_judged(&mut self, now: Now, look: &Look) -> bool {
        let Some(sightings) = self.aof.waiting.take() else { return false };
        match sign(look) {
            Sign::Good => self.verified(now, look),
            Sign::Untold => {}
            // Somebody may be about to switch it on again.
            Sign::Off if !std::mem::replace(&mut self.aof.off_seen, true) => {
                self.due = now.mono + AOF_PROBE_EVERY;
                return true;
            }
            Sign::Off => {
                self.past.hands_off = true;
                let what = "not by bgsafe: from now on only snapshots persist anything";
                self.warn(now, "append-only file is off", what.into());
            }
            Sign::Bad(WRITE_STATUS) => {
                self.due = now.mono + AOF_PROBE_EVERY;
                return true;
            }
            // The file was on all the time, or a rewrite would be due: writes do reach it.
            Sign::Bad(why) => self.say(now, "not verified", why.into()),
            Sign::Busy { .. } if self.aof.rewriting_before && !self.aof.reopened => {
                self.say(now, "not verified", "a rewrite runs since before".into());
            }
            Sign::Busy { failed } => {
                let what = "PONG was heard, but a rewrite must end well before anything is persisted";
                self.say(now, "writes stay parked", what.into());
                self.aof_judge(now);
                self.aof_waits(now, failed);
                self.due = now.mono + AOF_PROBE_EVERY;
                return true;
            }
        }
        if std::mem::take(&mut self.aof.ours) {
            self.out.push_back(Action::Remedied(STICKY, "ok"));
            if let Some(journal) = &mut self.journal {
                journal.applied(STICKY);
            }
        }
        self.opened = self.opened.max(sightings);
        self.suspicious = false;
        self.out.push_back(Action::OpenThrough(sightings));
        self.set_posture(Posture::Forward);
        self.aof = Aof::default();
        match self.lowered {
            true => self.writes_open(now),
            false => self.finish(now),
        }
        true
    }

    /// The first look of a connection, against a debt of the append-only file.
    pub(super) fn reconcile_aof(&mut self, now: Now, look: &Look) {
        let Some(debt) = self.debt.clone() else { return };
        let (Some(run_id), Some(on)) = (look.run_id.known(), look.aof.enabled.get()) else {
            self.say(now, "debt kept", "the server does not tell its run id or its append-only file".into());
            self.due = now.mono + LOOK_EVERY;
            return;
        };
        self.reconciled = true;
        self.due = now.mono;
        if *run_id != debt.run_id {
            self.say(now, "debt void", "the server was restarted".into());
            self.aof = Aof::default();
            self.erase_debt();
            self.past.restarted = self.journal.is_some();
            return;
        }
        if self.journal.is_some() && !self.aof.sent && on {
            // Noted, and nothing was ever sent.
            return;
        }
        if self.journal.is_none() {
            self.open(now, Variant::Aof);
            self.say(now, "debt adopted", format!("of incident {}", debt.incident));
        }
        (self.aof.sent, self.aof.reopened, self.suspicious) = (true, true, true);
        match on {
            true => self.aof_judge(now),
            false => self.aof.stage = Stage::Owing,
        }
        self.set_posture(Posture::Hold);
        let what = if on { "its rewrite must prove it" } else { "it is switched on again" };
        self.enter(now, Phase::Holding, "append-only file is owed", what.into());
    }
}
