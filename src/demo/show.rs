//! The demo on the screen: one line per half-second, events between them, tables at the end.
//!
//! Refuses to know: what is played. Invariant: colours only on a terminal, and never with NO_COLOR set.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde_json::Value;

use crate::testing::workload::{Score, table};

pub(super) struct Show {
    colours: bool,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

impl Show {
    pub(super) fn new() -> Show {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Show { colours: !plain && std::io::stdout().is_terminal() }
    }

    pub(super) fn note(&self, line: &str) {
        self.line(&self.paint(DIM, line));
    }

    pub(super) fn title(&self, line: &str) {
        self.line(&self.paint(BOLD, line));
    }

    pub(super) fn field(&self, name: &str, value: &str) {
        self.line(&format!("  {name:<12} {value}"));
    }

    /// One half-second: where bgsafe stands, and both sides' rates.
    pub(super) fn tick(&self, at: Duration, phase: &str, sides: &[(u64, u64)]) {
        let mut line = format!("{:>6.1} s", at.as_secs_f64());
        for (name, &(ok, errors)) in ["behind bgsafe", "direct"].iter().zip(sides) {
            let rate = format!("{ok:>6} ok/s");
            let errors_text = format!("{errors:>5} errors");
            let colour = if errors > 0 { RED } else { DIM };
            let rate = self.paint(if ok > 0 { GREEN } else { RED }, &rate);
            line += &format!("   {name} {rate} {}", self.paint(colour, &errors_text));
        }
        let colour = if phase == "quiet" { DIM } else { YELLOW };
        self.line(&format!("{line}   {}", self.paint(colour, phase)));
    }

    pub(super) fn event(&self, at: Duration, line: &str) {
        self.line(&self.paint(BOLD, &format!("{:>6.1} s   {line}", at.as_secs_f64())));
    }

    pub(super) fn timeline(&self, incident: &Option<Value>) {
        let Some(incident) = incident else {
            return self.line("\nbgsafe recorded no incident");
        };
        let word = |value: &Value| value.as_str().unwrap_or("open").to_owned();
        let title = format!("\nincident {}: {}", word(&incident["id"]), word(&incident["outcome"]));
        self.line(&self.paint(BOLD, &title));
        for entry in incident["timeline"].as_array().into_iter().flatten() {
            let at = entry["at_ms"].as_u64().unwrap_or_default();
            let (phase, event, detail) =
                (word(&entry["phase"]), word(&entry["event"]), word(&entry["detail"]));
            let phase = self.paint(YELLOW, &format!("{phase:<10}"));
            let detail = self.paint(DIM, &shortened(&detail));
            self.line(format!("{at:>8} ms  {phase} {event:<22} {detail}").trim_end());
        }
        for finding in incident["findings"].as_array().into_iter().flatten() {
            let (id, remedy) = (word(&finding["id"]), word(&finding["remedy"]));
            self.line(&format!("   finding  {id}: {}", word(&finding["evidence"])));
            if !remedy.is_empty() {
                self.line(&format!("   remedy   {remedy}"));
            }
        }
    }

    pub(super) fn scores(&self, guarded: &Score, direct: Option<&Score>) {
        let mut columns = vec![("behind bgsafe", &guarded.total)];
        columns.extend(direct.map(|score| ("direct", &score.total)));
        self.line(&format!("\n{}", table(&columns)));
        let most = direct.and_then(|score| score.texts.iter().max_by_key(|(_, count)| **count));
        if let Some((text, count)) = most {
            self.line(&self.paint(DIM, &format!("\ndirect, {count} times: {}", shortened(text))));
        }
    }

    pub(super) fn verdict(&self, perfect: bool, recovered: bool, guarded: &Score) {
        if perfect {
            let line = "The writers behind bgsafe noticed nothing; every write is there once and in order; the switch is back.";
            return self.line(&format!("\n{}", self.paint(GREEN, line)));
        }
        self.line(&self.paint(RED, "\nNot as promised:"));
        if !recovered {
            self.line("  no save was proved, or the switch did not come back, in 30 s after the heal");
        }
        for (text, count) in &guarded.texts {
            self.line(&format!("  {count:>6} times  {}", shortened(text)));
        }
        let broken = guarded.kinds.iter().filter(|(_, score)| !score.honest());
        for (kind, score) in broken {
            let (lost, doubled, reordered) = (score.lost, score.doubled, score.reordered);
            self.line(&format!("  {}: {lost} lost, {doubled} doubled, {reordered} reordered", kind.name()));
        }
    }

    fn line(&self, line: &str) {
        // A reader that went away (`| head`) must not end the demo before its servers are ended.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The head of a server's sentence: MISCONF's is four lines long.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 90;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
