//! The words by which bgsafes before one server tell each other apart.
//!
//! Refuses to know: what a name means. Invariant: a claim is taken and the others are listed in one
//! transaction, so of any two claims the later one sees the earlier one.

use super::{Command, Frame, error, text, words};
use crate::guard::peers::{self, Peer};

pub(super) fn set_name(name: &str) -> Command {
    ["CLIENT", "SETNAME", name].map(String::from).to_vec()
}

/// One connection is cheap; ID is understood from 6.2 on.
pub(super) fn list(client: Option<u64>) -> Command {
    let mut list = words("CLIENT LIST");
    if let Some(client) = client {
        list.extend(["ID".to_string(), client.to_string()]);
    }
    list
}

pub(super) fn claim(name: &str) -> Vec<Command> {
    vec![words("MULTI"), set_name(name), list(None), words("EXEC")]
}

pub(super) fn read_claim(replies: [&Frame; 4], own: &str) -> Result<Vec<Peer>, String> {
    // A word refused in the queue (NOPERM) says more than the EXECABORT after it.
    if let Some(why) = replies.iter().find_map(|frame| error(frame)) {
        return Err(why);
    }
    match replies[3] {
        Frame::Array(results) => match results.as_slice() {
            [set, list] => error(set).map_or_else(|| read_list(list, own), Err),
            _ => Err("EXEC answered with another number of results".into()),
        },
        other => Err(text(other)),
    }
}

pub(super) fn read_list(list: &Frame, own: &str) -> Result<Vec<Peer>, String> {
    match list {
        Frame::BulkString(list) => Ok(peers::read(&String::from_utf8_lossy(list), own)),
        other => Err(text(other)),
    }
}
