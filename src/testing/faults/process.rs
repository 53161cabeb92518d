//! A server's children and limits, as the kernel shows them.
//!
//! Refuses to know: Redis. Invariant: a signal goes only to the server it was asked about, or to a process whose
//! parent that is.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::super::server::{Site, run};
use super::Undo;

/// Pids of a process's children.
pub fn children(pid: u32) -> Vec<u32> {
    if cfg!(target_os = "linux") {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        return pids.filter(|&candidate| parent(candidate) == Some(pid)).collect();
    }
    let output = Command::new("pgrep").args(["-P", &pid.to_string()]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// Kills the children of this server with SIGKILL; how many there were.
pub fn kill_children(pid: u32) -> usize {
    signal_children(pid, Signal::KILL)
}

/// Sends a signal to each child of this server; how many there were.
pub fn signal_children(pid: u32, what: Signal) -> usize {
    children(pid).into_iter().filter(|&child| signal(child, what)).count()
}

/// Stops a server where it stands, before it is ended.
pub fn stop(pid: u32) {
    signal(pid, Signal::STOP);
}

/// Lets a stopped one go on.
pub fn go_on(pid: u32) {
    signal(pid, Signal::CONT);
}

/// False when the process has ended already.
fn signal(pid: u32, signal: Signal) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// The fourth field of `/proc/PID/stat`; the second, a name in brackets, may hold anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A limit of a process: its line in `/proc/PID/limits`, its option of prlimit.
#[derive(Clone, Copy)]
pub(super) struct Limit(&'static str, &'static str);

/// Processes and threads of the user.
pub(super) const NPROC: Limit = Limit("Max processes", "nproc");
/// Bytes of a file.
pub(super) const FSIZE: Limit = Limit("Max file size", "fsize");

/// Lowers the soft limit of a live server. The hard limit stays as it is, so the server's own user can raise it again.
pub(super) fn lower(site: &Site, limit: Limit, soft: &str) -> io::Result<Undo> {
    let before = soft_limit(site.pid, limit)?;
    let undo = {
        let site = site.clone();
        Undo::new(move || set_soft(&site, limit, &before))
    };
    set_soft(site, limit, soft)?;
    Ok(undo)
}

/// As text: `unlimited` or a number.
fn soft_limit(pid: u32, limit: Limit) -> io::Result<String> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let soft = limits.lines().find_map(|line| line.strip_prefix(limit.0)?.split_whitespace().next());
    soft.map(str::to_owned)
        .ok_or_else(|| io::Error::other(format!("host: no {} in /proc/{pid}/limits", limit.0)))
}

/// The kernel lets only the same user (or CAP_SYS_RESOURCE, which containers' root lacks) change another
/// process's limits: so this runs `prlimit` as the server's user.
fn set_soft(site: &Site, limit: Limit, soft: &str) -> io::Result<()> {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &site.pid.to_string(), &format!("--{}={soft}:", limit.1)]);
    if let Some(uid) = site.uid {
        command.uid(uid).gid(uid);
    }
    run(&mut command)
}
