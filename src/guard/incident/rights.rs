//! What the guard learns of its rights, by an inquiry and by what it was refused, and what it says of them.

use super::{Guard, Now, Tone};
use crate::config::{HOLD_FOR_TWO, HOLD_TOO_SHORT, Policy};
use crate::guard::dialogue::{Answer, Heard};
use crate::guard::evidence::{Right, Rights, Word};
use crate::guard::saver::BgsaveReply;

impl Guard {
    /// Is it not known that reading and setting the switch in one would be refused?
    pub(super) fn may_lower(&self) -> bool {
        !self.rights.denied(Right::ConfigSet) && !self.rights.denied(Right::Multi)
    }

    /// By what really happened.
    pub(super) fn learn(&mut self, answer: &Answer) {
        let said = match answer {
            Answer::Probed { heard: Heard::Pong | Heard::Refused(..), .. } => (Right::Ping, Word::Allowed),
            Answer::Probed { heard: Heard::Other(why), .. } => (Right::Ping, Word::of_error(why)),
            Answer::Lowered { .. } | Answer::Restored { .. } => (Right::ConfigSet, Word::Allowed),
            Answer::Rewritten(Ok(_)) => (Right::ConfigRewrite, Word::Allowed),
            Answer::Rewritten(Err(why)) | Answer::NotRewritten(why) => {
                (Right::ConfigRewrite, Word::of_error(why))
            }
            Answer::NotLowered(why) => (Right::ConfigSet, Word::of_error(why)),
            Answer::Bgsave(BgsaveReply::Denied(why)) => (Right::Bgsave, Word::of_error(why)),
            Answer::Bgsave(BgsaveReply::Started | BgsaveReply::Scheduled) => (Right::Bgsave, Word::Allowed),
            Answer::Bgsave(_)
            | Answer::Looked(_)
            | Answer::Inquired(_)
            | Answer::Applied(_)
            | Answer::Aof(_)
            | Answer::FailedOver(_)
            | Answer::NotOurs { .. }
            | Answer::Counted(_)
            | Answer::NotRestored(_)
            | Answer::Claimed(_)
            | Answer::Listed(_)
            | Answer::Named(_) => return,
        };
        self.rights.learn(said.0, said.1);
    }

    /// By an inquiry. What is news is told, with what a human would type.
    pub(super) fn learn_rights(&mut self, now: Now, newer: &Rights) {
        self.rights.update(newer);
        if newer.may(Right::ConfigSet).is(true) {
            // Refused before, granted since.
            self.config_refused = None;
        }
        if self.rights_told.as_ref() == Some(&self.rights) {
            return;
        }
        let first = self.rights_told.replace(self.rights.clone()).is_none();
        let mut detail = self.rights.line();
        if let Some(product) = self.rights.product() {
            detail += &format!("; this looks like {product}");
        }
        if !self.rights.lacking().is_empty() {
            detail += &format!("; type: {}", self.remedy_config());
        }
        self.tell(now, "rights of the control user", detail, Tone::Note);
        let blocked = self.settings.policy == Policy::Mitigate && self.rights.blocked().is_some();
        if first && blocked && self.settings.hold_time < HOLD_FOR_TWO {
            self.tell(now, "hold-time is short", HOLD_TOO_SHORT.into(), Tone::Caution);
        }
    }
}
