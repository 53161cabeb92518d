//! Remedies in the data directory.
//!
//! Refuses to know: how a change is made safe; the host checks again. Invariants: owner and mode change on exactly the
//! data directory, never on one that the system shares; nothing is removed but temporary dumps proved dead.

use std::path::Path;

use super::{Change, Consent, Plan, Proof, Reach, Remedy, Step};
use crate::guard::evidence::{Evidence, Healthy};
use crate::guard::finding::{break_in, failing::since};

pub const ROWS: &[Remedy] = &[
    dead_temps("disk-full"),
    dead_temps("disk-headroom"),
    dead_temps("inodes-full"),
    Remedy {
        finding: "dir-permission",
        does: "give the data directory its recorded owner and mode back",
        reach: Reach::Filesystem,
        needs: "root, and a record of the healthy time",
        survives: true,
        undo: "the owner and mode before are set again",
        consent: Consent::Auto,
        proof: Proof::Save,
        plan: restore_rights,
    },
    Remedy {
        finding: "dir-permission",
        does: "give the data directory to the server's user",
        reach: Reach::Filesystem,
        needs: "root",
        survives: true,
        undo: "the owner and mode before are set again",
        consent: Consent::Ask,
        proof: Proof::Save,
        plan: give,
    },
    Remedy {
        finding: "dir-missing",
        does: "make the data directory again and tell the server",
        reach: Reach::Filesystem,
        needs: "root, CONFIG SET dir, and a record of the healthy time",
        survives: true,
        undo: "the empty directory may be removed",
        consent: Consent::Auto,
        proof: Proof::Save,
        plan: |e| {
            let (Some(pid), Some(healthy)) = (e.host.pid.get(), e.healthy.as_ref()) else {
                return Plan::NotHere;
            };
            let (Some((uid, gid)), Some(mode)) = (healthy.owner, healthy.mode) else { return Plan::NotHere };
            if break_in(e) || !may_set_dir(e) || !is_data_dir(Path::new(&healthy.dir)) {
                return Plan::NotHere;
            }
            let dir = Path::new(&healthy.dir).to_path_buf();
            Plan::Steps(vec![
                Step::Host(Change::MakeDir { pid, dir, uid, gid, mode }),
                Step::Config { name: "dir", value: healthy.dir.clone() },
            ])
        },
    },
    Remedy {
        finding: "dir-missing",
        does: "tell the server its recorded directory again",
        reach: Reach::Redis,
        needs: "CONFIG SET dir, a record of the healthy time, and the directory to be there again",
        survives: false,
        undo: "nothing to undo: the directory before is gone",
        consent: Consent::Auto,
        proof: Proof::Save,
        plan: |e| match e.healthy.as_ref().filter(|healthy| healthy.dir.starts_with('/')) {
            Some(healthy) if !break_in(e) && may_set_dir(e) => {
                Plan::Steps(vec![Step::Config { name: "dir", value: healthy.dir.clone() }])
            }
            _ => Plan::NotHere,
        },
    },
];

const fn dead_temps(finding: &'static str) -> Remedy {
    Remedy {
        finding,
        does: "remove temporary dumps of dead saves",
        reach: Reach::Filesystem,
        needs: "the server's user or root",
        survives: true,
        undo: "none: they were useless parts of dumps",
        consent: Consent::Auto,
        proof: Proof::Save,
        plan: |e| {
            let place = &e.host.place;
            let (Some(pid), Some(dir), Some(temps)) =
                (e.host.pid.get(), place.dir.known(), place.dead_temps.known())
            else {
                return Plan::NotHere;
            };
            let names: Vec<String> =
                temps.iter().map(|temp| temp.name.clone()).filter(|name| is_temp(name)).collect();
            match names.is_empty() || place.deleted.is(true) {
                true => Plan::NotHere,
                false => {
                    Plan::Steps(vec![Step::Host(Change::RemoveDeadTemps { pid, dir: dir.clone(), names })])
                }
            }
        },
    }
}

/// As `rdb.c:rdbSave` and `aof.c:rewriteAppendOnlyFile` name them.
fn is_temp(name: &str) -> bool {
    name.starts_with("temp-") && (name.ends_with(".rdb") || name.ends_with(".aof")) && !name.contains('/')
}

/// May this client set `dir`? Refused by default from 7.0 on (`config.c:allowProtectedAction`).
pub fn may_set_dir(e: &Evidence) -> bool {
    match e.server.protected_configs.known().map(String::as_str) {
        Some("no") => false,
        Some(_) => true,
        None => !since(e, 7, 0, 0),
    }
}

/// Absolute, and not a directory that the system shares.
pub fn is_data_dir(dir: &Path) -> bool {
    const SHARED: [&str; 6] = ["/var/lib", "/var/log", "/var/run", "/var/tmp", "/usr/local", "/dev/shm"];
    const OF_THE_SYSTEM: [&str; 9] =
        ["/etc", "/usr", "/bin", "/sbin", "/lib", "/boot", "/proc", "/sys", "/root"];
    // A mount of its own directly below the root is what containers have (/data); /home is not one.
    const TOP: [&str; 9] = ["/", "/home", "/var", "/tmp", "/opt", "/srv", "/mnt", "/run", "/dev"];
    let climbs = dir.components().any(|part| part.as_os_str() == "..");
    // Somebody's home, and what may be below it, are different things.
    let home = dir.parent() == Some(Path::new("/home"));
    dir.is_absolute()
        && !home
        && !climbs
        && !SHARED.iter().chain(&TOP).any(|shared| dir == Path::new(shared))
        && !OF_THE_SYSTEM.iter().any(|system| dir.starts_with(system) && !dir.starts_with("/usr/local"))
}

fn restore_rights(e: &Evidence) -> Plan {
    let Some(Healthy { dir, owner: Some(owner), mode: Some(mode), .. }) = e.healthy.as_ref() else {
        return Plan::NotHere;
    };
    // Another directory than the one recorded has no rights that we know.
    if e.host.place.dir.known().is_none_or(|now| now != Path::new(dir)) {
        return Plan::NotHere;
    }
    rights(e, Some(*owner), Some(*mode))
}

fn give(e: &Evidence) -> Plan {
    let process = &e.host.process;
    let (Some(uid), Some(gid)) = (process.uid.get(), process.gid.get()) else { return Plan::NotHere };
    // The owner needs to read, write and enter.
    rights(e, Some((uid, gid)), e.host.place.mode.get().map(|mode| mode | 0o700))
}

/// What of these is not so yet.
fn rights(e: &Evidence, owner: Option<(u32, u32)>, mode: Option<u32>) -> Plan {
    let place = &e.host.place;
    let (Some(pid), Some(dir)) = (e.host.pid.get(), place.dir.known()) else { return Plan::NotHere };
    if place.deleted.is(true) || !place.writable.is(false) || !is_data_dir(dir) || e.host.root.is(false) {
        return Plan::NotHere;
    }
    let owner = owner.filter(|owner| place.owner.get().is_none_or(|now| now != *owner));
    let mode = mode.filter(|mode| place.mode.get().is_none_or(|now| now != *mode));
    let chown = owner.map(|(uid, gid)| Change::Chown { pid, dir: dir.clone(), uid, gid });
    let chmod = mode.map(|mode| Change::Chmod { pid, dir: dir.clone(), mode: mode & 0o7777 });
    let steps: Vec<Step> = chown.into_iter().chain(chmod).map(Step::Host).collect();
    if steps.is_empty() { Plan::NotHere } else { Plan::Steps(steps) }
}
