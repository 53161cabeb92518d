//! May a process create files in a directory? By owner, mode and capabilities (`namei.c:generic_permission`).
//!
//! Refuses to know: where the numbers come from. Invariant: where something else than these decides (an access
//! control list, another host), the answer is not given.

/// Overrides every mode, of files whose owners its user namespace knows (`capability.h`).
const CAP_DAC_OVERRIDE: u64 = 1 << 1;
/// Write, and search.
const WX: u32 = 0o3;

/// Who wants to.
#[derive(Clone, Debug)]
pub struct Who {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Effective capabilities.
    pub caps: u64,
}

/// Where.
#[derive(Clone, Copy, Debug)]
pub struct Where {
    /// Owner and group.
    pub owner: (u32, u32),
    /// Permission bits.
    pub mode: u32,
    /// Its user namespace knows both, so that capabilities count.
    pub mapped: bool,
    /// It has an access control list: then the group's bits are its mask.
    pub has_list: bool,
    /// Another machine, or a program, has the last word.
    pub foreign: bool,
}

/// `None`: these numbers do not decide it.
pub fn may_create(who: &Who, at: Where) -> Option<bool> {
    let (uid, gid) = at.owner;
    let has = |shift: u32| (at.mode >> shift) & WX == WX;
    let overrides = who.caps & CAP_DAC_OVERRIDE != 0 && at.mapped;
    let by_mode = match who.uid == uid {
        true => Some(has(6)),
        false if at.has_list => None,
        false if who.gid == gid || who.groups.contains(&gid) => Some(has(3)),
        false => Some(has(0)),
    };
    match (by_mode, overrides) {
        // A server of files may know root as nobody.
        (Some(true), _) if at.foreign && who.uid == 0 => None,
        (Some(true), _) => Some(true),
        (_, true) if at.foreign => None,
        (_, true) => Some(true),
        (by_mode, false) => by_mode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_then_group_then_others_and_capabilities_over_all() {
        let who = |uid, gid, groups: &[u32], caps| Who { uid, gid, groups: groups.to_vec(), caps };
        let at = |owner, mode| Where { owner, mode, mapped: true, has_list: false, foreign: false };
        let redis = who(9, 9, &[30], 0);
        let root = who(0, 0, &[], !0);
        let bare_root = who(0, 0, &[], !CAP_DAC_OVERRIDE);
        for (name, who, at, expected) in [
            ("its own directory", &redis, at((9, 9), 0o750), Some(true)),
            ("its own, without w", &redis, at((9, 9), 0o577), Some(false)),
            ("its own, without x", &redis, at((9, 9), 0o600), Some(false)),
            ("the owner's bits bind even where others have more", &redis, at((9, 9), 0o077), Some(false)),
            ("root's", &redis, at((0, 0), 0o755), Some(false)),
            ("its group's", &redis, at((0, 9), 0o770), Some(true)),
            ("a supplementary group's", &redis, at((0, 30), 0o770), Some(true)),
            ("its group's bits bind even where others have more", &redis, at((0, 9), 0o707), Some(false)),
            ("everybody's", &redis, at((0, 0), 0o1777), Some(true)),
            ("others may write but not search", &redis, at((0, 0), 0o772), Some(false)),
            ("anything, for root", &root, at((9, 9), 0), Some(true)),
            ("nothing, for root without the capability", &bare_root, at((9, 9), 0o700), Some(false)),
            (
                "an owner unknown to root's namespace",
                &root,
                Where { mapped: false, ..at((9, 9), 0o700) },
                Some(false),
            ),
            ("a list decides for a stranger", &redis, Where { has_list: true, ..at((0, 0), 0o770) }, None),
            (
                "a list does not bind the owner",
                &redis,
                Where { has_list: true, ..at((9, 9), 0o700) },
                Some(true),
            ),
            ("a list does not bind root", &root, Where { has_list: true, ..at((9, 9), 0o700) }, Some(true)),
            ("root over NFS", &root, Where { foreign: true, ..at((9, 9), 0o700) }, None),
            ("root's own over NFS", &root, Where { foreign: true, ..at((0, 0), 0o700) }, None),
            ("its own over NFS", &redis, Where { foreign: true, ..at((9, 9), 0o700) }, Some(true)),
        ] {
            assert_eq!(may_create(who, at), expected, "{name}");
        }
    }
}
