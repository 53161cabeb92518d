//! The table of checks. One row an id; each theme has its own file.

use super::{Check, aof, child, fork, hazards, memory, place, settings, space};

/// Every check. The order decides between equals: what explains stands before what it explains.
pub const CHECKS: &[Check] = &[
    place::BREAK_IN_SIGNS,
    // The server could not fork.
    fork::FORK_ENOMEM,
    fork::OVERCOMMIT_MEMORY,
    fork::FORK_EAGAIN,
    // Its child was ended.
    child::CHILD_OOM_KILLED,
    child::CHILD_CRASHED,
    space::FILE_SIZE_LIMIT,
    child::CHILD_KILLED,
    memory::CGROUP_HEADROOM,
    memory::MEMORY_HEADROOM,
    // Its child could not write.
    place::DIR_MISSING,
    place::READ_ONLY_FILESYSTEM,
    place::DIR_IMMUTABLE,
    place::DIR_PERMISSION,
    place::LSM_DENIED,
    space::INODES_FULL,
    space::QUOTA,
    space::DISK_FULL,
    aof::AOF_FSYNC_STICKY,
    space::IO_ERROR,
    space::FD_LIMIT,
    space::DISK_HEADROOM,
    // The append-only file, behind what explains it; a failed sync stands above the disk, which may be well again.
    aof::AOF_WRITE_ERROR,
    // For want of anything better.
    child::CHILD_HUNG,
    child::DEAD_END,
    child::UNKNOWN,
    // Who makes it worse.
    hazards::REPLICA_WILL_ABORT,
    hazards::ZOMBIE_PRIMARY,
    hazards::SENTINEL_WILL_FAIL_OVER,
    hazards::SWITCH_LEFT_OFF,
    hazards::REWRITE_PERSISTED_NO,
    hazards::CONFIG_BLOCKED,
    hazards::PROBE_HAZARD,
    // What could be better.
    memory::THP_ALWAYS,
    memory::MAXMEMORY_HIGH,
    memory::NO_SWAP_CONTAINER,
    memory::FORK_SLOW,
    settings::SAVE_POINTS_MISSING,
    settings::SAVE_POINTS_DENSE,
    aof::AOF_REWRITE_SETTINGS,
];
