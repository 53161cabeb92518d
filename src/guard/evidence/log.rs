//! What two logs say of a failed save: the server's own and the kernel's. Lines into classes, by a
//! table.
//!
//! Refuses to know: where the lines came from. Invariant: a line is never shown whole where it could
//! hold what the operator did not mean to show; the class and the errno's text are enough.

/// What the server's log says happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogClass {
    /// `fork: Cannot allocate memory`.
    ForkEnomem,
    /// `fork: Resource temporarily unavailable`.
    ForkEagain,
    /// The child was ended by this signal.
    Signal(u8),
    /// The file could not be opened, for this errno.
    Open(Errno),
    /// … could not be written or synced.
    Write(Errno),
    /// … could not be renamed into place.
    Rename(Errno),
    /// The AOF could not be written.
    AofWrite(Errno),
    /// … could not be synced.
    AofSync(Errno),
    /// A save ended well: what is older does not matter any more.
    Saved,
}

/// The errno's text (strerror), as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Errno {
    /// No such file or directory.
    Noent,
    /// Permission denied.
    Acces,
    /// Operation not permitted.
    Perm,
    /// Read-only file system.
    Rofs,
    /// No space left on device.
    Nospc,
    /// Disk quota exceeded.
    Dquot,
    /// Too many open files (in system).
    Mfile,
    /// Input/output error.
    Io,
    /// Stale file handle.
    Stale,
    /// Is a directory.
    Isdir,
    /// File too large.
    Fbig,
    /// Any other.
    Other,
}

/// A line of the server's log that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// What it says.
    pub class: LogClass,
    /// Its text without pid, role and time; at most 200 characters.
    pub text: String,
}

/// What the kernel's log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelClass {
    /// A process was killed for want of memory.
    OomKill,
    /// A block device or filesystem reported an error.
    IoError,
    /// AppArmor or SELinux denied something to the server.
    LsmDenied,
}

/// A line of the kernel's log that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelLine {
    /// What it says.
    pub class: KernelClass,
    /// Its text, at most 200 characters.
    pub text: String,
}

/// The lines of the server's log that matter, oldest first, since its newest good save.
pub fn read_log(_text: &str) -> Vec<LogLine> {
    Vec::new()
}

/// The lines of the kernel's log that speak of this process or of a failing disk, oldest first.
pub fn read_kernel(_text: &str, _pid: u32) -> Vec<KernelLine> {
    Vec::new()
}
