//! What the guard shows of itself. Nothing here changes anything.

use super::{Guard, Now};
use crate::config::Policy;
use crate::guard::evidence::{Fact, Look, Role};
use crate::guard::journal::rfc3339;
use crate::guard::record::{
    DebtView, Exposure, Finding, Held, Incident, OwnerView, Phase, RightsView, UpstreamStatus,
};
use crate::guard::remedy::{cli, grant};
use crate::posture::Posture;

impl Guard {
    /// Where the incident stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The server's, as it told last.
    pub fn run_id(&self) -> Option<String> {
        self.look.as_ref().and_then(|(_, look)| look.run_id.known().cloned())
    }

    /// What sessions are told to do.
    pub fn posture(&self) -> Posture {
        self.posture
    }

    /// Grows whenever something may have changed.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The debt as the disk should have it.
    pub fn debt(&self) -> Option<&crate::guard::debt::Debt> {
        self.debt.as_ref()
    }

    /// The open incident.
    pub fn record(&self) -> Option<&Incident> {
        self.journal.as_ref().map(|journal| journal.record())
    }

    /// BGSAVEs sent and saves failed in this incident.
    pub fn tries(&self) -> (u32, u32) {
        (self.saver.tries(), self.saver.failures())
    }

    /// Seconds and changes acknowledged while the switch was down and not saved since. What was
    /// unsaved before we lowered it, the operator's own save points allowed; it stands beside.
    pub fn exposure(&self, now: Now) -> Exposure {
        let look = self.look.as_ref().map(|(_, look)| look);
        let mut exposure = Exposure {
            secs: 0,
            changes: 0,
            secs_max: self.settings.exposure_time.as_secs(),
            changes_max: self.settings.exposure_changes,
            secs_since_save: look.and_then(|look| self.save_age_ms(now, look)).map(|ms| ms / 1000),
            changes_since_save: look.and_then(|look| look.changes.known().copied()),
        };
        if self.lowered || self.follows() {
            exposure.secs = self.exposed_ms(now) / 1000;
            let all = exposure.changes_since_save.unwrap_or(0);
            exposure.changes =
                if self.saved_since(now) { all } else { all.saturating_sub(self.lowered_at.1) };
            if let Some(look) = look {
                self.bound_by_copy(now, &mut exposure, look);
            }
        }
        exposure
    }

    /// For how long writes have been open and unsaved.
    pub(super) fn exposed_ms(&self, now: Now) -> u64 {
        let own = now.unix_ms.saturating_sub(self.lowered_at.0);
        match &self.look {
            Some((_, look)) if self.saved_since(now) => self.save_age_ms(now, look).unwrap_or(own),
            Some(_) | None => own,
        }
    }

    /// Was something saved since the switch went down? Both ages are of one clock each, so the server's need
    /// not agree with ours.
    fn saved_since(&self, now: Now) -> bool {
        let own = now.unix_ms.saturating_sub(self.lowered_at.0) / 1000;
        let age = self.look.as_ref().and_then(|(_, look)| self.save_age_ms(now, look));
        age.is_some_and(|age| age / 1000 < own)
    }

    /// How old the last good save is: what the look told, and the time since the look.
    fn save_age_ms(&self, now: Now, look: &Look) -> Option<u64> {
        let saved_ms = look.last_save.known()? * 1000;
        let looked = self.look.as_ref().map_or(now.mono, |(at, _)| *at);
        let since = now.mono.saturating_sub(looked).as_millis() as u64;
        let clock_ms = look.clock_usec.known().map_or(now.unix_ms.saturating_sub(since), |usec| usec / 1000);
        Some(clock_ms.saturating_sub(saved_ms) + since)
    }

    /// One entry of `upstreams` in `/api/status`.
    pub fn status(&self, now: Now, held: Held) -> UpstreamStatus {
        let look = self.look.as_ref().map(|(_, look)| look);
        let word = |fact: Option<&Fact<String>>| fact.and_then(Fact::known).cloned().unwrap_or_default();
        let role = self.role.or_else(|| look.and_then(|l| l.role.known().copied()));
        let server = word(look.map(|l| &l.server));
        UpstreamStatus {
            address: self.settings.address.clone(),
            serves: false,
            last_save_ok: look.and_then(|l| l.save_ok.get()),
            up: self.up,
            role: match role {
                Some(Role::Primary) => "primary",
                Some(Role::Replica) => "replica",
                Some(Role::Other) | None => "unknown",
            }
            .into(),
            server: if server.is_empty() { "unknown".into() } else { server },
            version: word(look.map(|l| &l.version)),
            run_id: word(look.map(|l| &l.run_id)),
            phase: self.phase,
            posture: self.posture.name().into(),
            policy: self.settings.policy.name().into(),
            debt: self.debt.as_ref().map(|debt| DebtView {
                since: rfc3339(debt.since_ms),
                setting: debt.setting.clone(),
                owed: debt.owed.clone(),
                run_id: debt.run_id.clone(),
            }),
            owner: self
                .several
                .owner()
                .map(|(id, since_ms)| OwnerView { id: id.into(), since: rfc3339(since_ms) }),
            exposure: self.exposure(now),
            escrow: self.escrow_view(now),
            findings: self.standing(now),
            sentinel: self.watch_name(now).into(),
            rights: self.rights_view(),
            held,
            incident: self.record().map(|record| record.id.clone()),
        }
    }

    fn rights_view(&self) -> RightsView {
        let (allowed, denied) = self.rights.names();
        let owned = |names: Vec<&str>| names.into_iter().map(String::from).collect();
        RightsView { allowed: owned(allowed), denied: owned(denied) }
    }

    fn standing(&self, now: Now) -> Vec<Finding> {
        let standing = || self.care.standing().to_vec();
        let mut findings = self.record().map_or_else(standing, |record| record.findings.clone());
        let mut add = |finding: Finding| {
            if findings.iter().all(|known| known.id != finding.id) {
                findings.push(finding);
            }
        };
        let look = self.look.as_ref().map(|(_, look)| look);
        if self.debt.is_none() && look.is_some_and(|l| l.knob.is("no".to_string()) && l.save_ok.is(false)) {
            add(Finding {
                id: "switch-left-off".into(),
                severity: "warn".into(),
                evidence: "the last save failed and stop-writes-on-bgsave-error is no; not by bgsafe".into(),
                remedy: format!(
                    "{0} BGSAVE; then {0} CONFIG SET stop-writes-on-bgsave-error yes",
                    self.cli()
                ),
                applied: false,
            });
        }
        if let Some(other) = self.zombie(now) {
            add(Finding {
                id: "zombie-primary".into(),
                severity: "crit".into(),
                evidence: format!(
                    "Sentinel says that the primary is {other}; this one takes itself for one too"
                ),
                remedy: self.leave_zombie(&other),
                applied: false,
            });
        }
        // Told in peace too: who starts us wants to know then, not in the night of the first refusal.
        let blocked = look.is_some_and(|l| l.run_id.known().is_none() || l.knob.known().is_none());
        if (blocked || self.mute)
            && self.journal.is_none()
            && matches!(self.settings.policy, Policy::Mitigate | Policy::Redirect)
        {
            add(Finding {
                id: "config-blocked".into(),
                severity: "warn".into(),
                evidence: match (self.mute, self.rights.product()) {
                    (true, _) => {
                        "bgsafe may not PING: no refusal can be confirmed, so each is delivered".into()
                    }
                    (false, None) => {
                        "bgsafe may not read INFO or CONFIG: a refusal can only be held, not cured".into()
                    }
                    (false, Some(product)) => {
                        format!(
                            "this looks like {product}, without CONFIG: a refusal can only be held, not cured"
                        )
                    }
                },
                remedy: self.remedy_config(),
                applied: false,
            });
        }
        findings
    }

    /// How a human reaches this server.
    pub(super) fn cli(&self) -> String {
        cli(&self.settings.address)
    }

    pub(super) fn remedy_config(&self) -> String {
        grant(&self.rights, &self.settings.address, &self.settings.user)
    }

    /// The command that pays the debt by hand, when one is owed.
    pub fn payment(&self) -> Option<String> {
        let debt = self.debt.as_ref()?;
        Some(format!("{} CONFIG SET {} {}", self.cli(), debt.setting, debt.owed))
    }
}
