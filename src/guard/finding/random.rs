//! Any evidence at all: known or not, absurd numbers included.

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::scenarios::{EIO, FULL, GB, line};
use super::trend::Ahead;
use crate::guard::evidence::host::{Dump, Limit};
use crate::guard::evidence::log::{Errno, KernelClass, KernelLine, LogClass};
use crate::guard::evidence::{Evidence, Fact, Healthy, HostFacts, Look, Role, Seen, ServerFacts};
use crate::posture::Variant;
use Fact::Known;

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
    pub fn evidence()(
        look in look(), server in server(), host in host(),
        variant in prop::option::of(prop::sample::select(vec![Variant::Rdb, Variant::Aof])),
        refusal in prop::option::of(prop::sample::select(vec![FULL, EIO, "", ": "]).prop_map(str::to_string)),
        failures in prop_oneof![0..3u32, any::<u32>()], fork_failed in any::<bool>(), oom_kills_before in prop::option::of(any::<u64>()),
        secs_ahead in prop::option::of(any::<u64>()),
        rewritten in prop::option::of(0..3u64).prop_map(Fact::from), left_off in prop::option::of(Just("because".to_string())),
        healthy in prop::option::of((prop::sample::select(vec!["/data", "/", "x"]), prop::option::of((0..3u32, 0..3u32)), prop::option::of(any::<u32>()))),
    ) -> Evidence {
        let healthy = healthy.map(|(dir, owner, mode)| Healthy {
            dir: dir.into(), dbfilename: "dump.rdb".into(), save: String::new(), owner, mode,
        });
        let seen = Seen {
            variant, refusal, failures, fork_failed, oom_kills_before, pings: None, config_denied: None, rewritten, left_off,
        };
        let ahead = secs_ahead.map(Duration::from_secs);
        let ahead = Ahead { disk: ahead, memory: ahead, cgroup: ahead, commit: ahead };
        Evidence { address: "h:1".into(), look, server, host, healthy, ahead, seen }
    }
}
