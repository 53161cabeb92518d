//! Faults of control groups, of version 1 or 2, whichever this host has.
//!
//! Refuses to know: Redis, but for its pid. Invariant: a group is the lab's own; whoever is in it goes back to where
//! the server came from before it is removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::time::{Duration, Instant};

use super::super::client::Direct;
use super::super::server::Site;
use super::{Undo, noise};

/// A controller and the file of its limit: of version 2, then of version 1.
#[derive(Clone, Copy)]
pub(super) struct Controller {
    name: &'static str,
    limits: [&'static str; 2],
    usages: [&'static str; 2],
}

/// How many processes and threads.
pub(super) const PIDS: Controller =
    Controller { name: "pids", limits: ["pids.max", "pids.max"], usages: ["pids.current", "pids.current"] };
/// How many bytes.
pub(super) const MEMORY: Controller = Controller {
    name: "memory",
    limits: ["memory.max", "memory.limit_in_bytes"],
    usages: ["memory.current", "memory.usage_in_bytes"],
};

/// What the child of a save must have for itself: it compresses a value into a buffer as large (rdb.c:rdbSaveLzfStringObject).
const VALUE_BYTES: usize = 128 << 20;
/// What the server may grow by: enough for writers, not for that buffer.
const ROOM_BYTES: u64 = 64 << 20;
/// How long the last process of a group may take to be gone.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Fork fails: the server's group has as many processes and threads as it may.
pub(super) fn pids_limit(site: &Site) -> io::Result<Undo> {
    let group = Group::make(PIDS, site.pid)?;
    group.take(site.pid)?;
    group.limit(&group.usage()?.to_string())?;
    Ok(group.undo())
}

/// The server fits into its group, a child that saves does not. The child is the OOM killer's choice because the
/// server was started with oom-score-adj; no writes are needed for it to outgrow the limit.
pub(super) fn oom(site: &Site, server: &mut Direct) -> io::Result<Undo> {
    let group = Group::make(MEMORY, site.pid)?;
    // Memory belongs to the group in which it was first touched: so the move comes before the load.
    group.take(site.pid)?;
    server.demand::<&[u8]>(&[b"SET", b"bgsafe:lab:bulk", &noise(VALUE_BYTES)])?;
    group.limit(&(group.usage()? + ROOM_BYTES).to_string())?;
    Ok(group.undo())
}

/// Can groups of this controller be made here? Tried with one.
pub(super) fn possible(controller: Controller) -> Result<(), String> {
    Group::make(controller, std::process::id()).map(drop).map_err(|error| error.to_string())
}

/// A control group of ours; removed on drop.
struct Group {
    dir: PathBuf,
    /// `cgroup.procs` of the group where the server was.
    home: PathBuf,
    controller: Controller,
}

impl Group {
    /// As near to the root as we may: other people's groups are theirs.
    fn make(controller: Controller, pid: u32) -> io::Result<Group> {
        let (mount, own) = place(controller.name, pid)?;
        let mut parent = mount.clone();
        let mut below = own.components();
        let mut last;
        loop {
            match Group::make_in(&parent, &mount.join(&own), controller, pid) {
                Ok(group) => return Ok(group),
                Err(error) => last = error,
            }
            match below.next() {
                Some(part) => parent.push(part),
                None => break,
            }
        }
        Err(io::Error::other(format!("host: no {} control group can be made: {last}", controller.name)))
    }

    fn make_in(parent: &Path, home: &Path, controller: Controller, pid: u32) -> io::Result<Group> {
        // Of several threads that try with their own process each has a name of its own.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let dir = parent.join(format!("bgsafe-lab-{pid}-{}", MADE.fetch_add(1, Relaxed)));
        fs::create_dir(&dir)?;
        let group = Group { dir, home: home.join("cgroup.procs"), controller };
        group.file(controller.limits)?;
        Ok(group)
    }

    fn take(&self, pid: u32) -> io::Result<()> {
        fs::write(self.dir.join("cgroup.procs"), pid.to_string())
    }

    fn limit(&self, value: &str) -> io::Result<()> {
        fs::write(self.file(self.controller.limits)?, value)
    }

    fn usage(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.file(self.controller.usages)?)?;
        text.trim().parse().map_err(io::Error::other)
    }

    /// Of these names the one that is there.
    fn file(&self, names: [&str; 2]) -> io::Result<PathBuf> {
        let mut paths = names.iter().map(|name| self.dir.join(name));
        paths.find(|path| path.exists()).ok_or_else(|| {
            io::Error::other(format!("{} is not enabled in {}", self.controller.name, self.dir.display()))
        })
    }

    fn remove(&self) -> io::Result<()> {
        let deadline = Instant::now() + LEAVE_TIMEOUT;
        loop {
            let pids = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
            for pid in pids.lines() {
                // Who is ending cannot move, and need not.
                let _ = fs::write(&self.home, pid);
            }
            match fs::remove_dir(&self.dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                end => return end,
            }
        }
    }

    fn undo(self) -> Undo {
        Undo::new(move || self.remove())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("lab: the control group {} stays: {error}", self.dir.display());
        }
    }
}

/// Where a controller is mounted, and the path of a process's group below that.
fn place(controller: &str, pid: u32) -> io::Result<(PathBuf, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = |kind: &str, option: Option<&str>| {
        mounts.lines().find_map(|line| {
            // The fields before the dash vary in number: man 5 proc_pid_mountinfo.
            let (before, after) = line.split_once(" - ")?;
            let mut after = after.split(' ');
            let (is, options) = (after.next()?, after.nth(1)?);
            let has = option.is_none_or(|option| options.split(',').any(|word| word == option));
            (is == kind && has).then(|| before.split(' ').nth(4).map(PathBuf::from))?
        })
    };
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let own = |wanted: &str| {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let names = fields.next()?;
            let path = fields.next()?.trim_start_matches('/');
            names.split(',').any(|name| name == wanted).then(|| PathBuf::from(path))
        })
    };
    let found = match mount("cgroup", Some(controller)) {
        Some(mount) => own(controller).map(|own| (mount, own)),
        None => mount("cgroup2", None).zip(own("")),
    };
    found.ok_or_else(|| io::Error::other(format!("host: the {controller} controller is not mounted")))
}
