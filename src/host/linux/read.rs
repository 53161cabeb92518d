//! Bounded reading of the kernel's files below a root that may be a fixture.
//!
//! Refuses to know: what the files say. Invariant: at most the bound is read, a pipe never blocks, and what could
//! not be read is unknown for its own reason.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::guard::evidence::{Fact, Reason};

/// Of a file that the kernel writes for us.
const TEXT_BYTES_MAX: u64 = 64 << 10;
/// A node of Kubernetes has thousands of mounts.
pub const MOUNTS_BYTES_MAX: u64 = 8 << 20;

/// A root directory: `/`, or a fixture.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Below this directory.
    pub fn at(root: &Path) -> Self {
        Tree { root: root.into() }
    }

    /// This machine, not a fixture: system calls that take a pid mean the same processes.
    pub fn is_real(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where an absolute path is.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file of at most 64 KiB.
    pub fn text(&self, path: impl AsRef<Path>) -> Fact<String> {
        self.text_within(path, TEXT_BYTES_MAX)
    }

    /// A file of at most this many bytes; a longer one is not understood.
    pub fn text_within(&self, path: impl AsRef<Path>, bytes_max: u64) -> Fact<String> {
        let path = path.as_ref();
        let read = || {
            let mut bytes = Vec::new();
            open(&self.path(path))?.take(bytes_max + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) if bytes.len() as u64 > bytes_max => {
                Fact::Unknown(Reason::Garbled(format!("{} is absurdly long", path.display())))
            }
            Ok(bytes) => Fact::Known(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => unknown(&error, &path.display().to_string()),
        }
    }

    /// A file's only word, as a number.
    pub fn number<T: std::str::FromStr>(&self, path: impl AsRef<Path>) -> Fact<T> {
        and_then(self.text(path), |text| crate::guard::evidence::fact::number(text.trim()))
    }

    /// Where a link leads.
    pub fn link(&self, path: impl AsRef<Path>) -> Fact<PathBuf> {
        let path = path.as_ref();
        match std::fs::read_link(self.path(path)) {
            Ok(target) => Fact::Known(target),
            Err(error) => unknown(&error, &path.display().to_string()),
        }
    }
}

/// To read, and at once even where nobody writes.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)
}

/// Why something could not be read.
pub fn reason(error: &io::Error, what: &str) -> Reason {
    match error.kind() {
        // A process that ended meanwhile answers ESRCH.
        io::ErrorKind::NotFound => Reason::NotTold,
        io::ErrorKind::PermissionDenied => Reason::Denied(format!("{what}: {error}")),
        _ if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Reason::NotTold,
        _ => Reason::Garbled(format!("{what}: {error}")),
    }
}

/// As [`reason`].
pub fn unknown<T>(error: &io::Error, what: &str) -> Fact<T> {
    Fact::Unknown(reason(error, what))
}

/// A fact from a fact.
pub fn and_then<T, U>(fact: Fact<T>, then: impl FnOnce(T) -> Fact<U>) -> Fact<U> {
    match fact {
        Fact::Known(value) => then(value),
        Fact::Unknown(reason) => Fact::Unknown(reason),
    }
}

/// The value after `name:` at the beginning of a line, as in /proc/PID/status and /proc/meminfo.
pub fn field<'a>(text: &'a str, name: &str) -> Fact<&'a str> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map(str::trim).into()
}

/// As [`field`], for `123 kB`; in bytes.
pub fn kilobytes(text: &str, name: &str) -> Fact<u64> {
    and_then(field(text, name), |value| {
        let kilobytes = value.strip_suffix("kB").and_then(|number| number.trim().parse::<u64>().ok());
        match kilobytes.and_then(|kilobytes| kilobytes.checked_mul(1024)) {
            Some(bytes) => Fact::Known(bytes),
            None => crate::guard::evidence::fact::garbled(value),
        }
    })
}

/// The number after `name ` at the beginning of a line, as in memory.stat and pids.events.
pub fn keyed(text: &str, name: &str) -> Fact<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    match value {
        Some(value) => crate::guard::evidence::fact::number(value),
        None => Fact::UNKNOWN,
    }
}
