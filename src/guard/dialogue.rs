//! The RESP of each thing the guard asks of the server: which commands, and what their replies
//! mean. One [`Dialogue`] an exchange; a batch is written at once and answered in order.
//!
//! Refuses to know: sockets, timeouts, why it is asked. Invariant: a reply that is not understood
//! becomes words in an answer, never a guess.

use redis_protocol::resp2::types::BytesFrame as Frame;

use super::evidence::server::{ASKED, rewrites};
use super::evidence::{Fact, Look, Role, ServerFacts, Target};
use super::peers::Peer;
use super::saver::BgsaveReply;
use crate::posture::Refusal;
use crate::resp::error::classify;

mod aof;
mod inquiry;
mod others;
mod outcome;
mod rewrite;
mod rights;
mod second;

pub use aof::{AofAnswer, AofTalk};
use inquiry::{read_inquiry, read_look};
use outcome::{read_bgsave, read_lower};
use second::Second;

/// The switch.
pub const KNOB: &str = "stop-writes-on-bgsave-error";

/// What keeps a replica alive that cannot write to its disk.
pub const SHIELD: &str = "replica-ignore-disk-write-errors";

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
    /// Read the switch and lower it in one transaction, then PING and count rewrites, all in one round trip.
    Lower {
        /// Taken before: whoever finds the switch lowered finds by whom.
        name: Option<String>,
    },
    /// Only when the switch still reads `no`: set it to this, read it back, PING, count rewrites.
    Restore {
        /// What the operator had.
        owed: String,
    },
    /// CONFIG REWRITE that writes down this value of the switch, whichever is live before and after.
    Rewrite {
        /// What the operator had.
        owed: String,
    },
    /// How many CONFIG REWRITEs the server has carried out.
    Count,
    /// Hand the primary's role over, and no longer try than this (6.2+).
    Failover {
        /// To whom.
        host: String,
        /// …
        port: String,
        /// The server's own limit.
        timeout_ms: u64,
    },
    /// BGSAVE, or BGSAVE SCHEDULE while another child runs.
    Bgsave {
        /// Queue it behind the other child.
        schedule: bool,
    },
    /// Take this name, and see in the same transaction who had one before.
    Claim {
        /// CLIENT SETNAME.
        name: String,
        /// Ours in peace: not to be taken for another bgsafe.
        own: String,
    },
    /// Who else guards this server?
    Peers {
        /// Only this connection.
        client: Option<u64>,
        /// As in a claim.
        own: String,
    },
    /// Take this name.
    Name(String),
    /// Of the append-only file.
    Aof(AofTalk),
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
        /// CONFIG REWRITEs carried out by then.
        rewrites: Fact<u64>,
    },
    /// Nothing was changed, for this reason.
    NotLowered(String),
    /// The switch was `no` and was set.
    Restored {
        /// What it reads now.
        reads: String,
        /// PING's reply.
        heard: Heard,
        /// CONFIG REWRITEs carried out by then.
        rewrites: Fact<u64>,
    },
    /// The switch did not read `no` any more, and was left alone.
    NotOurs {
        /// What it reads.
        found: String,
    },
    /// The switch could not be read or set, for this reason.
    NotRestored(String),
    /// The server's own words to CONFIG REWRITE, an error or not.
    Rewritten(Result<String, String>),
    /// It was not asked for, and nothing was changed, for this reason.
    NotRewritten(String),
    /// CONFIG REWRITEs carried out so far.
    Counted(Fact<u64>),
    /// Of a BGSAVE.
    Bgsave(BgsaveReply),
    /// The name is taken; these had theirs before. Or why nothing is known.
    Claimed(Result<Vec<Peer>, String>),
    /// These are there.
    Listed(Result<Vec<Peer>, String>),
    /// Of a name.
    Named(Result<(), String>),
    /// Of the append-only file.
    Aof(AofAnswer),
    /// The hand-over has begun, or the server's words against it.
    FailedOver(Result<(), String>),
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
    /// Of an inquiry: what its first batch told, and what its second asks.
    found: Option<Box<(Look, ServerFacts)>>,
    asks: Second,
    /// What it came to, once one more thing was said: DISCARD, where a transaction was left open.
    refused: Option<Answer>,
    rewrite: rewrite::Stage,
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
                // The last five change nothing: they are asked for whether they may be.
                let asked = ["ACL WHOAMI", "LATENCY LATEST", "ROLE", "LASTSAVE", "MULTI", "EXEC"];
                batch.extend(asked.map(words));
                batch
            }
            Talk::Apply(commands) => commands.clone(),
            // EXEC answers with the value of before the SET: of two that lower at once only one
            // reads `yes`.
            Talk::Lower { name } => {
                let lower = [words("MULTI"), config_get(KNOB), config_set(KNOB, "no"), words("EXEC")];
                let lower = lower.into_iter().chain([words("PING"), words(COUNTS)]);
                name.iter().map(|name| others::set_name(name)).chain(lower).collect()
            }
            Talk::Claim { name, .. } => others::claim(name),
            Talk::Peers { client, .. } => vec![others::list(*client)],
            Talk::Name(name) => vec![others::set_name(name)],
            Talk::Restore { .. } => vec![config_get(KNOB)],
            Talk::Rewrite { .. } => rewrite::begin(),
            Talk::Count => vec![words(COUNTS)],
            Talk::Failover { host, port, timeout_ms } => {
                vec![words(&format!("FAILOVER TO {host} {port} TIMEOUT {timeout_ms}"))]
            }
            Talk::Bgsave { schedule: false } => vec![words("BGSAVE")],
            Talk::Bgsave { schedule: true } => vec![words("BGSAVE SCHEDULE")],
            Talk::Aof(talk) => aof::first(*talk),
        };
        let (asks, rewrite) = (Second::default(), rewrite::Stage::default());
        (Dialogue { talk, second: false, found: None, asks, refused: None, rewrite }, batch)
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
            (Talk::Inquire { .. }, [info, values @ .., whoami, latency, role, lastsave, multi, exec])
                if !self.second =>
            {
                let mut found = read_inquiry(info, values, whoami, latency);
                rights::read(&mut found.1.rights, [info, role, lastsave, multi, exec], values.first());
                self.asks = Second::new(&found.0, &found.1, is_open(multi, exec));
                self.second = true;
                self.found = Some(Box::new(found));
                return Next::Send(self.asks.batch());
            }
            (Talk::Inquire { own }, replies) if self.second => {
                let mut found = self.found.take().unwrap_or_default();
                self.asks.read(replies, own, &mut found.1);
                Answer::Inquired(found)
            }
            (Talk::Apply(_), replies) => Answer::Applied(replies.iter().find_map(error).map_or(Ok(()), Err)),
            (Talk::Lower { .. }, [.., multi, get, set, exec, ping, counts]) => {
                let answer = read_lower([multi, get, set, exec], ping, counts);
                if is_open(multi, exec) {
                    self.refused = Some(answer);
                    return Next::Send(vec![words("DISCARD")]);
                }
                answer
            }
            (Talk::Aof(_), _) if self.refused.is_some() => {
                self.refused.take().unwrap_or_else(|| Answer::Aof(AofAnswer::LeftOff("asked twice".into())))
            }
            (Talk::Aof(talk), replies) => {
                let (next, then) = aof::hear(*talk, replies);
                self.refused = then;
                return next;
            }
            (Talk::Lower { .. } | Talk::Claim { .. }, [_]) if self.refused.is_some() => {
                self.refused.take().unwrap_or_else(|| Answer::NotLowered("EXEC refused".into()))
            }
            (Talk::Claim { own, .. }, [multi, set, list, exec]) => {
                let answer = Answer::Claimed(others::read_claim([multi, set, list, exec], own));
                if is_open(multi, exec) {
                    self.refused = Some(answer);
                    return Next::Send(vec![words("DISCARD")]);
                }
                answer
            }
            (Talk::Peers { own, .. }, [list]) => Answer::Listed(others::read_list(list, own)),
            (Talk::Name(_), [set]) => Answer::Named(error(set).map_or(Ok(()), Err)),
            (Talk::Restore { owed }, [value]) if !self.second => match config_value(value) {
                Ok(found) if found == "no" => {
                    self.second = true;
                    let set = [config_set(KNOB, owed), config_get(KNOB), words("PING"), words(COUNTS)];
                    return Next::Send(set.to_vec());
                }
                Ok(found) => Answer::NotOurs { found },
                Err(why) => Answer::NotRestored(why),
            },
            (Talk::Restore { .. }, [set, value, ping, counts]) => match (error(set), config_value(value)) {
                (None, Ok(reads)) => {
                    Answer::Restored { reads, heard: heard(ping), rewrites: read_counts(counts) }
                }
                (Some(why), _) | (None, Err(why)) => Answer::NotRestored(why),
            },
            (Talk::Rewrite { owed }, replies) => return rewrite::hear(&mut self.rewrite, owed, replies),
            (Talk::Count, [counts]) => Answer::Counted(read_counts(counts)),
            (Talk::Bgsave { .. }, [reply]) => Answer::Bgsave(read_bgsave(reply)),
            (Talk::Failover { .. }, [reply]) => Answer::FailedOver(error(reply).map_or(Ok(()), Err)),
            (Talk::Failover { .. }, _) => Answer::FailedOver(Err("replies missing".into())),
            (Talk::Probe, _) => {
                let heard = Heard::Other("replies missing".into());
                Answer::Probed { heard, role: Fact::UNKNOWN, target: None }
            }
            (Talk::Look, _) => Answer::Looked(Box::default()),
            (Talk::Inquire { .. }, _) => Answer::Inquired(Box::default()),
            (Talk::Lower { .. }, _) => Answer::NotLowered("replies missing".into()),
            (Talk::Claim { .. }, _) => Answer::Claimed(Err("replies missing".into())),
            (Talk::Peers { .. }, _) => Answer::Listed(Err("replies missing".into())),
            (Talk::Name(_), _) => Answer::Named(Err("replies missing".into())),
            (Talk::Restore { .. }, _) => Answer::NotRestored("replies missing".into()),
            (Talk::Count, _) => Answer::Counted(Fact::UNKNOWN),
            (Talk::Bgsave { .. }, _) => Answer::Bgsave(BgsaveReply::Failed("replies missing".into())),
        };
        Next::Done(answer)
    }
}

/// Where the server counts each command (7.0+: each subcommand).
const COUNTS: &str = "INFO commandstats";

/// One CONFIG GET each: several names in one are understood from 7.0 on only.
const LOOKED_AT: [&str; 5] = [KNOB, "save", "dir", "dbfilename", SHIELD];

fn words(line: &str) -> Command {
    line.split(' ').map(String::from).collect()
}

fn config_get(name: &str) -> Command {
    ["CONFIG", "GET", name].map(String::from).to_vec()
}

fn config_set(name: &str, value: &str) -> Command {
    ["CONFIG", "SET", name, value].map(String::from).to_vec()
}

/// A scalar reply as words.
pub fn text(frame: &Frame) -> String {
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
        _ => Err("CONFIG GET answered without a value".into()),
    }
}

/// MULTI was accepted and EXEC was not, for a reason that leaves the transaction open.
fn is_open(multi: &Frame, exec: &Frame) -> bool {
    error(multi).is_none() && error(exec).is_some_and(|why| !why.starts_with("EXECABORT"))
}

fn read_counts(frame: &Frame) -> Fact<u64> {
    match frame {
        Frame::BulkString(body) => rewrites(&String::from_utf8_lossy(body)),
        _ => Fact::UNKNOWN,
    }
}

#[cfg(test)]
mod tests;
