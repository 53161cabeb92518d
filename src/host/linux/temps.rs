//! Temporary files of saves that nobody will finish: which of them are provably dead.
//!
//! Refuses to know: how they are removed. Invariant: what is not proved dead is alive. Dead is a plain file with a
//! name that only a save gives, of the server's user or root, without another name, untouched for a minute, whose
//! pid no process in the server's namespace has and that no process of the whole machine has open.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};

use crate::guard::evidence::host::DeadTemp;
use crate::guard::evidence::{Fact, Reason};

use super::process::sees_all_processes;
use super::read::{Tree, reason};
use super::table::{Entry, Table};

/// A save that writes touches its file all the time.
const AGE_MIN: Duration = Duration::from_secs(60);
/// A directory with more files than this is no data directory.
const FILES_MAX: usize = 100_000;
/// Other machines, or programs, may have the file open.
pub const FOREIGN: &[&str] =
    &["nfs", "cifs", "smb", "ceph", "glusterfs", "lustre", "9p", "fuse", "afs", "gfs", "ocfs"];

/// The pid in the name of a save's temporary file (`rdb.c:rdbSaveBackground`, `aof.c:rewriteAppendOnlyFile`).
pub fn pid_in_name(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("temp-")?;
    let digits = match rest.strip_suffix(".rdb") {
        Some(digits) => digits,
        None => {
            let rest = rest.strip_suffix(".aof")?.strip_prefix("rewriteaof-")?;
            rest.strip_prefix("bg-").unwrap_or(rest)
        }
    };
    let plain = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// All dead ones in a directory of the server; `server_uid` is its effective user.
pub fn dead(
    tree: &Tree,
    dir: &OwnedFd,
    filesystem: &str,
    server: &Entry,
    server_uid: u32,
    table: &Table,
) -> Fact<Vec<DeadTemp>> {
    let candidates = match candidates(dir, server_uid) {
        Ok(candidates) if candidates.is_empty() => return Fact::Known(Vec::new()),
        Ok(candidates) => candidates,
        Err(reason) => return Fact::Unknown(reason),
    };
    if is_foreign(filesystem) {
        return Fact::Unknown(Reason::Elsewhere(format!(
            "another machine may have them open ({filesystem})"
        )));
    }
    if !sees_all_processes(tree) {
        return Fact::Unknown(Reason::Elsewhere("our own container hides who may have them open".into()));
    }
    if !table.is_whole() {
        return Fact::Unknown(Reason::Denied(
            "whether temporary files are dead: not every process of this host can be seen".into(),
        ));
    }
    let open = match open_names(tree, table) {
        Ok(open) => open,
        Err(reason) => return Fact::Unknown(reason),
    };
    let living = living_pids(tree, server, table);
    let is_dead = |temp: &DeadTemp| {
        let pid = pid_in_name(&temp.name);
        pid.is_some_and(|pid| !living.contains(&pid)) && !open.contains(temp.name.as_bytes())
    };
    Fact::Known(candidates.into_iter().filter(is_dead).collect())
}

/// Is there another machine, or a program, behind this kind of filesystem?
pub fn is_foreign(filesystem: &str) -> bool {
    FOREIGN.iter().any(|kind| filesystem.starts_with(kind))
}

/// By what the file itself shows.
pub fn may_be_dead(stat: &Stat, server_uid: u32, now: SystemTime) -> bool {
    let plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1;
    let ours = stat.st_uid == server_uid || stat.st_uid == 0;
    // A time in the future is no age.
    let touched =
        u64::try_from(stat.st_mtime).ok().map(|secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs));
    let age = touched.and_then(|touched| now.duration_since(touched).ok());
    plain && ours && age.is_some_and(|age| age > AGE_MIN)
}

fn candidates(dir: &OwnedFd, server_uid: u32) -> Result<Vec<DeadTemp>, Reason> {
    let what = "the data directory";
    let entries = Dir::read_from(dir).map_err(|error| reason(&error.into(), what))?;
    let mut found = Vec::new();
    for (seen, entry) in entries.enumerate() {
        if seen == FILES_MAX {
            return Err(Reason::Garbled(format!("more than {FILES_MAX} files in {what}")));
        }
        let entry = entry.map_err(|error| reason(&error.into(), what))?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if pid_in_name(name).is_none() {
            continue;
        }
        let Ok(stat) = statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if may_be_dead(&stat, server_uid, SystemTime::now()) {
            found.push(DeadTemp { name: name.into(), size: stat.st_size.max(0) as u64 });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The last names of all files that any process has open. Names and not inodes: a `stat` of a stranger's
/// descriptor may hang on a dead NFS, and a name too many only keeps a file.
fn open_names(tree: &Tree, table: &Table) -> Result<HashSet<Vec<u8>>, Reason> {
    let mut names = HashSet::new();
    for entry in &table.entries {
        let what = format!("descriptors of process {}", entry.pid);
        let fds = match std::fs::read_dir(tree.path(format!("/proc/{}/fd", entry.pid))) {
            Ok(fds) => fds,
            Err(error) => match reason(&error, &what) {
                // It has ended.
                Reason::NotTold => continue,
                reason => return Err(reason),
            },
        };
        for fd in fds {
            let target = match fd.and_then(|fd| std::fs::read_link(fd.path())) {
                Ok(target) => target,
                Err(error) => match reason(&error, &what) {
                    Reason::NotTold => continue,
                    reason => return Err(reason),
                },
            };
            let name = target.as_os_str().as_bytes().rsplit(|&byte| byte == b'/').next().unwrap_or_default();
            if name.starts_with(b"temp-") {
                names.insert(name.strip_suffix(b" (deleted)").unwrap_or(name).to_vec());
            }
        }
    }
    Ok(names)
}

/// Every pid that is taken in the server's own namespace.
fn living_pids(tree: &Tree, server: &Entry, table: &Table) -> HashSet<u32> {
    let level = server.ns_pids.len() - 1;
    let namespace = |pid: u32| tree.link(format!("/proc/{pid}/ns/pid"));
    let theirs = namespace(server.pid);
    let mut living = HashSet::from([server.own_pid()]);
    for entry in &table.entries {
        let Some(&pid) = entry.ns_pids.get(level) else { continue };
        // At the same depth another namespace may count the same numbers.
        let other = match (entry.ns_pids.len() == level + 1, &theirs, namespace(entry.pid)) {
            (true, Fact::Known(theirs), Fact::Known(its)) => *theirs != its,
            _ => false,
        };
        if !other {
            living.insert(pid);
        }
    }
    living
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::fixture::{Fixture, PID, Spoil};
    use super::*;
    use crate::guard::remedy::Change;
    use crate::host::{Asked, Host};

    #[test]
    fn only_names_that_a_save_gives_are_candidates() {
        for (name, pid) in [
            ("temp-123.rdb", Some(123)),
            ("temp-rewriteaof-123.aof", Some(123)),
            ("temp-rewriteaof-bg-123.aof", Some(123)),
            ("temp-4294967295.rdb", Some(u32::MAX)),
            ("temp-4294967296.rdb", None),
            ("temp-0123.rdb", None),
            ("temp-0.rdb", None),
            ("temp-.rdb", None),
            ("temp-+1.rdb", None),
            ("temp--1.rdb", None),
            ("temp-1.rdb.bak", None),
            ("temp-1700000000.123.rdb", None),
            ("temp-bg-123.aof", None),
            ("temp-123.aof", None),
            ("temp-rewriteaof-123.rdb", None),
            ("dump.rdb", None),
            ("dump-temp-1.rdb", None),
            ("../temp-1.rdb", None),
            ("temp-1/2.rdb", None),
            ("temp-rewriteaof-bg-bg-1.aof", None),
        ] {
            assert_eq!(pid_in_name(name), pid, "{name}");
        }
    }

    #[test]
    fn only_what_is_proved_dead_is_dead() {
        const OLD: &str = "/rootfs/var/lib/redis/temp-99.rdb";
        fn age(at: &Fixture, secs: i64) {
            let now = std::time::SystemTime::now();
            let then = match secs {
                secs if secs < 0 => now + std::time::Duration::from_secs(secs.unsigned_abs()),
                secs => now - std::time::Duration::from_secs(secs.unsigned_abs()),
            };
            std::fs::File::options().write(true).open(at.path(OLD)).unwrap().set_modified(then).unwrap();
        }
        let cases: &[(&str, Spoil, Option<usize>)] = &[
            ("dead", |_| {}, Some(1)),
            ("fresh", |at| age(at, 30), Some(0)),
            ("from the future", |at| age(at, -3600), Some(0)),
            ("of a living child", |at| at.process(99, "redis-rdb-bgsav", PID, &[99], 990.0), Some(0)),
            ("of a living stranger", |at| at.process(99, "vi", 1, &[99], 990.0), Some(0)),
            ("open by somebody", |at| at.link("/proc/1/fd/7", &at.path(OLD)), Some(0)),
            (
                "open and deleted by somebody",
                |at| at.link("/proc/1/fd/7", Path::new("/else/temp-99.rdb (deleted)")),
                Some(0),
            ),
            (
                "with a second name",
                |at| std::fs::hard_link(at.path(OLD), at.path("/backup")).unwrap(),
                Some(0),
            ),
            ("a link", |at| at.link(OLD, Path::new("dump.rdb")), Some(0)),
            ("from within a container", |at| at.link("/proc/self/ns/pid", Path::new("pid:[7]")), None),
            ("on another machine's disk", |at| at.mounts("22 1 8:1 / / rw - nfs4 a:/b rw\n"), None),
            ("the first process is hidden", |at| at.remove("/proc/1/stat"), None),
            ("a process that cannot be read", |at| at.write("/proc/1/status", "garbage"), None),
        ];
        for (name, spoil, count) in cases {
            let at = Fixture::new();
            at.write(OLD, "half a dump");
            age(&at, 3600);
            spoil(&at);
            let dead = at.facts().place.dead_temps;
            assert_eq!(dead.known().map(Vec::len), *count, "{name}: {dead:?}");
            let host = at.host();
            host.facts(&Fixture::asked());
            let change = Change::RemoveDeadTemps {
                pid: PID,
                dir: "/var/lib/redis".into(),
                names: vec!["temp-99.rdb".into()],
            };
            assert_eq!(host.apply(&change).is_ok(), *count == Some(1), "{name}");
            assert_eq!(at.path(OLD).symlink_metadata().is_err(), *count == Some(1), "{name}");
            assert!(at.path("/rootfs/var/lib/redis/dump.rdb").exists(), "{name}");
        }
    }

    #[test]
    fn a_living_number_counts_in_the_servers_own_namespace() {
        let at = Fixture::new();
        at.process(PID, "redis-server", 1, &[PID, 1], 900.0);
        at.process(300, "redis-rdb-bgsav", PID, &[300, 99], 990.0);
        for pid in ["40", "300"] {
            at.link(&format!("/proc/{pid}/ns/pid"), Path::new("pid:[7]"));
        }
        // The same number, in our namespace and in a neighbour's.
        at.process(98, "kworker", 0, &[98], 0.0);
        at.process(301, "sh", 1, &[301, 98], 990.0);
        at.link("/proc/301/ns/pid", Path::new("pid:[8]"));
        for name in ["temp-99.rdb", "temp-98.rdb", "temp-1.rdb"] {
            at.write(&format!("/rootfs/var/lib/redis/{name}"), "half");
            let old = std::time::SystemTime::now() - std::time::Duration::from_secs(600);
            let file = at.path(&format!("/rootfs/var/lib/redis/{name}"));
            std::fs::File::options().write(true).open(file).unwrap().set_modified(old).unwrap();
        }
        let asked = Asked { process_id: Some(1), ..Fixture::asked() };
        let dead = at.host().facts(&asked).place.dead_temps;
        let names: Vec<_> = dead.known().unwrap().iter().map(|temp| temp.name.as_str()).collect();
        assert_eq!(names, ["temp-98.rdb"]);
    }
}
