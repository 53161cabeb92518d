//! What each fault is called, needs and asks of the server's start.
//!
//! Refuses to know: how a fault is made. Invariant: `possible` tries things out only on scratch files and groups of
//! its own, and leaves none.

use super::super::find::Program;
use super::super::server::{Options, we_are_root};
use super::{Fault, cgroup, disk, kernel};

/// Size of the tmpfs for the faults that fill one.
const TMPFS_BYTES: u64 = 64 << 20;
/// Files on the tmpfs that has only so many.
const TMPFS_INODES: u64 = 64;

impl Fault {
    /// What it does, for a person.
    pub fn says(self) -> &'static str {
        match self {
            Fault::Nproc => "the server's soft RLIMIT_NPROC is 1: fork fails",
            Fault::DumpDir => "a directory stands where dump.rdb should be",
            Fault::KilledChild => "the child of one BGSAVE was killed",
            Fault::ChildKiller => "each BGSAVE child is killed, as by an OOM killer",
            Fault::ChildCrash => "each BGSAVE child dies of SIGSEGV",
            Fault::DirDeleted => "the data directory was deleted",
            Fault::DirReadonly => "the data directory is read-only",
            Fault::WrongOwner => "the data directory belongs to root, the server does not run as root",
            Fault::ImmutableDir => "the data directory is immutable (chattr +i)",
            Fault::StickyDump => "dump.rdb belongs to root, in a sticky directory",
            Fault::DiskFull => "the disk is full",
            Fault::DeadTemps => "temporary files of dead saves fill the disk",
            Fault::InodesFull => "the file system has no inodes left",
            Fault::RemountRo => "the file system was remounted read-only",
            Fault::FsizeLimit => "the server's RLIMIT_FSIZE is smaller than its dump",
            Fault::Overcommit => "strict overcommit accounting: fork fails with ENOMEM",
            Fault::PidsLimit => "the pids control group is at its limit: fork fails",
            Fault::CgroupOom => "the memory control group is too tight for a child: it is OOM-killed",
            Fault::BreakIn => "the dump was pointed at a .ssh directory, as intruders do",
            Fault::ForkFails => "fork fails with ENOMEM",
            Fault::ForkEagain => "fork fails with EAGAIN",
            Fault::AofFull => "the AOF's disk is full",
            Fault::AofFsync => "one fsync of the AOF failed with EIO",
            Fault::DeadEnd => "one BGSAVE failed while nothing was dirty: Redis never tries again",
        }
    }

    /// Can it be made here? The error says what is missing.
    pub fn possible(self) -> Result<(), String> {
        match self {
            Fault::DumpDir | Fault::KilledChild | Fault::ChildKiller | Fault::ChildCrash => Ok(()),
            Fault::DirDeleted | Fault::DirReadonly | Fault::DeadEnd | Fault::BreakIn => Ok(()),
            Fault::Nproc | Fault::FsizeLimit => linux().and(program("prlimit", "util-linux")),
            Fault::DiskFull | Fault::AofFull | Fault::DeadTemps | Fault::InodesFull | Fault::RemountRo => {
                linux().and(root("to mount a tmpfs"))
            }
            Fault::WrongOwner | Fault::StickyDump => root("to give files away"),
            Fault::ImmutableDir => {
                linux().and(program("chattr", "e2fsprogs")).and_then(|()| disk::flags_work())
            }
            Fault::Overcommit => linux().and(root("to set a sysctl")).and_then(|()| kernel::possible()),
            Fault::PidsLimit => linux().and_then(|()| cgroup::possible(cgroup::PIDS)),
            Fault::CgroupOom => linux().and_then(|()| cgroup::possible(cgroup::MEMORY)),
            Fault::ForkFails | Fault::ForkEagain | Fault::AofFsync => linux().and(program("cc", "gcc")),
        }
    }

    /// Can it be made here, of this server? The error says what is missing.
    pub fn possible_for(self, program: &Program) -> Result<(), String> {
        let Program { product, version, .. } = program;
        match self {
            // 6.2.2 was the first to remember a failed fsync (aof.c:flushAppendOnlyFile, server.c:processCommand).
            Fault::AofFsync if !program.at_least(6, 2) => {
                Err(format!("upstream: {product} {version} does not refuse writes after a failed fsync"))
            }
            // 6.0.7 was the first to offer the OOM killer its child (server.c:setOOMScoreAdj); without, the server dies.
            Fault::CgroupOom if !program.at_least(6, 2) => {
                Err(format!("upstream: {product} {version} may have no oom-score-adj (6.2 has)"))
            }
            _ => self.possible(),
        }
    }

    /// How the server must be started for it.
    pub fn options(self, program: &Program) -> Options {
        let options = Options::default();
        let tmpfs = Options { tmpfs_bytes: Some(TMPFS_BYTES), ..options.clone() };
        let unprivileged = Options { unprivileged: true, ..options.clone() };
        match self {
            Fault::Nproc | Fault::DirReadonly | Fault::WrongOwner | Fault::StickyDump => unprivileged,
            Fault::DumpDir | Fault::KilledChild | Fault::ChildKiller | Fault::DeadEnd => options,
            Fault::ChildCrash | Fault::ImmutableDir | Fault::FsizeLimit | Fault::PidsLimit => options,
            Fault::DirDeleted => may_set_dir(options, program),
            Fault::BreakIn => may_set_dir(unprivileged, program),
            Fault::DiskFull | Fault::DeadTemps | Fault::RemountRo => tmpfs,
            Fault::InodesFull => Options { tmpfs_inodes: Some(TMPFS_INODES), ..tmpfs },
            Fault::Overcommit => Options { strict_accounting: true, ..options },
            Fault::CgroupOom => options.arg(&["--oom-score-adj", "yes"]),
            Fault::ForkFails | Fault::ForkEagain => Options { shim: true, ..options },
            Fault::AofFull => tmpfs.arg(&["--appendonly", "yes"]),
            Fault::AofFsync => Options { shim: true, ..options }.arg(&["--appendonly", "yes"]),
        }
    }
}

/// Older servers allow CONFIG SET dir as they are, and do not start with a word they do not know.
fn may_set_dir(options: Options, program: &Program) -> Options {
    match program.at_least(7, 0) {
        true => options.arg(&["--enable-protected-configs", "yes"]),
        false => options,
    }
}

fn linux() -> Result<(), String> {
    if cfg!(target_os = "linux") { Ok(()) } else { Err("host: needs Linux".to_owned()) }
}

fn root(what_for: &str) -> Result<(), String> {
    if we_are_root() { Ok(()) } else { Err(format!("host: needs root, {what_for}")) }
}

fn program(name: &str, package: &str) -> Result<(), String> {
    match super::super::find::Places::of_this_process(None).on_path(name) {
        Some(_) => Ok(()),
        None => Err(format!("host: needs {name} (apt-get install {package})")),
    }
}
