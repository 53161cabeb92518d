//! Mount tables: /proc/PID/mountinfo, line by line (`proc_namespace.c:show_mountinfo`).
//!
//! Refuses to know: what is mounted for whom. Invariant: a line that is not understood is no mount.

use std::path::{Path, PathBuf};

use crate::guard::evidence::Fact;

use super::read::{MOUNTS_BYTES_MAX, Tree};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor` of what is mounted.
    pub device: String,
    /// The directory of the filesystem that is seen here.
    pub root: String,
    /// Where, as the process names it.
    pub point: PathBuf,
    /// Of this mount only.
    pub options: String,
    /// `ext4`, `cgroup2` …
    pub filesystem: String,
    /// Of the filesystem, wherever it is mounted.
    pub super_options: String,
}

impl Mount {
    /// Is this word among the filesystem's options?
    pub fn has_super(&self, word: &str) -> bool {
        self.super_options.split(',').any(|option| option == word)
    }

    /// May nobody write through it?
    pub fn is_read_only(&self) -> bool {
        self.options.split(',').any(|option| option == "ro")
    }
}

/// As this process (`self`, or a number) sees them, in the order of mounting.
pub fn mounts(tree: &Tree, process: &str) -> Fact<Vec<Mount>> {
    let text = tree.text_within(format!("/proc/{process}/mountinfo"), MOUNTS_BYTES_MAX);
    text.map(|text| text.lines().filter_map(parse).collect())
}

/// The mount that a path lies on: the longest, and of those one upon the other the last.
pub fn over<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let fits = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    fits.max_by_key(|mount| mount.point.components().count())
}

fn parse(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let (device, root, point, options) = (left.next()?, left.next()?, left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (filesystem, _source, super_options) = (right.next()?, right.next()?, right.next()?);
    Some(Mount {
        device: device.into(),
        root: unescaped(root),
        point: unescaped(point).into(),
        options: options.into(),
        filesystem: filesystem.into(),
        super_options: super_options.into(),
    })
}

/// Blank, tab, line feed and backslash are written in octal.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, sign)| text.replace(code, sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_last_mount_over_a_path_counts() {
        let text = "1 0 8:1 / / rw - ext4 /dev/a rw\n\
            2 1 8:2 / /var/my\\040data rw,nosuid shared:1 - xfs /dev/b rw,prjquota\n\
            garbage\n3 1 8:3\n4 1 8:4 / /x ro - ext4\n\
            5 2 0:9 / /var/my\\040data ro - tmpfs tmpfs rw";
        let mounts: Vec<Mount> = text.lines().filter_map(parse).collect();
        assert_eq!(mounts.len(), 3);
        for (path, device) in [
            ("/var/my data/redis", "0:9"),
            ("/var/my data", "0:9"),
            ("/var/my database", "8:1"),
            ("/", "8:1"),
        ] {
            assert_eq!(
                over(&mounts, Path::new(path)).map(|mount| mount.device.as_str()),
                Some(device),
                "{path}"
            );
        }
        assert_eq!(over(&mounts, Path::new("relative")), None);
        assert!(mounts[1].has_super("prjquota") && !mounts[1].has_super("quota"));
    }
}
