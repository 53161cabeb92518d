//! What a look and an inquiry were answered, as facts. Refuses to know: what they are wanted for.

use super::{Frame, LOOKED_AT, config_value, text};
use crate::guard::evidence::fact::yes_no;
use crate::guard::evidence::server::ASKED;
use crate::guard::evidence::{Fact, Look, Reason, ServerFacts};

pub(super) fn read_look(info: &Frame, values: &[Frame]) -> Look {
    let mut look = Look::default();
    if let Frame::BulkString(body) = info {
        look.read_info(&String::from_utf8_lossy(body));
    }
    if let [knob, save, dir, dbfilename, ignores] = values {
        let fact = |frame| config_value(frame).map_or_else(|why| Fact::Unknown(denied(why)), Fact::Known);
        look.knob = fact(knob);
        look.save = fact(save);
        look.dir = fact(dir);
        look.dbfilename = fact(dbfilename);
        look.ignores_errors = match fact(ignores) {
            Fact::Known(word) => yes_no(&word),
            Fact::Unknown(why) => Fact::Unknown(why),
        };
    }
    look
}

pub(super) fn read_inquiry(
    info: &Frame,
    values: &[Frame],
    whoami: &Frame,
    latency: &Frame,
) -> (Look, ServerFacts) {
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
