//! What the guard tells the world: the state of an upstream and the record of an incident, as
//! `/api/status`, `/api/incidents` and the incident files show them. Words only: no decision is
//! taken here, and no field is derived twice.

use serde::{Deserialize, Serialize};

use crate::posture::Variant;

/// Where an incident stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing is wrong.
    Quiet,
    /// A refusal was heard; what it means is being found out.
    Alarmed,
    /// Writes are open, the switch is down, the debt is on disk.
    Mitigated,
    /// The cause is being looked for.
    Diagnosing,
    /// A cure is being applied.
    Repairing,
    /// A BGSAVE must prove that saving works again.
    Verifying,
    /// Proved; the operator's value is being put back.
    Rearming,
    /// Writes are parked: opening them is wrong or forbidden.
    Holding,
    /// The exposure budget is spent.
    Exposed,
    /// Nothing is left to try by ourselves.
    Stuck,
}

impl Phase {
    /// Every phase, in the order of a usual incident.
    pub const ALL: [Phase; 10] = [
        Phase::Quiet,
        Phase::Alarmed,
        Phase::Mitigated,
        Phase::Diagnosing,
        Phase::Repairing,
        Phase::Verifying,
        Phase::Rearming,
        Phase::Holding,
        Phase::Exposed,
        Phase::Stuck,
    ];

    /// The name shown in status, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Quiet => "quiet",
            Phase::Alarmed => "alarmed",
            Phase::Mitigated => "mitigated",
            Phase::Diagnosing => "diagnosing",
            Phase::Repairing => "repairing",
            Phase::Verifying => "verifying",
            Phase::Rearming => "rearming",
            Phase::Holding => "holding",
            Phase::Exposed => "exposed",
            Phase::Stuck => "stuck",
        }
    }
}

/// How an incident ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// We lowered the switch, a save proved the cure, the operator's value is back.
    Rearmed,
    /// Saving works again and we had changed nothing.
    SelfHealed,
    /// Writes were moved to another server.
    Redirected,
    /// The exposure budget was spent and the switch put back unproved.
    Exposed,
    /// Nothing was left to try.
    Stuck,
    /// The operator (or a restart) took the matter out of our hands.
    Operator,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 6] = [
        Outcome::Rearmed,
        Outcome::SelfHealed,
        Outcome::Redirected,
        Outcome::Exposed,
        Outcome::Stuck,
        Outcome::Operator,
    ];

    /// The name shown in status, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Rearmed => "rearmed",
            Outcome::SelfHealed => "self-healed",
            Outcome::Redirected => "redirected",
            Outcome::Exposed => "exposed",
            Outcome::Stuck => "stuck",
            Outcome::Operator => "operator",
        }
    }
}

/// One line of an incident's timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds since the incident opened.
    pub at_ms: u64,
    /// The phase after the event.
    pub phase: Phase,
    /// What happened, in a few fixed words (`refusal heard`, `writes opened`, `bgsave started` …).
    pub event: String,
    /// The evidence: numbers, the server's own words. Never a key, a value or a secret.
    pub detail: String,
}

/// A diagnosed cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// One of interface.md's ids.
    pub id: String,
    /// `info`, `warn` or `crit`.
    pub severity: String,
    /// What was seen.
    pub evidence: String,
    /// The exact command that cures it, for a human to type.
    pub remedy: String,
    /// Whether bgsafe applied the remedy.
    pub applied: bool,
}

/// First sighting to re-armed, or to whatever ended it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Sortable and unique: `20261122T101500Z-1f3a`.
    pub id: String,
    /// Address of the upstream, as configured, without credentials.
    pub upstream: String,
    /// RDB or AOF.
    pub variant: Variant,
    /// RFC 3339, UTC, milliseconds.
    pub opened_at: String,
    /// From the first sighting to open writes.
    pub mitigated_after_ms: Option<u64>,
    /// … to a proven save.
    pub verified_after_ms: Option<u64>,
    /// … to the end.
    pub closed_after_ms: Option<u64>,
    /// `None` while it is open.
    pub outcome: Option<Outcome>,
    /// Causes found so far.
    pub findings: Vec<Finding>,
    /// Refusals seen by all sessions.
    pub refusals: u64,
    /// Commands held; always `replayed + timed_out + abandoned` once all have ended.
    pub held: u64,
    /// Held commands that were sent (again) once writes were open.
    pub replayed: u64,
    /// Held commands whose time ran out: their clients got the server's own error.
    pub timed_out: u64,
    /// Held commands whose clients left.
    pub abandoned: u64,
    /// Changes acknowledged while the switch was down and not yet saved, at the most.
    pub changes_exposed: u64,
    /// What happened, in order.
    pub timeline: Vec<Entry>,
}

/// The restore that this bgsafe owes the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebtView {
    /// RFC 3339.
    pub since: String,
    /// The setting that was changed.
    pub setting: String,
    /// The value to put back.
    pub owed: String,
    /// The server process it is owed to.
    pub run_id: String,
}

/// Who owes the restore in our stead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerView {
    /// As in the name of its control connection: `bgsafe:ID…` in CLIENT LIST.
    pub id: String,
    /// RFC 3339, by its clock.
    pub since: String,
}

/// How much is acknowledged but unsaved, against its budget (0 is no limit).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposure {
    /// Seconds since the switch went down, or since a good save after it; else 0.
    pub secs: u64,
    /// Changes since then; else 0.
    pub changes: u64,
    /// `--exposure-time`.
    pub secs_max: u64,
    /// `--exposure-changes`.
    pub changes_max: u64,
    /// Seconds since the last good save, as the server says, whatever the switch reads.
    #[serde(default)]
    pub secs_since_save: Option<u64>,
    /// Changes since it.
    #[serde(default)]
    pub changes_since_save: Option<u64>,
}

impl Exposure {
    /// How much of the budget that is nearer to its end is spent, in tenths; 0 without a limit.
    pub fn tenths(&self) -> u64 {
        let of = |value: u64, max: u64| (value.saturating_mul(10)).checked_div(max).unwrap_or(0);
        of(self.secs, self.secs_max).max(of(self.changes, self.changes_max))
    }
}

/// The newest copy on bgsafe's own disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EscrowView {
    /// The file, on the machine of this bgsafe.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// RFC 3339: what was acknowledged by then is in it.
    pub at: String,
    /// Since then.
    pub age_secs: u64,
    /// The server process it is of.
    pub run_id: String,
    /// Keys in it, where they were counted.
    pub keys: Option<u64>,
    /// What was found right of it: `end`, `sum`, the name of a checker.
    pub checked: Vec<String>,
}

/// What sessions hold now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Commands.
    pub commands: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What the control user may do, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RightsView {
    /// `ping`, `info`, `role`, `config-get`, `config-set`, `bgsave`, `lastsave`, `multi`.
    pub allowed: Vec<String>,
    /// … and those that were refused, or that the server does not have.
    pub denied: Vec<String>,
}

/// One entry of `upstreams` in `/api/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// Without credentials.
    pub address: String,
    /// Do sessions go there?
    #[serde(default)]
    pub serves: bool,
    /// Is the control connection up?
    pub up: bool,
    /// `primary`, `replica`, or `unknown` before the first look.
    pub role: String,
    /// `redis`, `valkey`, `redict`, `keydb` or `unknown`.
    pub server: String,
    /// Did its last save work? Null before the first look.
    #[serde(default)]
    pub last_save_ok: Option<bool>,
    /// As INFO says, or empty.
    pub version: String,
    /// As INFO says, or empty.
    pub run_id: String,
    /// What Sentinel says of it: `agrees`, `s-down`, `failing-over`, `says-other`, `disagree`; `none` when nobody
    /// watches; `awaited`, `blind`, `untold`, `unasked` when that is not known.
    #[serde(default)]
    pub sentinel: String,
    /// Where the incident stands.
    pub phase: Phase,
    /// What sessions do with writes.
    pub posture: String,
    /// The policy in force.
    pub policy: String,
    /// Null unless this bgsafe owes a restore.
    pub debt: Option<DebtView>,
    /// Another bgsafe before the same server, which lowered the switch and will put it back.
    #[serde(default)]
    pub owner: Option<OwnerView>,
    /// Null-safe: zeros when nothing is exposed.
    pub exposure: Exposure,
    /// A copy of the data on bgsafe's disk; null without one.
    #[serde(default)]
    pub escrow: Option<EscrowView>,
    /// Standing findings: each with the command a human must type.
    pub findings: Vec<Finding>,
    /// Of the control user.
    #[serde(default)]
    pub rights: RightsView,
    /// What is parked now.
    pub held: Held,
    /// Id of the open incident.
    pub incident: Option<String>,
}
