//! What may be sent again? Judges what was in flight when a refusal came, once all of it is answered.
//!
//! A refusal proves that the command did not run (M §3), so the only questions are about what came
//! *after* it in the same session: did a later write run? did the session's state change? The answer is
//! a cut: entries before it are delivered as they were answered, entries from it on are sent again in
//! their order, except those whose effect is done, which keep their reply and their place.
//!
//! Refuses to know bytes, time and the gate. Pure functions over a list.

use crate::command::Kind;
use crate::posture::{Form, Refusal, Variant};

use super::ledger::{Flags, Slot};

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a refusal.
    Refused(Refusal),
    /// With another error that proves that it did not run.
    Unready(Form),
    /// With another error.
    Failed,
    /// With EXECABORT that names no refusal.
    Aborted,
    /// With anything else.
    Answered,
}

impl Outcome {
    /// It did not run, and may be sent again.
    pub fn is_refusal(self) -> bool {
        matches!(self, Outcome::Refused(_) | Outcome::Unready(_))
    }
}

/// One reply that is kept back: to a request, or (no slot) a push that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The request it answers.
    pub slot: Option<Slot>,
    /// What it says.
    pub outcome: Outcome,
    /// Where its bytes are in the withheld buffer.
    pub bytes: (usize, usize),
}

/// What a plain entry (outside transactions) means for a replay from before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// A reason to replay: it did not run, and is sent again.
    Resend,
    /// Not a reason, but sent again with the others: it only looked, or must take effect later too.
    Again,
    /// Done; its reply keeps its place.
    Keep,
    /// Nothing before it may be sent again after it.
    Barrier,
}

/// The table of design §6 rules 2 and 4, one row a case.
fn rule(slot: &Slot, outcome: Outcome) -> Rule {
    if slot.flags.has(Flags::CANNED) {
        return Rule::Keep;
    }
    // A script can word a refusal itself after it ran: one that comes back is not believed again.
    let trusted = |flags| slot.flags.has(flags) && !slot.flags.has(Flags::REPLAYED);
    match (slot.kind, outcome) {
        // The gate is passed before the command's procedure is entered (server.c:processCommand).
        (
            Kind::Write | Kind::Ping | Kind::Read,
            Outcome::Refused(Refusal { form: Form::Command, .. }) | Outcome::Unready(Form::Command),
        ) => Rule::Resend,
        (
            Kind::Script,
            Outcome::Refused(Refusal { form: Form::Command, .. }) | Outcome::Unready(Form::Command),
        ) if trusted(Flags::SCRIPT_SAFE) => Rule::Resend,
        // From inside a script, before its first write: nothing else was checked there (script.c:scriptVerifyWriteCommandAllow).
        (Kind::Script, Outcome::Unready(Form::Script)) if trusted(Flags::SCRIPT_VOUCHED) => Rule::Resend,
        // From inside a script: an RDB refusal comes before its first write, so no key has changed; an AOF
        // status may flip between two writes of one script on 6.2 (M §3 X2).
        (Kind::Script, Outcome::Refused(Refusal { variant: Variant::Rdb, .. }))
            if trusted(Flags::SCRIPT_VOUCHED) =>
        {
            Rule::Resend
        }
        (Kind::Script, Outcome::Refused(Refusal { variant: Variant::Rdb, .. })) => Rule::Keep,
        (Kind::Read | Kind::Ping, Outcome::Answered) => Rule::Again,
        (Kind::Read, Outcome::Failed) => Rule::Again,
        (Kind::Select, Outcome::Answered) => Rule::Again,
        (Kind::Select | Kind::Effect | Kind::Setting, Outcome::Failed)
        | (Kind::Effect | Kind::Setting, Outcome::Answered) => Rule::Keep,
        // A later write that ran, or may have; a session state that changed; anything not foreseen.
        _ => Rule::Barrier,
    }
}

/// From where on to send again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Entries before this are delivered as they are.
    pub from: usize,
    /// Refused commands among the rest: what is held.
    pub refused: u64,
}

/// Judges `entries`. `None`: nothing can be sent again, all are delivered as they are.
pub fn judge(entries: &[Entry]) -> Option<Verdict> {
    let mut start: Option<usize> = None;
    let mut i = 0;
    while i < entries.len() {
        let (rule, end) = match entries[i].slot {
            None => (Rule::Keep, i + 1),
            Some(slot) if slot.transaction != 0 => block(entries, i, slot.transaction),
            Some(slot) => (retained_or_barrier(&slot, rule(&slot, entries[i].outcome)), i + 1),
        };
        match rule {
            Rule::Resend => {
                start.get_or_insert(i);
            }
            Rule::Again | Rule::Keep => {}
            Rule::Barrier if mutant!(ReplaysPastALaterWrite) => {}
            Rule::Barrier => start = None,
        }
        i = end;
    }
    let from = start?;
    let held = |e: &&Entry| e.outcome.is_refusal() && resends(e);
    Some(Verdict { from, refused: entries[from..].iter().filter(held).count() as u64 })
}

/// Behind the verdict's cut: is this entry sent again, or does its reply keep its place? Of a transaction
/// all is sent again: its members stand or fall together.
pub fn resends(entry: &Entry) -> bool {
    entry.slot.is_some_and(|slot| {
        slot.transaction != 0 || matches!(rule(&slot, entry.outcome), Rule::Resend | Rule::Again)
    })
}

fn retained_or_barrier(slot: &Slot, rule: Rule) -> Rule {
    match rule {
        Rule::Resend | Rule::Again if slot.len == 0 => Rule::Barrier,
        rule => rule,
    }
}

/// Judges the entries of one transaction as the unit they are: MULTI, what is queued, EXEC or DISCARD.
/// It may begin before the first entry (its beginning was answered and delivered) and may still be open.
fn block(entries: &[Entry], first: usize, id: u32) -> (Rule, usize) {
    let in_block = |e: &Entry| e.slot.is_none_or(|s| s.transaction == id);
    let mut end = first + entries[first..].iter().take_while(|e| in_block(e)).count();
    while entries[end - 1].slot.is_none() {
        end -= 1;
    }
    let members = || entries[first..end].iter().filter_map(|e| e.slot.map(|slot| (slot, e.outcome)));
    // A MULTI that failed began nothing: what follows it ran, or will, command by command.
    let began = |slot: &Slot, outcome| slot.kind != Kind::Multi || outcome == Outcome::Answered;
    if members().any(|(slot, o)| slot.flags.has(Flags::SEALED) || slot.len == 0 || !began(&slot, o)) {
        return (Rule::Barrier, end);
    }
    let refused = members().any(|(_, outcome)| outcome.is_refusal());
    let last = members().next_back().map(|(slot, outcome)| (slot.kind, outcome));
    let rule = match (last, refused) {
        // It ran (`multi.c:execCommand`); its elements are nobody's to repeat.
        (Some((Kind::Exec, Outcome::Answered)), _) => Rule::Barrier,
        // Nothing of it ran: EXECABORT, or still queueing, or thrown away.
        (Some(_), true) => Rule::Resend,
        // The client's own error in it made the server abort: as the server said.
        (Some((Kind::Exec, _)), false) => Rule::Barrier,
        (Some(_), false) => Rule::Again,
        (None, _) => Rule::Keep,
    };
    (rule, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One letter a request, upper case when refused, `!` behind it when failed, in `( )` a transaction.
    /// r read, w write, p ping, e effect, s script, z safe script, l select, t other state, x EXEC that ran,
    /// a EXEC that was aborted, A EXEC refused, d discard.
    fn entries(text: &str) -> Vec<Entry> {
        let (mut list, mut transaction, mut watched) = (Vec::<Entry>::new(), 0, false);
        let refusal = Refusal { variant: Variant::Rdb, form: Form::Command };
        for c in text.chars() {
            match c {
                '(' | '[' => {
                    (transaction, watched) = (1, c == '[');
                    continue;
                }
                ')' => {
                    transaction = 0;
                    continue;
                }
                '!' => {
                    list.last_mut().expect("a request before the mark").outcome = Outcome::Failed;
                    continue;
                }
                _ => {}
            }
            let kind = match c.to_ascii_lowercase() {
                'r' => Kind::Read,
                'w' => Kind::Write,
                'p' => Kind::Ping,
                'e' => Kind::Effect,
                's' | 'z' => Kind::Script,
                'l' => Kind::Select,
                't' => Kind::State,
                'm' => Kind::Multi,
                'x' | 'a' => Kind::Exec,
                'd' => Kind::Discard,
                other => panic!("{other}"),
            };
            let outcome = match c {
                'S' => Outcome::Refused(Refusal { form: Form::Script, ..refusal }),
                'a' => Outcome::Aborted,
                c if c.is_ascii_uppercase() => Outcome::Refused(refusal),
                _ => Outcome::Answered,
            };
            let flags = Flags::default()
                .with_if(matches!(c, 'z' | 'Z'), Flags::SCRIPT_SAFE)
                .with_if(watched && transaction > 0, Flags::SEALED);
            let slot = Slot { kind, flags, transaction, arg: 1, sent_us: 0, len: 9, start: 0 };
            list.push(Entry { slot: Some(slot), outcome, bytes: (0, 0) });
        }
        list
    }

    #[test]
    fn the_rules_of_the_plan_hold_row_by_row() {
        let cases: &[(&str, Option<(usize, u64)>)] = &[
            ("W", Some((0, 1))),
            ("P", Some((0, 1))),
            ("WWW", Some((0, 3))),
            ("Wr", Some((0, 1))),
            ("WrWr!", Some((0, 2))),
            ("We", Some((0, 1))),
            ("Wl", Some((0, 1))),
            // a later write ran: never replay what is before it
            ("Ww", None),
            ("Ww!", None),
            ("WwW", Some((2, 1))),
            ("WrwrW", Some((4, 1))),
            ("Wt", None),
            // scripts
            ("S", None),
            ("Z", Some((0, 1))),
            ("WS", Some((0, 1))),
            ("SW", Some((1, 1))),
            ("Wz", None),
            // transactions
            ("(mWra)", Some((0, 1))),
            ("(WWa)", Some((0, 2))),
            ("(W", Some((0, 1))),
            ("(Wd)", Some((0, 1))),
            ("(A)", Some((0, 1))),
            ("[mWra)", None),
            ("W(mrx)", None),
            ("W(mr", Some((0, 1))),
            ("W(mWa)r", Some((0, 2))),
            ("W[mWa)W", Some((4, 1))),
            ("W(mw!a)", None),
        ];
        for (text, expected) in cases {
            let verdict = judge(&entries(text)).map(|v| (v.from, v.refused));
            assert_eq!(verdict, *expected, "{text}");
        }
    }

    #[test]
    fn what_was_not_retained_is_never_sent_again() {
        let mut list = entries("WW");
        list[1].slot.as_mut().expect("a slot").len = 0;
        assert_eq!(judge(&list), None);
    }
}
