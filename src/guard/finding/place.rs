//! The directory of the dump: gone, not ours, immutable, read-only, forbidden by a security module, or not where it
//! ever was.
//!
//! Refuses to know: room on the disk. M §5.7 to §5.11.

use super::failing::{self, by_errno, cause, in_child, in_write, said, word};
use super::{Check, Hit, Kind, Severity, Source, break_in};
use crate::guard::evidence::Evidence;
use crate::guard::evidence::host::Dump;
use crate::guard::evidence::log::{Errno, KernelClass, LogClass};

pub const BREAK_IN_SIGNS: Check = Check {
    id: "break-in-signs",
    kind: Kind::Danger,
    severity: Severity::Crit,
    needs: &[Source::Config],
    when: |e| {
        if !break_in(e) {
            return None;
        }
        let was =
            e.healthy.as_ref().map(|h| format!("; it was {} / {}", h.dir, h.dbfilename)).unwrap_or_default();
        let says = format!("the snapshot goes to {} / {}{was}", word(&e.look.dir), word(&e.look.dbfilename));
        let kind = if failing::rdb(e) { Kind::Cause } else { Kind::Danger };
        Hit::sure(says).map(|hit| hit.kind(kind))
    },
    what: "The snapshot's target was moved to where only an intruder sends it.",
    why: "A save that succeeds there plants a cron job, a key for ssh or a module, so nothing is repaired \
          and nothing saved.",
    cure: "Cut the server off from the network, keep its state as evidence, and find out who could reach \
           it without a password.",
    explain: "An open Redis is taken over by CONFIG SET dir and dbfilename and a save into /etc/cron.d, \
              ~/.ssh or a web root. The failing save is often the first that anybody sees of it, because \
              the server may not write there. Setting dir back cures the error and hides the hole. Look at \
              the keys for lines of cron and ssh keys, at REPLICAOF, at loaded modules, then close the \
              port, set a password or ACL, and restore from a backup older than the intruder.",
    source: "redis/redis#3594, redis/redis#3710, redis/redis#5592; redis.conf: enable-protected-configs",
};

pub const DIR_MISSING: Check = Check {
    id: "dir-missing",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Config, Source::Place, Source::Log],
    when: |e| {
        if let Some(line) = said(e).filter(|line| line.class == LogClass::Open(Errno::Noent)) {
            return cause(&line.text);
        }
        let gone = e.host.place.deleted.is(true);
        match gone || e.look.dir.is(String::new()) {
            true if gone => in_child(e, true, format!("the server's directory {} was deleted", dir(e))),
            true => in_child(e, true, "CONFIG GET dir answers nothing: the directory was deleted".into()),
            false => None,
        }
    },
    what: "The server's data directory was deleted under it.",
    why: "The server stands in a directory that has no name any more, so no file can be created there.",
    cure: "Create the directory again with its old owner and tell the server with CONFIG SET dir; a \
           restart would lose what is unsaved.",
    explain: "Making the directory again is not enough: the process holds the deleted one, not the name. \
              CONFIG GET dir answers an empty string, /proc/PID/cwd ends in (deleted). CONFIG SET dir with \
              the true path cures it without a restart; from 7.0 on that needs enable-protected-configs. \
              Where it is refused, pull a snapshot with redis-cli --rdb first and restart then. SAVE and \
              the save at shutdown fail as well.",
    source: "config.c:getConfigDirOption, config.c:setConfigDirOption; rdb.c:rdbSave; getcwd(3)",
};

pub const DIR_PERMISSION: Check = Check {
    id: "dir-permission",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Log, Source::Place, Source::Process],
    when: dir_permission,
    what: "The server may not create or replace its dump in the data directory.",
    why: "A save writes a new file there and renames it over the old one, which asks for rights on the \
          directory.",
    cure: "Give exactly that directory to the server's user; never recursively, never mode 777.",
    explain: "\"Fix the permissions of dump.rdb\" is folklore: a read-only or foreign dump in a directory \
              that the server may write to is simply replaced. What matters is the directory. The \
              exceptions are a sticky directory (only the owner may replace a file), and a directory or \
              device where the dump belongs. Usual origins: somebody ran the server as root once, a volume \
              came with another owner, a container changed its user. On Kubernetes set fsGroup instead of \
              changing owners by hand.",
    source: "rdb.c:rdbSave; rename(2); path_resolution(7); bitnami/bitnami-docker-redis#220",
};

fn dir_permission(e: &Evidence) -> Option<Hit> {
    let place = &e.host.place;
    let owner = || {
        let owner = place.owner.get().map_or("unknown".into(), |(uid, gid)| format!("{uid}:{gid}"));
        let mode = place.mode.get().map_or("unknown".into(), |mode| format!("{mode:04o}"));
        format!(
            "{} has owner {owner} and mode {mode}, the server runs as {}",
            dir(e),
            word(&e.host.process.uid)
        )
    };
    if let Some(line) = said(e) {
        let fixed = place.immutable.is(true) || immutable_dump(e);
        match line.class {
            LogClass::Open(Errno::Acces) if place.writable.is(true) => return None,
            LogClass::Open(Errno::Acces) if place.writable.is(false) => {
                return cause(&format!("{}; {}", line.text, owner()));
            }
            LogClass::Open(Errno::Acces) => return Hit::likely(line.text.clone()),
            LogClass::Rename(Errno::Perm | Errno::Acces) if !fixed => return cause(&line.text),
            LogClass::Open(Errno::Isdir) | LogClass::Rename(Errno::Isdir) => return cause(&line.text),
            _ => {}
        }
    }
    // A directory that is gone is writable to nobody, and that is another finding.
    if place.deleted.is(true) {
        return None;
    }
    if place.writable.is(false) && !place.read_only.is(true) && !place.immutable.is(true) {
        return in_child(e, true, owner());
    }
    if place.dump.is(Dump::NotAFile) {
        let name = word(&e.look.dbfilename);
        return in_child(e, true, format!("{name} in {} is a directory or a device", dir(e)));
    }
    let uid = e.host.process.uid.get()?;
    let Dump::File { uid: of_dump, .. } = place.dump.known()? else { return None };
    let fowner = e.host.process.caps.get()? & CAP_FOWNER != 0;
    match place.mode.get()? & STICKY != 0 && *of_dump != uid && place.owner.get()?.0 != uid && !fowner {
        true => in_child(e, true, format!("{} is sticky and the dump belongs to uid {of_dump}", dir(e))),
        false => None,
    }
}

/// May act on files of others (capabilities(7)).
const CAP_FOWNER: u64 = 1 << 3;
/// Only owners replace files in such a directory (inode(7)).
const STICKY: u32 = 0o1000;

pub const DIR_IMMUTABLE: Check = Check {
    id: "dir-immutable",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Log, Source::Place],
    when: |e| {
        let flagged = match (e.host.place.immutable.is(true), immutable_dump(e)) {
            (true, _) => Some(format!("{} has the immutable flag", dir(e))),
            (false, true) => Some("the old dump has the immutable flag".to_string()),
            (false, false) => None,
        };
        match (said(e), flagged) {
            (Some(line), Some(flagged)) if line.class.errno() == Some(Errno::Perm) => {
                cause(&format!("{}; {flagged}", line.text))
            }
            (Some(line), None) if line.class == LogClass::Open(Errno::Perm) => {
                let sure = e.host.place.immutable.known().is_none();
                cause(&line.text).map(|hit| Hit { sure, ..hit })
            }
            (_, Some(flagged)) => in_child(e, true, flagged),
            (_, None) => None,
        }
    },
    what: "The data directory or the dump is immutable (chattr +i).",
    why: "Not even root may create or replace a file there, whatever owner and mode say.",
    cure: "Find out who set the flag, then take it off with chattr -i.",
    explain: "\"Operation not permitted\" with right owner and mode means the immutable or append-only \
              flag. Somebody set it on purpose: an administrator as a guard against deletion, or an \
              intruder to keep what was planted. So bgsafe never takes it off. lsattr -d shows it on the \
              directory, lsattr on the dump.",
    source: "rdb.c:rdbSave; chattr(1); ioctl_iflags(2)",
};

fn immutable_dump(e: &Evidence) -> bool {
    e.host.place.dump.is_and(|dump| match dump {
        Dump::File { immutable, .. } => immutable.is(true),
        Dump::Missing | Dump::NotAFile => false,
    })
}

pub const READ_ONLY_FILESYSTEM: Check = Check {
    id: "read-only-filesystem",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Log, Source::Place],
    when: |e| {
        let seen = match (e.host.place.read_only.is(true), e.host.place.host_read_only.get()) {
            (true, Some(false)) => "the host may write there, the service may not: a sandbox",
            (true, _) => "the filesystem is mounted read-only",
            (false, _) => "",
        };
        match by_errno(e, &[Errno::Rofs]) {
            Some(hit) if seen.is_empty() => Some(hit),
            Some(hit) => cause(&format!("{}; {seen}", hit.says)),
            None if seen.is_empty() => None,
            None => in_write(e, true, format!("{}: {seen}", dir(e))),
        }
    },
    what: "The server sees its data directory on a read-only filesystem.",
    why: "No file can be written there, neither dump nor AOF.",
    cure: "Allow the path in the service's sandbox, or find out why the kernel remounted the disk read-only.",
    explain: "Two stories share this message. The unit of the distribution locks the service in \
              (ProtectSystem=strict) and opens only a few paths; a data directory elsewhere needs \
              ReadWritePaths in a drop-in, and a package update may have put the old unit back. Or the \
              kernel met errors on the disk and protects what is left: then dmesg says so, and remounting \
              it for writing makes things worse. If the host sees the mount writable and the server does \
              not, it is the first.",
    source: "systemd.exec(5) ProtectSystem=, ReadWritePaths=; mount(8) errors=remount-ro; redis/redis#12676",
};

pub const LSM_DENIED: Check = Check {
    id: "lsm-denied",
    kind: Kind::Cause,
    severity: Severity::Crit,
    needs: &[Source::Log, Source::KernelLog, Source::Place],
    when: |e| {
        let denied = e.host.kernel.known().and_then(|lines| {
            lines
                .iter()
                .rev()
                .find(|line| line.class == KernelClass::LsmDenied)
                .map(|line| line.text.as_str())
        });
        let refused = said(e).filter(|line| line.class.errno() == Some(Errno::Acces));
        let by = e.host.process.confined_by.known().and_then(|by| by.as_deref());
        match (refused, denied) {
            (Some(line), Some(denied)) => cause(&format!("{}; {denied}", line.text)),
            (Some(line), None) if e.host.place.writable.is(true) => {
                let by = by.map(|by| format!(" and the server is confined by {by}")).unwrap_or_default();
                Hit::likely(format!("{}; owner and mode would allow it{by}", line.text))
            }
            (None, Some(denied)) => in_child(e, false, denied.to_string()),
            (_, None) => None,
        }
    },
    what: "SELinux or AppArmor forbids the server to write its dump.",
    why: "Owner and mode look right, and still every save is refused.",
    cure: "Give the directory the label or path that the policy knows; leave the enforcement on.",
    explain: "Permission denied with right owner and mode is a security module, or a network filesystem \
              that takes root for nobody. The audit log names the operation. With SELinux a moved data \
              directory needs its label (semanage fcontext, restorecon); with AppArmor the profile needs \
              the path. Turning enforcement off cures the message and the protection alike, so bgsafe \
              never proposes it.",
    source: "restorecon(8); apparmor.d(5); exports(5) root_squash",
};

fn dir(e: &Evidence) -> String {
    let told = || e.look.dir.known().filter(|dir| !dir.is_empty()).cloned();
    let seen = || e.host.place.dir.known().map(|dir| dir.to_string_lossy().into_owned());
    told().or_else(seen).unwrap_or_else(|| "the data directory".into())
}
