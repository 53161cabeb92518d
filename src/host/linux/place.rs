//! The data directory, seen through the process's own root and mounts.
//!
//! Refuses to know: what Redis calls it; the process's working directory is what it writes to. Invariant: only a
//! process that still is the one that was found is looked at, and looking changes nothing.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, IFlags, OFlags, StatVfsMountFlags, fgetxattr_query, fstat, fstatvfs, ioctl_getflags,
    openat, statat,
};
use rustix::io::Errno;

use crate::guard::evidence::host::{Dump, Place, Process};
use crate::guard::evidence::{Fact, Reason};
use crate::host::Asked;

use super::access::{Where, Who, may_create};
use super::held::{Held, WorkDir};
use super::mounts::{Mount, mounts, over};
use super::read::{Tree, and_then, reason, unknown};
use super::table::{Entry, Table};
use super::temps;

/// Options of a mount under which quotas bind.
const QUOTA_OPTIONS: &[&str] =
    &["quota", "usrquota", "grpquota", "prjquota", "uquota", "gquota", "pquota", "usrjquota=", "grpjquota="];

/// See the module's page.
pub fn place(
    tree: &Tree,
    held: &Held,
    asked: &Asked,
    entry: &Entry,
    process: &Process,
    table: &Table,
) -> Place {
    let work_dir = match held.work_dir() {
        Ok(work_dir) => work_dir,
        Err(error) => return out_of_sight(&reason(&error, "the server's directory")),
    };
    let mut place = match &work_dir.fd {
        Ok(_) => Place::default(),
        Err(error) => out_of_sight(&reason(error, "the server's directory")),
    };
    place.dir = Fact::Known(work_dir.path.clone());
    place.deleted = Fact::Known(work_dir.deleted);
    mount(tree, entry.pid, &work_dir.path, &mut place);
    if let Ok(fd) = &work_dir.fd {
        opened(tree, &work_dir, fd, asked, (entry, process, table), &mut place);
    }
    place
}

/// Nothing of it can be seen, for one reason.
fn out_of_sight(why: &Reason) -> Place {
    fn unseen<T>(why: &Reason) -> Fact<T> {
        Fact::Unknown(why.clone())
    }
    Place {
        dir: unseen(why),
        deleted: unseen(why),
        owner: unseen(why),
        mode: unseen(why),
        immutable: unseen(why),
        writable: unseen(why),
        read_only: unseen(why),
        host_read_only: unseen(why),
        filesystem: unseen(why),
        free: unseen(why),
        size: unseen(why),
        free_inodes: unseen(why),
        dump: unseen(why),
        dead_temps: unseen(why),
        quota: unseen(why),
    }
}

fn mount(tree: &Tree, pid: u32, path: &Path, place: &mut Place) {
    let theirs = mounts(tree, &pid.to_string());
    let theirs = and_then(theirs, |mounts| over(&mounts, path).cloned().into());
    place.filesystem = theirs.clone().map(|mount| mount.filesystem);
    place.quota = theirs.clone().map(|mount| {
        let options = mount.options.split(',').chain(mount.super_options.split(','));
        options.into_iter().any(|option| {
            QUOTA_OPTIONS.iter().any(|word| match word.ends_with('=') {
                true => option.starts_with(word) && option.len() > word.len(),
                false => option == *word,
            })
        })
    });
    // The machine's first process sees what the machine sees; we may sit in a sandbox ourselves.
    let host = match mounts(tree, "1") {
        Fact::Known(mounts) if !mounts.is_empty() => Fact::Known(mounts),
        _ => mounts(tree, "self"),
    };
    place.host_read_only = and_then(theirs, |theirs| host.map(|host| is_read_only(&theirs, &host)));
}

/// Is the filesystem read-only for the whole host, and not only where this process sees it?
fn is_read_only(theirs: &Mount, host: &[Mount]) -> bool {
    let mut same = host.iter().filter(|mount| mount.device == theirs.device).peekable();
    theirs.has_super("ro") || (same.peek().is_some() && same.all(Mount::is_read_only))
}

fn opened(
    tree: &Tree,
    work_dir: &WorkDir,
    fd: &OwnedFd,
    asked: &Asked,
    (entry, process, table): (&Entry, &Process, &Table),
    place: &mut Place,
) {
    match fstat(fd) {
        Ok(stat) => {
            place.owner = Fact::Known((stat.st_uid, stat.st_gid));
            place.mode = Fact::Known(stat.st_mode & 0o7777);
        }
        Err(error) => place.owner = unknown(&error.into(), "the server's directory"),
    }
    match fstatvfs(fd) {
        // A filesystem that counts nothing says zero of all, which is not full.
        Ok(vfs) if vfs.f_blocks == 0 || vfs.f_frsize == 0 => {
            place.read_only = Fact::Known(vfs.f_flag.contains(StatVfsMountFlags::RDONLY));
        }
        Ok(vfs) => {
            let bytes = |blocks: u64| Fact::from(blocks.checked_mul(vfs.f_frsize));
            place.free = bytes(vfs.f_bavail);
            place.size = bytes(vfs.f_blocks);
            // btrfs and the like count no files.
            place.free_inodes = (vfs.f_files > 0).then_some(vfs.f_favail).into();
            place.read_only = Fact::Known(vfs.f_flag.contains(StatVfsMountFlags::RDONLY));
        }
        Err(error) => place.free = unknown(&error.into(), "the filesystem's size"),
    }
    place.immutable = match work_dir.readable {
        true => immutable(fd),
        false => Fact::Unknown(Reason::Denied("the directory may not be read".into())),
    };
    place.writable = writable(tree, entry.pid, fd, work_dir.readable, process, place);
    place.dump = match &asked.dbfilename {
        Some(name) => dump(fd, name),
        None => Fact::UNKNOWN,
    };
    place.dead_temps = match (&place.filesystem, process.uid.get(), work_dir.readable) {
        (Fact::Known(filesystem), Some(uid), true) => temps::dead(tree, fd, filesystem, entry, uid, table),
        (Fact::Unknown(reason), _, _) => Fact::Unknown(reason.clone()),
        (_, None, _) => Fact::UNKNOWN,
        (_, _, false) => Fact::Unknown(Reason::Denied("the directory may not be read".into())),
    };
}

fn immutable(fd: &OwnedFd) -> Fact<bool> {
    match ioctl_getflags(fd) {
        Ok(flags) => Fact::Known(flags.contains(IFlags::IMMUTABLE)),
        // The filesystem has no flags.
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Fact::UNKNOWN,
        Err(error) => unknown(&error.into(), "the file's flags"),
    }
}

fn writable(
    tree: &Tree,
    pid: u32,
    fd: &OwnedFd,
    readable: bool,
    process: &Process,
    place: &Place,
) -> Fact<bool> {
    let (Some(owner), Some(mode), Some(filesystem)) =
        (place.owner.get(), place.mode.get(), place.filesystem.known())
    else {
        return Fact::UNKNOWN;
    };
    let (Some(uid), Some(gid), Some(groups), Some(caps)) =
        (process.uid.get(), process.gid.get(), process.groups.known(), process.caps.get())
    else {
        return Fact::UNKNOWN;
    };
    let maps = |file: &str, id: u32| {
        tree.text(format!("/proc/{pid}/{file}")).known().is_some_and(|text| is_mapped(text, id))
    };
    let at = Where {
        owner,
        mode,
        mapped: maps("uid_map", owner.0) && maps("gid_map", owner.1),
        has_list: match readable {
            true => fgetxattr_query(fd, "system.posix_acl_access").is_ok_and(|bytes| bytes > 0),
            // Then nothing was seen of it.
            false => true,
        },
        foreign: temps::is_foreign(filesystem),
    };
    match may_create(&Who { uid, gid, groups: groups.clone(), caps }, at) {
        Some(may) => Fact::Known(may),
        None => Fact::Unknown(Reason::Elsewhere("an access control list or a file server decides".into())),
    }
}

/// Lines of `inside outside count`; outside is as we count.
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().skip(1).map(|word| word.parse::<u64>());
        match (numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(Ok(count))) => {
                u64::from(id).checked_sub(first).is_some_and(|offset| offset < count)
            }
            _ => false,
        }
    })
}

fn dump(dir: &OwnedFd, name: &str) -> Fact<Dump> {
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    if !plain {
        return crate::guard::evidence::fact::garbled(name);
    }
    let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Fact::Known(Dump::Missing),
        Err(error) => return unknown(&error.into(), "the dump"),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let immutable = match openat(dir, name, flags, rustix::fs::Mode::empty()) {
                Ok(fd) => immutable(&fd),
                Err(error) => unknown(&error.into(), "the dump"),
            };
            Fact::Known(Dump::File { size: stat.st_size.max(0) as u64, uid: stat.st_uid, immutable })
        }
        // rename replaces the link itself; where it leads is seen from another root than ours.
        FileType::Symlink => Fact::Unknown(Reason::Garbled("the dump is a symbolic link".into())),
        _ => Fact::Known(Dump::NotAFile),
    }
}

/// Where the server's own relative paths begin; unknown when its directory is gone.
pub fn absolute(held: &Held, path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    if path.is_absolute() {
        return Some(path.into());
    }
    let work_dir = held.work_dir().ok().filter(|work_dir| !work_dir.deleted)?;
    (!path.as_os_str().as_bytes().is_empty()).then(|| work_dir.path.join(path))
}
