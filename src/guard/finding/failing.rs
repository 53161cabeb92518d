//! Does saving fail now, and how much is known of where it failed? A circumstance that would make a save fail is
//! the cause only while one fails and nothing says that it failed elsewhere; in peace it is a danger.
//!
//! Refuses to know: the circumstances. Invariant: where nothing fails no hit is a cause.

use super::{Hit, Kind, Severity};
use crate::guard::evidence::log::{Errno, LogClass, LogLine};
use crate::guard::evidence::{Evidence, Fact};
use crate::posture::Variant;

/// How far the failed save came, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Saving works, or nothing is known of it.
    Not,
    /// It failed, nothing says where.
    Somewhere,
    /// The server could not fork.
    AtFork,
    /// The child failed: log lines say how.
    InChild,
}

/// Do snapshots fail now? The newest look decides; where it does not say, the refusal that was heard.
pub fn rdb(e: &Evidence) -> bool {
    let refused = e.seen.variant == Some(Variant::Rdb) || e.seen.fork_failed;
    e.look.save_ok.get().map_or(refused, |ok| !ok)
}

/// Does the append-only file fail now?
pub fn aof(e: &Evidence) -> bool {
    e.look.aof_ok.get().map_or(e.seen.variant == Some(Variant::Aof), |ok| !ok)
}

/// How far the failed snapshot came.
pub fn failed(e: &Evidence) -> Failed {
    match (rdb(e), said(e).map(|line| line.class)) {
        (false, _) => Failed::Not,
        (true, Some(LogClass::ForkEnomem | LogClass::ForkEagain)) => Failed::AtFork,
        (true, Some(_)) => Failed::InChild,
        (true, None) if e.seen.fork_failed => Failed::AtFork,
        (true, None) => Failed::Somewhere,
    }
}

/// The newest log line of a failed snapshot, while they fail.
pub fn said(e: &Evidence) -> Option<&LogLine> {
    if !rdb(e) {
        return None;
    }
    e.host.log.known()?.iter().rev().find(|line| !line.class.is_aof() && line.class != LogClass::Saved)
}

/// … of the append-only file.
pub fn said_aof(e: &Evidence) -> Option<&LogLine> {
    if !aof(e) {
        return None;
    }
    e.host.log.known()?.iter().rev().find(|line| line.class.is_aof())
}

/// The errno by which the AOF fails: of the log, else of the refusal (`server.c:writeCommandsGetDiskErrorMessage`).
pub fn aof_errno(e: &Evidence) -> Option<Errno> {
    if !aof(e) {
        return None;
    }
    let refused =
        || e.seen.refusal.as_ref().and_then(|r| r.rsplit_once(": ")).map(|(_, text)| Errno::read(text));
    said_aof(e).and_then(|line| line.class.errno()).or_else(refused)
}

/// Said by a log line of a snapshot, or by errno of the AOF: these errnos, whatever was being done.
pub fn by_errno(e: &Evidence, errnos: &[Errno]) -> Option<Hit> {
    let line = said(e).filter(|line| line.class.errno().is_some_and(|errno| errnos.contains(&errno)));
    match line {
        Some(line) => cause(&line.text),
        None => {
            aof_errno(e).filter(|errno| errnos.contains(errno))?;
            let words = said_aof(e).map(|line| line.text.clone()).or_else(|| e.seen.refusal.clone());
            cause(&format!("the append-only file: {}", words.unwrap_or_default()))
        }
    }
}

/// A log line says so.
pub fn cause(says: &str) -> Option<Hit> {
    Hit::sure(says).map(|hit| hit.kind(Kind::Cause).severity(Severity::Crit))
}

/// What makes the server's child fail: the cause while a save fails somewhere, a danger else.
pub fn in_child(e: &Evidence, sure: bool, says: String) -> Option<Hit> {
    circumstance(failed(e) == Failed::Somewhere, sure, says)
}

/// What makes any write fail, also to the AOF, which is open already: the cause while either fails and nothing says why.
pub fn in_write(e: &Evidence, sure: bool, says: String) -> Option<Hit> {
    circumstance(failed(e) == Failed::Somewhere || (aof(e) && aof_errno(e).is_none()), sure, says)
}

/// What makes a fork fail: the cause while one fails, or a save somewhere, a danger else.
pub fn at_fork(e: &Evidence, sure: bool, says: String) -> Option<Hit> {
    circumstance(matches!(failed(e), Failed::Somewhere | Failed::AtFork), sure, says)
}

fn circumstance(now: bool, sure: bool, says: String) -> Option<Hit> {
    let (kind, severity) = if now { (Kind::Cause, Severity::Crit) } else { (Kind::Danger, Severity::Warn) };
    Some(Hit { sure, kind: Some(kind), severity: Some(severity), says })
}

/// A version's numbers; what cannot be parsed is none.
pub fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = version.split('.').map(|part| {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    Some((numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

/// The Redis version whose behaviour the server has; what cannot be parsed is none.
pub fn version(e: &Evidence) -> Option<(u32, u32, u32)> {
    let version = numbers(e.look.version.known()?)?;
    match e.look.server.known()?.as_str() {
        "redis" | "keydb" => Some(version),
        // Forks of 7.2.4 with numbers of their own.
        "valkey" | "redict" => Some(version.max((7, 2, 4))),
        _ => None,
    }
}

/// Known to behave as Redis of this version or a later one.
pub fn since(e: &Evidence, major: u32, minor: u32, patch: u32) -> bool {
    version(e).is_some_and(|version| version >= (major, minor, patch))
}

/// Valkey itself, of this version or a later one.
pub fn valkey(e: &Evidence, major: u32, minor: u32) -> bool {
    e.look.server.is("valkey".to_string()) && since(e, major, minor, 0)
}

/// The save points: seconds and changes. None where they are unknown or not understood.
pub fn save_points(e: &Evidence) -> Option<Vec<(u64, u64)>> {
    let words: Option<Vec<u64>> = e.look.save.known()?.split_whitespace().map(|w| w.parse().ok()).collect();
    let words = words?;
    words.len().is_multiple_of(2).then(|| words.chunks(2).map(|pair| (pair[0], pair[1])).collect())
}

/// In words; `unknown` when it is.
pub fn word<T: ToString>(fact: &Fact<T>) -> String {
    fact.known().map_or_else(|| "unknown".into(), T::to_string)
}
