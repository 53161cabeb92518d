//! Remedies: what cures a finding, by the table of remedies. A remedy is a plan of small named
//! steps; bgsafe takes those it was allowed, `doctor --fix` those that were consented to, and a
//! human is told the exact command of every one.
//!
//! Refuses to know: how a step is carried out ([`crate::host`], the control connection).
//! Invariants: a [`Change`] is the whole list of what bgsafe may ever do to a host; no step deletes
//! data, restarts or stops the server, empties `save`, lowers `maxmemory` below
//! what is used, or weakens a security module.

use std::path::PathBuf;

use super::evidence::{Evidence, Right, Rights};
use super::finding::{BREAK_IN, Found, Kind, break_in};

pub use table::REMEDIES;

mod files;
mod hands;
mod kernel;
mod redis;
mod table;

/// Where a remedy reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// The control connection only.
    Redis,
    /// Kernel settings, limits of the server's process.
    Kernel,
    /// Control groups.
    Cgroup,
    /// The data directory.
    Filesystem,
    /// Only a human's hands.
    Human,
}

/// Who must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Consent {
    /// `--repair` is consent enough.
    Auto,
    /// `doctor --fix` asks.
    Ask,
    /// bgsafe never does it: it prints the command.
    Never,
}

/// What proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// A BGSAVE that ends well.
    Save,
    /// The AOF's own signs, all of them (M §11.20).
    Aof,
    /// The value reads back.
    Reading,
}

/// One small thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// CONFIG SET.
    Config {
        /// Which option.
        name: &'static str,
        /// Its new value.
        value: String,
    },
    /// A command of the server: only those of the table.
    Command(&'static [&'static str]),
    /// A change of the host.
    Host(Change),
}

/// Which limit of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Processes and threads of the user (RLIMIT_NPROC).
    Nproc,
    /// Open files (RLIMIT_NOFILE).
    Nofile,
}

/// Everything bgsafe may ever change on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `vm.overcommit_memory`, and a file under /etc/sysctl.d so that it lasts.
    Overcommit {
        /// 0, 1 or 2.
        value: u8,
        /// Write the file too (undoing removes it, if it was ours).
        keep: bool,
    },
    /// `transparent_hugepage/enabled` and `defrag`.
    Thp {
        /// For `enabled`: `madvise` or `never`.
        enabled: String,
        /// For `defrag`; `None` leaves it.
        defrag: Option<String>,
    },
    /// A limit of the server's process.
    Limit {
        /// The server.
        pid: u32,
        /// Which limit.
        resource: Resource,
        /// What shall bind.
        soft: u64,
        /// Never below what it was.
        hard: u64,
    },
    /// Owner of exactly the data directory, never recursive.
    Chown {
        /// The server: the directory is its working directory.
        pid: u32,
        /// Its path, as the plan saw it: another one by now is left alone.
        dir: PathBuf,
        /// The new owner.
        uid: u32,
        /// The new group.
        gid: u32,
    },
    /// Permission bits of exactly the data directory.
    Chmod {
        /// The server.
        pid: u32,
        /// As above.
        dir: PathBuf,
        /// The new bits.
        mode: u32,
    },
    /// A deleted data directory again, inside the server's own root.
    MakeDir {
        /// The server.
        pid: u32,
        /// Absolute, as the server names it.
        dir: PathBuf,
        /// Its recorded owner.
        uid: u32,
        /// Its recorded group.
        gid: u32,
        /// Its recorded mode.
        mode: u32,
    },
    /// Temporary files of dead saves, each proved dead again before it goes. The one change without an undo.
    RemoveDeadTemps {
        /// The server.
        pid: u32,
        /// The data directory.
        dir: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// A control group's limit, where it is delegated to us.
    CgroupMax {
        /// The file: `…/pids.max`, `…/memory.max`, `…/memory.limit_in_bytes`.
        file: PathBuf,
        /// Its new value; [`super::evidence::host::NO_LIMIT`] is `max`.
        value: u64,
    },
}

/// What a remedy comes to for this evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// These steps, in order.
    Steps(Vec<Step>),
    /// Only this command, for a human.
    ByHand(String),
    /// Nothing: the evidence does not allow it.
    NotHere,
}

/// One row of [`REMEDIES`].
#[derive(Clone, Copy)]
pub struct Remedy {
    /// The finding it cures.
    pub finding: &'static str,
    /// In a few words, for timeline and docs.
    pub does: &'static str,
    /// How far it reaches.
    pub reach: Reach,
    /// What it takes: rights, a record, a version.
    pub needs: &'static str,
    /// Does it outlast a reboot, or the server's restart?
    pub survives: bool,
    /// How it is undone.
    pub undo: &'static str,
    /// Who must agree.
    pub consent: Consent,
    /// What proves it.
    pub proof: Proof,
    /// The steps for this evidence.
    pub plan: fn(&Evidence) -> Plan,
}

/// The rows for a finding, in the order in which to try them.
pub fn remedies(finding: &str) -> impl Iterator<Item = &'static Remedy> {
    REMEDIES.iter().filter(move |remedy| remedy.finding == finding)
}

/// The first remedy that may be taken without asking: of a cause, Auto, every step of it at most as far as `reach`, and
/// not yet `tried` (finding and what it does) in this incident. None at all under signs of a break-in.
pub fn choose<'a>(
    found: &'a [Found],
    evidence: &Evidence,
    reach: Reach,
    tried: &[(&'static str, &'static str)],
) -> Option<(&'static Remedy, &'a Found, Vec<Step>)> {
    if break_in(evidence) || found.iter().any(|found| found.check.id == BREAK_IN) {
        return None;
    }
    let of = |found: &'a Found| remedies(found.check.id).map(move |remedy| (remedy, found));
    found
        .iter()
        .filter(|found| found.kind() == Kind::Cause)
        .flat_map(of)
        .filter(|(remedy, _)| remedy.consent == Consent::Auto && remedy.reach <= reach)
        // In an incident the append-only file has a ladder of its own.
        .filter(|(remedy, _)| remedy.proof != Proof::Aof)
        .filter(|(remedy, _)| !tried.contains(&(remedy.finding, remedy.does)))
        .find_map(|(remedy, found)| match (remedy.plan)(evidence) {
            Plan::Steps(steps) if steps.iter().all(|step| step.reach() <= reach) => {
                Some((remedy, found, steps))
            }
            Plan::Steps(_) | Plan::ByHand(_) | Plan::NotHere => None,
        })
}

/// What a human types to cure `found`: the first remedy that the evidence allows.
pub fn command(found: &Found, evidence: &Evidence) -> String {
    // Told its directory alone the server only looks whether it is there again: a human makes it first.
    let is_hope = |steps: &[Step]| matches!(steps, [Step::Config { name: "dir", .. }]);
    remedies(found.check.id)
        .find_map(|remedy| match (remedy.plan)(evidence) {
            Plan::Steps(steps) if is_hope(&steps) => None,
            Plan::Steps(steps) => Some(commands(&steps, evidence)),
            Plan::ByHand(command) => Some(command),
            Plan::NotHere => None,
        })
        .unwrap_or_else(|| found.check.cure.to_string())
}

/// The steps as a human would type them, joined by `&&`.
pub fn commands(steps: &[Step], evidence: &Evidence) -> String {
    steps.iter().map(|step| step.command(evidence)).collect::<Vec<_>>().join(" && ")
}

impl Step {
    /// How far it reaches.
    pub fn reach(&self) -> Reach {
        match self {
            Step::Config { .. } | Step::Command(_) => Reach::Redis,
            Step::Host(change) => change.reach(),
        }
    }

    /// What takes it back when the incident ends: for steps that are for its time only.
    pub fn back(&self, evidence: &Evidence) -> Option<Step> {
        match self {
            Step::Config { name: "oom-score-adj", .. } => {
                let value = evidence.server.oom_score_adj.known()?.clone();
                Some(Step::Config { name: "oom-score-adj", value })
            }
            Step::Config { .. } | Step::Command(_) | Step::Host(_) => None,
        }
    }

    /// What a human would type.
    pub fn command(&self, evidence: &Evidence) -> String {
        let cli = cli(&evidence.address);
        match self {
            Step::Config { name, value } => format!("{cli} CONFIG SET {name} {}", quoted(value)),
            Step::Command(words) => format!("{cli} {}", words.join(" ")),
            // The path is the container's: typed on the host it would name another directory.
            Step::Host(change) => match (evidence.host.pid.get(), change.reach()) {
                (Some(pid), Reach::Filesystem) if evidence.host.process.container.is(true) => {
                    format!("nsenter -t {pid} -m -- {}", change.command())
                }
                _ => change.command(),
            },
        }
    }
}

impl Change {
    /// How far it reaches.
    pub fn reach(&self) -> Reach {
        match self {
            Change::Overcommit { .. } | Change::Thp { .. } | Change::Limit { .. } => Reach::Kernel,
            Change::CgroupMax { .. } => Reach::Cgroup,
            Change::Chown { .. }
            | Change::Chmod { .. }
            | Change::MakeDir { .. }
            | Change::RemoveDeadTemps { .. } => Reach::Filesystem,
        }
    }

    /// What a human would type, as root.
    pub fn command(&self) -> String {
        let path = |dir: &PathBuf| quoted(&dir.to_string_lossy());
        let limit =
            |n: u64| if n == super::evidence::host::NO_LIMIT { "unlimited".into() } else { n.to_string() };
        match self {
            Change::Overcommit { value, keep: false } => format!("sysctl -w vm.overcommit_memory={value}"),
            Change::Overcommit { value, keep: true } => format!(
                "sysctl -w vm.overcommit_memory={value} && echo vm.overcommit_memory={value} > {OVERCOMMIT_FILE}"
            ),
            Change::Thp { enabled, defrag } => {
                let set = |word: &str, file: &str| {
                    format!("echo {word} > /sys/kernel/mm/transparent_hugepage/{file}")
                };
                let defrag = defrag.iter().map(|word| set(word, "defrag"));
                [set(enabled, "enabled")].into_iter().chain(defrag).collect::<Vec<_>>().join(" && ")
            }
            Change::Limit { pid, resource, soft, hard } => {
                let name = match resource {
                    Resource::Nproc => "nproc",
                    Resource::Nofile => "nofile",
                };
                format!("prlimit --pid {pid} --{name}={}:{}", limit(*soft), limit(*hard))
            }
            Change::Chown { dir, uid, gid, .. } => format!("chown {uid}:{gid} {}", path(dir)),
            Change::Chmod { dir, mode, .. } => format!("chmod {mode:04o} {}", path(dir)),
            Change::MakeDir { dir, uid, gid, mode, .. } => {
                let dir = path(dir);
                format!("install -d -o {uid} -g {gid} -m {mode:04o} {dir}")
            }
            Change::RemoveDeadTemps { dir, names, .. } => {
                let files: Vec<_> = names.iter().map(|name| path(&dir.join(name))).collect();
                format!("rm {}", files.join(" "))
            }
            Change::CgroupMax { file, value } => {
                let value =
                    if *value == super::evidence::host::NO_LIMIT { "max".into() } else { value.to_string() };
                format!("echo {value} > {}", path(file))
            }
        }
    }
}

/// Where `vm.overcommit_memory` is kept over a reboot.
pub const OVERCOMMIT_FILE: &str = "/etc/sysctl.d/60-bgsafe-overcommit.conf";

/// How a human reaches the server at this address.
pub fn cli(address: &str) -> String {
    match (address.strip_prefix("unix:"), address.rsplit_once(':')) {
        (Some(path), _) => format!("redis-cli -s {path}"),
        (None, Some((host, port))) => format!("redis-cli -h {} -p {port}", host.trim_matches(['[', ']'])),
        (None, None) => format!("redis-cli -h {address}"),
    }
}

/// How this user gets the rights it lacks; all of them, where nothing is known.
pub fn grant(rights: &Rights, address: &str, user: &str) -> String {
    let lacking = rights.lacking();
    let withdrawn = [("CONFIG", Right::ConfigGet), ("BGSAVE", Right::Bgsave)];
    let gone: Vec<&str> = withdrawn
        .into_iter()
        .filter(|(_, right)| rights.is_withdrawn(*right))
        .map(|(name, _)| name)
        .collect();
    match (lacking.is_empty(), gone.as_slice()) {
        (true, [name, ..]) => {
            format!(
                "grep -n rename-command /etc/redis/redis.conf; then start bgsafe with --rename {name}=NEWNAME \
                 # a managed service gives it to nobody: --policy hold"
            )
        }
        (true, []) => {
            let all = "+ping +info +role '+config|get' '+config|set' +bgsave +lastsave +multi +exec +discard '+client|setname'";
            format!("{} ACL SETUSER {} {all}", cli(address), quoted(user))
        }
        (false, _) => {
            let words: Vec<String> = lacking.join(" ").split(' ').map(quoted).collect();
            format!("{} ACL SETUSER {} {}", cli(address), quoted(user), words.join(" "))
        }
    }
}

/// As a shell takes it for one word.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%=".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
