//! Faults of the children that save.
//!
//! Refuses to know: who else kills processes. Invariant: only children of the one server get a signal, and its
//! slowness is gone when the fault is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::Duration;

use rustix::process::Signal;

use super::super::client::{Direct, Reply};
use super::super::server::Site;
use super::{Undo, no_child, process, wait_until};

/// Every child gets this signal, as soon as it is seen.
pub(super) fn killer(site: &Site, signal: Signal) -> io::Result<Undo> {
    let killer = Killer::start(site, signal)?;
    Ok(Undo::new(move || {
        drop(killer);
        Ok(())
    }))
}

/// Kills every child of a server as it appears.
struct Killer {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    site: Site,
}

impl Killer {
    fn start(site: &Site, signal: Signal) -> io::Result<Killer> {
        // Microseconds a key: a child of a nearly empty server must live long enough to be seen.
        site.direct()?.demand(&["CONFIG", "SET", "rdb-key-save-delay", "20000"])?;
        site.direct()?.demand(&["SET", "bgsafe:lab:seed", "1"])?;
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, pid) = (stop.clone(), site.pid);
        let thread = std::thread::spawn(move || {
            while !flag.load(Acquire) {
                process::signal_children(pid, signal);
                std::thread::sleep(Duration::from_millis(4));
            }
        });
        Ok(Killer { stop, thread: Some(thread), site: site.clone() })
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        let delay = self.site.direct().and_then(|mut server| {
            server.demand(&["CONFIG", "SET", "rdb-key-save-delay", "0"])?;
            // A child that was forked with the old delay would take for ever: it is the last to be killed.
            process::kill_children(self.site.pid);
            Ok(())
        });
        if let Err(error) = delay {
            eprintln!("lab: the save delay could not be undone: {error}");
        }
        self.stop.store(true, Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A good save of one key: nothing is dirty, and a child has something to be slow with.
pub(super) fn nothing_dirty(server: &mut Direct) -> io::Result<()> {
    server.demand(&["SET", "bgsafe:lab:seed", "1"])?;
    server.demand(&["BGSAVE"])?;
    wait_until("a save in progress to end", || no_child(server))?;
    super::wait_for(server, "rdb_changes_since_last_save", "0")
}

/// One BGSAVE, slowed down so that its child can be found, and killed.
pub(super) fn kill_one_save(site: &Site, server: &mut Direct) -> io::Result<()> {
    server.demand(&["CONFIG", "SET", "rdb-key-save-delay", "10000000"])?;
    let started = server.command(&["BGSAVE"]);
    // Read at fork: the child keeps it, later saves do not.
    server.demand(&["CONFIG", "SET", "rdb-key-save-delay", "0"])?;
    if let Reply::Error(text) = started? {
        return Err(io::Error::other(format!("upstream: BGSAVE answered {text}")));
    }
    wait_until("the child of BGSAVE to appear", || Ok(process::kill_children(site.pid) > 0))?;
    wait_until("the child of BGSAVE to end", || Ok(process::children(site.pid).is_empty()))
}
