//! What is asked of the append-only file: to be rewritten, or to be switched off and on in one transaction, so that
//! no write of anybody falls between the two.
//!
//! Refuses to know: why. Invariant: what the answer says of the file is what the replies say, or [`AofAnswer::LeftOff`].

use super::{
    Answer, Command, Frame, Next, config_get, config_set, config_value, error, is_open, text, words,
};
use crate::guard::aof::APPENDONLY;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AofTalk {
    /// Off and on in one transaction.
    Reopen,
    /// On, if it reads `no`.
    On,
    /// BGREWRITEAOF.
    Rewrite,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AofAnswer {
    /// It was on, and was opened anew.
    Reopened,
    /// It was off before: an operator's choice, and is again.
    WasOff,
    /// It is off, and `yes` was not accepted, for this reason.
    LeftOff(String),
    /// Nothing was changed, for this reason.
    Untouched(String),
    /// It reads `yes`.
    On,
    /// A rewrite runs or will.
    Rewriting,
    /// None does, for this reason.
    NotRewriting(String),
}

/// The first batch.
pub(super) fn first(talk: AofTalk) -> Vec<Command> {
    match talk {
        AofTalk::Reopen => vec![
            words("MULTI"),
            config_get(APPENDONLY),
            config_set(APPENDONLY, "no"),
            config_set(APPENDONLY, "yes"),
            words("EXEC"),
        ],
        AofTalk::On => vec![config_get(APPENDONLY)],
        AofTalk::Rewrite => vec![words("BGREWRITEAOF")],
    }
}

/// What to say next, and the answer when that was said.
pub(super) fn hear(talk: AofTalk, replies: &[Frame]) -> (Next, Option<Answer>) {
    let done = |answer| (Next::Done(Answer::Aof(answer)), None);
    let then = |command, answer| (Next::Send(vec![command]), Some(Answer::Aof(answer)));
    match (talk, replies) {
        (AofTalk::Reopen, [multi, get, no, yes, exec]) => {
            let results = match exec {
                Frame::Array(results) => results.as_slice(),
                _ => &[],
            };
            match (results, error(multi)) {
                ([get, no, yes], _) => reopened(get, no, yes),
                // Where MULTI is refused the rest runs by itself, one after the other in one read.
                (_, Some(_)) => reopened(get, no, yes),
                (_, None) => {
                    let why = [get, no, yes, exec].into_iter().find_map(error).unwrap_or_else(|| text(exec));
                    match is_open(multi, exec) {
                        true => then(words("DISCARD"), AofAnswer::Untouched(why)),
                        false => done(AofAnswer::Untouched(why)),
                    }
                }
            }
        }
        (AofTalk::On, [get]) => match config_value(get).as_deref() {
            Ok("no") => (Next::Send(vec![config_set(APPENDONLY, "yes"), config_get(APPENDONLY)]), None),
            Ok(_) => done(AofAnswer::On),
            Err(why) => done(AofAnswer::LeftOff(why.clone())),
        },
        (AofTalk::On, [set, get]) => match (error(set), config_value(get).as_deref()) {
            (None, Ok("yes")) => done(AofAnswer::On),
            (None, Ok(other)) => done(AofAnswer::LeftOff(format!("it reads {other}"))),
            (Some(why), _) => done(AofAnswer::LeftOff(why)),
            (None, Err(why)) => done(AofAnswer::LeftOff(why.clone())),
        },
        (AofTalk::Rewrite, [reply]) => match reply {
            Frame::SimpleString(s) if s.starts_with(b"Background append only") => done(AofAnswer::Rewriting),
            Frame::Error(e) if e.contains("already in progress") => done(AofAnswer::Rewriting),
            other => done(AofAnswer::NotRewriting(text(other))),
        },
        (AofTalk::Reopen | AofTalk::On, _) => done(AofAnswer::LeftOff("replies missing".into())),
        (AofTalk::Rewrite, _) => done(AofAnswer::NotRewriting("replies missing".into())),
    }
}

fn reopened(get: &Frame, no: &Frame, yes: &Frame) -> (Next, Option<Answer>) {
    let was_off = config_value(get).is_ok_and(|value| value == "no");
    let answer = match (error(no), error(yes)) {
        // Our `yes` was not asked for.
        (None, None) if was_off => {
            let answer = Some(Answer::Aof(AofAnswer::WasOff));
            return (Next::Send(vec![config_set(APPENDONLY, "no")]), answer);
        }
        (Some(why), _) => AofAnswer::Untouched(why),
        (None, Some(_)) if was_off => AofAnswer::WasOff,
        (None, Some(why)) => AofAnswer::LeftOff(why),
        (None, None) => AofAnswer::Reopened,
    };
    (Next::Done(Answer::Aof(answer)), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &str) -> Frame {
        redis_protocol::resp2::decode::decode(text.as_bytes()).unwrap().unwrap().0.into_bytes_frame()
    }

    const GET_YES: &str = "*2\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n";
    const GET_NO: &str = "*2\r\n$10\r\nappendonly\r\n$2\r\nno\r\n";

    #[test]
    fn a_transaction_tells_what_became_of_the_file() {
        let refused = "-ERR Unable to turn on AOF. Check server logs.\r\n";
        for (multi, results, exec, expected, more) in [
            ("+OK\r\n", Some((GET_YES, "+OK\r\n", "+OK\r\n")), "", AofAnswer::Reopened, false),
            ("+OK\r\n", Some((GET_NO, "+OK\r\n", "+OK\r\n")), "", AofAnswer::WasOff, true),
            (
                "+OK\r\n",
                Some((GET_YES, "+OK\r\n", refused)),
                "",
                AofAnswer::LeftOff(refused[1..].trim().into()),
                false,
            ),
            ("+OK\r\n", None, "-EXECABORT no\r\n", AofAnswer::Untouched("EXECABORT no".into()), false),
            ("+OK\r\n", None, "-NOPERM exec\r\n", AofAnswer::Untouched("NOPERM exec".into()), true),
        ] {
            let queued = frame("+QUEUED\r\n");
            let exec = match results {
                Some((get, no, yes)) => Frame::Array(vec![frame(get), frame(no), frame(yes)]),
                None => frame(exec),
            };
            let replies = [frame(multi), queued.clone(), queued.clone(), queued, exec];
            let (next, then) = hear(AofTalk::Reopen, &replies);
            let expected = Answer::Aof(expected);
            match more {
                true => assert!(matches!(next, Next::Send(_)) && then == Some(expected), "{next:?} {then:?}"),
                false => assert_eq!((next, then), (Next::Done(expected), None)),
            }
        }
        // Without MULTI each word answers for itself.
        let single =
            ["-NOPERM multi\r\n", GET_YES, "+OK\r\n", refused, "-ERR EXEC without MULTI\r\n"].map(frame);
        let left = AofAnswer::LeftOff(refused[1..].trim().into());
        assert_eq!(hear(AofTalk::Reopen, &single).0, Next::Done(Answer::Aof(left)));
    }
}
