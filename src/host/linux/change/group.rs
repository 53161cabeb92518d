//! A control group's limit.
//!
//! Refuses to know: whose group it is. Invariant: only three named files below a mounted hierarchy are written.

use std::path::{Component, Path};

use crate::guard::evidence::host::NO_LIMIT;
use crate::guard::remedy::Change;

use super::super::cgroup;
use super::super::mounts::mounts;
use super::super::read::Tree;
use super::kernel::{value_of, write_setting};
use super::{Done, Stop};

const FILES: &[&str] = &["pids.max", "memory.max", "memory.limit_in_bytes"];

/// Sets it.
pub fn max(tree: &Tree, file: &Path, value: u64) -> Result<Done, Stop> {
    let named = file.file_name().and_then(|name| name.to_str()).filter(|name| FILES.contains(name));
    let plain = file.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let mounts = value_of(mounts(tree, "self"))?;
    let over = super::super::mounts::over(&mounts, file);
    let grouped = over.is_some_and(|mount| mount.filesystem == "cgroup2" || mount.filesystem == "cgroup");
    let Some(name) = named.filter(|_| plain && grouped && file.is_absolute()) else {
        return Err(Stop::Refused(format!("{} is no limit of a control group", file.display())));
    };
    let real = tree.path(file);
    if real.canonicalize()? != tree.path("/").canonicalize()?.join(file.strip_prefix("/").unwrap_or(file)) {
        return Err(Stop::Refused(format!("{} is reached over a link", file.display())));
    }
    let before = value_of(cgroup::limit(tree, file))?;
    // Below what is used the kernel makes room by killing: also when an old limit is put back.
    let used = match name {
        "memory.max" => value_of(tree.number::<u64>(file.with_file_name("memory.current")))?,
        "memory.limit_in_bytes" => {
            value_of(tree.number::<u64>(file.with_file_name("memory.usage_in_bytes")))?
        }
        _ => 0,
    };
    if value < used {
        return Err(Stop::Refused(format!("the group uses {used} already")));
    }
    write_setting(tree, file, &as_written(value, name))?;
    let after = value_of(cgroup::limit(tree, file))?;
    // The kernel rounds memory down to whole pages.
    let off_by = value.abs_diff(after);
    if off_by >= 65_536 || (name == "pids.max" && off_by > 0) {
        let _ = write_setting(tree, file, &as_written(before, name));
        return Err(Stop::Refused(format!("reads back as {after}")));
    }
    let undo = Change::CgroupMax { file: file.into(), value: before };
    Ok(Done { before: told(before), after: told(after), undo: Some(undo) })
}

fn as_written(value: u64, name: &str) -> String {
    match (value, name) {
        (NO_LIMIT, "memory.limit_in_bytes") => "-1".into(),
        (NO_LIMIT, _) => "max".into(),
        (value, _) => value.to_string(),
    }
}

fn told(value: u64) -> String {
    if value == NO_LIMIT { "max".into() } else { value.to_string() }
}
