//! `bgsafe incidents` and `bgsafe incidents show ID`: a line each, or one with its timeline. Refuses
//! to know how an incident is handled.

use std::fmt::Write as _;
use std::process::ExitCode;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::paint::{Mood, Paint, clean, millis};
use super::status::{findings, mood_of};
use super::{FAILED, UNREACHABLE, complain, say};
use crate::admin::client;
use crate::guard::record::Incident;

/// Asks `address`, prints, and says how it went.
pub async fn run(address: &str, show: Option<&str>, json: bool) -> ExitCode {
    let result = match show {
        Some(id) => {
            let path = format!("/api/incidents/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
            let one = client::json::<Incident>(address, &path).await;
            one.map(|one| if json { pretty(&one) } else { page(&one, Paint::stdout()) })
        }
        None => {
            let all = client::json::<Vec<Incident>>(address, "/api/incidents").await;
            all.map(|all| if json { pretty(&all) } else { list(&all, Paint::stdout()) })
        }
    };
    match (result, show) {
        (Ok(text), _) => {
            say(&text);
            ExitCode::SUCCESS
        }
        (Err(client::ClientError::Missing { .. }), Some(id)) => {
            complain(&format!("bgsafe at {address} knows no incident `{id}`; `bgsafe incidents` lists them"));
            ExitCode::from(FAILED)
        }
        (Err(error), _) => {
            complain(&error);
            ExitCode::from(UNREACHABLE)
        }
    }
}

fn pretty<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn list(all: &[Incident], paint: Paint) -> String {
    if all.is_empty() {
        return "no incident so far\n".to_owned();
    }
    let head = ["ID", "OPENED", "KIND", "OUTCOME", "OPEN WRITES", "CLOSED", "REFUSALS", "HELD", "REPLAYED"];
    let rows = all.iter().map(|i| {
        [
            clean(&i.id),
            clean(&i.opened_at),
            i.variant.name().to_owned(),
            outcome(i).to_owned(),
            after(i.mitigated_after_ms),
            after(i.closed_after_ms),
            i.refusals.to_string(),
            i.held.to_string(),
            i.replayed.to_string(),
        ]
    });
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    for (at, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let line = cells.join("  ");
        let line = line.trim_end();
        let _ = match at {
            0 => writeln!(out, "{}", paint.word(Mood::Faint, line, 0)),
            _ => writeln!(out, "{line}"),
        };
    }
    out
}

fn page(i: &Incident, paint: Paint) -> String {
    let mut out = format!("{}   {}\n", paint.word(Mood::Bold, &clean(&i.id), 0), outcome(i));
    let rows = [
        ("upstream", clean(&i.upstream)),
        ("kind", i.variant.name().to_owned()),
        ("opened", clean(&i.opened_at)),
        ("mitigated", after(i.mitigated_after_ms)),
        ("verified", after(i.verified_after_ms)),
        ("closed", after(i.closed_after_ms)),
        ("refusals", i.refusals.to_string()),
        (
            "held",
            format!(
                "{}: {} replayed, {} timed out, {} abandoned",
                i.held, i.replayed, i.timed_out, i.abandoned
            ),
        ),
        ("exposed", format!("{} changes", i.changes_exposed)),
    ];
    for (name, value) in rows {
        let _ = writeln!(out, "  {}  {value}", paint.word(Mood::Faint, name, 9));
    }
    findings(&i.findings, paint, &mut out);
    out.push('\n');
    for entry in &i.timeline {
        let phase = paint.word(mood_of(entry.phase), entry.phase.name(), 10);
        let line = format!(
            "  {:>10}  {phase}  {}  {}",
            millis(entry.at_ms),
            clean(&entry.event),
            clean(&entry.detail)
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

fn outcome(i: &Incident) -> &'static str {
    i.outcome.map_or("open", |outcome| outcome.name())
}

fn after(ms: Option<u64>) -> String {
    ms.map_or("-".to_owned(), |ms| format!("after {}", millis(ms)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::record::{Entry, Outcome, Phase};
    use crate::posture::Variant;

    fn incident() -> Incident {
        Incident {
            id: "20261122T101500Z-1f3a".into(),
            upstream: "127.0.0.1:6379".into(),
            variant: Variant::Rdb,
            opened_at: "2026-11-22T10:15:00.000Z".into(),
            mitigated_after_ms: Some(3),
            verified_after_ms: Some(2_500),
            closed_after_ms: Some(2_510),
            outcome: Some(Outcome::Rearmed),
            findings: Vec::new(),
            refusals: 4,
            held: 4,
            replayed: 4,
            timed_out: 0,
            abandoned: 0,
            changes_exposed: 120,
            timeline: vec![Entry {
                at_ms: 3,
                phase: Phase::Mitigated,
                event: "writes opened".into(),
                detail: String::new(),
            }],
        }
    }

    #[test]
    fn a_list_is_a_line_each() {
        let text = list(
            &[incident(), Incident { outcome: None, closed_after_ms: None, ..incident() }],
            Paint(false),
        );
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].contains("rearmed  after 3 ms   after 2.5 s  4"), "{text}");
        assert!(lines[2].contains("open"), "{text}");
        assert_eq!(list(&[], Paint(false)), "no incident so far\n");
    }

    #[test]
    fn a_page_shows_the_timeline() {
        let text = page(&incident(), Paint(false));
        assert!(text.contains("        3 ms  mitigated   writes opened\n"), "{text}");
        assert!(text.contains("4: 4 replayed, 0 timed out, 0 abandoned"), "{text}");
    }
}
