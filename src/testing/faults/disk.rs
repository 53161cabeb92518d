//! Faults of the data directory and the file system below it.
//!
//! Refuses to know: why a save fails. Invariant: what takes a change back exists before the change is made, and
//! does no harm when somebody else (a cure under test) has taken it back already.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use super::super::client::Direct;
use super::super::server::{Site, run};
use super::Undo;

/// A directory where dump.rdb should be.
pub(super) fn dump_dir(site: &Site) -> io::Result<Undo> {
    let (dump, kept) = (site.data.join("dump.rdb"), site.data.join("dump.rdb.lab"));
    if dump.is_file() {
        fs::rename(&dump, &kept)?;
    }
    let undo = {
        let dump = dump.clone();
        Undo::new(move || {
            if dump.is_dir() {
                fs::remove_dir(&dump)?;
            }
            // Where somebody has moved the directory away, a newer dump may be there by now.
            match (kept.exists(), dump.exists()) {
                (true, true) => fs::remove_file(&kept),
                (true, false) => fs::rename(&kept, &dump),
                (false, _) => Ok(()),
            }
        })
    };
    fs::create_dir(&dump)?;
    Ok(undo)
}

/// No data directory. It comes back with its owner, and the server is sent there again.
pub(super) fn dir_deleted(site: &Site) -> io::Result<Undo> {
    let undo = {
        let site = site.clone();
        Undo::new(move || {
            fs::create_dir_all(&site.data)?;
            if let Some(uid) = site.uid {
                chown(&site.data, Some(uid), Some(uid))?;
            }
            site.direct()?.demand(&["CONFIG", "SET", "dir", &words(&site.data)]).map(drop)
        })
    };
    fs::remove_dir_all(&site.data)?;
    Ok(undo)
}

/// Nobody may write into the data directory.
pub(super) fn dir_readonly(site: &Site) -> io::Result<Undo> {
    let undo = Was::of(&site.data)?.undo();
    fs::set_permissions(&site.data, PermissionsExt::from_mode(0o500))?;
    Ok(undo)
}

/// Somebody once ran the server as root.
pub(super) fn wrong_owner(site: &Site) -> io::Result<Undo> {
    let undo = Was::of(&site.data)?.undo();
    chown(&site.data, Some(0), Some(0))?;
    fs::set_permissions(&site.data, PermissionsExt::from_mode(0o755))?;
    Ok(undo)
}

/// In a sticky directory only the owner of a file, or of the directory, may replace it.
pub(super) fn sticky_dump(site: &Site) -> io::Result<Undo> {
    let dump = site.data.join("dump.rdb");
    let was_there = dump.is_file();
    if !was_there {
        File::create(&dump)?;
    }
    let undo = {
        let (dir, file, dump) = (Was::of(&site.data)?, Was::of(&dump)?, dump.clone());
        Undo::new(move || {
            dir.restore()?;
            if was_there { file.restore() } else { gone(fs::remove_file(&dump)) }
        })
    };
    chown(&dump, Some(0), Some(0))?;
    chown(&site.data, Some(0), Some(0))?;
    fs::set_permissions(&site.data, PermissionsExt::from_mode(0o1777))?;
    Ok(undo)
}

/// Owner and mode of a path, to be put back.
struct Was {
    path: PathBuf,
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Was {
    fn of(path: &Path) -> io::Result<Was> {
        let meta = fs::metadata(path)?;
        Ok(Was { path: path.to_owned(), uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & 0o7777 })
    }

    fn restore(&self) -> io::Result<()> {
        // The owner first: giving a file away clears some bits. Only root may, and only root has to.
        let now = fs::metadata(&self.path)?;
        if (now.uid(), now.gid()) != (self.uid, self.gid) {
            chown(&self.path, Some(self.uid), Some(self.gid))?;
        }
        fs::set_permissions(&self.path, PermissionsExt::from_mode(self.mode))
    }

    fn undo(self) -> Undo {
        Undo::new(move || self.restore())
    }
}

/// Not even root may make or replace a file in an immutable directory.
pub(super) fn immutable_dir(site: &Site) -> io::Result<Undo> {
    let undo = {
        let dir = site.data.clone();
        Undo::new(move || chattr("-i", &dir))
    };
    chattr("+i", &site.data)?;
    Ok(undo)
}

/// Has the file system of scratch directories flags, and may we set them? Tried on a scratch file.
pub(super) fn flags_work() -> Result<(), String> {
    let try_it = || {
        let scratch = tempfile::NamedTempFile::new()?;
        let path = scratch.path().to_owned();
        let undo = Undo::new(move || chattr("-i", &path));
        chattr("+i", scratch.path())?;
        undo.now()
    };
    try_it().map_err(|error| format!("host: no immutable flag here: {error}"))
}

fn chattr(flag: &str, path: &Path) -> io::Result<()> {
    run(Command::new("chattr").arg(flag).arg(path))
}

/// Nothing more fits on the data directory's file system.
pub(super) fn full(site: &Site) -> io::Result<Undo> {
    full_of(&site.data.join("ballast"))
}

/// As [`full`], and what fills it is what a save leaves behind that died together with its server.
pub(super) fn dead_temps(site: &Site) -> io::Result<Undo> {
    // A pid that was somebody's a moment ago, and is nobody's now.
    let mut dead = Command::new("true").stdin(Stdio::null()).spawn()?;
    dead.wait()?;
    let ballast = site.data.join(format!("temp-{}.rdb", dead.id()));
    let undo = full_of(&ballast)?;
    File::options()
        .write(true)
        .open(&ballast)?
        .set_modified(SystemTime::now() - Duration::from_secs(3600))?;
    Ok(undo)
}

fn full_of(ballast: &Path) -> io::Result<Undo> {
    let undo = {
        let ballast = ballast.to_owned();
        Undo::new(move || gone(fs::remove_file(&ballast)))
    };
    let mut file = File::create(ballast)?;
    let mut block = vec![0; 1 << 20];
    while !block.is_empty() {
        match file.write(&block) {
            Ok(count) if count == block.len() => {}
            Ok(_) => block.truncate(block.len() / 2),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => block.truncate(block.len() / 2),
            Err(error) => return Err(error),
        }
    }
    Ok(undo)
}

/// Bytes are free, but there can be no further file.
pub(super) fn inodes_full(site: &Site) -> io::Result<Undo> {
    let dir = site.data.join("ballast.d");
    let undo = {
        let dir = dir.clone();
        Undo::new(move || gone(fs::remove_dir_all(&dir)))
    };
    fs::create_dir(&dir)?;
    for number in 0.. {
        match File::create(dir.join(number.to_string())) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
            Err(error) => return Err(error),
        }
    }
    Ok(undo)
}

/// As the kernel does after an I/O error.
pub(super) fn remount_ro(site: &Site) -> io::Result<Undo> {
    let undo = {
        let dir = site.data.clone();
        Undo::new(move || remount("rw", &dir))
    };
    remount("ro", &site.data)?;
    Ok(undo)
}

fn remount(mode: &str, dir: &Path) -> io::Result<()> {
    run(Command::new("mount").args(["-o", &format!("remount,{mode}")]).arg(dir))
}

/// What intruders do: point the dump at a place where keys are read. The place is in the scratch directory, and
/// cannot be written, as theirs cannot: so the next save fails.
pub(super) fn break_in(site: &Site, server: &mut Direct) -> io::Result<Undo> {
    let home = site.root.join("home");
    let target = home.join(".ssh");
    let name = server.config("dbfilename")?.unwrap_or_else(|| "dump.rdb".to_owned());
    let undo = {
        let (site, home, target) = (site.clone(), home.clone(), target.clone());
        Undo::new(move || {
            let mut server = site.direct()?;
            server.demand(&["CONFIG", "SET", "dir", &words(&site.data)])?;
            server.demand(&["CONFIG", "SET", "dbfilename", &name])?;
            fs::set_permissions(&target, PermissionsExt::from_mode(0o700))?;
            fs::remove_dir_all(&home)
        })
    };
    fs::create_dir_all(&target)?;
    if let Some(uid) = site.uid {
        chown(&home, Some(uid), Some(uid))?;
        chown(&target, Some(uid), Some(uid))?;
    }
    fs::set_permissions(&target, PermissionsExt::from_mode(0o500))?;
    server.demand(&["CONFIG", "SET", "dir", &words(&target)])?;
    server.demand(&["CONFIG", "SET", "dbfilename", "authorized_keys"])?;
    Ok(undo)
}

fn words(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// It is as good when it is not there any more.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
