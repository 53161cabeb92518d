//! Learns what the server's commands do from the server itself, so that modules and newer versions are
//! known too. Refuses to know what the knowledge is used for.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use redis_protocol::resp2::types::BytesFrame as Frame;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::command::Table;
use crate::control::{Control, ControlError, Endpoint};
use crate::guard::feed;

use super::worker::Shared;

/// How often we look whether another process answers at the address.
const LOOK: Duration = Duration::from_secs(5);
/// COMMAND lists some 300 kB.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks once for each server process (told apart by run_id) until `closing`. New sessions use what was
/// learned; running ones keep what they began with.
pub async fn learn(
    endpoint: Endpoint,
    shared: Arc<Shared>,
    guard: Arc<feed::Shared>,
    closing: CancellationToken,
) {
    let mut learned = String::new();
    loop {
        let server = guard.status();
        if server.up && !server.run_id.is_empty() && server.run_id != learned {
            match ask(&endpoint).await {
                Ok(Ok(table)) => {
                    debug!(server = %server.run_id, ?table, "the server's own command table is in use");
                    *shared.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
                    learned = server.run_id;
                }
                Ok(Err(refused)) => {
                    info!(side = "upstream", %refused, "COMMAND is not allowed: the built-in command table stays in use, \
                        so commands of modules are neither held nor replayed; to change that: ACL SETUSER <control user> +command");
                    learned = server.run_id;
                }
                Err(error) => debug!(side = "upstream", %error, "cannot ask for COMMAND"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(if learned.is_empty() { LOOK / 50 } else { LOOK }) => {}
            () = closing.cancelled() => return,
        }
    }
}

/// The table, or the server's refusal.
async fn ask(endpoint: &Endpoint) -> Result<Result<Table, String>, ControlError> {
    let mut control = Control::connect(endpoint).await?;
    let replies = control.exchange(&[vec!["COMMAND".to_owned()]], LIST_TIMEOUT).await?;
    Ok(match replies.into_iter().next() {
        Some(Frame::Array(commands)) => Ok(Table::refreshed(commands.iter().filter_map(command))),
        Some(Frame::Error(why)) => Err(why.to_string()),
        other => Err(format!("COMMAND was answered with {other:?}")),
    })
}

/// Name, `write`, `readonly` of one entry (`server.c:addReplyCommandInfo`).
fn command(entry: &Frame) -> Option<(&[u8], bool, bool)> {
    let Frame::Array(fields) = entry else { return None };
    let [name, _arity, Frame::Array(flags), ..] = fields.as_slice() else { return None };
    let has = |flag: &[u8]| flags.iter().any(|f| text(f) == Some(flag));
    Some((text(name)?, has(b"write"), has(b"readonly")))
}

fn text(frame: &Frame) -> Option<&[u8]> {
    match frame {
        Frame::BulkString(bytes) | Frame::SimpleString(bytes) => Some(bytes),
        Frame::Error(_) | Frame::Integer(_) | Frame::Array(_) | Frame::Null => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_gives_its_name_and_flags_and_a_strange_one_nothing() {
        let word = |w: &'static str| Frame::BulkString(w.as_bytes().into());
        let flags =
            Frame::Array(vec![Frame::SimpleString("write".into()), Frame::SimpleString("denyoom".into())]);
        let entry = Frame::Array(vec![word("json.set"), Frame::Integer(-4), flags]);
        assert_eq!(command(&entry), Some((&b"json.set"[..], true, false)));
        for strange in
            [Frame::Null, Frame::Array(vec![]), Frame::Array(vec![word("x"), word("y"), word("z")])]
        {
            assert_eq!(command(&strange), None);
        }
    }
}
