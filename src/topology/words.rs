//! The RESP of what a Sentinel is asked, and what its replies and its messages mean.
//!
//! Refuses to know: sockets, what follows from it. Invariant: a reply that is not understood becomes words in an
//! error, never a guess.

use std::time::Duration;

use redis_protocol::resp2::types::BytesFrame as Frame;

use super::sentinel::{Peer, Said, Stir};
use crate::guard::dialogue::{Command, text};

/// Where every Sentinel greets the others, on each server that it watches (`sentinel.c:SENTINEL_HELLO_CHANNEL`).
pub const HELLO: &str = "__sentinel__:hello";

/// Events worth asking for (`sentinel.c:sentinelEvent`), and what they say of a failover.
const EVENTS: [(&str, Stir); 20] = [
    ("+switch-master", Stir::Ends),
    ("+failover-end", Stir::Ends),
    ("+failover-end-for-timeout", Stir::Ends),
    ("-failover-abort-not-elected", Stir::Ends),
    ("-failover-abort-no-good-slave", Stir::Ends),
    ("-failover-abort-slave-timeout", Stir::Ends),
    ("-failover-abort-master-is-slave", Stir::Ends),
    ("+try-failover", Stir::Begins),
    ("+vote-for-leader", Stir::Begins),
    ("+elected-leader", Stir::Begins),
    ("+failover-state-select-slave", Stir::Begins),
    ("+selected-slave", Stir::Begins),
    ("+failover-state-send-slaveof-noone", Stir::Begins),
    ("+failover-state-wait-promotion", Stir::Begins),
    ("+failover-state-reconf-slaves", Stir::Begins),
    ("+sdown", Stir::Other),
    ("-sdown", Stir::Other),
    ("+odown", Stir::Other),
    ("-odown", Stir::Other),
    ("+config-update-from", Stir::Other),
];

/// What one Sentinel told of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its own id.
    pub id: Option<String>,
    /// Of the primary.
    pub said: Said,
    /// Of the others.
    pub peers: Vec<Peer>,
}

/// A greeting on a server's own channel: who, for which group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The group.
    pub name: String,
    /// Who greets.
    pub peer: Peer,
}

/// The question.
pub fn question(name: &str) -> Vec<Command> {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    vec![
        words(&["SENTINEL", "MASTER", name]),
        // `SENTINELS` is understood by every version; `MYID` from 6.2 on.
        words(&["SENTINEL", "SENTINELS", name]),
        words(&["SENTINEL", "MYID"]),
    ]
}

/// The subscription to everything in the table, a command a channel so that each has its reply.
pub fn subscription() -> Vec<Command> {
    EVENTS.iter().map(|(channel, _)| ["SUBSCRIBE", channel].map(String::from).to_vec()).collect()
}

/// Reads the answer to [`question`].
///
/// # Errors
/// Sentinel's own words, or what was not understood.
pub fn answer(replies: &[Frame]) -> Result<Told, String> {
    let [master, sentinels, id] = replies else { return Err("replies missing".into()) };
    let id = match id {
        Frame::BulkString(_) | Frame::SimpleString(_) => Some(text(id)),
        Frame::Error(_) | Frame::Integer(_) | Frame::Array(_) | Frame::Null => None,
    };
    let fields = match master {
        Frame::Array(fields) => fields,
        Frame::Error(why) => return Err(why.to_string()),
        other => return Err(format!("SENTINEL MASTER answered {}", text(other))),
    };
    let peers = match sentinels {
        Frame::Array(rows) => rows.iter().filter_map(peer).collect(),
        _ => Vec::new(),
    };
    Ok(Told { id, said: said(fields)?, peers })
}

/// Reads a message of [`subscription`]; only of this group, or of no group.
pub fn stir(message: &Frame, name: &str) -> Option<Stir> {
    let Frame::Array(parts) = message else { return None };
    let [kind, channel, payload] = parts.as_slice() else { return None };
    if text(kind) != "message" {
        return None;
    }
    let (channel, payload) = (text(channel), text(payload));
    let (_, stir) = EVENTS.iter().find(|(known, _)| *known == channel)?;
    let mut words = payload.split(' ');
    let first = words.next()?;
    let ours = match channel.as_str() {
        "+switch-master" => first == name,
        // An id and an epoch: nobody knows of which group. Asking does no harm, and the answer tells.
        "+vote-for-leader" => return Some(Stir::Other),
        // `master <name> …`, or `slave <name> <ip> <port> @ <group> <ip> <port>`.
        _ if first == "master" => words.next() == Some(name),
        _ => payload.split(" @ ").nth(1).is_some_and(|of| of.split(' ').next() == Some(name)),
    };
    ours.then_some(*stir)
}

/// Reads a greeting (`sentinel.c:sentinelSendHello`): ip, port, id, epoch, name, and the primary as it sees it.
pub fn hello(message: &Frame) -> Option<Hello> {
    let Frame::Array(parts) = message else { return None };
    let payload = text(parts.last()?);
    let [ip, port, id, _epoch, name, _primary, _port, _config] =
        payload.split(',').collect::<Vec<_>>().try_into().ok()?;
    port.parse::<u16>().ok()?;
    Some(Hello { name: name.into(), peer: Peer { address: at(ip, port), id: id.into() } })
}

fn said(fields: &[Frame]) -> Result<Said, String> {
    let value = |name: &str| {
        let at = fields.chunks_exact(2).find(|pair| text(&pair[0]) == name)?;
        Some(text(&at[1]))
    };
    let number = |name: &str| value(name).and_then(|n| n.parse::<u64>().ok());
    let (Some(ip), Some(port), Some(flags)) = (value("ip"), value("port"), value("flags")) else {
        return Err("SENTINEL MASTER told no address or no flags".into());
    };
    // Without an epoch nothing can be said about what is newer.
    let epoch = number("config-epoch").ok_or("SENTINEL MASTER told no config-epoch")?;
    let flag = |name: &str| flags.split(',').any(|flag| flag == name);
    let millis = |name: &str| number(name).map(Duration::from_millis);
    Ok(Said {
        primary: at(&ip, &port),
        run_id: value("runid").filter(|id| !id.is_empty()),
        epoch,
        s_down: flag("s_down"),
        o_down: flag("o_down").then(|| millis("o-down-time").unwrap_or_default()),
        failing_over: flag("failover_in_progress") || flag("force_failover"),
        replicas: number("num-slaves").unwrap_or(0),
        others: number("num-other-sentinels").and_then(|n| n.try_into().ok()).unwrap_or(0),
        down_after: millis("down-after-milliseconds").unwrap_or_default(),
        failover_timeout: millis("failover-timeout").unwrap_or_default(),
    })
}

fn peer(row: &Frame) -> Option<Peer> {
    let Frame::Array(fields) = row else { return None };
    let value = |name: &str| {
        let pair = fields.chunks_exact(2).find(|pair| text(&pair[0]) == name)?;
        Some(text(&pair[1])).filter(|value| !value.is_empty())
    };
    Some(Peer { address: at(&value("ip")?, &value("port")?), id: value("runid")? })
}

/// An IPv6 address stands in brackets before a port.
fn at(ip: &str, port: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Frame {
        Frame::BulkString(text.to_string().into())
    }

    fn row(line: &str) -> Frame {
        Frame::Array(line.split(' ').map(bulk).collect())
    }

    #[test]
    fn an_answer_is_read_as_sentinel_7_writes_it() {
        let master = row(
            "name lab ip 10.0.0.1 port 6379 runid abc flags master,s_down,o_down,failover_in_progress o-down-time 250 \
             down-after-milliseconds 2000 config-epoch 7 num-slaves 2 num-other-sentinels 2 quorum 2 failover-timeout 4000",
        );
        let others = Frame::Array(vec![row("name x ip ::1 port 26379 runid 5e flags sentinel")]);
        let told = answer(&[master, others, bulk("aa")]).unwrap();
        assert_eq!(told.id.as_deref(), Some("aa"));
        assert_eq!(told.peers, [Peer { address: "[::1]:26379".into(), id: "5e".into() }]);
        assert_eq!(
            told.said,
            Said {
                primary: "10.0.0.1:6379".into(),
                run_id: Some("abc".into()),
                epoch: 7,
                s_down: true,
                o_down: Some(Duration::from_millis(250)),
                failing_over: true,
                replicas: 2,
                others: 2,
                down_after: Duration::from_secs(2),
                failover_timeout: Duration::from_secs(4),
            }
        );
    }

    #[test]
    fn what_is_not_understood_is_said_and_never_guessed() {
        let none = Frame::Array(Vec::new());
        let no_name = Frame::Error("ERR No such master with that name".into());
        for (master, says) in [
            (no_name, "No such master"),
            (row("ip 10.0.0.1 port 6379"), "no flags"),
            (row("ip 10.0.0.1 port 6379 flags master"), "no config-epoch"),
            (row("ip 10.0.0.1 port 6379 flags master config-epoch x"), "no config-epoch"),
            (Frame::Null, "answered"),
            (Frame::Array(vec![bulk("ip")]), "no address"),
        ] {
            let why = answer(&[master, none.clone(), Frame::Error("ERR x".into())]).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
        assert!(answer(&[none]).is_err());
    }

    #[test]
    fn messages_of_another_group_stir_nothing() {
        let message =
            |channel: &str, payload: &str| Frame::Array(vec![bulk("message"), bulk(channel), bulk(payload)]);
        for (channel, payload, expected) in [
            ("+switch-master", "lab 127.0.0.1 1 127.0.0.1 2", Some(Stir::Ends)),
            ("+switch-master", "labs 127.0.0.1 1 127.0.0.1 2", None),
            ("+try-failover", "master lab 127.0.0.1 1", Some(Stir::Begins)),
            ("+try-failover", "master other 127.0.0.1 1", None),
            ("+selected-slave", "slave 127.0.0.1:2 127.0.0.1 2 @ lab 127.0.0.1 1", Some(Stir::Begins)),
            ("+selected-slave", "slave 127.0.0.1:2 127.0.0.1 2 @ other 127.0.0.1 1", None),
            ("-failover-abort-no-good-slave", "master lab 127.0.0.1 1", Some(Stir::Ends)),
            ("+vote-for-leader", "5e0f 8", Some(Stir::Other)),
            ("+sdown", "master lab 127.0.0.1 1", Some(Stir::Other)),
            ("+reboot", "master lab 127.0.0.1 1", None),
        ] {
            assert_eq!(stir(&message(channel, payload), "lab"), expected, "{channel} {payload}");
        }
        assert_eq!(stir(&row("subscribe +switch-master 1"), "lab"), None);
    }

    #[test]
    fn a_greeting_tells_who_and_for_which_group() {
        let payload = "127.0.0.1,26379,5e0f,8,lab,127.0.0.1,6379,7";
        let message = Frame::Array(vec![bulk("pmessage"), bulk(HELLO), bulk(HELLO), bulk(payload)]);
        let peer = Peer { address: "127.0.0.1:26379".into(), id: "5e0f".into() };
        assert_eq!(hello(&message), Some(Hello { name: "lab".into(), peer }));
        for garbled in ["", "a,b", "127.0.0.1,x,5e0f,8,lab,127.0.0.1,6379,7", "1,2,3,4,5,6,7,8,9"] {
            assert_eq!(hello(&Frame::Array(vec![bulk(garbled)])), None, "{garbled}");
        }
    }
}
