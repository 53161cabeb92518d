//! Evidence of each cause, and what it must lead to.

use std::path::PathBuf;

use crate::guard::evidence::host::{DeadTemp, Dump, Limit, NO_LIMIT};
use crate::guard::evidence::log::{Errno, KernelClass, KernelLine, LogClass, LogLine};
use crate::guard::evidence::{Evidence, Fact, Healthy, HostFacts, Seen};
use crate::guard::remedy::Consent;
use crate::posture::Variant;
use Fact::Known;

pub const GB: u64 = 1 << 30;

/// A server in good health on a host in full sight.
pub fn healthy() -> Evidence {
    let mut e = Evidence { address: "127.0.0.1:6379".into(), ..Evidence::default() };
    e.look.read_info(
        "redis_version:7.0.15\r\nrun_id:a\r\nrole:master\r\nrdb_bgsave_in_progress:0\r\nrdb_last_bgsave_status:ok\r\n\
         rdb_changes_since_last_save:50\r\naof_last_write_status:ok\r\n",
    );
    (e.look.knob, e.look.save) = (Known("yes".into()), Known("3600 1 300 100 60 10000".into()));
    (e.look.dir, e.look.dbfilename) = (Known("/var/lib/redis".into()), Known("dump.rdb".into()));
    let server = &mut e.server;
    (server.used_memory, server.used_memory_dataset, server.used_memory_rss) =
        (Known(10 * GB), Known(8 * GB), Known(11 * GB));
    (server.last_cow_bytes, server.last_save_secs, server.latest_fork_usec) =
        (Known(GB), Known(20), Known(90_000));
    (server.maxmemory, server.total_system_memory) = (Known(0), Known(64 * GB));
    (server.oom_score_adj, server.protected_configs) = (Known("no".into()), Known("local".into()));
    (server.appendonly, server.rdbcompression) = (Known(false), Known(true));
    let host = &mut e.host;
    (host.pid, host.root, host.log, host.kernel) = (Known(812), Known(true), Known(vec![]), Known(vec![]));
    (host.process.uid, host.process.gid, host.process.caps) = (Known(103), Known(104), Known(0));
    (host.process.rss, host.process.data) = (Known(11 * GB), Known(12 * GB));
    host.process.nproc = Known(Limit { soft: 30_000, hard: 60_000 });
    host.process.nofile = Known(Limit { soft: 10_032, hard: 20_000 });
    host.process.fsize = Known(Limit { soft: NO_LIMIT, hard: NO_LIMIT });
    (host.process.user_threads, host.process.fds) = (Known(6), Known(40));
    (host.memory.overcommit, host.memory.available, host.memory.thp) =
        (Known(1), Known(40 * GB), Known("madvise".into()));
    (host.memory.total, host.memory.swap_free) = (Known(64 * GB), Known(0));
    (host.memory.commit_limit, host.memory.committed) = (Known(34 * GB), Known(30 * GB));
    let place = &mut host.place;
    place.dir = Known(PathBuf::from("/var/lib/redis"));
    (place.deleted, place.writable, place.read_only, place.immutable) =
        (Known(false), Known(true), Known(false), Known(false));
    (place.owner, place.mode) = (Known((103, 104)), Known(0o750));
    (place.free, place.free_inodes) = (Known(100 * GB), Known(1 << 20));
    place.dump = Known(Dump::File { size: 3 * GB, uid: 103, immutable: Known(false) });
    place.dead_temps = Known(vec![]);
    e.healthy = Some(Healthy {
        dir: "/var/lib/redis".into(),
        dbfilename: "dump.rdb".into(),
        save: "3600 1 300 100 60 10000".into(),
        owner: Some((103, 104)),
        mode: Some(0o750),
    });
    e
}

/// The last save failed, and bgsafe was there.
pub fn failing(change: impl FnOnce(&mut Evidence)) -> Evidence {
    let mut e = healthy();
    e.look.save_ok = Known(false);
    e.seen = Seen { variant: Some(Variant::Rdb), failures: 1, oom_kills_before: Some(0), ..Seen::default() };
    e.host.cgroup.oom_kills = Known(0);
    change(&mut e);
    e
}

/// … and the log says why.
pub fn logged(class: LogClass) -> Evidence {
    failing(|e| e.host.log = Known(vec![line(class)]))
}

pub fn aof_failing(refusal: &str, class: Option<LogClass>) -> Evidence {
    let mut e = healthy();
    (e.look.aof_ok, e.server.appendonly) = (Known(false), Known(true));
    e.seen = Seen { variant: Some(Variant::Aof), refusal: Some(refusal.into()), ..Seen::default() };
    e.host.log = Known(class.into_iter().map(line).collect());
    e
}

pub fn line(class: LogClass) -> LogLine {
    LogLine { class, text: format!("{class:?}") }
}

pub fn with(mut e: Evidence, change: impl FnOnce(&mut Evidence)) -> Evidence {
    change(&mut e);
    e
}

pub fn temps(e: &mut Evidence) {
    let temp = |name: &str| DeadTemp { name: name.into(), size: GB };
    e.host.place.dead_temps = Known(vec![temp("temp-99.rdb"), temp("dump.rdb"), temp("../temp-1.rdb")]);
}

pub fn mode_2(e: &mut Evidence) {
    e.host.memory.overcommit = Known(2);
}

pub fn tight(e: &mut Evidence) {
    let group = &mut e.host.cgroup;
    (group.version, group.memory_path) = (Known(2), Known(PathBuf::from("system.slice/redis.service")));
    (group.memory_max, group.memory_current) = (Known(12 * GB), Known(12 * GB));
}

pub fn pids(e: &mut Evidence) {
    let group = &mut e.host.cgroup;
    (group.pids_max, group.pids_current, group.pids_refused) = (Known(64), Known(64), Known(3));
    group.pids_path = Known(PathBuf::from("/system.slice/redis.service"));
}

pub fn nproc(e: &mut Evidence) {
    e.host.process.user_threads = Known(30_000);
}

pub fn foreign_dir(e: &mut Evidence) {
    (e.host.place.owner, e.host.place.writable) = (Known((0, 0)), Known(false));
}

pub fn version(server: &'static str, version: &'static str) -> impl FnOnce(&mut Evidence) {
    move |e| (e.look.server, e.look.version) = (Known(server.into()), Known(version.into()))
}

pub const FULL: &str = "MISCONF Errors writing to the AOF file: No space left on device";
pub const EIO: &str = "MISCONF Errors writing to the AOF file: Input/output error";

/// Evidence, its first finding, whether that is sure, and the first remedy: what it does and who must agree.
pub type Row = (&'static str, Evidence, &'static str, bool, &'static str, Consent);

#[rustfmt::skip]
pub fn scenarios() -> Vec<Row> {
    use Consent::{Ask, Auto, Never};
    use LogClass::{ForkEagain, ForkEnomem, Open, Rename, Signal, Write};
    const PROMISE: &str = "let the kernel promise memory to a fork";
    const TEMPS: &str = "remove temporary dumps of dead saves";
    const ROOM: &str = "make room";
    const RIGHTS: &str = "give the data directory its recorded owner and mode back";
    const PROTECT: &str = "let the child be killed before the server";
    const ALLOW: &str = "allow the path, or look at the disk";
    let kernel = |class, text: &str| Known(vec![KernelLine { class, text: text.into() }]);
    vec![
        ("enomem told, mode 2", with(logged(ForkEnomem), mode_2), "fork-enomem", true, PROMISE, Auto),
        ("bare -ERR, mode 2", with(failing(|e| e.seen.fork_failed = true), mode_2), "fork-enomem", true, PROMISE, Auto),
        ("own retry fails, mode 2", failing(mode_2), "fork-enomem", true, PROMISE, Auto),
        ("mode 2, not root", with(logged(ForkEnomem), |e| { mode_2(e); e.host.root = Known(false) }), "fork-enomem", true, "set the kernel's overcommit mode", Never),
        ("enomem beats a small disk", with(logged(ForkEnomem), |e| { mode_2(e); e.host.place.free = Known(0) }), "fork-enomem", true, PROMISE, Auto),
        ("enomem after a full disk", failing(|e| { e.host.log = Known(vec![line(Write(Errno::Nospc)), line(ForkEnomem)]); mode_2(e) }), "fork-enomem", true, PROMISE, Auto),
        ("a full disk after enomem", failing(|e| { e.host.log = Known(vec![line(ForkEnomem), line(Write(Errno::Nospc))]); mode_2(e) }), "disk-full", true, ROOM, Never),
        ("a tight group, nothing changed", failing(|e| { e.look.changes = Known(0); tight(e) }), "cgroup-headroom", false, "raise the control group's memory limit", Ask),
        ("eagain told", logged(ForkEagain), "fork-eagain", true, "raise the limit that binds", Never),
        ("eagain by pids.max", with(logged(ForkEagain), pids), "fork-eagain", true, "raise the control group's limit of processes", Ask),
        ("pids.max seen", failing(pids), "fork-eagain", true, "raise the control group's limit of processes", Ask),
        ("nproc seen", failing(nproc), "fork-eagain", true, "raise the server's limit of processes", Auto),
        ("oom kill counted", with(logged(Signal(9)), |e| { e.host.cgroup.oom_kills = Known(1); tight(e) }), "child-oom-killed", true, "raise the control group's memory limit", Ask),
        ("oom kill, no group seen", with(logged(Signal(9)), |e| e.host.cgroup.oom_kills = Known(1)), "child-oom-killed", true, PROTECT, Auto),
        ("oom kill in dmesg", with(logged(Signal(9)), |e| { e.host.kernel = kernel(KernelClass::OomKill, "Killed process 99 (redis-server)") }), "child-oom-killed", true, PROTECT, Auto),
        ("oom kill, 5.0", with(with(logged(Signal(9)), |e| e.host.cgroup.oom_kills = Known(1)), version("redis", "5.0.14")), "child-oom-killed", true, "give the server more memory", Never),
        ("signal 9 of nobody", logged(Signal(9)), "child-killed", true, "ask for one save", Ask),
        ("signal 11", logged(Signal(11)), "child-crashed", true, "find a replica and test the memory", Never),
        ("signal 7", logged(Signal(7)), "child-crashed", true, "find a replica and test the memory", Never),
        ("signal 25", logged(Signal(25)), "file-size-limit", true, "lift the file size limit", Never),
        ("tight group, nothing told", failing(tight), "cgroup-headroom", false, "raise the control group's memory limit", Ask),
        ("enospc, free again", logged(Write(Errno::Nospc)), "disk-full", true, ROOM, Never),
        ("enospc with dead temps", with(logged(Write(Errno::Nospc)), temps), "disk-full", true, TEMPS, Auto),
        ("enospc, no compression", with(logged(Write(Errno::Nospc)), |e| e.server.rdbcompression = Known(false)), "disk-full", true, "compress dumps", Ask),
        ("free below the last dump", failing(|e| e.host.place.free = Known(GB)), "disk-full", true, ROOM, Never),
        ("free below its growth", failing(|e| e.host.place.free = Known(3 * GB + 1)), "disk-full", false, ROOM, Never),
        ("inodes gone", with(logged(Open(Errno::Nospc)), |e| e.host.place.free_inodes = Known(0)), "inodes-full", true, "find what uses the inodes", Never),
        ("enospc at open, not counted", with(logged(Open(Errno::Nospc)), |e| e.host.place.free_inodes = Fact::UNKNOWN), "inodes-full", false, "find what uses the inodes", Never),
        ("no blocks at open", with(logged(Open(Errno::Nospc)), |e| e.host.place.free = Known(0)), "disk-full", true, ROOM, Never),
        ("quota", logged(Write(Errno::Dquot)), "quota", true, "raise the quota", Never),
        ("emfile", logged(Open(Errno::Mfile)), "fd-limit", true, "raise the server's limit of open files", Auto),
        ("descriptors gone", failing(|e| e.host.process.fds = Known(10_030)), "fd-limit", false, "raise the server's limit of open files", Auto),
        ("eio", logged(Write(Errno::Io)), "io-error", true, "take a copy elsewhere, then look at the disk", Never),
        ("estale", logged(Rename(Errno::Stale)), "io-error", true, "take a copy elsewhere, then look at the disk", Never),
        ("dir deleted, by RESP", failing(|e| e.look.dir = Known(String::new())), "dir-missing", true, "make the data directory again and tell the server", Auto),
        ("dir deleted, elsewhere", with(failing(|e| e.look.dir = Known(String::new())), |e| e.host = HostFacts::elsewhere("x")), "dir-missing", true, "tell the server its recorded directory again", Auto),
        ("dir deleted, protected", failing(|e| { e.host.place.deleted = Known(true); e.host.place.writable = Known(false); e.server.protected_configs = Known("no".into()) }), "dir-missing", true, "make the directory and tell the server", Never),
        ("enoent told", logged(Open(Errno::Noent)), "dir-missing", true, "make the data directory again and tell the server", Auto),
        ("dir of root", with(logged(Open(Errno::Acces)), foreign_dir), "dir-permission", true, RIGHTS, Auto),
        ("dir of root, no record", with(failing(foreign_dir), |e| e.healthy = None), "dir-permission", true, "give the data directory to the server's user", Ask),
        ("dir is the root", with(failing(foreign_dir), |e| { e.healthy = None; e.host.place.dir = Known("/".into()) }), "dir-permission", true, "let the server write there", Never),
        ("dump is a directory", logged(Rename(Errno::Isdir)), "dir-permission", true, "let the server write there", Never),
        ("sticky", failing(|e| { (e.host.place.mode, e.host.place.owner) = (Known(0o1777), Known((0, 0))); e.host.place.dump = Known(Dump::File { size: GB, uid: 0, immutable: Known(false) }) }), "dir-permission", true, "let the server write there", Never),
        ("immutable", with(logged(Open(Errno::Perm)), |e| e.host.place.immutable = Known(true)), "dir-immutable", true, "find out why, then take the flag off", Never),
        ("immutable, flags unseen", with(logged(Open(Errno::Perm)), |e| e.host.place.immutable = Fact::UNKNOWN), "dir-immutable", true, "find out why, then take the flag off", Never),
        ("sandbox", with(logged(Open(Errno::Rofs)), |e| { (e.host.place.read_only, e.host.place.host_read_only) = (Known(true), Known(false)) }), "read-only-filesystem", true, ALLOW, Never),
        ("remounted", failing(|e| e.host.place.read_only = Known(true)), "read-only-filesystem", true, ALLOW, Never),
        ("eacces with right bits", logged(Open(Errno::Acces)), "lsm-denied", false, "read what was denied, then label the directory", Never),
        ("avc in the log", with(logged(Open(Errno::Acces)), |e| { e.host.kernel = kernel(KernelClass::LsmDenied, "avc: denied") }), "lsm-denied", true, "read what was denied, then label the directory", Never),
        ("aof on a full disk", aof_failing(FULL, None), "disk-full", true, ROOM, Never),
        ("aof on a full disk, temps", with(aof_failing(FULL, Some(LogClass::AofWrite(Errno::Nospc))), temps), "disk-full", true, TEMPS, Auto),
        ("aof write of another errno", aof_failing("x", Some(LogClass::AofWrite(Errno::Other))), "aof-write-error", true, ROOM, Never),
        ("aof sync, 7.0", aof_failing(EIO, Some(LogClass::AofSync(Errno::Other))), "aof-fsync-sticky", true, "switch the append-only file off and on", Ask),
        ("aof sync, 7.2", with(aof_failing(EIO, Some(LogClass::AofSync(Errno::Other))), version("redis", "7.2.4")), "aof-fsync-sticky", true, "have the append-only file rewritten", Auto),
        ("aof sync, EIO", with(aof_failing(EIO, Some(LogClass::AofSync(Errno::Io))), version("redis", "7.4.1")), "aof-fsync-sticky", true, "have the append-only file rewritten", Auto),
        ("aof refused, EIO, no log", aof_failing(EIO, None), "io-error", true, "take a copy elsewhere, then look at the disk", Never),
        ("aof sync, 6.2", with(aof_failing(EIO, Some(LogClass::AofSync(Errno::Other))), version("redis", "6.2.16")), "aof-fsync-sticky", true, "have the append-only file rewritten", Auto),
        ("aof sync, Valkey", with(aof_failing(EIO, Some(LogClass::AofSync(Errno::Other))), version("valkey", "8.0.1")), "aof-fsync-sticky", true, "have the append-only file rewritten", Auto),
        ("dead end", failing(|e| e.look.changes = Known(0)), "dead-end", false, "ask for one save", Auto),
        ("foreign dump in a good dir", failing(|e| { e.look.changes = Known(0); e.host.place.dump = Known(Dump::File { size: GB, uid: 0, immutable: Known(false) }) }), "dead-end", false, "ask for one save", Auto),
        ("unknown", failing(|e| e.seen.failures = 3), "unknown", false, "ask for one save", Ask),
        ("told, not understood", logged(Write(Errno::Other)), "unknown", false, "ask for one save", Ask),
        ("hung on a disk, Valkey", with(failing(|e| { e.look.saving = Known(true); e.server.current_save_secs = Known(90); e.host.process.children = Known(vec![(99, 'D')]) }), version("valkey", "8.1.0")), "child-hung", false, "cancel the save", Ask),
        ("break-in", with(logged(Open(Errno::Acces)), |e| e.look.dir = Known("/etc/cron.d".into())), "break-in-signs", true, "look, and touch nothing", Never),
    ]
}
