//! File descriptors: two a session, so the usual soft limit of 1024 would end at five hundred clients.
//!
//! As `server.c:adjustOpenFilesLimit` does, the soft limit is raised as far as the clients that were asked for
//! need and the hard limit allows. Refuses to know sessions.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// For listeners, admin, log, state, the guard's connections and each worker's reactor.
const OURS: u64 = 64;

/// Makes room for `clients`, and says so when there is not enough.
pub fn make_room(clients: usize) {
    let wanted = clients as u64 * 2 + OURS;
    let limit = getrlimit(Resource::Nofile);
    // None is no limit.
    if limit.current.is_none_or(|soft| soft >= wanted) {
        return;
    }
    let reach = limit.maximum.map_or(wanted, |hard| hard.min(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(reach), maximum: limit.maximum });
    let has = if raised.is_ok() { reach } else { limit.current.unwrap_or(wanted) };
    if has < wanted {
        let room = has.saturating_sub(OURS) / 2;
        warn!(
            side = "host",
            "{has} open files are allowed, enough for {room} of --max-clients {clients}; raise the hard limit \
             (ulimit -Hn {wanted}, or LimitNOFILE={wanted})"
        );
    }
}
