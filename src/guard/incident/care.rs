//! The search for a cause, beside everything else: evidence is gathered in two steps (the server tells,
//! the host shows), and the table of checks says what it means. Writes never wait for it; a save does,
//! briefly. What is done about it is [`super::mend`].
//!
//! Refuses to know: how a host is looked at. Invariant: in peace nothing but notes comes of it.

use std::time::Duration;

use super::mend::Mending;
use super::{Action, Guard, Now};
use crate::config::Policy;
use crate::guard::dialogue::{Command, Talk};
use crate::guard::evidence::{Evidence, Fact, Healthy, HostFacts, Look, Seen, ServerFacts};
use crate::guard::finding::headroom::headroom;
use crate::guard::finding::trend::Trend;
use crate::guard::finding::{BREAK_IN, Found, Kind, Severity, diagnose};
use crate::guard::policy::{CARE_AOF_EVERY, CARE_EVERY, CARE_PATIENCE, CRASHES_MOST};
use crate::guard::record::{Finding, Phase};
use crate::guard::remedy::{Step, command};

/// Where it stands.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) enum Stage {
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

/// See the module's page.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Care {
    pub(super) stage: Stage,
    /// What is under way was asked before the incident: its answer is not about it.
    stale: bool,
    /// When to look for causes again.
    pub(super) due: Duration,
    /// A save waits for us until then.
    pub(super) patience: Duration,
    look: Look,
    server: ServerFacts,
    host: HostFacts,
    pub(super) found: Vec<Found>,
    /// The cause that was told last, and whether it was sure.
    told: Option<Option<(&'static str, bool)>>,
    /// Changes of the host sent away so far, in all incidents.
    pub(super) errands: u64,
    /// Failed saves when evidence was last gathered.
    failures: u32,
    /// Remedies tried in this incident: finding, and what it does.
    pub(super) tried: Vec<(&'static str, &'static str)>,
    /// Steps taken, or tried, in this incident.
    pub(super) steps: Vec<Step>,
    /// Findings the operator's hook was told of.
    pub(super) hooked: Vec<&'static str>,
    /// Findings for which it runs now, perhaps since an earlier incident.
    pub(super) hooking: Vec<&'static str>,
    /// Findings whose remedy was not allowed, so that each is counted once.
    pub(super) refused: Vec<&'static str>,
    /// Kills by the memory controller while all was well.
    oom_kills_before: Option<u64>,
    /// Of this incident's refused PINGs, our own, when the server was asked.
    own_pings: u64,
    /// Refused PINGs while all was well, anybody's.
    pings_before: Option<u64>,
    /// What stands in peace, for the status.
    standing: Vec<Finding>,
    /// How headroom went in the last hour.
    trend: Trend,
    /// What the disk knows to be healthy.
    remembered: Option<Healthy>,
    /// To be taken back when the incident ends.
    pub(super) back: Vec<Command>,
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
        let stage = std::mem::take(&mut self.stage);
        let stale = matches!(stage, Stage::Examining);
        *self = Care {
            stage: if stale { stage } else { Stage::Idle },
            stale,
            due: now.mono,
            pings_before: self.server.pings_refused.get().or(self.pings_before),
            oom_kills_before: host.cgroup.oom_kills.get().or(self.oom_kills_before),
            patience: now.mono + CARE_PATIENCE,
            remembered: self.remembered.take(),
            trend: std::mem::take(&mut self.trend),
            errands: self.errands,
            hooking: std::mem::take(&mut self.hooking),
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

#[cfg(test)]
impl Care {
    /// For the model: what this module keeps to itself.
    pub(super) fn print(&self, h: &mut impl std::hash::Hasher) {
        std::hash::Hash::hash(&(self.stale, self.failures), h);
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
                if self.phase == Phase::Mitigated && !self.follows() {
                    self.enter(now, Phase::Diagnosing, "looking for the cause", String::new());
                }
                Some(Talk::Inquire { own: self.settings.name.clone() })
            }
            Stage::Mending(mending) => mending.talk(),
            Stage::Idle | Stage::Asking | Stage::Examining | Stage::TakingBack => None,
        }
    }

    pub(super) fn inquired(&mut self, now: Now, look: Look, server: ServerFacts) {
        if !matches!(self.care.stage, Stage::Asking) {
            return;
        }
        self.learn_rights(now, &server.rights);
        self.counted_in_peace(now, &server.config_rewrites);
        self.care.stage = Stage::Examining;
        self.care.own_pings = self.pings_refused;
        self.care.look = look.clone();
        self.care.server = server.clone();
        self.out.push_back(Action::Examine(Box::new((look, server))));
    }

    pub(super) fn examined(&mut self, now: Now, host: HostFacts) {
        if !matches!(self.care.stage, Stage::Examining) {
            return;
        }
        self.care.stage = Stage::Idle;
        if std::mem::take(&mut self.care.stale) {
            return;
        }
        self.care.host = host;
        self.care.failures = self.saver.failures();
        let left = headroom(&self.evidence());
        self.care.trend.push(now.mono, left);
        let evidence = self.evidence();
        self.out.push_back(Action::Headroom(left, evidence.ahead));
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
    pub(super) fn evidence(&self) -> Evidence {
        let mut server = self.care.server.clone();
        server.rights = self.rights.clone();
        if server.whoami.known().is_none() {
            server.whoami = Fact::Known(self.settings.user.clone());
        }
        let (rewritten, left_off) = self.rewrites_seen();
        let newest = self.look.as_ref().map_or(&self.care.look, |(_, look)| look);
        Evidence {
            address: self.settings.address.clone(),
            look: newest.clone(),
            server,
            host: self.care.host.clone(),
            healthy: self.healthy.clone(),
            ahead: self.care.trend.ahead(),
            seen: Seen {
                variant: self.journal.as_ref().map(|_| self.variant),
                refusal: self.refusal.clone(),
                failures: self.saver.failures(),
                fork_failed: self.saver.fork_failed(),
                oom_kills_before: self.care.oom_kills_before,
                pings: Some((self.care.pings_before.unwrap_or(0), self.care.own_pings)),
                config_denied: self.config_refused.clone(),
                rewritten,
                left_off,
            },
        }
    }

    /// In peace: what stands, and what is healthy.
    fn noted(&mut self, evidence: &Evidence) {
        let loud = |f: &&Found| f.kind() != Kind::Advice && f.severity() != Severity::Info;
        self.care.standing = self.care.found.iter().filter(loud).map(|f| finding(f, evidence)).collect();
        self.care.oom_kills_before = self.care.host.cgroup.oom_kills.get().or(self.care.oom_kills_before);
        if let Some(refused) = self.care.server.pings_refused.get() {
            self.care.pings_before = Some(refused.saturating_sub(self.care.own_pings));
        }
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
        let top = self.care.found.first().filter(|f| f.kind() == Kind::Cause);
        let cause = top.map(|top| (top.check.id, top.hit.sure));
        // Cured by hand, or healed by itself, a cause is out of sight before a save proves it: it was the cause.
        let poorer = top.is_none_or(|top| ["unknown", "dead-end"].contains(&top.check.id));
        // The same cause with other figures is no news.
        if self.care.told != Some(cause) {
            let (event, detail) = match top {
                Some(top) if top.hit.sure => ("cause found", format!("{}: {}", top.check.id, top.hit.says)),
                Some(top) => ("likely cause found", format!("{}: {}", top.check.id, top.hit.says)),
                None => ("no cause found", "a save decides".into()),
            };
            self.care.told = Some(cause);
            self.say(now, event, detail);
        }
        let trapped = self.care.found.iter().any(|f| f.check.id == BREAK_IN);
        if let Some(journal) = &mut self.journal {
            journal.diagnosed(findings, poorer);
        }
        if trapped && !self.past.frozen && self.settings.policy != Policy::Observe {
            self.freeze(now);
            return self.hook(evidence, |f| f.check.id == BREAK_IN);
        }
        self.mend(now, evidence);
        self.aof_ladder(now, evidence);
        self.due = self.due.min(now.mono);
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
        let cause = self.care.found.first().is_some_and(harmful);
        cause && self.saver.failures() >= CRASHES_MOST
    }

    /// A copy would go by the server's own disk.
    pub(super) fn copies_go_by_disk(&self) -> bool {
        self.care.server.diskless_sync.is(false)
    }

    /// Does a Sentinel watch this server, as far as the newest inquiry told?
    pub(super) fn sentinel_rules(&self) -> bool {
        self.care.server.sentinels.is_and(|n| *n > 0)
    }

    /// How long the newest fork had taken when the cause was sought.
    pub(super) fn fork_before(&self) -> Option<u64> {
        self.care.server.latest_fork_usec.get()
    }

    /// The likeliest cause, its evidence, and what a human types.
    pub(super) fn cause(&self) -> Option<Finding> {
        let evidence = self.evidence();
        let top = self.care.found.first().filter(|f| f.kind() == Kind::Cause)?;
        Some(finding(top, &evidence))
    }
}

pub(super) fn finding(found: &Found, evidence: &Evidence) -> Finding {
    Finding {
        id: found.check.id.into(),
        severity: found.severity().name().into(),
        evidence: found.hit.says.clone(),
        remedy: command(found, evidence),
        applied: false,
    }
}
