//! Remedies in kernel settings, limits of the process and control groups.
//!
//! Refuses to know: files, RESP. Invariant: a limit is only ever raised.

use std::path::{Path, PathBuf};

use super::{Change, Consent, Plan, Proof, Reach, Remedy, Resource, Step};
use crate::guard::evidence::Evidence;
use crate::guard::evidence::host::{Limit, NO_LIMIT};
use crate::guard::finding::headroom::copied;

pub const ROWS: &[Remedy] = &[
    overcommit("overcommit-memory", |e| match e.host.memory.overcommit.get() {
        Some(0 | 2) => promise(e),
        _ => Plan::NotHere,
    }),
    // In mode 0 a fork may fail for other reasons, such as a control group's limit.
    overcommit("fork-enomem", |e| match e.host.memory.overcommit.get() {
        Some(2) => promise(e),
        _ => Plan::NotHere,
    }),
    Remedy {
        finding: "fork-eagain",
        does: "raise the server's limit of processes",
        reach: Reach::Kernel,
        needs: "root, or room below the hard limit",
        survives: false,
        undo: "the old limit is set again",
        consent: Consent::Auto,
        proof: Proof::Save,
        plan: |e| {
            let process = &e.host.process;
            let threads = process.user_threads.get().unwrap_or(0);
            // Only where this limit binds: pids.max is another row.
            match process.nproc.get() {
                Some(limit) if threads.saturating_add(4) > limit.soft => {
                    raise(e, Resource::Nproc, limit, threads.saturating_mul(2).max(4096))
                }
                _ => Plan::NotHere,
            }
        },
    },
    Remedy {
        finding: "fork-eagain",
        does: "raise the control group's limit of processes",
        reach: Reach::Cgroup,
        needs: "root, or a delegated control group",
        survives: false,
        undo: "the old limit is set again",
        consent: Consent::Ask,
        proof: Proof::Save,
        plan: |e| {
            let group = &e.host.cgroup;
            let (Some(path), Some(max), Some(now)) =
                (group.pids_path.known(), group.pids_max.get(), group.pids_current.get())
            else {
                return Plan::NotHere;
            };
            match max != NO_LIMIT && now.saturating_add(4) > max {
                true => group_max(path, "pids.max", max.saturating_mul(2).max(64)),
                false => Plan::NotHere,
            }
        },
    },
    Remedy {
        finding: "fd-limit",
        does: "raise the server's limit of open files",
        reach: Reach::Kernel,
        needs: "root, or room below the hard limit",
        survives: false,
        undo: "the old limit is set again",
        consent: Consent::Auto,
        proof: Proof::Save,
        plan: |e| match e.host.process.nofile.get() {
            Some(limit) => {
                raise(e, Resource::Nofile, limit, limit.soft.saturating_mul(2).clamp(1024, 1 << 20))
            }
            None => Plan::NotHere,
        },
    },
    memory_max("cgroup-headroom"),
    memory_max("child-oom-killed"),
    Remedy {
        finding: "thp-always",
        does: "let programs ask for huge pages instead of giving them to all",
        reach: Reach::Kernel,
        needs: "root",
        survives: false,
        undo: "the old words are written back",
        consent: Consent::Ask,
        proof: Proof::Reading,
        plan: |e| match e.host.memory.thp.is("always".to_string()) && !e.host.root.is(false) {
            true => {
                let defrag = e.host.memory.thp_defrag.is("always".to_string()).then(|| "madvise".to_string());
                steps(Change::Thp { enabled: "madvise".into(), defrag })
            }
            false => Plan::NotHere,
        },
    },
];

const fn overcommit(finding: &'static str, plan: fn(&Evidence) -> Plan) -> Remedy {
    Remedy {
        finding,
        does: "let the kernel promise memory to a fork",
        reach: Reach::Kernel,
        needs: "root",
        survives: true,
        undo: "the old mode is set again and the file removed",
        consent: Consent::Auto,
        proof: Proof::Save,
        plan,
    }
}

fn promise(e: &Evidence) -> Plan {
    if e.host.root.is(false) { Plan::NotHere } else { steps(Change::Overcommit { value: 1, keep: true }) }
}

const fn memory_max(finding: &'static str) -> Remedy {
    Remedy {
        finding,
        does: "raise the control group's memory limit",
        reach: Reach::Cgroup,
        needs: "root, or a delegated control group, and memory on the host",
        survives: false,
        undo: "the old limit is set again",
        consent: Consent::Ask,
        proof: Proof::Save,
        plan: |e| {
            let group = &e.host.cgroup;
            let (Some(path), Some(max)) = (group.memory_path.known(), group.memory_max.get()) else {
                return Plan::NotHere;
            };
            let Some(more) = copied(e).filter(|_| max != NO_LIMIT) else { return Plan::NotHere };
            let more = more.max(64 << 20);
            // A limit that the host cannot honour only moves the kill elsewhere.
            let file = if group.version.is(1) { "memory.limit_in_bytes" } else { "memory.max" };
            match e.host.memory.available.is_and(|available| *available > more) {
                true => group_max(path, file, max.saturating_add(more)),
                false => Plan::NotHere,
            }
        },
    }
}

/// The soft limit up to the hard one; as root both, if that is not enough.
fn raise(e: &Evidence, resource: Resource, limit: Limit, wanted: u64) -> Plan {
    let Some(pid) = e.host.pid.get() else { return Plan::NotHere };
    let root = e.host.root.is(true);
    let hard = if root { limit.hard.max(wanted) } else { limit.hard };
    // Never "unlimited" where a number will do: a leak must still meet an end.
    let soft = if limit.hard == NO_LIMIT { wanted } else { hard };
    match soft > limit.soft && limit.soft != NO_LIMIT {
        true => steps(Change::Limit { pid, resource, soft, hard }),
        false => Plan::NotHere,
    }
}

fn group_max(group: &Path, name: &str, value: u64) -> Plan {
    let mount = Path::new("/sys/fs/cgroup");
    let below = group.strip_prefix(mount).or_else(|_| group.strip_prefix("/")).unwrap_or(group);
    let file: PathBuf = mount.join(below).join(name);
    // The root group has no limits, and a path must not climb.
    match below.as_os_str().is_empty() || below.components().any(|c| c.as_os_str() == "..") {
        true => Plan::NotHere,
        false => steps(Change::CgroupMax { file, value }),
    }
}

fn steps(change: Change) -> Plan {
    Plan::Steps(vec![Step::Host(change)])
}
