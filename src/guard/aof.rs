//! The append-only file that refuses writes: what ails it, what clears that on which version, and what proves that it
//! is sound again. M §7, and docs/aof.md for what was seen.
//!
//! Refuses to know: when anything is asked or done. Invariants: a server that has no row of [`VERSIONS`] is left
//! alone; `aof_last_write_status` alone proves nothing.

use super::evidence::log::{Errno, LogClass};
use super::evidence::{Evidence, Look};
use super::finding::failing;
use crate::config::AofRepair;

/// The option that is switched off and on.
pub const APPENDONLY: &str = "appendonly";

/// A way to a sound file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// BGREWRITEAOF: the file stays on all the time.
    Rewrite,
    /// `appendonly no` and `yes` in one transaction, after a proved save.
    Reopen,
}

/// What a version does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// `redis` or `valkey`, as INFO tells.
    pub server: &'static str,
    /// From this version on …
    pub from: (u32, u32, u32),
    /// … to before this one.
    pub below: (u32, u32, u32),
    /// A failed fsync refuses writes.
    pub sticks: bool,
    /// A rewrite that ends well clears that.
    pub rewrite: bool,
    /// `appendonly no` and `yes` clears it.
    pub reopen: bool,
    /// What else a human must know.
    pub note: &'static str,
    /// Where that stands.
    pub source: &'static str,
}

const LATER: (u32, u32, u32) = (u32::MAX, 0, 0);

/// One row a behaviour. A server that has none is told of, and left alone.
pub const VERSIONS: [Row; 7] = [
    Row {
        server: "redis",
        from: (2, 8, 6),
        below: (5, 0, 0),
        sticks: false,
        rewrite: false,
        reopen: false,
        note: "a failed write goes on refusing even after appendonly no",
        source: "redis 4.0.14 server.c:processCommand does not ask whether the file is on",
    },
    Row {
        server: "redis",
        from: (5, 0, 0),
        below: (6, 2, 0),
        sticks: false,
        rewrite: false,
        reopen: false,
        note: "after appendonly no and yes an old error comes back for ever",
        source: "redis 6.0.20 aof.c:startAppendOnly leaves aof_last_write_status; redis/redis#8030",
    },
    Row {
        server: "redis",
        from: (6, 2, 0),
        below: (6, 2, 2),
        sticks: false,
        rewrite: false,
        reopen: false,
        note: "a failed fsync is logged and forgotten",
        source: "redis 6.2.1 aof.c:flushAppendOnlyFile; redis/redis#8419",
    },
    Row {
        server: "redis",
        from: (6, 2, 2),
        below: (7, 0, 0),
        sticks: true,
        rewrite: true,
        reopen: true,
        note: "appendonly yes fails where the server cannot fork, and leaves it off",
        source: "redis 6.2.16 aof.c:backgroundRewriteDoneHandler, aof.c:startAppendOnly",
    },
    Row {
        server: "redis",
        from: (7, 0, 0),
        below: (7, 2, 0),
        sticks: true,
        rewrite: false,
        reopen: true,
        note: "a rewrite opens a new file and leaves the old error",
        source: "redis 7.0.15 aof.c:openNewIncrAofForAppend, aof.c:startAppendOnly",
    },
    Row {
        server: "redis",
        from: (7, 2, 0),
        below: LATER,
        sticks: true,
        rewrite: true,
        reopen: true,
        note: "a rewrite closes the old file and syncs it",
        source: "redis 7.2.6 aof.c:openNewIncrAofForAppend, bio.c:bioProcessBackgroundJobs",
    },
    Row {
        server: "valkey",
        from: (7, 2, 0),
        below: LATER,
        sticks: true,
        rewrite: true,
        reopen: true,
        note: "a rewrite closes the old file and syncs it",
        source: "valkey 8.0.1 aof.c:openNewIncrAofForAppend, bio.c:bioProcessBackgroundJobs",
    },
];

/// The row of the server that was looked at.
pub fn row(look: &Look) -> Option<&'static Row> {
    let server = look.server.known()?;
    let version = failing::numbers(look.version.known()?)?;
    VERSIONS.iter().find(|row| row.server == server && row.from <= version && version < row.below)
}

/// What ails the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ail {
    /// It cannot be written: the server tries again each second, and opens writes by itself.
    Write,
    /// A sync failed: nothing is tried again.
    Sync,
    /// One of the two.
    Unknown,
}

/// Told apart by what the server keeps back, which a write error must and a sync error cannot; else by its log, else
/// by an errno that only a write meets. The refusal's text is of either (`server.c:writeCommandsDeniedByDiskError`).
pub fn ail(e: &Evidence) -> Ail {
    let line = failing::said_aof(e).map(|line| line.class);
    match (e.look.aof.unwritten.get(), line) {
        // No byte waits, so no write has failed since the last one that worked.
        (Some(0), _) => Ail::Sync,
        // While a sync runs a write may wait for it: the log knows.
        (_, Some(LogClass::AofSync(_))) => Ail::Sync,
        (_, Some(_)) | (Some(_), None) => Ail::Write,
        (None, None) => match failing::aof_errno(e) {
            Some(Errno::Nospc | Errno::Rofs | Errno::Dquot | Errno::Fbig) => Ail::Write,
            Some(_) | None => Ail::Unknown,
        },
    }
}

/// Is there room for a new file beside the old one, as far as that can be seen? Where it cannot, the rewrite itself
/// tells: one that fails takes nothing away.
pub fn room(e: &Evidence) -> bool {
    let base = e.server.aof_base_size.get().or(e.server.aof_size.get());
    match (e.host.place.free.get(), base) {
        (Some(free), Some(base)) => free > base,
        (Some(free), None) => free > 0,
        (None, _) => true,
    }
}

/// The way that clears a failed sync and that the operator allows, or why there is none.
pub fn way(allowed: AofRepair, e: &Evidence) -> Result<Way, String> {
    let Some(row) = row(&e.look) else {
        return Err("what clears a failed sync is not known of this server and version".into());
    };
    if !row.sticks {
        return Err(format!("nothing clears it on this version: {}", row.note));
    }
    if !room(e) {
        return Err("there is no room for a new file beside the old one".into());
    }
    match allowed {
        AofRepair::Off => Err("needs --aof-repair rewrite or switch".into()),
        AofRepair::Rewrite | AofRepair::Switch if row.rewrite => Ok(Way::Rewrite),
        AofRepair::Switch if row.reopen => Ok(Way::Reopen),
        AofRepair::Rewrite | AofRepair::Switch => Err(format!("needs --aof-repair switch: {}", row.note)),
    }
}

/// What the signs say of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Written, synced, whole.
    Good,
    /// A rewrite runs or will: until it ends well nothing may be persisted (`AOF_WAIT_REWRITE`).
    Busy {
        /// The newest one failed.
        failed: bool,
    },
    /// It is off.
    Off,
    /// Not sound, for this reason.
    Bad(&'static str),
    /// INFO does not tell.
    Untold,
}

impl Sign {
    /// For a human.
    pub fn words(self) -> &'static str {
        match self {
            Sign::Good => "it is written, synced and whole",
            Sign::Busy { failed: false } => "a rewrite runs",
            Sign::Busy { failed: true } => "nothing may be persisted: rewrites fail and are tried again",
            Sign::Off => "aof_enabled is not 1",
            Sign::Bad(why) => why,
            Sign::Untold => "INFO does not tell how the append-only file stands",
        }
    }
}

/// Reads the signs: all of them must be good (M §11.20).
pub fn sign(look: &Look) -> Sign {
    let signs = &look.aof;
    match signs.enabled.get() {
        None => return Sign::Untold,
        Some(false) => return Sign::Off,
        Some(true) => {}
    }
    // Not told before 7.0.
    let repeated = signs.failures.is_and(|n| *n > 0);
    if signs.busy() {
        return Sign::Busy { failed: repeated || signs.rewrite_ok.is(false) };
    }
    let signs = [
        (look.aof_ok.is(true), WRITE_STATUS),
        (signs.rewrite_ok.is(true), "aof_last_bgrewrite_status is not ok"),
        (!repeated, "rewrites of the append-only file go on failing"),
    ];
    signs.iter().find(|(good, _)| !good).map_or(Sign::Good, |(_, why)| Sign::Bad(why))
}

/// The sign by which the server refuses.
pub const WRITE_STATUS: &str = "aof_last_write_status is not ok";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::evidence::Fact::{self, Known};
    use crate::guard::evidence::log::LogClass;
    use crate::guard::finding::scenarios::aof_failing;
    use AofRepair::{Off, Rewrite, Switch};

    const EIO: &str = "MISCONF Errors writing to the AOF file: Input/output error";

    fn of(server: &str, version: &str) -> Evidence {
        let mut e = aof_failing(EIO, None);
        (e.look.server, e.look.version) = (Known(server.into()), Known(version.into()));
        e
    }

    #[test]
    fn each_version_has_its_way_and_what_is_unknown_has_none() {
        for (server, version, by_rewrite, by_switch) in [
            ("redis", "2.8.24", None, None),
            ("redis", "4.0.14", None, None),
            ("redis", "5.0.14", None, None),
            ("redis", "6.0.9", None, None),
            ("redis", "6.2.1", None, None),
            ("redis", "6.2.2", Some(Way::Rewrite), Some(Way::Rewrite)),
            ("redis", "6.2.14", Some(Way::Rewrite), Some(Way::Rewrite)),
            ("redis", "7.0.0", None, Some(Way::Reopen)),
            ("redis", "7.0.15", None, Some(Way::Reopen)),
            ("redis", "7.2.0", Some(Way::Rewrite), Some(Way::Rewrite)),
            ("redis", "8.2.3", Some(Way::Rewrite), Some(Way::Rewrite)),
            ("valkey", "7.2.5", Some(Way::Rewrite), Some(Way::Rewrite)),
            ("valkey", "9.1.2", Some(Way::Rewrite), Some(Way::Rewrite)),
            ("keydb", "6.3.4", None, None),
            ("redict", "7.3.0", None, None),
            ("redis", "of tomorrow", None, None),
        ] {
            let e = of(server, version);
            assert_eq!(way(Off, &e).ok(), None, "{server} {version}");
            assert_eq!(way(Rewrite, &e).ok(), by_rewrite, "{server} {version}");
            assert_eq!(way(Switch, &e).ok(), by_switch, "{server} {version}");
        }
        assert!(way(Switch, &Evidence::default()).is_err());
    }

    #[test]
    fn rows_of_one_server_leave_no_gap_and_do_not_overlap() {
        for pair in VERSIONS.windows(2).filter(|pair| pair[0].server == pair[1].server) {
            assert_eq!(pair[0].below, pair[1].from, "{}", pair[1].source);
        }
        assert!(VERSIONS.iter().all(|row| row.sticks || !(row.rewrite || row.reopen)));
    }

    #[test]
    fn a_full_disk_is_not_rewritten() {
        let mut e = of("redis", "8.2.3");
        (e.host.place.free, e.server.aof_base_size) = (Known(10), Known(20));
        assert!(way(Switch, &e).is_err_and(|why| why.contains("room")));
        e.host.place.free = Known(30);
        assert_eq!(way(Rewrite, &e), Ok(Way::Rewrite));
    }

    #[test]
    fn a_write_keeps_something_back_and_a_sync_does_not() {
        let (write, sync) = (LogClass::AofWrite(Errno::Nospc), LogClass::AofSync(Errno::Io));
        let full = "MISCONF Errors writing to the AOF file: No space left on device";
        for (refusal, unwritten, log, expected) in [
            (EIO, Some(0), None, Ail::Sync),
            (EIO, Some(0), Some(write), Ail::Sync),
            (EIO, Some(9), Some(sync), Ail::Sync),
            (EIO, Some(9), None, Ail::Write),
            (full, Some(9), Some(write), Ail::Write),
            (full, None, Some(write), Ail::Write),
            (EIO, None, Some(sync), Ail::Sync),
            (EIO, None, None, Ail::Unknown),
            (full, None, None, Ail::Write),
        ] {
            let mut e = aof_failing(refusal, log);
            e.look.aof.unwritten = unwritten.map_or(Fact::UNKNOWN, Known);
            assert_eq!(ail(&e), expected, "{refusal} {unwritten:?} {log:?}");
        }
    }

    #[test]
    fn no_single_sign_proves_an_append_only_file() {
        let good = "aof_enabled:1\r\naof_rewrite_in_progress:0\r\naof_rewrite_scheduled:0\r\n\
            aof_last_bgrewrite_status:ok\r\naof_last_write_status:ok\r\naof_rewrites_consecutive_failures:0\r\n";
        let read = |info: &str| {
            let mut look = Look::default();
            look.read_info(info);
            sign(&look)
        };
        assert_eq!(read(good), Sign::Good);
        for (from, to, expected) in [
            ("aof_enabled:1", "aof_enabled:0", Sign::Off),
            ("write_status:ok", "write_status:err", Sign::Bad(WRITE_STATUS)),
            ("bgrewrite_status:ok", "bgrewrite_status:err", Sign::Bad("aof_last_bgrewrite_status is not ok")),
            ("failures:0", "failures:2", Sign::Bad("rewrites of the append-only file go on failing")),
            ("in_progress:0", "in_progress:1", Sign::Busy { failed: false }),
            ("scheduled:0", "scheduled:1", Sign::Busy { failed: false }),
        ] {
            assert_eq!(read(&good.replace(from, to)), expected, "{to}");
        }
        // The false recovery, as Redis 7.0.15 shows it while it cannot fork.
        let waits =
            good.replace("scheduled:0", "scheduled:1").replace("bgrewrite_status:ok", "bgrewrite_status:err");
        assert_eq!(read(&waits), Sign::Busy { failed: true });
        assert_eq!(read(""), Sign::Untold);
    }
}
