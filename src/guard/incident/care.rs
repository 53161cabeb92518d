//! The search for a cause and its cure, beside everything else: evidence is gathered in two steps
//! (the server tells, the host shows), the tables say what it means, and the one remedy that consent
//! and reach allow is carried out, step by step. Writes never wait for it; a save does, briefly.
//!
//! Refuses to know: how a host is looked at or changed. Invariants: a remedy is tried once in an
//! incident; after break-in signs none is; in peace nothing is changed at all.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Action, Guard, Now};
use crate::config::{Policy, Repair};
use crate::guard::dialogue::{Command, Talk};
use crate::guard::evidence::{Evidence, Healthy, HostFacts, Look, Seen, ServerFacts};
use crate::guard::finding::{Found, Kind, Severity, diagnose, headroom::headroom};
use crate::guard::policy::{CARE_AOF_EVERY, CARE_EVERY, CARE_PATIENCE, CRASHES_MOST, REPAIR_PATIENCE};
use crate::guard::record::{Finding, Phase};
use crate::guard::remedy::{Proof, Reach, Remedy, Step, choose, command};

/// Where it stands.
#[derive(Debug, Default)]
enum Stage {
    /// Nothing is under way.
    #[default]
    Idle,
    /// [`Talk::Inquire`] is.
    Asking,
    /// [`Action::Examine`] is.
    Examining,
    /// A remedy is.
    Mending(Mending),
    /// The steps that were for the incident only are taken back.
    TakingBack,
}

#[derive(Debug)]
struct Mending {
    finding: &'static str,
    does: &'static str,
    proof: Proof,
    steps: VecDeque<Step>,
    /// The host is at work on one.
    away: bool,
    done: Vec<String>,
}

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Care {
    stage: Stage,
    /// When to look for causes again.
    due: Duration,
    /// A save waits for us until then.
    patience: Duration,
    look: Look,
    server: ServerFacts,
    host: HostFacts,
    found: Vec<Found>,
    /// Failed saves when evidence was last gathered.
    failures: u32,
    /// Remedies tried in this incident: finding, and what it does.
    tried: Vec<(&'static str, &'static str)>,
    /// Findings the operator's hook was told of.
    hooked: Vec<&'static str>,
    /// Findings whose remedy was not allowed, so that each is counted once.
    refused: Vec<&'static str>,
    /// Kills by the memory controller while all was well.
    oom_kills_before: Option<u64>,
    /// What stands in peace, for the status.
    standing: Vec<Finding>,
    /// What the disk knows to be healthy.
    remembered: Option<Healthy>,
    /// To be taken back when the incident ends.
    back: Vec<Command>,
}

impl Care {
    /// What stands in peace.
    pub(super) fn standing(&self) -> &[Finding] {
        &self.standing
    }

    /// When something is to be done here.
    pub(super) fn due(&self) -> Option<Duration> {
        matches!(self.stage, Stage::Idle).then_some(self.due)
    }

    /// Another incident: what was tried in the last one may be tried again.
    pub(super) fn begin(&mut self, now: Now) {
        let host = std::mem::take(&mut self.host);
        *self = Care {
            due: now.mono,
            oom_kills_before: host.cgroup.oom_kills.get().or(self.oom_kills_before),
            patience: now.mono + CARE_PATIENCE,
            remembered: self.remembered.take(),
            ..Care::default()
        };
    }

    /// The connection broke: what was asked on it is asked again.
    pub(super) fn lost(&mut self, now: Now) {
        if matches!(self.stage, Stage::Asking | Stage::TakingBack) {
            self.stage = Stage::Idle;
        }
        self.due = self.due.min(now.mono);
    }
}

impl Guard {
    /// Soon: evidence is old.
    pub(super) fn care_soon(&mut self, now: Now) {
        self.care.due = now.mono;
        self.care.patience = now.mono + CARE_PATIENCE;
    }

    /// Should a save wait for what is being found out or done?
    pub(super) fn care_is_near(&self, now: Now) -> Option<Duration> {
        let wanted = !matches!(self.care.stage, Stage::Idle) || now.mono >= self.care.due;
        (wanted && now.mono < self.care.patience).then_some(self.care.patience)
    }

    /// The next question of ours, when nothing more urgent is to be asked.
    pub(super) fn care_talk(&mut self, now: Now) -> Option<Talk> {
        if !self.cares() {
            return None;
        }
        match &mut self.care.stage {
            Stage::Idle if now.mono >= self.care.due => {
                self.care.stage = Stage::Asking;
                if self.phase == Phase::Mitigated {
                    self.enter(now, Phase::Diagnosing, "looking for the cause", String::new());
                }
                Some(Talk::Inquire { own: self.settings.name.clone() })
            }
            Stage::Mending(Mending { steps, away: false, .. }) => {
                let step = steps.front()?;
                Some(Talk::Apply(vec![words(step)?]))
            }
            Stage::Idle | Stage::Asking | Stage::Examining | Stage::Mending(_) | Stage::TakingBack => None,
        }
    }

    pub(super) fn inquired(&mut self, now: Now, look: Look, server: ServerFacts) {
        if !matches!(self.care.stage, Stage::Asking) {
            return;
        }
        self.care.stage = Stage::Examining;
        self.care.look = look.clone();
        self.care.server = server.clone();
        self.out.push_back(Action::Examine(Box::new((look, server))));
        self.due = self.due.max(now.mono);
    }

    pub(super) fn examined(&mut self, now: Now, host: HostFacts) {
        if !matches!(self.care.stage, Stage::Examining) {
            return;
        }
        self.care.stage = Stage::Idle;
        self.care.host = host;
        self.care.failures = self.saver.failures();
        let evidence = self.evidence();
        self.out.push_back(Action::Headroom(headroom(&evidence)));
        self.care.found = diagnose(&evidence);
        let every = match self.journal.is_some() && self.phase == Phase::Holding {
            true => CARE_AOF_EVERY,
            false => CARE_EVERY,
        };
        self.care.due = now.mono + every;
        match self.journal.is_some() {
            true => self.diagnosed(now, &evidence),
            false => self.noted(&evidence),
        }
    }

    /// Everything that is known now.
    fn evidence(&self) -> Evidence {
        let newest = self.look.as_ref().map_or(&self.care.look, |(_, look)| look);
        Evidence {
            address: self.settings.address.clone(),
            look: newest.clone(),
            server: self.care.server.clone(),
            host: self.care.host.clone(),
            healthy: self.healthy.clone(),
            seen: Seen {
                variant: self.journal.as_ref().map(|_| self.variant),
                refusal: self.refusal.clone(),
                failures: self.saver.failures(),
                fork_failed: self.saver.fork_failed(),
                oom_kills_before: self.care.oom_kills_before,
                config_denied: self.config_refused.clone(),
            },
        }
    }

    /// In peace: what stands, and what is healthy.
    fn noted(&mut self, evidence: &Evidence) {
        let loud = |f: &&Found| f.kind() != Kind::Advice && f.severity() != Severity::Info;
        self.care.standing = self.care.found.iter().filter(loud).map(|f| finding(f, evidence)).collect();
        self.care.oom_kills_before = self.care.host.cgroup.oom_kills.get().or(self.care.oom_kills_before);
        self.remember();
        self.hook(evidence, |f| f.kind() == Kind::Danger && f.severity() == Severity::Crit);
        let standing = &self.care.standing;
        self.care.hooked.retain(|id| standing.iter().any(|f| f.id == *id));
    }

    /// Of a directory that saves go to, and that the server may write: its owner is the right one.
    fn remember(&mut self) {
        let place = &self.care.host.place;
        let Some(healthy) = &mut self.healthy else { return };
        let same = place.dir.is_and(|dir| dir.as_os_str() == healthy.dir.as_str());
        if same && self.care.look.save_ok.is(true) && place.writable.is(true) && !place.deleted.is(true) {
            (healthy.owner, healthy.mode) = (place.owner.get(), place.mode.get());
        }
        if self.care.remembered.as_ref() != Some(healthy) {
            self.care.remembered = Some(healthy.clone());
            self.out.push_back(Action::Remember(Box::new(healthy.clone())));
        }
    }

    fn diagnosed(&mut self, now: Now, evidence: &Evidence) {
        let told = self.care.found.iter().filter(|f| f.kind() != Kind::Advice);
        let findings: Vec<Finding> = told.map(|f| finding(f, evidence)).collect();
        let (event, detail) = match self.care.found.first().filter(|f| f.kind() == Kind::Cause) {
            Some(top) => {
                let words = if top.hit.sure { "cause found" } else { "likely cause found" };
                (words, format!("{}: {}", top.check.id, top.hit.says))
            }
            None => ("no cause found", "a save decides".into()),
        };
        self.say(now, event, detail);
        let trapped = self.care.found.iter().any(|f| f.check.id == "break-in-signs");
        if let Some(journal) = &mut self.journal {
            journal.diagnosed(findings);
        }
        if trapped && !self.past.frozen && self.settings.policy != Policy::Observe {
            return self.freeze(now);
        }
        self.mend(now, evidence);
        self.due = self.due.min(now.mono);
    }

    /// Begins the next remedy that is allowed, or tells who else could help.
    fn mend(&mut self, now: Now, evidence: &Evidence) {
        let reach = match (self.settings.policy, self.settings.repair) {
            (Policy::Observe, _) | (_, Repair::Off) => None,
            (_, Repair::Redis) => Some(Reach::Redis),
            (_, Repair::Host) => Some(Reach::Filesystem),
        };
        let all = choose(&self.care.found, evidence, Reach::Filesystem, &self.care.tried);
        let chosen = reach.and_then(|reach| choose(&self.care.found, evidence, reach, &self.care.tried));
        let chosen = chosen.map(|(remedy, _, steps)| (remedy, steps)).filter(|_| !self.past.frozen);
        let Some((remedy, steps)) = chosen else {
            if let Some((remedy, ..)) = all
                && !self.care.refused.contains(&remedy.finding)
            {
                self.care.refused.push(remedy.finding);
                self.out.push_back(Action::Remedied(remedy.finding, "refused"));
                let level = if remedy.reach == Reach::Redis { "redis" } else { "host" };
                self.say(now, "remedy not allowed", format!("{}: needs --repair {level}", remedy.does));
            }
            return self.hook(evidence, |f| f.kind() == Kind::Cause);
        };
        self.begin_remedy(now, remedy, steps, evidence);
    }

    fn begin_remedy(&mut self, now: Now, remedy: &'static Remedy, steps: Vec<Step>, evidence: &Evidence) {
        let Remedy { finding, does, proof, .. } = *remedy;
        self.care.tried.push((finding, does));
        self.care.patience = now.mono + REPAIR_PATIENCE;
        let back = steps.iter().filter_map(|step| step.back(evidence)).filter_map(|step| words(&step));
        self.care.back.extend(back);
        let typed = crate::guard::remedy::commands(&steps, evidence);
        let (steps, done) = (steps.into(), Vec::new());
        self.care.stage = Stage::Mending(Mending { finding, does, proof, steps, away: false, done });
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
                mending.away = true;
                self.out.push_back(Action::Change(change.clone()));
            }
            Some(Step::Config { .. } | Step::Command(_)) => {}
            None => self.mended(now, None),
        }
    }

    /// A step ended, here or there.
    pub(super) fn stepped(&mut self, now: Now, result: Result<String, String>) {
        match &mut self.care.stage {
            Stage::Mending(mending) => {
                mending.away = false;
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

    /// Tells the operator's own program, once a finding.
    fn hook(&mut self, evidence: &Evidence, of: fn(&Found) -> bool) {
        if !self.settings.hook {
            return;
        }
        let new = |f: &&Found| of(f) && !self.care.hooked.contains(&f.check.id);
        let calls: Vec<&'static str> = self.care.found.iter().filter(new).map(|f| f.check.id).collect();
        for id in calls {
            self.care.hooked.push(id);
            if let Some(found) = self.care.found.iter().find(|f| f.check.id == id) {
                self.out.push_back(Action::Hook(Box::new(finding(found, evidence))));
            }
        }
    }

    /// The operator's program ended: perhaps the cause is gone.
    pub(super) fn hooked(&mut self, now: Now, id: &str, result: Result<(), String>) {
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

    /// A save failed since evidence was gathered: look again.
    pub(super) fn care_about_failures(&mut self, now: Now) {
        if self.saver.failures() > self.care.failures && matches!(self.care.stage, Stage::Idle) {
            self.care.failures = self.saver.failures();
            self.care_soon(now);
        }
    }

    /// Another try could kill the server, or crash another child: only a human's word helps.
    pub(super) fn tries_do_harm(&self) -> bool {
        let harmful = |f: &Found| ["child-oom-killed", "child-crashed"].contains(&f.check.id);
        let cause = self.care.found.first().is_some_and(|f| f.hit.sure && harmful(f));
        cause && self.saver.failures() >= CRASHES_MOST
    }

    /// The likeliest cause, its evidence, and what a human types.
    pub(super) fn cause(&self) -> Option<Finding> {
        let evidence = self.evidence();
        let top = self.care.found.first().filter(|f| f.kind() == Kind::Cause)?;
        Some(finding(top, &evidence))
    }

    /// Before the incident closes: what was changed for its time only. True: [`Guard::finish`] is called again.
    pub(super) fn take_back(&mut self, now: Now) -> bool {
        let commands = std::mem::take(&mut self.care.back);
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

fn finding(found: &Found, evidence: &Evidence) -> Finding {
    Finding {
        id: found.check.id.into(),
        severity: found.severity().name().into(),
        evidence: found.hit.says.clone(),
        remedy: command(found, evidence),
        applied: false,
    }
}
