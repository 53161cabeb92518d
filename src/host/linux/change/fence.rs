//! Directories that are never a data directory, whatever a server says: the system's own, and where break-ins write.
//!
//! Refuses to know: Redis. Invariant: known by their name as the process says it, and by their inode as the machine
//! and the process see them, so that no other name leads there.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{OFlags, fstat, stat};

use super::super::held::Held;

/// These themselves.
const SYSTEM: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib32",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/snap",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/local",
    "/usr/local/bin",
    "/usr/local/lib",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/lock",
    "/var/log",
    "/var/mail",
    "/var/opt",
    "/var/run",
    "/var/spool",
    "/var/tmp",
    "/var/www",
    "/dev/shm",
];
/// These and everything below.
const SYSTEM_TREES: &[&str] = &[
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/proc",
    "/sbin",
    "/sys",
    "/usr/bin",
    "/usr/lib",
    "/usr/sbin",
    "/usr/share",
    "/var/spool",
    "/var/www",
    "/run/systemd",
    "/var/lib/dpkg",
    "/var/lib/rpm",
    "/var/lib/systemd",
    "/var/lib/docker",
];

/// By its name.
pub fn is_system_path(path: &Path) -> bool {
    let home = path.strip_prefix("/home").is_ok_and(|rest| rest.components().count() <= 1);
    let plain = path.is_absolute() && path.components().all(|part| part.as_os_str() != "..");
    !plain
        || home
        || path.components().any(|part| part.as_os_str() == ".ssh")
        || SYSTEM.iter().any(|system| path == Path::new(system))
        || SYSTEM_TREES.iter().any(|system| path.starts_with(system))
}

/// By what it is.
pub fn is_system_dir(dir: &OwnedFd, held: &Held) -> std::io::Result<bool> {
    let here = fstat(dir)?;
    Ok(SYSTEM.iter().any(|system| {
        let ours = stat(*system).ok();
        let theirs = held.open_inside(Path::new(system), OFlags::PATH).ok().and_then(|fd| fstat(fd).ok());
        [ours, theirs]
            .into_iter()
            .flatten()
            .any(|there| (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_directories_are_no_data_directories() {
        for (path, system) in [
            ("/", true),
            ("/etc", true),
            ("/etc/cron.d", true),
            ("/var/spool/cron/crontabs", true),
            ("/root/.ssh", true),
            ("/home/me/.ssh", true),
            ("/home/me", true),
            ("/tmp", true),
            ("/tmp/", true),
            ("/var/lib", true),
            ("/var/lib/redis/..", true),
            ("/var/www/html", true),
            ("relative", true),
            ("", true),
            ("/proc/1/cwd", true),
            ("/var/lib/redis", false),
            ("/tmp/lab/data", false),
            ("/data", false),
            ("/home/me/redis", false),
            ("/etcetera", false),
            ("/opt/redis/data", false),
        ] {
            assert_eq!(is_system_path(Path::new(path)), system, "{path}");
        }
    }
}
