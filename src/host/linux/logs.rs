//! The ends of two logs: the server's own and the kernel's.
//!
//! Refuses to know: what the lines mean ([`crate::guard::evidence::log`]). Invariant: only a plain file is read, and
//! at most its last 256 KiB; of the kernel's the last MiB.

use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use crate::guard::evidence::log::{KernelLine, LogLine, read_kernel, read_log, read_saver};
use crate::guard::evidence::{Fact, Reason};

use super::held::{Held, reopen};
use super::place::absolute;
use super::read::{Tree, open, reason, unknown};

/// Of the server's log.
const LOG_BYTES_MAX: u64 = 256 << 10;
/// Of the kernel's.
const KERNEL_BYTES_MAX: usize = 1 << 20;
/// A record of /dev/kmsg is never longer (`printk.c:PRINTK_MESSAGE_MAX`).
const RECORD_BYTES_MAX: usize = 8 << 10;
/// LASTSAVE counts whole seconds, and so does the time of the boot.
const CLOCK_SLACK_SECS: u64 = 2;
/// More than any ring holds: a kernel that talks faster than we read does not keep us.
const RECORDS_MAX: usize = 100_000;

/// The server's log, and the newest child it tells of. `logfile` as CONFIG GET says it; empty: its standard output.
pub fn server(tree: &Tree, held: &Held, pid: u32, logfile: Option<&str>) -> (Fact<Vec<LogLine>>, Fact<u32>) {
    match server_text(tree, held, pid, logfile) {
        Fact::Known(text) => (Fact::Known(read_log(&text)), read_saver(&text).into()),
        Fact::Unknown(reason) => (Fact::Unknown(reason.clone()), Fact::Unknown(reason)),
    }
}

fn server_text(tree: &Tree, held: &Held, pid: u32, logfile: Option<&str>) -> Fact<String> {
    let what = "the server's log";
    let fd = match logfile {
        None => return Fact::UNKNOWN,
        Some("") => {
            let output = tree.path(format!("/proc/{pid}/fd/1"));
            openat(rustix::fs::CWD, output, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .map_err(io::Error::from)
        }
        Some(path) => match absolute(held, path) {
            Some(path) => held.open_inside(&path, OFlags::PATH),
            None => return Fact::Unknown(Reason::Elsewhere("the log's directory is gone".into())),
        },
    };
    let fd = match fd {
        Ok(fd) => fd,
        Err(error) => return unknown(&error, what),
    };
    match is_file(&fd) {
        Ok(true) => {}
        Ok(false) => return Fact::Unknown(Reason::Elsewhere("the log is no plain file".into())),
        Err(error) => return unknown(&error, what),
    }
    match reopen(&fd).and_then(|file| tail(file, LOG_BYTES_MAX)) {
        Ok(text) => Fact::Known(text),
        Err(error) => unknown(&error, what),
    }
}

/// The kernel's log since the newest good save; all of it when that, or the time of the boot, is not known.
pub fn kernel(tree: &Tree, pid: u32, last_save: Option<u64>) -> Fact<Vec<KernelLine>> {
    let since = last_save.zip(booted(tree)).map(|(save, boot)| save.saturating_sub(boot + CLOCK_SLACK_SECS));
    match records(&tree.path("/dev/kmsg"), since.unwrap_or(0).saturating_mul(1_000_000)) {
        Ok(text) => Fact::Known(read_kernel(&text, pid)),
        Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
            Fact::Unknown(Reason::Denied(format!("/dev/kmsg: {error}")))
        }
        Err(error) => Fact::Unknown(reason(&error, "/dev/kmsg")),
    }
}

fn is_file(fd: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::RegularFile)
}

/// Its last bytes, from the beginning of a line.
fn tail(mut file: std::fs::File, bytes_max: u64) -> io::Result<String> {
    let from = file.metadata()?.len().saturating_sub(bytes_max);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(match from {
        0 => text.into_owned(),
        _ => text.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default(),
    })
}

/// Unix seconds (`btime` of /proc/stat).
fn booted(tree: &Tree) -> Option<u64> {
    tree.text("/proc/stat").known()?.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// Those from `since_usec` after the boot on. One read gives one record; without blocking it ends where the kernel has nothing newer.
fn records(path: &Path, since_usec: u64) -> io::Result<String> {
    let mut file = open(path)?;
    let (mut bytes, mut record) = (Vec::new(), vec![0; RECORD_BYTES_MAX]);
    for _ in 0..RECORDS_MAX {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(length) => {
                bytes.extend_from_slice(&record[..length]);
                // The oldest go, half at a time.
                if bytes.len() > 2 * KERNEL_BYTES_MAX {
                    bytes.drain(..bytes.len() - KERNEL_BYTES_MAX);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // Overwritten before we read it: the next read goes on behind the gap.
            Err(error) if error.raw_os_error() == Some(Errno::PIPE.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
    }
    let from = bytes.len().saturating_sub(KERNEL_BYTES_MAX);
    let text = String::from_utf8_lossy(&bytes[from..]).into_owned();
    let message = |line| message(line, since_usec);
    Ok(text.lines().filter_map(message).map(|line| format!("{line}\n")).collect())
}

/// `6,1234,5678901,-;text`; lines that begin with a blank are a record's dictionary.
fn message(line: &str, since_usec: u64) -> Option<&str> {
    let (head, text) = line.split_once(';')?;
    let at: u64 = head.split(',').nth(2)?.parse().ok()?;
    (at >= since_usec).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_kernels_records_only_the_messages_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kmsg");
        std::fs::write(
            &path,
            "4,1,2,-;Out of memory: Killed process 7\n SUBSYSTEM=x;y\n6,2,3,-;a;b\ngarbage\n6,4,x,-;c\n",
        )
        .unwrap();
        assert_eq!(records(&path, 0).unwrap(), "Out of memory: Killed process 7\na;b\n");
        assert_eq!(records(&path, 3).unwrap(), "a;b\n", "what is older than the newest save is no news");
    }

    #[test]
    fn of_a_gigantic_log_the_end_is_read_from_the_beginning_of_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "0123456\n".repeat(1000)).unwrap();
        let text = tail(std::fs::File::open(&path).unwrap(), 20).unwrap();
        assert_eq!(text, "0123456\n0123456\n");
        assert_eq!(tail(std::fs::File::open(&path).unwrap(), 1 << 20).unwrap().len(), 8000);
    }
}
