//! Bytes left after the next save. Stand-in.

use crate::guard::evidence::Evidence;

/// Bytes left; negative: it will fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headroom {
    /// Of the data directory's filesystem.
    pub disk: Option<i64>,
    /// Of the host's memory.
    pub memory: Option<i64>,
    /// Of the control group's.
    pub cgroup: Option<i64>,
    /// Of the commit limit.
    pub commit: Option<i64>,
}

impl Headroom {
    /// Each resource, by the name of its metric's label.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, Option<i64>)> {
        [("disk", self.disk), ("memory", self.memory), ("cgroup", self.cgroup), ("commit", self.commit)]
            .into_iter()
    }
}

/// See [`Headroom`].
pub fn headroom(_: &Evidence) -> Headroom {
    Headroom::default()
}
