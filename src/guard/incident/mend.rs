//! The cure of what was found: the one remedy that consent and reach allow, carried out step by step; the
//! operator's own program told of the rest; what was for the incident's time only taken back at its end.
//!
//! Refuses to know: how a host is changed. Invariants: a remedy is tried once in an incident; after break-in
//! signs, under policy observe and in peace none is.

use std::collections::VecDeque;

use super::care::{Stage, finding};
use super::{Action, Guard, Now};
use crate::config::{Policy, Repair};
use crate::guard::dialogue::{Command, Talk};
use crate::guard::evidence::Evidence;
use crate::guard::finding::{Found, Kind};
use crate::guard::policy::{CARE_EVERY, REPAIR_PATIENCE};
use crate::guard::record::Phase;
use crate::guard::remedy::{Proof, Reach, Remedy, Step, choose, commands};

/// The saver's business, with all its proofs.
const SAVE: Step = Step::Command(&["BGSAVE"]);

/// A remedy under way.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Mending {
    finding: &'static str,
    does: &'static str,
    proof: Proof,
    steps: VecDeque<Step>,
    /// The host is at work on one: the change of this number.
    away: Option<u64>,
    done: Vec<String>,
}

impl Mending {
    /// The next step, when it is one for the control connection.
    pub(super) fn talk(&self) -> Option<Talk> {
        let step = self.steps.front().filter(|_| self.away.is_none())?;
        Some(Talk::Apply(vec![words(step)?]))
    }
}

impl Guard {
    /// Begins the next remedy that is allowed, or tells who else could help.
    pub(super) fn mend(&mut self, now: Now, evidence: &Evidence) {
        let reach = match (self.settings.policy, self.settings.repair) {
            (Policy::Observe, _) | (_, Repair::Off) => None,
            (_, Repair::Redis) => Some(Reach::Redis),
            (_, Repair::Host) => Some(Reach::Filesystem),
        };
        // What is to be done is done by the owner of the switch.
        if self.past.frozen || self.follows() {
            return;
        }
        while let Some(reach) = reach
            && let Some((remedy, _, steps)) = choose(&self.care.found, evidence, reach, &self.care.tried)
        {
            self.care.tried.push((remedy.finding, remedy.does));
            // Two findings may have one cure, and the one cure of the dead end is the save that comes anyway.
            let known = |step: &Step| self.care.steps.contains(step) || *step == SAVE;
            if !steps.iter().all(known) {
                return self.begin_remedy(now, remedy, steps, evidence);
            }
        }
        if let Some((remedy, ..)) = choose(&self.care.found, evidence, Reach::Filesystem, &self.care.tried)
            && !self.care.refused.contains(&remedy.finding)
        {
            self.care.refused.push(remedy.finding);
            self.out.push_back(Action::Remedied(remedy.finding, "refused"));
            let why = match (self.settings.policy, remedy.reach) {
                (Policy::Observe, _) => "policy observe",
                (Policy::Mitigate | Policy::Hold | Policy::Redirect, Reach::Redis) => "needs --repair redis",
                (Policy::Mitigate | Policy::Hold | Policy::Redirect, _) => "needs --repair host",
            };
            self.say(now, "remedy not allowed", format!("{}: {}: {why}", remedy.finding, remedy.does));
        }
        self.hook(evidence, |f| f.kind() == Kind::Cause);
    }

    fn begin_remedy(&mut self, now: Now, remedy: &'static Remedy, steps: Vec<Step>, evidence: &Evidence) {
        let Remedy { finding, does, proof, .. } = *remedy;
        self.care.steps.extend(steps.iter().cloned());
        self.care.patience = now.mono + REPAIR_PATIENCE;
        let back = steps.iter().filter_map(|step| step.back(evidence)).filter_map(|step| words(&step));
        self.care.back.extend(back);
        let typed = commands(&steps, evidence);
        let (steps, done) = (steps.into(), Vec::new());
        self.care.stage = Stage::Mending(Mending { finding, does, proof, steps, away: None, done });
        let detail = format!("{finding}: {does}: {typed}");
        match self.phase {
            Phase::Mitigated | Phase::Diagnosing | Phase::Verifying | Phase::Stuck => {
                self.enter(now, Phase::Repairing, "remedy begun", detail);
            }
            Phase::Quiet
            | Phase::Alarmed
            | Phase::Repairing
            | Phase::Rearming
            | Phase::Holding
            | Phase::Exposed => self.say(now, "remedy begun", detail),
        }
        self.next_step(now);
    }

    /// A host's step leaves at once; one over the control connection when that is free.
    fn next_step(&mut self, now: Now) {
        let Stage::Mending(mending) = &mut self.care.stage else { return };
        match mending.steps.front() {
            Some(Step::Host(change)) => {
                self.care.errands += 1;
                mending.away = Some(self.care.errands);
                self.out.push_back(Action::Change(self.care.errands, change.clone()));
            }
            Some(Step::Config { .. } | Step::Command(_)) => {}
            None => self.mended(now, None),
        }
    }

    /// The host ended a change: of the remedy under way, or of one that was given up, perhaps an incident ago.
    pub(super) fn changed(&mut self, now: Now, errand: u64, result: Result<String, String>) {
        match &self.care.stage {
            Stage::Mending(mending) if mending.away == Some(errand) => self.stepped(now, result),
            Stage::Idle | Stage::Asking | Stage::Examining | Stage::Mending(_) | Stage::TakingBack => {
                self.say(now, "late change of the host", result.unwrap_or_else(|why| why));
            }
        }
    }

    /// A step ended, here or there.
    pub(super) fn stepped(&mut self, now: Now, result: Result<String, String>) {
        match &mut self.care.stage {
            Stage::Mending(mending) => {
                mending.away = None;
                match result {
                    Ok(words) => {
                        mending.done.push(words);
                        mending.steps.pop_front();
                        self.next_step(now);
                    }
                    Err(why) => self.mended(now, Some(why)),
                }
            }
            Stage::TakingBack => {
                self.care.stage = Stage::Idle;
                self.care.back.clear();
                if let Err(why) = result {
                    self.say(now, "not taken back", why);
                }
                self.finish(now);
            }
            Stage::Idle | Stage::Asking | Stage::Examining => {}
        }
    }

    fn mended(&mut self, now: Now, failure: Option<String>) {
        let Stage::Mending(mending) = std::mem::take(&mut self.care.stage) else { return };
        let Mending { finding, does, proof, done, .. } = mending;
        self.care.due = now.mono + CARE_EVERY;
        match failure {
            Some(why) => {
                self.say(now, "remedy failed", format!("{finding}: {does}: {why}"));
                self.out.push_back(Action::Remedied(finding, "failed"));
                let evidence = self.evidence();
                self.mend(now, &evidence);
            }
            None => {
                if let Some(journal) = &mut self.journal {
                    journal.applied(finding);
                }
                self.say(now, "remedy applied", format!("{finding}: {does}: {}", done.join("; ")));
                self.out.push_back(Action::Remedied(finding, "ok"));
                self.hoped(proof);
            }
        }
        if !matches!(self.care.stage, Stage::Mending(_)) {
            self.care.patience = now.mono;
            self.due = self.due.min(now.mono);
        }
    }

    /// A new reason to hope: a save may be tried at once, and must begin after it.
    fn hoped(&mut self, proof: Proof) {
        match proof {
            Proof::Save => self.saver.remedied(),
            Proof::Aof | Proof::Reading => {}
        }
    }

    /// Leaves the remedy under way as far as it came: what the host is still at work on is told when it ends.
    pub(super) fn give_up(&mut self) {
        if matches!(self.care.stage, Stage::Mending(_)) {
            self.care.stage = Stage::Idle;
        }
    }

    /// Tells the operator's own program, once a finding, and never while it still runs for it.
    pub(super) fn hook(&mut self, evidence: &Evidence, of: fn(&Found) -> bool) {
        if !self.settings.hook {
            return;
        }
        let care = &self.care;
        let is_told = |id| care.hooked.contains(id) || care.hooking.contains(id);
        let new = |f: &&Found| of(f) && !is_told(&f.check.id);
        let calls: Vec<&'static str> = self.care.found.iter().filter(new).map(|f| f.check.id).collect();
        for id in calls {
            self.care.hooked.push(id);
            self.care.hooking.push(id);
            if let Some(found) = self.care.found.iter().find(|f| f.check.id == id) {
                self.out.push_back(Action::Hook(Box::new(finding(found, evidence))));
            }
        }
    }

    /// The operator's program ended: perhaps the cause is gone.
    pub(super) fn hooked(&mut self, now: Now, id: &str, result: Result<(), String>) {
        self.care.hooking.retain(|running| *running != id);
        match result {
            Ok(()) => {
                self.say(now, "repair hook ended", id.to_string());
                if self.journal.is_some() {
                    self.hoped(Proof::Save);
                    self.due = self.due.min(now.mono);
                }
            }
            Err(why) => self.say(now, "repair hook failed", format!("{id}: {why}")),
        }
    }

    /// Before the incident closes: what was changed for its time only. True: [`Guard::finish`] is called again.
    pub(super) fn take_back(&mut self, now: Now) -> bool {
        let commands = self.care.back.clone();
        if commands.is_empty() || !self.up || self.talking.is_some() {
            return false;
        }
        let typed = commands.iter().map(|command| command.join(" ")).collect::<Vec<_>>().join("; ");
        self.say(now, "taken back", typed);
        self.care.stage = Stage::TakingBack;
        self.talk(Talk::Apply(commands));
        true
    }
}

fn words(step: &Step) -> Option<Command> {
    match step {
        Step::Config { name, value } => Some(["CONFIG", "SET", name, value].map(String::from).to_vec()),
        Step::Command(words) => Some(words.iter().map(|word| (*word).to_string()).collect()),
        Step::Host(_) => None,
    }
}
