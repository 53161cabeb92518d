//! What a guard has to do with those of the server's peers: a replica's says when it is in danger, and a
//! primary's waits for it, for a moment, before it lets writes through that would end it.
//!
//! Refuses to know: who the others are, and how they are told. Invariant: writes never wait for replicas longer
//! than [`SHELTER`], and when none is known to be in danger no longer than the replicas' guards take to look,
//! [`ANSWER`] at the most.

use std::time::Duration;

use super::{Action, Guard, News, Now};
use crate::guard::evidence::{Look, Peer, Role};
use crate::guard::policy::{ANSWER, SHELTER};
use crate::guard::record::Phase;
use crate::posture::{Posture, Variant};

/// See the module's page.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Neighbours {
    /// Replicas in danger, as their guards say, and those whose guards are still looking.
    known: u32,
    asked: u32,
    /// When writes began to wait for them.
    since: Option<Duration>,
    /// The switch was lowered because the server is a replica.
    pub(super) lowered_as_replica: bool,
    /// We were roused, and have not heard from the server since.
    roused: bool,
    /// What was told last.
    told_danger: bool,
    told_alarm: bool,
    told_replicas: Vec<Peer>,
}

impl Neighbours {
    /// The incident is.
    pub(super) fn over(&mut self) {
        self.since = None;
        self.lowered_as_replica = false;
        self.told_alarm = false;
    }

    /// Replicas worth waiting for: those in danger, and for a moment those that may be.
    pub(super) fn endangered(&self, now: Now) -> u32 {
        let patient = self.since.is_none_or(|since| now.mono < since + ANSWER);
        self.known + if patient { self.asked } else { 0 }
    }
}

#[cfg(test)]
impl Neighbours {
    /// For the model.
    pub(super) fn print(&self, now: Now, h: &mut impl std::hash::Hasher) {
        let age = self.since.map(|since| now.mono.saturating_sub(since));
        let counts = (self.known, self.asked, age);
        std::hash::Hash::hash(&(counts, self.lowered_as_replica, self.roused, self.told_danger), h);
    }
}

impl Guard {
    /// Does it follow another server, as far as is known?
    pub fn is_replica(&self) -> bool {
        let seen = self.look.as_ref().and_then(|(_, look)| look.role.get());
        self.role.or(seen) == Some(Role::Replica)
    }

    /// Would the next write of its primary end it, and is that ours to prevent?
    fn is_endangered(&self) -> bool {
        let look = self.look.as_ref().map(|(_, look)| look);
        let refuses = match self.journal.is_some() {
            true => self.variant == Variant::Rdb && self.phase != Phase::Quiet,
            false => look.is_some_and(Look::refuses_for_rdb),
        };
        let may_help = self.settings.guard_replicas && !self.past.hands_off;
        may_help && refuses && !self.lowered && !self.follows() && look.is_some_and(Look::aborts_on_errors)
    }

    /// A save of a replica that would end itself may fail at any moment: it is watched closely.
    pub(super) fn is_nursed(&self, look: &Look) -> bool {
        self.settings.guard_replicas && look.aborts_on_errors() && look.saving.is(true)
    }

    /// What others should know, when it is news.
    pub(super) fn tell_neighbours(&mut self) {
        let danger = self.is_endangered();
        if std::mem::replace(&mut self.neighbours.told_danger, danger) != danger {
            self.out.push_back(Action::News(News::Endangered(danger)));
        }
        // An answer, or an incident, or nobody to ask: in each case nothing more is known than is told.
        let looking = self.phase == Phase::Quiet && self.suspicious && self.up;
        if self.neighbours.roused && !looking {
            self.neighbours.roused = false;
            self.out.push_back(Action::News(News::Looked));
        }
        let alarm = self.journal.is_some() && self.phase == Phase::Alarmed && !self.is_replica();
        if alarm && !std::mem::replace(&mut self.neighbours.told_alarm, true) {
            self.out.push_back(Action::News(News::Alarmed));
        }
        let Some((_, look)) = &self.look else { return };
        let same = |(old, new): (&Peer, &Peer)| (&old.address, old.online) == (&new.address, new.online);
        let (old, new) = (&self.neighbours.told_replicas, &look.peers.replicas);
        if old.len() != new.len() || !old.iter().zip(new).all(same) {
            self.neighbours.told_replicas.clone_from(new);
            self.out.push_back(Action::News(News::Replicas(new.clone())));
        }
    }

    /// Replicas first: their guards are at it.
    pub(super) fn shelter(&mut self, now: Now, why: &'static str) {
        self.set_posture(Posture::Hold);
        let since = *self.neighbours.since.get_or_insert(now.mono);
        let Neighbours { known, asked, .. } = self.neighbours;
        if known == 0 {
            self.due = since + ANSWER;
            return;
        }
        if now.mono < since + SHELTER {
            self.due = since + if asked > 0 && now.mono < since + ANSWER { ANSWER } else { SHELTER };
            return self.say(now, "replicas first", format!("{known} in danger: {why}"));
        }
        self.past.waited = true;
        let detail = format!("{known} not safe after {SHELTER:?}: writes do not wait longer");
        self.warn(now, "replicas left in danger", detail);
        self.due = now.mono;
    }

    pub(super) fn endangered(&mut self, now: Now, known: u32, asked: u32) {
        let before = std::mem::replace(&mut self.neighbours.known, known);
        self.neighbours.asked = asked;
        if self.neighbours.since.is_some() && self.phase == Phase::Alarmed && self.course.is_none() {
            if known == 0 && before > 0 {
                self.say(now, "replicas are safe", String::new());
            }
            self.due = now.mono;
        }
    }

    /// The server's peer is in trouble, perhaps for a reason that is this one's too.
    pub(super) fn roused(&mut self, now: Now) {
        self.neighbours.roused = true;
        if self.phase == Phase::Quiet && self.settings.guard_replicas && self.up {
            self.suspicious = true;
            self.probe_after = now.mono;
        }
    }
}
