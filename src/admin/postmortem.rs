//! An incident as Markdown, for the ticket that is written the morning after. Refuses to know HTTP.
//!
//! Invariant: what the server said stands in code spans and table cells and cannot break out of them.

use std::fmt::Write as _;

use crate::guard::record::Incident;

/// The whole record, as a page of Markdown.
pub fn markdown(incident: &Incident) -> String {
    let mut out = String::new();
    let ms = |value: Option<u64>| value.map_or("–".to_owned(), |ms| format!("{ms} ms"));
    let outcome = incident.outcome.map_or("still open", |outcome| outcome.name());
    let _ = writeln!(out, "# Incident {}: {}\n", incident.id, cell(&incident.upstream));
    let rows = [
        ("opened", incident.opened_at.clone()),
        ("variant", incident.variant.name().to_owned()),
        ("outcome", outcome.to_owned()),
        ("writes open after", ms(incident.mitigated_after_ms)),
        ("a save proved after", ms(incident.verified_after_ms)),
        ("closed after", ms(incident.closed_after_ms)),
        ("refusals seen", incident.refusals.to_string()),
        ("commands held", incident.held.to_string()),
        ("… sent again", incident.replayed.to_string()),
        ("… given the server's error in the end", incident.timed_out.to_string()),
        ("… whose clients left", incident.abandoned.to_string()),
        ("changes unsaved at the most", incident.changes_exposed.to_string()),
    ];
    out.push_str("| | |\n|---|---|\n");
    for (name, value) in rows {
        let _ = writeln!(out, "| {name} | {} |", cell(&value));
    }
    if !incident.findings.is_empty() {
        out.push_str("\n## Findings\n");
    }
    for finding in &incident.findings {
        let done = if finding.applied { "bgsafe did" } else { "type" };
        let _ = writeln!(out, "\n- **{}** ({}): {}", finding.id, finding.severity, cell(&finding.evidence));
        if !finding.remedy.is_empty() {
            let _ = writeln!(out, "  - {done}: {}", code(&finding.remedy));
        }
    }
    out.push_str("\n## Timeline\n\n| ms | phase | event | detail |\n|---:|---|---|---|\n");
    for entry in &incident.timeline {
        let detail = cell(&entry.detail);
        let _ =
            writeln!(out, "| {} | {} | {} | {detail} |", entry.at_ms, entry.phase.name(), cell(&entry.event));
    }
    out
}

/// One line, without what a table cell or a reader of HTML would take for its own.
fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '#' => out.extend(['\\', c]),
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A code span that its text cannot end: its fence is longer than any run of backticks inside.
fn code(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let pad = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{pad}{text}{pad}{fence}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_words_cannot_break_out() {
        assert_eq!(cell("a|b`c\n<img>&[x](y)"), r"a\|b\`c &lt;img>&amp;\[x\](y)");
        assert_eq!(code("chown 1:2 /srv"), "`chown 1:2 /srv`");
        assert_eq!(code("a``b`"), "``` a``b` ```");
        assert_eq!(code("one\ntwo"), "`one two`");
    }
}
