//! Changes: each is checked again at the moment it is made, tells what was there before and what reads back, and
//! carries what takes it back.
//!
//! Refuses to know: why it is wanted. Invariants: an error changed nothing, or put it back; a process is changed
//! only if it is the one that the newest look found (or, before any look, a server by its name).

use std::io;

use crate::guard::remedy::Change;
use crate::host::{Applied, HostError};

use super::Identity;
use super::find::looks_like_a_server;
use super::held::Held;
use super::read::Tree;
use super::table;

mod dir;
mod fence;
mod group;
mod kernel;

#[cfg(test)]
mod tests;

/// What a change came to, before it is told.
struct Done {
    before: String,
    after: String,
    undo: Option<Change>,
}

/// Why a change stops.
enum Stop {
    /// Not what the plan saw.
    Moved(String),
    /// The kernel's words, or a fence of ours.
    Refused(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Refused(error.to_string())
    }
}

impl From<rustix::io::Errno> for Stop {
    fn from(error: rustix::io::Errno) -> Self {
        Stop::Refused(io::Error::from(error).to_string())
    }
}

/// Makes one change.
pub fn apply(tree: &Tree, seen: Option<Identity>, change: &Change) -> Result<Applied, HostError> {
    let (what, done) = match change {
        Change::Overcommit { value, keep } => {
            ("vm.overcommit_memory", kernel::overcommit(tree, *value, *keep))
        }
        Change::Thp { enabled, defrag } => {
            ("transparent huge pages", kernel::huge_pages(tree, enabled, defrag.as_deref()))
        }
        &Change::Limit { pid, resource, soft, hard } => {
            ("a limit of the server's process", kernel::limit(tree, seen, pid, resource, (soft, hard)))
        }
        Change::Chown { pid, dir, uid, gid } => {
            ("the owner of the data directory", dir::chown(tree, seen, *pid, dir, (*uid, *gid)))
        }
        Change::Chmod { pid, dir, mode } => {
            ("the mode of the data directory", dir::chmod(tree, seen, *pid, dir, *mode))
        }
        Change::MakeDir { pid, dir, uid, gid, mode } => {
            ("the data directory", dir::make(tree, seen, *pid, dir, (*uid, *gid), *mode))
        }
        Change::RemoveDeadTemps { pid, dir, names } => {
            ("temporary files of dead saves", dir::remove(tree, seen, *pid, dir, names))
        }
        Change::CgroupMax { file, value } => ("a control group's limit", group::max(tree, file, *value)),
    };
    match done {
        Ok(Done { before, after, undo }) => Ok(Applied { change: change.clone(), before, after, undo }),
        Err(Stop::Moved(why)) => Err(HostError::Moved(why)),
        Err(Stop::Refused(why)) => {
            Err(HostError::Refused { what: what.into(), why, command: change.command() })
        }
    }
}

/// The process, if it still is the one that was seen.
fn held(tree: &Tree, seen: Option<Identity>, pid: u32) -> Result<Held, Stop> {
    let moved = || Stop::Moved(format!("process {pid} is not the server that was seen"));
    let held = Held::open(tree, pid).map_err(|_| moved())?;
    let start = held.start().map_err(|_| moved())?;
    let same = match seen {
        Some(seen) => seen == Identity { pid, start },
        None => {
            let entry = table::entry(tree, pid);
            entry.is_and(|entry| entry.start == start && looks_like_a_server(tree, pid, &entry.comm))
        }
    };
    same.then_some(held).ok_or_else(moved)
}
