//! What /proc says of the server's process: user, sizes, limits, children, and what confines it.
//!
//! Refuses to know: control groups' limits, the directory. Invariant: what a namespace hides from us is unknown, not
//! absent.

use crate::guard::evidence::fact::{garbled, number};
use crate::guard::evidence::host::{Limit, NO_LIMIT, Process};
use crate::guard::evidence::{Fact, Reason};

use super::read::{Tree, and_then, field, kilobytes, unknown};
use super::table::{Entry, Table};

/// The first pid namespace has this fixed inode (`proc_ns.h:PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
/// The first cgroup namespace (`proc_ns.h:PROC_CGROUP_INIT_INO`).
const FIRST_CGROUP_NAMESPACE: &str = "cgroup:[4026531835]";
/// In a control group's path: somebody's container.
const CONTAINER_WORDS: &[&str] = &["docker", "kubepods", "containerd", "libpod", "lxc", "crio"];

/// Everything but what the caller knows better.
pub fn process(tree: &Tree, entry: &Entry, table: &Table) -> Process {
    let pid = entry.pid;
    let status = tree.text(format!("/proc/{pid}/status"));
    let limits = tree.text(format!("/proc/{pid}/limits"));
    let limit = |name: &str| and_then(limits.clone(), |text| parse_limit(&text, name));
    let of_status = |parse: &dyn Fn(&str) -> Fact<u64>| and_then(status.clone(), |text| parse(&text));
    Process {
        uid: id(&status, "Uid"),
        gid: id(&status, "Gid"),
        groups: and_then(status.clone(), |text| groups(&text)),
        caps: of_status(&|text| {
            and_then(field(text, "CapEff"), |hex| match u64::from_str_radix(hex, 16) {
                Ok(caps) => Fact::Known(caps),
                Err(_) => garbled(hex),
            })
        }),
        rss: of_status(&|text| kilobytes(text, "VmRSS")),
        data: of_status(&|text| kilobytes(text, "VmData")),
        thp_off: of_status(&|text| and_then(field(text, "THP_enabled"), number)).map(|enabled| enabled == 0),
        oom_score_adj: tree.number(format!("/proc/{pid}/oom_score_adj")),
        nproc: limit("Max processes"),
        nofile: limit("Max open files"),
        fsize: limit("Max file size"),
        fds: descriptors(tree, pid),
        user_threads: user_threads(entry, table),
        children: Fact::Known(table.children(pid).map(|child| (child.pid, child.state)).collect()),
        container: container(tree, pid),
        kubernetes: kubernetes(tree, pid),
        unit: unit(tree, pid),
        confined_by: confined_by(tree, pid),
    }
}

/// Do we see every process of the machine, and not only those of our own container?
pub fn sees_all_processes(tree: &Tree) -> bool {
    tree.link("/proc/self/ns/pid").is_and(|link| link.as_os_str() == FIRST_PID_NAMESPACE)
}

/// Are control groups' paths whole, and not cut off at our own container's?
pub fn sees_all_groups(tree: &Tree) -> bool {
    match tree.link("/proc/self/ns/cgroup") {
        Fact::Known(link) => link.as_os_str() == FIRST_CGROUP_NAMESPACE,
        // Linux before 4.6 has no such namespaces.
        Fact::Unknown(reason) => reason == Reason::NotTold,
    }
}

/// The effective one: the second of four.
pub fn id(status: &Fact<String>, name: &str) -> Fact<u32> {
    and_then(status.clone(), |text| {
        and_then(field(&text, name), |ids| ids.split_whitespace().nth(1).map_or(garbled(ids), number))
    })
}

fn groups(status: &str) -> Fact<Vec<u32>> {
    and_then(field(status, "Groups"), |list| {
        let groups: Option<Vec<u32>> = list.split_whitespace().map(|group| group.parse().ok()).collect();
        groups.map_or(garbled(list), Fact::Known)
    })
}

/// `Max open files            1024                 524288               files`.
pub fn parse_limit(limits: &str, name: &str) -> Fact<Limit> {
    let Some(rest) = limits.lines().find_map(|line| line.strip_prefix(name)) else { return Fact::UNKNOWN };
    let value = |word: Option<&str>| match word {
        Some("unlimited") => Some(NO_LIMIT),
        word => word?.parse().ok(),
    };
    let mut words = rest.split_whitespace();
    match (value(words.next()), value(words.next())) {
        (Some(soft), Some(hard)) if soft <= hard => Fact::Known(Limit { soft, hard }),
        _ => garbled(rest.trim()),
    }
}

fn descriptors(tree: &Tree, pid: u32) -> Fact<u64> {
    match std::fs::read_dir(tree.path(format!("/proc/{pid}/fd"))) {
        Ok(entries) => Fact::Known(entries.flatten().count() as u64),
        Err(error) => unknown(&error, "the server's descriptors"),
    }
}

fn user_threads(entry: &Entry, table: &Table) -> Fact<u64> {
    if !table.is_whole() {
        return Fact::Unknown(Reason::Denied("not every process of this host can be seen".into()));
    }
    let same = table.entries.iter().filter(|other| other.real_uid == entry.real_uid);
    Fact::Known(same.fold(0, |sum, other| sum.saturating_add(other.threads)))
}

fn group_paths(tree: &Tree, pid: u32) -> Fact<Vec<String>> {
    let text = tree.text(format!("/proc/{pid}/cgroup"));
    text.map(|text| text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(str::to_owned).collect())
}

fn container(tree: &Tree, pid: u32) -> Fact<bool> {
    let paths = group_paths(tree, pid);
    let is_word = |path: &String| CONTAINER_WORDS.iter().any(|word| path.contains(word));
    if paths.is_and(|paths| paths.iter().any(is_word)) {
        return Fact::Known(true);
    }
    and_then(tree.link(format!("/proc/{pid}/ns/pid")), |theirs| {
        // Not the machine's first namespace: a container, ours too if we share it.
        match theirs.as_os_str() == FIRST_PID_NAMESPACE {
            false => Fact::Known(true),
            true => paths.map(|_| false),
        }
    })
}

fn kubernetes(tree: &Tree, pid: u32) -> Fact<bool> {
    let paths = group_paths(tree, pid);
    if paths.is_and(|paths| paths.iter().any(|path| path.contains("kubepods"))) {
        return Fact::Known(true);
    }
    let token = format!("/proc/{pid}/root/run/secrets/kubernetes.io");
    if tree.path(token).symlink_metadata().is_ok() {
        return Fact::Known(true);
    }
    match sees_all_groups(tree) {
        true => paths.map(|_| false),
        false => Fact::Unknown(Reason::Elsewhere("our own container hides the names of others".into())),
    }
}

/// The last service on the path, unless a scope stands below it: that is somebody's session in a service, or a
/// container.
fn unit(tree: &Tree, pid: u32) -> Fact<Option<String>> {
    and_then(group_paths(tree, pid), |paths| {
        let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
        let last = |path: &String| path.split('/').rfind(is_unit).map(str::to_owned);
        let unit = paths.iter().find_map(last).filter(|unit| unit.ends_with(".service"));
        match (unit, sees_all_groups(tree)) {
            (Some(unit), _) => Fact::Known(Some(unit)),
            (None, true) => Fact::Known(None),
            (None, false) => {
                Fact::Unknown(Reason::Elsewhere("our own container hides the names of units".into()))
            }
        }
    })
}

fn confined_by(tree: &Tree, pid: u32) -> Fact<Option<String>> {
    let enforcing = tree.text("/sys/fs/selinux/enforce");
    let label = match tree.text(format!("/proc/{pid}/attr/current")) {
        Fact::Known(label) => label.trim_matches(['\0', '\n', ' ']).to_owned(),
        // EINVAL: no security module has an answer.
        Fact::Unknown(Reason::Garbled(_)) => return Fact::Known(None),
        Fact::Unknown(reason) => return Fact::Unknown(reason),
    };
    match enforcing.known().map(|text| text.trim()) {
        Some("1") if label.split(':').any(|part| part == "unconfined_t") => Fact::Known(None),
        Some("1") if !label.is_empty() => Fact::Known(Some(label)),
        Some("0") => Fact::Known(None),
        Some(_) => garbled(&label),
        None if label.is_empty() || label == "unconfined" => Fact::Known(None),
        None if label.ends_with("(complain)") || label.ends_with("(unconfined)") => Fact::Known(None),
        None if label.ends_with(')') => Fact::Known(Some(label)),
        None => garbled(&label),
    }
}
