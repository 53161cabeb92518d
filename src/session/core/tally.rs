//! What happened in a conversation since its shell last looked.

use crate::command::Class;
use crate::posture::Form;

use super::Degraded;

/// A run of requests answered together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Their class.
    pub class: Class,
    /// From request to reply, in microseconds.
    pub micros: u32,
    /// How many.
    pub n: u32,
}

/// What happened since the shell last looked.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub struct Tally {
    /// Requests, by class.
    pub requests: [u32; Class::ALL.len()],
    /// Refusals, by form.
    pub refusals: [u32; Form::ALL.len()],
    /// Commands that began to be held.
    pub held: u64,
    /// Held commands that were sent (again).
    pub released: u64,
    /// Held commands whose time ran out.
    pub timed_out: u64,
    /// Held commands whose client left, or whose server did.
    pub abandoned: u64,
    /// Commands that would have been held had there been room.
    pub over_budget: u64,
    /// Requests sent a second time.
    pub replays: u64,
    /// Loss of count.
    pub degraded: Option<Degraded>,
    /// Latencies of answered requests.
    pub runs: Vec<Run>,
}

impl Tally {
    /// Anything beyond requests and their latencies.
    #[inline]
    pub fn has_incident(&self) -> bool {
        let ends =
            self.held | self.released | self.timed_out | self.abandoned | self.over_budget | self.replays;
        ends != 0 || self.degraded.is_some() || self.refusals != [0; Form::ALL.len()]
    }
}
