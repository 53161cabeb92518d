//! What the guard says, to whom: the log, the live feed, alerts, the status.
//!
//! Refuses to know: what any of it means.

use tracing::{debug, info, warn};

use super::{Shell, clock};
use crate::guard::feed::{PhaseChange, held, lock};
use crate::guard::incident::Tone;
use crate::guard::journal::rfc3339;
use crate::guard::record::Phase;
use crate::posture::Posture;

impl Shell {
    pub(super) fn said(&mut self, phase: Phase, event: &str, detail: String, tone: Tone) {
        let at = rfc3339(clock(self.start).unix_ms);
        let incident = self.guard.record().map(|record| record.id.clone());
        let (upstream, id) = (&self.params.settings.address, incident.as_deref().unwrap_or("-"));
        let colon = if detail.is_empty() { "" } else { ": " };
        match (tone, phase) {
            (Tone::Aside, _) => {
                debug!(%upstream, incident = id, phase = phase.name(), "{event}{colon}{detail}")
            }
            (Tone::Note, _) | (Tone::Turn, Phase::Quiet | Phase::Verifying | Phase::Rearming) => {
                info!(%upstream, incident = id, phase = phase.name(), "{event}{colon}{detail}");
            }
            (Tone::Caution | Tone::Warning | Tone::Turn, _) => {
                warn!(%upstream, incident = id, phase = phase.name(), "{event}{colon}{detail}");
            }
        }
        if tone == Tone::Turn {
            let (at, upstream, event) = (at.clone(), upstream.clone(), event.to_string());
            self.params.turns.tell(PhaseChange {
                at,
                upstream,
                phase,
                event,
                detail: detail.clone(),
                incident,
            });
        }
        match tone {
            Tone::Aside | Tone::Note | Tone::Caution => {}
            Tone::Warning | Tone::Turn => {
                let (record, exposure) = (self.guard.record(), self.guard.exposure(clock(self.start)));
                self.alerts.tell(upstream, record, phase, exposure, (at, event.to_string(), detail));
            }
        }
    }

    /// Writes are open: the moment the applications waited for.
    pub(super) fn mitigated(&mut self) {
        let Some(since) = self.alarmed.filter(|_| self.gate.posture() == Posture::Forward) else { return };
        self.alarmed = None;
        if self.guard.phase() != Phase::Quiet || self.guard.record().is_some() {
            let micros = since.elapsed().as_micros() as u64;
            lock(&self.metrics.guard).mitigated(micros);
        }
    }

    pub(super) fn publish(&mut self) {
        let status = self.guard.status(clock(self.start), held(&self.gate));
        self.found.retain(|id| status.findings.iter().any(|finding| finding.id == *id));
        for finding in &status.findings {
            if !self.found.contains(&finding.id) {
                let (id, evidence, remedy) = (&finding.id, &finding.evidence, &finding.remedy);
                warn!(upstream = self.params.settings.address, finding = id, "{evidence}; cure: {remedy}");
                self.found.push(id.clone());
            }
        }
        self.shared.set_status(status);
        if let Some(record) = self.guard.record() {
            let mut record = record.clone();
            self.fill(self.base, &mut record);
            self.shared.keep(record);
        }
    }
}
