//! Where the snapshot goes, and the tripwire: has it moved to where only an intruder sends it?
//!
//! Refuses to know: what is done about it.

use super::look::Look;

/// Where the snapshot goes: recorded while healthy, compared when an incident starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `dir`.
    pub dir: String,
    /// `dbfilename`.
    pub dbfilename: String,
}

impl Target {
    /// What `look` says, when it says both.
    pub fn of(look: &Look) -> Option<Target> {
        Some(Target { dir: look.dir.known()?.clone(), dbfilename: look.dbfilename.known()?.clone() })
    }

    /// The tripwire: did the target move from `healthy` to where only a break-in puts a snapshot?
    /// A deleted directory (empty `dir`) is not one, and neither is an odd target that was always
    /// there: it is the *move* that betrays the intruder. With nothing recorded only the places
    /// that are never right trip it.
    pub fn is_break_in(&self, healthy: Option<&Target>) -> bool {
        let dir = self.dir.trim_end_matches('/');
        let is_in = |list: &[&str], text: &str| list.iter().any(|p| pattern(p, text));
        match healthy {
            Some(healthy) => {
                (self.dir != healthy.dir && (is_in(&SUSPECT_DIRS, dir) || is_in(&NEVER_DIRS, dir)))
                    || (self.dbfilename != healthy.dbfilename && is_in(&SUSPECT_FILES, &self.dbfilename))
            }
            None => is_in(&NEVER_DIRS, dir) || self.dbfilename == "authorized_keys",
        }
    }
}

/// Directories that no operator saves into.
const NEVER_DIRS: [&str; 3] = ["/etc/cron*", "/var/spool/cron*", "*/.ssh"];

/// Directories an intruder points `dir` at. `*` at the front or the end stands for anything.
const SUSPECT_DIRS: [&str; 7] =
    ["/etc", "/root", "/tmp", "/var/www*", "/srv/www*", "/usr/share/nginx*", "/usr/local/lib*"];

/// File names an intruder gives the snapshot.
const SUSPECT_FILES: [&str; 6] = ["crontab", "root", "authorized_keys", "*.so", "*.php", "backup.db"];

fn pattern(pattern: &str, text: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(tail), _) => text.ends_with(tail),
        (None, Some(head)) => text.starts_with(head),
        (None, None) => text == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_move_into_a_suspect_place_trips() {
        let at = |dir: &str, file: &str| Target { dir: dir.into(), dbfilename: file.into() };
        let home = at("/data", "dump.rdb");
        for (dir, file, trips) in [
            ("/data", "dump.rdb", false),
            ("", "dump.rdb", false),
            ("/data2", "other.rdb", false),
            ("/etc/cron.d", "dump.rdb", true),
            ("/etc/cron.d/", "dump.rdb", true),
            ("/home/redis/.ssh", "dump.rdb", true),
            ("/data", "authorized_keys", true),
            ("/data", "evil.so", true),
            ("/tmp", "dump.rdb", true),
            ("/tmp/scratch", "dump.rdb", false),
        ] {
            assert_eq!(at(dir, file).is_break_in(Some(&home)), trips, "{dir} {file}");
        }
        assert!(!at("/tmp", "root").is_break_in(Some(&at("/tmp", "root"))));
        assert!(!at("/tmp", "root").is_break_in(None));
        assert!(at("/var/spool/cron", "dump.rdb").is_break_in(None));
    }
}
