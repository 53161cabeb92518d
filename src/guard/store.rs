//! The guard's disk: one page for the debt, one file an incident, one for what is healthy. A thread of its own runs the
//! jobs in order, so that a slow disk delays neither sightings nor the server's answers.
//!
//! Refuses to know: when anything is written. Invariants: a job of the debt is answered only when
//! it is durable; the page exists, preallocated, from the start, so that a debt costs one
//! overwrite and one fdatasync; a torn page reads as garbled, never as another debt.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use rustix::fs::{FlockOperation, flock};
use tracing::warn;

use super::debt::{Debt, DebtError, SECTOR, decode, encode};
use super::evidence::Healthy;
use super::record::{Entry, Incident, Outcome, Phase};

/// Incident files kept; older ones are removed.
pub const INCIDENTS_MOST: usize = 200;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be made, read or written.
    #[error("the state directory cannot be used: {path}: {source}; give a writable one with --state-dir")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Where copies go cannot be made, read or written.
    #[error(
        "the escrow directory cannot be used: {path}: {source}; give a writable one with --escrow-dir, or --escrow off"
    )]
    Escrow {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Another bgsafe holds the debt page of this upstream.
    #[error("{0} is in use by another bgsafe; stop it, or give this one its own --state-dir")]
    Busy(PathBuf),
}

/// See the module's page.
#[derive(Debug)]
pub struct Store {
    debts: PathBuf,
    incidents: PathBuf,
    healthy: PathBuf,
    page: File,
}

impl Store {
    /// Opens, and makes what is missing; the debt found there. A garbled page is reported as such:
    /// whether the switch was ever lowered cannot be known from it.
    pub fn open(
        state_dir: &Path,
        address: &str,
    ) -> Result<(Store, Result<Option<Debt>, DebtError>), StoreError> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |source| StoreError::Io { path, source }
        };
        let [debts, incidents, healthy] = ["debts", "incidents", "healthy"].map(|name| state_dir.join(name));
        for dir in [&debts, &incidents, &healthy] {
            fs::create_dir_all(dir).map_err(at(dir))?;
        }
        let path = debts.join(format!("{}.debt", file_name(address)));
        if !path.exists() {
            make_page(&debts, &path).map_err(at(&path))?;
        }
        let page = OpenOptions::new().read(true).write(true).open(&path).map_err(at(&path))?;
        // A lock of the file, not of the process: it goes with the last descriptor, also by a kill.
        if flock(&page, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StoreError::Busy(path));
        }
        let bytes = fs::read(&path).map_err(at(&path))?;
        let healthy = healthy_path(state_dir, address);
        Ok((Store { debts, incidents, healthy, page }, decode(&bytes)))
    }

    /// Debts noted under another address that nobody works on: of this very server, if it was reached by
    /// another name then. The run id tells.
    pub fn strays(&self) -> Vec<Debt> {
        stray_pages(&self.debts).into_iter().map(|(_, debt)| debt).collect()
    }

    /// Durable when it returns. The same debt under another address has moved here.
    pub fn write(&mut self, debt: &Debt) -> io::Result<()> {
        self.overwrite(encode(debt))?;
        for (page, stray) in stray_pages(&self.debts) {
            if stray.run_id == debt.run_id {
                page.write_all_at(&[b' '; SECTOR], 0)?;
                page.sync_data()?;
            }
        }
        Ok(())
    }

    /// Durably none when it returns.
    pub fn erase(&mut self) -> io::Result<()> {
        self.overwrite(vec![b' '; SECTOR])
    }

    fn overwrite(&mut self, mut page: Vec<u8>) -> io::Result<()> {
        let len = self.page.metadata()?.len() as usize;
        page.resize(page.len().max(len), b' ');
        self.page.write_all_at(&page, 0)?;
        self.page.sync_data()
    }

    /// What was so while saving worked, as it was last recorded.
    pub fn healthy(&self) -> Option<Healthy> {
        read_healthy(&self.healthy)
    }

    /// Keeps that. Not synced: it is found out again.
    fn remember(&self, healthy: &Healthy) -> io::Result<()> {
        replace(&self.healthy, &serde_json::to_vec_pretty(healthy)?)
    }

    /// Writes `incidents/ID.json` as a whole, and removes the oldest beyond [`INCIDENTS_MOST`]. Not
    /// synced: a record is told again by the log.
    pub fn save(&self, incident: &Incident) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(incident)?;
        let path = self.incidents.join(format!("{}.json", file_name(&incident.id)));
        let fresh = !path.exists();
        replace(&path, &json)?;
        if fresh {
            let mut names = self.names()?;
            names.sort();
            for old in names.iter().rev().skip(INCIDENTS_MOST) {
                fs::remove_file(old)?;
            }
        }
        Ok(())
    }

    /// What is kept, newest first. Files that are not records are skipped.
    pub fn incidents(&self) -> Vec<Incident> {
        let mut names = self.names().unwrap_or_default();
        names.sort();
        let read = |path: &PathBuf| serde_json::from_slice(&fs::read(path).ok()?).ok();
        names.iter().rev().take(INCIDENTS_MOST).filter_map(read).collect()
    }

    /// Records of `upstream` that a bgsafe did not live to close. What goes on is told under an incident of
    /// its own, so an open record is always the present one.
    pub fn close_left_open(&self, incidents: &mut [Incident], upstream: &str) {
        let left_open = |i: &&mut Incident| i.outcome.is_none() && i.upstream == upstream;
        for incident in incidents.iter_mut().filter(left_open) {
            let (at_ms, phase) = incident.timeline.last().map_or((0, Phase::Quiet), |e| (e.at_ms, e.phase));
            let detail = "before the incident did; what was left is told in the next one".to_string();
            incident.timeline.push(Entry { at_ms, phase, event: "bgsafe ended".to_string(), detail });
            incident.closed_after_ms = Some(at_ms);
            incident.outcome = Some(Outcome::Operator);
            if let Err(e) = self.save(incident) {
                warn!(incident = incident.id, "incident record not written: {e}");
            }
        }
    }

    fn names(&self) -> io::Result<Vec<PathBuf>> {
        let paths = fs::read_dir(&self.incidents)?.filter_map(|entry| entry.ok().map(|e| e.path()));
        Ok(paths.filter(|path| path.extension().is_some_and(|e| e == "json")).collect())
    }

    /// Moves into its thread. The thread ends with the last sender.
    pub fn start<F>(mut self, answer: F) -> io::Result<mpsc::Sender<Job>>
    where
        F: Fn(Result<(), String>) + Send + 'static,
    {
        let (jobs, inbox) = mpsc::channel();
        let run = move || {
            for job in inbox {
                match job {
                    Job::Write(debt) => answer(self.write(&debt).map_err(|e| e.to_string())),
                    Job::Erase => answer(self.erase().map_err(|e| e.to_string())),
                    Job::Remember(healthy) => {
                        if let Err(e) = self.remember(&healthy) {
                            warn!("what is healthy was not kept: {e}");
                        }
                    }
                    Job::Save(incident) => {
                        if let Err(e) = self.save(&incident) {
                            warn!(incident = incident.id, "incident record not written: {e}");
                        }
                    }
                }
            }
        };
        thread::Builder::new().name("bgsafe-store".into()).spawn(run)?;
        Ok(jobs)
    }
}

/// What the thread is asked; the first two are answered.
#[derive(Debug)]
pub enum Job {
    /// Make the debt durable.
    Write(Debt),
    /// Make its absence durable.
    Erase,
    /// Keep the record.
    Save(Box<Incident>),
    /// Keep what is healthy.
    Remember(Box<Healthy>),
}

/// What is owed by nobody who lives, as this state directory tells it.
pub fn owed(state_dir: &Path) -> Vec<Debt> {
    stray_pages(&state_dir.join("debts")).into_iter().map(|(_, debt)| debt).collect()
}

/// Pages that are locked are a living bgsafe's, ours among them.
fn stray_pages(debts: &Path) -> Vec<(File, Debt)> {
    let read = |entry: io::Result<fs::DirEntry>| {
        let path = entry.ok()?.path();
        let page = OpenOptions::new().read(true).write(true).open(&path).ok()?;
        flock(&page, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some((page, decode(&fs::read(&path).ok()?).ok()??))
    };
    fs::read_dir(debts).into_iter().flatten().filter_map(read).collect()
}

/// What a bgsafe with this state directory recorded of `address` while saving worked.
pub fn recorded(state_dir: &Path, address: &str) -> Option<Healthy> {
    read_healthy(&healthy_path(state_dir, address))
}

fn healthy_path(state_dir: &Path, address: &str) -> PathBuf {
    state_dir.join("healthy").join(format!("{}.json", file_name(address)))
}

fn read_healthy(path: &Path) -> Option<Healthy> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Whole or not at all.
fn replace(path: &Path, json: &[u8]) -> io::Result<()> {
    let new = path.with_extension("json.new");
    if let Err(full) = fs::write(&new, json) {
        // A half of it would only keep the disk full.
        let _ = fs::remove_file(&new);
        return Err(full);
    }
    fs::rename(&new, path)
}

/// Blank page, renamed into place, with the directory synced: from here on it is only overwritten.
fn make_page(dir: &Path, path: &Path) -> io::Result<()> {
    let new = path.with_extension("debt.new");
    let mut file = File::create(&new)?;
    file.write_all(&[b' '; SECTOR])?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

/// An address as the name of a file.
pub(crate) fn file_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::debt::VERSION;
    use crate::guard::incident::Now;
    use crate::guard::journal::Journal;
    use crate::posture::Variant;

    fn debt() -> Debt {
        Debt {
            version: VERSION,
            address: "unix:/run/r.sock".into(),
            upstream: "unix:/run/r.sock".into(),
            run_id: "r".into(),
            setting: crate::guard::dialogue::KNOB.into(),
            owed: "yes".into(),
            since_ms: 1,
            incident: "i".into(),
        }
    }

    #[test]
    fn a_debt_outlives_its_writer_and_an_erased_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, found) = Store::open(dir.path(), "unix:/run/r.sock").unwrap();
        assert_eq!(found, Ok(None));
        store.write(&debt()).unwrap();
        assert!(matches!(Store::open(dir.path(), "unix:/run/r.sock"), Err(StoreError::Busy(_))));
        drop(store);
        let (mut store, found) = Store::open(dir.path(), "unix:/run/r.sock").unwrap();
        assert_eq!(found, Ok(Some(debt())));
        store.erase().unwrap();
        drop(store);
        assert_eq!(Store::open(dir.path(), "unix:/run/r.sock").unwrap().1, Ok(None));
    }

    #[test]
    fn a_debt_under_another_address_is_found_and_moves() {
        let dir = tempfile::tempdir().unwrap();
        let (mut old, _) = Store::open(dir.path(), "unix:/run/r.sock").unwrap();
        old.write(&debt()).unwrap();
        let (mut new, found) = Store::open(dir.path(), "127.0.0.1:6379").unwrap();
        assert_eq!((found, new.strays()), (Ok(None), vec![]), "its bgsafe lives");
        drop(old);
        assert_eq!(new.strays(), [debt()]);
        let moved = Debt { address: "127.0.0.1:6379".into(), ..debt() };
        new.write(&moved).unwrap();
        assert_eq!(new.strays(), []);
        assert_eq!(Store::open(dir.path(), "unix:/run/r.sock").unwrap().1, Ok(None));
        drop(new);
        assert_eq!(Store::open(dir.path(), "127.0.0.1:6379").unwrap().1, Ok(Some(moved)));
    }

    #[test]
    fn a_record_that_its_bgsafe_did_not_live_to_close_is_closed_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), "a:1").unwrap();
        for (second, upstream) in [(1, "a:1"), (2, "b:2")] {
            let now = Now { mono: std::time::Duration::ZERO, unix_ms: second * 1000 };
            store.save(Journal::open(now, 1, upstream, Variant::Rdb).record()).unwrap();
        }
        store.close_left_open(&mut store.incidents(), "a:1");
        let outcomes: Vec<_> = store.incidents().into_iter().map(|i| (i.upstream, i.outcome)).collect();
        assert_eq!(outcomes, [("b:2".into(), None), ("a:1".into(), Some(Outcome::Operator))]);
    }

    #[test]
    fn what_is_healthy_is_kept_for_each_address() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), "a:1").unwrap();
        assert_eq!(store.healthy(), None);
        let healthy = Healthy { dir: "/data".into(), owner: Some((7, 8)), ..Healthy::default() };
        store.remember(&healthy).unwrap();
        assert_eq!(store.healthy(), Some(healthy));
        assert_eq!(Store::open(dir.path(), "b:2").unwrap().0.healthy(), None);
        assert!(recorded(dir.path(), "a:1").is_some() && recorded(dir.path(), "b:2").is_none());
    }

    #[test]
    fn only_the_newest_incidents_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), "a:1").unwrap();
        for n in 0..INCIDENTS_MOST as u64 + 5 {
            let now = Now { mono: std::time::Duration::ZERO, unix_ms: 1_700_000_000_000 + n * 1000 };
            store.save(Journal::open(now, 1, "a:1", Variant::Rdb).record()).unwrap();
        }
        let kept = store.incidents();
        assert_eq!(kept.len(), INCIDENTS_MOST);
        assert!(kept[0].id > kept[1].id && kept[0].opened_at.starts_with("2023-11-14T22:16:44"));
    }
}
