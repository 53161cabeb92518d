//! What INFO persistence tells of the append-only file, beside `aof_last_write_status`, which alone proves nothing:
//! it reads `ok` from the moment the file is opened anew (`aof.c:startAppendOnly`).
//!
//! Refuses to know: what follows from it ([`crate::guard::aof`]).

use super::fact::{Fact, flag, number, status};

/// See the module's page.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AofSigns {
    /// It is on, or waits for its first rewrite to be.
    pub enabled: Fact<bool>,
    /// Bytes that are accepted and not written; told only while it is on.
    pub unwritten: Fact<u64>,
    /// A rewrite runs.
    pub rewriting: Fact<bool>,
    /// One will, by itself.
    pub scheduled: Fact<bool>,
    /// The newest rewrite worked.
    pub rewrite_ok: Fact<bool>,
    /// Rewrites that failed in a row (7.0+).
    pub failures: Fact<u64>,
}

impl AofSigns {
    pub(super) fn read_field(&mut self, key: &str, value: &str) {
        match key {
            "aof_enabled" => self.enabled = flag(value),
            "aof_buffer_length" => self.unwritten = number(value),
            "aof_rewrite_in_progress" => self.rewriting = flag(value),
            "aof_rewrite_scheduled" => self.scheduled = flag(value),
            "aof_last_bgrewrite_status" => self.rewrite_ok = status(value),
            "aof_rewrites_consecutive_failures" => self.failures = number(value),
            _ => {}
        }
    }

    /// A rewrite runs or will.
    pub fn busy(&self) -> bool {
        self.rewriting.is(true) || self.scheduled.is(true)
    }
}
