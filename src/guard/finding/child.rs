//! The saving child came to an end, or does not come to one; and what is said for want of anything better.
//!
//! Refuses to know: the fork before it, the files it writes. M §5.3, §5.13, §5.14, §4.2.

use super::failing::{self, Failed, cause, failed, in_child, said, save_points};
use super::{Check, Hit, Kind, Severity, Source};
use crate::guard::evidence::Evidence;
use crate::guard::evidence::log::{KernelClass, LogClass};

pub const CHILD_OOM_KILLED: Check = Check {
    id: "child-oom-killed",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Log, Source::Cgroup, Source::KernelLog],
    when: |e| {
        let (risen, line) = (kills_risen(e), oom_line(e));
        match (killed(e), line, risen) {
            (Some(said), Some(line), _) => cause(&format!("{said}; {line}")),
            (Some(said), None, Some(n)) if e.seen.oom_kills_before.is_some() => {
                cause(&format!("{said}; the memory controller killed {n} more in this incident"))
            }
            // The kernel's log can be read, and does not know of this child.
            (Some(_), None, _) if child(e).is_some() && e.host.kernel.known().is_some() => None,
            (Some(said), None, Some(n)) => {
                Hit::likely(format!("{said}; the memory controller has killed {n} so far"))
            }
            (None, _, Some(n)) if failed(e) == Failed::Somewhere && e.seen.oom_kills_before.is_some() => {
                Hit::likely(format!("the memory controller killed {n} more in this incident"))
            }
            _ => None,
        }
    },
    what: "The kernel killed the saving child for want of memory.",
    why: "Without protection the next kill may as well hit the server itself.",
    cure: "Raise the memory limit, and set oom-score-adj yes so that the child dies before the server.",
    explain: "While a child saves, each page that is written exists twice. When the control group or the \
              host has no more, the kernel kills the process with the worst score, and parent and child \
              look alike to it: with the default settings it was the server that died. oom-score-adj yes \
              (6.0.7 and later, settable while running) makes the child the victim. That protects the \
              server; the save still needs the memory. Do not try again and again under a tight limit, \
              each try is a chance to lose the server.",
    source: "server.c:setOOMScoreAdj; cgroup-v2 memory.events oom_kill; proc(5) oom_score_adj",
};

fn killed(e: &Evidence) -> Option<&str> {
    said(e).filter(|line| line.class == LogClass::Signal(9)).map(|line| line.text.as_str())
}

/// The child whose end is in question, where the kernel counts processes as the server does.
fn child(e: &Evidence) -> Option<u32> {
    e.host.saver.get().filter(|_| e.host.process.container.is(false))
}

/// A kill of that very child; where it cannot be told apart, of any server.
fn oom_line(e: &Evidence) -> Option<&str> {
    let own = child(e).map(|pid| format!("rocess {pid} "));
    let is_it = |text: &str| own.as_ref().is_none_or(|own| text.contains(own));
    let mut lines = e.host.kernel.known()?.iter().rev();
    lines.find(|l| l.class == KernelClass::OomKill && is_it(&l.text)).map(|l| l.text.as_str())
}

/// Kills since the incident began; without that record those ever. None: none.
fn kills_risen(e: &Evidence) -> Option<u64> {
    let now = e.host.cgroup.oom_kills.get()?;
    Some(now.saturating_sub(e.seen.oom_kills_before.unwrap_or(0))).filter(|n| *n > 0)
}

pub const CHILD_KILLED: Check = Check {
    id: "child-killed",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Log],
    when: |e| {
        let line = said(e)?;
        match line.class {
            LogClass::Signal(4 | 6 | 7 | 8 | 11 | 25) => None,
            LogClass::Signal(9) if (CHILD_OOM_KILLED.when)(e).is_some() => None,
            LogClass::Signal(_) => cause(&line.text),
            _ => None,
        }
    },
    what: "Somebody or something killed the saving child.",
    why: "One killed save is enough for the server to refuse writes.",
    cure: "Save again, and find out who sends signals to children of the server.",
    explain: "Signal 9 without a trace of the kernel's OOM killer is a person, a script, a watchdog or a \
              container runtime that ends processes it does not know. Sometimes it is the OOM killer after \
              all: of another control group, or of the host, whose log bgsafe may not read. If a second \
              save succeeds, nothing is left to repair.",
    source: "rdb.c:backgroundSaveDoneHandlerDisk; signal(7)",
};

pub const CHILD_CRASHED: Check = Check {
    id: "child-crashed",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Log],
    when: |e| match said(e)?.class {
        LogClass::Signal(4 | 6 | 7 | 8 | 11) => cause(&said(e)?.text),
        _ => None,
    },
    what: "The saving child crashed.",
    why: "It reads the same memory as the server, so the next save and SAVE itself may crash as well.",
    cure: "Move the data to a replica that can save, then test the memory of this host and update the \
           server.",
    explain: "A crash while writing the dump means damaged data in memory: faulty RAM, a bug of the server \
              or of a module. Never fall back to SAVE here, it would take the server down with it. The \
              server's log holds a bug report with a stack; redis-server --test-memory and the kernel's \
              log say whether the RAM is to blame.",
    source: "debug.c:sigsegvHandler; redis/redis#2146, redis/redis#9635, valkey-io/valkey#2322",
};

pub const CHILD_HUNG: Check = Check {
    id: "child-hung",
    kind: Kind::Danger,
    severity: Severity::Warn,
    needs: &[Source::Info, Source::Process],
    when: |e| {
        let running = e.server.current_save_secs.get().filter(|_| e.look.saving.is(true))?;
        let usual = e.server.last_save_secs.get();
        let waits =
            e.host.process.children.is_and(|children| children.iter().any(|(_, state)| *state == 'D'));
        let stopped =
            e.host.process.children.is_and(|children| children.iter().any(|(_, state)| *state == 'T'));
        let long = running > usual.unwrap_or(0).saturating_mul(10).max(HUNG_SECS);
        let started = e.server.save_keys_done.is_and(|done| *done == 0) && running > 120;
        let how = match (waits, stopped) {
            _ if !long && !started && !(running > 60 && (waits || stopped)) => return None,
            (true, _) => "; it waits for a disk (state D)",
            (_, true) => "; it is stopped (state T)",
            (false, false) if started => "; it has not saved one key",
            (false, false) => "",
        };
        let usual = usual.map(|secs| format!(", the last save took {secs} s")).unwrap_or_default();
        in_child(e, false, format!("a save runs for {running} s{usual}{how}"))
    },
    what: "A save runs for much longer than it should.",
    why: "Only one child runs at a time, so no other save can begin while it hangs.",
    cure: "Wait for the disk, or end the child with SIGUSR1, which leaves the server's status as it is.",
    explain: "A child in state D waits for a disk or an NFS server and cannot be ended before that \
              answers. SIGUSR1 is the signal that Redis itself uses to give a child up; SIGTERM is \
              ignored, SIGKILL counts as a failed save. Valkey 8.1 and later have BGSAVE CANCEL. A save of \
              a very large data set on a slow disk takes long without being hung: compare with how long \
              the last one took.",
    source: "rdb.c:killRDBChild; valkey: BGSAVE CANCEL; valkey-io/valkey#2322",
};

/// No save that was ever timed was shorter than a tenth of it: then it is hung after this.
const HUNG_SECS: u64 = 1800;

pub const DEAD_END: Check = Check {
    id: "dead-end",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Info, Source::Config],
    when: |e| {
        let first = e.seen.failures <= 1 && failed(e) == Failed::Somewhere;
        let idle = e.look.saving.is(false) && e.look.save_ok.is(false);
        let points = save_points(e).filter(|points| !points.is_empty())?;
        let changes = e.look.changes.get()?;
        let fewest = points.iter().map(|(_, changes)| *changes).min()?;
        match first && idle && changes < fewest {
            true => Hit::likely(format!(
                "one save failed, {changes} changes since, and no save point asks for less than {fewest}"
            )),
            false => None,
        }
    },
    what: "One save failed, nothing is wrong any more, and the server will never try again.",
    why: "It saves again only after enough changes, and it refuses every change.",
    cure: "Run BGSAVE once; if it succeeds, writes are open again by themselves.",
    explain: "The refusal is a state, not an event: one failed save sets a flag, and only a good save to \
              disk takes it back. A save point fires when enough changed, but nothing changes while writes \
              are refused. So a manual BGSAVE or a replica's full sync that failed on a quiet server \
              leaves it refusing for ever, with a healthy disk and plenty of memory. A single BGSAVE ends \
              it. A save point with 0 changes would prevent it.",
    source: "server.c:serverCron, server.c:writeCommandsDeniedByDiskError",
};

pub const UNKNOWN: Check = Check {
    id: "unknown",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Info],
    when: |e| match failing::rdb(e) {
        true => match said(e) {
            Some(line) => Hit::likely(format!("the newest line of the log says: {}", line.text)),
            None => Hit::likely("the last save failed, and nothing that could be seen says why"),
        },
        false => None,
    },
    what: "Saving fails, and what bgsafe could see does not say why.",
    why: "Until a save succeeds the server refuses writes, or goes on unsaved.",
    cure: "Read the server's log for the line of the failed save.",
    explain: "INFO tells that a save failed, never why; the errno stands in the server's log and nowhere \
              else. Run bgsafe doctor on the server's host, as root or as the server's user, so that it \
              can read the log, /proc/PID, the control group and the data directory. What it could not see \
              stands at the end of its report.",
    source: "rdb.c:backgroundSaveDoneHandlerDisk",
};
