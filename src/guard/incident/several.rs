//! Several bgsafes before one server: who lowers claims first, and who finds an owner follows it
//! ([`super::following`]). Claims are taken in one transaction with the list of those
//! before, so they queue up in the order in which the server took them; the atomic read-and-lower decides what
//! no name could tell. Where names are forbidden to us it decides alone, as it does for one bgsafe.
//!
//! Refuses to know: RESP. Invariant: the switch is lowered, and a debt adopted, only with the claim won, or
//! where nobody can be seen; of two claims the later one waits.

use std::time::Duration;

use super::following::Following;
use super::{Guard, Now, Tone, Unwind};
use crate::guard::dialogue::{KNOB, Talk};
use crate::guard::evidence::Look;
use crate::guard::peers::{Peer, SILENT, Stance, name};
use crate::guard::policy::{CLAIM_PATIENCE, CLAIM_POLL, LOOK_EVERY, WHOSE_EVERY};
#[cfg(test)]
use crate::guard::policy::{HEIR_GRACE, HEIR_RANK, HEIR_RANKS};
use crate::guard::record::Phase;

/// Where our claim stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Claim {
    #[default]
    None,
    /// These connections claimed before us.
    Queued(Vec<u64>),
    /// Nobody did, or is left.
    Won,
}

impl Claim {
    /// Without those before us that are gone, or gave up. Is one gone, with whatever it had begun?
    pub(super) fn advance(&mut self, peers: &[Peer]) -> bool {
        let Claim::Queued(before) = self else { return false };
        let living = |id: u64| peers.iter().find(move |peer| peer.client == id && peer.lives());
        let gone = before.iter().any(|id| living(*id).is_none());
        before.retain(|id| living(*id).is_some_and(|peer| peer.stance == Stance::Claims));
        if before.is_empty() {
            *self = Claim::Won;
        }
        gone
    }
}

/// See the module's page.
#[derive(Clone, Debug, Default)]
pub(super) struct Several {
    /// What the name of this connection says.
    named: Stance,
    pub(super) claim: Claim,
    claimed_at: Duration,
    claim_poll: Duration,
    pub(super) following: Option<Following>,
    /// Why nobody can be seen, on this connection.
    pub(super) denied: bool,
    told_denied: bool,
    /// A list said that nobody owes the `no` that stands there.
    pub(super) none_owes: bool,
    /// Our transaction read `no`: whose is it?
    pub(super) read_no: bool,
    /// The switch was put back and writes are refused: by whom?
    pub(super) put_back: bool,
    /// When a `no` was last asked about in peace.
    asked_at: Option<Duration>,
    /// When the server answered us last.
    heard_at: Duration,
    /// How many live before us in the order of ids.
    pub(super) rank: u32,
}

/// May we go on?
pub(super) enum Turn {
    Ask(Talk),
    Go,
}

impl Several {
    /// As the owner's name says, while we follow.
    pub(super) fn owed(&self) -> Option<String> {
        match &self.following.as_ref()?.owner.stance {
            Stance::Owes { owed, .. } => Some(owed.clone()),
            Stance::Peace | Stance::Claims | Stance::Spent => None,
        }
    }

    /// For the status: who owes the switch in our stead, and since when by its own clock.
    pub(super) fn owner(&self) -> Option<(&str, u64)> {
        let owner = &self.following.as_ref()?.owner;
        match &owner.stance {
            Stance::Owes { since_ms, .. } => Some((&owner.id, *since_ms)),
            Stance::Peace | Stance::Claims | Stance::Spent => None,
        }
    }

    /// An incident begins or has ended.
    pub(super) fn begin(&mut self) {
        self.claim = Claim::None;
        (self.read_no, self.none_owes, self.put_back) = (false, false, false);
    }
}

#[cfg(test)]
impl Several {
    /// For the model: all that decides, times relative to now.
    pub(super) fn print(&self, now: Duration, h: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        let age = |at: Duration, most: Duration| now.saturating_sub(at).min(most);
        let stance =
            |stance: &Stance| matches!(stance, Stance::Owes { .. }).then_some(0).ok_or(stance.clone());
        (stance(&self.named), &self.claim, self.denied, self.none_owes, self.read_no, self.put_back).hash(h);
        let queued = matches!(self.claim, Claim::Queued(_));
        queued.then(|| (age(self.claimed_at, CLAIM_PATIENCE), self.claim_poll)).hash(h);
        self.asked_at.map(|at| age(at, WHOSE_EVERY)).hash(h);
        (now.saturating_sub(self.heard_at) >= SILENT).hash(h);
        if let Some(Following { owner, run_id, lost_at }) = &self.following {
            (owner.client, &owner.id, stance(&owner.stance), run_id, self.rank).hash(h);
            lost_at.map(|at| age(at, HEIR_GRACE + HEIR_RANK * HEIR_RANKS)).hash(h);
        }
    }
}

impl Guard {
    /// The server answered. An owner that stood still for so long that others took it for dead looks who owes
    /// the switch now, as after a lost connection.
    pub(super) fn several_heard(&mut self, now: Now) {
        let before = std::mem::replace(&mut self.several.heard_at, now.mono);
        if self.lowered && self.reconciled && now.mono >= before + SILENT {
            self.reconciled = false;
            self.several.claim = Claim::None;
            self.due = now.mono;
        }
    }

    /// Is the switch down by another's hand, which will put it back?
    pub(super) fn follows(&self) -> bool {
        self.several.following.is_some()
    }

    /// What everybody should know of us now.
    fn stance(&self) -> Stance {
        let spent = self.unwind == Some(Unwind::Spent) || self.past.exposed;
        match (&self.several.claim, &self.debt) {
            _ if self.several.denied => Stance::Peace,
            _ if self.phase == Phase::Exposed && spent => Stance::Spent,
            (_, Some(debt)) if self.lowered => {
                Stance::Owes { owed: debt.owed.clone(), since_ms: debt.since_ms }
            }
            (Claim::Queued(_) | Claim::Won, _) => Stance::Claims,
            (Claim::None, _) => Stance::Peace,
        }
    }

    /// Our name is put right, when nothing more urgent is to be asked.
    pub(super) fn name_talk(&mut self) -> Option<Talk> {
        let stance = self.stance();
        (self.several.named != stance).then(|| {
            let talk = Talk::Name(name(&self.settings.name, &stance));
            self.several.named = stance;
            talk
        })
    }

    pub(super) fn named(&mut self, now: Now, result: Result<(), String>) {
        if let Err(why) = result {
            self.nobody_in_sight(now, why);
        }
    }

    /// The transaction that lowers, under the name that tells of it.
    pub(super) fn lower(&mut self) {
        let own = &self.settings.name;
        let name = self.debt.as_ref().filter(|_| !self.several.denied).map(|debt| {
            let stance = Stance::Owes { owed: debt.owed.clone(), since_ms: debt.since_ms };
            let name = name(own, &stance);
            self.several.named = stance;
            name
        });
        self.talk(Talk::Lower { name });
    }

    /// The way to be the owner: claim, wait for those who claimed before. An atomic transaction decides behind
    /// it when it lowers, so then patience ends; nothing does when a debt is adopted.
    pub(super) fn turn(&mut self, now: Now, patient: bool) -> Turn {
        let several = &mut self.several;
        match &several.claim {
            _ if several.denied || mutant!(ClaimsNothing) => Turn::Go,
            Claim::Won => Turn::Go,
            Claim::None => {
                (several.claimed_at, several.claim_poll) = (now.mono, CLAIM_POLL.0);
                let own = self.settings.name.clone();
                Turn::Ask(Talk::Claim { name: name(&own, &Stance::Claims), own })
            }
            Claim::Queued(_) if !patient && now.mono >= several.claimed_at + CLAIM_PATIENCE => Turn::Go,
            Claim::Queued(_) => Turn::Ask(self.who(None)),
        }
    }

    pub(super) fn who(&self, client: Option<u64>) -> Talk {
        Talk::Peers { client, own: self.settings.name.clone() }
    }

    pub(super) fn claimed(&mut self, now: Now, result: Result<Vec<Peer>, String>) {
        self.several.named = Stance::Claims;
        self.due = now.mono;
        let peers = match result {
            Ok(peers) => peers,
            Err(why) => return self.nobody_in_sight(now, why),
        };
        if let Some(owner) = self.owner_of(&peers) {
            return self.follow_owner(now, owner);
        }
        let spent = |peer: &Peer| peer.lives() && peer.stance == Stance::Spent;
        if self.reconciled && !self.follows() && peers.iter().any(spent) {
            self.past.exposed = true;
            self.several.claim = Claim::None;
            self.erase_debt();
            return;
        }
        let before = peers.iter().filter(|peer| peer.lives() && peer.stance == Stance::Claims);
        let before: Vec<u64> = before.map(|peer| peer.client).collect();
        self.several.claim = if before.is_empty() { Claim::Won } else { Claim::Queued(before) };
        self.pause(now);
    }

    fn pause(&mut self, now: Now) {
        if let Claim::Queued(_) = self.several.claim {
            self.due = now.mono + self.several.claim_poll;
            self.several.claim_poll = (self.several.claim_poll * 2).min(CLAIM_POLL.1);
        }
    }

    pub(super) fn owner_of(&self, peers: &[Peer]) -> Option<Peer> {
        let owner = peers.iter().find(|peer| peer.owes() && peer.lives());
        owner.filter(|_| !mutant!(FollowsNobody)).cloned()
    }

    fn nobody_in_sight(&mut self, now: Now, why: String) {
        self.several.denied = true;
        (self.several.read_no, self.several.claim) = (false, Claim::None);
        if !std::mem::replace(&mut self.several.told_denied, true) {
            let detail = format!(
                "{why}; a switch lowered by another bgsafe is taken for the operator's; allow +client|setname +client|list"
            );
            self.tell(now, "cannot see other bgsafes", detail, Tone::Caution);
        }
    }

    pub(super) fn listed(&mut self, now: Now, result: Result<Vec<Peer>, String>) {
        let read_no = std::mem::take(&mut self.several.read_no);
        let put_back = std::mem::take(&mut self.several.put_back);
        self.due = now.mono;
        let peers = match result {
            Ok(peers) => peers,
            // Up to 6.0 one connection alone cannot be asked for.
            Err(_) if self.several.following.as_ref().is_some_and(|f| f.lost_at.is_none()) => {
                return self.talk(self.who(None));
            }
            Err(why) => {
                self.nobody_in_sight(now, why);
                if read_no {
                    self.leave_alone(now);
                }
                if put_back {
                    (self.past.hands_off, self.course) = (true, None);
                }
                return;
            }
        };
        if put_back {
            let spent = peers.iter().any(|peer| peer.lives() && peer.stance == Stance::Spent);
            (self.past.exposed, self.past.hands_off, self.course) = (spent, !spent, None);
            return;
        }
        if self.follows() {
            return self.watched(now, &peers);
        }
        if let Some(owner) = self.owner_of(&peers) {
            return self.follow_owner(now, owner);
        }
        if read_no {
            return self.leave_alone(now);
        }
        if self.past.ending {
            self.several.none_owes = true;
            return self.talk(Talk::Look);
        }
        if self.several.claim != Claim::None {
            // It may have lowered the switch before it died: a `no` that we read is not the operator's then.
            self.lower_in_doubt |= self.several.claim.advance(&peers) && !mutant!(ForgetsTheDeadClaimant);
            self.pause(now);
        } else if self.phase == Phase::Quiet {
            self.due = now.mono + LOOK_EVERY;
        }
    }

    /// A `no` that we did not set: does another bgsafe owe it? Asked once for each, where it can be told.
    pub(super) fn ask_whose(&mut self) -> bool {
        let ask = !self.several.denied && !self.several.none_owes && !mutant!(FollowsNobody);
        if ask {
            self.talk(self.who(None));
        }
        ask
    }

    /// In peace: when it is news, and while the last save failed.
    pub(super) fn ask_whose_in_peace(&mut self, now: Now, look: &Look) {
        if !look.knob.is("no".to_string()) {
            self.several.asked_at = None;
            return;
        }
        let old = |at: Duration| now.mono >= at + WHOSE_EVERY && look.save_ok.is(false);
        if self.several.asked_at.is_none_or(old) {
            self.several.asked_at = Some(now.mono);
            self.several.none_owes = false;
            self.ask_whose();
        }
    }

    /// The connection broke, and our name with it. Whom we follow is remembered.
    pub(super) fn several_lost(&mut self) {
        let several = std::mem::take(&mut self.several);
        let Several { following, told_denied, rank, .. } = several;
        self.several = Several { following, told_denied, rank, ..Several::default() };
    }

    /// The debt and our claim beside each other, and with both the transaction.
    pub(super) fn lower_in_turn(&mut self, now: Now) {
        let noted = self.debt.is_some();
        if !noted {
            self.write_debt(now, KNOB);
        }
        match self.turn(now, false) {
            Turn::Ask(talk) => self.talk(talk),
            Turn::Go if noted => self.lower(),
            Turn::Go => {}
        }
    }
}
