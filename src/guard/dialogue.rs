//! The RESP of each thing the guard asks of the server: which commands, and what their replies
//! mean. One [`Dialogue`] an exchange; a batch is written at once and answered in order.
//!
//! Refuses to know: sockets, timeouts, why it is asked. Invariant: a reply that is not understood
//! becomes words in an answer, never a guess.

use redis_protocol::resp2::types::BytesFrame as Frame;

use super::evidence::server::ASKED;
use super::evidence::{Fact, Look, Reason, Role, ServerFacts, Target};
use super::saver::BgsaveReply;
use crate::posture::Refusal;
use crate::resp::error::classify;

/// The switch.
pub const KNOB: &str = "stop-writes-on-bgsave-error";

/// One command: its words.
pub type Command = Vec<String>;

/// What the guard asks of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Talk {
    /// PING (refused like a write since 2.8.2), ROLE and where the snapshot goes, in one round trip.
    Probe,
    /// INFO and the CONFIG values that matter.
    Look,
    /// What a diagnosis wants besides: all of INFO, more of CONFIG, who else is connected.
    Inquire {
        /// CLIENT SETNAME of this connection: not to be taken for another bgsafe.
        own: String,
    },
    /// Commands of a remedy, in this order; the first error ends it.
    Apply(Vec<Command>),
    /// Read the switch and lower it in one transaction, then PING, all in one round trip.
    Lower,
    /// Only when the switch still reads `no`: set it to this, read it back, PING.
    Restore {
        /// What the operator had.
        owed: String,
    },
    /// BGSAVE, or BGSAVE SCHEDULE while another child runs.
    Bgsave {
        /// Queue it behind the other child.
        schedule: bool,
    },
}

/// What the server said to PING.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Gated commands pass.
    Pong,
    /// They do not, in these words.
    Refused(Refusal, String),
    /// Neither: LOADING, NOAUTH, NOPERM …
    Other(String),
}

/// What came of a [`Talk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of a probe.
    Probed {
        /// PING's reply.
        heard: Heard,
        /// ROLE's.
        role: Fact<Role>,
        /// Where the snapshot goes at this moment, when both its parts were told.
        target: Option<Target>,
    },
    /// Of a look.
    Looked(Box<Look>),
    /// Of an inquiry.
    Inquired(Box<(Look, ServerFacts)>),
    /// The remedy's commands were accepted, or the server's words against one.
    Applied(Result<(), String>),
    /// The switch is down now, and was `previous` before.
    Lowered {
        /// Read in the transaction that lowered it.
        previous: String,
        /// PING's reply.
        heard: Heard,
    },
    /// Nothing was changed, for this reason.
    NotLowered(String),
    /// The switch was `no` and was set.
    Restored {
        /// What it reads now.
        reads: String,
        /// PING's reply.
        heard: Heard,
    },
    /// The switch did not read `no` any more, and was left alone.
    NotOurs {
        /// What it reads.
        found: String,
    },
    /// The switch could not be read or set, for this reason.
    NotRestored(String),
    /// Of a BGSAVE.
    Bgsave(BgsaveReply),
}

/// What to do after a batch was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send this batch too.
    Send(Vec<Command>),
    /// Finished.
    Done(Answer),
}

/// One exchange with the server.
#[derive(Clone, Debug)]
pub struct Dialogue {
    talk: Talk,
    second: bool,
    /// Of an inquiry: what its first batch told.
    found: Option<Box<(Look, ServerFacts)>>,
}

impl Dialogue {
    /// And its first batch.
    pub fn new(talk: Talk) -> (Self, Vec<Command>) {
        let batch = match &talk {
            Talk::Probe => vec![words("PING"), words("ROLE"), config_get("dir"), config_get("dbfilename")],
            Talk::Look => {
                let mut batch = vec![words("INFO")];
                batch.extend(LOOKED_AT.iter().map(|name| config_get(name)));
                batch
            }
            // `all` has what plain INFO leaves out: the counts by command.
            Talk::Inquire { .. } => {
                let mut batch = vec![words("INFO all")];
                batch.extend(LOOKED_AT.iter().chain(&ASKED).map(|name| config_get(name)));
                batch.extend([words("ACL WHOAMI"), words("LATENCY LATEST")]);
                batch
            }
            Talk::Apply(commands) => commands.clone(),
            // EXEC answers with the value of before the SET: of two that lower at once only one
            // reads `yes`.
            Talk::Lower => {
                vec![words("MULTI"), config_get(KNOB), config_set(KNOB, "no"), words("EXEC"), words("PING")]
            }
            Talk::Restore { .. } => vec![config_get(KNOB)],
            Talk::Bgsave { schedule: false } => vec![words("BGSAVE")],
            Talk::Bgsave { schedule: true } => vec![words("BGSAVE SCHEDULE")],
        };
        (Dialogue { talk, second: false, found: None }, batch)
    }

    /// Reads the replies to the batch sent last: as many as it had commands.
    pub fn hear(&mut self, replies: &[Frame]) -> Next {
        let answer = match (&self.talk, replies) {
            (Talk::Probe, [ping, role, dir, dbfilename]) => {
                let target = match (config_value(dir), config_value(dbfilename)) {
                    (Ok(dir), Ok(dbfilename)) => Some(Target { dir, dbfilename }),
                    _ => None,
                };
                Answer::Probed { heard: heard(ping), role: read_role(role), target }
            }
            (Talk::Look, [info, values @ ..]) => Answer::Looked(Box::new(read_look(info, values))),
            (Talk::Inquire { .. }, [info, values @ .., whoami, latency]) if !self.second => {
                let found = read_inquiry(info, values, whoami, latency);
                // Ten thousand clients would be megabytes: what their names tell is not worth that.
                if found.1.clients.is_and(|n| *n <= CLIENTS_LISTED) {
                    self.second = true;
                    self.found = Some(Box::new(found));
                    return Next::Send(vec![words("CLIENT LIST")]);
                }
                Answer::Inquired(Box::new(found))
            }
            (Talk::Inquire { own }, [clients]) if self.second => {
                let mut found = self.found.take().unwrap_or_default();
                match clients {
                    Frame::BulkString(list) => {
                        found.1.read_clients(&String::from_utf8_lossy(list), own);
                    }
                    other => {
                        found.1.sentinels = Fact::Unknown(Reason::Denied(text(other)));
                        found.1.other_guards = Fact::Unknown(Reason::Denied(text(other)));
                    }
                }
                Answer::Inquired(found)
            }
            (Talk::Apply(_), replies) => Answer::Applied(replies.iter().find_map(error).map_or(Ok(()), Err)),
            (Talk::Lower, [multi, get, set, exec, ping]) => read_lower([multi, get, set, exec], ping),
            (Talk::Restore { owed }, [value]) if !self.second => match config_value(value) {
                Ok(found) if found == "no" => {
                    self.second = true;
                    return Next::Send(vec![config_set(KNOB, owed), config_get(KNOB), words("PING")]);
                }
                Ok(found) => Answer::NotOurs { found },
                Err(why) => Answer::NotRestored(why),
            },
            (Talk::Restore { .. }, [set, value, ping]) => match (error(set), config_value(value)) {
                (None, Ok(reads)) => Answer::Restored { reads, heard: heard(ping) },
                (Some(why), _) | (None, Err(why)) => Answer::NotRestored(why),
            },
            (Talk::Bgsave { .. }, [reply]) => Answer::Bgsave(read_bgsave(reply)),
            (Talk::Probe, _) => {
                let heard = Heard::Other("replies missing".into());
                Answer::Probed { heard, role: Fact::UNKNOWN, target: None }
            }
            (Talk::Look, _) => Answer::Looked(Box::default()),
            (Talk::Inquire { .. }, _) => Answer::Inquired(Box::default()),
            (Talk::Lower, _) => Answer::NotLowered("replies missing".into()),
            (Talk::Restore { .. }, _) => Answer::NotRestored("replies missing".into()),
            (Talk::Bgsave { .. }, _) => Answer::Bgsave(BgsaveReply::Failed("replies missing".into())),
        };
        Next::Done(answer)
    }
}

/// One CONFIG GET each: several names in one are understood from 7.0 on only.
const LOOKED_AT: [&str; 4] = [KNOB, "save", "dir", "dbfilename"];

/// With more clients than this they are not listed.
const CLIENTS_LISTED: u64 = 500;

fn words(line: &str) -> Command {
    line.split(' ').map(String::from).collect()
}

fn config_get(name: &str) -> Command {
    ["CONFIG", "GET", name].map(String::from).to_vec()
}

fn config_set(name: &str, value: &str) -> Command {
    ["CONFIG", "SET", name, value].map(String::from).to_vec()
}

fn text(frame: &Frame) -> String {
    match frame {
        Frame::SimpleString(b) | Frame::BulkString(b) => String::from_utf8_lossy(b).into_owned(),
        Frame::Error(e) => e.to_string(),
        Frame::Integer(n) => n.to_string(),
        Frame::Array(_) => "an array".into(),
        Frame::Null => "null".into(),
    }
}

fn error(frame: &Frame) -> Option<String> {
    match frame {
        Frame::Error(e) => Some(e.to_string()),
        _ => None,
    }
}

fn heard(ping: &Frame) -> Heard {
    match ping {
        Frame::SimpleString(word) if word.as_ref() == b"PONG" => Heard::Pong,
        Frame::Error(e) => match classify(e.as_bytes()) {
            Some(refusal) => Heard::Refused(refusal, e.to_string()),
            None => Heard::Other(e.to_string()),
        },
        other => Heard::Other(text(other)),
    }
}

fn read_role(frame: &Frame) -> Fact<Role> {
    match frame {
        Frame::Array(items) => items.first().map(|word| Role::from_word(&text(word))).into(),
        _ => Fact::UNKNOWN,
    }
}

/// The second item of CONFIG GET's pair; an empty array is an option this server does not have.
fn config_value(frame: &Frame) -> Result<String, String> {
    match frame {
        Frame::Array(pair) if pair.len() == 2 => Ok(text(&pair[1])),
        Frame::Error(e) => Err(e.to_string()),
        _ => Err(format!("CONFIG GET {KNOB} answered without a value")),
    }
}

fn read_look(info: &Frame, values: &[Frame]) -> Look {
    let mut look = Look::default();
    if let Frame::BulkString(body) = info {
        look.read_info(&String::from_utf8_lossy(body));
    }
    if let [knob, save, dir, dbfilename] = values {
        let fact = |frame| config_value(frame).map_or_else(|why| Fact::Unknown(denied(why)), Fact::Known);
        look.knob = fact(knob);
        look.save = fact(save);
        look.dir = fact(dir);
        look.dbfilename = fact(dbfilename);
    }
    look
}

fn read_inquiry(info: &Frame, values: &[Frame], whoami: &Frame, latency: &Frame) -> (Look, ServerFacts) {
    let (looked, asked) = values.split_at(LOOKED_AT.len().min(values.len()));
    let look = read_look(info, looked);
    let mut server = ServerFacts::default();
    if let Frame::BulkString(body) = info {
        server.read_info(&String::from_utf8_lossy(body));
    }
    for (name, frame) in ASKED.iter().zip(asked) {
        let value = config_value(frame);
        server.read_config(name, value.as_deref().map_err(|why| denied(why.clone())));
    }
    server.whoami = match whoami {
        Frame::BulkString(_) | Frame::SimpleString(_) => Fact::Known(text(whoami)),
        other => Fact::Unknown(denied(text(other))),
    };
    server.slowest_fork_ms = slowest_fork(latency);
    (look, server)
}

/// Rows of event, time, latest, highest (`latency.c:latencyCommandReplyWithLatestEvents`).
fn slowest_fork(latency: &Frame) -> Fact<u64> {
    let Frame::Array(rows) = latency else { return Fact::UNKNOWN };
    let fork = rows.iter().find_map(|row| match row {
        Frame::Array(cells) if cells.first().is_some_and(|name| text(name) == "fork") => cells.get(3),
        _ => None,
    });
    fork.and_then(|most| text(most).parse().ok()).into()
}

/// An option this server does not have is not told; anything else was forbidden.
fn denied(why: String) -> Reason {
    if why.starts_with("CONFIG GET") { Reason::NotTold } else { Reason::Denied(why) }
}

fn read_lower(transaction: [&Frame; 4], ping: &Frame) -> Answer {
    // A word refused in the queue (NOPERM, unknown command) says more than the EXECABORT after it.
    if let Some(why) = transaction.iter().find_map(|frame| error(frame)) {
        return Answer::NotLowered(why);
    }
    match transaction[3] {
        Frame::Array(results) => match results.as_slice() {
            [value, set] => match (config_value(value), error(set)) {
                (Ok(previous), None) => Answer::Lowered { previous, heard: heard(ping) },
                (_, Some(why)) | (Err(why), None) => Answer::NotLowered(why),
            },
            _ => Answer::NotLowered("EXEC answered with another number of results".into()),
        },
        other => Answer::NotLowered(text(other)),
    }
}

fn read_bgsave(frame: &Frame) -> BgsaveReply {
    match frame {
        Frame::SimpleString(s) if s.ends_with(b"started") => BgsaveReply::Started,
        Frame::SimpleString(s) if s.ends_with(b"scheduled") => BgsaveReply::Scheduled,
        Frame::Error(e) => {
            let said = |needle: &str| e.contains(needle);
            // rdb.c:bgsaveCommand; the bare ERR is shared.err of a failed fork.
            match e.trim() {
                "ERR" => BgsaveReply::ForkFailed,
                _ if said("already in progress") => BgsaveReply::InProgress,
                _ if said("child process is active") || said("BGSAVE SCHEDULE") => BgsaveReply::OtherChild,
                _ if e.starts_with("NOPERM") || said("unknown command") || said("not allowed") => {
                    BgsaveReply::Denied(e.to_string())
                }
                words => BgsaveReply::Failed(words.to_string()),
            }
        }
        other => BgsaveReply::Failed(text(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut replies =
            vec![bulk("connected_clients:3\r\nused_memory:99\r\nrdb_last_bgsave_status:err\r\n")];
        replies.extend(["yes", "3600 1", "/data", "dump.rdb"].map(pair));
        replies.extend(ASKED.iter().map(|_| fault("NOPERM no")));
        let row = [bulk("fork"), Frame::Integer(1), Frame::Integer(2), Frame::Integer(30)];
        replies.extend([bulk("default"), Frame::Array(vec![Frame::Array(row.to_vec())])]);
        assert_eq!(batch.len(), replies.len());
        assert!(matches!(dialogue.hear(&replies), Next::Send(batch) if batch == [words("CLIENT LIST")]));
        let Next::Done(Answer::Inquired(found)) = dialogue.hear(&[bulk("id=1 name=sentinel-1-cmd\n")]) else {
            panic!("an answer");
        };
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
        let (mut dialogue, batch) = Dialogue::new(Talk::Lower);
        assert_eq!(batch.len(), 5);
        let pair = Frame::Array(vec![bulk(KNOB), bulk("yes")]);
        let queued = || simple("QUEUED");
        let exec = Frame::Array(vec![pair, simple("OK")]);
        let done = dialogue.hear(&[simple("OK"), queued(), queued(), exec, simple("PONG")]);
        assert_eq!(done, Next::Done(Answer::Lowered { previous: "yes".into(), heard: Heard::Pong }));
        let noperm = fault("NOPERM no");
        let refused = [simple("OK"), queued(), noperm, fault("EXECABORT because"), fault("MISCONF x")];
        assert_eq!(dialogue.hear(&refused), Next::Done(Answer::NotLowered("NOPERM no".into())));
    }

    #[test]
    fn restoring_sets_nothing_unless_the_switch_still_reads_no() {
        let pair = |value| [Frame::Array(vec![bulk(KNOB), bulk(value)])];
        let (mut dialogue, _) = Dialogue::new(Talk::Restore { owed: "yes".into() });
        assert_eq!(dialogue.hear(&pair("yes")), Next::Done(Answer::NotOurs { found: "yes".into() }));
        assert!(matches!(dialogue.hear(&pair("no")), Next::Send(batch) if batch.len() == 3));
    }
}
