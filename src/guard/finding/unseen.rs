//! What could not be seen, and why: an empty report must not pass for a good one.
//!
//! Refuses to know: what would have followed from it.

use super::Source;
use crate::guard::evidence::{Evidence, Fact, Reason};

/// The sources that said nothing, each with the reason.
pub fn unseen(e: &Evidence) -> Vec<(Source, String)> {
    let (look, server, host) = (&e.look, &e.server, &e.host);
    let process = reason(&host.pid).or(reason(&host.process.uid));
    // Without the process nothing of the host is looked at, and its reason is theirs.
    let behind = |own: Option<&Reason>| match (own, reason(&host.pid)) {
        (Some(Reason::NotTold), Some(why)) => Some(why.clone()),
        (own, _) => own.cloned(),
    };
    let rows = [
        (Source::Info, reason(&look.save_ok).cloned()),
        (Source::Config, reason(&look.knob).cloned()),
        (Source::Clients, reason(&server.sentinels).cloned()),
        (Source::Process, process.cloned()),
        (Source::Kernel, behind(reason(&host.memory.overcommit))),
        (Source::Cgroup, behind(reason(&host.cgroup.version))),
        (Source::Place, behind(reason(&host.place.free).or(reason(&host.place.dead_temps)))),
        (Source::Log, behind(reason(&host.log))),
        (Source::KernelLog, behind(reason(&host.kernel))),
    ];
    rows.into_iter().filter_map(|(source, why)| why.map(|why| (source, why.to_string()))).collect()
}

fn reason<T>(fact: &Fact<T>) -> Option<&Reason> {
    fact.reason()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::evidence::HostFacts;

    #[test]
    fn a_server_elsewhere_gives_its_reason_for_all_of_its_host() {
        let e = Evidence { host: HostFacts::elsewhere("db1 is another host"), ..Evidence::default() };
        let unseen = unseen(&e);
        assert_eq!(unseen.len(), 9);
        for (source, why) in &unseen {
            let host = *source >= Source::Process;
            assert_eq!(
                why,
                if host { "out of sight: db1 is another host" } else { "not told" },
                "{source:?}"
            );
        }
    }
}
