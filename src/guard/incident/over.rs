//! The hand-over of the primary's role: asked for, prepared, made, and what is done when it was not. The switch goes
//! down first, with its debt: the old primary becomes a replica, and one that cannot save would end itself at its
//! new primary's first write. What is accepted between that and FAILOVER is replicated before the role moves.
//!
//! Refuses to know: which replica is fit, where sessions go. Invariants: sessions wait for as long as it lasts; a role
//! that moved is never taken for one that did not, also when the line broke over it; one that did not move costs
//! nothing but time: the switch is put back.

use std::time::Duration;

use super::{Action, Guard, News, Now, Past, Unwind};
use crate::guard::dialogue::Talk;
use crate::guard::evidence::{Look, Role};
use crate::guard::policy::{CHILD_POLL, FAILOVER_TIMEOUT, OVER_AGAIN, OVER_CHOICE};
use crate::guard::record::Phase;
use crate::posture::Posture;

const NOBODY: &str = "nobody said which replica is fit";

/// Where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Over {
    /// Nowhere.
    #[default]
    Idle,
    /// A fit replica is asked for, until then.
    Choosing(Duration),
    /// The switch must go down first.
    Lowering(String),
    /// FAILOVER is to be sent, or was.
    Moving {
        /// To whom.
        to: String,
        /// The server gives it up before.
        until: Duration,
        /// Sent.
        sent: bool,
    },
}

impl Guard {
    /// The course of this moment is a hand-over: its next step.
    pub(super) fn hand_over(&mut self, now: Now, why: &'static str) {
        self.set_posture(Posture::Hold);
        match self.over.clone() {
            Over::Idle => {
                let peers = self.look.as_ref().map(|(_, look)| look.peers.replicas.clone());
                self.over = Over::Choosing(now.mono + OVER_CHOICE);
                self.due = now.mono + OVER_CHOICE;
                self.say(now, "handing over", why.into());
                self.out.push_back(Action::News(News::WantsOver(peers.unwrap_or_default())));
            }
            Over::Choosing(until) if now.mono < until => self.due = until,
            Over::Choosing(_) => self.not_over(now, NOBODY.into()),
            Over::Lowering(_) => self.lower_in_turn(now),
            Over::Moving { .. } => self.due = now.mono,
        }
    }

    /// Who is fit, or why nobody is.
    pub(super) fn candidate(&mut self, now: Now, fit: Result<String, String>) {
        if !matches!(self.over, Over::Choosing(_)) {
            return;
        }
        self.due = now.mono;
        match fit {
            Err(why) => self.not_over(now, why),
            Ok(to) if self.lowered => self.move_over(now, to),
            Ok(to) => {
                self.say(now, "a replica is fit", to.clone());
                self.over = Over::Lowering(to);
            }
        }
    }

    /// The old primary is safe: now the role.
    pub(super) fn move_over(&mut self, now: Now, to: String) {
        self.over = Over::Moving { to: to.clone(), until: now.mono + 2 * FAILOVER_TIMEOUT, sent: false };
        self.set_posture(Posture::Hold);
        self.enter(now, Phase::Holding, "handing over", to);
        self.due = now.mono;
    }

    /// Nothing else is asked while the role moves.
    pub(super) fn over_talk(&mut self, now: Now) -> Option<Talk> {
        if matches!(self.over, Over::Choosing(until) if now.mono >= until) {
            self.not_over(now, NOBODY.into());
        }
        let Over::Moving { to, sent, .. } = &mut self.over else { return None };
        if std::mem::replace(sent, true) {
            return (now.mono >= self.due).then_some(Talk::Look);
        }
        let (host, port) = to.rsplit_once(':').unwrap_or((to, ""));
        let host = host.trim_start_matches('[').trim_end_matches(']').to_string();
        let (port, timeout_ms) = (port.to_string(), FAILOVER_TIMEOUT.as_millis() as u64);
        Some(Talk::Failover { host, port, timeout_ms })
    }

    /// Has the role's move anything to wait for?
    pub(super) fn is_moving(&self) -> bool {
        match self.over {
            Over::Moving { .. } => true,
            // Writes were open before, and must not be opened by the next PONG.
            Over::Choosing(_) => self.lowered,
            Over::Idle | Over::Lowering(_) => false,
        }
    }

    /// The server's answer to FAILOVER: it has begun, or it will not.
    pub(super) fn failover(&mut self, now: Now, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.say(now, "failover begun", String::new());
                self.due = now.mono;
            }
            Err(why) => self.not_over(now, why),
        }
    }

    pub(super) fn looked_moving(&mut self, now: Now, look: &Look) {
        let Over::Moving { to, until, .. } = self.over.clone() else { return };
        // `failover-in-progress` of a replica may still be taken back (`replication.c:abortFailover`).
        let ended = look.peers.failing_over.is(false);
        match look.role.get() {
            Some(Role::Replica) if ended => self.moved(now, to),
            Some(Role::Primary) if ended => self.not_over(now, "the server gave it up".into()),
            // Of a replica that is not yet taken in nothing is put back: it would be its end.
            Some(Role::Primary | Role::Other) | None if now.mono >= until => {
                self.not_over(now, format!("no end of it after {:?}", 2 * FAILOVER_TIMEOUT));
            }
            Some(_) | None => self.due = now.mono + CHILD_POLL.0,
        }
    }

    /// The role is where it should be. What is left is a replica to repair.
    fn moved(&mut self, now: Now, to: String) {
        self.over = Over::Idle;
        self.past.redirected = true;
        self.role = Some(Role::Replica);
        self.neighbours.lowered_as_replica = true;
        if let Some(journal) = &mut self.journal {
            journal.mitigated(now);
        }
        self.out.push_back(Action::News(News::Over(Ok(to.clone()))));
        self.enter(
            now,
            Phase::Mitigated,
            "handed over",
            format!("{to} is the primary now; this server is repaired as its replica"),
        );
        self.course = None;
        // PONG opens what still waits here: by then sessions know where to go.
        self.suspicious = true;
        self.probe_after = now.mono;
        self.due = now.mono;
        self.care_soon(now);
    }

    /// The role stays, for now.
    pub(super) fn not_over(&mut self, now: Now, why: String) {
        let to = match std::mem::take(&mut self.over) {
            Over::Lowering(to) | Over::Moving { to, .. } => Some(to),
            Over::Idle | Over::Choosing(_) => None,
        };
        self.past.over_after = Some(now.mono + OVER_AGAIN);
        let at = to.as_deref().and_then(|to| to.rsplit_once(':')).unwrap_or(("<replica>", "<port>"));
        let typed = format!("{} FAILOVER TO {} {} TIMEOUT 10000", self.cli(), at.0, at.1);
        self.out.push_back(Action::News(News::Over(Err(why.clone()))));
        self.warn(now, "not handed over", format!("{why}; by hand, once a replica is fit: {typed}"));
        self.due = now.mono;
        if !self.lowered {
            return;
        }
        match self.past {
            // It was open before, and its budget is spent.
            Past { spending: true, .. } => {
                self.unwind = Some(Unwind::Spent);
                self.set_posture(Posture::Refuse);
                self.enter(now, Phase::Exposed, "exposure budget spent", "and nobody takes over".into());
            }
            Past { .. } => self.unwind = Some(Unwind::Stayed),
        }
    }
}
