//! No room for the dump: blocks, inodes, quota, the largest file allowed, open files, and a disk that fails.
//!
//! Refuses to know: memory, rights.

use super::failing::{self, Failed, by_errno, cause, in_child, in_write, said};
use super::headroom::{headroom, missing, next_dump, size};
use super::trend::lead;
use super::{Check, Hit, Kind, Severity, Source};
use crate::guard::evidence::Evidence;
use crate::guard::evidence::host::{Dump, NO_LIMIT};
use crate::guard::evidence::log::{Errno, KernelClass, LogClass};

pub const DISK_FULL: Check = Check {
    id: "disk-full",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Log, Source::Place],
    when: disk_full,
    what: "The disk under the data directory has no room for a new dump.",
    why: "A save writes the new dump beside the old one, so it fails near its end and every try costs a \
          whole write.",
    cure: "Make room or grow the volume until a whole dump more fits; never delete the old dump, it is the \
           only good one.",
    explain: "People look at df after the failure and see free space. That is a trap: the failed child \
              deletes its temporary file, so the room it used up is free again the moment it fails. What \
              counts is whether old and new dump fit together: free bytes must exceed the size of the next \
              dump, about the last one and its growth. Reserved blocks do not count, the server is not \
              root. Usual fillers are temporary dumps of saves whose server died with them, a growing AOF, \
              logs, container images and backups on the same disk. Redis itself tries again about every \
              six seconds as long as a save point holds, and heals by itself once there is room.",
    source: "rdb.c:rdbSave, rdb.c:rdbRemoveTempFile; statvfs(3); redis/redis#3065",
};

fn disk_full(e: &Evidence) -> Option<Hit> {
    let free = e.host.place.free.get();
    let inodes_gone = e.host.place.free_inodes.is(0);
    // ENOSPC at open is for want of an inode, unless there are some and no blocks.
    let opening = said(e).is_some_and(|line| matches!(line.class, LogClass::Open(_)));
    let blocks_may_be_gone =
        free.is_none_or(|free| free < 64 << 10) || e.host.place.free_inodes.is_and(|n| *n > 0);
    if let Some(hit) = by_errno(e, &[Errno::Nospc]) {
        if inodes_gone || (opening && !blocks_may_be_gone) {
            return None;
        }
        let now = free.map(|free| format!("; {} free now, the failed save's own part included", size(free)));
        return Some(Hit {
            sure: !opening || free.is_some(),
            says: hit.says + &now.unwrap_or_default(),
            ..hit
        });
    }
    if failing::failed(e) != Failed::Somewhere {
        return None;
    }
    let left = headroom(e).disk.filter(|left| *left < 0)?;
    let smaller = match e.host.place.dump.known()? {
        Dump::File { size, .. } => free? < *size,
        Dump::Missing | Dump::NotAFile => false,
    };
    let says = format!("{} free, {} missing for the next dump", size(free?), missing(left));
    Some(Hit { sure: smaller, kind: Some(Kind::Cause), severity: None, says })
}

pub const DISK_HEADROOM: Check = Check {
    id: "disk-headroom",
    kind: Kind::Danger,
    severity: Severity::Warn,
    needs: &[Source::Place],
    when: |e| {
        if disk_full(e).is_some() {
            return None;
        }
        let (free, need) = (e.host.place.free.get()?, next_dump(e)?);
        let Some(left) = headroom(e).disk.filter(|left| *left < 0) else {
            return Hit::likely(format!(
                "{} free, the next dump needs about {}; at the present pace that ends in {}",
                size(free),
                size(need),
                lead(e.ahead.disk?)
            ));
        };
        Hit::likely(format!(
            "{} free, the next dump needs about {}: {} missing",
            size(free),
            size(need),
            missing(left)
        ))
    },
    what: "The disk has less room than the next dump will need, or soon will.",
    why: "The save will fail at its end, and from then on the server refuses writes.",
    cure: "Grow the volume or free space until a whole dump fits beside the old one.",
    explain: "A snapshot needs room for two: the old dump stays until the new one is complete. So a disk \
              that is half full of one dump is a full disk. The need shown here is the last dump and a \
              tenth for growth; where no dump can be seen it is half of the data set. An AOF rewrite needs \
              the same once more while it runs.",
    source: "rdb.c:rdbSave; statvfs(3)",
};

pub const INODES_FULL: Check = Check {
    id: "inodes-full",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Place, Source::Log],
    when: |e| {
        if e.host.place.free_inodes.is(0) {
            let says = "no file can be created: 0 inodes free".to_string();
            return match by_errno(e, &[Errno::Nospc]) {
                Some(hit) => cause(&format!("{says}; {}", hit.says)),
                None => in_child(e, true, says),
            };
        }
        let line = said(e).filter(|line| line.class == LogClass::Open(Errno::Nospc))?;
        let blocks = e.host.place.free.get().is_none_or(|free| free >= 64 << 10);
        let counted = e.host.place.free_inodes.known().is_some();
        (blocks && !counted).then(|| Hit::likely(line.text.clone())).flatten()
    },
    what: "The filesystem has no inode left for the temporary dump.",
    why: "A save begins with a new file, so it fails at once, however many bytes are free.",
    cure: "Remove the many small files that use the inodes up; df -i shows them.",
    explain: "\"No space left on device\" with gigabytes free means inodes. df shows blocks, df -i shows \
              inodes. The dump itself needs one inode only, so something else on the same filesystem made \
              too many files: mail queues, sessions, caches, layers of images.",
    source: "rdb.c:rdbSave (fopen); statvfs(3) f_favail",
};

pub const QUOTA: Check = Check {
    id: "quota",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Log],
    when: |e| {
        if let Some(hit) = by_errno(e, &[Errno::Dquot]) {
            return Some(hit);
        }
        // A project quota of XFS says ENOSPC (xfs_trans_dquot.c).
        let line = said(e).filter(|line| line.class.errno() == Some(Errno::Nospc))?;
        let (free, need) = (e.host.place.free.get()?, next_dump(e)?);
        match e.host.place.quota.is(true) && free / 2 > need {
            true => Hit::likely(format!("{}; {} free, and quotas are in force", line.text, size(free))),
            false => None,
        }
    },
    what: "The server's user, group or project has used up its disk quota.",
    why: "Writes fail with free space in sight, and only the server's own account is stopped.",
    cure: "Raise the quota of the server's user, group or project.",
    explain: "df shows the filesystem, not the quota, so all looks fine from outside. repquota (ext4) or \
              xfs_quota (XFS, also by project, as container runtimes use it) shows what the server's \
              account may use. As with a full disk the quota must hold two dumps at once. A project quota \
              of XFS says No space left on device instead.",
    source: "rdb.c:rdbSave; quotactl(2) EDQUOT",
};

pub const FILE_SIZE_LIMIT: Check = Check {
    id: "file-size-limit",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Log, Source::Process],
    when: |e| {
        let told =
            said(e).filter(|line| line.class == LogClass::Signal(25)).and_then(|line| cause(&line.text));
        if let Some(hit) = told.or_else(|| by_errno(e, &[Errno::Fbig])) {
            return Some(hit);
        }
        let limit = e.host.process.fsize.get()?.soft;
        let need = next_dump(e)?;
        let says = || format!("RLIMIT_FSIZE {}, the next dump needs about {}", size(limit), size(need));
        if limit == NO_LIMIT || limit >= need {
            return None;
        }
        in_write(e, false, says())
    },
    what: "The server may not write a file as large as the dump.",
    why: "The kernel ends the saving child with signal 25 when its file reaches the limit.",
    cure: "Raise the file size limit of the server (ulimit -f, LimitFSIZE=) to unlimited.",
    explain: "Signal 25 is SIGXFSZ: the file grew beyond RLIMIT_FSIZE. The limit comes from the shell, \
              from limits.conf or from the unit that started the server, and is the same for every file of \
              it, the AOF included. A raised limit holds for the running server too, when prlimit sets it.",
    source: "setrlimit(2) RLIMIT_FSIZE; rdb.c:backgroundSaveDoneHandlerDisk",
};

pub const FD_LIMIT: Check = Check {
    id: "fd-limit",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Log, Source::Process],
    when: |e| {
        if let Some(hit) = by_errno(e, &[Errno::Mfile]) {
            return Some(hit);
        }
        let (limit, open) = (e.host.process.nofile.get()?.soft, e.host.process.fds.get()?);
        match limit != NO_LIMIT && open.saturating_add(8) > limit {
            true => in_child(e, false, format!("{open} descriptors open of {limit}")),
            false => None,
        }
    },
    what: "The server has no file descriptor left to open the dump with.",
    why: "The child inherits all descriptors of the server and needs a few more.",
    cure: "Raise the limit of open files of the server, or close idle clients.",
    explain: "Redis asks for maxclients and 32 more at its start and lowers maxclients when it is given \
              less; modules and replicas use some as well. The limit can be raised for the running server \
              with prlimit. \"Too many open files in system\" is the other limit, fs.file-max, of the \
              whole host.",
    source: "server.c:adjustOpenFilesLimit; rdb.c:rdbSave (fopen); getrlimit(2)",
};

pub const IO_ERROR: Check = Check {
    id: "io-error",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Log, Source::KernelLog],
    when: |e| {
        if let Some(hit) = by_errno(e, &[Errno::Io, Errno::Stale]) {
            return Some(hit);
        }
        let line = e.host.kernel.known()?.iter().rev().find(|line| line.class == KernelClass::IoError)?;
        in_write(e, false, line.text.clone())
    },
    what: "The disk or the network filesystem under the data directory fails.",
    why: "What was written may not be there, and an earlier success proves nothing of it.",
    cure: "Take a copy of the data elsewhere now (redis-cli --rdb), then replace the disk or mount the \
           volume again.",
    explain: "After a failed fsync the kernel may have dropped the very pages that could not be written, \
              so a later success proves only what came later; trust a new whole file, not the old one. \
              ESTALE means that the NFS server forgot the directory: it must be mounted again and the \
              server told its dir again. A pull of a snapshot over the replication protocol needs no local \
              disk and works while writes are refused.",
    source: "fsync(2); rdb.c:rdbSave; OT-CONTAINER-KIT/redis-operator#1478",
};
