//! The append-only file: refused writes that no snapshot cures, and how it is rewritten.
//!
//! Refuses to know: snapshots. M §7.

use super::failing::{self, aof_errno, said_aof, word};
use super::headroom::size;
use super::{Check, Hit, Kind, Severity, Source};
use crate::guard::aof::{Ail, ail};
use crate::guard::evidence::Evidence;
use crate::guard::evidence::log::{Errno, LogClass};

pub const AOF_WRITE_ERROR: Check = Check {
    id: "aof-write-error",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Info, Source::Log],
    when: |e| {
        if !failing::aof(e) || ail(e) == Ail::Sync {
            return None;
        }
        match said_aof(e).map(|line| (line.class, &line.text)) {
            Some((LogClass::AofSync(_), _)) => None,
            Some((_, text)) => failing::cause(text),
            None => {
                let says = words(e);
                // Only a write meets these; an fsync meets EIO.
                let write =
                    matches!(aof_errno(e), Some(Errno::Nospc | Errno::Rofs | Errno::Dquot | Errno::Fbig));
                Hit::likely(says).map(|hit| Hit { sure: write, ..hit })
            }
        }
    },
    what: "The append-only file cannot be written.",
    why: "The server refuses writes until it can, and stop-writes-on-bgsave-error does not govern it.",
    cure: "Free or grow the disk under the append-only file; the server tries again by itself every second.",
    explain: "stop-writes-on-bgsave-error no does nothing here: it is about snapshots. As soon as the disk \
              has room the server writes what it held back and opens by itself, within a second. Switching \
              appendonly off opens writes at once, but a restart with appendonly yes in redis.conf then \
              loads the old file and ignores newer snapshots. appendfsync always would make the next error \
              end the server. The same message is given for a short write, whatever its reason: then it \
              says No space left on device.",
    source: "aof.c:flushAppendOnlyFile; server.c:writeCommandsDeniedByDiskError",
};

pub const AOF_FSYNC_STICKY: Check = Check {
    id: "aof-fsync-sticky",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Log, Source::Info],
    when: |e| {
        if !failing::aof(e) || failing::version(e).is_some_and(|version| version < (6, 2, 2)) {
            return None;
        }
        match said_aof(e).map(|line| (line.class, &line.text)) {
            Some((LogClass::AofSync(_), text)) => failing::cause(text),
            _ if e.look.aof.unwritten.is(0) => failing::cause(&format!("{}; no write waits", words(e))),
            Some(_) => None,
            None => matches!(aof_errno(e), Some(Errno::Io | Errno::Stale | Errno::Other) | None)
                .then(|| Hit::likely(words(e)))
                .flatten(),
        }
    },
    what: "One sync of the append-only file failed, and the server will not sync again by itself.",
    why: "A new sync is tried only after new writes, and writes are refused.",
    cure: "When the disk is good again have the append-only file rewritten (BGREWRITEAOF), so that a new \
           file is synced.",
    explain: "The state outlives its reason: after the disk has recovered the server waits for a write to \
              sync, and refuses all writes. It ends when any key expires, since that writes to the file. \
              From 7.2 on, on Valkey and on 6.2 a rewrite clears it; on 7.0 it does not, there appendonly \
              no and then yes does (run with --aof-repair switch). docs/aof.md has the table. After a failed fsync prefer a whole new file: what the kernel dropped \
              is not in the old one, whatever a later sync says.",
    source: "bio.c:bioProcessBackgroundJobs, aof.c:flushAppendOnlyFile; valkey-io/valkey#2375",
};

fn words(e: &Evidence) -> String {
    match &e.seen.refusal {
        Some(refusal) if e.seen.variant == Some(crate::posture::Variant::Aof) => refusal.clone(),
        _ => "aof_last_write_status is err".into(),
    }
}

pub const AOF_REWRITE_SETTINGS: Check = Check {
    id: "aof-rewrite-settings",
    kind: Kind::Advice,
    severity: Severity::Info,
    needs: &[Source::Config],
    when: |e| {
        let server = &e.server;
        if !server.appendonly.is(true) {
            return None;
        }
        let mut diff = Vec::new();
        if server.aof_rewrite_percentage.is_and(|percent| *percent == 0 || *percent > 400) {
            diff.push(format!("auto-aof-rewrite-percentage {} → 100", word(&server.aof_rewrite_percentage)));
        }
        let far = |min: &u64| *min < 1 << 20 || *min > 8 << 30;
        if let Some(min) = server.aof_rewrite_min_size.known().filter(|min| far(min)) {
            diff.push(format!("auto-aof-rewrite-min-size {} → 64mb", size(*min)));
        }
        if server.aof_load_truncated.is(false) {
            diff.push("aof-load-truncated no → yes".into());
        }
        if server.appendfsync.is("always".to_string()) {
            diff.push("appendfsync always: the first error of the disk ends the server".into());
        }
        let failed = e.look.aof.rewrite_ok.is(false).then(|| {
            let times = e.look.aof.failures.get().map(|n| format!(", {n} in a row")).unwrap_or_default();
            format!("the last rewrite failed{times}")
        });
        let severity = if failed.is_some() { Severity::Warn } else { Severity::Info };
        diff.extend(failed);
        match diff.is_empty() {
            true => None,
            false => Hit::sure(diff.join("; ")).map(|hit| hit.severity(severity)),
        }
    },
    what: "The append-only file is rewritten too seldom, too often, or not loaded after a crash.",
    why: "It grows until the disk is full, or forks all the time, or the server does not start after a \
          power cut.",
    cure: "Set auto-aof-rewrite-percentage 100, auto-aof-rewrite-min-size 64mb and aof-load-truncated yes.",
    explain: "A percentage of 0 switches automatic rewrites off, and the file grows with every write for \
              ever. A tiny minimal size makes a small server rewrite all the time. aof-load-truncated yes \
              lets the server start when only the last command is cut off, which is what a power cut \
              leaves; with no it waits for redis-check-aof. A failed rewrite does not refuse writes, but \
              the file goes on growing. With appendfsync always no write is ever refused for the disk's sake: \
              the server ends itself at the first error, since it must not acknowledge what is not on disk.",
    source: "server.c:serverCron, aof.c:loadSingleAppendOnlyFile; redis.conf",
};
