//! What evidence leads to: first finding, first remedy, what is never proposed.

use proptest::prelude::*;

use super::random::evidence;
use super::scenarios::*;
use super::*;
use crate::guard::evidence::log::{Errno, LogClass};
use crate::guard::evidence::{Fact, Reason, Role};
use crate::guard::remedy::{
    Consent, Plan, Proof, REMEDIES, Reach, Step, choose, command, commands, remedies,
};
use Fact::Known;

const IDS: &str = "overcommit-memory fork-enomem fork-eagain memory-headroom cgroup-headroom child-oom-killed \
    child-killed child-crashed thp-always maxmemory-high no-swap-container disk-full disk-headroom inodes-full quota \
    dir-missing dir-permission dir-immutable read-only-filesystem lsm-denied file-size-limit fd-limit io-error \
    aof-write-error aof-fsync-sticky dead-end child-hung break-in-signs zombie-primary replica-will-abort \
    switch-left-off rewrite-persisted-no save-points-missing save-points-dense aof-rewrite-settings fork-slow \
    probe-hazard sentinel-will-fail-over config-blocked unknown";

#[test]
fn each_scenario_has_its_first_finding_and_remedy() {
    for (name, e, id, sure, does, consent) in scenarios() {
        let found = diagnose(&e);
        let first = found.first().unwrap_or_else(|| panic!("{name}: nothing found"));
        assert_eq!((first.check.id, first.hit.sure), (id, sure), "{name}: {found:#?}");
        assert_eq!(first.kind(), Kind::Cause, "{name}");
        let stopgap = |id| id == "unknown" || id == "dead-end";
        assert!(stopgap(id) || found.iter().all(|f| !stopgap(f.check.id)), "{name}: {found:#?}");
        let remedy = remedies(id).find(|remedy| (remedy.plan)(&e) != Plan::NotHere);
        let remedy = remedy.unwrap_or_else(|| panic!("{name}: no remedy"));
        assert_eq!((remedy.does, remedy.consent), (does, consent), "{name}");
        // The append-only file has a ladder of its own.
        let auto = consent == Consent::Auto && remedy.proof != Proof::Aof;
        let chosen = choose(&found, &e, Reach::Filesystem, &[]).filter(|(_, of, _)| of.check.id == id);
        assert!(!auto || chosen.is_some(), "{name}: not chosen");
        let again = choose(&found, &e, Reach::Filesystem, &[(id, does)]);
        assert!(
            again.is_none_or(|(again, ..)| (again.finding, again.does) != (id, does)),
            "{name}: chosen twice"
        );
    }
}

/// A bgsafe PINGs while it cannot save: that is nobody's probe.
#[test]
fn pings_of_our_own_are_no_probes() {
    for (refused, seen, guards, told) in [
        (9, Some((4, 5)), 0, false),
        (9, Some((4, 4)), 0, true),
        (9, None, 1, false),
        (9, None, 0, true),
        (1, Some((4, 0)), 0, false),
    ] {
        let e = failing(|e| {
            (e.server.pings_refused, e.server.other_guards) = (Known(refused), Known(guards));
            e.seen.pings = seen;
        });
        let found = diagnose(&e).iter().any(|f| f.check.id == "probe-hazard");
        assert_eq!(found, told, "{refused} {seen:?} {guards}");
    }
}

/// A warning that comes before the save fails is worth more than one that comes with it.
#[test]
fn what_will_end_soon_is_told_with_its_time() {
    type Set = fn(&mut Evidence, Option<std::time::Duration>);
    let rows: [(&str, Set); 3] = [
        ("disk-headroom", |e, ahead| e.ahead.disk = ahead),
        ("memory-headroom", |e, ahead| e.ahead.memory = ahead),
        ("cgroup-headroom", |e, ahead| {
            (e.host.cgroup.memory_max, e.host.cgroup.memory_current) = (Known(60 * GB), Known(12 * GB));
            e.ahead.cgroup = ahead;
        }),
    ];
    for (id, set) in rows {
        let told = |ahead| {
            let found = diagnose(&with(healthy(), |e| set(e, ahead)));
            found.into_iter().find(|f| f.check.id == id).map(|f| (f.kind(), f.hit.says))
        };
        assert_eq!(told(None), None, "{id}");
        let (kind, says) = told(Some(std::time::Duration::from_secs(7260))).expect(id);
        assert!(kind == Kind::Danger && says.ends_with("that ends in 2 h 1 min"), "{id}: {says}");
    }
}

#[test]
fn in_peace_or_beside_the_point_the_same_is_a_danger_or_advice() {
    let minutes_ago =
        |e: &mut Evidence| (e.server.pings_refused, e.server.other_guards) = (Known(4), Known(0));
    #[rustfmt::skip]
    let table: Vec<(Evidence, &str, Kind)> = vec![
        (with(healthy(), mode_2), "overcommit-memory", Kind::Danger),
        (with(healthy(), |e| e.host.memory.overcommit = Known(0)), "overcommit-memory", Kind::Advice),
        (with(healthy(), pids), "fork-eagain", Kind::Danger),
        // What would fail a save, and did not fail this one.
        (with(logged(LogClass::ForkEnomem), foreign_dir), "dir-permission", Kind::Danger),
        (with(logged(LogClass::Write(Errno::Nospc)), pids), "fork-eagain", Kind::Danger),
        (with(logged(LogClass::Signal(11)), |e| e.host.place.free = Known(GB)), "disk-headroom", Kind::Danger),
        (with(logged(LogClass::Write(Errno::Nospc)), mode_2), "overcommit-memory", Kind::Danger),
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
        (with(healthy(), |e| { e.server.appendonly = Known(true); e.server.appendfsync = Known("always".into()) }), "aof-rewrite-settings", Kind::Advice),
        (with(healthy(), |e| { e.host.process.container = Known(true); tight(e); e.host.cgroup.swap_max = Known(0) }), "no-swap-container", Kind::Advice),
        (with(healthy(), |e| e.host.process.kubernetes = Known(true)), "probe-hazard", Kind::Advice),
        (failing(minutes_ago), "probe-hazard", Kind::Danger),
        (failing(|e| e.server.sentinels = Known(3)), "sentinel-will-fail-over", Kind::Danger),
        (failing(|e| { e.server.sentinels = Known(3); e.server.replicas = Known(0) }), "zombie-primary", Kind::Danger),
        (failing(|e| { e.look.role = Known(Role::Replica); e.look.ignores_errors = Known(false) }), "replica-will-abort", Kind::Danger),
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
        (
            with(failing(foreign_dir), |e| {
                e.healthy = None;
                e.host.place.dir = Known("/".into())
            }),
            "install -d -o 103 -g 104 -m 0750 /var/lib/redis && redis-cli",
        ),
        (
            with(healthy(), |e| {
                e.look.knob = Fact::Unknown(Reason::Denied("ERR unknown command 'CONFIG'".into()))
            }),
            "grep -n rename-command",
        ),
        (
            with(healthy(), |e| e.look.knob = Fact::Unknown(Reason::Denied("NOPERM no 'config|get'".into()))),
            "redis-cli -h 127.0.0.1 -p 6379 ACL SETUSER bgsafe",
        ),
        (
            with(failing(|e| e.look.dir = Known(String::new())), |e| {
                e.healthy.as_mut().expect("recorded").owner = None
            }),
            "install -d -o 103 -g 104 -m 0750 /var/lib/redis && redis-cli -h 127.0.0.1 -p 6379 CONFIG SET dir /var/lib/redis",
        ),
        (
            with(failing(foreign_dir), |e| {
                e.healthy = None;
                e.host.place.dir = Known("/".into());
                e.server.protected_configs = Known("no".into())
            }),
            "install -d -o 103 -g 104 -m 0750 /var/lib/redis && redis-cli -h 127.0.0.1 -p 6379 --rdb /var/lib/redis/dump.rdb #",
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
        // Also where the findings were made before the target moved.
        let earlier: Vec<Found> = found.iter().filter(|f| f.check.id != BREAK_IN).cloned().collect();
        prop_assert!(!break_in(&e) || choose(&earlier, &e, Reach::Filesystem, &[]).is_none());
        prop_assert_eq!(break_in(&e), found.first().is_some_and(|f| f.check.id == BREAK_IN));
    }
}
