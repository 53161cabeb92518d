//! Scenarios: what the evidence of each cause leads to, first finding and first remedy.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::guard::evidence::host::{DeadTemp, Dump, Limit, NO_LIMIT};
use crate::guard::evidence::log::{Errno, KernelClass, KernelLine, LogClass, LogLine};
use crate::guard::evidence::{Fact, Healthy, HostFacts, Look, Role, Seen, ServerFacts};
use crate::guard::remedy::{Consent, Plan, REMEDIES, Reach, Step, choose, command, commands, remedies};
use crate::posture::Variant;
use Fact::Known;

const GB: u64 = 1 << 30;
const IDS: &str = "overcommit-memory fork-enomem fork-eagain memory-headroom cgroup-headroom child-oom-killed \
    child-killed child-crashed thp-always maxmemory-high no-swap-container disk-full disk-headroom inodes-full quota \
    dir-missing dir-permission dir-immutable read-only-filesystem lsm-denied file-size-limit fd-limit io-error \
    aof-write-error aof-fsync-sticky dead-end child-hung break-in-signs zombie-primary replica-will-abort \
    switch-left-off rewrite-persisted-no save-points-missing save-points-dense aof-rewrite-settings fork-slow \
    probe-hazard sentinel-will-fail-over config-blocked unknown";

/// A server in good health on a host in full sight.
fn healthy() -> Evidence {
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
fn failing(change: impl FnOnce(&mut Evidence)) -> Evidence {
    let mut e = healthy();
    e.look.save_ok = Known(false);
    e.seen = Seen { variant: Some(Variant::Rdb), failures: 1, oom_kills_before: Some(0), ..Seen::default() };
    e.host.cgroup.oom_kills = Known(0);
    change(&mut e);
    e
}

/// … and the log says why.
fn logged(class: LogClass) -> Evidence {
    failing(|e| e.host.log = Known(vec![line(class)]))
}

fn aof_failing(refusal: &str, class: Option<LogClass>) -> Evidence {
    let mut e = healthy();
    (e.look.aof_ok, e.server.appendonly) = (Known(false), Known(true));
    e.seen = Seen { variant: Some(Variant::Aof), refusal: Some(refusal.into()), ..Seen::default() };
    e.host.log = Known(class.into_iter().map(line).collect());
    e
}

fn line(class: LogClass) -> LogLine {
    LogLine { class, text: format!("{class:?}") }
}

fn with(mut e: Evidence, change: impl FnOnce(&mut Evidence)) -> Evidence {
    change(&mut e);
    e
}

fn temps(e: &mut Evidence) {
    let temp = |name: &str| DeadTemp { name: name.into(), size: GB };
    e.host.place.dead_temps = Known(vec![temp("temp-99.rdb"), temp("dump.rdb"), temp("../temp-1.rdb")]);
}

fn mode_2(e: &mut Evidence) {
    e.host.memory.overcommit = Known(2);
}

fn tight(e: &mut Evidence) {
    let group = &mut e.host.cgroup;
    (group.version, group.memory_path) = (Known(2), Known(PathBuf::from("system.slice/redis.service")));
    (group.memory_max, group.memory_current) = (Known(12 * GB), Known(12 * GB));
}

fn pids(e: &mut Evidence) {
    let group = &mut e.host.cgroup;
    (group.pids_max, group.pids_current, group.pids_refused) = (Known(64), Known(64), Known(3));
    group.pids_path = Known(PathBuf::from("/system.slice/redis.service"));
}

fn nproc(e: &mut Evidence) {
    e.host.process.user_threads = Known(30_000);
}

fn foreign_dir(e: &mut Evidence) {
    (e.host.place.owner, e.host.place.writable) = (Known((0, 0)), Known(false));
}

fn version(server: &'static str, version: &'static str) -> impl FnOnce(&mut Evidence) {
    move |e| (e.look.server, e.look.version) = (Known(server.into()), Known(version.into()))
}

const FULL: &str = "MISCONF Errors writing to the AOF file: No space left on device";
const EIO: &str = "MISCONF Errors writing to the AOF file: Input/output error";

/// Evidence, its first finding, whether that is sure, and the first remedy: what it does and who must agree.
type Row = (&'static str, Evidence, &'static str, bool, &'static str, Consent);

fn scenarios() -> Vec<Row> {
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
        (
            "bare -ERR, mode 2",
            with(failing(|e| e.seen.fork_failed = true), mode_2),
            "fork-enomem",
            true,
            PROMISE,
            Auto,
        ),
        ("own retry fails, mode 2", failing(mode_2), "fork-enomem", true, PROMISE, Auto),
        (
            "mode 2, not root",
            with(logged(ForkEnomem), |e| {
                mode_2(e);
                e.host.root = Known(false)
            }),
            "fork-enomem",
            true,
            "set the kernel's overcommit mode",
            Never,
        ),
        (
            "enomem beats a small disk",
            with(logged(ForkEnomem), |e| {
                mode_2(e);
                e.host.place.free = Known(0)
            }),
            "fork-enomem",
            true,
            PROMISE,
            Auto,
        ),
        ("eagain told", logged(ForkEagain), "fork-eagain", true, "raise the limit that binds", Never),
        (
            "eagain by pids.max",
            with(logged(ForkEagain), pids),
            "fork-eagain",
            true,
            "raise the control group's limit of processes",
            Ask,
        ),
        (
            "pids.max seen",
            failing(pids),
            "fork-eagain",
            true,
            "raise the control group's limit of processes",
            Ask,
        ),
        ("nproc seen", failing(nproc), "fork-eagain", true, "raise the server's limit of processes", Auto),
        (
            "oom kill counted",
            with(logged(Signal(9)), |e| {
                e.host.cgroup.oom_kills = Known(1);
                tight(e)
            }),
            "child-oom-killed",
            true,
            "raise the control group's memory limit",
            Ask,
        ),
        (
            "oom kill, no group seen",
            with(logged(Signal(9)), |e| e.host.cgroup.oom_kills = Known(1)),
            "child-oom-killed",
            true,
            PROTECT,
            Auto,
        ),
        (
            "oom kill in dmesg",
            with(logged(Signal(9)), |e| {
                e.host.kernel = kernel(KernelClass::OomKill, "Killed process 99 (redis-server)")
            }),
            "child-oom-killed",
            true,
            PROTECT,
            Auto,
        ),
        ("signal 9 of nobody", logged(Signal(9)), "child-killed", true, "ask for one save", Ask),
        ("signal 11", logged(Signal(11)), "child-crashed", true, "find a replica and test the memory", Never),
        ("signal 7", logged(Signal(7)), "child-crashed", true, "find a replica and test the memory", Never),
        ("signal 25", logged(Signal(25)), "file-size-limit", true, "lift the file size limit", Never),
        (
            "tight group, nothing told",
            failing(tight),
            "cgroup-headroom",
            false,
            "raise the control group's memory limit",
            Ask,
        ),
        ("enospc, free again", logged(Write(Errno::Nospc)), "disk-full", true, ROOM, Never),
        ("enospc with dead temps", with(logged(Write(Errno::Nospc)), temps), "disk-full", true, TEMPS, Auto),
        (
            "enospc, no compression",
            with(logged(Write(Errno::Nospc)), |e| e.server.rdbcompression = Known(false)),
            "disk-full",
            true,
            "compress dumps",
            Ask,
        ),
        (
            "free below the last dump",
            failing(|e| e.host.place.free = Known(GB)),
            "disk-full",
            true,
            ROOM,
            Never,
        ),
        (
            "free below its growth",
            failing(|e| e.host.place.free = Known(3 * GB + 1)),
            "disk-full",
            false,
            ROOM,
            Never,
        ),
        (
            "inodes gone",
            with(logged(Open(Errno::Nospc)), |e| e.host.place.free_inodes = Known(0)),
            "inodes-full",
            true,
            "find what uses the inodes",
            Never,
        ),
        (
            "enospc at open, not counted",
            with(logged(Open(Errno::Nospc)), |e| e.host.place.free_inodes = Fact::UNKNOWN),
            "inodes-full",
            false,
            "find what uses the inodes",
            Never,
        ),
        (
            "no blocks at open",
            with(logged(Open(Errno::Nospc)), |e| e.host.place.free = Known(0)),
            "disk-full",
            true,
            ROOM,
            Never,
        ),
        ("quota", logged(Write(Errno::Dquot)), "quota", true, "raise the quota", Never),
        (
            "emfile",
            logged(Open(Errno::Mfile)),
            "fd-limit",
            true,
            "raise the server's limit of open files",
            Auto,
        ),
        (
            "descriptors gone",
            failing(|e| e.host.process.fds = Known(10_030)),
            "fd-limit",
            false,
            "raise the server's limit of open files",
            Auto,
        ),
        (
            "eio",
            logged(Write(Errno::Io)),
            "io-error",
            true,
            "take a copy elsewhere, then look at the disk",
            Never,
        ),
        (
            "estale",
            logged(Rename(Errno::Stale)),
            "io-error",
            true,
            "take a copy elsewhere, then look at the disk",
            Never,
        ),
        (
            "dir deleted, by RESP",
            failing(|e| e.look.dir = Known(String::new())),
            "dir-missing",
            true,
            "make the data directory again and tell the server",
            Auto,
        ),
        (
            "dir deleted, elsewhere",
            with(failing(|e| e.look.dir = Known(String::new())), |e| e.host = HostFacts::elsewhere("x")),
            "dir-missing",
            true,
            "tell the server its recorded directory again",
            Auto,
        ),
        (
            "dir deleted, protected",
            failing(|e| {
                e.host.place.deleted = Known(true);
                e.host.place.writable = Known(false);
                e.server.protected_configs = Known("no".into())
            }),
            "dir-missing",
            true,
            "make the directory and tell the server",
            Never,
        ),
        (
            "enoent told",
            logged(Open(Errno::Noent)),
            "dir-missing",
            true,
            "make the data directory again and tell the server",
            Auto,
        ),
        ("dir of root", with(logged(Open(Errno::Acces)), foreign_dir), "dir-permission", true, RIGHTS, Auto),
        (
            "dir of root, no record",
            with(failing(foreign_dir), |e| e.healthy = None),
            "dir-permission",
            true,
            "give the data directory to the server's user",
            Ask,
        ),
        (
            "dir is the root",
            with(failing(foreign_dir), |e| {
                e.healthy = None;
                e.host.place.dir = Known("/".into())
            }),
            "dir-permission",
            true,
            "let the server write there",
            Never,
        ),
        (
            "dump is a directory",
            logged(Rename(Errno::Isdir)),
            "dir-permission",
            true,
            "let the server write there",
            Never,
        ),
        (
            "sticky",
            failing(|e| {
                (e.host.place.mode, e.host.place.owner) = (Known(0o1777), Known((0, 0)));
                e.host.place.dump = Known(Dump::File { size: GB, uid: 0, immutable: Known(false) })
            }),
            "dir-permission",
            true,
            "let the server write there",
            Never,
        ),
        (
            "immutable",
            with(logged(Open(Errno::Perm)), |e| e.host.place.immutable = Known(true)),
            "dir-immutable",
            true,
            "find out why, then take the flag off",
            Never,
        ),
        (
            "immutable, flags unseen",
            with(logged(Open(Errno::Perm)), |e| e.host.place.immutable = Fact::UNKNOWN),
            "dir-immutable",
            true,
            "find out why, then take the flag off",
            Never,
        ),
        (
            "sandbox",
            with(logged(Open(Errno::Rofs)), |e| {
                (e.host.place.read_only, e.host.place.host_read_only) = (Known(true), Known(false))
            }),
            "read-only-filesystem",
            true,
            ALLOW,
            Never,
        ),
        (
            "remounted",
            failing(|e| e.host.place.read_only = Known(true)),
            "read-only-filesystem",
            true,
            ALLOW,
            Never,
        ),
        (
            "eacces with right bits",
            logged(Open(Errno::Acces)),
            "lsm-denied",
            false,
            "read what was denied, then label the directory",
            Never,
        ),
        (
            "avc in the log",
            with(logged(Open(Errno::Acces)), |e| {
                e.host.kernel = kernel(KernelClass::LsmDenied, "avc: denied")
            }),
            "lsm-denied",
            true,
            "read what was denied, then label the directory",
            Never,
        ),
        ("aof on a full disk", aof_failing(FULL, None), "disk-full", true, ROOM, Never),
        (
            "aof on a full disk, temps",
            with(aof_failing(FULL, Some(LogClass::AofWrite(Errno::Nospc))), temps),
            "disk-full",
            true,
            TEMPS,
            Auto,
        ),
        (
            "aof write of another errno",
            aof_failing("x", Some(LogClass::AofWrite(Errno::Other))),
            "aof-write-error",
            true,
            ROOM,
            Never,
        ),
        (
            "aof sync, 7.0",
            aof_failing(EIO, Some(LogClass::AofSync(Errno::Other))),
            "aof-fsync-sticky",
            true,
            "switch the append-only file off and on",
            Ask,
        ),
        (
            "aof sync, 7.2",
            with(aof_failing(EIO, Some(LogClass::AofSync(Errno::Other))), version("redis", "7.2.4")),
            "aof-fsync-sticky",
            true,
            "have the append-only file rewritten",
            Auto,
        ),
        (
            "aof sync, 6.2",
            with(aof_failing(EIO, Some(LogClass::AofSync(Errno::Other))), version("redis", "6.2.16")),
            "aof-fsync-sticky",
            true,
            "have the append-only file rewritten",
            Auto,
        ),
        (
            "aof sync, Valkey",
            with(aof_failing(EIO, Some(LogClass::AofSync(Errno::Other))), version("valkey", "8.0.1")),
            "aof-fsync-sticky",
            true,
            "have the append-only file rewritten",
            Auto,
        ),
        ("dead end", failing(|e| e.look.changes = Known(0)), "dead-end", false, "ask for one save", Auto),
        (
            "foreign dump in a good dir",
            failing(|e| {
                e.look.changes = Known(0);
                e.host.place.dump = Known(Dump::File { size: GB, uid: 0, immutable: Known(false) })
            }),
            "dead-end",
            false,
            "ask for one save",
            Auto,
        ),
        ("unknown", failing(|e| e.seen.failures = 3), "unknown", false, "ask for one save", Ask),
        ("told, not understood", logged(Write(Errno::Other)), "unknown", false, "ask for one save", Ask),
        (
            "hung on a disk, Valkey",
            with(
                failing(|e| {
                    e.look.saving = Known(true);
                    e.server.current_save_secs = Known(90);
                    e.host.process.children = Known(vec![(99, 'D')])
                }),
                version("valkey", "8.1.0"),
            ),
            "child-hung",
            false,
            "cancel the save",
            Ask,
        ),
        (
            "break-in",
            with(logged(Open(Errno::Acces)), |e| e.look.dir = Known("/etc/cron.d".into())),
            "break-in-signs",
            true,
            "look, and touch nothing",
            Never,
        ),
    ]
}

#[test]
fn each_scenario_has_its_first_finding_and_remedy() {
    for (name, e, id, sure, does, consent) in scenarios() {
        let found = diagnose(&e);
        let first = found.first().unwrap_or_else(|| panic!("{name}: nothing found"));
        assert_eq!((first.check.id, first.hit.sure), (id, sure), "{name}: {found:#?}");
        assert_eq!(first.kind(), Kind::Cause, "{name}");
        let remedy = remedies(id).find(|remedy| (remedy.plan)(&e) != Plan::NotHere);
        let remedy = remedy.unwrap_or_else(|| panic!("{name}: no remedy"));
        assert_eq!((remedy.does, remedy.consent), (does, consent), "{name}");
        let auto = consent == Consent::Auto;
        let chosen = choose(&found, &e, Reach::Filesystem, &[]).filter(|(_, of, _)| of.check.id == id);
        assert!(!auto || chosen.is_some(), "{name}: not chosen");
        let again = choose(&found, &e, Reach::Filesystem, &[(id, does)]);
        assert!(
            again.is_none_or(|(again, ..)| (again.finding, again.does) != (id, does)),
            "{name}: chosen twice"
        );
    }
}

#[test]
fn in_peace_the_same_is_a_danger_or_advice() {
    let minutes_ago = |e: &mut Evidence| e.server.pings_refused = Known(4);
    #[rustfmt::skip]
    let table: Vec<(Evidence, &str, Kind)> = vec![
        (with(healthy(), mode_2), "overcommit-memory", Kind::Danger),
        (with(healthy(), |e| e.host.memory.overcommit = Known(0)), "overcommit-memory", Kind::Advice),
        (with(healthy(), pids), "fork-eagain", Kind::Danger),
        (with(healthy(), tight), "cgroup-headroom", Kind::Danger),
        (with(healthy(), |e| e.host.memory.available = Known(GB)), "memory-headroom", Kind::Danger),
        (with(healthy(), |e| e.host.place.free = Known(GB)), "disk-headroom", Kind::Danger),
        (with(healthy(), |e| e.host.place.free_inodes = Known(0)), "inodes-full", Kind::Danger),
        (with(healthy(), foreign_dir), "dir-permission", Kind::Danger),
        (with(healthy(), |e| e.look.dir = Known(String::new())), "dir-missing", Kind::Danger),
        (with(healthy(), |e| e.host.place.immutable = Known(true)), "dir-immutable", Kind::Danger),
        (with(healthy(), |e| e.host.place.read_only = Known(true)), "read-only-filesystem", Kind::Danger),
        (with(healthy(), |e| e.look.dir = Known("/root/.ssh".into())), "break-in-signs", Kind::Danger),
        (with(healthy(), |e| e.host.memory.thp = Known("always".into())), "thp-always", Kind::Danger),
        (with(healthy(), |e| { e.host.memory.thp = Known("always".into()); e.server.disable_thp = Known(true) }), "thp-always", Kind::Advice),
        (with(healthy(), |e| e.look.knob = Known("no".into())), "switch-left-off", Kind::Danger),
        (with(healthy(), |e| { e.look.knob = Known("no".into()); e.server.config_rewrites = Known(1); e.server.config_file = Known("/etc/redis.conf".into()) }), "rewrite-persisted-no", Kind::Danger),
        (with(healthy(), |e| e.look.save = Known(String::new())), "save-points-missing", Kind::Danger),
        (with(healthy(), |e| { e.look.save = Known(String::new()); e.healthy = None }), "save-points-missing", Kind::Advice),
        (with(healthy(), |e| e.look.save = Known("30 1".into())), "save-points-dense", Kind::Advice),
        (with(healthy(), |e| e.server.maxmemory = Known(60 * GB)), "maxmemory-high", Kind::Advice),
        (with(healthy(), |e| e.server.latest_fork_usec = Known(2_000_000)), "fork-slow", Kind::Advice),
        (with(healthy(), |e| { e.server.appendonly = Known(true); e.server.aof_rewrite_percentage = Known(0) }), "aof-rewrite-settings", Kind::Advice),
        (with(healthy(), |e| { e.host.process.container = Known(true); tight(e); e.host.cgroup.swap_max = Known(0) }), "no-swap-container", Kind::Advice),
        (with(healthy(), |e| e.host.process.kubernetes = Known(true)), "probe-hazard", Kind::Advice),
        (failing(minutes_ago), "probe-hazard", Kind::Danger),
        (failing(|e| e.server.sentinels = Known(3)), "sentinel-will-fail-over", Kind::Danger),
        (failing(|e| { e.server.sentinels = Known(3); e.server.replicas = Known(0) }), "zombie-primary", Kind::Danger),
        (failing(|e| { e.look.role = Known(Role::Replica); e.server.replica_ignores_disk_errors = Known(false) }), "replica-will-abort", Kind::Danger),
        (failing(|e| e.seen.config_denied = Some("NOPERM".into())), "config-blocked", Kind::Danger),
    ];
    for (e, id, kind) in table {
        let found = diagnose(&e);
        let hit = found.iter().find(|found| found.check.id == id);
        assert_eq!(hit.map(Found::kind), Some(kind), "{id}: {found:#?}");
    }
}

#[test]
fn nothing_is_found_where_all_is_well_or_nothing_is_known() {
    assert!(diagnose(&healthy()).is_empty(), "{:#?}", diagnose(&healthy()));
    assert!(diagnose(&Evidence::default()).is_empty());
}

#[test]
fn our_own_lowered_switch_is_not_left_off() {
    let e = failing(|e| e.look.knob = Known("no".into()));
    assert!(diagnose(&e).iter().all(|found| found.check.id != "switch-left-off"));
}

#[test]
fn every_id_has_one_row_that_says_everything() {
    let mut ids: Vec<_> = IDS.split_whitespace().collect();
    let mut rows: Vec<_> = CHECKS.iter().map(|check| check.id).collect();
    ids.sort_unstable();
    rows.sort_unstable();
    assert_eq!(ids, rows);
    for check in CHECKS {
        for sentence in [check.what, check.why, check.cure] {
            // One full stop, at the end; names of files have theirs inside.
            let stops = sentence.matches(". ").count() + sentence.matches("? ").count();
            assert!(sentence.ends_with('.') && stops == 0, "{}: {sentence}", check.id);
        }
        assert!(check.explain.len() > 200 && check.explain.ends_with('.'), "{}", check.id);
        assert!(!check.source.is_empty() && !check.needs.is_empty(), "{}", check.id);
        let cured = remedies(check.id).any(|remedy| (remedy.plan)(&healthy()) != Plan::NotHere);
        assert!(cured || check.kind == Kind::Advice, "{} says nothing to type", check.id);
    }
    for remedy in REMEDIES {
        assert!(ids.contains(&remedy.finding), "{}", remedy.finding);
        assert!(!remedy.does.is_empty() && !remedy.needs.is_empty() && !remedy.undo.is_empty());
        assert_eq!(remedy.reach == Reach::Human, remedy.consent == Consent::Never, "{}", remedy.does);
    }
}

#[test]
fn nothing_forbidden_is_ever_proposed() {
    for (name, e, ..) in scenarios() {
        for remedy in REMEDIES {
            let text = match (remedy.plan)(&e) {
                Plan::Steps(steps) => {
                    assert!(steps.iter().all(|step| step.reach() <= remedy.reach), "{}", remedy.does);
                    commands(&steps, &e)
                }
                Plan::ByHand(text) => text,
                Plan::NotHere => continue,
            };
            for word in [
                "SHUTDOWN",
                "FLUSH",
                "save ''",
                "setenforce",
                "777",
                "/dump.rdb && rm",
                "appendfsync always",
                "chown -R",
            ] {
                assert!(!text.contains(word), "{name}: {text}");
            }
            let mut words = text.split_whitespace();
            assert!(words.all(|word| word != "DEL" && word != "UNLINK"), "{name}: {text}");
            if let Some((_, removed)) = text.split_once("rm ") {
                assert!(
                    removed.split(' ').all(|file| file.contains("/temp-") && !file.contains("..")),
                    "{name}: {text}"
                );
            }
        }
    }
}

#[test]
fn a_command_names_this_server_and_host() {
    let told = |e: &Evidence| command(&diagnose(e)[0], e);
    for (e, text) in [
        (
            with(logged(LogClass::ForkEnomem), |e| {
                mode_2(e);
                e.host.root = Known(false)
            }),
            "sysctl -w vm.overcommit_memory=1",
        ),
        (failing(nproc), "prlimit --pid 812 --nproc=60000:60000"),
        (with(logged(LogClass::Write(Errno::Nospc)), temps), "rm /var/lib/redis/temp-99.rdb"),
        (with(failing(foreign_dir), |e| e.healthy = None), "chown 103:104 /var/lib/redis"),
        (
            failing(|e| e.look.dir = Known(String::new())),
            "install -d -o 103 -g 104 -m 0750 /var/lib/redis && redis-cli -h 127.0.0.1 -p 6379 CONFIG SET dir /var/lib/redis",
        ),
        (
            with(logged(LogClass::Signal(9)), |e| {
                e.host.cgroup.oom_kills = Known(1);
                tight(e)
            }),
            "echo 14495514624 > /sys/fs/cgroup/system.slice/redis.service/memory.max",
        ),
        (failing(pids), "echo 128 > /sys/fs/cgroup/system.slice/redis.service/pids.max"),
    ] {
        assert!(told(&e).starts_with(text), "{} is not {text}", told(&e));
    }
}

#[test]
fn a_remedy_never_reaches_farther_than_allowed() {
    for (name, e, ..) in scenarios() {
        let found = diagnose(&e);
        for reach in [Reach::Redis, Reach::Kernel, Reach::Cgroup, Reach::Filesystem] {
            if let Some((remedy, _, steps)) = choose(&found, &e, reach, &[]) {
                assert!(steps.iter().all(|step| step.reach() <= reach), "{name}: {}", remedy.does);
                assert!(steps.iter().all(|step| !matches!(step, Step::Command(words) if words.is_empty())));
            }
        }
    }
}

#[test]
fn versions_are_read_with_patience() {
    for (server, text, since_7) in [
        ("redis", "7.0.15", true),
        ("redis", "7.2.240-v3", true),
        ("redis", "6.2", false),
        ("valkey", "0.0.1", true),
        ("keydb", "6.3.4", false),
        ("redis", "255.255.255", true),
        ("redis", "next", false),
        ("redis", "99999999999999.1.1", false),
        ("other", "9.9.9", false),
    ] {
        let e = with(Evidence::default(), version(server, text));
        assert_eq!(super::failing::since(&e, 7, 0, 0), since_7, "{server} {text}");
    }
}

fn fact<T: std::fmt::Debug + Clone + 'static>(
    values: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Fact<T>> {
    prop_oneof![Just(Fact::UNKNOWN), values.prop_map(Known)].boxed()
}

fn count() -> BoxedStrategy<Fact<u64>> {
    fact(prop_oneof![Just(0), Just(1), 0..100u64, Just(GB), Just(u64::MAX - 1), Just(u64::MAX), any::<u64>()])
}

fn limit() -> BoxedStrategy<Fact<Limit>> {
    fact((any::<u64>(), any::<u64>()).prop_map(|(soft, hard)| Limit { soft, hard }))
}

fn words(list: &'static [&'static str]) -> BoxedStrategy<Fact<String>> {
    fact(prop::sample::select(list).prop_map(str::to_string))
}

fn errno() -> impl Strategy<Value = Errno> {
    use Errno::*;
    prop::sample::select(vec![Noent, Acces, Perm, Rofs, Nospc, Dquot, Mfile, Io, Stale, Isdir, Fbig, Other])
}

fn class() -> impl Strategy<Value = LogClass> {
    prop_oneof![
        Just(LogClass::ForkEnomem),
        Just(LogClass::ForkEagain),
        any::<u8>().prop_map(LogClass::Signal),
        errno().prop_map(LogClass::Open),
        errno().prop_map(LogClass::Write),
        errno().prop_map(LogClass::Rename),
        errno().prop_map(LogClass::AofWrite),
        errno().prop_map(LogClass::AofSync),
        Just(LogClass::Saved),
    ]
}

prop_compose! {
    fn look()(
        server in words(&["redis", "valkey", "keydb", "x"]),
        version in words(&["5.0.1", "6.2.16", "7.0.15", "8.1.0", "", "x.y", "7"]),
        role in fact(prop::sample::select(vec![Role::Primary, Role::Replica, Role::Other])),
        knob in words(&["yes", "no", ""]),
        save in words(&["", "3600 1", "1 1", "x", "1", "18446744073709551616 1"]),
        dir in words(&["", "/", "/data", "/etc/cron.d", "relative"]),
        dbfilename in words(&["dump.rdb", "root", ""]),
        (saving, save_ok, aof_ok) in (fact(any::<bool>()), fact(any::<bool>()), fact(any::<bool>())),
        changes in count(),
    ) -> Look {
        Look { server, version, role, knob, save, dir, dbfilename, saving, save_ok, aof_ok, changes, ..Look::default() }
    }
}

prop_compose! {
    fn server()(
        n in prop::collection::vec(count(), 15),
        flags in prop::collection::vec(fact(any::<bool>()), 6),
        oom_score_adj in words(&["no", "yes", "relative"]),
        protected_configs in words(&["no", "local", "yes"]),
    ) -> ServerFacts {
        let mut n = n.into_iter();
        let mut next = || n.next().unwrap_or_default();
        let mut flags = flags.into_iter();
        let mut flag = || flags.next().unwrap_or_default();
        ServerFacts {
            used_memory: next(), used_memory_dataset: next(), used_memory_rss: next(), maxmemory: next(),
            last_cow_bytes: next(), last_save_secs: next(), current_save_secs: next(), save_keys_done: next(),
            input_bytes_per_sec: next(), latest_fork_usec: next(), sentinels: next(), replicas: next(),
            aof_size: next(), aof_rewrite_percentage: next(), aof_rewrite_min_size: next(),
            appendonly: flag(), aof_load_truncated: flag(), rdbcompression: flag(), disable_thp: flag(),
            replica_ignores_disk_errors: flag(), aof_rewrite_ok: flag(),
            oom_score_adj, protected_configs, ..ServerFacts::default()
        }
    }
}

prop_compose! {
    fn host()(
        n in prop::collection::vec(count(), 16),
        flags in prop::collection::vec(fact(any::<bool>()), 8),
        limits in (limit(), limit(), limit()),
        pid in fact(any::<u32>()),
        uid in fact(0..3u32),
        overcommit in fact(any::<u8>()),
        mode in fact(any::<u32>()),
        thp in words(&["always", "never"]),
        path in fact(prop::sample::select(vec!["", "/", "/a/b", "../x", "/sys/fs/cgroup/a"]).prop_map(PathBuf::from)),
        dump in fact(prop_oneof![
            Just(Dump::Missing), Just(Dump::NotAFile),
            (any::<u64>(), 0..3u32, fact(any::<bool>()))
                .prop_map(|(size, uid, immutable)| Dump::File { size, uid, immutable }),
        ]),
        log in fact(prop::collection::vec(class().prop_map(line), 0..3)),
        kernel in fact(prop::collection::vec(prop::sample::select(vec![
            KernelClass::OomKill, KernelClass::IoError, KernelClass::LsmDenied,
        ]).prop_map(|class| KernelLine { class, text: String::new() }), 0..3)),
    ) -> HostFacts {
        let mut n = n.into_iter();
        let mut next = || n.next().unwrap_or_default();
        let mut flags = flags.into_iter();
        let mut flag = || flags.next().unwrap_or_default();
        let mut host = HostFacts { pid, log, kernel, root: flag(), ..HostFacts::default() };
        (host.process.nproc, host.process.nofile, host.process.fsize) = limits;
        (host.process.uid, host.process.gid, host.process.caps) = (uid.clone(), uid, next());
        (host.process.data, host.process.fds, host.process.user_threads) = (next(), next(), next());
        (host.process.container, host.process.kubernetes) = (flag(), flag());
        (host.memory.overcommit, host.memory.thp) = (overcommit, thp);
        (host.memory.commit_limit, host.memory.committed, host.memory.available) = (next(), next(), next());
        (host.memory.swap_free, host.memory.total) = (next(), next());
        let group = &mut host.cgroup;
        (group.memory_max, group.memory_current, group.oom_kills) = (next(), next(), next());
        (group.pids_max, group.pids_current) = (next(), next());
        (group.memory_path, group.pids_path) = (path.clone(), path.clone());
        let place = &mut host.place;
        (place.dir, place.mode, place.dump) = (path, mode, dump);
        (place.free, place.free_inodes) = (next(), next());
        (place.deleted, place.writable, place.read_only, place.immutable) = (flag(), flag(), flag(), flag());
        host
    }
}

prop_compose! {
    fn evidence()(
        look in look(), server in server(), host in host(),
        variant in prop::option::of(prop::sample::select(vec![Variant::Rdb, Variant::Aof])),
        refusal in prop::option::of(prop::sample::select(vec![FULL, EIO, "", ": "]).prop_map(str::to_string)),
        failures in any::<u32>(), fork_failed in any::<bool>(), oom_kills_before in prop::option::of(any::<u64>()),
        healthy in prop::option::of((prop::sample::select(vec!["/data", "/", "x"]), prop::option::of((0..3u32, 0..3u32)), prop::option::of(any::<u32>()))),
    ) -> Evidence {
        let healthy = healthy.map(|(dir, owner, mode)| Healthy {
            dir: dir.into(), dbfilename: "dump.rdb".into(), save: String::new(), owner, mode,
        });
        let seen = Seen { variant, refusal, failures, fork_failed, oom_kills_before, config_denied: None };
        Evidence { address: "h:1".into(), look, server, host, healthy, seen }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_evidence_is_borne(e in evidence()) {
        let found = diagnose(&e);
        let fails = super::failing::rdb(&e) || super::failing::aof(&e);
        let causes = found.iter().filter(|found| found.kind() == Kind::Cause).count();
        prop_assert!(fails || causes == 0, "{:?}", found);
        if e.look.save_ok.is(false) {
            prop_assert!(causes > 0, "a failure without any cause, not even unknown");
        }
        let unknown = found.iter().any(|f| f.check.id == "unknown" || f.check.id == "dead-end");
        prop_assert!(!unknown || causes == 1);
        prop_assert!(found.is_sorted_by_key(|f| (f.check.id != BREAK_IN, f.kind(), !f.hit.sure, f.severity())));
        unseen(&e);
        for found in &found {
            prop_assert!(!command(found, &e).is_empty());
        }
        for remedy in REMEDIES {
            let _ = (remedy.plan)(&e);
        }
        let chosen = choose(&found, &e, Reach::Filesystem, &[]);
        prop_assert!(chosen.is_none() || !break_in(&e));
        prop_assert_eq!(break_in(&e), found.first().is_some_and(|f| f.check.id == BREAK_IN));
    }
}
