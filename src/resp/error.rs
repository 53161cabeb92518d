//! What an error line means to us: is it a refusal, of which variant and form (M §2.2)?
//!
//! Refuses to know who sent the request. Never looks inside bulk strings: a script may copy the text
//! there, and then it is data. Does not depend on the English tail, which has changed three times.

use memchr::memmem;

use crate::posture::{Form, Refusal, Unready, UnreadySet, Variant};

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

/// Errors of the same family: each comes before the command's procedure is entered, so it proves that the command did
/// not run (`server.c:processCommand`).
///
/// | code | to what | held by default | for it passes by itself, or is the server's policy |
/// |---|---|---|---|
/// | READONLY | writes | if the way may turn | another server is the primary, or will be |
/// | LOADING | nearly all | yes | it ends when the data set is read |
/// | MASTERDOWN | nearly all | yes | it ends when the replica has its primary back |
/// | NOREPLICAS | writes | no | `min-replicas-to-write`: the operator wants to hear of it |
/// | CLUSTERDOWN | keys | no | clients of a cluster have rules of their own |
/// | OOM | writes that need memory | no | `maxmemory`: to wait frees nothing |
const UNREADY: [(&[u8], Unready, bool); 6] = [
    (b"LOADING", Unready::Loading, true),
    (b"MASTERDOWN", Unready::MasterDown, true),
    (b"READONLY", Unready::ReadOnly, true),
    (b"NOREPLICAS", Unready::NoReplicas, false),
    (b"CLUSTERDOWN", Unready::ClusterDown, false),
    (b"OOM", Unready::Oom, false),
];

/// `multi.c:execCommandAbort`.
const ABORTED_FOR: &[u8] = b"EXECABORT Transaction discarded because of: ";

/// Those that are held when nobody says otherwise.
pub fn held_by_default() -> UnreadySet {
    let held: Vec<_> = UNREADY.iter().filter(|row| row.2).map(|row| row.1).collect();
    UnreadySet::of(&held)
}

/// The one with this code, in any case.
pub fn unready_named(code: &str) -> Option<Unready> {
    UNREADY.iter().find(|row| code.as_bytes().eq_ignore_ascii_case(row.0)).map(|row| row.1)
}

/// The codes of those that are `wanted`, in lower case.
pub fn unready_names(wanted: impl Fn(Unready) -> bool) -> impl Iterator<Item = String> {
    let rows = UNREADY.into_iter().filter(move |row| wanted(row.1));
    rows.map(|row| String::from_utf8_lossy(row.0).to_ascii_lowercase())
}

/// Is this error line one of them, and of which form?
pub fn unready(line: &[u8]) -> Option<(Unready, Form)> {
    let (line, form) = match line.strip_prefix(ABORTED_FOR) {
        Some(rest) => (rest, Form::Transaction),
        None if IN_SCRIPT.iter().any(|words| memmem::find(line, words).is_some()) => (line, Form::Script),
        None => (line, Form::Command),
    };
    let row = UNREADY.iter().find(|(code, ..)| {
        line.strip_prefix(*code).is_some_and(|rest| rest.first().is_none_or(|&b| b == b' '))
    });
    row.map(|row| (row.1, form))
}

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
        && FORMS
            .iter()
            .map(|row| row.head)
            .chain(UNREADY.iter().map(|row| row.0))
            .chain([ABORTED_FOR])
            .any(|head| part.starts_with(head) || head.starts_with(part))
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
    fn errors_of_the_family_are_known_by_their_code_and_form() {
        let cases: &[(&str, Option<(Unready, Form)>)] = &[
            (
                "READONLY You can't write against a read only replica.",
                Some((Unready::ReadOnly, Form::Command)),
            ),
            (
                "READONLY You can't write against a read only replica. script: ab, on @user_script:1.",
                Some((Unready::ReadOnly, Form::Script)),
            ),
            (
                "EXECABORT Transaction discarded because of: READONLY You can't write",
                Some((Unready::ReadOnly, Form::Transaction)),
            ),
            ("LOADING Redis is loading the dataset in memory", Some((Unready::Loading, Form::Command))),
            ("MASTERDOWN Link with MASTER is down", Some((Unready::MasterDown, Form::Command))),
            ("NOREPLICAS Not enough good replicas to write.", Some((Unready::NoReplicas, Form::Command))),
            ("CLUSTERDOWN Hash slot not served", Some((Unready::ClusterDown, Form::Command))),
            ("OOM command not allowed", Some((Unready::Oom, Form::Command))),
            ("OOMPH", None),
            ("ERR READONLY", None),
        ];
        for (line, expected) in cases {
            assert_eq!(unready(line.as_bytes()), *expected, "{line}");
        }
        assert!(held_by_default().has(Unready::Loading) && !held_by_default().has(Unready::Oom));
        assert_eq!(unready_named("masterdown"), Some(Unready::MasterDown));
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
