//! Ways to break a server's persistence for real, each undone when it is healed or dropped.
//!
//! | fault | what is done | the server must be | needs | Redis then |
//! |---|---|---|---|---|
//! | `nproc` | soft RLIMIT_NPROC of the live server to 1 | unprivileged | Linux, util-linux | fork fails with EAGAIN |
//! | `dump-dir` | a directory where dump.rdb should be | anything | nothing | rename fails |
//! | `killed-child` | the child of one BGSAVE is killed | anything | nothing | one failed save |
//! | `child-killer` | every child is killed until healed | anything | nothing | each save fails, as under an OOM killer |
//! | `child-crash` | every child gets SIGSEGV until healed; two have | anything | nothing | each child ends by signal 11 |
//! | `dir-deleted` | data directory removed; heal makes it and CONFIG SETs it | protected configs allowed | nothing | open fails, cwd is gone |
//! | `dir-readonly` | data directory mode 500 | unprivileged | nothing | open fails with EACCES |
//! | `wrong-owner` | data directory given to root | unprivileged | root | open fails with EACCES |
//! | `immutable-dir` | chattr +i on the data directory | anything | root, flags on the file system | open fails with EPERM |
//! | `sticky-dump` | sticky directory, dump.rdb given to root | unprivileged | root | rename fails with EPERM |
//! | `disk-full` | a ballast file fills the data directory's tmpfs | on a tmpfs | root, Linux | ENOSPC |
//! | `dead-temps` | as disk-full, by a `temp-PID.rdb` of a dead save | on a tmpfs | root, Linux | ENOSPC |
//! | `inodes-full` | empty files until there can be no more | on a tmpfs with few inodes | root, Linux | open fails with ENOSPC |
//! | `remount-ro` | the tmpfs remounted read-only | on a tmpfs | root, Linux | open fails with EROFS |
//! | `fsize-limit` | soft RLIMIT_FSIZE of the live server below its dump | anything | Linux, util-linux | the child ends by signal 25 |
//! | `overcommit` | vm.overcommit_memory 2, limit below what fork needs | started under strict accounting | root, Linux, 6 GB | fork fails with ENOMEM |
//! | `pids-limit` | a pids group, full | anything | root, Linux | fork fails with EAGAIN |
//! | `cgroup-oom` | a memory group without room for a child | `oom-score-adj yes` | root, Linux | the child ends by signal 9 |
//! | `break-in` | dir and dbfilename pointed at a `.ssh` | unprivileged, protected configs allowed | nothing | open fails with EACCES |
//! | `fork-fails` | preloaded shim: fork answers ENOMEM | under the shim | Linux, `cc` | fork fails |
//! | `fork-eagain` | preloaded shim: fork answers EAGAIN | under the shim | Linux, `cc` | fork fails |
//! | `aof-full` | as disk-full, with AOF on | on a tmpfs, AOF on | root, Linux | the append fails |
//! | `aof-fsync` | preloaded shim: fsync answers EIO once | under the shim, AOF on | Linux, `cc` | sticky fsync error |
//! | `dead-end` | one BGSAVE killed while nothing is dirty | idle | nothing | refuses for ever, with nothing wrong |
//!
//! Refuses to know: bgsafe. Invariant: while a [`Broken`] lives no save of the server can succeed (but for
//! `killed-child` and `dead-end`, which are over as soon as they have happened), and after it the host is as before.

mod cgroup;
mod children;
mod disk;
pub mod kernel;
mod needs;
pub mod process;
pub mod shim;

use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::client::Direct;
use super::server::Site;

/// See the module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// Fork fails: the server's soft RLIMIT_NPROC is 1.
    Nproc,
    /// A directory stands where dump.rdb should be.
    DumpDir,
    /// The child of one BGSAVE is killed.
    KilledChild,
    /// Each BGSAVE child is killed, as by an OOM killer.
    ChildKiller,
    /// Each BGSAVE child dies of SIGSEGV.
    ChildCrash,
    /// The data directory is deleted.
    DirDeleted,
    /// The data directory is read-only.
    DirReadonly,
    /// The data directory belongs to root (needs root).
    WrongOwner,
    /// The data directory is immutable (needs root).
    ImmutableDir,
    /// The dump belongs to root, in a sticky directory (needs root).
    StickyDump,
    /// The disk is full (needs root).
    DiskFull,
    /// Temporary files of dead saves fill the disk (needs root).
    DeadTemps,
    /// The file system has no inodes left (needs root).
    InodesFull,
    /// The file system is remounted read-only (needs root).
    RemountRo,
    /// The server may write small files only.
    FsizeLimit,
    /// Fork fails: strict overcommit accounting, for the whole machine (needs root and 6 GB).
    Overcommit,
    /// Fork fails: a full pids control group (needs root).
    PidsLimit,
    /// The child is OOM-killed: a tight memory control group (needs root).
    CgroupOom,
    /// The dump is pointed at a .ssh directory, as intruders do.
    BreakIn,
    /// Fork fails with ENOMEM (needs a C compiler).
    ForkFails,
    /// Fork fails with EAGAIN (needs a C compiler).
    ForkEagain,
    /// The AOF's disk is full (needs root).
    AofFull,
    /// One fsync of the AOF fails with EIO (needs a C compiler).
    AofFsync,
    /// One BGSAVE fails while nothing is dirty: Redis never tries again.
    DeadEnd,
}

const ENOMEM: i32 = 12;
const EAGAIN: i32 = 11;
const EIO: i32 = 5;
/// For a dump that outgrows its limit: the dump's bytes, and what a file may have. The server's log must stay below.
const DUMP_BYTES: usize = 4 << 20;
const FSIZE_BYTES: u64 = 1 << 20;
/// How long the server may take to notice a fault.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(10);

impl Fault {
    /// Breaks the server and makes it notice: when this returns, a save (or an append) has failed.
    pub fn strike(self, site: &Site) -> io::Result<Broken> {
        let mut server = site.direct()?;
        wait_until("a save in progress to end", || no_child(&mut server))?;
        let broken = Broken { fault: self, undo: self.arm(site, &mut server)? };
        match self {
            Fault::KilledChild | Fault::DeadEnd => children::kill_one_save(site, &mut server)?,
            Fault::AofFull | Fault::AofFsync => {
                // A write whose append fails: Redis notices only by trying. More than a page, as the AOF's last page
                // may have room. The reply does not matter: another's write may have been the one.
                server.command(&["SET", "bgsafe:lab:provoke", &"x".repeat(16 << 10)])?;
                wait_for(&mut server, "aof_last_write_status", "err")?;
                if self == Fault::AofFsync {
                    shim::lower(&site.root, "fail-fsync")?;
                }
            }
            // It has failed already: another try might find somebody's cure.
            Fault::Overcommit => wait_for(&mut server, "rdb_last_bgsave_status", "err")?,
            _ => fail_a_save(&mut server)?,
        }
        if self == Fault::ChildCrash {
            wait_until("a save in progress to end", || no_child(&mut server))?;
            server.command(&["BGSAVE"])?;
            wait_until("a save in progress to end", || no_child(&mut server))?;
        }
        Ok(broken)
    }

    fn arm(self, site: &Site, server: &mut Direct) -> io::Result<Undo> {
        match self {
            Fault::Nproc => process::lower(site, process::NPROC, "1"),
            Fault::FsizeLimit => {
                server.demand::<&[u8]>(&[b"SET", b"bgsafe:lab:bulk", &noise(DUMP_BYTES)])?;
                process::lower(site, process::FSIZE, &FSIZE_BYTES.to_string())
            }
            Fault::DumpDir => disk::dump_dir(site),
            Fault::DirDeleted => disk::dir_deleted(site),
            Fault::DirReadonly => disk::dir_readonly(site),
            Fault::WrongOwner => disk::wrong_owner(site),
            Fault::ImmutableDir => disk::immutable_dir(site),
            Fault::StickyDump => disk::sticky_dump(site),
            Fault::DiskFull | Fault::AofFull => disk::full(site),
            Fault::DeadTemps => disk::dead_temps(site),
            Fault::InodesFull => disk::inodes_full(site),
            Fault::RemountRo => disk::remount_ro(site),
            Fault::BreakIn => disk::break_in(site, server),
            Fault::Overcommit => kernel::starve_fork(site, server),
            Fault::PidsLimit => cgroup::pids_limit(site),
            Fault::CgroupOom => cgroup::oom(site, server),
            Fault::KilledChild => Ok(Undo::nothing()),
            Fault::DeadEnd => children::nothing_dirty(server).map(|()| Undo::nothing()),
            Fault::ChildKiller => children::killer(site, Signal::KILL),
            Fault::ChildCrash => children::killer(site, Signal::SEGV),
            Fault::ForkFails => shim::fail(site, "fail-fork", ENOMEM),
            Fault::ForkEagain => shim::fail(site, "fail-fork", EAGAIN),
            Fault::AofFsync => {
                let flag = shim::fail(site, "fail-fsync", EIO)?;
                let site = site.clone();
                Ok(Undo::new(move || {
                    flag.now()?;
                    // The error outlives its cause until the AOF is opened anew.
                    let mut server = site.direct()?;
                    server.demand(&["CONFIG", "SET", "appendonly", "no"])?;
                    server.demand(&["CONFIG", "SET", "appendonly", "yes"]).map(drop)
                }))
            }
        }
    }
}

/// What takes a change of the host back: when told to, or on drop. Made before the change, so that one that stops
/// half way is taken back as well.
struct Undo(Option<Box<dyn FnOnce() -> io::Result<()> + Send>>);

impl Undo {
    fn new(undo: impl FnOnce() -> io::Result<()> + Send + 'static) -> Undo {
        Undo(Some(Box::new(undo)))
    }

    fn nothing() -> Undo {
        Undo(None)
    }

    fn now(mut self) -> io::Result<()> {
        self.0.take().map_or(Ok(()), |undo| undo())
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|undo| undo()) {
            eprintln!("lab: a fault could not be undone: {error}");
        }
    }
}

/// A fault in force. Healed by [`Broken::heal`], or on drop.
#[must_use = "dropping it heals the server"]
pub struct Broken {
    fault: Fault,
    undo: Undo,
}

impl Broken {
    /// Takes the cause away. The server is not asked to save: that is its, or bgsafe's, business.
    pub fn heal(self) -> io::Result<()> {
        self.undo.now()
    }
}

impl std::fmt::Debug for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broken").field("fault", &self.fault).finish_non_exhaustive()
    }
}

fn fail_a_save(server: &mut Direct) -> io::Result<()> {
    // The reply does not matter: a failed fork answers an error, a failed child a success.
    server.command(&["BGSAVE"])?;
    wait_for(server, "rdb_last_bgsave_status", "err")
}

fn no_child(server: &mut Direct) -> io::Result<bool> {
    Ok(server.info("rdb_bgsave_in_progress")?.as_deref() == Some("0")
        && server.info("aof_rewrite_in_progress")?.as_deref() == Some("0"))
}

fn wait_for(server: &mut Direct, field: &str, value: &str) -> io::Result<()> {
    wait_until(&format!("{field}:{value}"), || Ok(server.info(field)?.as_deref() == Some(value)))
}

fn wait_until(what: &str, mut ready: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let deadline = Instant::now() + NOTICE_TIMEOUT;
    while !ready()? {
        if Instant::now() > deadline {
            let seconds = NOTICE_TIMEOUT.as_secs();
            return Err(io::Error::other(format!("upstream: waited {seconds} s in vain for {what}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Bytes that no compressor makes smaller; the same ones each time.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        noise.extend(words.next().expect("it does not end"));
    }
    noise.truncate(bytes);
    noise
}
