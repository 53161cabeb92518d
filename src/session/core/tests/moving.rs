//! Sessions that go from one server to another, and errors of the family of MISCONF: `! turn` is a turn of the way, `! go`
//! the arrival at another server.

use super::*;

const R: &str = "-READONLY_You_can't_write";

conversations! {
    a_session_that_set_nothing_up_goes_on_at_once: "
        > SET a 1
        < +OK
        = +OK
        ^ SET a 1
        ! go
        > SET a 2
        ^ SET a 2
        < +OK
        = +OK";
    what_is_in_flight_is_answered_first_and_what_comes_meanwhile_is_sent_once: "
        > SET a 1
        ^ SET a 1
        ! turn
        ! busy
        > SET b 1 ; GET b
        ^
        < +OK
        = +OK
        ^
        ! go
        ^ SET b 1 ; GET b
        < +OK $1 1
        = +OK $1 1";
    a_way_that_turns_back_changes_nothing: "
        > SET a 1
        ^ SET a 1
        ! turn
        > GET a
        ^
        ! stay
        < +OK
        = +OK
        ^ GET a
        < $-1
        = $-1";
    a_new_server_is_told_who_and_where_the_client_is_before_it_gets_its_request: "
        > AUTH joe secret ; CLIENT SETNAME me ; SELECT 3 ; CLIENT SETINFO lib-name l
        < +OK +OK +OK +OK
        = +OK +OK +OK +OK
        ^ AUTH joe secret ; CLIENT SETNAME me ; SELECT 3 ; CLIENT SETINFO lib-name l
        ! go
        ^ AUTH joe secret ; CLIENT SETNAME me ; CLIENT SETINFO lib-name l ; SELECT 3
        > INCR a
        ^
        < +OK +OK -ERR_unknown_subcommand
        =
        ^
        < +OK
        =
        ^ INCR a
        < :1
        = :1";
    what_failed_was_never_set_up: "
        > AUTH bad ; CLIENT SETNAME a_b ; SELECT 99
        < -WRONGPASS -ERR -ERR
        = -WRONGPASS -ERR -ERR
        ^ AUTH bad ; CLIENT SETNAME a_b ; SELECT 99
        ! go
        ^
        > PING
        ^ PING
        < +PONG
        = +PONG";
    resp3_is_spoken_again_and_what_a_tracking_client_has_cached_is_void: "
        > HELLO 3 ; CLIENT TRACKING on BCAST
        < %1 $5 proto :3 +OK
        = %1 $5 proto :3 +OK
        ^ HELLO 3 ; CLIENT TRACKING on BCAST
        ! go
        ^ HELLO 3 ; CLIENT TRACKING on BCAST
        < %1 $5 proto :3
        =
        < +OK
        = >2 $10 invalidate __
        > GET a
        ^ GET a
        < __
        = __";
    subscriptions_come_along_and_messages_between_confirmations_are_heard: "
        > SUBSCRIBE b a ; PSUBSCRIBE p
        < *3 $9 subscribe $1 b :1 *3 $9 subscribe $1 a :2 *3 $10 psubscribe $1 p :3
        = *3 $9 subscribe $1 b :1 *3 $9 subscribe $1 a :2 *3 $10 psubscribe $1 p :3
        ^ SUBSCRIBE b a ; PSUBSCRIBE p
        ! turn
        ! go
        ^ SUBSCRIBE a b ; PSUBSCRIBE p
        < *3 $9 subscribe $1 a :1
        =
        < *3 $7 message $1 a $1 x
        = *3 $7 message $1 a $1 x
        < *3 $9 subscribe $1 b :2 *3 $10 psubscribe $1 p :3
        =
        < *3 $7 message $1 b $1 y
        = *3 $7 message $1 b $1 y
        > UNSUBSCRIBE
        ^ UNSUBSCRIBE
        < *3 $11 unsubscribe $1 a :2 *3 $11 unsubscribe $1 b :1
        = *3 $11 unsubscribe $1 a :2 *3 $11 unsubscribe $1 b :1
        ! go
        ^ PSUBSCRIBE p
        < *3 $10 psubscribe $1 p :1
        =";
    pushes_of_a_new_server_are_told_from_confirmations_in_resp3: "
        > HELLO 3 ; SUBSCRIBE a
        < %1 $5 proto :3 >3 $9 subscribe $1 a :1
        = %1 $5 proto :3 >3 $9 subscribe $1 a :1
        ^ HELLO 3 ; SUBSCRIBE a
        ! go
        ^ HELLO 3 ; SUBSCRIBE a
        < %1 $5 proto :3 >3 $9 subscribe $1 a :1 >3 $7 message $1 a $1 x
        = >3 $7 message $1 a $1 x
        > GET k
        ^ GET k
        < __
        = __";
    reset_forgets_what_was_set_up: "
        > SELECT 3 ; CLIENT SETNAME me ; RESET
        < +OK +OK +RESET
        = +OK +OK +RESET
        ^ SELECT 3 ; CLIENT SETNAME me ; RESET
        ! go
        ^";
    a_server_that_does_not_take_the_client_back_strands_it: "
        > AUTH p
        < +OK
        = +OK
        ^ AUTH p
        ! go
        ^ AUTH p
        > SET a 1
        < -WRONGPASS_invalid
        =
        ^
        ! stranded";
    a_second_turn_while_the_first_is_under_way_begins_anew: "
        > SELECT 3
        < +OK
        = +OK
        ^ SELECT 3
        ! go
        ^ SELECT 3
        ! go
        ^ SELECT 3
        > GET a
        < +OK
        =
        ^ GET a
        < $-1
        = $-1";
    a_write_that_met_a_replica_is_sent_to_the_primary: "
        > SELECT 1 ; SET a 1 ; GET a
        < +OK -READONLY_You_can't_write $-1
        = +OK
        ^ SELECT 1 ; SET a 1 ; GET a
        ! turn
        ! go
        ^ SELECT 1
        < +OK
        =
        ! open
        ^ SET a 1 ; GET a
        < +OK $1 1
        = +OK $1 1";
    a_refused_write_may_go_to_another_server: "
        > SET a 1
        < M
        =
        ^ SET a 1
        ! go
        ! open
        ^ SET a 1
        < +OK
        = +OK";
    an_open_transaction_is_queued_again: "
        > MULTI ; SET a 1
        < +OK Q
        = +OK Q
        ^ MULTI ; SET a 1
        ! turn
        > EXEC
        ^
        ! go
        ^ MULTI ; SET a 1
        < +OK
        ^
        < Q
        =
        ^ EXEC
        < *1 +OK
        = *1 +OK";
    an_open_transaction_that_the_new_server_refuses_strands_its_session: "
        > MULTI ; SET a 1
        < +OK Q
        = +OK Q
        ! go
        > EXEC
        < +OK M
        =
        ! stranded";
    a_transaction_that_met_a_replica_is_sent_to_the_primary_from_its_beginning: "
        > MULTI
        < +OK
        = +OK
        > SET a 1 ; EXEC
        < -READONLY_You_can't_write -EXECABORT_Transaction_discarded_because_of_previous_errors.
        =
        ^ MULTI ; SET a 1 ; EXEC
        ! go
        ! open
        ^ MULTI ; SET a 1 ; EXEC
        < +OK Q *1 +OK
        = Q *1 +OK";
    a_held_transaction_whose_time_is_up_at_another_server_ends_the_session: "
        > MULTI ; SET a 1
        < +OK -READONLY_You_can't_write
        = +OK
        ^ MULTI ; SET a 1
        ! go
        ! time
        = -READONLY_You_can't_write
        ! stranded";
    a_loading_server_is_asked_again_and_also_reads_wait_on_it: "
        > GET a
        < -LOADING_Redis_is_loading
        =
        ^ GET a
        ! open
        ^ GET a
        < -LOADING_Redis_is_loading
        =
        ! open
        ^ GET a
        < $1 x
        = $1 x
        > GET b
        < $1 y
        = $1 y";
    an_unready_server_is_told_of_in_its_own_words_when_the_time_is_up: "
        > SET a 1
        < -READONLY_You_can't_write
        =
        ! time
        = -READONLY_You_can't_write";
    errors_that_are_a_policy_of_the_server_are_delivered: "
        > SET a 1 ; SET b 1
        < -OOM_command_not_allowed -NOREPLICAS_Not_enough
        = -OOM_command_not_allowed -NOREPLICAS_Not_enough";
    a_later_write_that_ran_delivers_the_error_of_the_earlier_one: "
        > SET a 1 ; SET b 1
        < -READONLY_You_can't_write +OK
        = -READONLY_You_can't_write +OK";
}

#[test]
fn where_nobody_turns_the_way_a_replicas_answer_is_the_answer() {
    let mut talk = Talk::new(RULES);
    talk.core.expects_turns(false);
    talk.client(b"SET a 1\r\n");
    talk.server(&replies(R));
    assert_eq!(talk.down, replies(R));
}

#[test]
fn what_cannot_be_moved_says_why() {
    let setup = |why| Fixed::Setup(Some(why));
    use crate::session::setup::Lost;
    for (script, why) in [
        ("> WATCH a \n < +OK", Some(Fixed::Watch)),
        ("> WATCH a ; UNWATCH \n < +OK +OK", None),
        ("> MULTI \n < +OK", None),
        ("> WATCH a ; MULTI ; EXEC ; MULTI \n < +OK +OK *0 +OK", None),
        ("> MULTI ; EXEC \n < +OK *0", None),
        ("> MULTI ; SELECT 1 ; EXEC \n < +OK Q *1 +OK", Some(Fixed::Setup(None))),
        ("> MULTI ; SELECT 1 ; EXEC ; SELECT 2 \n < +OK Q *1 +OK +OK", None),
        ("> MULTI ; CLIENT SETNAME a ; EXEC \n < +OK Q *1 +OK", Some(setup(Lost::Transaction))),
        ("> MONITOR \n < +OK", Some(Fixed::Wire)),
        ("> CLIENT REPLY OFF", Some(Fixed::Wire)),
        ("> QUIT \n < +OK", Some(setup(Lost::Quit))),
        ("> CLIENT TRACKING on REDIRECT 3 \n < +OK", Some(setup(Lost::OtherConnection))),
    ] {
        let talk = run(RULES, script, false, Cut::Whole);
        assert_eq!(talk.core.fixed(), why, "{script}");
    }
    let observer = Rules { intercept: false, ..RULES };
    assert_eq!(run(observer, "> PING \n < +PONG", false, Cut::Whole).core.fixed(), Some(Fixed::Wire));
}
