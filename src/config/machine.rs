//! The real world that settings depend on: this process, these files. Decides nothing.
//!
//! Invariant: nothing here writes or creates anything.

use std::io;
use std::path::Path;

use rustix::fs::{Access, access};

use super::World;

/// This process on this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

impl World for Machine {
    fn env(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    /// Asks of the nearest ancestor that exists, since the rest would be created in it.
    fn writable(&self, dir: &Path) -> bool {
        dir.ancestors()
            .find(|ancestor| ancestor.exists())
            .is_some_and(|there| there.is_dir() && access(there, Access::WRITE_OK | Access::EXEC_OK).is_ok())
    }

    fn cpus(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }
}
