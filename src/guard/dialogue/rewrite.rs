//! CONFIG REWRITE in one transaction with the switch: the file gets the value that is owed, nobody sees a gap, and
//! what is live stays what it was (`config.c:rewriteConfig` writes down what is live, `multi.c:execCommand` lets
//! nobody in between).
//!
//! Refuses to know: who wants it. Invariant: MULTI was accepted before anything that sets the switch is sent: where
//! it is refused, each of these commands would run by itself.

use super::{Answer, Command, Frame, KNOB, Next, config_get, config_set, config_value, error, text, words};

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// The switch is read, MULTI is asked for.
    #[default]
    Began,
    /// The whole transaction is on its way.
    Sent,
    /// The switch is not down: a plain CONFIG REWRITE is on its way, behind a DISCARD if MULTI was accepted.
    Plain,
    /// The answer is known; what was left open or overwritten is put right first.
    Tidying(Answer),
}

/// The first batch.
pub(super) fn begin() -> Vec<Command> {
    vec![config_get(KNOB), words("MULTI")]
}

/// Reads the replies to the batch sent last.
pub(super) fn hear(stage: &mut Stage, owed: &str, replies: &[Frame]) -> Next {
    match (std::mem::take(stage), replies) {
        (Stage::Began, [value, multi]) => began(stage, owed, value, multi),
        (Stage::Sent, [queued @ .., exec]) => sent(stage, queued, exec),
        (Stage::Plain, [.., reply]) => Next::Done(said(reply)),
        (Stage::Tidying(answer), _) => Next::Done(answer),
        (Stage::Began | Stage::Sent | Stage::Plain, _) => {
            Next::Done(Answer::NotRewritten("replies missing".into()))
        }
    }
}

fn began(stage: &mut Stage, owed: &str, value: &Frame, multi: &Frame) -> Next {
    let found = config_value(value);
    match (found.as_deref(), error(multi)) {
        (Ok("no"), None) => {
            *stage = Stage::Sent;
            let transaction =
                [config_get(KNOB), config_set(KNOB, owed), words(REWRITE), config_set(KNOB, "no")];
            Next::Send(transaction.into_iter().chain([words("EXEC")]).collect())
        }
        (Ok("no"), Some(why)) => Next::Done(Answer::NotRewritten(why)),
        (Ok(_), refused) => {
            *stage = Stage::Plain;
            let discard = refused.is_none().then(|| words("DISCARD"));
            Next::Send(discard.into_iter().chain([words(REWRITE)]).collect())
        }
        (Err(why), None) => {
            *stage = Stage::Tidying(Answer::NotRewritten(why.to_string()));
            Next::Send(vec![words("DISCARD")])
        }
        (Err(why), Some(_)) => Next::Done(Answer::NotRewritten(why.to_string())),
    }
}

fn sent(stage: &mut Stage, queued: &[Frame], exec: &Frame) -> Next {
    let Frame::Array(results) = exec else {
        // A word refused in the queue says more than the EXECABORT after it.
        let why = queued.iter().chain([exec]).find_map(error).unwrap_or_else(|| text(exec));
        let answer = Answer::NotRewritten(why);
        // Refused for another reason than its queue, EXEC leaves the transaction open.
        if error(exec).is_some_and(|why| !why.starts_with("EXECABORT")) {
            *stage = Stage::Tidying(answer);
            return Next::Send(vec![words("DISCARD")]);
        }
        return Next::Done(answer);
    };
    let [value, _, reply, _] = results.as_slice() else {
        return Next::Done(Answer::NotRewritten("EXEC answered with another number of results".into()));
    };
    match config_value(value) {
        // Somebody set it between our look and the transaction: their word stands.
        Ok(theirs) if theirs != "no" => {
            *stage = Stage::Tidying(said(reply));
            Next::Send(vec![config_set(KNOB, &theirs)])
        }
        Ok(_) | Err(_) => Next::Done(said(reply)),
    }
}

fn said(reply: &Frame) -> Answer {
    Answer::Rewritten(error(reply).map_or_else(|| Ok(text(reply)), Err))
}

const REWRITE: &str = "CONFIG REWRITE";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::dialogue::{Dialogue, Talk};

    fn pair(value: &str) -> Frame {
        Frame::Array(["name", value].map(|word| Frame::BulkString(word.to_owned().into())).to_vec())
    }

    fn frame(text: &str) -> Frame {
        match text.strip_prefix('-') {
            Some(error) => Frame::Error(error.into()),
            None => Frame::SimpleString(text.to_owned().into()),
        }
    }

    /// Batches as lines, with the replies to each; the answer.
    fn talk(rounds: &[(&[&str], &[Frame])]) -> Answer {
        let (mut dialogue, mut batch) = Dialogue::new(Talk::Rewrite { owed: "yes".into() });
        for (expected, replies) in rounds {
            let lines: Vec<String> = batch.iter().map(|words| words.join(" ")).collect();
            assert_eq!(lines, *expected);
            match dialogue.hear(replies) {
                Next::Send(more) => batch = more,
                Next::Done(answer) => return answer,
            }
        }
        panic!("more to send: {batch:?}")
    }

    const BEGIN: [&str; 2] = ["CONFIG GET stop-writes-on-bgsave-error", "MULTI"];
    const WHOLE: [&str; 5] = [
        "CONFIG GET stop-writes-on-bgsave-error",
        "CONFIG SET stop-writes-on-bgsave-error yes",
        "CONFIG REWRITE",
        "CONFIG SET stop-writes-on-bgsave-error no",
        "EXEC",
    ];

    fn began(value: &str) -> [Frame; 2] {
        [pair(value), frame("OK")]
    }

    fn exec(results: [Frame; 4]) -> [Frame; 5] {
        let [a, b, c, d] = [0; 4].map(|_| frame("QUEUED"));
        [a, b, c, d, Frame::Array(results.to_vec())]
    }

    #[test]
    fn the_file_gets_the_owed_value_and_the_answer_is_the_servers_own() {
        let none = "ERR The server is running without a config file";
        for (reply, said) in [("OK", Ok("OK".into())), (&*format!("-{none}"), Err(none.to_owned()))] {
            let results = exec([pair("no"), frame("OK"), frame(reply), frame("OK")]);
            assert_eq!(talk(&[(&BEGIN, &began("no")), (&WHOLE, &results)]), Answer::Rewritten(said));
        }
    }

    #[test]
    fn nothing_that_sets_the_switch_is_sent_where_multi_is_refused() {
        let refused = [pair("no"), frame("-NOPERM multi")];
        assert_eq!(talk(&[(&BEGIN, &refused)]), Answer::NotRewritten("NOPERM multi".into()));
        let blind = [frame("-NOPERM get"), frame("OK")];
        let answer = talk(&[(&BEGIN, &blind), (&["DISCARD"], &[frame("OK")])]);
        assert_eq!(answer, Answer::NotRewritten("NOPERM get".into()));
    }

    #[test]
    fn a_right_that_is_missing_changes_nothing_and_leaves_no_transaction_open() {
        let queued = || frame("QUEUED");
        let denied = [queued(), queued(), frame("-NOPERM rewrite"), queued(), frame("-EXECABORT because")];
        let answer = talk(&[(&BEGIN, &began("no")), (&WHOLE, &denied)]);
        assert_eq!(answer, Answer::NotRewritten("NOPERM rewrite".into()));
        let open = [queued(), queued(), queued(), queued(), frame("-NOPERM exec")];
        let answer = talk(&[(&BEGIN, &began("no")), (&WHOLE, &open), (&["DISCARD"], &[frame("OK")])]);
        assert_eq!(answer, Answer::NotRewritten("NOPERM exec".into()));
    }

    #[test]
    fn an_operators_yes_in_between_stands() {
        let results = exec([pair("yes"), frame("OK"), frame("OK"), frame("OK")]);
        let again = "CONFIG SET stop-writes-on-bgsave-error yes";
        let answer = talk(&[(&BEGIN, &began("no")), (&WHOLE, &results), (&[again], &[frame("OK")])]);
        assert_eq!(answer, Answer::Rewritten(Ok("OK".into())));
        let plain =
            [(&BEGIN[..], &began("yes")[..]), (&["DISCARD", "CONFIG REWRITE"], &[frame("OK"), frame("OK")])];
        assert_eq!(talk(&plain), Answer::Rewritten(Ok("OK".into())));
    }
}
