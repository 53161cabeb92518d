//! The report on a terminal: a header, findings worst first, what could not be seen, one line that sums it up.
//!
//! Refuses to know: how a finding came about. Invariants: a command stands on one line, whole, to be copied; every
//! other line fits the width; colour changes no letter.

use std::fmt::Write as _;

use super::report::{Finding, Report};
use crate::cli::paint::{Mood, Paint, clean};

/// Narrower than this nothing is readable, wider neither.
const WIDTHS: std::ops::RangeInclusive<usize> = 40..=120;
const USUAL: usize = 100;
/// Where the text of a row begins.
const INDENT: usize = 12;

/// How it is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) paint: Paint,
    pub(super) width: usize,
}

impl Style {
    /// Of standard output.
    pub(super) fn stdout() -> Style {
        let columns = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| size.ws_col);
        let width = match columns {
            0 => USUAL,
            columns => usize::from(columns).clamp(*WIDTHS.start(), *WIDTHS.end()),
        };
        Style { paint: Paint::stdout(), width }
    }

    /// `name  text`, wrapped under itself.
    pub(super) fn row(self, name: &str, text: &str, out: &mut String) {
        let name = format!("{}{}", " ".repeat(INDENT - 6), self.paint.word(Mood::Faint, name, 4));
        let mut lead = format!("{name}  ");
        for line in wrap(&clean(text), self.width - INDENT) {
            let _ = writeln!(out, "{}", format!("{lead}{line}").trim_end());
            lead = " ".repeat(INDENT);
        }
    }

    /// A command, never wrapped.
    pub(super) fn command(self, name: &str, command: &str, out: &mut String) {
        let name = self.paint.word(Mood::Faint, name, 4);
        let command = self.paint.word(Mood::Bold, &clean(command), 0);
        let _ = writeln!(out, "{}{name}  {command}", " ".repeat(INDENT - 6));
    }
}

/// The whole page.
pub(super) fn page(report: &Report, style: Style) -> String {
    let mut out = header(report, style);
    for finding in &report.findings {
        out.push('\n');
        one(finding, style, &mut out);
    }
    // Advice alone is no reason to keep quiet about how well it goes.
    let well = report.findings.iter().all(|finding| finding.kind == "advice");
    if well && !report.figures.is_empty() {
        out.push('\n');
        for (name, figure) in &report.figures {
            let _ = writeln!(out, "  {}  {}", style.paint.word(Mood::Faint, name, 9), clean(figure));
        }
    }
    unseen(report, style, &mut out);
    out.push('\n');
    out += &summary(report, style);
    out
}

fn header(report: &Report, style: Style) -> String {
    let s = &report.server;
    let known = |word: &Option<String>| word.clone().unwrap_or_else(|| "?".into());
    let name = format!("{} {}", known(&s.product), known(&s.version));
    let host = match (s.pid, &s.host_unseen) {
        (Some(pid), _) => format!("pid {pid} on this host"),
        (None, Some(why)) => format!("host not in sight: {}", why.trim_start_matches("out of sight: ")),
        (None, None) => "host not in sight".into(),
    };
    let role = s.role.unwrap_or("role not known");
    let mut out = String::new();
    let mut lines = vec![String::new()];
    for part in [name, role.into(), s.address.clone(), host] {
        let line = lines.last_mut().expect("there is always a line");
        match line.is_empty() {
            true => line.push_str(&clean(&part)),
            false if line.chars().count() + 3 + part.chars().count() <= style.width => {
                line.push_str(&format!("   {}", clean(&part)));
            }
            false => lines.extend(wrap(&clean(&part), style.width)),
        }
    }
    for (at, line) in lines.iter().enumerate() {
        let mood = if at == 0 { Mood::Bold } else { Mood::Faint };
        let _ = writeln!(out, "{}", style.paint.word(mood, line, 0));
    }
    out
}

fn mood(severity: &str) -> Mood {
    match severity {
        "crit" => Mood::Bad,
        "warn" => Mood::Busy,
        _ => Mood::Faint,
    }
}

fn one(finding: &Finding, style: Style, out: &mut String) {
    let severity = style.paint.word(mood(finding.severity), finding.severity, 4);
    let id = style.paint.word(Mood::Bold, finding.id, 0);
    let likely = if finding.sure { "" } else { ", likely" };
    let _ = writeln!(out, "{severity}  {id}  ({}{likely})", finding.kind);
    for (name, text) in
        [("what", finding.what), ("seen", &finding.evidence), ("why", finding.why), ("cure", finding.cure)]
    {
        style.row(name, text, out);
    }
    if finding.command != finding.cure {
        style.command("type", &finding.command, out);
    }
}

fn unseen(report: &Report, style: Style, out: &mut String) {
    if report.unseen.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{}", style.paint.word(Mood::Bold, "could not be seen", 0));
    let mut told: Vec<&str> = Vec::new();
    for one in &report.unseen {
        if told.contains(&one.why.as_str()) {
            continue;
        }
        told.push(&one.why);
        let same = report.unseen.iter().filter(|other| other.why == one.why);
        let names = same.map(|other| other.source).collect::<Vec<_>>().join(", ");
        bullet(&format!("{names}: {}", one.why), style, out);
    }
    if !report.not_checked.is_empty() {
        bullet(&format!("so not checked: {}", report.not_checked.join(", ")), style, out);
    }
    if let Some(grant) = &report.grant {
        style.command("type", grant, out);
    }
}

fn bullet(text: &str, style: Style, out: &mut String) {
    let mut lead = "      ";
    for line in wrap(&clean(text), style.width - 8) {
        let _ = writeln!(out, "{lead}{line}");
        lead = "        ";
    }
}

fn summary(report: &Report, style: Style) -> String {
    let count = |severity| report.findings.iter().filter(|f| f.severity == severity).count();
    let counts = [(count("crit"), "crit"), (count("warn"), "warn"), (count("info"), "info")];
    let parts: Vec<_> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    let blind = match report.not_checked.len() {
        0 => String::new(),
        1 => "; 1 check could not be made".into(),
        n => format!("; {n} checks could not be made"),
    };
    match report.findings.first() {
        None => style.paint.word(Mood::Good, &format!("nothing is wrong{blind}"), 0) + "\n",
        Some(worst) => {
            let total = match report.findings.len() {
                1 => "1 finding".to_owned(),
                n => format!("{n} findings"),
            };
            let text = format!("{total}: {}{blind}", parts.join(", "));
            style.paint.word(mood(worst.severity), &text, 0)
                + &format!("   (more on one: bgsafe doctor --explain {})\n", worst.id)
        }
    }
}

/// Lines of at most `width` characters, cut at blanks where there are any.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let long = word.chars().count();
        if used > 0 && used + 1 + long > width {
            lines.push(String::new());
            used = 0;
        }
        let line = lines.last_mut().expect("there is always a line");
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += long;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::report::Server;
    use super::super::unseen::Unseen;
    use super::*;

    fn report() -> Report {
        Report {
            findings: Vec::new(),
            server: Server {
                address: "127.0.0.1:6379".into(),
                product: Some("redis".into()),
                version: Some("7.0.15".into()),
                role: Some("primary"),
                run_id: Some("r".into()),
                pid: Some(7),
                host_unseen: None,
                last_save_ok: Some(true),
                last_save_age_secs: Some(61),
                changes_since_save: Some(3),
                fork_usec: None,
                used_memory: None,
                headroom: super::super::report::Room::default(),
            },
            unseen: Vec::new(),
            not_checked: Vec::new(),
            fixed: Vec::new(),
            proved: None,
            grant: None,
            figures: vec![("last save", "1m 1s ago".into())],
        }
    }

    fn finding() -> Finding {
        Finding {
            id: "unknown",
            severity: "crit",
            kind: "cause",
            sure: false,
            what: "Saving fails, and what bgsafe could see does not say why, whatever it tried to look at.",
            why: "It hurts.",
            cure: "Read the log.",
            evidence: "status err\u{1b}[2J".into(),
            command: "redis-cli -h 127.0.0.1 -p 6379 CONFIG GET a-long-name-that-does-not-fit-the-width"
                .into(),
            remedies: Vec::new(),
        }
    }

    const PLAIN: Style = Style { paint: Paint(false), width: 60 };

    #[test]
    fn a_healthy_server_is_a_short_page() {
        let page = page(&report(), PLAIN);
        assert_eq!(
            page,
            "redis 7.0.15   primary   127.0.0.1:6379   pid 7 on this host\n\n  last save  1m 1s ago\n\n\
             nothing is wrong\n"
        );
    }

    #[test]
    fn a_finding_is_aligned_and_wrapped_and_its_command_stays_whole() {
        let mut report = report();
        report.findings.push(finding());
        let page = page(&report, PLAIN);
        let expected = "\ncrit  unknown  (cause, likely)\n      what  Saving fails, and what bgsafe could see does not\n            \
            say why, whatever it tried to look at.\n      seen  status err?[2J\n      why   It hurts.\n      \
            cure  Read the log.\n      type  redis-cli -h 127.0.0.1 -p 6379 CONFIG GET a-long-";
        assert!(page.contains(expected), "{page}");
        assert!(
            page.ends_with("1 finding: 1 crit   (more on one: bgsafe doctor --explain unknown)\n"),
            "{page}"
        );
        for line in page.lines().filter(|line| !line.contains("type") && !line.contains("more on")) {
            assert!(line.chars().count() <= 60, "{line}");
        }
    }

    #[test]
    fn colour_changes_no_letter() {
        let mut report = report();
        report.findings.push(finding());
        let coloured = page(&report, Style { paint: Paint(true), width: 60 });
        let mut plain = String::new();
        let mut rest = coloured.as_str();
        while let Some(at) = rest.find('\u{1b}') {
            plain += &rest[..at];
            let end = rest[at..].find('m').expect("an escape ends");
            rest = &rest[at + end + 1..];
        }
        assert_eq!(plain + rest, page(&report, PLAIN));
    }

    #[test]
    fn what_is_unseen_for_one_reason_is_told_once() {
        let mut report = report();
        for source in ["process", "kernel"] {
            report.unseen.push(Unseen { source, why: "out of sight: another host".into() });
        }
        report.not_checked.push("disk-full");
        let page = page(&report, PLAIN);
        assert!(page.contains("      process, kernel: out of sight: another host\n"), "{page}");
        assert!(page.contains("      so not checked: disk-full\n"), "{page}");
        assert!(page.ends_with("nothing is wrong; 1 check could not be made\n"), "{page}");
    }
}
