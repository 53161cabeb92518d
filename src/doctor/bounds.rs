//! What `--fix` must not do: anything at all, or the one save that would prove something.
//!
//! Refuses to know: what would be done else. Invariant: only what is seen now forbids; what an old line of a log says may
//! be over.

use crate::cli::paint::bytes;
use crate::guard::evidence::Evidence;
use crate::guard::evidence::host::Dump;
use crate::guard::finding::{BREAK_IN, Found, Headroom, break_in, headroom};

/// Why nothing may be touched now.
pub(super) fn forbidden(e: &Evidence, found: &[Found]) -> Option<&'static str> {
    if break_in(e) || found.iter().any(|f| f.check.id == BREAK_IN) {
        return Some(
            "signs of a break-in: nothing is changed and nothing is saved, because a save is what the intruder \
             waits for; keep the evidence, close the hole, then decide by hand",
        );
    }
    e.look.loading.is(true).then_some("the data set is still being loaded: nothing is changed; come again")
}

/// Findings for which one more save is a danger of its own.
const NO_BARE_SAVE: [&str; 3] = ["child-oom-killed", "child-crashed", "child-hung"];

/// Why one more save would harm, or cannot succeed.
pub(super) fn hopeless(e: &Evidence, found: &[Found]) -> Option<String> {
    if let Some(danger) = found.iter().find(|f| NO_BARE_SAVE.contains(&f.check.id)) {
        return Some(format!("{}: {}", danger.check.id, danger.check.cure));
    }
    let place = &e.host.place;
    for (sure, why) in [
        (place.deleted.is(true) || e.look.dir.is(String::new()), "the server's directory was deleted"),
        (place.read_only.is(true), "the server sees its directory on a read-only filesystem"),
        (place.dump.is(Dump::NotAFile), "what stands where the dump belongs cannot be replaced by a file"),
    ] {
        if sure {
            return Some(format!("{why}; cure that first"));
        }
    }
    let Headroom { disk, cgroup, .. } = headroom(e);
    let lacks = [(disk, "the disk"), (cgroup, "the control group")];
    let (lack, whose) =
        lacks.into_iter().find_map(|(left, whose)| Some((left.filter(|n| *n < 0)?, whose)))?;
    Some(format!("{whose} lacks {} for it; make room first", bytes(lack.unsigned_abs())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::evidence::Fact;

    #[test]
    fn nothing_is_touched_under_break_in_signs_or_while_loading() {
        let mut e = Evidence::default();
        assert_eq!(forbidden(&e, &[]), None);
        e.look.loading = Fact::Known(true);
        assert!(forbidden(&e, &[]).is_some_and(|why| why.contains("loaded")));
        e.look.dir = Fact::Known("/etc/cron.d".into());
        e.look.dbfilename = Fact::Known("dump.rdb".into());
        assert!(forbidden(&e, &[]).is_some_and(|why| why.contains("break-in")));
    }

    #[test]
    fn a_save_that_cannot_succeed_or_would_harm_is_not_tried() {
        let hopes = |change: fn(&mut Evidence)| {
            let mut e = Evidence::default();
            change(&mut e);
            hopeless(&e, &[])
        };
        assert_eq!(hopes(|_| ()), None);
        let says = |why: Option<String>, words: &str| {
            assert!(why.as_ref().is_some_and(|w| w.contains(words)), "{why:?}")
        };
        says(hopes(|e| e.look.dir = Fact::Known(String::new())), "deleted");
        says(hopes(|e| e.host.place.read_only = Fact::Known(true)), "read-only");
        says(hopes(|e| e.host.place.dump = Fact::Known(Dump::NotAFile)), "replaced");
        says(
            hopes(|e| {
                e.host.place.free = Fact::Known(10);
                let (size, uid, immutable) = (1000, 0, Fact::UNKNOWN);
                e.host.place.dump = Fact::Known(Dump::File { size, uid, immutable });
            }),
            "the disk lacks 1.1 KiB",
        );
        let check = crate::guard::finding::check("child-crashed").expect("a row");
        let hit = crate::guard::finding::Hit::sure("signal 11").expect("a hit");
        says(hopeless(&Evidence::default(), &[Found { check, hit }]), "child-crashed");
    }
}
