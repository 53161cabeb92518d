//! Ways to break a server's persistence for real, each undone when it is healed or dropped.
//!
//! | fault | what is done | the server must be | needs | Redis then |
//! |---|---|---|---|---|
//! | `nproc` | soft RLIMIT_NPROC of the live server to 1 | unprivileged | Linux, util-linux | fork fails with EAGAIN |
//! | `dump-dir` | a directory where dump.rdb should be | anything | nothing | rename fails |
//! | `killed-child` | the child of one BGSAVE is killed | anything | nothing | one failed save |
//! | `child-killer` | every child is killed until healed | anything | nothing | each save fails, as under an OOM killer |
//! | `dir-deleted` | data directory removed; heal makes it and CONFIG SETs it | protected configs allowed | nothing | open fails, cwd is gone |
//! | `dir-readonly` | data directory mode 500 | unprivileged | nothing | open fails with EACCES |
//! | `disk-full` | a ballast file fills the data directory's tmpfs | on a tmpfs | root, Linux | ENOSPC |
//! | `fork-fails` | preloaded shim: fork answers ENOMEM | under the shim | Linux, `cc` | fork fails |
//! | `aof-full` | as disk-full, with AOF on | on a tmpfs, AOF on | root, Linux | the append fails |
//! | `aof-fsync` | preloaded shim: fsync answers EIO once | under the shim, AOF on | Linux, `cc` | sticky fsync error |
//! | `dead-end` | one BGSAVE killed while nothing is dirty | idle | nothing | refuses for ever, with nothing wrong |
//!
//! Refuses to know: bgsafe. Invariant: while a [`Broken`] lives no save of the server can succeed (but for
//! `killed-child` and `dead-end`, which are over as soon as they have happened), and after it the host is as before.

pub mod process;
pub mod shim;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::{Duration, Instant};

use super::client::{Direct, Reply};
use super::find::Program;
use super::server::{Options, Site, we_are_root};

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
    /// The data directory is deleted.
    DirDeleted,
    /// The data directory is read-only.
    DirReadonly,
    /// The disk is full (needs root).
    DiskFull,
    /// Fork fails with ENOMEM (needs a C compiler).
    ForkFails,
    /// The AOF's disk is full (needs root).
    AofFull,
    /// One fsync of the AOF fails with EIO (needs a C compiler).
    AofFsync,
    /// One BGSAVE fails while nothing is dirty: Redis never tries again.
    DeadEnd,
}

/// Size of the tmpfs for the faults that fill one.
const TMPFS_BYTES: u64 = 64 << 20;
const ENOMEM: i32 = 12;
const EIO: i32 = 5;
/// How long the server may take to notice a fault.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(10);

impl Fault {
    /// What it does, for a person.
    pub fn says(self) -> &'static str {
        match self {
            Fault::Nproc => "the server's soft RLIMIT_NPROC is 1: fork fails",
            Fault::DumpDir => "a directory stands where dump.rdb should be",
            Fault::KilledChild => "the child of one BGSAVE was killed",
            Fault::ChildKiller => "each BGSAVE child is killed, as by an OOM killer",
            Fault::DirDeleted => "the data directory was deleted",
            Fault::DirReadonly => "the data directory is read-only",
            Fault::DiskFull => "the disk is full",
            Fault::ForkFails => "fork fails with ENOMEM",
            Fault::AofFull => "the AOF's disk is full",
            Fault::AofFsync => "one fsync of the AOF failed with EIO",
            Fault::DeadEnd => "one BGSAVE failed while nothing was dirty: Redis never tries again",
        }
    }

    /// Can it be made here? The error says what is missing.
    pub fn possible(self) -> Result<(), String> {
        let linux = cfg!(target_os = "linux");
        match self {
            Fault::DumpDir | Fault::KilledChild | Fault::ChildKiller => Ok(()),
            Fault::DirDeleted | Fault::DirReadonly | Fault::DeadEnd => Ok(()),
            Fault::Nproc if linux && has("prlimit") => Ok(()),
            Fault::Nproc => Err("host: needs Linux and prlimit (apt-get install util-linux)".to_owned()),
            Fault::DiskFull | Fault::AofFull if linux && we_are_root() => Ok(()),
            Fault::DiskFull | Fault::AofFull => {
                Err("host: needs Linux and root, to mount a tmpfs".to_owned())
            }
            Fault::ForkFails | Fault::AofFsync if linux && has("cc") => Ok(()),
            Fault::ForkFails | Fault::AofFsync => {
                Err("host: needs Linux and a C compiler (apt-get install gcc)".to_owned())
            }
        }
    }

    /// Can it be made here, of this server? The error says what is missing.
    pub fn possible_for(self, program: &Program) -> Result<(), String> {
        match self {
            // 6.2.2 was the first to remember a failed fsync (aof.c:flushAppendOnlyFile, server.c:processCommand).
            Fault::AofFsync if !program.at_least(6, 2) => {
                let Program { product, version, .. } = program;
                Err(format!("upstream: {product} {version} does not refuse writes after a failed fsync"))
            }
            _ => self.possible(),
        }
    }

    /// How the server must be started for it.
    pub fn options(self, program: &Program) -> Options {
        let options = Options::default();
        let aof = ["--appendonly", "yes"];
        match self {
            Fault::Nproc | Fault::DirReadonly => Options { unprivileged: true, ..options },
            Fault::DumpDir | Fault::KilledChild | Fault::ChildKiller | Fault::DeadEnd => options,
            // Older servers allow CONFIG SET dir as they are, and do not start with a word they do not know.
            Fault::DirDeleted if program.at_least(7, 0) => {
                options.arg(&["--enable-protected-configs", "yes"])
            }
            Fault::DirDeleted => options,
            Fault::DiskFull => Options { tmpfs_bytes: Some(TMPFS_BYTES), ..options },
            Fault::ForkFails => Options { shim: true, ..options },
            Fault::AofFull => Options { tmpfs_bytes: Some(TMPFS_BYTES), ..options }.arg(&aof),
            Fault::AofFsync => Options { shim: true, ..options }.arg(&aof),
        }
    }

    /// Breaks the server and makes it notice: when this returns, a save (or an append) has failed.
    pub fn strike(self, site: &Site) -> io::Result<Broken> {
        let mut server = site.direct()?;
        wait_until("a save in progress to end", || no_child(&mut server))?;
        let broken = self.arm(site, &mut server)?;
        match self {
            Fault::KilledChild | Fault::DeadEnd => kill_one_save(site, &mut server)?,
            Fault::AofFull | Fault::AofFsync => {
                // A write whose append fails: Redis notices only by trying. More than a page, as the AOF's last page
                // may have room. The reply does not matter: another's write may have been the one.
                server.command(&["SET", "bgsafe:lab:provoke", &"x".repeat(16 << 10)])?;
                wait_for(&mut server, "aof_last_write_status", "err")?;
                if self == Fault::AofFsync {
                    shim::lower(&site.root, "fail-fsync")?;
                }
            }
            _ => {
                // The reply does not matter: a failed fork answers an error, a failed child a success.
                server.command(&["BGSAVE"])?;
                wait_for(&mut server, "rdb_last_bgsave_status", "err")?;
            }
        }
        Ok(broken)
    }

    fn arm(self, site: &Site, server: &mut Direct) -> io::Result<Broken> {
        let site = site.clone();
        let broken = |undo: Undo| Broken { fault: self, undo: Some(undo) };
        match self {
            Fault::Nproc => {
                let before = process::nproc_soft(site.pid)?;
                process::set_nproc_soft(&site, "1")?;
                Ok(broken(Box::new(move || process::set_nproc_soft(&site, &before))))
            }
            Fault::DumpDir => {
                let (dump, aside) = (site.data.join("dump.rdb"), site.data.join("dump.rdb.aside"));
                let had_dump = dump.is_file();
                if had_dump {
                    std::fs::rename(&dump, &aside)?;
                }
                std::fs::create_dir(&dump)?;
                Ok(broken(Box::new(move || {
                    std::fs::remove_dir(&dump)?;
                    if had_dump { std::fs::rename(&aside, &dump) } else { Ok(()) }
                })))
            }
            Fault::KilledChild => Ok(broken(Box::new(|| Ok(())))),
            Fault::DeadEnd => {
                // A child needs a key to be slow with, and a good save to leave nothing dirty.
                server.demand(&["SET", "bgsafe:lab:seed", "1"])?;
                server.demand(&["BGSAVE"])?;
                wait_until("a save in progress to end", || no_child(server))?;
                wait_for(server, "rdb_changes_since_last_save", "0")?;
                Ok(broken(Box::new(|| Ok(()))))
            }
            Fault::ChildKiller => ChildKiller::start(&site).map(|killer| {
                broken(Box::new(move || {
                    drop(killer);
                    Ok(())
                }))
            }),
            Fault::DirDeleted => {
                std::fs::remove_dir_all(&site.data)?;
                Ok(broken(Box::new(move || {
                    std::fs::create_dir(&site.data)?;
                    if let Some(uid) = site.uid {
                        std::os::unix::fs::chown(&site.data, Some(uid), Some(uid))?;
                    }
                    let dir = site.data.to_string_lossy().into_owned();
                    site.direct()?.demand(&["CONFIG", "SET", "dir", &dir]).map(drop)
                })))
            }
            Fault::DirReadonly => {
                let before = std::fs::metadata(&site.data)?.permissions();
                std::fs::set_permissions(&site.data, PermissionsExt::from_mode(0o500))?;
                Ok(broken(Box::new(move || std::fs::set_permissions(&site.data, before))))
            }
            Fault::DiskFull | Fault::AofFull => {
                let ballast = site.data.join("ballast");
                fill(&ballast)?;
                Ok(broken(Box::new(move || std::fs::remove_file(&ballast))))
            }
            Fault::ForkFails => {
                shim::raise(&site.root, "fail-fork", ENOMEM)?;
                Ok(broken(Box::new(move || shim::lower(&site.root, "fail-fork"))))
            }
            Fault::AofFsync => {
                shim::raise(&site.root, "fail-fsync", EIO)?;
                Ok(broken(Box::new(move || {
                    shim::lower(&site.root, "fail-fsync")?;
                    // The error outlives its cause until the AOF is opened anew.
                    let mut server = site.direct()?;
                    server.demand(&["CONFIG", "SET", "appendonly", "no"])?;
                    server.demand(&["CONFIG", "SET", "appendonly", "yes"]).map(drop)
                })))
            }
        }
    }
}

type Undo = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// A fault in force. Healed by [`Broken::heal`], or on drop.
#[must_use = "dropping it heals the server"]
pub struct Broken {
    fault: Fault,
    undo: Option<Undo>,
}

impl Broken {
    /// Takes the cause away. The server is not asked to save: that is its, or bgsafe's, business.
    pub fn heal(mut self) -> io::Result<()> {
        self.undo.take().map_or(Ok(()), |undo| undo())
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.undo.take().map(|undo| undo()) {
            eprintln!("lab: {:?} could not be undone: {error}", self.fault);
        }
    }
}

impl std::fmt::Debug for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broken").field("fault", &self.fault).finish_non_exhaustive()
    }
}

/// Kills every child of a server as it appears.
struct ChildKiller {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    site: Site,
}

impl ChildKiller {
    fn start(site: &Site) -> io::Result<ChildKiller> {
        // Microseconds a key: a child of a nearly empty server must live long enough to be seen.
        site.direct()?.demand(&["CONFIG", "SET", "rdb-key-save-delay", "20000"])?;
        site.direct()?.demand(&["SET", "bgsafe:lab:seed", "1"])?;
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, pid) = (stop.clone(), site.pid);
        let thread = std::thread::spawn(move || {
            while !flag.load(Acquire) {
                process::kill_children(pid);
                std::thread::sleep(Duration::from_millis(4));
            }
        });
        Ok(ChildKiller { stop, thread: Some(thread), site: site.clone() })
    }
}

impl Drop for ChildKiller {
    fn drop(&mut self) {
        let delay = self.site.direct().and_then(|mut server| {
            server.demand(&["CONFIG", "SET", "rdb-key-save-delay", "0"])?;
            // A child that was forked with the old delay would take for ever: it is the last to be killed.
            process::kill_children(self.site.pid);
            Ok(())
        });
        if let Err(error) = delay {
            eprintln!("lab: the save delay could not be undone: {error}");
        }
        self.stop.store(true, Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One BGSAVE, slowed down so that its child can be found, and killed.
fn kill_one_save(site: &Site, server: &mut Direct) -> io::Result<()> {
    server.demand(&["CONFIG", "SET", "rdb-key-save-delay", "10000000"])?;
    let started = server.command(&["BGSAVE"]);
    // Read at fork: the child keeps it, later saves do not.
    server.demand(&["CONFIG", "SET", "rdb-key-save-delay", "0"])?;
    if let Reply::Error(text) = started? {
        return Err(io::Error::other(format!("upstream: BGSAVE answered {text}")));
    }
    wait_until("the child of BGSAVE to appear", || Ok(process::kill_children(site.pid) > 0))?;
    wait_until("the child of BGSAVE to end", || Ok(process::children(site.pid).is_empty()))
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

/// Writes until nothing more fits.
fn fill(ballast: &Path) -> io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(ballast)?;
    let mut block = vec![0; 1 << 20];
    while !block.is_empty() {
        match file.write(&block) {
            Ok(count) if count == block.len() => {}
            Ok(_) => block.truncate(block.len() / 2),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => block.truncate(block.len() / 2),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn has(program: &str) -> bool {
    super::find::Places::of_this_process(None).on_path(program).is_some()
}
