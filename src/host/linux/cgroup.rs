//! The control groups around a process: the tightest limit of memory and of processes on the way to the root, in
//! version 1, version 2, or a mixture.
//!
//! Refuses to know: systemd, containers. Invariant: a level that cannot be understood makes the limit unknown, and
//! "no limit" is said only where the way to the root could be seen.

use std::path::{Path, PathBuf};

use crate::guard::evidence::fact::number;
use crate::guard::evidence::host::{Cgroup, NO_LIMIT};
use crate::guard::evidence::{Fact, Reason};

use super::mounts::{Mount, mounts};
use super::process::sees_all_groups;
use super::read::{Tree, and_then, keyed};

/// Version 1 says "no limit" with the largest number of pages; everything up there is meant as none.
const V1_NO_LIMIT: u64 = 1 << 62;
/// Deeper than any real hierarchy.
const DEPTH_MAX: usize = 64;

/// The group of a process for one controller, and the way up.
struct Way {
    version: u8,
    /// From the process's own group to the root that we see.
    levels: Vec<PathBuf>,
}

/// A level that limits.
struct Tightest {
    path: PathBuf,
    max: u64,
    current: u64,
}

/// The files of one controller in one version.
struct Files {
    max: &'static str,
    current: &'static str,
}

/// See the module's page.
pub fn cgroup(tree: &Tree, pid: u32) -> Cgroup {
    let mut found = Cgroup::default();
    match way(tree, pid, "memory") {
        Fact::Known(way) => memory(tree, &way, &mut found),
        Fact::Unknown(reason) => {
            found.version = Fact::Unknown(reason.clone());
            found.memory_max = Fact::Unknown(reason.clone());
            found.oom_kills = Fact::Unknown(reason);
        }
    }
    match way(tree, pid, "pids") {
        Fact::Known(way) => pids(tree, &way, &mut found),
        Fact::Unknown(reason) => found.pids_max = Fact::Unknown(reason),
    }
    found
}

fn memory(tree: &Tree, way: &Way, found: &mut Cgroup) {
    let v1 = way.version == 1;
    let files = match v1 {
        true => Files { max: "memory.limit_in_bytes", current: "memory.usage_in_bytes" },
        false => Files { max: "memory.max", current: "memory.current" },
    };
    let own = &way.levels[0];
    found.version = Fact::Known(way.version);
    found.oom_kills = match v1 {
        true => and_then(tree.text(own.join("memory.oom_control")), |text| keyed(&text, "oom_kill")),
        false => and_then(tree.text(own.join("memory.events")), |text| keyed(&text, "oom_kill")),
    };
    let reclaimable = |level: &Path| {
        let name = if v1 { "total_inactive_file" } else { "inactive_file" };
        and_then(tree.text(level.join("memory.stat")), |text| keyed(&text, name))
    };
    let swap = |level: &Path, max: u64| match v1 {
        true => and_then(limit(tree, &level.join("memory.memsw.limit_in_bytes")), |both| match (both, max) {
            (NO_LIMIT, _) => Fact::Known(NO_LIMIT),
            (both, max) => both.checked_sub(max).into(),
        }),
        false => limit(tree, &level.join("memory.swap.max")),
    };
    match tightest(tree, way, &files) {
        Fact::Known(Some(tightest)) => {
            found.memory_max = Fact::Known(tightest.max);
            found.memory_current = Fact::Known(tightest.current);
            found.memory_reclaimable = reclaimable(&tightest.path);
            found.swap_max = swap(&tightest.path, tightest.max);
            found.memory_path = Fact::Known(tightest.path);
        }
        Fact::Known(None) => {
            found.memory_max = Fact::Known(NO_LIMIT);
            found.memory_current = tree.number(own.join(files.current));
            found.memory_reclaimable = reclaimable(own);
            found.swap_max = swap(own, NO_LIMIT);
        }
        Fact::Unknown(reason) => found.memory_max = Fact::Unknown(reason),
    }
}

fn pids(tree: &Tree, way: &Way, found: &mut Cgroup) {
    let files = Files { max: "pids.max", current: "pids.current" };
    let refused = |level: &Path| and_then(tree.text(level.join("pids.events")), |text| keyed(&text, "max"));
    let own = &way.levels[0];
    match tightest(tree, way, &files) {
        Fact::Known(Some(tightest)) => {
            // Counted where the limit stands since Linux 6.11, where the forking process is before
            // (`pids.c:pids_event`).
            found.pids_refused = match (refused(own), refused(&tightest.path)) {
                (Fact::Known(a), Fact::Known(b)) => Fact::Known(a.max(b)),
                (Fact::Known(one), _) | (_, Fact::Known(one)) => Fact::Known(one),
                (unknown, _) => unknown,
            };
            found.pids_max = Fact::Known(tightest.max);
            found.pids_current = Fact::Known(tightest.current);
            found.pids_path = Fact::Known(tightest.path);
        }
        Fact::Known(None) => {
            found.pids_max = Fact::Known(NO_LIMIT);
            found.pids_current = tree.number(own.join(files.current));
            found.pids_refused = refused(own);
        }
        Fact::Unknown(reason) => found.pids_max = Fact::Unknown(reason),
    }
}

/// The level with the least room. None: no level limits, and all were seen.
fn tightest(tree: &Tree, way: &Way, files: &Files) -> Fact<Option<Tightest>> {
    let mut least: Option<Tightest> = None;
    for level in &way.levels {
        let max = match limit(tree, &level.join(files.max)) {
            Fact::Known(NO_LIMIT) | Fact::Unknown(Reason::NotTold) => continue,
            Fact::Known(max) => max,
            Fact::Unknown(reason) => return Fact::Unknown(reason),
        };
        let current = match tree.number::<u64>(level.join(files.current)) {
            Fact::Known(current) => current,
            Fact::Unknown(reason) => return Fact::Unknown(reason),
        };
        let room = max.saturating_sub(current);
        if least.as_ref().is_none_or(|least| room < least.max.saturating_sub(least.current)) {
            least = Some(Tightest { path: level.clone(), max, current });
        }
    }
    match least.is_some() || sees_all_groups(tree) {
        true => Fact::Known(least),
        false => hidden("our own container hides the limits above it"),
    }
}

/// A number, `max`, or version 1's idea of none.
pub fn limit(tree: &Tree, file: &Path) -> Fact<u64> {
    and_then(tree.text(file), |text| match text.trim() {
        "max" => Fact::Known(NO_LIMIT),
        text => number::<u64>(text).map(|max| if max >= V1_NO_LIMIT { NO_LIMIT } else { max }),
    })
}

fn way(tree: &Tree, pid: u32, controller: &str) -> Fact<Way> {
    let (groups, mounts) = match (tree.text(format!("/proc/{pid}/cgroup")), mounts(tree, "self")) {
        (Fact::Known(groups), Fact::Known(mounts)) => (groups, mounts),
        (Fact::Unknown(reason), _) | (_, Fact::Unknown(reason)) => return Fact::Unknown(reason),
    };
    let (v1, path) = match group(&groups, controller) {
        Some(found) => found,
        None => return Fact::UNKNOWN,
    };
    let is_mount = |mount: &&Mount| match v1 {
        true => mount.filesystem == "cgroup" && mount.has_super(controller),
        false => mount.filesystem == "cgroup2",
    };
    let Some(mount) = mounts.iter().find(is_mount) else {
        return hidden("its control groups are not mounted where we see them");
    };
    // The path counts from the root of our namespace, the mount shows what is below its own root.
    let below = match mount.root.as_str() {
        "/" => Some(path),
        root => path.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with('/')),
    };
    let odd = |path: &str| path.split('/').any(|part| part == "..");
    let Some(below) = below.filter(|path| !odd(path)) else {
        return hidden("its control group lies outside of what we see");
    };
    let own = mount.point.join(below.trim_start_matches('/'));
    if !tree.path(&own).is_dir() {
        return hidden("its control group is not where its path says");
    }
    if !v1 && !is_enabled(tree, &mount.point, controller) {
        return Fact::UNKNOWN;
    }
    let mut levels = Vec::new();
    for level in own.ancestors().take_while(|level| level.starts_with(&mount.point)).take(DEPTH_MAX) {
        // In version 1 a parent counts its children only when it says so.
        let apart = v1 && tree.text(level.join("memory.use_hierarchy")).is_and(|text| text.trim() == "0");
        if apart && !levels.is_empty() {
            break;
        }
        levels.push(level.to_owned());
    }
    Fact::Known(Way { version: if v1 { 1 } else { 2 }, levels })
}

/// The process's path for a controller, and whether that is of version 1.
fn group<'a>(groups: &'a str, controller: &str) -> Option<(bool, &'a str)> {
    let lines = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        Some((parts.next()?, parts.next()?, parts.next()?)).filter(|(_, _, path)| path.starts_with('/'))
    });
    let v1 = lines.clone().find(|(_, names, _)| names.split(',').any(|name| name == controller));
    let v2 = lines.clone().find(|&(id, names, _)| id == "0" && names.is_empty());
    v1.map(|(_, _, path)| (true, path)).or(v2.map(|(_, _, path)| (false, path)))
}

/// In a mixture the unified hierarchy is there, but without the controllers that version 1 took.
fn is_enabled(tree: &Tree, mount: &Path, controller: &str) -> bool {
    let text = tree.text(mount.join("cgroup.controllers"));
    text.is_and(|text| text.split_whitespace().any(|name| name == controller))
}

fn hidden<T>(why: &str) -> Fact<T> {
    Fact::Unknown(Reason::Elsewhere(why.into()))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, PID, Spoil};
    use super::*;
    use crate::guard::evidence::Fact::Known;

    /// What a case of control groups comes to: version, memory max, current, its path's end, pids max.
    type Groups = (Option<u8>, Option<u64>, Option<u64>, &'static str, Option<u64>);

    #[test]
    fn the_tightest_limit_on_the_way_to_the_root_counts() {
        const V1: &str = "30 22 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        31 22 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n22 1 8:1 / / rw - ext4 /dev/a rw\n";
        const OWN: &str = "/sys/fs/cgroup/system.slice/redis-server.service";
        fn v1(at: &Fixture, path: &str, mounts: &str) {
            at.mounts(mounts);
            at.group(&format!("5:pids:{path}\n4:cpu,memory:{path}\n1:name=systemd:{path}\n"));
        }
        let cases: &[(&str, Spoil, Groups)] = &[
            ("version 2", |_| {}, (Some(2), Some(1000), Some(700), "redis-server.service", Some(NO_LIMIT))),
            (
                "a tighter slice above",
                |at| {
                    at.write("/sys/fs/cgroup/system.slice/memory.max", "5000\n");
                    at.write("/sys/fs/cgroup/system.slice/memory.current", "4900\n");
                    at.write("/sys/fs/cgroup/system.slice/pids.max", "7\n");
                    at.write("/sys/fs/cgroup/system.slice/pids.current", "7\n");
                },
                (Some(2), Some(5000), Some(4900), "system.slice", Some(7)),
            ),
            (
                "no limit anywhere",
                |at| at.write(&format!("{OWN}/memory.max"), "max\n"),
                (Some(2), Some(NO_LIMIT), Some(700), "", Some(NO_LIMIT)),
            ),
            (
                "over its limit",
                |at| at.write(&format!("{OWN}/memory.current"), "9999\n"),
                (Some(2), Some(1000), Some(9999), "redis-server.service", Some(NO_LIMIT)),
            ),
            (
                "a garbled limit",
                |at| at.write(&format!("{OWN}/memory.max"), "lots\n"),
                (Some(2), None, None, "", Some(NO_LIMIT)),
            ),
            (
                "a negative limit",
                |at| at.write(&format!("{OWN}/memory.max"), "-5\n"),
                (Some(2), None, None, "", Some(NO_LIMIT)),
            ),
            (
                "a limit that fits no number",
                |at| at.write(&format!("{OWN}/memory.max"), "99999999999999999999999\n"),
                (Some(2), None, None, "", Some(NO_LIMIT)),
            ),
            (
                "a gigantic file",
                |at| at.write(&format!("{OWN}/memory.max"), &"1".repeat(70_000)),
                (Some(2), None, None, "", Some(NO_LIMIT)),
            ),
            (
                "a limit without its usage",
                |at| at.remove(&format!("{OWN}/memory.current")),
                (Some(2), None, None, "", Some(NO_LIMIT)),
            ),
            ("a group that is gone", |at| at.remove(OWN), (None, None, None, "", None)),
            ("a path out of our namespace", |at| at.group("0::/../other\n"), (None, None, None, "", None)),
            ("no groups at all", |at| at.remove("/proc/40/cgroup"), (None, None, None, "", None)),
            (
                "garbage for groups",
                |at| at.group("garbage\n::\n0:x\n0::relative\n"),
                (None, None, None, "", None),
            ),
            (
                "nothing mounted",
                |at| at.mounts("22 1 8:1 / / rw - ext4 /dev/a rw\n"),
                (None, None, None, "", None),
            ),
            (
                "controllers not enabled",
                |at| at.write("/sys/fs/cgroup/cgroup.controllers", "cpu\n"),
                (None, None, None, "", None),
            ),
            (
                "our own container, a limit seen",
                |at| at.link("/proc/self/ns/cgroup", Path::new("cgroup:[7]")),
                (Some(2), Some(1000), Some(700), "redis-server.service", None),
            ),
            (
                "version 1",
                |at| {
                    v1(at, "/redis", V1);
                    at.write("/sys/fs/cgroup/memory/redis/memory.limit_in_bytes", "9223372036854771712\n");
                    at.write("/sys/fs/cgroup/memory/redis/memory.usage_in_bytes", "80\n");
                    at.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
                    at.write("/sys/fs/cgroup/pids/redis/pids.max", "20\n");
                    at.write("/sys/fs/cgroup/pids/redis/pids.current", "19\n");
                },
                (Some(1), Some(NO_LIMIT), Some(80), "", Some(20)),
            ),
            (
                "version 1 inside a docker without namespaces",
                |at| {
                    v1(
                        at,
                        "/docker/abc",
                        &V1.replace("0:25 /", "0:25 /docker/abc").replace("0:26 /", "0:26 /docker/abc"),
                    );
                    at.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "500\n");
                    at.write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "80\n");
                    at.write("/sys/fs/cgroup/pids/pids.max", "max\n");
                },
                (Some(1), Some(500), Some(80), "memory", Some(NO_LIMIT)),
            ),
            (
                "version 1, a neighbour's container",
                |at| {
                    v1(
                        at,
                        "/docker/abcdef",
                        &V1.replace("0:25 /", "0:25 /docker/abc").replace("0:26 /", "0:26 /docker/abc"),
                    );
                },
                (None, None, None, "", None),
            ),
            (
                "version 1, a parent that does not count its children",
                |at| {
                    v1(at, "/a/redis", V1);
                    at.write("/sys/fs/cgroup/memory/a/redis/memory.limit_in_bytes", "900\n");
                    at.write("/sys/fs/cgroup/memory/a/redis/memory.usage_in_bytes", "80\n");
                    at.write("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "100\n");
                    at.write("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "99\n");
                    at.write("/sys/fs/cgroup/memory/a/memory.use_hierarchy", "0\n");
                },
                (Some(1), Some(900), Some(80), "redis", None),
            ),
            (
                "a mixture: memory in version 1, the unified hierarchy empty",
                |at| {
                    at.mounts(&format!(
                        "{}32 22 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
                        V1
                    ));
                    at.group("4:memory:/redis\n0::/redis\n");
                    at.write("/sys/fs/cgroup/memory/redis/memory.limit_in_bytes", "900\n");
                    at.write("/sys/fs/cgroup/memory/redis/memory.usage_in_bytes", "80\n");
                    at.write("/sys/fs/cgroup/unified/redis/cgroup.procs", "40\n");
                    at.write("/sys/fs/cgroup/unified/cgroup.controllers", "\n");
                },
                (Some(1), Some(900), Some(80), "redis", None),
            ),
        ];
        for (name, spoil, (version, max, current, path, pids)) in cases {
            let at = Fixture::new();
            spoil(&at);
            let facts = at.facts();
            let group = &facts.cgroup;
            assert_eq!(facts.pid, Known(PID), "{name}");
            assert_eq!(
                (group.version.get(), group.memory_max.get(), group.memory_current.get()),
                (*version, *max, *current),
                "{name}: {group:?}"
            );
            assert_eq!(group.pids_max.get(), *pids, "{name}: {group:?}");
            let seen =
                group.memory_path.known().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
            assert_eq!(seen.unwrap_or_default(), *path, "{name}");
            assert!(
                group.memory_path.known().is_none_or(|path| path.starts_with("/sys/fs/cgroup")),
                "{name}"
            );
        }
    }

    #[test]
    fn kills_swap_and_what_can_be_dropped_are_read_in_both_versions() {
        let at = Fixture::new();
        let group = at.facts().cgroup;
        assert_eq!(
            (group.oom_kills, group.memory_reclaimable, group.swap_max),
            (Known(1), Known(300), Known(NO_LIMIT))
        );
        at.mounts("30 22 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
        at.group("4:memory:/redis\n");
        for (file, text) in [
            ("memory.limit_in_bytes", "900\n"),
            ("memory.memsw.limit_in_bytes", "1000\n"),
            ("memory.usage_in_bytes", "80\n"),
            ("memory.stat", "inactive_file 1\ntotal_inactive_file 30\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"),
        ] {
            at.write(&format!("/sys/fs/cgroup/memory/redis/{file}"), text);
        }
        let group = at.facts().cgroup;
        assert_eq!(
            (group.oom_kills, group.memory_reclaimable, group.swap_max),
            (Known(4), Known(30), Known(100))
        );
    }
}
