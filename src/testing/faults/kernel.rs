//! Strict overcommit accounting: the one fault that the whole machine shares.
//!
//! | danger | what holds |
//! |---|---|
//! | others run out | the limit leaves [`ROOM_KB`] beyond all that is committed; the server is loaded so full that its fork does not fit |
//! | it lasts | the server is started and loaded outside; strict is only the time from the strike to the heal |
//! | two at a time | a locked file: a second one would take the first one's settings for the operator's |
//! | the test is killed | a watchdog process, which holds the lock too, puts the settings back when its pipe closes |
//!
//! Refuses to know: Redis, but for the fork that must fail. Invariant: when a [`Strict`] is gone, all three settings
//! are as they were.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

use super::super::client::{Direct, Reply};
use super::super::server::Site;
use super::{Undo, no_child, process, wait_until};

/// What others may still commit while it lasts.
const ROOM_KB: u64 = 1_792 << 10;
/// So many values of 64 MB: their sum must be well above the room. Not larger ones, as writers wait for each.
const VALUES: u32 = 40;
const LAST_BIT: &str = "536870911";
/// What the lab itself takes, twice over.
const NEEDED_KB: u64 = 6 << 20;
/// More than any machine has: strict in name only.
const UNBOUND_KB: u64 = 64 << 30;
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
const TRIES: u32 = 5;

/// Put back by whoever notices first that it is time; doing it twice does no harm. Ratio and kbytes are one setting
/// with two faces: setting one zeroes the other (mm/util.c:overcommit_ratio_handler).
const WATCHDOG: &str = r#"
read -r _
echo "$1" > /proc/sys/vm/overcommit_memory
if [ "$3" = 0 ]; then echo "$2" > /proc/sys/vm/overcommit_ratio; else echo "$3" > /proc/sys/vm/overcommit_kbytes; fi
"#;

/// Fork fails with ENOMEM, for real. The server must have been started under [`Strict::in_name`].
pub(super) fn starve_fork(site: &Site, server: &mut Direct) -> io::Result<Undo> {
    for number in 0..VALUES {
        let name = format!("bgsafe:lab:bulk:{number}");
        server.demand(&["SETBIT", &name, LAST_BIT, "0"])?;
    }
    let strict = Strict::enter(ROOM_KB)?;
    for _ in 0..TRIES {
        if let Reply::Error(_) = server.command(&["BGSAVE"])? {
            return Ok(Undo::new(move || strict.leave()));
        }
        // Somebody let go of much memory just now. SIGUSR1 ends a child without a failure (rdb.c:backgroundSaveDoneHandlerDisk).
        process::signal_children(site.pid, Signal::USR1);
        wait_until("a save in progress to end", || no_child(server))?;
        strict.set_room(ROOM_KB)?;
    }
    Err(io::Error::other(format!("host: fork found room {TRIES} times under strict accounting")))
}

/// Is there memory enough to play with, and may the settings be written?
pub(super) fn possible() -> Result<(), String> {
    let look = || {
        let free = meminfo("MemAvailable")?;
        if free < NEEDED_KB {
            return Err(io::Error::other(format!("needs 6 GB of free memory, there are {free} kB")));
        }
        File::options().write(true).open(path("memory")).map(drop)
    };
    look().map_err(|error| format!("host: vm.overcommit_memory: {error}"))
}

/// The three settings, when nobody of the lab has changed them: waits for that.
pub fn settings() -> io::Result<[String; 3]> {
    let _lock = lock()?;
    Settings::read().map(|settings| settings.0)
}

/// Strict accounting, until dropped.
pub struct Strict {
    before: Settings,
    // The pipe's other end is its standard input.
    watchdog: Child,
    _lock: File,
}

impl Strict {
    /// Nobody can fail, but allocators that ask at their start are told that memory is accounted for. jemalloc maps
    /// without reservation otherwise, and such a server's fork is not charged either (pages.c:os_overcommits_proc).
    pub fn in_name() -> io::Result<Strict> {
        Strict::enter(UNBOUND_KB)
    }

    fn enter(room_kb: u64) -> io::Result<Strict> {
        let lock = lock()?;
        let before = Settings::read()?;
        let [memory, ratio, kbytes] = &before.0;
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "bgsafe-watchdog", memory, ratio, kbytes])
            .stdin(Stdio::piped())
            .stdout(lock.try_clone()?)
            .stderr(Stdio::null())
            // A Ctrl-C is not for it.
            .process_group(0)
            .spawn()?;
        let strict = Strict { before, watchdog, _lock: lock };
        strict.set_room(room_kb)?;
        fs::write(path("memory"), "2")?;
        Ok(strict)
    }

    fn set_room(&self, room_kb: u64) -> io::Result<()> {
        fs::write(path("kbytes"), (meminfo("Committed_AS")? + room_kb).to_string())
    }

    /// As drop, and tells.
    fn leave(self) -> io::Result<()> {
        self.before.restore()
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        if let Err(error) = self.before.restore() {
            eprintln!("lab: vm.overcommit_memory could not be put back: {error}");
        }
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// `overcommit_memory`, `_ratio` and `_kbytes`.
struct Settings([String; 3]);

impl Settings {
    fn read() -> io::Result<Settings> {
        let value = |name| fs::read_to_string(path(name)).map(|text| text.trim().to_owned());
        Ok(Settings([value("memory")?, value("ratio")?, value("kbytes")?]))
    }

    fn restore(&self) -> io::Result<()> {
        let [memory, ratio, kbytes] = &self.0;
        fs::write(path("memory"), memory)?;
        match &**kbytes {
            "0" => fs::write(path("ratio"), ratio),
            _ => fs::write(path("kbytes"), kbytes),
        }
    }
}

fn path(name: &str) -> String {
    format!("/proc/sys/vm/overcommit_{name}")
}

fn meminfo(name: &str) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("host: no {name} in /proc/meminfo")))
}

fn lock() -> io::Result<File> {
    let path = std::env::temp_dir().join("bgsafe-sysctl.lock");
    let file = File::options().create(true).append(true).open(path)?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    // Asked again and again, rather than waited for without end.
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > deadline {
            return Err(io::Error::other("host: another lab has held bgsafe-sysctl.lock for a minute"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(file)
}
