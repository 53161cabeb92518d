//! What was found, as data: the one source of the text and of `--json`.
//!
//! `bgsafe doctor --json` prints one object. Its fields are a contract: more may come, none changes its meaning.
//!
//! | field | what |
//! |---|---|
//! | `findings[]` | worst first; see [`Finding`] |
//! | `server` | what was looked at; see [`Server`] |
//! | `unseen[]` | `{"source", "why"}`: `info`, `config`, `clients`, `process`, `kernel`, `cgroup`, `directory`, `log`, `kernel-log` |
//! | `not_checked[]` | ids of checks that saw nothing of what they ask |
//! | `fixed[]` | with `--fix`, each thing that was tried; see [`super::fix::Fixed`] |
//! | `proved` | `true`: a save was proved by this run; `false`: one was tried and was not; `null`: none was tried |
//!
//! Refuses to know: terminals. Invariant: no key, value or secret is in it.

use serde::Serialize;

use super::fix::Fixed;
use super::unseen::{Spots, Unseen};
use super::words;
use crate::cli::paint;
use crate::guard::evidence::{Evidence, Fact};
use crate::guard::finding::{Found, Headroom, Severity, headroom};
use crate::guard::remedy::{self, Consent, Plan, Remedy};

/// The whole object.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) findings: Vec<Finding>,
    pub(super) server: Server,
    pub(super) unseen: Vec<Unseen>,
    pub(super) not_checked: Vec<&'static str>,
    pub(super) fixed: Vec<Fixed>,
    pub(super) proved: Option<bool>,
    /// For the text only: what lets us see more.
    #[serde(skip)]
    pub(super) grant: Option<String>,
    /// For the text only: the figures that matter when nothing is wrong.
    #[serde(skip)]
    pub(super) figures: Vec<(&'static str, String)>,
}

/// One finding.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    /// One of the ids of `bgsafe doctor --explain`.
    pub(super) id: &'static str,
    /// `crit`, `warn`, `info`.
    pub(super) severity: &'static str,
    /// `cause` (why saving fails now), `danger` (what will fail), `advice`.
    pub(super) kind: &'static str,
    /// The evidence alone decides; false: it is the likeliest of several.
    pub(super) sure: bool,
    pub(super) what: &'static str,
    pub(super) why: &'static str,
    pub(super) cure: &'static str,
    /// What was seen.
    pub(super) evidence: String,
    /// What to type.
    pub(super) command: String,
    /// Every remedy that the evidence allows.
    pub(super) remedies: Vec<Cure>,
}

/// One remedy.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cure {
    pub(super) does: &'static str,
    /// `redis`, `kernel`, `cgroup`, `filesystem`, `human`.
    pub(super) reach: &'static str,
    /// `auto` (bgsafe by itself), `ask` (`--fix`), `never` (a human).
    pub(super) consent: &'static str,
    pub(super) undo: &'static str,
    /// Does it outlast a reboot, or the server's restart?
    pub(super) survives: bool,
    pub(super) command: String,
}

/// What was looked at. `null` is: not known.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Server {
    pub(super) address: String,
    /// `redis`, `valkey`, `redict`, `keydb`.
    pub(super) product: Option<String>,
    pub(super) version: Option<String>,
    /// `primary`, `replica`, `other`.
    pub(super) role: Option<&'static str>,
    pub(super) run_id: Option<String>,
    /// As this host counts it.
    pub(super) pid: Option<u32>,
    /// Why its host is out of sight.
    pub(super) host_unseen: Option<String>,
    pub(super) last_save_ok: Option<bool>,
    pub(super) last_save_age_secs: Option<u64>,
    pub(super) changes_since_save: Option<u64>,
    pub(super) fork_usec: Option<u64>,
    pub(super) used_memory: Option<u64>,
    /// Bytes that the next save will leave; negative: it will fail.
    pub(super) headroom: Room,
}

/// `null`: not known, or nothing limits it.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Room {
    /// Of the data directory's disk.
    pub(super) disk: Option<i64>,
    /// Of the host's memory.
    pub(super) memory: Option<i64>,
    /// Of the control group's memory.
    pub(super) cgroup: Option<i64>,
    /// Of what the kernel may promise (overcommit 2).
    pub(super) commit: Option<i64>,
}

impl Report {
    /// Puts together what was found. `unix_ms`: our clock, for servers that do not tell theirs.
    pub(super) fn new(e: &Evidence, found: &[Found], spots: Spots, unix_ms: u64) -> Report {
        Report {
            findings: found.iter().map(|found| finding(found, e)).collect(),
            server: server(e, unix_ms),
            unseen: spots.sources,
            // What one field told was seen, though its source is dark else.
            not_checked: spots
                .checks
                .into_iter()
                .filter(|id| found.iter().all(|found| found.check.id != *id))
                .collect(),
            fixed: Vec::new(),
            proved: None,
            grant: spots.grant,
            figures: figures(e, unix_ms),
        }
    }

    /// As `--json` prints it.
    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain words and numbers are JSON") + "\n"
    }

    /// Is there a finding as bad as this?
    pub(super) fn has(&self, bad: Severity) -> bool {
        let as_bad = [Severity::Crit, Severity::Warn, Severity::Info];
        let as_bad: Vec<_> = as_bad.into_iter().filter(|s| *s <= bad).map(Severity::name).collect();
        self.findings.iter().any(|f| as_bad.contains(&f.severity))
    }
}

fn finding(found: &Found, e: &Evidence) -> Finding {
    let check = found.check;
    Finding {
        id: check.id,
        severity: found.severity().name(),
        kind: words::kind(found.kind()),
        sure: found.hit.sure,
        what: check.what,
        why: check.why,
        cure: check.cure,
        evidence: paint::clean(&found.hit.says),
        command: remedy::command(found, e),
        remedies: remedy::remedies(check.id).filter_map(|row| cure(row, e)).collect(),
    }
}

fn cure(row: &Remedy, e: &Evidence) -> Option<Cure> {
    let command = match (row.plan)(e) {
        Plan::Steps(steps) => remedy::commands(&steps, e),
        Plan::ByHand(command) => command,
        Plan::NotHere => return None,
    };
    let consent = if command.is_empty() { Consent::Never } else { row.consent };
    Some(Cure {
        does: row.does,
        reach: words::reach(row.reach),
        consent: words::consent(consent),
        undo: row.undo,
        survives: row.survives,
        command,
    })
}

fn server(e: &Evidence, unix_ms: u64) -> Server {
    let word = |fact: &Fact<String>| fact.known().map(|text| paint::clean(text));
    Server {
        address: e.address.clone(),
        product: word(&e.look.server),
        version: word(&e.look.version),
        role: e.look.role.get().map(words::role),
        run_id: word(&e.look.run_id),
        pid: e.host.pid.get(),
        host_unseen: e.host.pid.reason().map(ToString::to_string),
        last_save_ok: e.look.save_ok.get(),
        last_save_age_secs: e.look.last_save.get().map(|at| e.look.clock_secs(unix_ms).saturating_sub(at)),
        changes_since_save: e.look.changes.get(),
        fork_usec: e.server.latest_fork_usec.get(),
        used_memory: e.server.used_memory.get(),
        headroom: room(e),
    }
}

fn room(e: &Evidence) -> Room {
    let Headroom { disk, memory, cgroup, commit } = headroom(e);
    Room { disk, memory, cgroup, commit }
}

/// What an operator wants to know of a server that is well.
fn figures(e: &Evidence, unix_ms: u64) -> Vec<(&'static str, String)> {
    let s = server(e, unix_ms);
    let mut rows = Vec::new();
    if let Some(age) = s.last_save_age_secs {
        let ok = match s.last_save_ok {
            Some(true) => "worked",
            Some(false) => "FAILED since",
            None => "result not known",
        };
        let changes = s.changes_since_save.map_or(String::new(), |n| format!(", {n} changes since"));
        rows.push(("last save", format!("{} ago, {ok}{changes}", paint::seconds(age))));
    }
    if let (Some(usec), Some(rss)) = (s.fork_usec, e.server.used_memory_rss.get()) {
        rows.push(("fork", fork(usec, rss)));
    }
    let left = headroom(e).each().into_iter().filter_map(|(name, left)| Some((name, left?)));
    let left: Vec<_> = left.map(|(name, left)| format!("{} of {name}", amount(left))).collect();
    if !left.is_empty() {
        rows.push(("headroom", format!("{} left by the next save", left.join(", "))));
    }
    rows
}

fn amount(left: i64) -> String {
    let sign = if left < 0 { "-" } else { "" };
    format!("{sign}{}", paint::bytes(left.unsigned_abs()))
}

/// `123 us, 9.8 ms per GiB`.
pub(super) fn fork(usec: u64, rss: u64) -> String {
    // A small process shows the cost of fork itself, not of its size.
    match rss >> 26 {
        _ if usec == 0 => "none so far".into(),
        0 => format!("{usec} us"),
        _ => {
            let per_gib = usec as f64 / 1e3 / (rss as f64 / f64::from(1 << 30));
            format!("{usec} us, {per_gib:.1} ms per GiB resident")
        }
    }
}
