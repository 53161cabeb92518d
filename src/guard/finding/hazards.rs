//! Who makes it worse: Sentinel, replicas, probes, a CONFIG REWRITE at the wrong time, a switch left off, rights that
//! are missing.
//!
//! Refuses to know: why saving fails. M §1.3 to §1.5, §4.5, §6.

use super::failing::{self, save_points};
use super::{Check, Hit, Kind, Severity, Source};
use crate::guard::evidence::{Evidence, Reason, Role};

/// Writes would be refused now, by snapshot or AOF.
fn refuses(e: &Evidence) -> bool {
    e.look.refuses_for_rdb() || e.look.aof_ok.is(false)
}

pub const REPLICA_WILL_ABORT: Check = Check {
    id: "replica-will-abort",
    kind: Kind::Danger,
    severity: Severity::Crit,
    needs: &[Source::Info, Source::Config],
    when: |e| match e.look.aborts_on_errors() && refuses(e) {
        true => Hit::sure("a replica that cannot save, with replica-ignore-disk-write-errors no"),
        false => None,
    },
    what: "This replica will end itself at the next write from its primary.",
    why: "From 7.0 on a replica that cannot persist stops rather than accept a write, and its data is gone \
          from the set.",
    cure: "Set replica-ignore-disk-write-errors yes on it, repair its saving, then set it back.",
    explain: "A primary refuses writes when it cannot save; a replica cannot refuse its primary, so it \
              panics. The default is no because a replica that silently persists nothing is worse for \
              some. While you repair it, yes keeps a live copy of the data in memory, which is what you \
              want when the primary is in trouble too: replicas first, then the primary.",
    source: "server.c:processCommand (replica-ignore-disk-write-errors); redis.conf",
};

pub const ZOMBIE_PRIMARY: Check = Check {
    id: "zombie-primary",
    kind: Kind::Danger,
    severity: Severity::Crit,
    needs: &[Source::Clients, Source::Info],
    when: |e| {
        let alone = e.look.role.is(Role::Primary) && e.server.replicas.is(0);
        match alone && e.server.sentinels.is_and(|n| *n > 0) && refuses(e) {
            true => Hit::likely(
                "Sentinel watches this primary, it refuses writes, and no replica follows it any more",
            ),
            false => None,
        }
    },
    what: "This may be an old primary that Sentinel has already replaced.",
    why: "Writes that it takes are thrown away the moment Sentinel makes it a replica.",
    cure: "Ask Sentinel who the primary is before you open its writes.",
    explain: "Sentinel counts a server that answers PING with an error as down, promotes a replica, and \
              cannot demote the old primary as long as it looks down. Whoever then cures or opens the old \
              one has a writable server that nobody replicates: it acknowledges writes for some seconds, \
              is demoted, and they are gone.",
    source: "sentinel.c:sentinelPingReplyCallback, sentinel.c:sentinelRefreshInstanceInfo",
};

pub const SENTINEL_WILL_FAIL_OVER: Check = Check {
    id: "sentinel-will-fail-over",
    kind: Kind::Danger,
    severity: Severity::Warn,
    needs: &[Source::Clients, Source::Info],
    when: |e| {
        let watched = e.server.sentinels.get().filter(|n| *n > 0)?;
        match e.look.role.is(Role::Primary) && refuses(e) {
            true => Hit::sure(format!(
                "{watched} Sentinels watch this primary, and it answers PING with an error"
            )),
            false => None,
        }
    },
    what: "Sentinel takes this primary for dead and will promote a replica.",
    why: "A failover loses what was not replicated, and the old primary stays behind as a second one.",
    cure: "Open the writes before down-after-milliseconds is over, or let the failover happen and keep the \
           old primary closed.",
    explain: "PING is refused like a write, and Sentinel accepts PONG, LOADING and MASTERDOWN only. After \
              down-after-milliseconds (30 s by default) it counts the server as down. Decide once: \
              mitigate in time and no failover happens, or prefer the failover. What must not happen is \
              opening the old primary after it.",
    source: "sentinel.c:sentinelPingReplyCallback, sentinel.c:sentinelCheckSubjectivelyDown",
};

pub const SWITCH_LEFT_OFF: Check = Check {
    id: "switch-left-off",
    kind: Kind::Danger,
    severity: Severity::Warn,
    needs: &[Source::Config],
    when: |e| {
        if let Some(why) = e.seen.left_off.as_ref().filter(|_| e.look.knob.is("no".to_string())) {
            return Hit::sure(why.clone()).map(|hit| hit.severity(Severity::Crit));
        }
        // During an incident it is bgsafe that lowered it, this one or another.
        let others = e.server.other_guards.is_and(|n| *n > 0) && !e.look.save_ok.is(true);
        let ours = e.seen.variant.is_some() || others;
        let points = save_points(e).is_some_and(|points| !points.is_empty());
        if ours || !points || !e.look.knob.is("no".to_string()) {
            return None;
        }
        match e.look.save_ok.get() {
            Some(false) => Hit::sure("stop-writes-on-bgsave-error is no, and the last save failed")
                .map(|hit| hit.severity(Severity::Crit)),
            _ => Hit::sure("stop-writes-on-bgsave-error is no"),
        }
    },
    what: "stop-writes-on-bgsave-error is off, so a failing save goes unnoticed.",
    why: "The server acknowledges writes that no snapshot will ever hold, until a restart loses them all.",
    cure: "Prove a save with BGSAVE, then set stop-writes-on-bgsave-error yes.",
    explain: "Is it safe to set stop-writes-on-bgsave-error to no? For minutes, with somebody watching, \
              yes: writes go on and live in memory. For good, no: the server tells nobody any more that it \
              saves nothing, and the next restart, crash or OOM kill loses everything since the last good \
              save, often weeks. It is not a repair. If you must keep it off, alert on \
              rdb_last_bgsave_status and on the age of the last save. It changes nothing for the \
              append-only file. Set it back only after a save succeeded, or writes are refused again at \
              once.",
    source: "server.c:writeCommandsDeniedByDiskError; redis/redis#90, redis/redis#2146",
};

pub const REWRITE_PERSISTED_NO: Check = Check {
    id: "rewrite-persisted-no",
    kind: Kind::Danger,
    severity: Severity::Warn,
    needs: &[Source::Config, Source::Info],
    when: |e| {
        match e.seen.rewritten.get() {
            Some(0) => return None,
            Some(n) => {
                let says = format!(
                    "CONFIG REWRITE ran {n} times from elsewhere while bgsafe had the switch down: the file says no"
                );
                return Hit::sure(says).map(|hit| hit.severity(Severity::Crit));
            }
            None => {}
        }
        let file = e.server.config_file.known().filter(|file| !file.is_empty())?;
        let rewrites = e.server.config_rewrites.get().filter(|n| *n > 0)?;
        match e.look.knob.is("no".to_string()) {
            true => Hit::likely(format!(
                "{rewrites} CONFIG REWRITEs since the start, the switch is no: look into {file}"
            )),
            false => None,
        }
    },
    what: "The configuration file may hold stop-writes-on-bgsave-error no for good.",
    why: "CONFIG REWRITE writes down what is live, so a switch lowered for an hour comes back with every \
          restart.",
    cure: "Look into the file; when the switch is back to yes, let CONFIG REWRITE write that down.",
    explain: "Nobody needs to type CONFIG REWRITE for it: Sentinel sends one to the servers at every \
              failover. The file then says no although everybody remembers yes. Set the switch back first, \
              then run CONFIG REWRITE, or edit the line by hand.",
    source: "config.c:rewriteConfig, sentinel.c:sentinelSendSlaveOf",
};

/// A bgsafe PINGs too while it cannot save: what it sends is not a probe's.
fn refused_probes(e: &Evidence) -> Option<u64> {
    let refused = e.server.pings_refused.get()?;
    match e.seen.pings {
        Some((before, own)) => Some(refused.saturating_sub(before).saturating_sub(own)),
        None => e.server.other_guards.is(0).then_some(refused),
    }
}

pub const PROBE_HAZARD: Check = Check {
    id: "probe-hazard",
    kind: Kind::Advice,
    severity: Severity::Info,
    needs: &[Source::Info, Source::Process],
    when: |e| {
        let refused = refused_probes(e).filter(|n| *n > 0);
        let failing = failing::rdb(e) || failing::aof(e);
        let kubernetes = e.host.process.kubernetes.is(true);
        match (refused, kubernetes) {
            (Some(n), true) if failing => {
                Hit::sure(format!("{n} PINGs were refused; Kubernetes may restart the server"))
                    .map(|hit| hit.kind(Kind::Danger).severity(Severity::Crit))
            }
            (Some(n), _) if failing => Hit::sure(format!("{n} PINGs were refused"))
                .map(|hit| hit.kind(Kind::Danger).severity(Severity::Warn)),
            (_, true) => Hit::likely("the server runs in Kubernetes, whose probes often PING it"),
            (_, false) => None,
        }
    },
    what: "Health checks that PING the server see it dead while it cannot save.",
    why: "A liveness probe that fails restarts the server, and the restart loses everything unsaved.",
    cure: "Let liveness probes accept any answer, and readiness alone ask for PONG.",
    explain: "On a primary PING is refused with the same MISCONF error as a write. A restart does cure the \
              refusal, by forgetting that a save failed, and with it every write since the last good one. \
              So a liveness probe must only ask whether the process answers: test for any reply \
              (tcpSocket, or redis-cli ping without comparing the text), and leave PONG to the readiness \
              probe. Startup probes should also bear LOADING.",
    source: "server.c:processCommand (PING is denied by disk errors); Kubernetes: liveness probes",
};

pub const CONFIG_BLOCKED: Check = Check {
    id: "config-blocked",
    kind: Kind::Danger,
    severity: Severity::Warn,
    needs: &[Source::Config],
    when: |e| {
        let knob = match e.look.knob.reason() {
            Some(Reason::Denied(why)) => Some(why),
            _ => None,
        };
        let words = e.seen.config_denied.as_ref().or(knob);
        match (words, e.server.rights.blocked(), e.server.rights.product()) {
            (Some(words), _, Some(product)) => Hit::sure(format!("{words}; this looks like {product}")),
            (Some(words), _, None) => Hit::sure(words.clone()),
            (None, blocked, _) => Hit::sure(blocked?),
        }
    },
    what: "bgsafe may not use CONFIG on this server.",
    why: "Without it writes cannot be opened while saving fails; they can only wait.",
    cure: "Give bgsafe a control user with the few commands it needs; managed services do not allow it at \
           all.",
    explain: "bgsafe needs CONFIG GET and CONFIG SET for one switch, beside PING, INFO, ROLE, BGSAVE and \
              LASTSAVE. An ACL user of its own is best; keep its password apart, because CONFIG SET can \
              change more than that switch. Where CONFIG has another name, --rename tells it to bgsafe. Managed \
              services that withdraw it leave a BGSAVE, where that is allowed, and holding.",
    source: "acl.c:ACLCheckAllPerm; redis.conf: rename-command; redis.io: ACL",
};
