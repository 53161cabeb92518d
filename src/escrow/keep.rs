//! The directory of copies: for each a file `ADDRESS-STAMP.rdb` and a note `….json`, and while one is being fetched a
//! `….rdb.part`.
//!
//! Refuses to know: sockets, RDB. Invariants: a copy appears by one rename, after its bytes and its note are durable;
//! older ones go only after the newer one is; a part that nobody works on is removed at start, a living bgsafe's is
//! not; names of others are never touched; a reserve stays free on the disk, which may be that of the debt's page.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statvfs};

use crate::guard::escrow::{PullError, Snapshot};
use crate::guard::store::file_name;

/// What stays free of our own disk: the debt's page and the records are small, but they must go there.
pub const RESERVE: u64 = 64 << 20;
/// Free space is asked for once in so many bytes.
const ASK_EVERY: u64 = 1 << 20;

const PART: &str = "rdb.part";

/// See the module's page.
#[derive(Clone, Debug)]
pub struct Keep {
    dir: PathBuf,
    /// Of this server's files.
    stem: String,
    keep: usize,
    bytes_max: u64,
}

impl Keep {
    /// Makes the directory, and removes parts that a killed life left. Keeps the newest `keep`, at least one;
    /// each of at most `bytes_max`, where 0 is what the disk holds.
    pub fn open(dir: &Path, address: &str, keep: usize, bytes_max: u64) -> io::Result<Keep> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let keep = Keep { dir: dir.to_path_buf(), stem: file_name(address), keep: keep.max(1), bytes_max };
        for path in keep.named(PART) {
            // A living bgsafe holds a lock on its part.
            let part = File::open(&path);
            if part.is_ok_and(|part| flock(&part, FlockOperation::NonBlockingLockExclusive).is_ok()) {
                fs::remove_file(&path)?;
            }
        }
        for note in keep.named("json").into_iter().filter(|note| !note.with_extension("rdb").exists()) {
            fs::remove_file(note)?;
        }
        Ok(keep)
    }

    /// The newest copy that has a note.
    pub fn newest(&self) -> Option<Snapshot> {
        let read = |rdb: PathBuf| serde_json::from_slice(&fs::read(rdb.with_extension("json")).ok()?).ok();
        self.named("rdb").into_iter().rev().find_map(read)
    }

    /// Our own files that end so, oldest first.
    fn named(&self, end: &str) -> Vec<PathBuf> {
        let ours = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let rest = name.strip_prefix(&self.stem).and_then(|rest| rest.strip_prefix('-'));
            rest.and_then(|rest| rest.split_once('.')).is_some_and(|(stamp, ext)| {
                ext == end && stamp.len() == STAMP && stamp.bytes().all(|b| b.is_ascii_digit())
            })
        };
        let entries = fs::read_dir(&self.dir).into_iter().flatten();
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(ours).collect();
        paths.sort();
        paths
    }

    /// Begins a copy. Fails when the disk has only the reserve left.
    pub fn begin(&self, at_ms: u64) -> Result<Part, PullError> {
        let path = self.dir.join(format!("{}-{at_ms:0STAMP$}.{PART}", self.stem));
        let room = self.room()?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|e| ours(&path, &e))?;
        let part = Part { keep: self.clone(), path, file, written: 0, room, kept: false };
        flock(&part.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| ours(&part.path, &e.into()))?;
        Ok(part)
    }

    /// Bytes that may be written before it is asked for again.
    fn room(&self) -> Result<u64, PullError> {
        let disk = statvfs(&self.dir).map_err(|e| ours(&self.dir, &e.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        match free.checked_sub(RESERVE) {
            Some(room) if room > 0 => Ok(room.min(ASK_EVERY)),
            Some(_) | None => Err(PullError::passing(format!(
                "host: {} has {free} bytes free, and {RESERVE} stay free for bgsafe's own notes: make room there, or \
                 name another disk by --escrow-dir",
                self.dir.display()
            ))),
        }
    }
}

/// Digits of a stamp: milliseconds until the year 5138.
const STAMP: usize = 14;

/// A copy under way. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Part {
    keep: Keep,
    path: PathBuf,
    file: File,
    written: u64,
    room: u64,
    kept: bool,
}

impl Part {
    /// Where it is while it grows.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), PullError> {
        let Keep { bytes_max, .. } = self.keep;
        if bytes_max > 0 && self.written + bytes.len() as u64 > bytes_max {
            let why =
                format!("us: the copy is larger than --escrow-max-bytes, which is {bytes_max}: raise it");
            return Err(PullError::lasting(why));
        }
        while !bytes.is_empty() {
            if self.room == 0 {
                self.room = self.keep.room()?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.room as usize));
            self.file.write_all(now).map_err(|e| ours(&self.path, &e))?;
            (self.room, self.written) = (self.room - now.len() as u64, self.written + now.len() as u64);
            bytes = later;
        }
        Ok(())
    }

    /// Makes the bytes durable, so that they may be checked.
    pub fn sync(&self) -> Result<(), PullError> {
        self.file.sync_all().map_err(|e| ours(&self.path, &e))
    }

    /// Gives it its name, and makes that durable; then the oldest ones go.
    pub fn keep(mut self, mut snapshot: Snapshot) -> Result<Snapshot, PullError> {
        let rdb = self.path.with_extension("");
        let note = rdb.with_extension("json");
        snapshot.path = rdb.to_string_lossy().into_owned();
        // The note first: one without its copy is removed at start, a copy without its note would be of unknown age.
        let named = write_note(&note, &snapshot).and_then(|()| fs::rename(&self.path, &rdb));
        if let Err(e) = named.and_then(|()| File::open(&self.keep.dir)?.sync_all()) {
            // Not known to be durable: it must not be counted on.
            let _ = (fs::remove_file(&rdb), fs::remove_file(&note));
            return Err(ours(&rdb, &e));
        }
        self.kept = true;
        let all = self.keep.named("rdb");
        for old in &all[..all.len().saturating_sub(self.keep.keep)] {
            // One that cannot be removed is only in the way.
            let _ = (fs::remove_file(old), fs::remove_file(old.with_extension("json")));
        }
        Ok(snapshot)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn write_note(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec_pretty(snapshot)?)?;
    file.sync_all()
}

fn ours(path: &Path, error: &io::Error) -> PullError {
    PullError::passing(format!("host: {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const AT: u64 = 1_795_342_500_000;

    fn snapshot(at_ms: u64) -> Snapshot {
        Snapshot {
            path: String::new(),
            bytes: 4,
            at_ms,
            changes: 1,
            last_save: 2,
            run_id: "r".into(),
            server: "redis 7.0.15".into(),
            version: 10,
            keys: None,
            checked: vec!["end".into()],
        }
    }

    fn add(keep: &Keep, at_ms: u64) -> Snapshot {
        let mut part = keep.begin(at_ms).unwrap();
        part.write(b"data").unwrap();
        part.sync().unwrap();
        part.keep(snapshot(at_ms)).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_newest_are_kept_with_their_notes_for_nobody_else_to_read() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("escrow");
        let keep = Keep::open(&dir, "127.0.0.1:6379", 2, 0).unwrap();
        assert_eq!(keep.newest(), None);
        for n in 0..4 {
            let kept = add(&keep, AT + n);
            assert_eq!(
                (keep.newest().as_ref(), fs::read(&kept.path).unwrap()),
                (Some(&kept), b"data".to_vec())
            );
        }
        let expected =
            ["02.json", "02.rdb", "03.json", "03.rdb"].map(|n| format!("127.0.0.1_6379-017953425000{n}"));
        assert_eq!(names(&dir), expected);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert!(names(&dir).iter().all(|name| mode(&dir.join(name)) == 0o600));
        let again = Keep::open(&dir, "127.0.0.1:6379", 2, 0).unwrap();
        assert_eq!(again.newest().map(|s| s.at_ms), Some(AT + 3));
    }

    #[test]
    fn a_part_that_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::open(dir.path(), "a:1", 1, 0).unwrap();
        add(&keep, AT);
        let before = names(dir.path());
        let mut part = keep.begin(AT + 1).unwrap();
        part.write(b"half").unwrap();
        assert_eq!(names(dir.path()).len(), before.len() + 1);
        drop(part);
        assert_eq!(names(dir.path()), before);
    }

    #[test]
    fn the_next_life_removes_what_a_killed_one_left_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let dead = ["a_1-01795342500000.rdb.part", "a_1-01795342500000.json"];
        let others = [
            "b_1-01795342500000.rdb.part",
            "a_1-01795342500001.rdb",
            "a_1-x.rdb.part",
            "a_1.rdb.part",
            "a_1-01795342500000.rdb.part.bak",
            "dump.rdb",
        ];
        for name in dead.iter().chain(&others) {
            fs::write(path(name), "x").unwrap();
        }
        let keep = Keep::open(dir.path(), "a:1", 2, 0).unwrap();
        let mut expected = others.map(String::from).to_vec();
        expected.sort();
        assert_eq!(names(dir.path()), expected);
        // Of a living one.
        let part = keep.begin(AT + 7).unwrap();
        let _other = Keep::open(dir.path(), "a:1", 2, 0).unwrap();
        assert!(part.path().exists());
    }

    #[test]
    fn no_copy_is_larger_than_it_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::open(dir.path(), "a:1", 2, 10).unwrap();
        let mut part = keep.begin(AT).unwrap();
        part.write(&[0; 10]).unwrap();
        assert!(part.write(&[0]).is_err_and(|e| e.lasting && e.why.contains("--escrow-max-bytes")));
        drop(part);
        assert!(names(dir.path()).is_empty());
    }
}
