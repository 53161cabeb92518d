//! Which replica may become the primary: the fit one that is furthest.
//!
//! Refuses to know: how the role is moved. Invariant: what is not known of a replica speaks against it.

use super::evidence::Peer;
use super::record::{Phase, UpstreamStatus};

/// Behind its primary by more than this it is not in step.
const LAG_MOST_SECS: u64 = 5;

/// A replica, as its primary names it and as its guard sees it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its primary's words.
    pub peer: Peer,
    /// Its guard's; without a guard nothing is known.
    pub status: Option<UpstreamStatus>,
}

/// One reason not to take a replica.
struct Unfit {
    why: &'static str,
    when: fn(&Candidate) -> bool,
}

fn seen(c: &Candidate, so: fn(&UpstreamStatus) -> bool) -> bool {
    c.status.as_ref().is_some_and(so)
}

/// First that holds is told.
const UNFIT: [Unfit; 6] = [
    Unfit { why: "its guard does not reach it", when: |c| !seen(c, |s| s.up) },
    Unfit { why: "it does not say that it is a replica", when: |c| !seen(c, |s| s.role == "replica") },
    Unfit { why: "it is not in step", when: |c| !c.peer.online || c.peer.lag > LAG_MOST_SECS },
    Unfit { why: "its own last save did not work", when: |c| !seen(c, |s| s.last_save_ok == Some(true)) },
    Unfit {
        why: "it is in trouble itself",
        when: |c| !seen(c, |s| s.phase == Phase::Quiet && s.debt.is_none()),
    },
    // Also what it shares with its primary: a full disk, a lack of memory.
    Unfit {
        why: "its own next save is in danger",
        when: |c| !seen(c, |s| s.findings.iter().all(|finding| finding.severity != "crit")),
    },
];

/// Its address, or why each is unfit.
pub fn choose(mut candidates: Vec<Candidate>) -> Result<String, String> {
    candidates.sort_by(|a, b| {
        (b.peer.offset, a.peer.lag, &a.peer.address).cmp(&(a.peer.offset, b.peer.lag, &b.peer.address))
    });
    let reason =
        |candidate: &Candidate| UNFIT.iter().find(|unfit| (unfit.when)(candidate)).map(|unfit| unfit.why);
    if let Some(fit) = candidates.iter().find(|candidate| reason(candidate).is_none()) {
        return Ok(fit.peer.address.clone());
    }
    let each = candidates.iter().filter_map(|c| Some(format!("{}: {}", c.peer.address, reason(c)?)));
    let each: Vec<String> = each.collect();
    Err(if each.is_empty() {
        "there is no replica".into()
    } else {
        format!("no replica is fit: {}", each.join("; "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::record::{Exposure, Finding, Held, RightsView};

    fn well(address: &str, offset: u64) -> Candidate {
        let status = UpstreamStatus {
            address: address.into(),
            serves: false,
            up: true,
            role: "replica".into(),
            last_save_ok: Some(true),
            server: "redis".into(),
            version: "7.0.15".into(),
            run_id: "r".into(),
            phase: Phase::Quiet,
            posture: "forward".into(),
            policy: "redirect".into(),
            debt: None,
            exposure: Exposure::default(),
            findings: Vec::new(),
            rights: RightsView::default(),
            held: Held::default(),
            escrow: None,
            owner: None,
            sentinel: "none".into(),
            incident: None,
        };
        let peer = Peer { address: address.into(), online: true, offset, lag: 0 };
        Candidate { peer, status: Some(status) }
    }

    fn but(change: impl FnOnce(&mut Candidate, &mut UpstreamStatus)) -> Candidate {
        let mut candidate = well("b:1", 99);
        let mut status = candidate.status.take().unwrap();
        change(&mut candidate, &mut status);
        candidate.status = Some(status);
        candidate
    }

    #[test]
    fn the_fit_one_that_is_furthest_is_taken() {
        assert_eq!(choose(vec![well("a:1", 5), well("b:1", 7), well("c:1", 7)]), Ok("b:1".into()));
        assert_eq!(choose(vec![]), Err("there is no replica".into()));
    }

    #[test]
    fn each_reason_speaks_against_a_replica() {
        let crit = |severity: &str| {
            let (id, severity) = ("disk-headroom".into(), severity.to_string());
            vec![Finding { id, severity, evidence: String::new(), remedy: String::new(), applied: false }]
        };
        for (candidate, why) in [
            (Candidate { status: None, ..well("b:1", 99) }, UNFIT[0].why),
            (but(|_, s| s.up = false), UNFIT[0].why),
            (but(|_, s| s.role = "unknown".into()), UNFIT[1].why),
            (but(|c, _| c.peer.online = false), UNFIT[2].why),
            (but(|c, _| c.peer.lag = 6), UNFIT[2].why),
            (but(|_, s| s.last_save_ok = Some(false)), UNFIT[3].why),
            (but(|_, s| s.last_save_ok = None), UNFIT[3].why),
            (but(|_, s| s.phase = Phase::Stuck), UNFIT[4].why),
            (but(|_, s| s.findings = crit("crit")), UNFIT[5].why),
        ] {
            assert_eq!(choose(vec![candidate.clone()]), Err(format!("no replica is fit: b:1: {why}")));
            assert_eq!(choose(vec![candidate, well("a:1", 1)]), Ok("a:1".into()), "{why}");
        }
        assert_eq!(choose(vec![but(|_, s| s.findings = crit("warn"))]), Ok("b:1".into()));
    }
}
