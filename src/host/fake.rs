//! A host in memory, for tests and the simulation: it shows what it was told to show, and remembers what was
//! changed.
//!
//! Refuses to know: files, processes, what a change is good for. Invariant: a change that is answered with `Ok`
//! shows in the next facts, and one that is answered with an error changed nothing.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::guard::evidence::host::{Dump, Limit};
use crate::guard::evidence::{Fact, HostFacts};
use crate::guard::remedy::{Change, Resource};

use super::{Applied, Asked, Host, HostError};

#[derive(Debug, Default)]
struct State {
    facts: HostFacts,
    changes: Vec<Change>,
    failures: VecDeque<HostError>,
    asked: Vec<Asked>,
}

/// See the module's page.
#[derive(Debug, Default)]
pub struct Fake {
    state: Mutex<State>,
}

impl Fake {
    /// Shows these facts.
    pub fn new(facts: HostFacts) -> Self {
        Fake { state: Mutex::new(State { facts, ..State::default() }) }
    }

    /// Shows other facts from now on.
    pub fn edit(&self, edit: impl FnOnce(&mut HostFacts)) {
        edit(&mut self.state().facts);
    }

    /// Fails the next change; called twice, the next two.
    pub fn fail_next(&self, error: HostError) {
        self.state().failures.push_back(error);
    }

    /// What was changed, in order, without what failed.
    pub fn changes(&self) -> Vec<Change> {
        self.state().changes.clone()
    }

    /// What was asked, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host for Fake {
    fn facts(&self, asked: &Asked) -> HostFacts {
        let mut state = self.state();
        state.asked.push(asked.clone());
        state.facts.clone()
    }

    fn apply(&self, change: &Change) -> Result<Applied, HostError> {
        let mut state = self.state();
        if let Some(error) = state.failures.pop_front() {
            return Err(error);
        }
        let before = shown(&state.facts, change);
        let undo = change_facts(&mut state.facts, change);
        let after = shown(&state.facts, change);
        state.changes.push(change.clone());
        Ok(Applied { change: change.clone(), before, after, undo })
    }
}

/// The fact that the change is about, in words.
fn shown(facts: &HostFacts, change: &Change) -> String {
    fn word<T: std::fmt::Debug>(fact: &Fact<T>) -> String {
        fact.known().map_or("unknown".into(), |value| format!("{value:?}"))
    }
    match change {
        Change::Overcommit { .. } => word(&facts.memory.overcommit),
        Change::Thp { .. } => format!("{} {}", word(&facts.memory.thp), word(&facts.memory.thp_defrag)),
        Change::Limit { resource, .. } => word(match resource {
            Resource::Nproc => &facts.process.nproc,
            Resource::Nofile => &facts.process.nofile,
        }),
        Change::Chown { .. } => word(&facts.place.owner),
        Change::Chmod { .. } => word(&facts.place.mode),
        Change::MakeDir { dir, .. } => format!("{}: {}", dir.display(), word(&facts.place.owner)),
        Change::RemoveDeadTemps { .. } => word(&facts.place.dead_temps),
        Change::CgroupMax { file, .. } => match is_pids(file) {
            true => word(&facts.cgroup.pids_max),
            false => word(&facts.cgroup.memory_max),
        },
    }
}

fn is_pids(file: &std::path::Path) -> bool {
    file.file_name().is_some_and(|name| name == "pids.max")
}

/// Makes the change in the facts; what would take it back.
fn change_facts(facts: &mut HostFacts, change: &Change) -> Option<Change> {
    match change {
        Change::Overcommit { value, .. } => {
            let old = std::mem::replace(&mut facts.memory.overcommit, Fact::Known(*value));
            old.get().map(|value| Change::Overcommit { value, keep: false })
        }
        Change::Thp { enabled, defrag } => {
            let old = std::mem::replace(&mut facts.memory.thp, Fact::Known(enabled.clone()));
            let old_defrag = defrag.as_ref().and_then(|word| {
                std::mem::replace(&mut facts.memory.thp_defrag, Fact::Known(word.clone())).known().cloned()
            });
            old.known().map(|enabled| Change::Thp { enabled: enabled.clone(), defrag: old_defrag })
        }
        &Change::Limit { pid, resource, soft, hard } => {
            let limit = match resource {
                Resource::Nproc => &mut facts.process.nproc,
                Resource::Nofile => &mut facts.process.nofile,
            };
            let old = std::mem::replace(limit, Fact::Known(Limit { soft, hard })).get();
            old.map(|Limit { soft, hard }| Change::Limit { pid, resource, soft, hard })
        }
        Change::Chown { pid, dir, uid, gid } => {
            let old = std::mem::replace(&mut facts.place.owner, Fact::Known((*uid, *gid))).get();
            if facts.process.uid.is(*uid) {
                facts.place.writable = Fact::Known(true);
            }
            old.map(|(uid, gid)| Change::Chown { pid: *pid, dir: dir.clone(), uid, gid })
        }
        Change::Chmod { pid, dir, mode } => {
            let old = std::mem::replace(&mut facts.place.mode, Fact::Known(*mode)).get();
            if facts.place.owner.is_and(|(uid, _)| facts.process.uid.is(*uid)) {
                facts.place.writable = Fact::Known(mode & 0o300 == 0o300);
            }
            old.map(|mode| Change::Chmod { pid: *pid, dir: dir.clone(), mode })
        }
        // The process stays in the deleted directory until CONFIG SET dir: nothing else of the place changes.
        Change::MakeDir { .. } => None,
        Change::RemoveDeadTemps { names, .. } => {
            let mut freed = 0;
            if let Fact::Known(temps) = &mut facts.place.dead_temps {
                temps.retain(|temp| {
                    let goes = names.contains(&temp.name);
                    freed += if goes { temp.size } else { 0 };
                    !goes
                });
            }
            if let Fact::Known(free) = &mut facts.place.free {
                *free = free.saturating_add(freed);
            }
            None
        }
        Change::CgroupMax { file, value } => {
            let max = match is_pids(file) {
                true => &mut facts.cgroup.pids_max,
                false => &mut facts.cgroup.memory_max,
            };
            let old = std::mem::replace(max, Fact::Known(*value)).get();
            old.map(|value| Change::CgroupMax { file: file.clone(), value })
        }
    }
}

/// A host where everything is well, to spoil in one place.
pub fn healthy() -> HostFacts {
    let mut facts = HostFacts { pid: Fact::Known(4321), root: Fact::Known(true), ..HostFacts::default() };
    facts.process.uid = Fact::Known(999);
    facts.process.gid = Fact::Known(999);
    facts.process.groups = Fact::Known(vec![999]);
    facts.process.caps = Fact::Known(0);
    facts.process.rss = Fact::Known(1 << 30);
    facts.process.data = Fact::Known(1 << 30);
    facts.process.nproc = Fact::Known(Limit { soft: 63_000, hard: 63_000 });
    facts.process.nofile = Fact::Known(Limit { soft: 10_032, hard: 524_288 });
    facts.process.fsize = Fact::Known(Limit { soft: u64::MAX, hard: u64::MAX });
    facts.process.fds = Fact::Known(60);
    facts.process.user_threads = Fact::Known(5);
    facts.process.children = Fact::Known(Vec::new());
    facts.process.container = Fact::Known(false);
    facts.process.kubernetes = Fact::Known(false);
    facts.process.unit = Fact::Known(Some("redis-server.service".into()));
    facts.process.confined_by = Fact::Known(None);
    facts.memory.overcommit = Fact::Known(1);
    facts.memory.total = Fact::Known(16 << 30);
    facts.memory.available = Fact::Known(12 << 30);
    facts.memory.thp = Fact::Known("madvise".into());
    facts.memory.thp_defrag = Fact::Known("madvise".into());
    facts.place.dir = Fact::Known("/var/lib/redis".into());
    facts.place.deleted = Fact::Known(false);
    facts.place.owner = Fact::Known((999, 999));
    facts.place.mode = Fact::Known(0o750);
    facts.place.immutable = Fact::Known(false);
    facts.place.writable = Fact::Known(true);
    facts.place.read_only = Fact::Known(false);
    facts.place.host_read_only = Fact::Known(false);
    facts.place.filesystem = Fact::Known("ext4".into());
    facts.place.free = Fact::Known(100 << 30);
    facts.place.size = Fact::Known(200 << 30);
    facts.place.free_inodes = Fact::Known(1_000_000);
    facts.place.dump = Fact::Known(Dump::File { size: 1 << 29, uid: 999, immutable: Fact::Known(false) });
    facts.place.dead_temps = Fact::Known(Vec::new());
    facts.place.quota = Fact::Known(false);
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_shows_and_its_undo_takes_it_back() {
        let dir = std::path::PathBuf::from("/var/lib/redis");
        for change in [
            Change::Overcommit { value: 2, keep: false },
            Change::Thp { enabled: "never".into(), defrag: Some("never".into()) },
            Change::Limit { pid: 4321, resource: Resource::Nofile, soft: 20_000, hard: 524_288 },
            Change::Chown { pid: 4321, dir: dir.clone(), uid: 0, gid: 0 },
            Change::Chmod { pid: 4321, dir: dir.clone(), mode: 0o700 },
        ] {
            let fake = Fake::new(healthy());
            let applied = fake.apply(&change).unwrap();
            assert_ne!(applied.before, applied.after, "{change:?}");
            assert_ne!(fake.facts(&Asked::default()), healthy(), "{change:?}");
            fake.apply(&applied.undo.expect("can be undone")).unwrap();
            assert_eq!(fake.facts(&Asked::default()), healthy(), "{change:?}");
        }
    }

    #[test]
    fn a_change_that_fails_changes_nothing() {
        let fake = Fake::new(healthy());
        fake.fail_next(HostError::Moved("gone".into()));
        let change = Change::Overcommit { value: 0, keep: false };
        assert_eq!(fake.apply(&change), Err(HostError::Moved("gone".into())));
        assert_eq!(fake.facts(&Asked::default()), healthy());
        assert!(fake.changes().is_empty());
        fake.apply(&change).unwrap();
        assert_eq!(fake.changes(), [change]);
    }
}
