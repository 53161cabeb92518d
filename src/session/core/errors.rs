//! What error replies say: is it a refusal, and of what?

use crate::posture::{Form, Refusal, Unready};
use crate::resp::error::{classify, is_exec_abort, unready};

use super::super::replay::Outcome;
use super::Core;

impl Core {
    /// A top-level error line.
    pub(super) fn look_at_error(&mut self, line: &[u8]) -> Outcome {
        match classify(line) {
            Some(refusal) => {
                self.sight(refusal);
                Outcome::Refused(refusal)
            }
            None => match unready(line) {
                Some((what, form)) if self.holds_for(what) => {
                    // From now on also what only reads is kept until it is answered.
                    self.wary = true;
                    Outcome::Unready(form)
                }
                Some(_) | None if is_exec_abort(line) => Outcome::Aborted,
                Some(_) | None => Outcome::Failed,
            },
        }
    }

    /// READONLY and MASTERDOWN are waited out only where another server may become the primary.
    fn holds_for(&self, what: Unready) -> bool {
        let of_replicas = matches!(what, Unready::ReadOnly | Unready::MasterDown);
        self.rules.intercept && self.rules.holds.has(what) && (self.turns || !of_replicas)
    }

    /// An error line inside an array: told, never edited.
    #[cold]
    pub(super) fn look_at_nested(&mut self, buf: &[u8], text: usize, end: usize) {
        let refusal =
            if text == end { classify(self.scan.carried()) } else { classify(line(buf, text, end)) };
        if let Some(refusal) = refusal {
            self.sight(Refusal { form: Form::Nested, ..refusal });
        }
    }

    fn sight(&mut self, refusal: Refusal) {
        self.tally.refusals[refusal.form as usize] += 1;
        self.sighted = Some(refusal);
    }
}

/// A reply that ends without its text having been looked at.
pub(super) fn outcome_of(kind: u8) -> Outcome {
    match kind {
        // Longer than any refusal, or a RESP3 blob error: neither is ever a refusal.
        b'-' | b'!' => Outcome::Failed,
        _ => Outcome::Answered,
    }
}

/// The text of an error line without its end.
pub(super) fn line(buf: &[u8], text: usize, end: usize) -> &[u8] {
    let line = &buf[text..end];
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
