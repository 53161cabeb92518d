//! Remedies over the control connection alone.
//!
//! Refuses to know: the host. Invariants: no option that loses data, and none that is bgsafe's own switch but to set it
//! back to `yes`.

use super::{Consent, Plan, Proof, Reach, Remedy, Step};
use crate::guard::aof;
use crate::guard::evidence::Evidence;
use crate::guard::finding::failing::valkey;
use crate::guard::finding::memory::{may_protect, proposed_maxmemory};
use crate::guard::finding::settings::SAVE_POINTS;

pub const ROWS: &[Remedy] = &[
    row("dead-end", ONE_SAVE, Consent::Auto, Proof::Save, one_save),
    row("child-killed", ONE_SAVE, Consent::Ask, Proof::Save, one_save),
    row("unknown", ONE_SAVE, Consent::Ask, Proof::Save, one_save),
    row("child-oom-killed", PROTECT, Consent::Auto, Proof::Save, protect),
    row("cgroup-headroom", PROTECT, Consent::Auto, Proof::Save, protect),
    row("no-swap-container", PROTECT, Consent::Ask, Proof::Reading, protect),
    row("disk-full", COMPRESS, Consent::Ask, Proof::Save, compress),
    row("disk-headroom", COMPRESS, Consent::Ask, Proof::Save, compress),
    row("aof-fsync-sticky", "have the append-only file rewritten", Consent::Auto, Proof::Aof, |e| {
        let clears = aof::row(&e.look).is_some_and(|row| row.rewrite);
        // The new file needs room beside the old one; on a full disk a rewrite makes it worse.
        match clears && aof::room(e) && !e.look.aof.busy() {
            true => Plan::Steps(vec![Step::Command(&["BGREWRITEAOF"])]),
            false => Plan::NotHere,
        }
    }),
    row("aof-fsync-sticky", "switch the append-only file off and on", Consent::Ask, Proof::Aof, |e| {
        let only = aof::row(&e.look).is_some_and(|row| row.reopen && !row.rewrite);
        match only && e.server.appendonly.is(true) {
            true => Plan::Steps(vec![
                Step::Config { name: aof::APPENDONLY, value: "no".into() },
                Step::Config { name: aof::APPENDONLY, value: "yes".into() },
            ]),
            false => Plan::NotHere,
        }
    }),
    row("child-hung", "cancel the save", Consent::Ask, Proof::Save, |e| {
        match valkey(e, 8, 1) && e.look.saving.is(true) {
            true => Plan::Steps(vec![Step::Command(&["BGSAVE", "CANCEL"])]),
            false => Plan::NotHere,
        }
    }),
    row("replica-will-abort", "let the replica live on", Consent::Ask, Proof::Reading, |_| {
        set("replica-ignore-disk-write-errors", "yes")
    }),
    // In two rows: set back while the last save counts as failed, the switch refuses all writes at once.
    row("switch-left-off", "prove a save first", Consent::Ask, Proof::Save, |e| {
        match e.look.save_ok.is(true) {
            true => Plan::NotHere,
            false => Plan::Steps(vec![Step::Command(&["BGSAVE"])]),
        }
    }),
    row("switch-left-off", "switch it on again", Consent::Ask, Proof::Reading, |e| {
        match e.look.save_ok.is(true) {
            true => set("stop-writes-on-bgsave-error", "yes"),
            false => Plan::NotHere,
        }
    }),
    row("maxmemory-high", "leave room for a save", Consent::Ask, Proof::Reading, |e| {
        // Never below what is used, which would evict keys at once.
        let used = e.server.used_memory.get().map(|used| used.saturating_add(used / 20));
        match (proposed_maxmemory(e), used, e.server.maxmemory.get()) {
            (Some(proposed), Some(used), Some(now)) if proposed > used && (now == 0 || proposed < now) => {
                set("maxmemory", &proposed.to_string())
            }
            _ => Plan::NotHere,
        }
    }),
    row("save-points-missing", "set save points", Consent::Ask, Proof::Reading, |e| {
        let was = e.healthy.as_ref().map(|healthy| healthy.save.as_str()).filter(|save| !save.is_empty());
        set("save", was.unwrap_or(SAVE_POINTS))
    }),
    row("save-points-dense", "space the save points out", Consent::Ask, Proof::Reading, |_| {
        set("save", SAVE_POINTS)
    }),
    row("aof-rewrite-settings", "set what was found amiss", Consent::Ask, Proof::Reading, |e| {
        let server = &e.server;
        let percentage = server.aof_rewrite_percentage.is_and(|percent| *percent == 0 || *percent > 400);
        let size = server.aof_rewrite_min_size.is_and(|min| *min < 1 << 20 || *min > 8 << 30);
        let steps: Vec<Step> = [
            (percentage, "auto-aof-rewrite-percentage", "100"),
            (size, "auto-aof-rewrite-min-size", "67108864"),
            (server.aof_load_truncated.is(false), "aof-load-truncated", "yes"),
        ]
        .into_iter()
        .filter(|(amiss, ..)| *amiss)
        .map(|(_, name, value)| Step::Config { name, value: value.into() })
        .collect();
        if steps.is_empty() { Plan::NotHere } else { Plan::Steps(steps) }
    }),
];

const ONE_SAVE: &str = "ask for one save";

fn one_save(e: &Evidence) -> Plan {
    if e.look.saving.is(true) { Plan::NotHere } else { Plan::Steps(vec![Step::Command(&["BGSAVE"])]) }
}

const COMPRESS: &str = "compress dumps";

fn compress(e: &Evidence) -> Plan {
    if e.server.rdbcompression.is(false) { set("rdbcompression", "yes") } else { Plan::NotHere }
}

const PROTECT: &str = "let the child be killed before the server";

fn protect(e: &Evidence) -> Plan {
    if may_protect(e) { set("oom-score-adj", "yes") } else { Plan::NotHere }
}

fn set(name: &'static str, value: &str) -> Plan {
    Plan::Steps(vec![Step::Config { name, value: value.into() }])
}

const fn row(
    finding: &'static str,
    does: &'static str,
    consent: Consent,
    proof: Proof,
    plan: fn(&Evidence) -> Plan,
) -> Remedy {
    let (needs, undo) =
        ("CONFIG or the command", "CONFIG SET with the value before; a command needs no undo");
    Remedy { finding, does, reach: Reach::Redis, needs, survives: false, undo, consent, proof, plan }
}
