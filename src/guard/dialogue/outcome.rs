//! What came of the transaction that lowers, and of BGSAVE.
//!
//! Refuses to know: why they were sent.

use super::{Answer, Frame, config_value, error, heard, read_counts, text};
use crate::guard::saver::BgsaveReply;

pub(super) fn read_lower(transaction: [&Frame; 4], ping: &Frame, counts: &Frame) -> Answer {
    let lowered = |previous| Answer::Lowered { previous, heard: heard(ping), rewrites: read_counts(counts) };
    // Where MULTI is refused, what follows runs by itself: the switch is down all the same, and its debt is on disk.
    if let (Some(_), Frame::SimpleString(done)) = (error(transaction[0]), transaction[2])
        && done.as_ref() == b"OK"
    {
        let previous = config_value(transaction[1]).unwrap_or_else(|_| "yes".into());
        return lowered(previous);
    }
    // A word refused in the queue (NOPERM, unknown command) says more than the EXECABORT after it.
    if let Some(why) = transaction.iter().find_map(|frame| error(frame)) {
        return Answer::NotLowered(why);
    }
    match transaction[3] {
        Frame::Array(results) => match results.as_slice() {
            [value, set] => match (config_value(value), error(set)) {
                (Ok(previous), None) => lowered(previous),
                (_, Some(why)) | (Err(why), None) => Answer::NotLowered(why),
            },
            _ => Answer::NotLowered("EXEC answered with another number of results".into()),
        },
        other => Answer::NotLowered(text(other)),
    }
}

pub(super) fn read_bgsave(frame: &Frame) -> BgsaveReply {
    match frame {
        Frame::SimpleString(s) if s.ends_with(b"started") => BgsaveReply::Started,
        Frame::SimpleString(s) if s.ends_with(b"scheduled") => BgsaveReply::Scheduled,
        Frame::Error(e) => {
            let said = |needle: &str| e.contains(needle);
            // rdb.c:bgsaveCommand; the bare ERR is shared.err of a failed fork.
            match e.trim() {
                "ERR" => BgsaveReply::ForkFailed,
                _ if said("already in progress") => BgsaveReply::InProgress,
                _ if said("child process is active") || said("BGSAVE SCHEDULE") => BgsaveReply::OtherChild,
                _ if e.starts_with("NOPERM") || said("unknown command") || said("not allowed") => {
                    BgsaveReply::Denied(e.to_string())
                }
                words => BgsaveReply::Failed(words.to_string()),
            }
        }
        other => BgsaveReply::Failed(text(other)),
    }
}
