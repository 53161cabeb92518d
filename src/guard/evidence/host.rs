//! What the host shows of the server: its process, memory, limits, control group and directory.
//! All of it is unknown when the server runs elsewhere.
//!
//! Refuses to know: /proc, /sys, system calls. Sizes are bytes; [`NO_LIMIT`] stands for "unlimited".

use std::path::PathBuf;

use super::fact::{Fact, Reason};
use super::log::{KernelLine, LogLine};

/// `unlimited`, `max`, `infinity`.
pub const NO_LIMIT: u64 = u64::MAX;

/// See the module's page.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// The server's process as this host counts it. Unknown: all below is unknown too.
    pub pid: Fact<u32>,
    /// The process.
    pub process: Process,
    /// The whole host's memory.
    pub memory: Memory,
    /// The control groups around the process.
    pub cgroup: Cgroup,
    /// The data directory.
    pub place: Place,
    /// What the server's log says since its newest good save, oldest first.
    pub log: Fact<Vec<LogLine>>,
    /// The newest child that the server's log tells of, as the server's own namespace counts it.
    pub saver: Fact<u32>,
    /// What the kernel's log says of this process and of disks since the newest good save, oldest first.
    pub kernel: Fact<Vec<KernelLine>>,
    /// We are root here and may write kernel settings.
    pub root: Fact<bool>,
}

impl HostFacts {
    /// All unknown, for this reason.
    pub fn elsewhere(why: &str) -> Self {
        HostFacts { pid: Fact::Unknown(Reason::Elsewhere(why.into())), ..HostFacts::default() }
    }
}

/// A soft and a hard limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What binds.
    pub soft: u64,
    /// How far an unprivileged process may raise it.
    pub hard: u64,
}

/// Of the server's process (/proc/PID).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Process {
    /// Effective user.
    pub uid: Fact<u32>,
    /// Effective group.
    pub gid: Fact<u32>,
    /// Supplementary groups.
    pub groups: Fact<Vec<u32>>,
    /// Effective capabilities (`CapEff`).
    pub caps: Fact<u64>,
    /// Resident bytes.
    pub rss: Fact<u64>,
    /// Private writable bytes that a fork must account for (`VmData`).
    pub data: Fact<u64>,
    /// Transparent huge pages are off for it (`THP_enabled: 0`, Linux 5.0+).
    pub thp_off: Fact<bool>,
    /// `oom_score_adj`.
    pub oom_score_adj: Fact<i32>,
    /// RLIMIT_NPROC.
    pub nproc: Fact<Limit>,
    /// RLIMIT_NOFILE.
    pub nofile: Fact<Limit>,
    /// RLIMIT_FSIZE.
    pub fsize: Fact<Limit>,
    /// Descriptors open.
    pub fds: Fact<u64>,
    /// Threads of all processes of its user.
    pub user_threads: Fact<u64>,
    /// Children, with the kernel's one-letter state (`D` waits for a disk).
    pub children: Fact<Vec<(u32, char)>>,
    /// It runs in a container of any make.
    pub container: Fact<bool>,
    /// … of Kubernetes.
    pub kubernetes: Fact<bool>,
    /// The systemd service it belongs to; `None`: to none.
    pub unit: Fact<Option<String>>,
    /// AppArmor profile or SELinux context that confines it; `None`: nothing does.
    pub confined_by: Fact<Option<String>>,
}

/// Of the host (/proc/meminfo, /proc/sys/vm, /sys/kernel/mm).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Memory {
    /// `vm.overcommit_memory`: 0, 1, 2.
    pub overcommit: Fact<u8>,
    /// `CommitLimit`: binds when `overcommit` is 2.
    pub commit_limit: Fact<u64>,
    /// `Committed_AS`.
    pub committed: Fact<u64>,
    /// `MemTotal`.
    pub total: Fact<u64>,
    /// `MemAvailable`.
    pub available: Fact<u64>,
    /// `SwapTotal`.
    pub swap_total: Fact<u64>,
    /// `SwapFree`.
    pub swap_free: Fact<u64>,
    /// The chosen word of `transparent_hugepage/enabled`: `always`, `madvise`, `never`.
    pub thp: Fact<String>,
    /// … of `transparent_hugepage/defrag`.
    pub thp_defrag: Fact<String>,
    /// `kernel.pid_max`.
    pub pid_max: Fact<u64>,
    /// `kernel.threads-max`.
    pub threads_max: Fact<u64>,
}

/// The tightest limit on the way from the process's group to the root, version 1 or 2.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Cgroup {
    /// 1 or 2, of the memory controller.
    pub version: Fact<u8>,
    /// Where the tightest memory limit stands, as a path below /sys/fs/cgroup.
    pub memory_path: Fact<PathBuf>,
    /// `memory.max`, `memory.limit_in_bytes`.
    pub memory_max: Fact<u64>,
    /// `memory.current`, `memory.usage_in_bytes` there.
    pub memory_current: Fact<u64>,
    /// Of it, what the kernel drops when pressed: file pages that are not active (`inactive_file`).
    pub memory_reclaimable: Fact<u64>,
    /// `memory.swap.max`; `memsw` minus `limit` in version 1.
    pub swap_max: Fact<u64>,
    /// Kills by the memory controller in the process's own group, ever (`oom_kill`).
    pub oom_kills: Fact<u64>,
    /// Where the tightest process limit stands.
    pub pids_path: Fact<PathBuf>,
    /// `pids.max`.
    pub pids_max: Fact<u64>,
    /// `pids.current`.
    pub pids_current: Fact<u64>,
    /// Forks it refused, ever (`pids.events max`).
    pub pids_refused: Fact<u64>,
}

/// What stands where the dump belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dump {
    /// Nothing yet.
    Missing,
    /// A file.
    File {
        /// Bytes.
        size: u64,
        /// Its owner.
        uid: u32,
        /// `chattr +i`; unknown where the filesystem has no flags.
        immutable: Fact<bool>,
    },
    /// A directory, or a device, or a socket: rename cannot replace it.
    NotAFile,
}

/// A temporary file of a save that nobody will finish: its child is dead, nobody has it open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadTemp {
    /// `temp-123.rdb`, `temp-rewriteaof-bg-123.aof`.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// The data directory, seen through the process's own root and mounts.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Place {
    /// As the process names it, without the kernel's ` (deleted)`.
    pub dir: Fact<PathBuf>,
    /// The process's directory was deleted: a new one under the old name is not it.
    pub deleted: Fact<bool>,
    /// Owner and group.
    pub owner: Fact<(u32, u32)>,
    /// Permission bits, sticky bit included (07777).
    pub mode: Fact<u32>,
    /// `chattr +i` on the directory.
    pub immutable: Fact<bool>,
    /// May the server's user create files there, by owner, mode and capabilities?
    pub writable: Fact<bool>,
    /// Mounted read-only, as the process sees it.
    pub read_only: Fact<bool>,
    /// … as the host sees the same filesystem: false while the process sees true is a sandbox.
    pub host_read_only: Fact<bool>,
    /// `ext4`, `tmpfs`, `nfs4`, `overlay` …
    pub filesystem: Fact<String>,
    /// Bytes a non-root user may still write (`f_bavail`).
    pub free: Fact<u64>,
    /// Bytes in all.
    pub size: Fact<u64>,
    /// Files a non-root user may still create (`f_favail`); unknown where the filesystem does not count.
    pub free_inodes: Fact<u64>,
    /// Where the dump belongs.
    pub dump: Fact<Dump>,
    /// Temporary files provably dead.
    pub dead_temps: Fact<Vec<DeadTemp>>,
    /// Quotas are in force there (mount options).
    pub quota: Fact<bool>,
}
