//! The host's memory: /proc/meminfo, /proc/sys, transparent huge pages.
//!
//! Refuses to know: the server. Invariant: none of its own.

use crate::guard::evidence::Fact;
use crate::guard::evidence::fact::garbled;
use crate::guard::evidence::host::Memory;

use super::read::{Tree, and_then, kilobytes};

/// Where the kernel keeps it.
pub const OVERCOMMIT: &str = "/proc/sys/vm/overcommit_memory";
/// Directory of `enabled` and `defrag`.
pub const THP: &str = "/sys/kernel/mm/transparent_hugepage";

/// See the module's page.
pub fn memory(tree: &Tree) -> Memory {
    let meminfo = tree.text("/proc/meminfo");
    let size = |name: &str| and_then(meminfo.clone(), |text| kilobytes(&text, name));
    Memory {
        overcommit: overcommit(tree),
        commit_limit: size("CommitLimit"),
        committed: size("Committed_AS"),
        total: size("MemTotal"),
        available: size("MemAvailable"),
        swap_total: size("SwapTotal"),
        swap_free: size("SwapFree"),
        thp: huge_pages(tree, "enabled"),
        thp_defrag: huge_pages(tree, "defrag"),
        pid_max: tree.number("/proc/sys/kernel/pid_max"),
        threads_max: tree.number("/proc/sys/kernel/threads-max"),
    }
}

/// 0, 1 or 2.
pub fn overcommit(tree: &Tree) -> Fact<u8> {
    and_then(tree.number::<u8>(OVERCOMMIT), |mode| match mode {
        0..=2 => Fact::Known(mode),
        _ => garbled(&mode.to_string()),
    })
}

/// The chosen word of `always [madvise] never`.
pub fn huge_pages(tree: &Tree, file: &str) -> Fact<String> {
    and_then(tree.text(format!("{THP}/{file}")), |text| {
        let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(word, _)| word);
        match chosen {
            Some(word) if !word.is_empty() => Fact::Known(word.to_owned()),
            _ => garbled(text.trim()),
        }
    })
}
