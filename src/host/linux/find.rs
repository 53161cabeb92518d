//! Which process is the server? INFO's pid counts in the server's own namespace, and several processes may bear it:
//! what its name, its age and its listening port say together decides.
//!
//! Refuses to know: what the process is looked at for. Invariant: exactly one match, or none.

use std::collections::HashSet;
use std::path::Path;

use crate::guard::evidence::{Fact, Reason};
use crate::host::Asked;

use super::read::{Tree, open};
use super::table::{Entry, Table};

/// What a server's program may be called; a name that holds one of these counts.
const NAMES: &[&str] = &["redis-server", "valkey-server", "keydb-server", "redict-server", "dragonfly"];
/// Between INFO's clock and the kernel's.
const AGE_TOLERANCE_SECS: f64 = 3.0;
/// Listeners come first in these files (`tcp_ipv4.c:tcp_seq_start`): what is cut off are connections.
const SOCKETS_BYTES_MAX: u64 = 1 << 20;

/// The server's process.
pub fn find(tree: &Tree, asked: &Asked, table: &Table) -> Fact<Entry> {
    let elsewhere = |why: String| Fact::Unknown(Reason::Elsewhere(why));
    let Some(pid) = asked.process_id.and_then(|pid| u32::try_from(pid).ok()).filter(|&pid| pid != 0) else {
        return elsewhere("the server does not tell its process id".into());
    };
    let Some(uptime_secs) = asked.uptime_secs else {
        return elsewhere("the server does not tell since when it runs".into());
    };
    let Some(now) = now_secs(tree) else {
        return elsewhere("/proc/uptime cannot be read".into());
    };
    let same = |entry: &&Entry| entry.own_pid() == pid && entry.state != 'Z';
    let numbered: Vec<&Entry> = table.entries.iter().filter(same).collect();
    if numbered.is_empty() {
        return elsewhere(format!("no process here has the server's id {pid}, in any namespace that we see"));
    }
    let named: Vec<&Entry> =
        numbered.into_iter().filter(|entry| looks_like_a_server(tree, entry.pid, &entry.comm)).collect();
    if named.is_empty() {
        return elsewhere(format!("process {pid} here is no server by its name"));
    }
    let aged: Vec<&Entry> = named.into_iter().filter(|entry| has_age(entry, now, uptime_secs)).collect();
    if aged.is_empty() {
        return elsewhere(format!("process {pid} here did not start when the server says it did"));
    }
    let port = asked.tcp_port.filter(|&port| port != 0);
    let heard: Vec<&Entry> =
        aged.into_iter().filter(|entry| port.is_none_or(|port| listens(tree, entry.pid, port))).collect();
    match heard[..] {
        [entry] => Fact::Known(entry.clone()),
        [] => elsewhere(format!("process {pid} here does not listen on the server's port")),
        [..] => elsewhere(format!("{} processes here could be the server", heard.len())),
    }
}

/// By the name the kernel shows, or by its program's file.
pub fn looks_like_a_server(tree: &Tree, pid: u32, comm: &str) -> bool {
    let is_name = |name: &str| NAMES.iter().any(|known| name.contains(known));
    let exe = tree.link(format!("/proc/{pid}/exe"));
    let exe = exe.known().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    is_name(comm) || exe.is_some_and(|name| is_name(&name))
}

/// Seconds since boot.
fn now_secs(tree: &Tree) -> Option<f64> {
    let text = tree.text("/proc/uptime");
    let now: f64 = text.known()?.split_whitespace().next()?.parse().ok()?;
    (now.is_finite() && now >= 0.0).then_some(now)
}

fn has_age(entry: &Entry, now_secs: f64, uptime_secs: u64) -> bool {
    let started = entry.start as f64 / rustix::param::clock_ticks_per_second() as f64;
    ((now_secs - started) - uptime_secs as f64).abs() <= AGE_TOLERANCE_SECS
}

/// Does it listen on this port? Its network namespace must show the port; where we may see its descriptors, one of
/// them must be that socket: two containers may share a network and start together, both as process 1.
fn listens(tree: &Tree, pid: u32, port: u16) -> bool {
    let inodes: HashSet<String> =
        ["tcp", "tcp6"].into_iter().flat_map(|file| listeners(tree, pid, file, port)).collect();
    if inodes.is_empty() {
        return false;
    }
    let Ok(fds) = std::fs::read_dir(tree.path(format!("/proc/{pid}/fd"))) else { return true };
    let is_listener = |target: &Path| {
        let socket = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
        socket.is_some_and(|inode| inodes.contains(inode))
    };
    fds.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| is_listener(&target)))
}

/// Inodes of the sockets that listen on this port.
fn listeners(tree: &Tree, pid: u32, file: &str, port: u16) -> Vec<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    if let Ok(file) = open(&tree.path(format!("/proc/{pid}/net/{file}"))) {
        // What could not be read names no listener.
        let _ = file.take(SOCKETS_BYTES_MAX).read_to_end(&mut bytes);
    }
    let wanted = format!(":{port:04X}");
    let lines = String::from_utf8_lossy(&bytes).into_owned();
    let inode = |line: &str| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        // `0A` is TCP_LISTEN.
        (local.ends_with(&wanted) && fields.nth(1)? == "0A").then_some(())?;
        fields.nth(5).map(str::to_owned)
    };
    lines.lines().filter_map(inode).collect()
}
