//! `bgsafe status`: asks a running bgsafe how it is, and draws the answer. Refuses to know how the
//! answer came about. Invariant: the exit code says the same as the text.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use super::paint::{Mood, Paint, bytes, clean, seconds};
use super::{StatusArgs, UNREACHABLE, complain, say};
use crate::admin::{Status, client};
use crate::guard::record::{Finding, Phase, UpstreamStatus};

const REDRAW: Duration = Duration::from_secs(1);

/// Once, or again and again until the user has seen enough.
pub async fn run(address: &str, args: &StatusArgs) -> ExitCode {
    loop {
        let seen = client::json::<Status>(address, "/api/status").await;
        if args.watch && !args.json && std::io::stdout().is_terminal() {
            let _ = std::io::stdout().write_all(b"\x1b[H\x1b[2J");
        }
        let code = match seen {
            Ok(status) => show(&status, args),
            Err(error) => {
                complain(&error);
                ExitCode::from(UNREACHABLE)
            }
        };
        if !args.watch {
            return code;
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return code,
            () = tokio::time::sleep(REDRAW) => {}
        }
    }
}

fn show(status: &Status, args: &StatusArgs) -> ExitCode {
    let pretty = || serde_json::to_string_pretty(status).unwrap_or_default() + "\n";
    let line = || serde_json::to_string(status).unwrap_or_default() + "\n";
    say(&match (args.json, args.watch) {
        (true, false) => pretty(),
        (true, true) => line(),
        (false, _) => text(status, Paint::stdout()),
    });
    ExitCode::from(u8::from(is_open(status)))
}

/// Is an incident open anywhere?
fn is_open(status: &Status) -> bool {
    status.upstreams.iter().any(|u| u.incident.is_some() || u.phase != Phase::Quiet)
}

/// The whole page.
pub fn text(status: &Status, paint: Paint) -> String {
    let head = format!("bgsafe {}", clean(&status.version));
    let mut out = format!(
        "{}   up {}   sessions {}   workers {}\n",
        paint.word(Mood::Bold, &head, 0),
        seconds(status.uptime_secs),
        status.sessions,
        status.workers
    );
    for upstream in &status.upstreams {
        out.push('\n');
        one(upstream, paint, &mut out);
    }
    out
}

fn one(u: &UpstreamStatus, paint: Paint, out: &mut String) {
    let (mood, up) = if u.up { (Mood::Good, "up") } else { (Mood::Bad, "down") };
    let what = clean(format!("{} {}", u.server, u.version).trim());
    let head = paint.word(Mood::Bold, &clean(&u.address), 0);
    let _ = writeln!(out, "{head}   {}   {what}   {}", clean(&u.role), paint.word(mood, up, 0));

    let limit = |max: u64, text: String| if max == 0 { "no limit".to_owned() } else { format!("of {text}") };
    let e = &u.exposure;
    let exposure = format!(
        "{} ({}), {} changes ({})",
        seconds(e.secs),
        limit(e.secs_max, seconds(e.secs_max)),
        e.changes,
        limit(e.changes_max, e.changes_max.to_string())
    );
    let unsaved = match (e.secs_since_save, e.changes_since_save) {
        (Some(secs), Some(changes)) => format!("{changes} changes, last good save {} ago", seconds(secs)),
        (None, _) | (_, None) => "unknown".to_owned(),
    };
    let debt = match &u.debt {
        Some(debt) => {
            format!("{} {}, since {}", clean(&debt.setting), clean(&debt.owed), clean(&debt.since))
        }
        None => match &u.owner {
            Some(owner) => format!("bgsafe {}'s, since {}", clean(&owner.id), clean(&owner.since)),
            None => "none".to_owned(),
        },
    };
    let exposed = if e.secs > 0 || e.changes > 0 { Some(Mood::Busy) } else { None };
    let rows = [
        ("phase", u.phase.name().to_owned(), Some(mood_of(u.phase))),
        ("posture", clean(&u.posture), None),
        ("policy", clean(&u.policy), None),
        ("exposure", exposure, exposed),
        ("unsaved", unsaved, None),
        ("held", format!("{} commands, {}", u.held.commands, bytes(u.held.bytes)), None),
        ("debt", debt, u.debt.as_ref().map(|_| Mood::Busy)),
        ("incident", clean(u.incident.as_deref().unwrap_or("none")), None),
    ];
    for (name, value, mood) in rows {
        let value = mood.map_or_else(|| value.clone(), |mood| paint.word(mood, &value, 0));
        let _ = writeln!(out, "  {}  {value}", paint.word(Mood::Faint, name, 9));
    }
    if let Some(copy) = &u.escrow {
        let (size, age, path) = (bytes(copy.bytes), seconds(copy.age_secs), clean(&copy.path));
        let checked = clean(&copy.checked.join(", "));
        let name = paint.word(Mood::Faint, "copy", 9);
        let _ = writeln!(out, "  {name}  {size}, {age} old, checked by {checked}: {path}");
    }
    if !u.rights.denied.is_empty() {
        let denied: Vec<_> = u.rights.denied.iter().map(|name| clean(name)).collect();
        let _ = writeln!(out, "  {}  may not {}", paint.word(Mood::Faint, "rights", 9), denied.join(", "));
    }
    findings(&u.findings, paint, out);
}

/// Each finding with the command that cures it.
pub fn findings(all: &[Finding], paint: Paint, out: &mut String) {
    for finding in all {
        let mood = match finding.severity.as_str() {
            "crit" => Mood::Bad,
            "warn" => Mood::Busy,
            _ => Mood::Faint,
        };
        let severity = paint.word(mood, &clean(&finding.severity), 4);
        let _ = writeln!(out, "  {severity}  {}: {}", clean(&finding.id), clean(&finding.evidence));
        let verb = if finding.applied { "applied" } else { "type" };
        if !finding.remedy.is_empty() {
            let _ = writeln!(out, "        {verb}: {}", clean(&finding.remedy));
        }
    }
}

/// How much a phase should worry the reader.
pub fn mood_of(phase: Phase) -> Mood {
    match phase {
        Phase::Quiet => Mood::Good,
        Phase::Alarmed
        | Phase::Mitigated
        | Phase::Diagnosing
        | Phase::Repairing
        | Phase::Verifying
        | Phase::Rearming
        | Phase::Holding => Mood::Busy,
        Phase::Exposed | Phase::Stuck => Mood::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::record::{DebtView, EscrowView, Exposure, Held, RightsView};

    fn status() -> Status {
        let upstream = UpstreamStatus {
            sentinel: "none".into(),
            address: "127.0.0.1:6379".into(),
            serves: true,
            last_save_ok: Some(true),
            up: true,
            role: "primary".into(),
            server: "redis".into(),
            version: "7.0.15".into(),
            run_id: "r".into(),
            phase: Phase::Quiet,
            posture: "forward".into(),
            policy: "mitigate".into(),
            debt: None,
            owner: None,
            exposure: Exposure { secs_max: 3600, ..Exposure::default() },
            escrow: None,
            findings: Vec::new(),
            rights: RightsView::default(),
            held: Held::default(),
            incident: None,
        };
        Status {
            version: "0.1.0".into(),
            uptime_secs: 11_520,
            sessions: 50,
            workers: 2,
            upstreams: vec![upstream],
        }
    }

    #[test]
    fn a_quiet_status_is_a_short_page() {
        let page = "bgsafe 0.1.0   up 3h 12m   sessions 50   workers 2\n\
            \n\
            127.0.0.1:6379   primary   redis 7.0.15   up\n  \
              phase      quiet\n  \
              posture    forward\n  \
              policy     mitigate\n  \
              exposure   0s (of 1h 0m), 0 changes (no limit)\n  \
              unsaved    unknown\n  \
              held       0 commands, 0 B\n  \
              debt       none\n  \
              incident   none\n";
        assert_eq!(text(&status(), Paint(false)), page);
        assert!(!is_open(&status()));
    }

    #[test]
    fn an_open_incident_shows_its_debt_and_the_command_to_type() {
        let mut status = status();
        let one = &mut status.upstreams[0];
        one.phase = Phase::Stuck;
        one.incident = Some("20261122T101500Z-1f3a".into());
        one.debt = Some(DebtView {
            since: "10:15".into(),
            setting: "stop-writes-on-bgsave-error".into(),
            owed: "yes".into(),
            run_id: "r".into(),
        });
        one.findings.push(Finding {
            id: "disk-full".into(),
            severity: "crit".into(),
            evidence: "0 bytes free\x1b[2J".into(),
            remedy: "df -h /data".into(),
            applied: false,
        });
        one.escrow = Some(EscrowView {
            path: "/e/a-1.rdb".into(),
            bytes: 2048,
            at: "10:20".into(),
            age_secs: 61,
            run_id: "r".into(),
            keys: None,
            checked: vec!["end".into(), "sum".into()],
        });
        let page = text(&status, Paint(false));
        assert!(is_open(&status));
        assert!(page.contains("1m 1s old, checked by end, sum: /e/a-1.rdb"), "{page}");
        for part in
            ["stuck", "stop-writes-on-bgsave-error yes, since 10:15", "type: df -h /data", "20261122T"]
        {
            assert!(page.contains(part), "{page}");
        }
        assert!(!page.contains('\x1b') && text(&status, Paint(true)).contains("\x1b[1;31mstuck\x1b[0m"));
    }
}
