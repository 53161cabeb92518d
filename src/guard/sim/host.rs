//! What ails the simulated host, what it shows of that, and what cures it.

use std::path::PathBuf;

use super::{Faults, Hand, World};
use crate::guard::evidence::fact::Fact::Known;
use crate::guard::evidence::host::{Dump, HostFacts, Limit};
use crate::guard::incident::Event;
use crate::guard::remedy::Change;

/// An illness of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ill {
    /// `vm.overcommit_memory` is 2 and the commit limit near.
    Overcommit,
    /// The server's user may have no more processes.
    Nproc,
    /// The data directory belongs to root.
    WrongOwner,
    /// The data directory was deleted.
    DirGone,
    /// Children are killed for want of memory.
    OomKiller,
}

const OWNER: (u32, u32) = (100, 100);
const PID: u32 = 77;

impl Ill {
    pub(super) fn faults(self) -> Faults {
        match self {
            Ill::Overcommit | Ill::Nproc => Faults { fork: true, ..Faults::default() },
            Ill::WrongOwner | Ill::DirGone | Ill::OomKiller => Faults { disk: true, ..Faults::default() },
        }
    }

    fn is_cured_by(self, change: &Change) -> bool {
        match (self, change) {
            (Ill::Overcommit, Change::Overcommit { value: 1, .. }) => true,
            (Ill::Nproc, Change::Limit { pid: PID, soft, .. }) => *soft > 8,
            (Ill::WrongOwner, Change::Chown { pid: PID, uid, gid, .. }) => (*uid, *gid) == OWNER,
            (Ill::DirGone, Change::MakeDir { pid: PID, uid, gid, .. }) => (*uid, *gid) == OWNER,
            _ => false,
        }
    }
}

impl World {
    /// What a look at the host shows.
    fn facts(&self) -> HostFacts {
        let mut host = HostFacts { pid: Known(PID), root: Known(true), ..HostFacts::default() };
        let (process, place) = (&mut host.process, &mut host.place);
        (process.uid, process.gid, process.caps) = (Known(OWNER.0), Known(OWNER.1), Known(0));
        process.groups = Known(Vec::new());
        process.data = Known(2 << 30);
        process.nproc = Known(Limit { soft: 4096, hard: 8192 });
        process.user_threads = Known(8);
        host.memory.overcommit = Known(0);
        host.memory.commit_limit = Known(8 << 30);
        host.memory.committed = Known(7 << 30);
        host.cgroup.oom_kills = Known(self.oom_kills);
        place.dir = Known(PathBuf::from("/data"));
        place.deleted = Known(false);
        place.owner = Known(OWNER);
        place.mode = Known(0o755);
        place.writable = Known(true);
        place.read_only = Known(false);
        (place.free, place.free_inodes) = (Known(64 << 30), Known(1_000_000));
        place.dump = Known(Dump::Missing);
        match self.ill {
            Some(Ill::Overcommit) => host.memory.overcommit = Known(2),
            Some(Ill::Nproc) => process.nproc = Known(Limit { soft: 8, hard: 8192 }),
            Some(Ill::WrongOwner) => (place.owner, place.writable) = (Known((0, 0)), Known(false)),
            Some(Ill::DirGone) => place.deleted = Known(true),
            Some(Ill::OomKiller) | None => {}
        }
        host
    }

    /// [`crate::guard::incident::Action::Examine`].
    pub(super) fn examine(&mut self) {
        let (late, facts) = match self.chaos {
            true if self.rng.one_in(5) => (self.rng.below(2500), HostFacts::elsewhere("it hung")),
            true => (self.rng.below(300), self.facts()),
            false => (5, self.facts()),
        };
        self.errands.push((self.now + late, Event::Examined(Box::new(facts))));
    }

    /// [`crate::guard::incident::Action::Change`], and what must never be asked for.
    pub(super) fn change(&mut self, errand: u64, change: &Change) {
        if self.settings.repair != crate::config::Repair::Host {
            self.fail("a change of the host that nobody allowed");
        }
        let Some(id) = self.guard.record().map(|record| record.id.clone()) else {
            self.fail("a change of the host in peace");
        };
        if self.changes.iter().any(|(incident, done)| *incident == id && done == change) {
            self.fail("the same change twice in one incident");
        }
        self.changes.push((id, change.clone()));
        let result = match self.chaos && self.rng.one_in(4) {
            true => Err("host: Operation not permitted".to_string()),
            false => {
                if self.ill.is_some_and(|ill| ill.is_cured_by(change)) {
                    self.cure();
                }
                Ok("before -> after".to_string())
            }
        };
        let late = if self.chaos { self.rng.below(200) } else { self.change_ms };
        self.errands.push((self.now + late, Event::Changed(errand, result)));
    }

    fn cure(&mut self) {
        if self.ill == Some(Ill::DirGone) {
            // It is there again; the server still stands in the old one.
            self.fake.dirs = vec!["/data".into()];
        }
        self.ill = None;
        self.fake.faults = Faults::default();
    }

    /// [`Hand::Ill`].
    pub(super) fn fall_ill(&mut self, ill: Option<Ill>) {
        self.ill = ill;
        self.fake.faults = ill.map_or_else(Faults::default, Ill::faults);
        match ill {
            Some(Ill::DirGone) => (self.fake.dir, self.fake.dirs) = (String::new(), Vec::new()),
            Some(Ill::OomKiller) => self.oom_kills += 1,
            Some(Ill::Overcommit | Ill::Nproc | Ill::WrongOwner) => {}
            None => {
                self.fake.dirs = vec!["/data".into()];
                if self.fake.dir.is_empty() {
                    self.hand(Hand::Move("/data"));
                }
            }
        }
    }
}
