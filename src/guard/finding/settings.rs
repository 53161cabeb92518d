//! When snapshots are made.
//!
//! Refuses to know: whether they work.

use super::failing::save_points;
use super::{Check, Hit, Kind, Severity, Source};

/// The server's own default from 7.0 on is close to it; this one is what redis.conf has taught for a decade.
pub const SAVE_POINTS: &str = "900 1 300 10 60 10000";

pub const SAVE_POINTS_MISSING: Check = Check {
    id: "save-points-missing",
    kind: Kind::Advice,
    severity: Severity::Info,
    needs: &[Source::Config],
    when: |e| {
        if !e.look.save.is(String::new()) {
            return None;
        }
        let was = e.healthy.as_ref().map(|healthy| healthy.save.as_str()).filter(|save| !save.is_empty());
        match (was, e.server.appendonly.get()) {
            (Some(was), _) => Hit::sure(format!("save is empty, it was {was}"))
                .map(|hit| hit.kind(Kind::Danger).severity(Severity::Warn)),
            (None, Some(true)) => Hit::sure("save is empty; the append-only file is on"),
            (None, Some(false)) => Hit::sure(format!(
                "save is empty → {SAVE_POINTS}; the append-only file is off: a restart loses everything"
            ))
            .map(|hit| hit.severity(Severity::Warn)),
            (None, None) => Hit::sure(format!("save is empty → {SAVE_POINTS}")),
        }
    },
    what: "No save point is configured, so the server makes no snapshots by itself.",
    why: "It also saves nothing when it is shut down, and a failing disk goes unnoticed.",
    cure: "Set save points, such as 900 1 300 10 60 10000, unless the data may be lost.",
    explain: "For a pure cache no save points are fine, and then nothing here concerns you. Often they \
              were emptied to get rid of the MISCONF error, which works and is worse than the error: the \
              snapshots stop, and so does the save at shutdown. With the append-only file on, a snapshot \
              now and then is still the simplest backup.",
    source: "server.c:serverCron, server.c:prepareForShutdown; redis.conf: save",
};

pub const SAVE_POINTS_DENSE: Check = Check {
    id: "save-points-dense",
    kind: Kind::Advice,
    severity: Severity::Info,
    needs: &[Source::Config, Source::Info],
    when: |e| {
        let points = save_points(e)?;
        let secs = points.iter().map(|(secs, _)| *secs).min()?;
        let took = e.server.last_save_secs.get();
        let save = e.look.save.known()?;
        match took {
            Some(took) if took > 0 && secs <= took.saturating_mul(2) => Hit::sure(format!(
                "save {save} → {SAVE_POINTS}: the shortest is {secs} s, the last save took {took} s"
            ))
            .map(|hit| hit.severity(Severity::Warn)),
            _ if secs < 10 => Hit::sure(format!("save {save} → {SAVE_POINTS}: the shortest is {secs} s")),
            _ => None,
        }
    },
    what: "Save points are so dense that the server saves almost all the time.",
    why: "Each save forks, copies what is written meanwhile and writes the whole data set.",
    cure: "Space the save points out, such as 900 1 300 10 60 10000, or use the append-only file for \
           seconds.",
    explain: "A snapshot always writes everything, however little changed. A save point whose time is \
              shorter than a save takes means that the next begins when the last ends: copy on write all \
              day, a busy disk, a fork every time. Who must not lose more than a second wants appendonly \
              yes with appendfsync everysec, and snapshots for backup.",
    source: "server.c:serverCron; redis.conf: save",
};
