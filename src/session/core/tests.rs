//! Conversations as scripts, each run whole, byte by byte, and cut in two at every byte of every step, with
//! inline and with multibulk requests: the result must not depend on any of it.
//!
//! A script has a step a line:
//!
//! | sign | step |
//! |---|---|
//! | `>` | the client sends requests, separated by `;` |
//! | `^` | … and so much, exactly, has gone to the server since the last such step |
//! | `<` | the server sends reply lines, separated by blanks (`_` is a blank in a line, `__` a `_`) |
//! | `=` | … and so much, exactly, has reached the client since the last such step |
//! | `!` | open, time, full, leave, close, dry, or a posture |
//!
//! `M` is a refusal, `X` EXEC's own (E1), `A` its abort after a queued command was refused (E2), `S` one from
//! inside a script, `Q` is `+QUEUED`.

use std::collections::VecDeque;

use super::*;
use crate::posture::{Form, Posture, Unready};
use crate::resp::encode;
use crate::resp::request::{Parsed, parse};

mod credit {
    use super::*;

    /// Two writes may go on: what comes behind stays, reads among the first go with them.
    #[test]
    fn a_credit_stops_before_the_next_gated_request_and_what_was_not_used_is_told() {
        let mut talk = Talk::new(RULES);
        talk.core.set_credit(Some(2));
        talk.client(b"SET a 1\r\nGET a\r\nSET b 2\r\nGET b\r\nSET c 3\r\nGET c\r\n");
        assert_eq!(talk.up, b"SET a 1\r\nGET a\r\nSET b 2\r\nGET b\r\n");
        assert_eq!((talk.core.gated_in_flight(), talk.core.holds()), (2, None));
        // Cut anywhere, it waits all the same; nothing is parked, so nobody counts a hold.
        assert_eq!(talk.core.set_credit(Some(0)), 0);
        talk.client(b"SET d");
        assert_eq!(talk.up.len(), 32);
        assert_eq!(talk.core.set_credit(Some(9)), 0);
        talk.client(b" 4\r\n");
        assert!(talk.up.ends_with(b"SET c 3\r\nGET c\r\nSET d 4\r\n"));
        assert_eq!((talk.core.set_credit(None), talk.core.gated_in_flight()), (7, 4));
        talk.client(b"SET e 5\r\n");
        talk.server(b"+OK\r\n$1\r\n1\r\n+OK\r\n");
        assert_eq!((talk.core.gated_in_flight(), talk.core.tally.held), (3, 0));
    }
}

const M: &str =
    "-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.";
const X: &str =
    "-EXECABORT Transaction discarded because of: MISCONF Redis is configured to save RDB snapshots";
const A: &str = "-EXECABORT Transaction discarded because of previous errors.";
const S: &str = "-MISCONF Redis is configured to save script: 0fe1, on @user_script:1.";

const RULES: Rules = Rules {
    intercept: true,
    hold_time: Duration::from_secs(5),
    scripts: ScriptReplay::Declared,
    holds: UnreadySet::of(&[Unready::ReadOnly, Unready::Loading]),
    bulk_max: 512 << 20,
    retain_request_max: 64 * 1024,
    retain_session_max: 256 * 1024,
    withhold_max: 256 * 1024,
};

/// A core with what a shell keeps around it.
struct Talk {
    core: Core,
    posture: Posture,
    now: Instant,
    /// Client bytes that were not taken yet; and as much of the server's.
    inbox: Vec<u8>,
    carry: Vec<u8>,
    up: Vec<u8>,
    down: Vec<u8>,
    closed: bool,
}

impl Talk {
    fn new(rules: Rules) -> Self {
        let now = Instant::now();
        let mut core = Core::new(Arc::new(rules), Arc::new(Table::builtin()), now);
        core.expects_turns(true);
        Talk {
            core,
            posture: Posture::Forward,
            now,
            inbox: Vec::new(),
            carry: Vec::new(),
            up: Vec::new(),
            down: Vec::new(),
            closed: false,
        }
    }

    fn collect(&mut self) {
        self.up.append(&mut self.core.up);
        self.down.append(&mut self.core.down);
    }

    fn client(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
        if !self.core.reads_downstream() || self.inbox.is_empty() {
            return;
        }
        let buf = std::mem::take(&mut self.inbox);
        let taken = self.core.requests(&buf, self.posture, self.now);
        assert_eq!(taken.direct + taken.kept, buf.len());
        self.up.extend_from_slice(&buf[..taken.direct]);
        self.inbox = buf[taken.direct..].to_vec();
        self.collect();
    }

    fn server(&mut self, bytes: &[u8]) {
        self.carry.extend_from_slice(bytes);
        let buf = std::mem::take(&mut self.carry);
        let taken = self.core.replies(&buf, self.posture, self.now);
        self.down.extend_from_slice(&buf[..taken.direct]);
        self.carry = buf[buf.len() - taken.kept..].to_vec();
        self.collect();
        self.client(b"");
    }

    fn event(&mut self, name: &str) {
        match name {
            "open" => self.core.opened(self.now),
            "time" => self.core.timed_out(),
            "full" => self.core.over_budget(),
            "dry" => self.core.dry(),
            "turn" => self.core.leave(),
            "stay" => self.core.stay(),
            "go" => {
                let core = &mut self.core;
                assert!(core.is_answered() && core.fixed().is_none() && self.carry.is_empty(), "{core:?}");
                core.part();
                core.arrive(self.now);
            }
            "busy" => assert!(!self.core.is_answered(), "{:?}", self.core),
            "stranded" => assert!(self.core.is_stranded() && !self.core.reads_downstream()),
            "leave" => {
                self.core.abandoned();
                self.inbox.clear();
            }
            "close" => {
                self.core.upstream_closed();
                self.down.append(&mut self.carry);
                self.closed = true;
            }
            posture => {
                let known = Posture::ALL.into_iter().find(|p| p.name() == posture);
                self.posture = known.unwrap_or_else(|| panic!("no event {posture}"));
                if self.posture == Posture::Forward && self.core.holds() == Some(Holding::Parked) {
                    self.core.opened(self.now);
                }
            }
        }
        self.collect();
        self.client(b"");
    }

    fn assert_clean(&mut self) {
        let core = &mut self.core;
        if core.is_idle() && core.state.transaction.is_none() {
            assert!(core.ledger.retained.is_empty(), "an empty ledger retains nothing");
            core.dry();
        }
        core.abandoned();
        let tally = &core.tally;
        assert_eq!(tally.held, tally.released + tally.timed_out + tally.abandoned, "{tally:?}");
    }
}

/// How a script's bytes are dealt out.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Whole,
    Bytes,
    /// In step `.0` before byte `.1`.
    At(usize, usize),
}

fn requests(text: &str, inline: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for request in text.split(';').map(str::trim).filter(|r| !r.is_empty()) {
        if inline || request.starts_with('*') {
            out.extend_from_slice(format!("{request}\r\n").as_bytes());
        } else {
            encode::command(&mut out, &request.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        }
    }
    out
}

fn replies(text: &str) -> Vec<u8> {
    let line = |word: &str| match word {
        "M" => M.to_owned(),
        "X" => X.to_owned(),
        "A" => A.to_owned(),
        "S" => S.to_owned(),
        "Q" => "+QUEUED".to_owned(),
        "''" => String::new(),
        word => word.replace("__", "\0").replace('_', " ").replace('\0', "_"),
    };
    text.split_ascii_whitespace().map(|word| line(word) + "\r\n").collect::<String>().into_bytes()
}

/// Requests in `bytes` as a script would write them.
fn written(mut bytes: &[u8]) -> String {
    let mut list = Vec::new();
    while !bytes.is_empty() {
        let Parsed::Whole { len, .. } = parse(bytes) else {
            list.push(format!("{:?}", String::from_utf8_lossy(bytes)));
            break;
        };
        let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
        list.push(match text.starts_with('*') {
            true => text.split("\r\n").skip(2).step_by(2).collect::<Vec<_>>().join(" ").trim().to_owned(),
            false => text.trim().to_owned(),
        });
        bytes = &bytes[len..];
    }
    list.join(" ; ")
}

fn run(rules: Rules, script: &str, inline: bool, cut: Cut) -> Talk {
    let mut talk = Talk::new(rules);
    for (i, step) in steps(script).enumerate() {
        let (sign, text) = step.split_at(1);
        let text = text.trim();
        let at = || format!("step {i} `{step}`, {cut:?}, inline {inline}");
        match sign {
            ">" | "<" => {
                let bytes = if sign == ">" { requests(text, inline) } else { replies(text) };
                let pieces: VecDeque<&[u8]> = match cut {
                    Cut::Bytes => bytes.chunks(1).collect(),
                    Cut::At(step, n) if step == i => [&bytes[..n], &bytes[n..]].into(),
                    Cut::At(..) | Cut::Whole => [&bytes[..]].into(),
                };
                for piece in pieces {
                    if sign == ">" { talk.client(piece) } else { talk.server(piece) }
                }
            }
            "^" => {
                let expected = text.split(';').map(str::trim).collect::<Vec<_>>().join(" ; ");
                assert_eq!(written(&std::mem::take(&mut talk.up)), expected, "{}", at());
            }
            "=" => {
                let got = String::from_utf8_lossy(&std::mem::take(&mut talk.down)).into_owned();
                assert_eq!(got, String::from_utf8_lossy(&replies(text)), "{}", at());
            }
            "!" => talk.event(text),
            _ => panic!("no step: {step}"),
        }
    }
    talk
}

fn steps(script: &str) -> impl Iterator<Item = &str> {
    script.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// Runs `script` in every way.
fn check_with(rules: Rules, script: &str) {
    for inline in [false, true] {
        run(rules, script, inline, Cut::Whole).assert_clean();
        run(rules, script, inline, Cut::Bytes).assert_clean();
        for (i, step) in steps(script).enumerate() {
            let len = match step.split_at(1) {
                (">", text) => requests(text, inline).len(),
                ("<", text) => replies(text).len(),
                _ => 0,
            };
            for n in 1..len {
                run(rules, script, inline, Cut::At(i, n)).assert_clean();
            }
        }
    }
}

fn check(script: &str) {
    check_with(RULES, script);
}

/// One test a line: its name is the sentence, its body the script.
macro_rules! conversations {
    ($($name:ident: $script:expr;)*) => { $(#[test] fn $name() { check($script); })* };
}

mod moving;

conversations! {
    in_peace_it_is_a_wire: "
        > GET a ; SET b 1 ; PING
        ^ GET a ; SET b 1 ; PING
        < $1 x +OK
        = $1 x +OK
        < -ERR_some_error
        = -ERR_some_error";
    a_refused_set_is_invisible: "
        > SET k v
        < M
        =
        ^ SET k v
        ! open
        ^ SET k v
        < +OK
        = +OK";
    a_refused_ping_is_answered_by_the_server_itself: "
        > PING
        < M
        ^ PING
        ! open
        ^ PING
        < +PONG
        = +PONG";
    a_pipeline_that_is_all_refused_is_sent_again_in_order: "
        > SET a 1 ; INCR b ; DEL c
        < M M M
        =
        ^ SET a 1 ; INCR b ; DEL c
        ! open
        ^ SET a 1 ; INCR b ; DEL c
        < +OK :1 :0
        = +OK :1 :0";
    replies_before_the_refusal_go_on_at_once: "
        > GET a ; SET b 1
        < $1 x M
        = $1 x
        ^ GET a ; SET b 1
        ! open
        ^ SET b 1
        < +OK
        = +OK";
    reads_behind_a_refusal_are_asked_again_and_see_their_own_writes: "
        > SET k v ; GET k ; SET j v ; GET j
        < M $-1 M $-1
        =
        ^ SET k v ; GET k ; SET j v ; GET j
        ! open
        ^ SET k v ; GET k ; SET j v ; GET j
        < +OK $1 v +OK $1 v
        = +OK $1 v +OK $1 v";
    a_later_write_that_ran_lets_the_errors_through_byte_for_byte: "
        > INCR a ; INCR b ; INCR c
        < M :1 :1
        = M :1 :1
        ^ INCR a ; INCR b ; INCR c";
    only_what_is_behind_the_last_write_that_ran_is_sent_again: "
        > INCR a ; INCR b ; INCR c ; GET c
        < M :1 M $-1
        = M :1
        ^ INCR a ; INCR b ; INCR c ; GET c
        ! open
        ^ INCR c ; GET c
        < :1 $1 1
        = :1 $1 1";
    an_effect_keeps_its_reply_and_its_place: "
        > SET a 1 ; PUBLISH c m ; SET b 1
        < M :7 M
        =
        ^ SET a 1 ; PUBLISH c m ; SET b 1
        ! open
        ^ SET a 1 ; SET b 1
        < +OK
        = +OK :7
        < +OK
        = +OK";
    an_effect_at_the_end_follows_what_is_sent_again_and_leaves_nothing_behind: "
        > SET a 1 ; PUBLISH c m
        < M :7
        ^ SET a 1 ; PUBLISH c m
        ! open
        ^ SET a 1
        < +OK
        = +OK :7
        > MULTI
        < +OK
        > SET b 1
        < M
        = +OK
        ^ MULTI ; SET b 1
        ! open
        ^ DISCARD ; MULTI ; SET b 1
        < +OK +OK Q
        = Q
        > EXEC
        < *1 +OK
        = *1 +OK";
    a_select_behind_the_refusal_is_rewound_and_repeated: "
        > SELECT 3 ; SET a 1 ; SELECT 5 ; SET b 1
        < +OK M +OK M
        = +OK
        ^ SELECT 3 ; SET a 1 ; SELECT 5 ; SET b 1
        ! open
        ^ SELECT 3 ; SET a 1 ; SELECT 5 ; SET b 1
        < +OK +OK +OK +OK
        = +OK +OK +OK
        > SET c 1
        < M
        ^ SET c 1
        ! open
        ^ SET c 1
        < +OK
        = +OK";
    a_select_behind_a_multi_that_failed_leaves_no_database_to_rewind_to: "
        > SET a 1 ; MULTI ; SELECT 2 ; SET b 1 ; DISCARD ; SET c 1 ; SELECT 0
        < M -NOPERM +OK +OK -ERR M +OK
        = M -NOPERM +OK +OK -ERR M +OK";
    a_select_that_failed_is_not_rewound_to: "
        > SET a 1 ; SELECT 99 ; INCR b ; SET c 1 ; SELECT 1
        < M -ERR_range M M +OK
        ^ SET a 1 ; SELECT 99 ; INCR b ; SET c 1 ; SELECT 1
        ! open
        ^ SELECT 0 ; SET a 1 ; INCR b ; SET c 1 ; SELECT 1
        < +OK M :1 M +OK
        = M -ERR_range :1
        ! open
        ^ SELECT 0 ; SET c 1 ; SELECT 1
        < +OK +OK +OK
        = +OK +OK";
    a_select_that_failed_keeps_its_place: "
        > SET a 1 ; SELECT 99 ; SET b 1
        < M -ERR_range M
        ^ SET a 1 ; SELECT 99 ; SET b 1
        ! open
        ^ SET a 1 ; SET b 1
        < +OK +OK
        = +OK -ERR_range +OK";
    a_wait_is_asked_again_behind_the_write_it_speaks_of: "
        > SET a 1 ; WAIT 1 0
        < M :1
        =
        ^ SET a 1 ; WAIT 1 0
        ! open
        ^ SET a 1 ; WAIT 1 0
        < +OK :0
        = +OK :0";
    a_save_does_not_cover_what_is_sent_after_it: "
        > SET a 1 ; SAVE
        < M +OK
        = M +OK
        ^ SET a 1 ; SAVE";
    a_change_of_user_ends_what_may_be_sent_again: "
        > SET a 1 ; AUTH u p ; SET b 1
        < M +OK M
        = M +OK
        ^ SET a 1 ; AUTH u p ; SET b 1
        ! open
        ^ SET b 1
        < +OK
        = +OK";
    // From 7.2 on Redis drops the error of a failed AUTH behind unsent replies (acl.c:addAuthErrReply,
    // redis/redis#15640), and every later reply seems to answer the request before: the refusal is of INCR.
    after_a_reply_that_never_came_nothing_is_sent_again: "
        > PING ; AUTH nobody x
        < +PONG
        > SET a 1
        < +OK
        > INCR b
        < M
        = +PONG +OK
        ^ PING ; AUTH nobody x ; SET a 1 ; INCR b
        ! open
        ^
        ! time
        = M
        > SET c 1
        < +OK
        = +OK
        ^ SET c 1";
    a_pipelined_transaction_is_sent_again_as_one: "
        > MULTI ; SET a 1 ; GET a ; EXEC ; GET a
        < +OK M Q A $-1
        = +OK
        ^ MULTI ; SET a 1 ; GET a ; EXEC ; GET a
        ! open
        ^ MULTI ; SET a 1 ; GET a ; EXEC ; GET a
        < +OK Q Q *2 +OK $1 1 $1 1
        = Q Q *2 +OK $1 1 $1 1";
    a_transaction_refused_at_its_end_is_sent_again: "
        > MULTI ; SET a 1 ; EXEC
        < +OK Q X
        = +OK Q
        ^ MULTI ; SET a 1 ; EXEC
        ! open
        ^ MULTI ; SET a 1 ; EXEC
        < +OK Q *1 +OK
        = *1 +OK";
    a_transaction_typed_by_hand_is_sent_again_from_its_beginning: "
        > MULTI
        < +OK
        > SET a 1
        < Q
        = +OK Q
        > INCR b
        < M
        =
        ^ MULTI ; SET a 1 ; INCR b
        ! open
        ^ DISCARD ; MULTI ; SET a 1 ; INCR b
        < +OK +OK Q Q
        = Q
        > EXEC
        < *2 +OK :1
        = *2 +OK :1
        ^ EXEC";
    a_transaction_whose_swallowed_prefix_is_refused_is_sent_once_more: "
        > MULTI
        < +OK
        > SET a 1
        < Q
        > INCR b
        < M
        = +OK Q
        ^ MULTI ; SET a 1 ; INCR b
        ! open
        ^ DISCARD ; MULTI ; SET a 1 ; INCR b
        < +OK +OK M M
        =
        ! open
        ^ DISCARD ; MULTI ; SET a 1 ; INCR b
        < +OK +OK Q Q
        = Q
        > EXEC
        < *2 +OK :1
        = *2 +OK :1";
    a_swallowed_prefix_that_times_out_leaves_the_abort_to_the_server: "
        > MULTI
        < +OK
        > SET a 1
        < Q
        > INCR b
        < M
        = +OK Q
        ! open
        < +OK +OK M M
        =
        ! time
        = M
        > EXEC
        < A
        = A";
    a_transaction_refused_twice_does_not_bring_back_what_was_delivered_before_it: "
        > EVAL x 0 ; SET b 1 ; MULTI ; GET a ; INCR c
        < S +OK +OK Q M
        = S +OK
        ^ EVAL x 0 ; SET b 1 ; MULTI ; GET a ; INCR c
        ! open
        ^ DISCARD ; MULTI ; GET a ; INCR c
        < +OK +OK Q M
        = +OK Q
        ! open
        ^ DISCARD ; MULTI ; GET a ; INCR c
        < +OK +OK Q Q
        = Q";
    a_transaction_whose_client_was_told_of_a_refusal_stays_aborted: "
        > MULTI ; SET a 1
        < +OK M
        ! time
        = +OK M
        ! dry
        > SET b 1 ; SET c 1
        < Q M
        = Q M
        ^ MULTI ; SET a 1 ; SET b 1 ; SET c 1
        ! open
        > EXEC
        < A
        = A
        ^ EXEC";
    a_transaction_under_watch_gets_its_abort: "
        > WATCH k ; MULTI ; SET a 1 ; EXEC
        < +OK +OK M A
        = +OK +OK M A
        > MULTI ; SET a 1 ; EXEC
        < +OK Q X
        = +OK Q
        ! open
        < +OK Q *1 +OK
        = *1 +OK";
    a_watch_after_reset_still_seals: "
        > RESET ; WATCH k
        < +RESET +OK
        > MULTI ; SET a 1 ; EXEC
        < +OK Q X
        = +RESET +OK +OK Q X";
    an_exec_without_multi_does_not_end_the_watch: "
        > WATCH k ; EXEC ; DISCARD
        < +OK -ERR_EXEC_without_MULTI -ERR_DISCARD_without_MULTI
        > MULTI ; SET a 1 ; EXEC
        < +OK Q X
        = +OK -ERR_EXEC_without_MULTI -ERR_DISCARD_without_MULTI +OK Q X";
    a_multi_that_failed_begins_nothing: "
        > MULTI
        < -NOPERM_multi
        > INCR a
        < :1
        > INCR b
        < M
        = -NOPERM_multi :1 M
        ^ MULTI ; INCR a ; INCR b";
    a_pipelined_multi_that_failed_begins_nothing: "
        > SET x 1 ; MULTI ; INCR a ; INCR b
        < M -NOPERM_multi :1 M
        = M -NOPERM_multi :1 M
        ^ SET x 1 ; MULTI ; INCR a ; INCR b";
    a_discarded_transaction_is_discarded_again: "
        > MULTI ; SET a 1 ; DISCARD
        < +OK M +OK
        = +OK
        ^ MULTI ; SET a 1 ; DISCARD
        ! open
        ^ MULTI ; SET a 1 ; DISCARD
        < +OK Q +OK
        = Q +OK";
    a_write_before_a_transaction_that_ran_is_not_sent_again: "
        > SET x 1 ; MULTI ; GET a ; EXEC
        < M +OK Q *1 $-1
        = M +OK Q *1 $-1";
    an_open_transaction_behind_a_refused_write_is_closed_and_begun_again: "
        > SET x 1 ; MULTI ; GET a
        < M +OK Q
        =
        ^ SET x 1 ; MULTI ; GET a
        ! open
        ^ DISCARD ; SET x 1 ; MULTI ; GET a
        < +OK +OK +OK Q
        = +OK +OK Q
        > EXEC
        < *1 $-1
        = *1 $-1";
    a_select_inside_a_transaction_leaves_no_database_to_rewind_to: "
        > MULTI ; SELECT 5 ; EXEC
        < +OK Q *1 +OK
        = +OK Q *1 +OK
        > SET a 1 ; SELECT 2
        < M +OK
        = M +OK
        > SET a 1 ; SELECT 3
        < M +OK
        =
        ! open
        < +OK +OK +OK
        = +OK +OK";
    a_command_refused_again_waits_again: "
        > SET a 1
        < M
        ! open
        < M
        =
        ^ SET a 1 ; SET a 1
        ! open
        ^ SET a 1
        < +OK
        = +OK";
    an_effect_kept_through_two_refusals_is_still_not_repeated: "
        > SET a 1 ; PUBLISH c m ; GET a
        < M :7 $-1
        ! open
        < M $-1
        =
        ^ SET a 1 ; PUBLISH c m ; GET a ; SET a 1 ; GET a
        ! open
        ^ SET a 1 ; GET a
        < +OK $1 1
        = +OK :7 $1 1";
    a_script_that_declares_its_flags_is_sent_again: "
        > FCALL f 0
        < M
        =
        ! open
        ^ FCALL f 0 ; FCALL f 0
        < :1
        = :1";
    a_script_that_declares_nothing_is_not: "
        > EVAL x 0 ; SET k v
        < S M
        = S
        ^ EVAL x 0 ; SET k v
        ! open
        ^ SET k v
        < +OK
        = +OK";
    a_script_between_refused_writes_keeps_its_error_and_its_place: "
        > SET a 1 ; EVAL x 0 ; SET b 1
        < M S M
        ! open
        ^ SET a 1 ; EVAL x 0 ; SET b 1 ; SET a 1 ; SET b 1
        < +OK +OK
        = +OK S +OK";
    a_refusal_that_a_script_made_up_is_believed_once: "
        > FCALL f 0
        < -MISCONF_made_up
        ! open
        < -MISCONF_made_up
        = -MISCONF_made_up
        ^ FCALL f 0 ; FCALL f 0";
    a_refusal_made_up_by_an_undeclared_script_is_delivered: "
        > EVAL x 0
        < -MISCONF_made_up
        = -MISCONF_made_up";
    what_only_looks_like_a_refusal_is_not_touched: "
        > SET a 1 ; GET b
        < -MISCONFIGURED $11 -MISCONF_xx
        = -MISCONFIGURED $11 -MISCONF_xx";
    pushes_between_withheld_replies_do_not_wait_for_the_gate: "
        > SET a 1 ; GET a
        < M >2 $7 message $1 x $-1
        = >2 $7 message $1 x
        < >2 $7 message $1 y
        = >2 $7 message $1 y
        ! open
        ^ SET a 1 ; GET a ; SET a 1 ; GET a
        < >2 $7 message $1 z +OK $1 1
        = >2 $7 message $1 z +OK $1 1";
    resp2_subscriptions_are_counted_name_by_name: "
        > SUBSCRIBE a b ; PSUBSCRIBE p
        < *3 $9 subscribe $1 a :1 *3 $9 subscribe $1 b :2 *3 $10 psubscribe $1 p :3
        = *3 $9 subscribe $1 a :1 *3 $9 subscribe $1 b :2 *3 $10 psubscribe $1 p :3
        < *3 $7 message $1 a $1 x
        = *3 $7 message $1 a $1 x
        > PING
        < *3 $7 message $1 a $1 y M
        = *3 $7 message $1 a $1 y
        < *3 $7 message $1 a $1 z
        = *3 $7 message $1 a $1 z
        ! open
        < *2 $4 pong $0 ''
        = *2 $4 pong $0 ''
        > UNSUBSCRIBE ; PUNSUBSCRIBE ; SET k v
        < *3 $11 unsubscribe $1 a :2 *3 $11 unsubscribe $1 b :1 *3 $12 punsubscribe $1 p :0 M
        = *3 $11 unsubscribe $1 a :2 *3 $11 unsubscribe $1 b :1 *3 $12 punsubscribe $1 p :0
        ! open
        < +OK
        = +OK";
    resp3_subscriptions_are_counted_among_other_replies: "
        > HELLO 3
        < %1 $5 proto :3
        > SUBSCRIBE a b ; SET k v ; UNSUBSCRIBE ; LRANGE l 0 -1
        < >3 $9 subscribe $1 a :1 >3 $7 message $1 a $1 x >3 $9 subscribe $1 b :2 M
        < >3 $11 unsubscribe $1 a :1 >3 $11 unsubscribe $1 b :0 *1 $7 message
        = %1 $5 proto :3 >3 $9 subscribe $1 a :1 >3 $7 message $1 a $1 x >3 $9 subscribe $1 b :2 M >3 $11 unsubscribe $1 a :1 >3 $11 unsubscribe $1 b :0 *1 $7 message
        > SET k v
        < M
        ! open
        < +OK
        = +OK";
    unsubscribing_from_nothing_gets_one_reply: "
        > UNSUBSCRIBE ; SUNSUBSCRIBE ; SET k v
        < *3 $11 unsubscribe $-1 :0 *3 $12 sunsubscribe $-1 :0 M
        = *3 $11 unsubscribe $-1 :0 *3 $12 sunsubscribe $-1 :0
        ! open
        < +OK
        = +OK";
    a_list_that_reads_like_a_message_is_a_reply: "
        > LRANGE l 0 -1 ; SUBSCRIBE a
        < *2 $9 subscribe :1 *3 $9 subscribe $1 a :1
        = *2 $9 subscribe :1 *3 $9 subscribe $1 a :1
        > UNSUBSCRIBE
        < *3 $11 unsubscribe $1 a :0
        > SET k v
        < M
        = *3 $11 unsubscribe $1 a :0
        ! open
        < +OK
        = +OK";
    reset_brings_everything_back: "
        > HELLO 3 ; SELECT 4 ; SUBSCRIBE a ; RESET ; SET k v ; SELECT 1
        < %1 $5 proto :3 +OK >3 $9 subscribe $1 a :1 +RESET M +OK
        = %1 $5 proto :3 +OK >3 $9 subscribe $1 a :1 +RESET
        ^ HELLO 3 ; SELECT 4 ; SUBSCRIBE a ; RESET ; SET k v ; SELECT 1
        ! open
        ^ SELECT 0 ; SET k v ; SELECT 1
        < +OK +OK +OK
        = +OK +OK";
    requests_that_get_no_reply_get_none: "
        > *0 ; *-1 ; SET k v ; *0 ; GET k
        < M $-1
        =
        ! open
        < +OK $1 v
        = +OK $1 v";
    a_hold_parks_writes_and_passes_reads: "
        ! hold
        > GET a ; SET b 1 ; GET c
        ^ GET a
        < $1 x
        = $1 x
        ! forward
        ^ SET b 1 ; GET c
        < +OK $-1
        = +OK $-1";
    a_parked_write_whose_time_is_up_and_all_behind_it_go_as_they_are: "
        ! hold
        > SET a 1 ; GET b ; SET c 1
        ^
        ! time
        ^ SET a 1 ; GET b ; SET c 1
        < M $-1 M
        = M $-1 M
        ! dry
        > SET d 1
        ^
        ! forward
        ^ SET d 1
        < M
        ! open
        < +OK
        = +OK";
    a_refused_write_whose_time_is_up_gets_the_servers_own_words: "
        > SET a 1 ; GET a
        < M $-1
        =
        ! time
        = M $-1
        > SET b 1
        < M
        = M
        ! dry
        > SET c 1
        < M
        =
        ! open
        < +OK
        = +OK";
    what_is_in_flight_when_time_is_up_ends_with_it: "
        > SET a 1 ; SET b 1 ; MULTI ; SET c 1 ; EXEC
        < M
        =
        ! time
        = M
        < M +OK Q X
        = M +OK Q X";
    nothing_is_held_for_a_client_that_has_left: "
        > SET a 1 ; SET b 1
        < M
        ! leave
        < M
        = M
        ^ SET a 1 ; SET b 1
        ! open
        ^";
    a_parked_write_of_a_client_that_leaves_is_dropped: "
        ! hold
        > SET a 1
        ! leave
        ! forward
        ^";
    in_posture_refuse_the_servers_own_words_are_delivered: "
        ! refuse
        > SET a 1
        < M
        = M";
    over_budget_the_servers_own_words_are_delivered: "
        > SET a 1 ; GET a
        < M $-1
        ! full
        = M $-1
        ! hold
        > SET b 1
        ! dry
        ^ SET a 1 ; GET a ; SET b 1
        < M
        = M";
    monitor_is_a_wire_that_still_sights_from_its_turn_on: "
        > SET a 1
        < +OK
        > GET a ; MONITOR
        < $1 1 +OK +0_[0]_x +1_[0]_y
        = +OK $1 1 +OK +0_[0]_x +1_[0]_y
        > SET b 1
        < M
        = M";
    what_is_sent_again_is_paired_before_monitor_has_its_turn: "
        > MULTI
        < +OK
        > SET a 1
        < M
        = +OK
        ! open
        > EXEC ; MONITOR ; SET b 1
        < +OK +OK Q *1 +OK +OK +0_x +OK
        = Q *1 +OK +OK +0_x +OK";
    a_hold_ends_where_the_count_is_lost: "
        > SET a 1 ; SET b 1 ; MONITOR
        < M M +OK +0_x
        = M M +OK +0_x";
    requests_without_replies_are_a_wire: "
        > SET a 1 ; CLIENT REPLY OFF ; SET b 1 ; CLIENT REPLY ON
        < +OK +OK
        = +OK +OK
        > SET c 1
        < M
        = M";
    a_replica_is_a_wire: "
        > PING ; PSYNC ? -1
        < +PONG +FULLRESYNC $5 hello *1 $4 PING -MISCONF
        = +PONG +FULLRESYNC $5 hello *1 $4 PING -MISCONF
        > REPLCONF ACK 0
        ^ PING ; PSYNC ? -1 ; REPLCONF ACK 0";
    a_server_gone_mad_is_passed_on: "
        > SET a 1 ; GET a
        < M ?what
        = M ?what
        < M
        = M";
    a_reply_that_nobody_asked_for_is_passed_on: "
        > GET a
        < $1 x +OK M
        = $1 x +OK M
        > SET a 1
        < M
        = M";
    a_server_that_closes_leaves_all_that_it_answered: "
        > SET a 1 ; GET a ; SET b 1
        < M $1 x
        =
        ! close
        = M $1 x";
    a_server_that_closes_during_a_replay_leaves_no_reply_out_of_turn: "
        > MULTI
        < +OK
        > SET a 1 ; PUBLISH c m
        < M Q
        = +OK
        ! open
        < +OK
        ! close
        =";
    a_blocking_read_is_not_asked_again: "
        > SET a 1 ; XREAD BLOCK 0 STREAMS s $
        < M *-1
        = M *-1";
    a_stream_that_is_only_read_is_asked_again: "
        > XADD s 1-1 f v ; XREAD STREAMS s 0
        < M *-1
        =
        ! open
        < $3 1-1 *0
        = $3 1-1 *0";
}

#[test]
fn the_operators_word_on_scripts_decides() {
    let vouched = Rules { scripts: ScriptReplay::All, ..RULES };
    check_with(vouched, "> EVAL x 0 \n < S \n = \n ! open \n < :1 \n = :1");
    check_with(
        vouched,
        "> EVAL x 0 \n < -MISCONF_Errors_writing_to_the_AOF_file:_x_script:_a \n = -MISCONF_Errors_writing_to_the_AOF_file:_x_script:_a",
    );
    let never = Rules { scripts: ScriptReplay::None, ..RULES };
    check_with(never, "> FCALL f 0 \n < M \n = M");
}

#[test]
fn an_observer_holds_nothing_but_sees_everything() {
    let rules = Rules { intercept: false, ..RULES };
    check_with(rules, "> SET a 1 \n < M \n = M \n ! hold \n > SET a 1 \n ^ SET a 1 ; SET a 1 \n < M \n = M");
    let mut talk = run(rules, "> SET a 1 \n < M", false, Cut::Whole);
    assert!(talk.core.take_sighting().is_some() && talk.core.tally.refusals[0] == 1);
}

#[test]
fn nested_refusals_are_sighted_and_never_touched() {
    let script_error = "-ERR_Error_running_script_(call_to_f__0123456789012345678901234567890123456789):_@user__script:1:\
        _@user__script:_1:_-MISCONF_Errors_writing_to_the_AOF_file:_No_space_left_on_device";
    for (request, reply) in [
        ("MULTI ; EVAL x 0 ; EXEC", "+OK Q *2 M +OK".to_owned()),
        ("MULTI ; EVAL x 0 ; EXEC", format!("+OK Q *2 {script_error} +OK")),
        ("EVAL x 0", "*1 *1 M".to_owned()),
    ] {
        let script = format!("> {request} \n < {reply} \n = {reply}");
        check(&script);
        for n in 1..replies(&reply).len() {
            let mut talk = run(RULES, &script, false, Cut::At(1, n));
            assert!(talk.core.take_sighting().is_some_and(|s| s.form == Form::Nested), "{reply} at {n}");
        }
    }
}

#[test]
fn only_what_may_become_a_refusal_is_kept_back_at_a_chunks_end() {
    for (bytes, kept) in [
        ("+OK\r\n-MISC", 5),
        ("-", 1),
        ("-MISCONF Redis is", 17),
        ("-ERR unknown", 0),
        ("-ERR", 4),
        ("-EXECABORT Transaction discarded because of p", 0),
        ("-WRONG", 0),
        ("$10\r\n-MISC", 0),
        ("*2\r\n-MISC", 0),
        ("$5", 0),
        ("+O", 0),
    ] {
        let mut talk = Talk::new(RULES);
        talk.client(b"GET a\r\nGET b\r\n");
        talk.server(bytes.as_bytes());
        assert_eq!(talk.carry.len(), kept, "{bytes}");
        assert_eq!(talk.down.len(), bytes.len() - kept, "{bytes}");
    }
}

#[test]
fn an_empty_request_that_a_chunk_cut_does_not_keep_a_hold_waiting() {
    let mut talk = Talk::new(RULES);
    talk.client(b"SET a 1\r\n\r");
    talk.server(&replies("M"));
    assert_eq!(talk.core.holds(), Some(Holding::Draining));
    talk.client(b"\nGET b\r\n");
    assert_eq!(talk.core.holds(), Some(Holding::Refused));
    talk.up.clear();
    talk.event("open");
    assert_eq!(written(&talk.up), "SET a 1 ; GET b");
}

#[test]
fn a_read_that_a_chunk_cut_is_asked_again_too() {
    let mut talk = Talk::new(RULES);
    talk.client(b"SET a 1\r\n*2\r\n$3\r\nGET\r\n$1");
    talk.server(&replies("M"));
    talk.client(b"\r\na\r\nSET b 1\r\n");
    talk.server(&replies("$-1"));
    assert_eq!((talk.down.len(), talk.core.holds()), (0, Some(Holding::Refused)));
    talk.up.clear();
    talk.event("open");
    assert_eq!(written(&talk.up), "SET a 1 ; GET a ; SET b 1");
}

#[test]
fn a_huge_request_passes_in_constant_memory_and_is_not_held() {
    let mut talk = Talk::new(RULES);
    talk.client(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$10000000\r\n");
    for _ in 0..1000 {
        talk.client(&[b'x'; 10_000]);
        assert!(talk.core.ledger.retained.len() <= RULES.retain_request_max && talk.inbox.is_empty());
    }
    talk.client(b"\r\n");
    assert!(talk.core.ledger.retained.is_empty() && talk.core.ledger.len() == 1);
    talk.server(&replies("M"));
    assert_eq!(talk.down, replies("M"), "what was not retained is delivered");
    talk.assert_clean();
}

#[test]
fn a_huge_reply_passes_in_constant_memory_even_in_the_midst_of_a_replay() {
    let mut talk = Talk::new(RULES);
    talk.client(&requests("SET a 1 ; PUBLISH c m ; GET b ; PUBLISH c n", false));
    talk.server(&replies("M :1 $-1 :2"));
    talk.event("open");
    talk.server(b"+OK\r\n$10000000\r\n");
    for _ in 0..1000 {
        talk.server(&[b'x'; 10_000]);
        assert!(talk.core.pending.len() <= 128 * 1024);
    }
    talk.server(b"\r\n");
    assert_eq!(talk.down.len(), b"+OK\r\n:1\r\n$10000000\r\n\r\n:2\r\n".len() + 10_000_000);
    assert!(talk.down.ends_with(b"\r\n:2\r\n"));
    talk.assert_clean();
}

#[test]
fn more_than_a_session_may_withhold_is_delivered() {
    let rules = Rules { withhold_max: 1000, ..RULES };
    let mut talk = Talk::new(rules);
    talk.client(&requests("SET a 1 ; GET b ; SET c 1", false));
    talk.server(&replies("M"));
    talk.server(b"$5000\r\n");
    talk.server(&[b'x'; 2000]);
    assert!(talk.down.len() > 2000, "the refusal and what is here of the reply");
    talk.server(&[b'x'; 3000]);
    talk.server(&[b"\r\n".as_slice(), &replies("M")].concat());
    assert_eq!(talk.down.len(), 2 * (M.len() + 2) + 7 + 5002);
    talk.assert_clean();
}

#[test]
fn a_transaction_too_large_to_retain_does_not_cost_the_session_its_memory_of_requests() {
    let rules = Rules { retain_session_max: 100, ..RULES };
    let mut talk = run(
        rules,
        "> MULTI ; SET a 0123456789012345678901234567890123456789 ; SET a 0123456789012345678901234567890123456789 ; EXEC
         < +OK Q Q X
         = +OK Q Q X
         > SET a 1
         < M
         =",
        false,
        Cut::Whole,
    );
    talk.event("open");
    talk.server(&replies("+OK"));
    assert_eq!(talk.down, replies("+OK"));
    talk.assert_clean();
}

#[test]
fn a_second_refusal_keeps_the_first_deadline() {
    let mut talk = run(RULES, "> SET a 1 \n < M", false, Cut::Whole);
    let first = talk.core.next_deadline();
    talk.now += Duration::from_secs(3);
    talk.event("open");
    talk.server(&replies("M"));
    assert_eq!(talk.core.next_deadline(), first);
}

#[test]
fn a_value_of_exactly_the_longest_length_passes_and_one_byte_more_does_not() {
    for (len, passes) in [(RULES.bulk_max, true), (RULES.bulk_max + 1, false)] {
        for body in [0, 100] {
            let now = Instant::now();
            let mut core = Core::new(Arc::new(RULES), Arc::new(Table::builtin()), now);
            let mut head = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${len}\r\n").into_bytes();
            head.resize(head.len() + body, b'x');
            let taken = core.requests(&head, Posture::Forward, now);
            assert_eq!(
                (taken.direct == head.len(), core.reads_downstream()),
                (passes, passes),
                "{len}, {body} here"
            );
        }
    }
}

#[test]
fn what_the_client_made_malformed_is_passed_on_behind_what_is_owed() {
    for inline in [false, true] {
        for cut in [Cut::Whole, Cut::Bytes] {
            let mut talk = run(RULES, "> MULTI \n < +OK \n > SET a 1 \n < M \n = +OK \n ! open", inline, cut);
            talk.client(b"*x\r\nwhat\r\n");
            assert_eq!(talk.core.degree(), Degree::Ledgered, "four replies are still owed");
            talk.server(&replies("+OK +OK Q -ERR_Protocol_error"));
            assert_eq!(talk.down, replies("Q -ERR_Protocol_error"));
            assert_eq!(talk.core.degree(), Degree::Opaque);
            assert!(talk.up.ends_with(b"*x\r\nwhat\r\n"));
        }
    }
}

#[test]
fn a_long_inline_request_counts_its_replies_though_a_chunk_cut_it() {
    let names = (0..100).map(|i| format!("c{i}")).collect::<Vec<_>>();
    let line = format!("SUBSCRIBE {}\r\n", names.join(" "));
    let mut talk = Talk::new(RULES);
    talk.client(b"HELLO 3\r\n");
    talk.server(&replies("%1 $5 proto :3"));
    talk.client(&line.as_bytes()[..300]);
    talk.client(&line.as_bytes()[300..]);
    for (i, name) in names.iter().enumerate() {
        talk.server(
            format!(">3\r\n$9\r\nsubscribe\r\n${}\r\n{name}\r\n:{}\r\n", name.len(), i + 1).as_bytes(),
        );
    }
    assert!(talk.core.ledger.is_empty() && talk.core.degree() == Degree::Ledgered);
}
