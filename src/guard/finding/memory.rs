//! Memory for the time of a save: pages copied on write, huge pages, limits, maxmemory, swap, the cost of a fork.
//!
//! Refuses to know: whether the kernel lets the server fork. M §5.2, §5.3.

use super::failing::{Failed, failed, said, since, word};
use super::headroom::{copied, headroom, missing, size, thp_shielded};
use super::trend::lead;
use super::{Check, Hit, Kind, Severity, Source};
use crate::guard::evidence::Evidence;
use crate::guard::evidence::host::NO_LIMIT;
use crate::guard::evidence::log::LogClass;

pub const MEMORY_HEADROOM: Check = Check {
    id: "memory-headroom",
    kind: Kind::Danger,
    severity: Severity::Warn,
    needs: &[Source::Kernel, Source::Info],
    when: |e| {
        let free = e.host.memory.available.get()?.saturating_add(e.host.memory.swap_free.get().unwrap_or(0));
        let Some(left) = headroom(e).memory.filter(|left| *left < 0) else {
            return Hit::likely(format!(
                "{} available, the next save may copy {}; at the present pace that ends in {}",
                size(free),
                size(copied(e)?),
                lead(e.ahead.memory?)
            ));
        };
        Hit::likely(format!(
            "{} available, the next save may copy {}: {} missing",
            size(free),
            size(copied(e)?),
            missing(left)
        ))
    },
    what: "The host has less memory than the next save may copy, or soon will.",
    why: "Each page written during a save exists twice, and when memory ends the kernel kills a process.",
    cure: "Add memory, or save at a time of few writes, or give the data set less of the host.",
    explain: "Do I need twice the memory? No, that is the upper bound: it takes a write to every page \
              while the save runs. The need is what is copied, about write rate times duration of the \
              save, and INFO tells what the last one took (rdb_last_cow_size). A cache under heavy random \
              writes may come near twice, a store that is mostly read needs a few percent. Huge pages \
              multiply it, since 2 MiB are copied for one byte.",
    source: "INFO rdb_last_cow_size (server.c:genRedisInfoString); fork(2); proc_meminfo(5) MemAvailable",
};

pub const CGROUP_HEADROOM: Check = Check {
    id: "cgroup-headroom",
    kind: Kind::Danger,
    severity: Severity::Warn,
    needs: &[Source::Cgroup, Source::Info],
    when: |e| {
        let group = &e.host.cgroup;
        let Some(left) = headroom(e).cgroup.filter(|left| *left < 0) else {
            return Hit::likely(format!(
                "limit {}, {} in use, the next save may copy {}; at the present pace that ends in {}",
                size(group.memory_max.get()?),
                size(group.memory_current.get()?),
                size(copied(e)?),
                lead(e.ahead.cgroup?)
            ));
        };
        let exposed = e.server.oom_score_adj.is("no".to_string());
        let advice =
            if exposed { "; oom-score-adj is no: the server may be killed instead of the child" } else { "" };
        let says = format!(
            "limit {}, {} in use, the next save may copy {}: {} missing{advice}",
            size(group.memory_max.get()?),
            size(group.memory_current.get()?),
            size(copied(e)?),
            missing(left)
        );
        let killed = said(e).is_some_and(|line| line.class == LogClass::Signal(9));
        let hit = Hit { sure: false, kind: None, severity: None, says };
        match killed || failed(e) == Failed::Somewhere {
            true => Some(hit.kind(Kind::Cause).severity(Severity::Crit)),
            false if exposed => Some(hit.severity(Severity::Crit)),
            false => Some(hit),
        }
    },
    what: "The control group's memory limit is too tight for the next save.",
    why: "At the limit the kernel kills a process of the group, and by default that is the server.",
    cure: "Raise the memory limit; until then set oom-score-adj yes so that the child dies and not the \
           server.",
    explain: "In a container the host's free memory does not help: the limit of the group counts, and \
              INFO's total_system_memory shows the host. Used memory, buffers of clients and replicas, and \
              the pages copied during a save must fit together. Page cache counts as used but is given \
              back. oom-score-adj yes (6.0.7 and later) is no cure: it decides who dies, and a dead child \
              is a refusal where a dead server is an outage.",
    source: "cgroup-v2 memory.max; memory.limit_in_bytes; server.c:setOOMScoreAdj",
};

pub const THP_ALWAYS: Check = Check {
    id: "thp-always",
    kind: Kind::Danger,
    severity: Severity::Warn,
    needs: &[Source::Kernel, Source::Process],
    when: |e| {
        if !e.host.memory.thp.is("always".to_string()) {
            return None;
        }
        match thp_shielded(e) {
            true => Hit::sure(
                "transparent_hugepage/enabled is always, but the server has switched it off for itself",
            )
            .map(|hit| hit.kind(Kind::Advice).severity(Severity::Info)),
            false => Hit::sure("transparent_hugepage/enabled is always, and the server is not shielded"),
        }
    },
    what: "Transparent huge pages are always on.",
    why: "During a save one changed byte copies 2 MiB instead of 4 KiB, which costs memory and latency.",
    cure: "Set transparent_hugepage/enabled to madvise, then restart the server at a quiet time to profit.",
    explain: "Huge pages do not make a fork fail; they make it expensive afterwards. Redis 6.2 and later \
              switch them off for themselves at start (disable-thp yes), so there it is worth knowing and \
              no more. Older servers keep the huge pages they already have after the setting has changed, \
              and shed them only with a restart; plan it, with a good save behind you.",
    source: "server.c:linuxMemoryWarnings, syscheck.c:checkTHPEnabled; PR_SET_THP_DISABLE prctl(2)",
};

pub const MAXMEMORY_HIGH: Check = Check {
    id: "maxmemory-high",
    kind: Kind::Advice,
    severity: Severity::Warn,
    needs: &[Source::Config, Source::Kernel, Source::Cgroup],
    when: |e| {
        let (limit, whose) = limit(e)?;
        let proposed = proposed_maxmemory(e)?;
        let maxmemory = e.server.maxmemory.get()?;
        let policy = word(&e.server.maxmemory_policy);
        let then = match policy.as_str() {
            "noeviction" => "beyond it writes get an OOM error".to_string(),
            "unknown" => "beyond it keys are evicted or writes refused, by maxmemory-policy".to_string(),
            policy => format!("beyond it {policy} evicts keys"),
        };
        let advice = format!("{} would leave room for a save; {then}", size(proposed));
        match maxmemory {
            0 if e.host.cgroup.memory_max.is_and(|max| *max != NO_LIMIT) => Hit::sure(format!(
                "maxmemory is not set under a limit of {} ({whose}); {advice}",
                size(limit)
            ))
            .map(|hit| hit.severity(Severity::Info)),
            0 => None,
            // Bits of memory beside the data set, and what a save copies.
            _ if maxmemory > limit / 100 * 85 => {
                Hit::sure(format!("maxmemory {} of {} ({whose}); {advice}", size(maxmemory), size(limit)))
            }
            _ => None,
        }
    },
    what: "maxmemory leaves no room for a save.",
    why: "At maxmemory the data fills the memory there is, and a save needs more beside it.",
    cure: "Give the host or container more memory, or lower maxmemory to about three quarters of it.",
    explain: "maxmemory limits the data set, not the process: buffers, fragmentation and the pages copied \
              during a save come on top. Three quarters of the memory is a start; what INFO tells of \
              rdb_last_cow_size is better. Mind that lowering maxmemory below what is used evicts keys at \
              once, or refuses writes with noeviction: so it is a person's decision, and more memory is \
              the cure that costs no data.",
    source: "evict.c:getMaxmemoryState; redis.conf: maxmemory",
};

/// The memory there is for the server, and whose limit it is.
fn limit(e: &Evidence) -> Option<(u64, &'static str)> {
    let host =
        e.host.memory.total.get().or(e.server.total_system_memory.get()).map(|total| (total, "the host"));
    let group =
        e.host.cgroup.memory_max.get().filter(|max| *max != NO_LIMIT).map(|max| (max, "its control group"));
    [host, group].into_iter().flatten().min()
}

/// A maxmemory that leaves room for a save, in whole MiB.
pub fn proposed_maxmemory(e: &Evidence) -> Option<u64> {
    let (limit, _) = limit(e)?;
    let rest = limit.saturating_sub(copied(e).unwrap_or(limit / 4).min(limit / 2));
    let proposed = rest.min(limit / 4 * 3) >> 20 << 20;
    (proposed > 0).then_some(proposed)
}

pub const NO_SWAP_CONTAINER: Check = Check {
    id: "no-swap-container",
    kind: Kind::Advice,
    severity: Severity::Info,
    needs: &[Source::Cgroup, Source::Process],
    when: |e| {
        let limited = e.host.cgroup.memory_max.get().filter(|max| *max != NO_LIMIT);
        let none = e.host.cgroup.swap_max.is(0) || e.host.memory.swap_total.is(0);
        match e.host.process.container.is(true) && none {
            true => Hit::sure(format!("no swap, and a memory limit of {}", size(limited?))),
            false => None,
        }
    },
    what: "The container has a memory limit and no swap.",
    why: "The moment its memory ends a process is killed; nothing cushions it.",
    cure: "Plan the limit with room for a save, and set oom-score-adj yes.",
    explain: "Swap in a container is off by default, and for Redis that is right: a data set in swap is \
              slower than no cache. But then the memory limit is a cliff. Leave room for the pages that a \
              save copies, keep maxmemory well below the limit, and let the child be the victim with \
              oom-score-adj yes.",
    source: "cgroup-v2 memory.swap.max; Kubernetes: swap is off unless the node allows it",
};

pub const FORK_SLOW: Check = Check {
    id: "fork-slow",
    kind: Kind::Advice,
    severity: Severity::Info,
    needs: &[Source::Info],
    when: |e| {
        let usec = e.server.latest_fork_usec.get()?;
        let bytes = e.server.used_memory_rss.get().or(e.server.used_memory.get())?.max(1);
        let per_gb = usec.saturating_mul(1000) / (bytes / 1_000_000).max(1);
        let says = format!("the newest fork took {} ms for {}", usec / 1000, size(bytes));
        match usec {
            500_000.. => Hit::sure(says).map(|hit| hit.severity(Severity::Warn)),
            50_000.. if per_gb > 50_000 => Hit::sure(format!("{says}: {} ms a GB", per_gb / 1000)),
            _ => None,
        }
    },
    what: "A fork of the server takes long.",
    why: "While the kernel copies page tables the server answers nobody, at every save and AOF rewrite.",
    cure: "Split the data over smaller servers, save from a replica, or move to hardware with fast page \
           tables.",
    explain: "A fork copies page tables, 8 bytes for each 4 KiB: on today's hardware about 10 ms for a GB, \
              on old virtual machines ten times that. All clients wait meanwhile, so compare it with your \
              timeouts. A data set of tens of GB in one process pays it at every save; several processes \
              of a few GB pay it in turns.",
    source: "INFO latest_fork_usec (server.c:redisFork); redis.io: Diagnosing latency issues",
};

/// Is `oom-score-adj` there and off?
pub fn may_protect(e: &Evidence) -> bool {
    e.server.oom_score_adj.is("no".to_string()) && since(e, 6, 0, 7)
}
