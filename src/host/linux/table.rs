//! All processes that this host shows, in one pass over /proc.
//!
//! Refuses to know: which of them is the server. Invariant: a process that ends meanwhile is left out; one that
//! cannot be understood is left out and counted, because what is proved by absence must not rest on it.

use crate::guard::evidence::fact::number;
use crate::guard::evidence::{Fact, Reason};

use super::read::{Tree, field, unknown};

/// Beyond this many something is wrong with what we see.
const PROCESSES_MAX: usize = 200_000;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As this host counts it.
    pub pid: u32,
    /// Its name, at most 15 characters (/proc/PID/comm).
    pub comm: String,
    /// `R`, `S`, `D`, `Z` …
    pub state: char,
    /// Its parent, 0 for none that is seen.
    pub parent: u32,
    /// Clock ticks from boot to its start: with the pid, its identity.
    pub start: u64,
    /// Its pid in each namespace, ours first, its own last (`NSpid`, Linux 4.1+).
    pub ns_pids: Vec<u32>,
    /// The user whose processes it is counted among.
    pub real_uid: u32,
    /// Threads.
    pub threads: u64,
}

impl Entry {
    /// As its own namespace counts it.
    pub fn own_pid(&self) -> u32 {
        self.ns_pids.last().copied().unwrap_or(self.pid)
    }
}

/// What was seen in one pass.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// In the order of /proc.
    pub entries: Vec<Entry>,
    /// Processes that are there and could not be read or understood.
    pub hidden: usize,
}

impl Table {
    /// The process of this pid.
    pub fn get(&self, pid: u32) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.pid == pid)
    }

    /// The children of this process.
    pub fn children(&self, pid: u32) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.parent == pid)
    }

    /// Is every process of this host among them? A /proc mounted with `hidepid` hides even the first.
    pub fn is_whole(&self) -> bool {
        self.hidden == 0 && self.get(1).is_some()
    }
}

/// Reads them all.
pub fn table(tree: &Tree) -> Fact<Table> {
    let entries = match std::fs::read_dir(tree.path("/proc")) {
        Ok(entries) => entries,
        Err(error) => return unknown(&error, "/proc"),
    };
    let mut table = Table::default();
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for (seen, pid) in names.enumerate() {
        if seen == PROCESSES_MAX {
            return Fact::Unknown(Reason::Garbled("more processes than can be".into()));
        }
        match entry(tree, pid) {
            Fact::Known(entry) => table.entries.push(entry),
            Fact::Unknown(Reason::NotTold) => {}
            Fact::Unknown(_) => table.hidden += 1,
        }
    }
    Fact::Known(table)
}

/// One process; `NotTold`: it is not there.
pub fn entry(tree: &Tree, pid: u32) -> Fact<Entry> {
    let (stat, status) =
        match (tree.text(format!("/proc/{pid}/stat")), tree.text(format!("/proc/{pid}/status"))) {
            (Fact::Known(stat), Fact::Known(status)) => (stat, status),
            (Fact::Unknown(reason), _) | (_, Fact::Unknown(reason)) => return Fact::Unknown(reason),
        };
    match parse(pid, &stat, &status) {
        Some(entry) => Fact::Known(entry),
        None => Fact::Unknown(Reason::Garbled(format!("/proc/{pid}"))),
    }
}

/// When a process started, from /proc/PID/stat: its 22nd field. The second is a name in brackets, which may
/// itself hold brackets and blanks.
pub fn start(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn parse(pid: u32, stat: &str, status: &str) -> Option<Entry> {
    let (head, rest) = stat.rsplit_once(')')?;
    let comm = head.split_once('(')?.1.to_owned();
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let known = |name| field(status, name).known().copied();
    let ns_pids: Vec<u32> = match known("NSpid") {
        Some(pids) => pids.split_whitespace().map(|pid| pid.parse().ok()).collect::<Option<_>>()?,
        None => vec![pid],
    };
    (ns_pids.first() == Some(&pid)).then_some(())?;
    let real_uid = known("Uid")?.split_whitespace().next()?.parse().ok()?;
    let threads = number(known("Threads")?).get()?;
    Some(Entry { pid, comm, state, parent, start: start(stat)?, ns_pids, real_uid, threads })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_brackets_does_not_confuse_the_fields() {
        let stat = format!("7 (a) R 1 (b) S 3 {} 4242 0 0", ["0"; 17].join(" "));
        let status = "Name:\tx\nUid:\t5\t6\t6\t6\nNSpid:\t7\t1\nThreads:\t2\n";
        let entry = parse(7, &stat, status).unwrap();
        assert_eq!(
            (entry.comm.as_str(), entry.state, entry.parent, entry.start),
            ("a) R 1 (b", 'S', 3, 4242)
        );
        assert_eq!((entry.own_pid(), entry.real_uid, entry.threads), (1, 5, 2));
    }

    #[test]
    fn absurd_entries_are_none() {
        let stat = format!("7 (a) S 3 {} 4242", ["0"; 17].join(" "));
        let status = "Uid:\t5\t6\nThreads:\t2\n";
        assert!(parse(7, &stat, status).is_some());
        for (stat, status) in [
            ("", status),
            ("7 (a", status),
            ("7 a) S", status),
            ("7 (a) S 3 0 0", status),
            (stat.as_str(), ""),
            (stat.as_str(), "Uid:\t-1\nThreads:\t2\n"),
            (stat.as_str(), "Uid:\t5\nThreads:\tmany\n"),
            (stat.as_str(), "Uid:\t5\nThreads:\t2\nNSpid:\t8\t1\n"),
            (stat.as_str(), "Uid:\t5\nThreads:\t2\nNSpid:\t7\tx\n"),
        ] {
            assert_eq!(parse(7, stat, status), None, "{stat:?} {status:?}");
        }
    }
}
