//! What is left after the next save: of the disk, of memory, of the control group, of what the kernel may promise.
//!
//! Refuses to know: what follows from it. Invariants: bytes; negative means that the save will fail; unknown where
//! any part is unknown; no absurd number overflows.

use super::failing::since;
use crate::guard::evidence::Evidence;
use crate::guard::evidence::host::{Dump, NO_LIMIT};

/// Bytes left after the next save; `None`: unknown, or nothing limits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Headroom {
    /// Of the data directory, with the new dump beside the old one.
    pub disk: Option<i64>,
    /// Of the host's memory, with the pages copied on write.
    pub memory: Option<i64>,
    /// Of the tightest control group, likewise.
    pub cgroup: Option<i64>,
    /// Of CommitLimit, with all the server's writable memory once more; only where overcommit is 2.
    pub commit: Option<i64>,
}

impl Headroom {
    /// By name, for gauges.
    pub fn each(&self) -> [(&'static str, Option<i64>); 4] {
        [("disk", self.disk), ("memory", self.memory), ("cgroup", self.cgroup), ("commit", self.commit)]
    }
}

/// What the next save would leave.
pub fn headroom(e: &Evidence) -> Headroom {
    let (memory, group) = (&e.host.memory, &e.host.cgroup);
    let copied = copied(e);
    let all = || {
        let swap = memory.swap_free.get().unwrap_or(0);
        Some(left(memory.available.get()?.saturating_add(swap), copied?))
    };
    let limited = || {
        let max = group.memory_max.get().filter(|max| *max != NO_LIMIT)?;
        let held = group.memory_current.get()?.saturating_sub(group.memory_reclaimable.get().unwrap_or(0));
        let swap = group.swap_max.get().unwrap_or(0).min(memory.swap_free.get().unwrap_or(0));
        Some(left(max.saturating_add(swap), held.saturating_add(copied?)))
    };
    let promised = || {
        memory.overcommit.is(2).then_some(())?;
        Some(left(
            memory.commit_limit.get()?,
            memory.committed.get()?.saturating_add(e.host.process.data.get()?),
        ))
    };
    // A running save has taken its part of the disk already: what is free then says nothing of the next.
    let disk = || {
        (!e.look.saving.is(true)).then_some(())?;
        Some(left(e.host.place.free.get()?, next_dump(e)?))
    };
    Headroom { disk: disk(), memory: all(), cgroup: limited(), commit: promised() }
}

/// How large the next dump may become. The last one and a tenth; a dump holds no overhead of keys and is
/// compressed, so an eighth of the data set is the least to expect of it, and half where no dump tells more.
pub fn next_dump(e: &Evidence) -> Option<u64> {
    let dataset = e.server.used_memory_dataset.get().or(e.server.used_memory.get());
    match e.host.place.dump.known()? {
        Dump::File { size, .. } => {
            let grown = size.saturating_add(size / 10);
            Some(grown.max(dataset.unwrap_or(0) / 8))
        }
        Dump::Missing | Dump::NotAFile => dataset.map(|bytes| bytes / 2),
    }
}

/// Memory that writes during the save will have copied: what the last one copied and half more, or what comes in
/// meanwhile, whichever is more; never more than everything, which is the whole of "twice the memory".
pub fn copied(e: &Evidence) -> Option<u64> {
    let used = e.host.process.rss.get().or(e.server.used_memory_rss.get()).or(e.server.used_memory.get())?;
    let seen = e.server.last_cow_bytes.get().max(e.server.aof_last_cow_bytes.get());
    let seen = seen.map(|bytes| bytes.saturating_add(bytes / 2));
    // A save that was never timed is taken for one of 100 MB a second.
    let secs = e.server.last_save_secs.get().unwrap_or(used / 100_000_000).max(1);
    // A page is copied whole for a small value in it.
    let per_byte = if thp_amplifies(e) { 64 } else { 4 };
    let coming =
        e.server.input_bytes_per_sec.get().map(|rate| rate.saturating_mul(secs).saturating_mul(per_byte));
    seen.max(coming).map(|bytes| bytes.min(used))
}

/// Transparent huge pages are always on and the server does not shield itself: 2 MiB are copied where 4 KiB would do.
pub fn thp_amplifies(e: &Evidence) -> bool {
    e.host.memory.thp.is("always".to_string()) && !thp_shielded(e)
}

/// The server has switched huge pages off for itself (`syscheck.c`, `server.c:linuxMemoryWarnings`, 6.2+).
pub fn thp_shielded(e: &Evidence) -> bool {
    e.host.process.thp_off.get().unwrap_or_else(|| e.server.disable_thp.is(true) && since(e, 6, 2, 0))
}

fn left(have: u64, need: u64) -> i64 {
    let (have, need) = (i64::try_from(have).unwrap_or(i64::MAX), i64::try_from(need).unwrap_or(i64::MAX));
    have.saturating_sub(need)
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

/// How many bytes are missing.
pub fn missing(left: i64) -> String {
    size(left.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::evidence::Fact;

    #[test]
    fn nothing_known_is_nothing_left_unsaid() {
        assert_eq!(headroom(&Evidence::default()), Headroom::default());
    }

    #[test]
    fn absurd_numbers_do_not_overflow() {
        let mut e = Evidence::default();
        for fact in [&mut e.server.used_memory, &mut e.server.last_cow_bytes, &mut e.server.last_save_secs] {
            *fact = Fact::Known(u64::MAX - 1);
        }
        e.server.input_bytes_per_sec = Fact::Known(u64::MAX);
        e.host.memory.available = Fact::Known(0);
        e.host.memory.overcommit = Fact::Known(2);
        e.host.memory.commit_limit = Fact::Known(0);
        e.host.memory.committed = Fact::Known(u64::MAX);
        e.host.process.data = Fact::Known(u64::MAX);
        e.host.place.free = Fact::Known(u64::MAX);
        e.host.place.dump = Fact::Known(Dump::File { size: u64::MAX, uid: 0, immutable: Fact::UNKNOWN });
        let left = headroom(&e);
        assert_eq!((left.memory, left.commit, left.disk), (Some(-i64::MAX), Some(-i64::MAX), Some(0)));
    }

    #[test]
    fn what_is_copied_is_capped_by_what_there_is_and_grows_with_huge_pages() {
        let mut e = Evidence::default();
        e.server.used_memory = Fact::Known(1 << 30);
        e.server.last_save_secs = Fact::Known(10);
        e.server.input_bytes_per_sec = Fact::Known(1 << 20);
        assert_eq!(copied(&e), Some(40 << 20));
        e.host.memory.thp = Fact::Known("always".into());
        assert_eq!(copied(&e), Some(640 << 20));
        e.host.process.thp_off = Fact::Known(true);
        e.server.last_cow_bytes = Fact::Known(40 << 30);
        assert_eq!(copied(&e), Some(1 << 30));
    }

    #[test]
    fn sizes_are_read_by_people() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
