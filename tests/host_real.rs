//! The host as it is: a real server's process, directory and limits, and every change made and taken back.
//!
//! Tests that need root, or a kernel that allows more, say `SKIPPED` and why. Only processes that a test started are
//! ended, by their pid.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use bgsafe::guard::evidence::host::{Dump, Limit, NO_LIMIT};
use bgsafe::guard::evidence::{HostFacts, Reason};
use bgsafe::guard::remedy::{Change, OVERCOMMIT_FILE, Resource};
use bgsafe::host::linux::Linux;
use bgsafe::host::{Asked, Host, HostError, here};
use bgsafe::testing::client::text;
use bgsafe::testing::faults::process::children;
use bgsafe::testing::server::{Options, Server, free_port, we_are_root};
use common::{eventually, program};

const OVERCOMMIT: &str = "/proc/sys/vm/overcommit_memory";

fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

fn asked(server: &Server) -> Asked {
    let mut direct = server.direct().unwrap();
    let number = |text: Option<String>| text.and_then(|text| text.trim().parse().ok());
    Asked {
        last_save: None,
        local: true,
        process_id: number(direct.info("process_id").unwrap()),
        uptime_secs: number(direct.info("uptime_in_seconds").unwrap()),
        tcp_port: Some(server.port()),
        dir: Some(server.dir().to_str().unwrap().into()),
        dbfilename: Some("dump.rdb".into()),
        logfile: Some(server.dir().parent().unwrap().join("server.log").to_str().unwrap().into()),
    }
}

fn saved(server: &Server) {
    server.cli(&["SET", "key", "value"]).unwrap();
    assert_eq!(text(&server.cli(&["SAVE"]).unwrap()), "OK");
}

fn looked_at(server: &Server) -> (Linux, HostFacts) {
    let host = Linux::new();
    let facts = host.facts(&asked(server));
    assert_eq!(facts.pid.get(), Some(server.pid()), "{:?}", facts.pid);
    (host, facts)
}

fn start(options: Options) -> Server {
    Server::start(&program(), options).unwrap()
}

#[test]
fn a_live_server_is_found_and_seen() {
    let server = start(Options { unprivileged: true, ..Options::default() });
    saved(&server);
    let facts = here().facts(&asked(&server));
    assert_eq!(facts.pid.get(), Some(server.pid()), "{:?}", facts.pid);
    let uid = server.site().uid.unwrap_or(rustix::process::geteuid().as_raw());
    assert_eq!(facts.process.uid.get(), Some(uid));
    let dir = fs::metadata(server.dir()).unwrap();
    let place = &facts.place;
    assert_eq!(place.dir.known().map(|dir| dir.as_path()), Some(server.dir()));
    assert_eq!(place.deleted.get(), Some(false));
    assert_eq!(place.owner.get(), Some((dir.uid(), dir.gid())));
    assert_eq!(place.mode.get(), Some(dir.mode() & 0o7777));
    assert_eq!((place.writable.get(), place.read_only.get()), (Some(true), Some(false)));
    let vfs = rustix::fs::statvfs(server.dir()).unwrap();
    let free = place.free.get().unwrap();
    assert!(free.abs_diff(vfs.f_bavail * vfs.f_frsize) < 1 << 30, "{free}");
    assert_eq!(place.size.get(), Some(vfs.f_blocks * vfs.f_frsize));
    let size = fs::metadata(server.dir().join("dump.rdb")).unwrap().len();
    let dump = place.dump.known().unwrap();
    assert!(
        matches!(dump, Dump::File { size: seen, uid: owner, .. } if (*seen, *owner) == (size, uid)),
        "{dump:?}"
    );
    assert!(place.filesystem.known().is_some() && place.host_read_only.get() == Some(false));
    let process = &facts.process;
    assert!(process.rss.is_and(|rss| *rss > 1 << 20) && process.data.is_and(|data| *data > 1 << 20));
    assert!(
        process.nproc.known().is_some()
            && process.nofile.known().is_some()
            && process.fsize.known().is_some()
    );
    assert!(process.fds.is_and(|fds| *fds > 4), "{:?}", process.fds);
    assert!(process.user_threads.is_and(|threads| *threads >= 4), "{:?}", process.user_threads);
    assert_eq!(process.children.known(), Some(&vec![]));
    assert!(facts.memory.total.is_and(|total| *total > 1 << 20) && facts.memory.overcommit.known().is_some());
    assert!(facts.log.known().is_some(), "{:?}", facts.log);
    assert_eq!(facts.root.known().is_some(), Path::new(OVERCOMMIT).exists());
}

#[test]
fn another_port_age_or_number_is_another_server() {
    let server = start(Options::default());
    let asked = asked(&server);
    for other in [
        Asked { tcp_port: Some(free_port().unwrap()), ..asked.clone() },
        Asked { uptime_secs: Some(asked.uptime_secs.unwrap() + 60), ..asked.clone() },
        Asked { process_id: Some(std::process::id().into()), ..asked.clone() },
        Asked { local: false, ..asked.clone() },
    ] {
        let facts = Linux::new().facts(&other);
        assert_eq!(facts.pid.known(), None, "{other:?}");
        assert_eq!(facts, HostFacts { pid: facts.pid.clone(), ..HostFacts::default() });
    }
}

#[test]
fn a_deleted_directory_is_seen_and_made_again() {
    let server = start(Options::default());
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let make = |host: &Linux, owner: (u32, u32)| {
        let (pid, dir) = (server.pid(), server.dir().to_owned());
        host.apply(&Change::MakeDir { pid, dir, uid: owner.0, gid: owner.1, mode: 0o750 })
    };
    let (host, _) = looked_at(&server);
    assert!(matches!(make(&host, me), Err(HostError::Moved(_))), "it is there");
    fs::remove_dir_all(server.dir()).unwrap();
    let (host, facts) = looked_at(&server);
    assert_eq!(facts.place.deleted.get(), Some(true));
    assert_eq!(facts.place.dir.known().map(|dir| dir.as_path()), Some(server.dir()));

    std::os::unix::fs::symlink("/", server.dir()).unwrap();
    assert!(matches!(make(&host, me), Err(HostError::Refused { .. })), "a link in its place is left alone");
    fs::remove_file(server.dir()).unwrap();

    let parent = server.dir().parent().unwrap();
    let aside = parent.with_extension("aside");
    fs::rename(parent, &aside).unwrap();
    std::os::unix::fs::symlink(&aside, parent).unwrap();
    let led_astray = make(&host, me);
    fs::remove_file(parent).unwrap();
    fs::rename(&aside, parent).unwrap();
    assert!(led_astray.is_err(), "a link on the way: {led_astray:?}");
    assert!(!server.dir().exists());

    make(&host, me).unwrap();
    let made = fs::metadata(server.dir()).unwrap();
    assert_eq!(((made.uid(), made.gid()), made.mode() & 0o7777), (me, 0o750));
    assert_eq!(make(&host, me).unwrap().undo, None, "again is no change");
    assert!(
        matches!(make(&host, (me.0 + 1, me.1)), Err(HostError::Refused { .. })),
        "another owner's is left alone"
    );
    let chown = Change::Chown { pid: server.pid(), dir: server.dir().into(), uid: me.0, gid: me.1 };
    assert!(
        matches!(host.apply(&chown), Err(HostError::Moved(_))),
        "the process is still in the deleted one"
    );
}

#[test]
fn owner_and_mode_are_changed_and_put_back() {
    let server = start(Options { unprivileged: true, ..Options::default() });
    let before = fs::metadata(server.dir()).unwrap();
    let (host, _) = looked_at(&server);
    let chmod = Change::Chmod { pid: server.pid(), dir: server.dir().into(), mode: 0o500 };
    let applied = host.apply(&chmod).unwrap();
    assert_eq!(fs::metadata(server.dir()).unwrap().mode() & 0o7777, 0o500);
    if server.site().uid.is_some() {
        assert_eq!(looked_at(&server).1.place.writable.get(), Some(false));
    }
    host.apply(&applied.undo.unwrap()).unwrap();
    assert_eq!(fs::metadata(server.dir()).unwrap().mode(), before.mode());
    let elsewhere = Change::Chmod { pid: server.pid(), dir: server.dir().join("x"), mode: 0o700 };
    assert!(matches!(host.apply(&elsewhere), Err(HostError::Moved(_))));

    let Some(uid) = server.site().uid else { return skipped("owners are changed by root only") };
    fs::write(server.dir().join("inside"), "").unwrap();
    chown(server.dir(), Some(0), Some(0)).unwrap();
    assert_eq!(looked_at(&server).1.place.writable.get(), Some(false), "a wrong owner");
    let change = Change::Chown { pid: server.pid(), dir: server.dir().into(), uid, gid: uid };
    let applied = host.apply(&change).unwrap();
    let owner = |path: &Path| fs::metadata(path).map(|file| (file.uid(), file.gid())).unwrap();
    assert_eq!(owner(server.dir()), (uid, uid));
    assert_eq!(owner(&server.dir().join("inside")), (0, 0), "nothing below it");
    assert_eq!(looked_at(&server).1.place.writable.get(), Some(true));
    saved(&server);
    host.apply(&applied.undo.unwrap()).unwrap();
    assert_eq!(owner(server.dir()), (0, 0));
}

#[test]
fn a_server_in_a_directory_of_the_system_changes_nothing_there() {
    // It never saves: there is nothing in it, and it is ended without a word.
    let server = start(Options::default().arg(&["--dir", "/tmp", "--dbfilename", "bgsafe-host-test.rdb"]));
    let (host, facts) = looked_at(&server);
    assert_eq!(facts.place.dir.known().map(|dir| dir.as_path()), Some(Path::new("/tmp")));
    let before = fs::metadata("/tmp").unwrap();
    for change in [
        Change::Chown { pid: server.pid(), dir: "/tmp".into(), uid: before.uid(), gid: before.gid() },
        Change::Chmod { pid: server.pid(), dir: "/tmp".into(), mode: before.mode() & 0o7777 },
    ] {
        assert!(matches!(host.apply(&change), Err(HostError::Refused { .. })), "{change:?}");
    }
}

#[test]
fn a_limit_is_changed_and_put_back() {
    // The kernel lets a container's root change only what runs under its own number.
    let server = start(Options::default());
    let (host, facts) = looked_at(&server);
    for (resource, before) in
        [(Resource::Nofile, facts.process.nofile.get()), (Resource::Nproc, facts.process.nproc.get())]
    {
        let before = before.unwrap();
        let soft = before.soft.min(1 << 20) - 1;
        let applied =
            host.apply(&Change::Limit { pid: server.pid(), resource, soft, hard: before.hard }).unwrap();
        let read = |facts: HostFacts| match resource {
            Resource::Nofile => facts.process.nofile.get(),
            Resource::Nproc => facts.process.nproc.get(),
        };
        assert_eq!(read(looked_at(&server).1), Some(Limit { soft, hard: before.hard }));
        host.apply(&applied.undo.unwrap()).unwrap();
        assert_eq!(read(looked_at(&server).1), Some(before));
    }
    let stranger = Change::Limit { pid: std::process::id(), resource: Resource::Nofile, soft: 9, hard: 9 };
    assert!(matches!(host.apply(&stranger), Err(HostError::Moved(_))));
    assert!(matches!(Linux::new().apply(&stranger), Err(HostError::Moved(_))), "no server by its name");
}

/// This machine as it is now, with an empty first process: a sandbox's own does not show its descriptors to root.
fn but_the_first_process(root: &Path) -> Linux {
    let proc = root.join("proc");
    fs::create_dir_all(proc.join("1/fd")).unwrap();
    for file in ["stat", "status", "mountinfo"] {
        fs::write(proc.join("1").join(file), fs::read(Path::new("/proc/1").join(file)).unwrap()).unwrap();
    }
    for entry in fs::read_dir("/proc").unwrap().flatten().filter(|entry| entry.file_name() != "1") {
        std::os::unix::fs::symlink(entry.path(), proc.join(entry.file_name())).unwrap();
    }
    Linux::at(root)
}

#[test]
fn only_dead_temporary_files_are_removed() {
    if !we_are_root() {
        return skipped("only root sees who has a file open");
    }
    let server = start(Options::default().arg(&["--rdb-key-save-delay", "500000"]));
    let old = SystemTime::now() - Duration::from_secs(600);
    let file = |name: &str, touched: SystemTime| {
        let path = server.dir().join(name);
        fs::write(&path, "half a dump").unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(touched).unwrap();
    };
    // Numbers that no process can have: above the kernel's largest.
    let dead = ["temp-4194999.rdb", "temp-rewriteaof-4194998.aof", "temp-rewriteaof-bg-4194997.aof"];
    dead.iter().for_each(|name| file(name, old));
    file("temp-4194996.rdb", SystemTime::now());
    file("temp-4194995.rdb", old);
    let open = fs::File::open(server.dir().join("temp-4194995.rdb")).unwrap();
    file(&format!("temp-{}.rdb", server.pid()), old);
    file("other.rdb", old);
    for key in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] {
        server.cli(&["SET", key, "value"]).unwrap();
    }
    server.cli(&["BGSAVE"]).unwrap();
    eventually("a child", Duration::from_secs(5), || !children(server.pid()).is_empty());
    let child = format!("temp-{}.rdb", children(server.pid())[0]);
    eventually("its file", Duration::from_secs(5), || server.dir().join(&child).exists());
    fs::File::options().write(true).open(server.dir().join(&child)).unwrap().set_modified(old).unwrap();

    let (mut host, mut facts) = looked_at(&server);
    let scratch = tempfile::tempdir().unwrap();
    if let Some(Reason::Denied(why)) = facts.place.dead_temps.reason() {
        eprintln!("PARTLY SKIPPED, the first process stays out of sight: {why}");
        host = but_the_first_process(scratch.path());
        facts = host.facts(&asked(&server));
    }
    if let Some(why) = facts.place.dead_temps.reason() {
        return skipped(&format!("who has files open cannot be seen here: {why}"));
    }
    let names: Vec<String> = fs::read_dir(server.dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let seen: Vec<_> =
        facts.place.dead_temps.known().unwrap().iter().map(|temp| temp.name.as_str()).collect();
    assert_eq!(seen, dead);
    let change =
        Change::RemoveDeadTemps { pid: server.pid(), dir: server.dir().into(), names: names.clone() };
    let applied = host.apply(&change).unwrap();
    assert_eq!(applied.undo, None);
    for name in &names {
        assert_eq!(server.dir().join(name).exists(), !dead.contains(&name.as_str()), "{name}");
    }
    assert!(matches!(host.apply(&change), Err(HostError::Moved(_))), "none is left");
    drop(open);
}

/// Puts `vm.overcommit_memory` back however the test ends, and keeps others out meanwhile.
struct Sysctl {
    value: String,
    _lock: fs::File,
}

impl Sysctl {
    fn held() -> Sysctl {
        let path = std::env::temp_dir().join("bgsafe-sysctl.lock");
        let lock = fs::File::options().create(true).truncate(false).write(true).open(path).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        Sysctl { value: fs::read_to_string(OVERCOMMIT).unwrap(), _lock: lock }
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        fs::write(OVERCOMMIT, &self.value).unwrap();
        let ours = fs::read_to_string(OVERCOMMIT_FILE).is_ok_and(|text| text.contains("bgsafe"));
        if ours {
            fs::remove_file(OVERCOMMIT_FILE).unwrap();
        }
    }
}

#[test]
fn overcommit_is_changed_kept_and_put_back() {
    let host = Linux::new();
    let may = we_are_root() && rustix::fs::access(OVERCOMMIT, rustix::fs::Access::WRITE_OK).is_ok();
    if !may {
        return skipped("kernel settings are written by root only");
    }
    if !Path::new("/etc/sysctl.d").is_dir() || Path::new(OVERCOMMIT_FILE).exists() {
        return skipped("/etc/sysctl.d is missing, or holds our file already");
    }
    let sysctl = Sysctl::held();
    let before: u8 = sysctl.value.trim().parse().unwrap();
    // Never 2: other programs here would fail to fork.
    let value = if before == 1 { 0 } else { 1 };
    let read = || fs::read_to_string(OVERCOMMIT).unwrap().trim().parse::<u8>().unwrap();
    let applied = host.apply(&Change::Overcommit { value, keep: true }).unwrap();
    assert_eq!(read(), value);
    let kept = fs::read_to_string(OVERCOMMIT_FILE).unwrap();
    assert!(kept.ends_with(&format!("\nvm.overcommit_memory = {value}\n")), "{kept}");
    assert_eq!(fs::metadata(OVERCOMMIT_FILE).unwrap().permissions().mode() & 0o7777, 0o644);
    host.apply(&applied.undo.unwrap()).unwrap();
    assert_eq!(read(), before);
    assert!(!Path::new(OVERCOMMIT_FILE).exists());
    drop(sysctl);

    let broken = std::panic::catch_unwind(|| {
        let _sysctl = Sysctl::held();
        Linux::new().apply(&Change::Overcommit { value, keep: true }).unwrap();
        panic!("on purpose: a test that breaks off leaves the host as it was");
    });
    assert!(broken.is_err());
    let sysctl = Sysctl::held();
    assert_eq!((read(), Path::new(OVERCOMMIT_FILE).exists()), (before, false));
    drop(sysctl);
}

/// A control group of version 1 for processes; gone with it.
struct Group(std::path::PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        // The server in it has just ended; the kernel lets go of it a moment later.
        eventually("the group to be empty", Duration::from_secs(5), || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn a_control_groups_limit_is_seen_changed_and_put_back() {
    let path = Path::new("/sys/fs/cgroup/pids").join(format!("bgsafe-test-{}", std::process::id()));
    if !we_are_root() || fs::create_dir(&path).is_err() {
        return skipped("no control groups of version 1 that we may add to");
    }
    let group = Group(path);
    let server = start(Options::default());
    fs::write(group.0.join("cgroup.procs"), server.pid().to_string()).unwrap();
    fs::write(group.0.join("pids.max"), "100").unwrap();
    let (host, facts) = looked_at(&server);
    let seen = &facts.cgroup;
    assert_eq!((seen.pids_path.known(), seen.pids_max.get()), (Some(&group.0), Some(100)), "{seen:?}");
    assert!(seen.pids_current.is_and(|tasks| (1..100).contains(tasks)), "{seen:?}");
    let file = group.0.join("pids.max");
    let applied = host.apply(&Change::CgroupMax { file: file.clone(), value: 200 }).unwrap();
    assert_eq!(looked_at(&server).1.cgroup.pids_max.get(), Some(200));
    host.apply(&applied.undo.unwrap()).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), "100");
    let applied = host.apply(&Change::CgroupMax { file: file.clone(), value: NO_LIMIT }).unwrap();
    assert_eq!((applied.after.as_str(), fs::read_to_string(&file).unwrap().trim()), ("max", "max"));
}

/// Ends what it started.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // `unshare --kill-child` ends the server with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_in_another_pid_namespace_is_found_by_the_number_it_knows() {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        return skipped("unshare does not work here");
    }
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().canonicalize().unwrap();
    let port = free_port().unwrap();
    let server = unshare()
        .arg(&program().path)
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "3600", "1", "--dir"])
        .arg(&dir)
        .spawn()
        .map(Ended)
        .unwrap();
    let connect =
        || bgsafe::testing::client::Direct::connect(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
    eventually("the server to answer", Duration::from_secs(10), || {
        connect().is_ok_and(|mut direct| direct.command(&["PING"]).is_ok_and(|pong| text(&pong) == "PONG"))
    });
    let mut direct = connect().unwrap();
    let number = |text: Option<String>| text.and_then(|text| text.trim().parse().ok());
    let asked = Asked {
        local: true,
        process_id: number(direct.info("process_id").unwrap()),
        uptime_secs: number(direct.info("uptime_in_seconds").unwrap()),
        tcp_port: Some(port),
        dbfilename: Some("dump.rdb".into()),
        ..Asked::default()
    };
    assert_eq!(asked.process_id, Some(1), "its own namespace counts from one");
    let facts = Linux::new().facts(&asked);
    let pid = facts.pid.get().unwrap_or_else(|| panic!("{:?}", facts.pid));
    assert!(children(server.0.id()).contains(&pid));
    assert_eq!(facts.process.container.get(), Some(true));
    assert_eq!(facts.place.dir.known(), Some(&dir));
    let other = Asked { tcp_port: Some(free_port().unwrap()), ..asked };
    assert_eq!(Linux::new().facts(&other).pid.known(), None);
}
