//! The server cannot fork: memory that the kernel will not promise, processes that it will not allow.
//!
//! Refuses to know: what happens to the child later. M §5.2, §5.4.

use super::failing::{Failed, at_fork, cause, failed, said, word};
use super::headroom::{headroom, missing, size};
use super::{Check, Hit, Kind, Severity, Source};
use crate::guard::evidence::Evidence;
use crate::guard::evidence::host::NO_LIMIT;
use crate::guard::evidence::log::LogClass;

pub const FORK_ENOMEM: Check = Check {
    id: "fork-enomem",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Log, Source::Kernel, Source::Info],
    when: |e| {
        if let Some(line) = said(e) {
            return (line.class == LogClass::ForkEnomem).then(|| cause(&line.text)).flatten();
        }
        let short = headroom(e).commit.filter(|left| *left < 0);
        match (failed(e), short) {
            (Failed::AtFork | Failed::Somewhere, Some(left)) => {
                cause(&format!("overcommit is 2 and {} of CommitLimit is missing for a fork", missing(left)))
            }
            (Failed::AtFork, None) if !out_of_processes(e) => {
                Hit::likely("the server answered BGSAVE with a bare error: it could not fork")
            }
            _ => None,
        }
    },
    what: "The kernel does not give the server the memory for a fork.",
    why: "Every background save and every AOF rewrite begins with a fork.",
    cure: "Set vm.overcommit_memory to 1, and see that real memory is there for what is copied.",
    explain: "Can fork be avoided? Not for a background save: BGSAVE, AOF rewrite and disk-based \
              replication all fork. Only SAVE does without, and it stops all clients while it writes, a \
              second or more for each few hundred megabytes; a small data set may be saved so by hand. The \
              fork copies no data, only page tables, but with strict accounting the kernel reserves the \
              whole size once more. In a container look at the memory limit too: page tables are charged \
              to it.",
    source: "rdb.c:rdbSaveBackground; fork(2) ENOMEM; proc_sys_vm(5)",
};

pub const OVERCOMMIT_MEMORY: Check = Check {
    id: "overcommit-memory",
    kind: Kind::Danger,
    severity: Severity::Warn,
    needs: &[Source::Kernel],
    when: |e| {
        let mode = e.host.memory.overcommit.get()?;
        let left = headroom(e).commit;
        let enomem = said(e).is_some_and(|line| line.class == LogClass::ForkEnomem);
        let numbers = format!(
            "CommitLimit {}, promised {}, the server's writable memory {}",
            known(e.host.memory.commit_limit.get()),
            known(e.host.memory.committed.get()),
            known(e.host.process.data.get()),
        );
        match (mode, left) {
            (2, Some(left)) if left < 0 => {
                let says = format!("vm.overcommit_memory = 2; {numbers}: {} missing", missing(left));
                at_fork(e, true, says)
            }
            (2, _) if enomem => {
                cause(&format!("vm.overcommit_memory = 2; {numbers}")).map(|hit| Hit { sure: false, ..hit })
            }
            (2, _) => Hit::likely(format!("vm.overcommit_memory = 2; {numbers}")),
            (0, _) if enomem => Hit::likely("vm.overcommit_memory = 0")
                .map(|hit| hit.kind(Kind::Cause).severity(Severity::Crit)),
            (0, _) => Hit::sure("vm.overcommit_memory = 0")
                .map(|hit| hit.kind(Kind::Advice).severity(Severity::Info)),
            _ => None,
        }
    },
    what: "The kernel does not overcommit memory as a forking server needs it.",
    why: "A fork asks for the whole size of the server once more, of which hardly any is ever used.",
    cure: "Set vm.overcommit_memory to 1 now and in a file under /etc/sysctl.d.",
    explain: "Swap or overcommit? Overcommit. With mode 2 the kernel promises only what it could give, so \
              a fork of a 10 GB server needs 10 GB more of CommitLimit although parent and child share \
              every page until one writes. More swap raises CommitLimit and so cures the message, but \
              nobody wants Redis to live in it. Mode 1 promises everything; the price is that real \
              shortage shows as a kill instead of a refusal, so keep maxmemory well below the memory there \
              is. Mode 0, the default, refuses only what is obviously too much, and since Linux 5.2 rarely \
              a fork. The setting is the host's, not the container's, and needs no restart.",
    source: "syscheck.c:checkOvercommit; proc_sys_vm(5) overcommit_memory; redis/docker-library-redis#346",
};

fn known(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "unknown".into(), size)
}

pub const FORK_EAGAIN: Check = Check {
    id: "fork-eagain",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Log, Source::Process, Source::Cgroup],
    when: |e| {
        let limits = limits(e);
        if let Some(line) = said(e) {
            if line.class == LogClass::ForkEagain {
                let seen = limits.map(|(_, says)| format!("; {says}")).unwrap_or_default();
                return cause(&format!("{}{seen}", line.text));
            }
            if line.class == LogClass::ForkEnomem {
                return None;
            }
        }
        let (left, says) = limits?;
        match left {
            0 => at_fork(e, true, says),
            // Not yet: a danger whatever fails now.
            _ => Hit::likely(says).map(|hit| hit.kind(Kind::Danger).severity(Severity::Warn)),
        }
    },
    what: "The server may not have one process more.",
    why: "A save needs a child process, and the limit of processes is reached.",
    cure: "Raise the limit that binds: pids.max of the control group, or nproc of the server's user.",
    explain: "\"Resource temporarily unavailable\" at fork is a limit of processes, not of memory. Two \
              limits matter: pids.max of the container or service, which counts the threads of everything \
              in it, health checks with a shell included; and RLIMIT_NPROC, which counts all threads of \
              the same user on the host, other containers with the same uid included. Both can be raised \
              for the running server.",
    source: "rdb.c:rdbSaveBackground; fork(2) EAGAIN; cgroup-v2 pids.max; redis/redis#15501",
};

/// The limit of processes that binds first: how many are left of its last few, and in words.
fn limits(e: &Evidence) -> Option<(u64, String)> {
    let (process, group) = (&e.host.process, &e.host.cgroup);
    let pids = || {
        let (max, now) = (group.pids_max.get().filter(|max| *max != NO_LIMIT)?, group.pids_current.get()?);
        let refused = word(&group.pids_refused);
        Some((
            max.saturating_sub(now),
            format!("pids.max {max}, {now} in use, {refused} forks refused so far"),
        ))
    };
    let user = || {
        // fork(2): root and who holds these capabilities are not counted.
        let free = process.uid.get()? == 0 || process.caps.get().is_some_and(|caps| caps & UNCOUNTED != 0);
        let (max, now) = (process.nproc.get()?.soft, process.user_threads.get()?);
        let says = format!("RLIMIT_NPROC {max}, {now} threads of uid {}", word(&process.uid));
        (!free && max != NO_LIMIT).then(|| (max.saturating_sub(now), says))
    };
    let tightest = [pids(), user()].into_iter().flatten().min_by_key(|(left, ..)| *left)?;
    (tightest.0 < NEARLY).then_some(tightest)
}

/// Fewer processes left than this are nearly none: an AOF rewrite, a health check, a shell.
const NEARLY: u64 = 4;
/// CAP_SYS_ADMIN and CAP_SYS_RESOURCE.
const UNCOUNTED: u64 = 1 << 21 | 1 << 24;

fn out_of_processes(e: &Evidence) -> bool {
    limits(e).is_some_and(|(left, ..)| left == 0)
}
