//! The record of the open incident: opened once, written line by line, closed once.
//!
//! Refuses to know: decisions, files. Invariant: the timeline is bounded by [`TIMELINE_MOST`].

use super::incident::Now;
use super::policy::TIMELINE_MOST;
use super::record::{Entry, Finding, Incident, Outcome, Phase};
use crate::posture::Variant;

/// See the module's page.
#[derive(Clone, Debug)]
pub struct Journal {
    record: Incident,
    opened: Now,
    /// Ids of the newest diagnosis.
    diagnosed: Vec<String>,
}

impl Journal {
    /// Opens a record.
    pub fn open(now: Now, nonce: u16, upstream: &str, variant: Variant) -> Self {
        let stamp: String = rfc3339(now.unix_ms).chars().filter(|c| !matches!(c, '-' | ':')).collect();
        // The milliseconds go into the suffix: two incidents of one process within one second
        // have two names.
        let id = format!("{}Z-{nonce:04x}{:03x}", &stamp[..15], now.unix_ms % 1000);
        let record = Incident {
            id,
            upstream: upstream.to_string(),
            variant,
            opened_at: rfc3339(now.unix_ms),
            mitigated_after_ms: None,
            verified_after_ms: None,
            closed_after_ms: None,
            outcome: None,
            findings: Vec::new(),
            refusals: 0,
            held: 0,
            replayed: 0,
            timed_out: 0,
            abandoned: 0,
            changes_exposed: 0,
            timeline: Vec::new(),
        };
        Journal { record, opened: now, diagnosed: Vec::new() }
    }

    /// The record so far.
    pub fn record(&self) -> &Incident {
        &self.record
    }

    /// One line more.
    pub fn note(&mut self, now: Now, phase: Phase, event: &str, detail: String) {
        if self.record.timeline.len() < TIMELINE_MOST {
            let entry = Entry { at_ms: self.age_ms(now), phase, event: event.to_string(), detail };
            self.record.timeline.push(entry);
        } else if let Some(last) = self.record.timeline.last_mut() {
            // The end of a story matters more than its four-hundredth repetition.
            *last = Entry {
                at_ms: now.mono.saturating_sub(self.opened.mono).as_millis() as u64,
                phase,
                event: event.to_string(),
                detail,
            };
        }
    }

    /// Adds a finding once; by its id.
    pub fn finding(&mut self, finding: Finding) {
        match self.record.findings.iter_mut().find(|known| known.id == finding.id) {
            Some(known) => *known = finding,
            None => self.record.findings.push(finding),
        }
    }

    /// What a diagnosis found takes the place of what the last one found, worst first; what was cured,
    /// or found otherwise, stays; all of it, when the new one is `poorer`.
    pub fn diagnosed(&mut self, found: Vec<Finding>, poorer: bool) {
        let again = |id: &str| found.iter().any(|new| new.id == id);
        let kept =
            |old: &Finding| old.applied || ((poorer || !self.diagnosed.contains(&old.id)) && !again(&old.id));
        let kept: Vec<Finding> = self.record.findings.iter().filter(|old| kept(old)).cloned().collect();
        self.diagnosed = found.iter().map(|new| new.id.clone()).collect();
        let new = found.into_iter().filter(|new| kept.iter().all(|old| old.id != new.id));
        let new: Vec<Finding> = new.collect();
        self.record.findings = new.into_iter().chain(kept).collect();
        // The cure that was applied is the story's hero: it stays on top.
        self.record.findings.sort_by_key(|finding| !finding.applied);
    }

    /// The remedy of this finding was applied.
    pub fn applied(&mut self, id: &str) {
        if let Some(finding) = self.record.findings.iter_mut().find(|finding| finding.id == id) {
            finding.applied = true;
        }
    }

    /// The newest refusal's kind: an incident that turns from RDB to AOF is an AOF one.
    pub fn variant(&mut self, variant: Variant) {
        self.record.variant = variant;
    }

    /// Writes are open. The first time counts.
    pub fn mitigated(&mut self, now: Now) {
        let age = self.age_ms(now);
        self.record.mitigated_after_ms.get_or_insert(age);
    }

    /// A save is proved.
    pub fn verified(&mut self, now: Now) {
        self.record.verified_after_ms = Some(self.age_ms(now));
    }

    /// Changes acknowledged and unsaved, at the most.
    pub fn exposed(&mut self, changes: u64) {
        self.record.changes_exposed = self.record.changes_exposed.max(changes);
    }

    /// The end.
    pub fn close(mut self, now: Now, outcome: Outcome) -> Incident {
        self.record.closed_after_ms = Some(self.age_ms(now));
        self.record.outcome = Some(outcome);
        self.record
    }

    fn age_ms(&self, now: Now) -> u64 {
        now.mono.saturating_sub(self.opened.mono).as_millis() as u64
    }
}

/// `2026-11-22T10:15:00.123Z`.
pub fn rfc3339(unix_ms: u64) -> String {
    let (secs, ms) = (unix_ms / 1000, unix_ms % 1000);
    let (days, of_day) = (secs / 86_400, secs % 86_400);
    // Days to date by eras of 400 years that begin on 1 March 0000 (Howard Hinnant's civil_from_days).
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_342_500_123, "2026-11-22T10:15:00.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
        }
    }
}
