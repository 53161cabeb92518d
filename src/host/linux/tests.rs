//! Kernels, control groups and containers that are not at hand, as trees of files.

use std::path::Path;

use super::fixture::{Fixture, PID, Spoil};
use crate::guard::evidence::fact::Fact::{self, Known, Unknown};
use crate::guard::evidence::host::{Dump, Limit, NO_LIMIT};
use crate::guard::evidence::{HostFacts, Reason};
use crate::host::{Asked, Host};

#[test]
fn of_a_plain_machine_everything_is_known() {
    let at = Fixture::new();
    at.process(41, "redis-rdb-bgsav", PID, &[41], 990.0);
    let facts = at.facts();
    let me = rustix::process::geteuid().as_raw();
    assert_eq!(facts.pid, Known(PID));
    let process = &facts.process;
    assert_eq!((&process.uid, &process.gid, &process.groups), (&Known(me), &Known(9), &Known(vec![9, 30])));
    assert_eq!((&process.rss, &process.data), (&Known(102_400), &Known(204_800)));
    assert_eq!(
        (&process.caps, &process.thp_off, &process.oom_score_adj),
        (&Known(0), &Known(true), &Known(-17))
    );
    assert_eq!(process.nproc, Known(Limit { soft: 10, hard: NO_LIMIT }));
    assert_eq!(process.nofile, Known(Limit { soft: 1024, hard: 4096 }));
    assert_eq!(process.fsize, Fact::UNKNOWN);
    assert_eq!((&process.fds, &process.user_threads), (&Known(2), &Known(12)));
    assert_eq!(process.children, Known(vec![(41, 'S')]));
    assert_eq!((&process.container, &process.kubernetes), (&Known(false), &Known(false)));
    assert_eq!(process.unit, Known(Some("redis-server.service".into())));
    assert_eq!(process.confined_by, Known(None));
    let memory = &facts.memory;
    assert_eq!((&memory.overcommit, &memory.total), (&Known(0), &Known(1_024_000)));
    assert_eq!((&memory.thp, &memory.thp_defrag), (&Known("always".into()), &Known("madvise".into())));
    assert_eq!((&memory.pid_max, &memory.threads_max), (&Known(32_768), &Fact::UNKNOWN));
    let place = &facts.place;
    assert_eq!((&place.dir, &place.deleted), (&Known("/var/lib/redis".into()), &Known(false)));
    assert_eq!((&place.filesystem, &place.quota), (&Known("ext4".into()), &Known(false)));
    assert_eq!((&place.read_only, &place.host_read_only), (&Known(false), &Known(false)));
    assert_eq!(place.writable, Known(true));
    assert!(matches!(place.dump, Known(Dump::File { size: 9, uid, .. }) if uid == me), "{:?}", place.dump);
    assert_eq!(place.dead_temps, Known(vec![]));
    assert!(place.free.is_and(|free| *free > 0) && place.size.get() >= place.free.get());
    assert_eq!(facts.log, Fact::UNKNOWN, "there is no log");
}

/// As for any user but the server's own and root: "not told" would tell nobody which right is missing.
#[test]
fn of_a_directory_that_may_not_be_seen_each_fact_says_why() {
    let at = Fixture::new();
    at.remove(&format!("/proc/{PID}/cwd"));
    at.write(&format!("/proc/{PID}/cwd"), "no link");
    let place = at.facts().place;
    for reason in
        [place.dir.reason(), place.free.reason(), place.writable.reason(), place.dead_temps.reason()]
    {
        assert!(reason.is_some_and(|why| *why != Reason::NotTold), "{place:?}");
    }
}

#[test]
fn exactly_one_process_is_the_server_or_none_is() {
    type Ask = fn(&mut Asked);
    let cases: &[(&str, Spoil, Ask, &str)] = &[
        ("found by its own number", |_| {}, |_| {}, ""),
        ("found without a port", |at| at.remove("/proc/40/net"), |asked| asked.tcp_port = Some(0), ""),
        ("three seconds are forgiven", |_| {}, |asked| asked.uptime_secs = Some(103), ""),
        (
            "a namespace's number",
            |at| at.process(PID, "redis-server", 1, &[PID, 1], 900.0),
            |asked| asked.process_id = Some(1),
            "",
        ),
        (
            "a name by its program only",
            |at| {
                at.process(PID, "start", 1, &[PID], 900.0);
                at.link("/proc/40/exe", Path::new("/usr/bin/valkey-server (deleted)"));
            },
            |_| {},
            "",
        ),
        ("a kernel without NSpid", |at| at.write("/proc/40/status", "Uid: 5 5\nThreads: 1\n"), |_| {}, ""),
        ("another host", |_| {}, |asked| asked.local = false, "another host"),
        ("no number told", |_| {}, |asked| asked.process_id = None, "process id"),
        ("an absurd number told", |_| {}, |asked| asked.process_id = Some(1 << 40), "process id"),
        ("no age told", |_| {}, |asked| asked.uptime_secs = None, "since when"),
        ("no such process", |_| {}, |asked| asked.process_id = Some(77), "no process here"),
        (
            "the number counts elsewhere",
            |at| at.process(PID, "redis-server", 1, &[PID, 9], 900.0),
            |_| {},
            "no process here",
        ),
        ("another program", |at| at.process(PID, "nginx", 1, &[PID], 900.0), |_| {}, "no server by its name"),
        ("our own first process", |_| {}, |asked| asked.process_id = Some(1), "no server by its name"),
        ("another age", |_| {}, |asked| asked.uptime_secs = Some(104), "did not start"),
        ("an absurd age", |_| {}, |asked| asked.uptime_secs = Some(u64::MAX), "did not start"),
        ("another port", |_| {}, |asked| asked.tcp_port = Some(6380), "does not listen"),
        (
            "the port is another process's",
            |at| at.link("/proc/40/fd/6", Path::new("socket:[1]")),
            |_| {},
            "does not listen",
        ),
        (
            "two in one network, but one has the socket",
            |at| {
                at.process(50, "redis-server", 1, &[50, PID], 900.0);
                at.listens(50, 6379, 555);
            },
            |_| {},
            "",
        ),
        (
            "two that could be",
            |at| {
                at.process(50, "redis-server", 1, &[50, PID], 900.0);
                at.listens(50, 6379, 777);
                at.link("/proc/50/fd/9", Path::new("socket:[777]"));
            },
            |_| {},
            "2 processes",
        ),
        ("no clock", |at| at.write("/proc/uptime", "soon"), |_| {}, "uptime"),
    ];
    for (name, spoil, ask, why) in cases {
        let at = Fixture::new();
        let mut asked = Fixture::asked();
        spoil(&at);
        ask(&mut asked);
        let facts = at.host().facts(&asked);
        match why.is_empty() {
            true => assert_eq!(facts.pid, Known(PID), "{name}"),
            false => {
                let said = matches!(&facts.pid, Unknown(Reason::Elsewhere(said)) if said.contains(why));
                assert!(said, "{name}: {:?}", facts.pid);
                assert_eq!(HostFacts { pid: facts.pid.clone(), ..HostFacts::default() }, facts, "{name}");
            }
        }
    }
}

#[test]
fn containers_units_and_confinement_are_told_apart() {
    type Seen = (Option<bool>, Option<bool>, Option<Option<&'static str>>);
    let cases: &[(&str, &str, Spoil, Seen)] = &[
        (
            "docker on version 2",
            "0::/system.slice/docker-0a1b.scope\n",
            |_| {},
            (Some(true), Some(false), Some(None)),
        ),
        (
            "kubernetes",
            "0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-9.scope\n",
            |_| {},
            (Some(true), Some(true), Some(None)),
        ),
        (
            "podman as a service",
            "0::/system.slice/redis.service/libpod-payload-9\n",
            |_| {},
            (Some(true), Some(false), Some(Some("redis.service"))),
        ),
        (
            "a shell in a session",
            "0::/user.slice/user@1000.service/app.slice/tmux.scope\n",
            |_| {},
            (Some(false), Some(false), Some(None)),
        ),
        (
            "another pid namespace",
            "0::/x\n",
            |at| at.link("/proc/40/ns/pid", Path::new("pid:[7]")),
            (Some(true), Some(false), Some(None)),
        ),
        (
            "our own container",
            "0::/\n",
            |at| {
                at.link("/proc/40/ns/pid", Path::new("pid:[7]"));
                at.link("/proc/self/ns/pid", Path::new("pid:[7]"));
                at.link("/proc/self/ns/cgroup", Path::new("cgroup:[7]"));
            },
            (Some(true), None, None),
        ),
        (
            "a pod that shows its token",
            "0::/\n",
            |at| {
                at.link("/proc/self/ns/cgroup", Path::new("cgroup:[7]"));
                at.write("/rootfs/run/secrets/kubernetes.io/serviceaccount/ca.crt", "");
            },
            (Some(false), Some(true), None),
        ),
        (
            "a namespace that is hidden",
            "0::/x\n",
            |at| at.remove("/proc/40/ns/pid"),
            (None, Some(false), Some(None)),
        ),
    ];
    for (name, group, spoil, (container, kubernetes, unit)) in cases {
        let at = Fixture::new();
        at.group(group);
        spoil(&at);
        let process = at.facts().process;
        assert_eq!((process.container.get(), process.kubernetes.get()), (*container, *kubernetes), "{name}");
        assert_eq!(process.unit.known().map(|unit| unit.as_deref()), *unit, "{name}");
    }
    for (label, enforce, confined) in [
        ("unconfined\n", None, Some(None)),
        ("", None, Some(None)),
        ("redis (enforce)\n", None, Some(Some("redis (enforce)"))),
        ("redis (complain)\n", None, Some(None)),
        ("_", None, None),
        ("system_u:system_r:redis_t:s0\0", Some("1"), Some(Some("system_u:system_r:redis_t:s0"))),
        ("system_u:system_r:unconfined_t:s0", Some("1"), Some(None)),
        ("system_u:system_r:redis_t:s0", Some("0"), Some(None)),
        ("system_u:system_r:redis_t:s0", Some("x"), None),
    ] {
        let at = Fixture::new();
        at.write("/proc/40/attr/current", label);
        if let Some(enforce) = enforce {
            at.write("/sys/fs/selinux/enforce", enforce);
        }
        let seen = at.facts().process.confined_by;
        assert_eq!(seen.known().map(|by| by.as_deref()), confined, "{label:?} {enforce:?}");
    }
}

#[test]
fn a_sandbox_is_told_from_a_filesystem_that_is_read_only() {
    const HOST: &str = "22 1 8:1 / / rw - ext4 /dev/a rw\n23 22 8:2 / /var rw - ext4 /dev/b rw,usrquota\n";
    for (name, theirs, host, read_only) in [
        ("writable", HOST.to_owned(), HOST.to_owned(), Some(false)),
        ("a sandbox", HOST.replace("/var rw", "/var ro"), HOST.to_owned(), Some(false)),
        (
            "the mount is read-only for all",
            HOST.replace("/var rw", "/var ro"),
            HOST.replace("/var rw", "/var ro"),
            Some(true),
        ),
        (
            "after an error of the disk",
            HOST.replace("b rw", "b ro"),
            HOST.replace("b rw", "b ro"),
            Some(true),
        ),
        ("a volume that the host does not mount", HOST.replace("8:2", "8:9"), HOST.to_owned(), Some(false)),
        ("garbage", "x".into(), HOST.to_owned(), None),
    ] {
        let at = Fixture::new();
        at.mounts(&host);
        at.write("/proc/40/mountinfo", &theirs);
        let place = at.facts().place;
        assert_eq!(place.host_read_only.get(), read_only, "{name}");
        assert_eq!(place.quota.get(), read_only.map(|_| true), "{name}");
    }
}

#[test]
fn absurd_and_missing_files_are_unknown_and_nothing_panics() {
    let absent = Fixture::empty().host().facts(&Fixture::asked());
    assert_eq!(absent, HostFacts::default(), "no /proc at all");
    let at = Fixture::new();
    let mut files = vec![];
    fn walk(dir: &Path, files: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => walk(&entry.path(), files),
                false => files.push(entry.path()),
            }
        }
    }
    walk(&at.path("/proc"), &mut files);
    walk(&at.path("/sys"), &mut files);
    assert!(files.len() > 40);
    let whole = at.facts();
    for file in files {
        let link = std::fs::read_link(&file).ok();
        let text = std::fs::read(&file).unwrap_or_default();
        for garbage in [
            &b""[..],
            b"\xff\xfe\0",
            b"-1",
            b"99999999999999999999999999",
            b") ( :::\n - \n",
            &[b'['; 70_000],
        ] {
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, garbage).unwrap();
            // Whatever it says, the unspoiled numbers are the same or unknown.
            let facts = at.facts();
            for (seen, was) in [
                (facts.cgroup.memory_max, &whole.cgroup.memory_max),
                (facts.process.data, &whole.process.data),
                (facts.memory.total, &whole.memory.total),
            ] {
                assert!(seen.known().is_none() || seen == *was, "{}", file.display());
            }
        }
        std::fs::remove_file(&file).unwrap();
        at.facts();
        match link {
            Some(target) => std::os::unix::fs::symlink(target, &file).unwrap(),
            None => std::fs::write(&file, text).unwrap(),
        }
    }
    assert_eq!(at.facts().pid, whole.pid, "everything is back");
}

#[test]
fn what_stands_where_the_dump_belongs_is_told_apart() {
    let cases: &[(&str, Spoil, &str, Option<Dump>)] = &[
        ("nothing yet", |_| {}, "other.rdb", Some(Dump::Missing)),
        ("a directory", |at| at.write("/rootfs/var/lib/redis/d/x", ""), "d", Some(Dump::NotAFile)),
        ("a link", |at| at.link("/rootfs/var/lib/redis/l", Path::new("dump.rdb")), "l", None),
        ("a path", |_| {}, "../redis/dump.rdb", None),
        ("itself", |_| {}, ".", None),
        ("no name", |_| {}, "", None),
        ("a name with a zero", |_| {}, "a\0b", None),
    ];
    for (name, spoil, dbfilename, dump) in cases {
        let at = Fixture::new();
        spoil(&at);
        let asked = Asked { dbfilename: Some((*dbfilename).into()), ..Fixture::asked() };
        assert_eq!(at.host().facts(&asked).place.dump.known(), dump.as_ref(), "{name}");
    }
}
