//! One process, held: its directory in /proc is opened once and everything is reached through it, so that another
//! process that gets the same number later is never touched. With it, its working directory and its root.
//!
//! Refuses to know: Redis. Invariant: no symbolic link leads out of the process's root.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat, openat2, readlinkat};
use rustix::io::Errno;

use super::read::Tree;
use super::table;

const DIR: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// See the module's page.
#[derive(Debug)]
pub struct Held {
    proc: OwnedFd,
}

/// A process's working directory.
#[derive(Debug)]
pub struct WorkDir {
    /// As the process names it.
    pub path: PathBuf,
    /// It is not there any more under any name.
    pub deleted: bool,
    /// The directory itself, when we may open it.
    pub fd: io::Result<OwnedFd>,
    /// To be read, and not only looked at.
    pub readable: bool,
}

impl Held {
    /// The process of this number, whoever that is.
    pub fn open(tree: &Tree, pid: u32) -> io::Result<Held> {
        Ok(Held { proc: openat(CWD, tree.path(format!("/proc/{pid}")), DIR, Mode::empty())? })
    }

    /// When it started; with the pid, its identity.
    pub fn start(&self) -> io::Result<u64> {
        let fd = openat(&self.proc, "stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = String::new();
        std::fs::File::from(fd).take(4096).read_to_string(&mut text)?;
        table::start(&text).ok_or_else(|| io::Error::other("its stat is garbled"))
    }

    /// Its working directory.
    pub fn work_dir(&self) -> io::Result<WorkDir> {
        let link = self.link("cwd")?;
        let root = self.link("root")?;
        let dir = |flags| openat(&self.proc, "cwd", flags, Mode::empty()).map_err(io::Error::from);
        let (fd, readable) = match dir(DIR | OFlags::RDONLY) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => (dir(DIR | OFlags::PATH), false),
            fd => (fd, true),
        };
        let Some(inside) = below(&link, &root) else {
            return Err(io::Error::other("its directory lies outside of its root"));
        };
        let plain = inside.as_os_str().as_bytes().strip_suffix(b" (deleted)").map(OsStr::from_bytes);
        match plain {
            // A living directory may be called so.
            Some(plain) if !self.is_at(&inside, &fd) => {
                Ok(WorkDir { path: plain.into(), deleted: true, fd, readable })
            }
            _ => Ok(WorkDir { path: inside, deleted: false, fd, readable }),
        }
    }

    /// Opens an absolute path as the process would, inside its root.
    pub fn open_inside(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        self.resolve(path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    /// … and over no symbolic link at all: a path that the kernel told has none, and who has put one there since
    /// wants us elsewhere.
    pub fn open_straight(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        self.resolve(path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)
    }

    fn resolve(&self, path: &Path, flags: OFlags, inside: ResolveFlags) -> io::Result<OwnedFd> {
        let root = openat(&self.proc, "root", DIR | OFlags::PATH, Mode::empty())?;
        let path = path.strip_prefix("/").map_err(|_| io::Error::other("not an absolute path"))?;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = flags | OFlags::CLOEXEC;
        match openat2(&root, path, flags, Mode::empty(), inside) {
            // Linux before 5.6, or a container's filter of system calls.
            Err(Errno::NOSYS | Errno::PERM) => step_by_step(root, path, flags),
            opened => Ok(opened?),
        }
    }

    fn is_at(&self, path: &Path, fd: &io::Result<OwnedFd>) -> bool {
        let same = || {
            let there = self.open_inside(path, OFlags::PATH).ok()?;
            let (there, here) = (fstat(there).ok()?, fstat(fd.as_ref().ok()?).ok()?);
            Some((there.st_dev, there.st_ino) == (here.st_dev, here.st_ino))
        };
        same() == Some(true)
    }

    fn link(&self, name: &str) -> io::Result<PathBuf> {
        let target = readlinkat(&self.proc, name, Vec::new())?;
        Ok(std::ffi::OsString::from_vec(target.into_bytes()).into())
    }
}

/// Without `openat2` no symbolic link is followed at all.
fn step_by_step(root: OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let mut at = root;
    let mut parts = path.components().filter(|part| *part != Component::CurDir).peekable();
    while let Some(part) = parts.next() {
        let Component::Normal(name) = part else {
            return Err(io::Error::other("not a plain path"));
        };
        let flags = match parts.peek() {
            Some(_) => DIR | OFlags::PATH | OFlags::NOFOLLOW,
            None => flags | OFlags::NOFOLLOW,
        };
        at = openat(at.as_fd(), name, flags, Mode::empty())?;
    }
    Ok(at)
}

/// Opens again, to read, what was opened only to look at: between look and reading nobody can put another file there.
pub fn reopen(fd: &OwnedFd) -> io::Result<std::fs::File> {
    use std::os::fd::AsRawFd;
    super::read::open(Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())))
}

/// The kernel writes paths from our root; the process counts from its own.
fn below(link: &Path, root: &Path) -> Option<PathBuf> {
    let rest = link.strip_prefix(root).ok()?;
    Some(Path::new("/").join(rest))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, PID};
    use super::*;

    #[test]
    fn no_link_leads_out_of_the_processs_root() {
        let at = Fixture::new();
        at.write("/secret/file", "outside");
        at.write("/rootfs/secret/file", "inside, and longer");
        at.write("/rootfs/plain/file", "");
        at.link("/rootfs/absolute", Path::new("/secret"));
        at.link("/rootfs/relative", Path::new("../secret"));
        at.link("/rootfs/last", Path::new("/plain/file"));
        let held = Held::open(&Tree::at(&at.path("/")), PID).unwrap();
        let size = |opened: io::Result<OwnedFd>| opened.ok().map(|fd| fstat(fd).unwrap().st_size);
        let stepped = |path: &Path| {
            let root = openat(CWD, at.path("/rootfs"), DIR | OFlags::PATH, Mode::empty()).unwrap();
            step_by_step(root, path.strip_prefix("/").unwrap(), OFlags::PATH).and_then(|fd| {
                match fstat(&fd)?.st_mode & 0o170_000 {
                    0o120_000 => Err(io::Error::other("a link itself")),
                    _ => Ok(fd),
                }
            })
        };
        for (path, inside, straight) in [
            ("/plain/file", Some(0), Some(0)),
            ("/absolute/file", Some(18), None),
            ("/relative/file", Some(18), None),
            ("/../secret/file", Some(18), Some(18)),
            ("/last", Some(0), None),
            ("/missing", None, None),
        ] {
            let path = Path::new(path);
            assert_eq!(size(held.open_inside(path, OFlags::PATH)), inside, "{path:?}");
            assert_eq!(size(held.open_straight(path, OFlags::PATH)), straight, "{path:?} straight");
            let dots = path.components().any(|part| part == Component::ParentDir);
            assert_eq!(size(stepped(path)), straight.filter(|_| !dots), "{path:?} step by step");
        }
        assert!(held.open_inside(Path::new("relative"), OFlags::PATH).is_err());
    }
}
