//! What an error line means to us: is it a refusal, of which variant and form (M §2.2)?
//!
//! Refuses to know who sent the request. Never looks inside bulk strings: a script may copy the text
//! there, and then it is data. Does not depend on the English tail, which has changed three times.

use memchr::memmem;

use crate::posture::{Form, Refusal, Variant};

/// One way a refusal begins, and what must follow somewhere in the line.
struct Row {
    /// The first bytes of the line, after the leading `-`.
    head: &'static [u8],
    /// Must stand somewhere after the head; empty for "nothing more".
    then: &'static [u8],
    form: Form,
}

/// The forms, with where Redis makes them.
const FORMS: [Row; 4] = [
    // R1-R3, A1, S1, S2, L1, L2: server.c:processCommand, server.c:writeCommandsGetDiskErrorMessage,
    // script.c:scriptPrepareForRun. L1 is told apart by `in_script`.
    Row { head: b"MISCONF", then: b"", form: Form::Command },
    // E1: multi.c:execCommandAbort
    Row { head: b"EXECABORT Transaction discarded because of: MISCONF", then: b"", form: Form::Transaction },
    // L3, up to 6.2 and KeyDB: scripting.c:luaReplyToRedisReply by way of the Lua error handler
    Row { head: b"ERR Error running script (call to f_", then: b"-MISCONF ", form: Form::Script },
    // L4, up to 6.2: scripting.c:luaPushError, given back by the script itself
    Row { head: b"@user_script", then: b"-MISCONF ", form: Form::Script },
];

/// What A1 and S2 say and no RDB text does.
const AOF: [&[u8]; 2] = [b"Errors writing to the AOF file", b"persist data to AOF"];

/// L1: a command refused inside a running script or function. `script_lua.c:luaCallFunction` adds one
/// of these from 7.0 on (Valkey 9 leaves the script's hash out).
const IN_SCRIPT: [&[u8]; 2] = [b" script: ", b" on @user_"];

/// No refusal is longer; a longer line is passed on unread.
pub const REFUSAL_BYTES_MAX: usize = 1024;

/// Is this error line, without its `-` and CRLF, a refusal?
pub fn classify(line: &[u8]) -> Option<Refusal> {
    let row = FORMS.iter().find(|row| line.starts_with(row.head))?;
    let rest = &line[row.head.len()..];
    if row.form == Form::Command && rest.first().is_some_and(|&b| b != b' ') {
        return None;
    }
    if !row.then.is_empty() && memmem::find(rest, row.then).is_none() {
        return None;
    }
    let form = match row.form {
        Form::Command if IN_SCRIPT.iter().any(|words| memmem::find(rest, words).is_some()) => Form::Script,
        form => form,
    };
    let aof = AOF.iter().any(|words| memmem::find(rest, words).is_some());
    Some(Refusal { variant: if aof { Variant::Aof } else { Variant::Rdb }, form })
}

/// May a line that so far reads `part` still turn out to be a refusal? While it may, its bytes are
/// kept back; nothing else ever is.
pub fn may_become_refusal(part: &[u8]) -> bool {
    part.len() < REFUSAL_BYTES_MAX
        && FORMS.iter().any(|row| part.starts_with(row.head) || row.head.starts_with(part))
}

/// E2: EXEC after a command that was refused while being queued (`multi.c:execCommand`).
pub fn is_exec_abort(line: &[u8]) -> bool {
    line.starts_with(b"EXECABORT")
}

#[cfg(test)]
mod tests {
    use super::*;

    const R3: &str = "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. \
        Commands that may modify the data set are disabled, because this instance is configured to report errors \
        during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs \
        for details about the RDB error.";

    #[test]
    fn every_form_of_the_manual_is_known() {
        let cases: &[(String, Option<(Variant, Form)>)] = &[
            (R3.into(), Some((Variant::Rdb, Form::Command))),
            (
                "MISCONF Errors writing to the AOF file: No space left on device".into(),
                Some((Variant::Aof, Form::Command)),
            ),
            (
                "MISCONF Redis is configured to persist data to AOF, but it's currently unable to persist to disk. \
                 Writable scripts are blocked. Use 'no-writes' flag for read only scripts. AOF error: x"
                    .into(),
                Some((Variant::Aof, Form::Command)),
            ),
            (format!("{R3} script: 0fe1, on @user_script:1."), Some((Variant::Rdb, Form::Script))),
            (
                format!("ERR Error running script (call to f_ab): @user_script:1: @user_script: 1: -{R3} "),
                Some((Variant::Rdb, Form::Script)),
            ),
            (format!("@user_script: 1: -{R3}"), Some((Variant::Rdb, Form::Script))),
            (
                format!("EXECABORT Transaction discarded because of: {R3}"),
                Some((Variant::Rdb, Form::Transaction)),
            ),
            ("EXECABORT Transaction discarded because of previous errors.".into(), None),
            ("MISCONFIGURED by somebody else".into(), None),
            ("ERR Error running script (call to f_ab): @user_script:1: WRONGTYPE".into(), None),
            ("OOM command not allowed when used memory > 'maxmemory'.".into(), None),
            ("MISCONF".into(), Some((Variant::Rdb, Form::Command))),
            (String::new(), None),
        ];
        for (line, expected) in cases {
            let got = classify(line.as_bytes()).map(|r| (r.variant, r.form));
            assert_eq!(got, *expected, "{line}");
        }
    }

    #[test]
    fn every_beginning_of_a_refusal_may_become_one() {
        for cut in 0..R3.len() {
            assert!(may_become_refusal(&R3.as_bytes()[..cut]));
        }
        assert!(!may_become_refusal(b"MISSING"));
        assert!(!may_become_refusal(b"ERR unknown command"));
        assert!(!may_become_refusal(&[b"MISCONF ".as_slice(), &[b'x'; 2000]].concat()));
    }
}
