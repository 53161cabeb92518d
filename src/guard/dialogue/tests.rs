//! Replies as servers give them, and what is made of them.

use super::*;
use crate::guard::evidence::Reason;

fn bulk(s: &str) -> Frame {
    Frame::BulkString(s.to_string().into())
}

fn simple(s: &str) -> Frame {
    Frame::SimpleString(s.to_string().into())
}

fn fault(s: &str) -> Frame {
    Frame::Error(s.into())
}

#[test]
fn an_inquiry_reads_what_it_asked_for_and_says_why_it_does_not_know() {
    let own = "bgsafe:1".to_string();
    let (mut dialogue, batch) = Dialogue::new(Talk::Inquire { own: own.clone() });
    let pair = |value: &str| Frame::Array(vec![bulk("name"), bulk(value)]);
    let mut replies = vec![bulk("connected_clients:3\r\nused_memory:99\r\nrdb_last_bgsave_status:err\r\n")];
    replies.extend(["yes", "3600 1", "/data", "dump.rdb", "no"].map(pair));
    replies.extend(ASKED.iter().map(|_| fault("NOPERM no")));
    let row = [bulk("fork"), Frame::Integer(1), Frame::Integer(2), Frame::Integer(30)];
    replies.extend([bulk("default"), Frame::Array(vec![Frame::Array(row.to_vec())])]);
    replies.extend([Frame::Array(vec![bulk("master")]), Frame::Integer(1)]);
    replies.extend([simple("OK"), Frame::Array(vec![])]);
    assert_eq!(batch.len(), replies.len());
    let Next::Send(batch) = dialogue.hear(&replies) else { panic!("more to ask") };
    let lines: Vec<String> = batch.iter().map(|words| words.join(" ")).collect();
    assert_eq!(
        lines,
        [
            "CLIENT LIST",
            "PUBSUB NUMSUB __sentinel__:hello",
            "ACL DRYRUN default PING",
            "ACL DRYRUN default CONFIG SET stop-writes-on-bgsave-error yes",
            "ACL DRYRUN default BGSAVE",
            "ACL DRYRUN default CONFIG REWRITE",
            "COMMAND INFO PING CONFIG BGSAVE",
        ]
    );
    let no = bulk("User default has no permissions to run the 'config|set' command");
    let replies = [
        bulk("id=1 name=sentinel-1-cmd\n"),
        fault("NOPERM no"),
        simple("OK"),
        no.clone(),
        fault("ERR x"),
        no,
        fault("NOPERM no"),
    ];
    let Next::Done(Answer::Inquired(found)) = dialogue.hear(&replies) else { panic!("an answer") };
    assert_eq!(
        found.1.rights.line(),
        "may: ping, info, role, config-get, lastsave, multi; may not: config-set, config-rewrite; not known: bgsave"
    );
    assert!(found.0.save_ok.is(false) && found.0.dir.is("/data".into()));
    assert!(found.1.slowest_fork_ms.is(30) && found.1.whoami.is("default".into()));
    assert!(found.1.used_memory.is(99) && found.1.sentinels.is(1));
    assert_eq!(found.1.logfile, Fact::Unknown(Reason::Denied("NOPERM no".into())));
    assert_eq!(
        Dialogue::new(Talk::Inquire { own }).0.hear(&[]),
        Next::Done(Answer::Inquired(Box::default()))
    );
}

#[test]
fn every_bgsave_reply_has_its_meaning() {
    for (frame, meaning) in [
        (simple("Background saving started"), BgsaveReply::Started),
        (simple("Background saving scheduled"), BgsaveReply::Scheduled),
        (fault("ERR"), BgsaveReply::ForkFailed),
        (fault("ERR Background save already in progress"), BgsaveReply::InProgress),
        (
            fault(
                "ERR Another child process is active (AOF?): can't BGSAVE right now. Use BGSAVE SCHEDULE in order to schedule a BGSAVE whenever possible.",
            ),
            BgsaveReply::OtherChild,
        ),
    ] {
        assert_eq!(read_bgsave(&frame), meaning);
    }
    let denied = fault("NOPERM this user has no permissions to run the 'bgsave' command");
    assert!(matches!(read_bgsave(&denied), BgsaveReply::Denied(_)));
}

#[test]
fn lowering_tells_the_value_before_and_nothing_when_it_was_refused() {
    let (mut dialogue, batch) = Dialogue::new(Talk::Lower { name: None });
    assert_eq!(batch.len(), 6);
    let pair = Frame::Array(vec![bulk(KNOB), bulk("yes")]);
    let queued = || simple("QUEUED");
    let exec = Frame::Array(vec![pair, simple("OK")]);
    let counts = bulk("cmdstat_config|rewrite:calls=5,usec=9,rejected_calls=0,failed_calls=2\r\n");
    let done = dialogue.hear(&[simple("OK"), queued(), queued(), exec, simple("PONG"), counts]);
    let rewrites = Fact::Known(3);
    assert_eq!(done, Next::Done(Answer::Lowered { previous: "yes".into(), heard: Heard::Pong, rewrites }));
    let noperm = fault("NOPERM no");
    let (mut dialogue, _) = Dialogue::new(Talk::Lower { name: None });
    let open = [simple("OK"), queued(), queued(), fault("NOPERM exec"), queued(), queued()];
    assert_eq!(dialogue.hear(&open), Next::Send(vec![words("DISCARD")]));
    assert_eq!(dialogue.hear(&[simple("OK")]), Next::Done(Answer::NotLowered("NOPERM exec".into())));
    // What ran outside of a transaction ran all the same.
    let (mut dialogue, _) = Dialogue::new(Talk::Lower { name: None });
    let pair = Frame::Array(vec![bulk(KNOB), bulk("yes")]);
    let without = fault("ERR EXEC without MULTI");
    let bare = [fault("NOPERM multi"), pair, simple("OK"), without, simple("PONG"), fault("NOPERM info")];
    let lowered = Answer::Lowered { previous: "yes".into(), heard: Heard::Pong, rewrites: Fact::UNKNOWN };
    assert_eq!(dialogue.hear(&bare), Next::Done(lowered));
    let (mut dialogue, _) = Dialogue::new(Talk::Lower { name: None });
    let refused = [simple("OK"), queued(), noperm, fault("EXECABORT because"), fault("MISCONF x"), bulk("")];
    assert_eq!(dialogue.hear(&refused), Next::Done(Answer::NotLowered("NOPERM no".into())));
}

#[test]
fn restoring_sets_nothing_unless_the_switch_still_reads_no() {
    let pair = |value| [Frame::Array(vec![bulk(KNOB), bulk(value)])];
    let (mut dialogue, _) = Dialogue::new(Talk::Restore { owed: "yes".into() });
    assert_eq!(dialogue.hear(&pair("yes")), Next::Done(Answer::NotOurs { found: "yes".into() }));
    assert!(matches!(dialogue.hear(&pair("no")), Next::Send(batch) if batch.len() == 4));
}

/// `--rename` is refused for what is not in that table, and would not be heard of what is missing there.
#[test]
fn every_command_that_is_sent_may_have_another_name() {
    let server =
        ServerFacts { whoami: Fact::Known("x".into()), clients: Fact::Known(1), ..ServerFacts::default() };
    let mut sent = Second::new(&Look::default(), &server, true).batch();
    for talk in [
        Talk::Probe,
        Talk::Look,
        Talk::Inquire { own: "x".into() },
        Talk::Lower { name: None },
        Talk::Lower { name: Some("bgsafe:1:owes=yes,since=1".into()) },
        Talk::Claim { name: "bgsafe:1:claims".into(), own: "bgsafe:1".into() },
        Talk::Peers { client: None, own: "bgsafe:1".into() },
        Talk::Name("bgsafe:1".into()),
        Talk::Restore { owed: "yes".into() },
        Talk::Bgsave { schedule: true },
        Talk::Rewrite { owed: "yes".into() },
        Talk::Count,
    ] {
        sent.extend(Dialogue::new(talk).1);
    }
    for command in sent {
        assert!(crate::config::rename::SENT.contains(&command[0].as_str()), "{command:?}");
    }
}
