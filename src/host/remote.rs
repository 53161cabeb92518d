//! A host that we do not see: the server runs on another one, or this system is not Linux.
//!
//! Refuses to know: everything. Invariant: nothing is known and nothing is changed.

use crate::guard::evidence::HostFacts;
use crate::guard::remedy::Change;

use super::{Applied, Asked, Host, HostError};

/// See the module's page.
#[derive(Clone, Debug)]
pub struct Remote {
    why: String,
}

impl Remote {
    /// Everything is unknown, for this reason.
    pub fn new(why: &str) -> Self {
        Remote { why: why.into() }
    }
}

impl Host for Remote {
    fn facts(&self, _: &Asked) -> HostFacts {
        HostFacts::elsewhere(&self.why)
    }

    fn apply(&self, change: &Change) -> Result<Applied, HostError> {
        Err(HostError::Elsewhere(format!(
            "{}; by hand, where the server runs: {}",
            self.why,
            change.command()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::evidence::Reason;

    #[test]
    fn what_is_elsewhere_is_unknown_and_left_alone() {
        let remote = Remote::new("on another host");
        let facts = remote.facts(&Asked { local: true, ..Asked::default() });
        assert_eq!(facts.pid.reason(), Some(&Reason::Elsewhere("on another host".into())));
        assert_eq!(facts.place.free.known(), None);
        let refused = remote.apply(&Change::Overcommit { value: 1, keep: false }).unwrap_err();
        assert!(refused.to_string().contains("sysctl -w vm.overcommit_memory=1"), "{refused}");
    }
}
