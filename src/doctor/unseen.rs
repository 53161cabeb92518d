//! What could not be seen, why, which checks are blind for it, and the least right that would change it.
//!
//! Refuses to know: how it is shown. Invariant: an option that this version of the server does not have is not
//! called unseen.

use serde::Serialize;

use super::gather::reason;
use super::words;
use crate::guard::evidence::fact::Reason;
use crate::guard::evidence::{Evidence, Fact};
use crate::guard::finding::{CHECKS, Source};
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
    let mut sources = Vec::new();
    let mut dark = Vec::new();
    let mut rights = Vec::new();
    for (source, why, right) in asked(e, info_denied) {
        let Some(why) = why else { continue };
        if why.contains("NOPERM") && !right.is_empty() {
            rights.push(right);
        }
        dark.push(source);
        sources.push(Unseen { source: words::source(source), why });
    }
    let blind = CHECKS.iter().filter(|check| check.needs.iter().all(|need| dark.contains(need)));
    let grant =
        (!rights.is_empty()).then(|| format!("{} ACL SETUSER {user} {}", cli(&e.address), rights.join(" ")));
    Spots { sources, checks: blind.map(|check| check.id).collect(), grant }
}

/// Each source, why it told nothing if it did not, and the right that it takes.
fn asked(e: &Evidence, info_denied: Option<&String>) -> [(Source, Option<String>, &'static str); 9] {
    let host = &e.host;
    let pid = &host.pid;
    [
        (Source::Info, reason(&e.look.run_id, info_denied), "+info"),
        (Source::Config, reason(&e.look.knob, None), "+config|get"),
        (Source::Clients, clients(e, info_denied), "+client|list"),
        (Source::Process, of_host(&host.process.uid, pid), ""),
        (Source::Kernel, of_host(&host.memory.overcommit, pid), ""),
        (Source::Cgroup, of_host(&host.cgroup.version, pid), ""),
        (Source::Place, of_host(&host.place.dir, pid), ""),
        (Source::Log, of_host(&host.log, pid), ""),
        (Source::KernelLog, of_host(&host.kernel, pid), ""),
    ]
}

/// Who is connected is not asked where INFO does not tell how many they are, or tells too many.
fn clients(e: &Evidence, info_denied: Option<&String>) -> Option<String> {
    match (e.server.sentinels.reason()?, e.server.clients.get()) {
        (Reason::NotTold, Some(n)) => Some(format!("not asked: {n} clients are too many to list")),
        (Reason::NotTold, None) => Some(match info_denied {
            Some(why) => format!("not asked, as INFO is denied: {why}"),
            None => "not asked: INFO does not tell how many there are".into(),
        }),
        (reason, _) => Some(reason.to_string()),
    }
}

/// What is not told of the host is so because the process was not found, when it was not.
fn of_host<T>(fact: &Fact<T>, pid: &Fact<u32>) -> Option<String> {
    match (fact.reason()?, pid.reason()) {
        (Reason::NotTold, Some(why)) => Some(why.to_string()),
        (reason, _) => Some(reason.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::evidence::HostFacts;

    #[test]
    fn the_right_that_is_missing_is_named_and_no_other() {
        let mut e = Evidence { address: "127.0.0.1:6379".into(), ..Evidence::default() };
        e.look.run_id = Fact::Known("r".into());
        e.server.sentinels = Fact::Known(0);
        e.look.knob = Fact::Unknown(Reason::Denied("NOPERM no 'config|get'".into()));
        e.host = HostFacts::elsewhere("another machine");
        let spots = spots(&e, None, "me");
        assert_eq!(spots.grant.as_deref(), Some("redis-cli -h 127.0.0.1 -p 6379 ACL SETUSER me +config|get"));
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
