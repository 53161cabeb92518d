//! A server's children and limits, as the kernel shows them.
//!
//! Refuses to know: Redis. Invariant: a signal goes only to the server it was asked about, or to a process whose
//! parent that is.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::super::server::{Site, run};

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
    children(pid).into_iter().filter(|&child| signal(child, Signal::KILL)).count()
}

/// Stops a server where it stands, before it is ended.
pub fn stop(pid: u32) {
    signal(pid, Signal::STOP);
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

/// The soft limit of processes of a live server, as text (`unlimited` or a number).
pub fn nproc_soft(pid: u32) -> io::Result<String> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find(|line| line.starts_with("Max processes"));
    let soft = line.and_then(|line| line.split_whitespace().nth(2));
    soft.map(str::to_owned).ok_or_else(|| io::Error::other("host: no process limit in /proc"))
}

/// Sets it. The hard limit stays as it is, so the server's own user can raise it again.
///
/// The kernel lets only the same user (or CAP_SYS_RESOURCE, which containers' root lacks) change another
/// process's limits: so this runs `prlimit` as the server's user.
pub fn set_nproc_soft(site: &Site, soft: &str) -> io::Result<()> {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &site.pid.to_string(), &format!("--nproc={soft}:")]);
    if let Some(uid) = site.uid {
        command.uid(uid).gid(uid);
    }
    run(&mut command)
}
