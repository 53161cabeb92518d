//! This host, when it is Linux: /proc, /sys, control groups, the data directory, the kernel's log.
//!
//! | file | what |
//! |---|---|
//! | `read` | bounded reading below a root that may be a fixture |
//! | `table` | all processes in one pass |
//! | `find` | which of them is the server |
//! | `held` | that process held fast, its directory and root |
//! | `process`, `memory`, `cgroup`, `mounts` | what /proc and /sys say |
//! | `place`, `access`, `temps` | the data directory, who may write there, dead temporary files |
//! | `logs` | the ends of two logs |
//! | `change` | the few changes |
//!
//! Refuses to know: findings, consent. Invariants: what is missing, forbidden or garbled is unknown for that
//! reason and nothing panics; everything read is bounded; looking changes nothing.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::Access;

use crate::guard::evidence::{Fact, HostFacts, Reason};
use crate::guard::remedy::Change;

use super::{Applied, Asked, Host, HostError};
use held::Held;
use read::Tree;

mod access;
mod cgroup;
mod change;
mod find;
mod held;
mod logs;
mod memory;
mod mounts;
mod place;
mod process;
mod read;
mod table;
mod temps;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

/// A process that was found: number and start are its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    pid: u32,
    start: u64,
}

/// See the module's page.
#[derive(Debug)]
pub struct Linux {
    tree: Tree,
    /// Whom the newest look found: a change is made to no other.
    seen: Mutex<Option<Identity>>,
}

impl Default for Linux {
    fn default() -> Self {
        Linux::new()
    }
}

impl Linux {
    /// This machine.
    pub fn new() -> Self {
        Linux::at(Path::new("/"))
    }

    /// A machine whose files stand below `root`: for tests of kernels that are not at hand.
    pub fn at(root: &Path) -> Self {
        Linux { tree: Tree::at(root), seen: Mutex::new(None) }
    }

    fn look(&self, asked: &Asked) -> HostFacts {
        if !asked.local {
            return HostFacts::elsewhere("the server runs on another host");
        }
        let tree = &self.tree;
        let unknown = |reason| HostFacts { pid: Fact::Unknown(reason), ..HostFacts::default() };
        let table = match table::table(tree) {
            Fact::Known(table) => table,
            Fact::Unknown(reason) => return unknown(reason),
        };
        let entry = match find::find(tree, asked, &table) {
            Fact::Known(entry) => entry,
            Fact::Unknown(reason) => return unknown(reason),
        };
        let held = match Held::open(tree, entry.pid) {
            Ok(held) if held.start().is_ok_and(|start| start == entry.start) => held,
            _ => return unknown(ended()),
        };
        let mut facts = HostFacts { pid: Fact::Known(entry.pid), ..HostFacts::default() };
        facts.memory = memory::memory(tree);
        facts.root = self.root();
        facts.process = process::process(tree, &entry, &table);
        facts.cgroup = cgroup::cgroup(tree, entry.pid);
        facts.place = place::place(tree, &held, asked, &entry, &facts.process, &table);
        (facts.log, facts.saver) = logs::server(tree, &held, entry.pid, asked.logfile.as_deref());
        facts.kernel = logs::kernel(tree, entry.pid, asked.last_save);
        // What was read by number may be of another process by now.
        if held.start().is_ok_and(|start| start == entry.start) {
            *self.seen() = Some(Identity { pid: entry.pid, start: entry.start });
            return facts;
        }
        unknown(ended())
    }

    fn root(&self) -> Fact<bool> {
        let setting = self.tree.path(memory::OVERCOMMIT);
        match setting.exists() {
            true => Fact::Known(
                rustix::process::geteuid().is_root()
                    && rustix::fs::access(&setting, Access::WRITE_OK).is_ok(),
            ),
            false => Fact::UNKNOWN,
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Option<Identity>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended() -> Reason {
    Reason::Elsewhere("the server's process ended while it was looked at".into())
}

impl Host for Linux {
    fn facts(&self, asked: &Asked) -> HostFacts {
        self.look(asked)
    }

    fn apply(&self, change: &Change) -> Result<Applied, HostError> {
        let seen = *self.seen();
        change::apply(&self.tree, seen, change)
    }
}
