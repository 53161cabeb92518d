//! Settings of the kernel and limits of the server's process.
//!
//! Refuses to know: the data directory. Invariant: a setting that does not read back as written is put back and
//! told as refused.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::process::{Pid, Rlimit};

use crate::guard::evidence::Fact;
use crate::guard::evidence::host::{Limit, NO_LIMIT};
use crate::guard::remedy::{Change, OVERCOMMIT_FILE, Resource};

use super::super::Identity;
use super::super::memory::{self, OVERCOMMIT, THP};
use super::super::process::parse_limit;
use super::super::read::{Tree, and_then};
use super::{Done, Stop, held};

/// By it we know a file of ours.
const OURS: &str = "# Written by bgsafe: with 0 or 2 the server may not fork to save.";
const THP_WORDS: &[&str] = &["always", "madvise", "never"];
const THP_DEFRAG_WORDS: &[&str] = &["always", "defer", "defer+madvise", "madvise", "never"];

/// `vm.overcommit_memory`. A file of ours goes when the value is not to last: it says another one. A stranger's
/// under its name is left alone, and does not keep us from putting a value back.
pub fn overcommit(tree: &Tree, value: u8, keep: bool) -> Result<Done, Stop> {
    if value > 2 {
        return Err(Stop::Refused(format!("{value} is none of 0, 1, 2")));
    }
    let before = value_of(memory::overcommit(tree))?;
    let file = tree.path(OVERCOMMIT_FILE);
    let kept = match kept(&file) {
        Err(_) if !keep => None,
        kept => kept?,
    };
    let text = format!("{OURS}\nvm.overcommit_memory = {value}\n");
    // The file first: when it fails nothing has changed yet.
    let replaced = match (keep, &kept) {
        (true, _) => write_whole(&file, &text),
        (false, Some(_)) => std::fs::remove_file(&file),
        (false, None) => Ok(()),
    };
    replaced.map_err(|error| Stop::Refused(format!("{OVERCOMMIT_FILE}: {error}")))?;
    let set = write_setting(tree, OVERCOMMIT, &value.to_string())
        .and_then(|()| reads_back(memory::overcommit(tree), value));
    if let Err(stop) = set {
        let _ = write_setting(tree, OVERCOMMIT, &before.to_string());
        let _ = match &kept {
            Some(text) => write_whole(&file, text),
            None if keep => std::fs::remove_file(&file),
            None => Ok(()),
        };
        return Err(stop);
    }
    let told = |value: u8, kept: bool| match kept {
        true => format!("vm.overcommit_memory {value}, kept in {OVERCOMMIT_FILE}"),
        false => format!("vm.overcommit_memory {value}"),
    };
    Ok(Done {
        before: told(before, kept.is_some()),
        after: told(value, keep),
        undo: Some(Change::Overcommit { value: before, keep: kept.is_some() }),
    })
}

/// What a file of ours says; a stranger's under that name is left alone.
fn kept(file: &Path) -> Result<Option<String>, Stop> {
    match file.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
        Ok(metadata) if metadata.is_file() && metadata.len() < 4096 => {}
        Ok(_) => return Err(Stop::Refused(format!("{OVERCOMMIT_FILE} is not ours"))),
    }
    match std::fs::read_to_string(file)? {
        text if text.starts_with(OURS) => Ok(Some(text)),
        _ => Err(Stop::Refused(format!("{OVERCOMMIT_FILE} is not ours"))),
    }
}

/// All of it or nothing, also after a power cut.
fn write_whole(file: &Path, text: &str) -> io::Result<()> {
    let dir = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temp = tempfile::Builder::new().prefix(".bgsafe-").tempfile_in(dir)?;
    temp.write_all(text.as_bytes())?;
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    temp.as_file().set_permissions(readable)?;
    temp.as_file().sync_all()?;
    temp.persist(file).map_err(|error| error.error)?;
    std::fs::File::open(dir)?.sync_all()
}

/// Both words, or neither.
pub fn huge_pages(tree: &Tree, enabled: &str, defrag: Option<&str>) -> Result<Done, Stop> {
    let known = THP_WORDS.contains(&enabled) && defrag.is_none_or(|word| THP_DEFRAG_WORDS.contains(&word));
    if !known {
        return Err(Stop::Refused("not a word that the kernel knows".into()));
    }
    let before = value_of(memory::huge_pages(tree, "enabled"))?;
    let defrag_before = match defrag {
        Some(_) => Some(value_of(memory::huge_pages(tree, "defrag"))?),
        None => None,
    };
    let set = |file: &str, word: &str| {
        write_setting(tree, format!("{THP}/{file}"), word)?;
        reads_back(memory::huge_pages(tree, file), word.to_owned())
    };
    let both = || {
        set("enabled", enabled)?;
        defrag.map_or(Ok(()), |word| set("defrag", word))
    };
    if let Err(stop) = both() {
        let _ = set("enabled", &before);
        let _ = defrag_before.as_deref().map(|word| set("defrag", word));
        return Err(stop);
    }
    let told = |enabled: &str, defrag: Option<&str>| match defrag {
        Some(defrag) => format!("enabled {enabled}, defrag {defrag}"),
        None => format!("enabled {enabled}"),
    };
    Ok(Done {
        before: told(&before, defrag_before.as_deref()),
        after: told(enabled, defrag),
        undo: Some(Change::Thp { enabled: before, defrag: defrag_before }),
    })
}

/// A limit of the server's process.
pub fn limit(
    tree: &Tree,
    seen: Option<Identity>,
    pid: u32,
    resource: Resource,
    (soft, hard): (u64, u64),
) -> Result<Done, Stop> {
    if soft > hard {
        return Err(Stop::Refused("the soft limit is above the hard one".into()));
    }
    if !tree.is_real() {
        return Err(Stop::Refused("a fixture has no processes".into()));
    }
    let (name, kind) = match resource {
        Resource::Nproc => ("Max processes", rustix::process::Resource::Nproc),
        Resource::Nofile => ("Max open files", rustix::process::Resource::Nofile),
    };
    let read = || and_then(tree.text(format!("/proc/{pid}/limits")), |text| parse_limit(&text, name));
    let held = held(tree, seen, pid)?;
    let start = held.start()?;
    let before = value_of(read())?;
    let bound = |value: u64| (value != NO_LIMIT).then_some(value);
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.ok_or_else(|| Stop::Moved(format!("{pid} is no process")))?;
    let old =
        rustix::process::prlimit(Some(raw), kind, Rlimit { current: bound(soft), maximum: bound(hard) })?;
    let after = value_of(read())?;
    if held.start().ok() != Some(start) {
        return Err(Stop::Moved(format!("process {pid} ended meanwhile")));
    }
    if after != (Limit { soft, hard }) {
        let _ = rustix::process::prlimit(Some(raw), kind, old);
        return Err(Stop::Refused(format!("reads back as {}", told(after))));
    }
    let undo = Change::Limit { pid, resource, soft: before.soft, hard: before.hard };
    Ok(Done { before: told(before), after: told(after), undo: Some(undo) })
}

fn told(limit: Limit) -> String {
    let word = |value: u64| if value == NO_LIMIT { "unlimited".into() } else { value.to_string() };
    format!("soft {}, hard {}", word(limit.soft), word(limit.hard))
}

/// Writes to a file that is there; a setting is never created.
pub fn write_setting(tree: &Tree, path: impl AsRef<Path>, value: &str) -> Result<(), Stop> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.write(true).truncate(!tree.is_real()).custom_flags(nofollow).open(tree.path(path))?;
    // In one write, as /proc wants it.
    Ok(file.write_all(value.as_bytes())?)
}

/// A value that must be known before it is changed.
pub fn value_of<T>(fact: Fact<T>) -> Result<T, Stop> {
    match fact {
        Fact::Known(value) => Ok(value),
        Fact::Unknown(reason) => Err(Stop::Refused(format!("what is there now is unknown: {reason}"))),
    }
}

fn reads_back<T: PartialEq + std::fmt::Display>(fact: Fact<T>, wanted: T) -> Result<(), Stop> {
    match value_of(fact)? {
        value if value == wanted => Ok(()),
        value => Err(Stop::Refused(format!("reads back as {value}"))),
    }
}
