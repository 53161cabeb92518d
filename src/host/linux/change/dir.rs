//! Changes to the data directory: owner, mode, itself again, dead temporary files.
//!
//! Refuses to know: what is in it, but for dead temporary files. Invariants: everything goes through a descriptor
//! of the directory that the process itself holds, or of a parent inside its root, so that no name and no link is
//! followed twice; the system's directories are never touched.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown, fstat, mkdirat, openat, statat,
    unlinkat,
};
use rustix::io::Errno;

use crate::guard::evidence::{Fact, Reason};
use crate::guard::remedy::Change;

use super::super::held::{Held, WorkDir};
use super::super::mounts::{mounts, over};
use super::super::read::{Tree, and_then};
use super::super::{Identity, table, temps};
use super::{Done, Stop, fence, held};

/// Sets its owner and group.
pub fn chown(
    tree: &Tree,
    seen: Option<Identity>,
    pid: u32,
    dir: &Path,
    (uid, gid): (u32, u32),
) -> Result<Done, Stop> {
    let owner = owner(uid, gid)?;
    let (_, fd) = data_dir(tree, seen, pid, dir)?;
    let before = fstat(&fd)?;
    fchown(&fd, Some(owner.0), Some(owner.1))?;
    let after = fstat(&fd)?;
    if (after.st_uid, after.st_gid) != (uid, gid) {
        let old = (Uid::from_raw(before.st_uid), Gid::from_raw(before.st_gid));
        let _ = fchown(&fd, Some(old.0), Some(old.1));
        return Err(Stop::Refused(format!("reads back as {}", owned(&after))));
    }
    let undo = Change::Chown { pid, dir: dir.into(), uid: before.st_uid, gid: before.st_gid };
    Ok(Done { before: owned(&before), after: owned(&after), undo: Some(undo) })
}

/// Sets its permission bits.
pub fn chmod(tree: &Tree, seen: Option<Identity>, pid: u32, dir: &Path, mode: u32) -> Result<Done, Stop> {
    let bits = bits(mode)?;
    let (_, fd) = data_dir(tree, seen, pid, dir)?;
    let before = fstat(&fd)?.st_mode & 0o7777;
    fchmod(&fd, bits)?;
    let after = fstat(&fd)?.st_mode & 0o7777;
    if after != mode {
        let _ = fchmod(&fd, Mode::from_raw_mode(before));
        return Err(Stop::Refused(format!("reads back as {after:04o}")));
    }
    let undo = Change::Chmod { pid, dir: dir.into(), mode: before };
    Ok(Done { before: format!("{before:04o}"), after: format!("{after:04o}"), undo: Some(undo) })
}

/// Makes it again where it was deleted. Nothing takes that back: an empty directory hurts nobody.
pub fn make(
    tree: &Tree,
    seen: Option<Identity>,
    pid: u32,
    dir: &Path,
    (uid, gid): (u32, u32),
    mode: u32,
) -> Result<Done, Stop> {
    let ((owner, group), bits) = (owner(uid, gid)?, bits(mode)?);
    refuse_system(dir)?;
    let held = held(tree, seen, pid)?;
    let work_dir = work_dir(&held, dir)?;
    if !work_dir.deleted {
        return Err(Stop::Moved(format!("{} is there", dir.display())));
    }
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(Stop::Refused("not a path with a parent".into()));
    };
    let parent = held.open_straight(parent, OFlags::PATH | OFlags::DIRECTORY)?;
    match mkdirat(&parent, name, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let there = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_it = FileType::from_raw_mode(there.st_mode) == FileType::Directory
                && (there.st_uid, there.st_gid) == (uid, gid);
            if is_it {
                let told = format!("exists already, {}", owned(&there));
                return Ok(Done { before: told.clone(), after: told, undo: None });
            }
            return Err(Stop::Refused(format!("something is there already, {}", owned(&there))));
        }
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(&parent, name, flags, Mode::empty())?;
    let made = fstat(&fd)?;
    // Where others may rename, what stands there now need not be what we made.
    let ours = made.st_uid == rustix::process::geteuid().as_raw() && made.st_mode & 0o077 == 0;
    if !ours || !is_empty(&fd)? {
        return Err(Stop::Moved(format!("{} was replaced", dir.display())));
    }
    let fill = || -> Result<Stat, Stop> {
        fchown(&fd, Some(owner), Some(group))?;
        fchmod(&fd, bits)?;
        Ok(fstat(&fd)?)
    };
    match fill() {
        Ok(after) => {
            let after = format!("{}, mode {:04o}", owned(&after), after.st_mode & 0o7777);
            Ok(Done { before: "deleted".into(), after, undo: None })
        }
        Err(stop) => {
            // The one we made, and only while it is empty.
            let _ = unlinkat(&parent, name, AtFlags::REMOVEDIR);
            Err(stop)
        }
    }
}

/// Removes those of these temporary files that are dead at this moment.
pub fn remove(
    tree: &Tree,
    seen: Option<Identity>,
    pid: u32,
    dir: &Path,
    names: &[String],
) -> Result<Done, Stop> {
    let held = held(tree, seen, pid)?;
    let WorkDir { path, fd, .. } = work_dir(&held, dir)?;
    let fd = fd?;
    let (table, server) = match (table::table(tree), table::entry(tree, pid)) {
        (Fact::Known(table), Fact::Known(server)) => (table, server),
        (Fact::Unknown(reason), _) | (_, Fact::Unknown(reason)) => return Err(unknown(reason)),
    };
    if held.start()? != server.start {
        return Err(Stop::Moved(format!("process {pid} ended meanwhile")));
    }
    let uid = effective_uid(tree, pid)?;
    let mounts = mounts(tree, &pid.to_string());
    let filesystem =
        and_then(mounts, |mounts| over(&mounts, &path).map(|mount| mount.filesystem.clone()).into());
    let filesystem = match filesystem {
        Fact::Known(filesystem) => filesystem,
        Fact::Unknown(reason) => return Err(unknown(reason)),
    };
    let dead = match temps::dead(tree, &fd, &filesystem, &server, uid, &table) {
        Fact::Known(dead) => dead,
        Fact::Unknown(reason) => return Err(unknown(reason)),
    };
    let doomed: Vec<_> = dead.into_iter().filter(|temp| names.contains(&temp.name)).collect();
    if doomed.is_empty() {
        return Err(Stop::Moved("none of these files is provably dead".into()));
    }
    let (mut gone, mut bytes, mut failed) = (Vec::new(), 0u64, None);
    for temp in doomed {
        // Since the proof a save may have taken the name: then the file is fresh.
        let still = statat(&fd, &temp.name, AtFlags::SYMLINK_NOFOLLOW);
        if !still.is_ok_and(|stat| temps::may_be_dead(&stat, uid, SystemTime::now())) {
            continue;
        }
        match unlinkat(&fd, &temp.name, AtFlags::empty()) {
            Ok(()) => {
                bytes = bytes.saturating_add(temp.size);
                gone.push(temp.name);
            }
            Err(error) => failed = Some(error),
        }
    }
    match (gone.is_empty(), failed) {
        (true, Some(error)) => Err(error.into()),
        (true, None) => Err(Stop::Moved("none of these files is provably dead".into())),
        (false, _) => Ok(Done {
            before: format!("{} named", names.len()),
            after: format!("{} removed, {bytes} bytes: {}", gone.len(), gone.join(" ")),
            undo: None,
        }),
    }
}

/// The directory that the process holds, if it is the plan's and not the system's.
fn data_dir(tree: &Tree, seen: Option<Identity>, pid: u32, dir: &Path) -> Result<(Held, OwnedFd), Stop> {
    refuse_system(dir)?;
    let held = held(tree, seen, pid)?;
    let work_dir = work_dir(&held, dir)?;
    if work_dir.deleted {
        return Err(Stop::Moved(format!("{} was deleted", dir.display())));
    }
    if !work_dir.readable {
        return Err(Stop::Refused("we may not open it".into()));
    }
    let fd = work_dir.fd?;
    if fence::is_system_dir(&fd, &held)? {
        return Err(Stop::Refused(format!("{} belongs to the system", dir.display())));
    }
    Ok((held, fd))
}

fn work_dir(held: &Held, dir: &Path) -> Result<WorkDir, Stop> {
    let work_dir = held.work_dir()?;
    match work_dir.path == dir {
        true => Ok(work_dir),
        false => Err(Stop::Moved(format!("the server is in {} now", work_dir.path.display()))),
    }
}

fn refuse_system(dir: &Path) -> Result<(), Stop> {
    match fence::is_system_path(dir) {
        true => Err(Stop::Refused(format!("{} belongs to the system", dir.display()))),
        false => Ok(()),
    }
}

/// The last number means "as it is" to the kernel.
fn owner(uid: u32, gid: u32) -> Result<(Uid, Gid), Stop> {
    match uid != u32::MAX && gid != u32::MAX {
        true => Ok((Uid::from_raw(uid), Gid::from_raw(gid))),
        false => Err(Stop::Refused("no such owner".into())),
    }
}

fn bits(mode: u32) -> Result<Mode, Stop> {
    match mode <= 0o7777 {
        true => Ok(Mode::from_raw_mode(mode)),
        false => Err(Stop::Refused(format!("{mode:o} is no mode"))),
    }
}

fn is_empty(dir: &OwnedFd) -> Result<bool, Stop> {
    for entry in Dir::read_from(dir.as_fd())? {
        let name = entry?;
        if !matches!(name.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn effective_uid(tree: &Tree, pid: u32) -> Result<u32, Stop> {
    let status = tree.text(format!("/proc/{pid}/status"));
    match super::super::process::id(&status, "Uid") {
        Fact::Known(uid) => Ok(uid),
        Fact::Unknown(reason) => Err(unknown(reason)),
    }
}

fn owned(stat: &Stat) -> String {
    format!("owner {}:{}", stat.st_uid, stat.st_gid)
}

fn unknown(reason: Reason) -> Stop {
    Stop::Refused(format!("nothing can be proved: {reason}"))
}
