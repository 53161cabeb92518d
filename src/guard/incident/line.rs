//! What it means that the control connection broke: whatever was asked may or may not have happened.
//!
//! Refuses to know: why it broke. Invariant: what is in doubt is settled by the first look of the next connection.

use super::{Guard, Now};
use crate::guard::dialogue::Talk;
use crate::posture::Posture;

impl Guard {
    pub(super) fn down(&mut self, now: Now, why: String) {
        self.down_since.get_or_insert(now.mono);
        let talking = if mutant!(WaitsForALostAnswer) { self.talking.clone() } else { self.talking.take() };
        match talking {
            Some(Talk::Lower { .. }) => self.lower_in_doubt = true,
            Some(Talk::Restore { .. }) => self.restore_in_doubt = true,
            Some(Talk::Rewrite { .. }) => self.rewrite_lost(),
            Some(Talk::Probe | Talk::Look | Talk::Inquire { .. } | Talk::Apply(_) | Talk::Count)
            | Some(Talk::Bgsave { .. } | Talk::Failover { .. } | Talk::Aof(_))
            | Some(Talk::Claim { .. } | Talk::Peers { .. } | Talk::Name(_))
            | None => {}
        }
        if self.up {
            self.say(now, "control connection lost", why);
        }
        self.up = false;
        self.past.ending = false;
        self.reconciled = false;
        self.look = None;
        self.role = None;
        self.counted = None;
        self.saver.lost();
        self.several_lost();
        self.aof.lost();
        // Without a view of the server we are a wire: refusals still wait for their own deadline.
        if self.posture == Posture::Hold {
            self.set_posture(Posture::Forward);
        }
    }
}
