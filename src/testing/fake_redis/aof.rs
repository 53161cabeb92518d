//! The append-only file of the fake: a failed sync that sticks, a file that is opened anew and waits for its first
//! rewrite while its status says `ok`. After `aof.c:startAppendOnly`, `stopAppendOnly` and
//! `backgroundRewriteDoneHandler` of 7.0.
//!
//! Refuses to know: bytes on a disk.

use super::{Child, FakeRedis};

/// Between a rewrite that failed and the next that the server starts by itself.
const AGAIN_MS: u64 = 1000;

/// See the module's page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aof {
    /// `appendonly`.
    pub on: bool,
    /// fsync fails now, and rewrites with it.
    pub sync_fails: bool,
    /// A rewrite clears a failed sync here: 6.2, and 7.2 or later.
    pub rewrite_clears: bool,
    /// `appendonly yes` was accepted, and nothing is persisted until a rewrite ends well (`AOF_WAIT_REWRITE`).
    pub waits: bool,
    /// The newest sync failed.
    pub sync_failed: bool,
    /// Writes that ran while nothing persisted them, on every connection.
    pub bare: u64,
    /// CONFIG SET appendonly no, so often.
    pub switched_off: u64,
    /// Rewrites asked for by BGREWRITEAOF.
    pub asked: u64,
    pub(super) scheduled: bool,
    pub(super) rewrite_ok: bool,
    pub(super) failures: u64,
    pub(super) not_before: u64,
}

impl Default for Aof {
    fn default() -> Self {
        Aof {
            on: true,
            sync_fails: false,
            rewrite_clears: false,
            waits: false,
            sync_failed: false,
            bare: 0,
            switched_off: 0,
            asked: 0,
            scheduled: false,
            rewrite_ok: true,
            failures: 0,
            not_before: 0,
        }
    }
}

impl FakeRedis {
    /// Does the append-only file refuse writes? While it waits for its first rewrite its status is `ok`.
    pub(super) fn aof_refuses(&self) -> bool {
        self.aof.on && !self.aof.waits && (self.faults.aof || self.aof.sync_failed)
    }

    /// Something was written.
    pub(super) fn appended(&mut self) {
        let aof = &mut self.aof;
        match aof.on && !aof.waits {
            true => aof.sync_failed = aof.sync_fails,
            false => aof.bare += 1,
        }
    }

    /// A key expires: bytes for the file, whatever is refused.
    pub fn expire(&mut self) {
        self.appended();
    }

    /// BGREWRITEAOF.
    pub(super) fn bgrewriteaof(&mut self, now: u64) -> &'static str {
        if matches!(self.child, Some(Child::Rewrite { .. })) {
            return "-ERR Background append only file rewriting already in progress\r\n";
        }
        self.aof.asked += 1;
        if self.child.is_some() {
            self.aof.scheduled = true;
            return "+Background append only file rewriting scheduled\r\n";
        }
        match self.fork_rewrite(now) {
            true => "+Background append only file rewriting started\r\n",
            false => {
                "-ERR Can't execute an AOF background rewriting. Please check the server logs for more information.\r\n"
            }
        }
    }

    fn fork_rewrite(&mut self, now: u64) -> bool {
        if self.faults.fork {
            self.rewrite_ended(now, false);
            return false;
        }
        self.aof.scheduled = false;
        self.child = Some(Child::Rewrite { until: now + self.save_ms });
        true
    }

    /// serverCron: what was scheduled begins when no child runs.
    pub(super) fn cron_rewrite(&mut self, now: u64) {
        if self.aof.scheduled && self.child.is_none() && now >= self.aof.not_before {
            self.fork_rewrite(now);
        }
    }

    /// A child that rewrites has ended.
    pub(super) fn rewrite_ended(&mut self, now: u64, forked: bool) {
        let well = forked && !self.aof.sync_fails && !self.faults.aof && !self.faults.disk;
        let aof = &mut self.aof;
        aof.rewrite_ok = well;
        match well {
            true => {
                (aof.failures, aof.waits, aof.scheduled) = (0, false, false);
                aof.sync_failed &= !aof.rewrite_clears;
            }
            false => {
                aof.failures += u64::from(forked);
                aof.scheduled |= aof.waits;
                aof.not_before = now + AGAIN_MS;
            }
        }
    }

    /// CONFIG SET appendonly. Always scheduled, as in a transaction.
    pub(crate) fn set_aof(&mut self, on: bool) {
        match (self.aof.on, on) {
            (_, false) => {
                self.aof.switched_off += 1;
                (self.aof.on, self.aof.waits, self.aof.scheduled) = (false, false, false);
                if matches!(self.child, Some(Child::Rewrite { .. })) {
                    self.child = None;
                }
            }
            (false, true) => {
                let aof = &mut self.aof;
                (aof.on, aof.waits, aof.scheduled, aof.sync_failed) = (true, true, true, false);
            }
            (true, true) => {}
        }
    }
}
