//! What could not be seen, why, which checks are blind for it, and the least right that would change it.
//!
//! Refuses to know: how it is shown. Invariant: an option that this version of the server does not have is not
//! called unseen.

use serde::Serialize;

use super::words;
use crate::guard::evidence::{Evidence, Reason};
use crate::guard::finding::{self, CHECKS, Source};
use crate::guard::remedy::cli;

/// A source that told nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Unseen {
    /// Which: `info`, `config`, `clients`, `process`, `kernel`, `cgroup`, `directory`, `log`, `kernel-log`.
    pub(super) source: &'static str,
    /// In the words of who forbade it, or where it is.
    pub(super) why: String,
}

/// The blind spots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spots {
    pub(super) sources: Vec<Unseen>,
    /// Checks of which nothing that they ask was seen.
    pub(super) checks: Vec<&'static str>,
    /// What a human types to let us see; `None`: no right would help.
    pub(super) grant: Option<String>,
}

/// `info_denied`: the server's words against INFO; `user`: who we are to it.
pub(super) fn spots(e: &Evidence, info_denied: Option<&String>, user: &str) -> Spots {
    let dark = finding::unseen(e);
    let mut rights = Vec::new();
    let mut sources = Vec::new();
    for (source, told) in &dark {
        let why = why(*source, told, e, info_denied);
        if why.contains("NOPERM") {
            rights.extend(right(*source));
        }
        sources.push(Unseen { source: words::source(*source), why });
    }
    let is_dark = |need: &Source| dark.iter().any(|(source, _)| source == need);
    let blind = CHECKS.iter().filter(|check| check.needs.iter().all(is_dark));
    let grant =
        (!rights.is_empty()).then(|| format!("{} ACL SETUSER {user} {}", cli(&e.address), rights.join(" ")));
    Spots { sources, checks: blind.map(|check| check.id).collect(), grant }
}

/// What it takes to be told, of the least-privilege user's rights.
fn right(source: Source) -> Option<&'static str> {
    match source {
        Source::Info => Some("+info"),
        Source::Config => Some("'+config|get'"),
        Source::Clients => Some("'+client|list'"),
        Source::Process
        | Source::Kernel
        | Source::Cgroup
        | Source::Place
        | Source::Log
        | Source::KernelLog => None,
    }
}

/// Where the evidence alone says "not told", we may know better.
fn why(source: Source, told: &str, e: &Evidence, info_denied: Option<&String>) -> String {
    let untold = told == Reason::NotTold.to_string();
    match (source, info_denied) {
        (Source::Info, Some(denied)) if untold => Reason::Denied(denied.clone()).to_string(),
        // Clients are listed only when INFO says that they are few enough.
        (Source::Clients, Some(denied)) if untold => format!("not asked, as INFO is denied: {denied}"),
        (Source::Clients, None) if untold => match e.server.clients.get() {
            Some(n) => format!("not asked: {n} clients are too many to list"),
            None => "not asked: INFO does not tell how many there are".into(),
        },
        _ => told.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::evidence::{Fact, HostFacts};

    #[test]
    fn the_right_that_is_missing_is_named_and_no_other() {
        let mut e = Evidence { address: "127.0.0.1:6379".into(), ..Evidence::default() };
        e.look.save_ok = Fact::Known(true);
        e.server.sentinels = Fact::Known(0);
        e.look.knob = Fact::Unknown(Reason::Denied("NOPERM no 'config|get'".into()));
        e.host = HostFacts::elsewhere("another machine");
        let spots = spots(&e, None, "me");
        assert_eq!(
            spots.grant.as_deref(),
            Some("redis-cli -h 127.0.0.1 -p 6379 ACL SETUSER me '+config|get'")
        );
        assert_eq!(spots.sources[0].source, "config");
        assert!(spots.sources[1..].iter().all(|s| s.why == "out of sight: another machine"));
        assert_eq!(spots.sources.len(), 7);
    }

    #[test]
    fn a_command_that_was_taken_away_is_given_back_by_no_right() {
        let mut e = Evidence::default();
        e.look.knob = Fact::Unknown(Reason::Denied("ERR unknown command 'CONFIG'".into()));
        let spots = spots(&e, Some(&"ERR unknown command 'INFO'".into()), "default");
        assert_eq!(spots.grant, None);
        assert!(spots.sources.iter().any(|s| s.source == "info" && s.why.contains("unknown command")));
    }
}
