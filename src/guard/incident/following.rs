//! A follower's part while another bgsafe owes the switch: it tells, it watches, it gives way when the switch is
//! back, and it takes the debt over when its owner is gone.
//!
//! Refuses to know: how a claim is made. Invariants: a follower lowers, restores and saves nothing; it inherits
//! only after a grace, with its own note durable, by the claim.

use std::time::Duration;

use super::several::{Claim, Turn};
use super::{Guard, Now, Tone};
use crate::config::Policy;
use crate::guard::dialogue::{KNOB, Talk};
use crate::guard::evidence::Look;
use crate::guard::peers::{self, Peer, Stance};
use crate::guard::policy::{CLAIM_POLL, HEIR_GRACE, HEIR_RANK, HEIR_RANKS, LOOK_EVERY};
use crate::guard::record::Phase;
use crate::posture::{Posture, Variant};

/// Another bgsafe lowered the switch of this server process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Following {
    pub(super) owner: Peer,
    pub(super) run_id: Option<String>,
    /// Since when it is nowhere to be seen.
    pub(super) lost_at: Option<Duration>,
}

impl Guard {
    /// Another bgsafe lowered the switch: it proves, it restores. We tell, and watch.
    pub(super) fn follow_owner(&mut self, now: Now, owner: Peer) {
        let detail = format!("bgsafe {} will put it back", owner.id);
        let run_id = self.look.as_ref().and_then(|(_, look)| look.run_id.known().cloned());
        let run_id = run_id.or_else(|| self.debt.as_ref().map(|debt| debt.run_id.clone()));
        let (was_ours, followed) = (self.lowered, self.follows());
        self.several.claim = Claim::None;
        self.several.following = Some(Following { owner, run_id, lost_at: None });
        self.lowered = false;
        (self.lower_in_doubt, self.restore_in_doubt, self.past.ending) = (false, false, false);
        self.unwind = None;
        self.open(now, Variant::Rdb);
        if !was_ours && !followed {
            let changes = self.look.as_ref().and_then(|(_, look)| look.changes.known().copied());
            self.lowered_at = (now.unix_ms, changes.unwrap_or(0));
        }
        self.suspicious = true;
        self.probe_after = now.mono;
        self.erase_debt();
        let alarmed = self.phase == Phase::Alarmed && self.course.is_none();
        if alarmed {
            self.say(now, "another bgsafe lowered the switch", detail);
            // Its PONG opens our sessions too.
            return self.talk(Talk::Probe);
        }
        self.course = None;
        self.set_posture(Posture::Forward);
        self.enter(now, Phase::Mitigated, "another bgsafe lowered the switch", detail);
    }

    /// A look while we follow.
    pub(super) fn looked_following(&mut self, now: Now, look: &Look) {
        let Some(Following { owner, run_id, lost_at }) = self.several.following.clone() else { return };
        self.due = now.mono + LOOK_EVERY;
        let restarted = matches!((&run_id, look.run_id.known()), (Some(of), Some(is)) if of != is);
        if restarted || look.knob.known().is_some_and(|knob| knob != "no") {
            return self.unfollow(now, look, restarted);
        }
        if !self.past.frozen && self.is_break_in(look) {
            return self.freeze(now);
        }
        // What fails meanwhile is remembered for the day when we inherit.
        self.saver.look(now, look);
        match lost_at {
            Some(at) if now.mono >= at + self.heirs_patience() && self.may_inherit(now) => self.inherit(now),
            Some(_) => self.talk(self.who(None)),
            None => self.talk(self.who(Some(owner.client))),
        }
    }

    /// One after the other, in the order of their ids: who cannot is passed over.
    fn heirs_patience(&self) -> Duration {
        match mutant!(InheritsAtOnce) {
            true => Duration::ZERO,
            false => HEIR_GRACE + HEIR_RANK * self.several.rank.min(HEIR_RANKS),
        }
    }

    pub(super) fn watched(&mut self, now: Now, peers: &[Peer]) {
        let found = self.owner_of(peers);
        let disowns =
            |peer: &Peer, owner: u64| peer.client == owner && peer.lives() && peer.stance == Stance::Peace;
        if let (None, Some(owner)) = (&found, self.several.following.as_ref().map(|f| f.owner.client))
            && peers.iter().any(|peer| disowns(peer, owner))
        {
            return self.disowned(now);
        }
        let Some(following) = &mut self.several.following else { return };
        self.due = now.mono + LOOK_EVERY;
        match (found, following.lost_at) {
            (Some(owner), _) => {
                let other = owner.id != following.owner.id;
                following.lost_at = None;
                following.owner = owner;
                let detail = following.owner.id.clone();
                // An heir was faster: what we noted is not owed by us.
                self.several.claim = Claim::None;
                self.erase_debt();
                if other {
                    self.say(now, "another bgsafe took the debt over", detail);
                }
            }
            (None, None) => {
                following.lost_at = Some(now.mono);
                let detail = format!("bgsafe {}", following.owner.id);
                self.say(now, "the owner of the switch is gone", detail);
                self.talk(self.who(None));
            }
            (None, Some(_)) => {
                let own = peers::parse(&self.settings.name).map_or("", |(id, _)| id);
                let before = peers.iter().filter(|peer| peer.lives() && peer.id.as_str() < own);
                self.several.rank = before.count() as u32;
                self.several.claim.advance(peers);
                self.due = now.mono + LOOK_EVERY / 4;
            }
        }
    }

    /// Its transaction read `no` already, so it gave the name back: it lowered nothing.
    fn disowned(&mut self, now: Now) {
        self.several.following = None;
        self.several.none_owes = true;
        self.leave_alone(now);
    }

    fn may_inherit(&self, now: Now) -> bool {
        let facts = self.facts_of_any_switch(now);
        self.settings.policy == Policy::Mitigate
            && !facts.break_in
            && facts.config
            && facts.run_id
            && !facts.debt_failed
    }

    /// The note first, and the claim beside it; with both the debt is ours.
    fn inherit(&mut self, now: Now) {
        let noted = self.debt.is_some();
        if !noted {
            self.write_debt(now, KNOB);
        }
        match self.turn(now, true) {
            Turn::Ask(talk) => self.talk(talk),
            Turn::Go if noted => {
                let gone = self.several.following.take().map_or_else(String::new, |f| f.owner.id);
                self.lowered = true;
                self.neighbours.lowered_as_replica = self.is_replica();
                self.suspicious = true;
                self.due = now.mono;
                self.course = None;
                self.set_posture(Posture::Forward);
                self.tell(now, "debt inherited", format!("of bgsafe {gone}, which is gone"), Tone::Caution);
                self.enter(now, Phase::Mitigated, "switch is down", "a save must prove the cure".into());
                self.care_soon(now);
            }
            Turn::Go => {}
        }
    }

    /// The switch is back: by its owner, or by the operator.
    fn unfollow(&mut self, now: Now, look: &Look, restarted: bool) {
        self.several.following = None;
        self.several.claim = Claim::None;
        self.erase_debt();
        self.course = None;
        self.suspicious = true;
        self.due = now.mono;
        self.past.restarted |= restarted;
        if look.refuses_for_rdb() {
            self.set_posture(Posture::Hold);
            // Unproved: a spent budget, or an operator's hand. Not ours to lower again.
            self.past.hands_off = true;
            self.enter(now, Phase::Holding, "switch is back", "unproved".into());
            if !self.several.denied && self.talking.is_none() {
                self.several.put_back = true;
                self.talk(self.who(None));
            }
            return;
        }
        let (event, detail) = match restarted {
            true => ("server restarted", "its switch is its own again"),
            false => ("switch is back", "waiting for PONG"),
        };
        self.enter(now, Phase::Holding, event, detail.into());
    }

    /// The owner's name was there, and the switch reads `yes`: it has not come to it, or not succeeded.
    pub(super) fn unfollow_alarmed(&mut self, now: Now) {
        self.several.following = None;
        self.several.claim = Claim::None;
        self.due = now.mono + CLAIM_POLL.1;
    }
}
