//! Fetches a copy of the data set as a replica would: a diskless transfer, to its end, onto our own disk.
//!
//! Refuses to know: when one is wanted. Invariants: the server is never made to save to its own disk for it
//! (that would fail where its saves fail, and say so in `rdb_last_bgsave_status`: `rdb.c:backgroundSaveDoneHandlerDisk`);
//! every wait is bounded; the connection is closed as soon as the copy is here, so that nobody lists it as a replica
//! for longer.

use std::time::Duration;

use redis_protocol::resp2::types::BytesFrame as Frame;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout_at};

use super::keep::Keep;
use super::second::{self, Opinion};
use crate::control::{Control, ControlError, Endpoint};
use crate::guard::escrow::rdb::Checker;
use crate::guard::escrow::{Order, PullError, Snapshot};
use crate::resp::sync::{Form, Reply, Step, SyncError};

/// The few questions before.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Without a byte for so long the server is given up: while it prepares it sends a newline each second, and it gives
/// up itself after `repl-timeout`, 60 s.
const SILENCE_MOST: Duration = Duration::from_secs(60);
/// It waits for `repl-diskless-sync-delay`, and for another child to end.
const PREPARATION_MOST: Duration = Duration::from_secs(600);
/// All of it: the server's one place for a child is taken meanwhile.
const TIME_MOST: Duration = Duration::from_secs(3600);
/// Read at once.
const CHUNK: usize = 256 << 10;

/// Fetches, checks and keeps a copy.
///
/// # Errors
/// When there is none: nothing is left of it on the disk.
pub async fn pull(endpoint: &Endpoint, keep: &Keep, order: Order) -> Result<Snapshot, PullError> {
    let ends = Instant::now() + TIME_MOST;
    let mut part = keep.begin(order.at_ms)?;
    let mut control = Control::connect(endpoint).await.map_err(passing)?;
    ask(&mut control, &order).await?;
    let words = ["PSYNC", "?", "-1"].map(String::from).to_vec();
    // What came with the answers before is read first, if anything did.
    let (mut stream, mut early) = control.into_raw(words).await.map_err(passing)?;

    let (mut reply, mut checker) = (Reply::default(), Checker::default());
    let (mut buffer, mut body) = (vec![0; CHUNK], Vec::with_capacity(CHUNK + 64));
    let prepared = Instant::now() + PREPARATION_MOST;
    loop {
        let chunk = match early.is_empty() {
            false => &early[..],
            true => {
                let until = if reply.form().is_none() { prepared } else { ends };
                let until = until.min(Instant::now() + SILENCE_MOST);
                let read = timeout_at(until, stream.read(&mut buffer)).await;
                match read.map_err(|_| silent(&reply))?.map_err(|e| passing(e.into()))? {
                    0 => {
                        let so_far = checker.bytes();
                        let why = format!("upstream: hung up after {so_far} bytes of a copy");
                        return Err(PullError::passing(why));
                    }
                    n => &buffer[..n],
                }
            }
        };
        let step = reply.feed(chunk, &mut body).map_err(refused)?;
        if let Some(Form::File(_)) = reply.form() {
            return Err(PullError::passing(
                "upstream: offers a file of its own disk, whose age is not known (repl-diskless-sync was turned off \
                 meanwhile?)",
            ));
        }
        checker.feed(&body);
        part.write(&body)?;
        body.clear();
        early.clear();
        if step == Step::Done {
            break;
        }
    }
    drop(stream);

    let checked = checker.finish().map_err(|e| PullError::passing(format!("upstream: {e}")))?;
    part.sync()?;
    let server = checked.server.unwrap_or_default();
    let mut found = vec!["end".to_string()];
    if checked.summed {
        found.push("sum".into());
    }
    let keys = match second::ask(part.path(), &server).await {
        Opinion::Fine(by, keys) => {
            found.push(by.into());
            keys
        }
        Opinion::Broken(by, why) => {
            return Err(PullError::passing(format!("upstream: {by} finds the copy broken: {why}")));
        }
        Opinion::Unable(_) => None,
    };
    let Order { at_ms, changes, last_save, run_id } = order;
    let (bytes, version, path) = (checked.bytes, checked.version, String::new());
    part.keep(Snapshot {
        path,
        bytes,
        at_ms,
        changes,
        last_save,
        run_id,
        server,
        version,
        keys,
        checked: found,
    })
}

/// Is it the right process, does it send without its disk, and does it take us for what we are?
async fn ask(control: &mut Control, order: &Order) -> Result<(), PullError> {
    let words = |line: &[&str]| line.iter().map(|word| word.to_string()).collect::<Vec<_>>();
    let batch = [
        words(&["INFO", "server"]),
        words(&["CONFIG", "GET", "repl-diskless-sync"]),
        // It can read a stream to its mark: only then is it sent one (`replication.c:startBgsaveForReplication`).
        words(&["REPLCONF", "capa", "eof"]),
        // From 6.2 on: no writes are gathered for us meanwhile. Earlier servers know no such word, and gather.
        words(&["REPLCONF", "rdb-only", "1"]),
        // A Sentinel that reads INFO meanwhile would take us for a replica at port 0, and remember it for good; an
        // address that is none it passes over (`sentinel.c:sentinelRefreshInstanceInfo`).
        words(&["REPLCONF", "ip-address", ""]),
    ];
    let replies = control.exchange(&batch, EXCHANGE_TIMEOUT).await.map_err(passing)?;
    let [info, diskless, capa, _, _] = replies.as_slice() else {
        return Err(PullError::passing("upstream: answered too little"));
    };
    if let Some(run_id) = text(info).and_then(|info| info.lines().find_map(|l| l.strip_prefix("run_id:")))
        && run_id.trim() != order.run_id
    {
        return Err(PullError::passing("upstream: another process answers now"));
    }
    let value = match diskless {
        Frame::Array(pair) => pair.get(1).and_then(text),
        _ => None,
    };
    match value {
        Some("yes") => {}
        Some(_) => {
            return Err(PullError::lasting(
                "upstream: repl-diskless-sync is no, so a copy would be written to the server's own disk first; type \
                 CONFIG SET repl-diskless-sync yes",
            ));
        }
        None => {
            return Err(PullError::lasting("upstream: does not tell whether repl-diskless-sync is yes"));
        }
    }
    match capa {
        Frame::Error(why) => Err(refusal(why)),
        _ => Ok(()),
    }
}

fn text(frame: &Frame) -> Option<&str> {
    match frame {
        Frame::BulkString(bytes) | Frame::SimpleString(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn silent(reply: &Reply) -> PullError {
    PullError::passing(match reply.form() {
        None => "upstream: did not begin to send a copy: another child is in its way, or it could not fork",
        Some(_) => "upstream: was silent for too long in the middle of a copy",
    })
}

fn refused(error: SyncError) -> PullError {
    match error {
        SyncError::Refused(why) => refusal(&why),
        odd => PullError::passing(odd.to_string()),
    }
}

/// A right that is missing stays so.
fn refusal(why: &str) -> PullError {
    let lasting =
        ["NOPERM", "ERR unknown command", "ERR command is not allowed"].iter().any(|w| why.starts_with(w));
    let cure = if lasting { "; the control user needs +psync +replconf" } else { "" };
    PullError { why: format!("upstream: {why}{cure}"), lasting }
}

fn passing(error: ControlError) -> PullError {
    PullError::passing(error.to_string())
}
