//! What a reply says of the right to have asked.
//!
//! Refuses to know: what the right is for.

use super::Frame;
use crate::guard::evidence::{Right, Rights, Word};

/// Of a command that was really sent.
pub(super) fn word(reply: &Frame) -> Word {
    match reply {
        Frame::Error(why) => Word::of_error(why),
        Frame::SimpleString(_) | Frame::BulkString(_) | Frame::Integer(_) | Frame::Array(_) | Frame::Null => {
            Word::Allowed
        }
    }
}

/// From an inquiry's first batch. `config` is the reply to one of its CONFIG GETs.
pub(super) fn read(
    rights: &mut Rights,
    [info, role, lastsave, multi, exec]: [&Frame; 5],
    config: Option<&Frame>,
) {
    rights.learn(Right::Info, word(info));
    rights.learn(Right::Role, word(role));
    rights.learn(Right::Lastsave, word(lastsave));
    // One without the other is of no use.
    rights.learn(Right::Multi, word(exec));
    if word(multi) != Word::Allowed {
        rights.learn(Right::Multi, word(multi));
    }
    if let Some(config) = config {
        rights.learn(Right::ConfigGet, word(config));
        // A subcommand may be forbidden alone; the command is gone as a whole.
        if word(config) == Word::Withdrawn {
            rights.learn(Right::ConfigSet, Word::Withdrawn);
        }
    }
}
