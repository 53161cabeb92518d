//! What two logs say of a failed save: the server's own and the kernel's. Lines into classes, by a
//! table.
//!
//! Refuses to know: where the lines came from. Invariant: a line is never shown whole where it could
//! hold what the operator did not mean to show; the class and the errno's text are enough.

/// What the server's log says happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogClass {
    /// `fork: Cannot allocate memory`.
    ForkEnomem,
    /// `fork: Resource temporarily unavailable`.
    ForkEagain,
    /// The child was ended by this signal.
    Signal(u8),
    /// The file could not be opened, for this errno.
    Open(Errno),
    /// … could not be written or synced.
    Write(Errno),
    /// … could not be renamed into place.
    Rename(Errno),
    /// The AOF could not be written.
    AofWrite(Errno),
    /// … could not be synced.
    AofSync(Errno),
    /// A save ended well: what is older does not matter any more.
    Saved,
}

/// The errno's text (strerror), as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Errno {
    /// No such file or directory.
    Noent,
    /// Permission denied.
    Acces,
    /// Operation not permitted.
    Perm,
    /// Read-only file system.
    Rofs,
    /// No space left on device.
    Nospc,
    /// Disk quota exceeded.
    Dquot,
    /// Too many open files (in system).
    Mfile,
    /// Input/output error.
    Io,
    /// Stale file handle.
    Stale,
    /// Is a directory.
    Isdir,
    /// File too large.
    Fbig,
    /// Any other.
    Other,
}

/// A line of the server's log that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// What it says.
    pub class: LogClass,
    /// Its text without pid, role and time; at most 200 characters.
    pub text: String,
}

/// What the kernel's log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelClass {
    /// A process was killed for want of memory.
    OomKill,
    /// A block device or filesystem reported an error.
    IoError,
    /// AppArmor or SELinux denied something to the server.
    LsmDenied,
}

/// A line of the kernel's log that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelLine {
    /// What it says.
    pub class: KernelClass,
    /// Its text, at most 200 characters.
    pub text: String,
}

/// Lines kept of one log, the newest.
const LINES_MAX: usize = 20;
/// Characters kept of one line.
const TEXT_MAX: usize = 200;

/// How a class of line is told: by words that no version changed.
struct Row {
    /// The line holds this; what stands before is pid, role and time.
    core: &'static str,
    /// … and this somewhere behind it.
    also: &'static str,
    /// What it says, given the text behind the last colon.
    class: fn(&str) -> LogClass,
}

/// What ends a save, in the words of `rdb.c:rdbSave` and `rdb.c:backgroundSaveDoneHandlerDisk` from 2.6 on. ≥ 7.0
/// names the temporary file and the failed call, 3.2 to 6.2 the dbfilename, ≤ 2.8 nothing.
#[rustfmt::skip]
const ROWS: [Row; 13] = [
    Row { core: "DB saved on disk", also: "", class: |_| LogClass::Saved },
    Row { core: "Background saving terminated with success", also: "", class: |_| LogClass::Saved },
    Row { core: "Can't save in background: fork: ", also: "Cannot allocate memory", class: |_| LogClass::ForkEnomem },
    Row { core: "Can't save in background: fork: ", also: "Resource temporarily unavailable", class: |_| LogClass::ForkEagain },
    Row { core: "Background saving terminated by signal ", also: "", class: signal },
    Row { core: "Failed opening ", also: "for saving: ", class: |e| LogClass::Open(Errno::read(e)) },
    Row { core: "Write error saving DB on disk", also: ": ", class: |e| LogClass::Write(Errno::read(e)) },
    Row { core: "Write error while saving DB to the disk", also: ": ", class: |e| LogClass::Write(Errno::read(e)) },
    Row { core: "Error moving temp DB file ", also: "destination", class: |e| LogClass::Rename(Errno::read(e)) },
    Row { core: "Error writing to the AOF file: ", also: "", class: |e| LogClass::AofWrite(Errno::read(e)) },
    // Told to clients as ENOSPC whatever the reason (`aof.c:flushAppendOnlyFile`).
    Row { core: "Short write while writing to the AOF file", also: "", class: |_| LogClass::AofWrite(Errno::Nospc) },
    Row { core: "Fail to fsync the AOF file: ", also: "", class: |e| LogClass::AofSync(Errno::read(e)) },
    Row { core: "Can't persist AOF for fsync error", also: ": ", class: |e| LogClass::AofSync(Errno::read(e)) },
];

/// A new process begins with a clean slate (`server.c:initServer`).
const STARTS: [&str; 2] = ["oO0OoO0OoO0Oo", "Server started, Redis version"];
/// `aof.c:flushAppendOnlyFile`, when a write works again.
const AOF_SOLVED: &str = "AOF write error looks solved";

/// strerror, as glibc and musl say it.
const ERRNOS: [(&str, Errno); 17] = [
    ("No such file or directory", Errno::Noent),
    ("Permission denied", Errno::Acces),
    ("Operation not permitted", Errno::Perm),
    ("Read-only file system", Errno::Rofs),
    ("No space left on device", Errno::Nospc),
    ("Disk quota exceeded", Errno::Dquot),
    ("Quota exceeded", Errno::Dquot),
    ("Too many open files", Errno::Mfile),
    ("No file descriptors available", Errno::Mfile),
    ("Input/output error", Errno::Io),
    ("I/O error", Errno::Io),
    ("Remote I/O error", Errno::Io),
    ("Stale file handle", Errno::Stale),
    ("Stale NFS file handle", Errno::Stale),
    ("Is a directory", Errno::Isdir),
    ("File too large", Errno::Fbig),
    ("No error information", Errno::Other),
];

impl Errno {
    /// From the text that strerror gave, with whatever stands behind it.
    pub fn read(text: &str) -> Errno {
        let text = text.trim();
        ERRNOS.iter().find(|(words, _)| text.starts_with(words)).map_or(Errno::Other, |(_, errno)| *errno)
    }
}

impl LogClass {
    /// Of the append-only file, not of the snapshot.
    pub fn is_aof(self) -> bool {
        matches!(self, LogClass::AofWrite(_) | LogClass::AofSync(_))
    }

    /// What stood in the way, where an errno says it.
    pub fn errno(self) -> Option<Errno> {
        match self {
            LogClass::Open(errno) | LogClass::Write(errno) | LogClass::Rename(errno) => Some(errno),
            LogClass::AofWrite(errno) | LogClass::AofSync(errno) => Some(errno),
            LogClass::ForkEnomem | LogClass::ForkEagain | LogClass::Signal(_) | LogClass::Saved => None,
        }
    }
}

/// What the server's log says since its newest good save, oldest first: at most the newest twenty
/// lines. A good save ends what was said of snapshots, not of the AOF; a start of the server ends all.
pub fn read_log(text: &str) -> Vec<LogLine> {
    let mut lines: Vec<LogLine> = Vec::new();
    for line in text.lines() {
        if STARTS.iter().any(|start| line.contains(start)) {
            lines.clear();
        } else if line.contains(AOF_SOLVED) {
            lines.retain(|line| !line.class.is_aof());
        } else if let Some(read) = read_line(line) {
            match read.class {
                LogClass::Saved => lines.retain(|line| line.class.is_aof()),
                _ => lines.push(read),
            }
        }
    }
    newest(lines)
}

/// The newest child that a server's log tells of (`rdb.c:rdbSaveBackground`).
pub fn read_saver(text: &str) -> Option<u32> {
    text.lines()
        .rev()
        .find_map(|line| line.split_once("Background saving started by pid ")?.1.trim().parse().ok())
}

fn read_line(line: &str) -> Option<LogLine> {
    ROWS.iter().find_map(|row| {
        let text = &line[line.find(row.core)?..];
        let behind = &text[row.core.len()..];
        // A core that ends in the errno's colon leaves nothing but the errno behind it.
        let last = behind.rsplit_once(": ").map_or(behind, |(_, last)| last);
        behind.contains(row.also).then(|| LogLine { class: (row.class)(last), text: cut(text) })
    })
}

fn signal(behind: &str) -> LogClass {
    let digits: String = behind.chars().take_while(char::is_ascii_digit).collect();
    LogClass::Signal(digits.parse().unwrap_or(0))
}

/// Names of servers, as the kernel tells a process by (`comm`).
const SERVERS: [&str; 4] = ["redis", "valkey", "keydb", "redict"];

/// Words of a disk or filesystem in trouble.
const DISK_WORDS: [&str; 11] = [
    "I/O error, dev ",
    "I/O error on dev",
    "critical medium error, dev ",
    "EXT4-fs error",
    "EXT3-fs error",
    "Remounting filesystem read-only",
    "metadata I/O error",
    "log I/O error",
    "BTRFS error",
    "not responding, still trying",
    "not responding, timed out",
];

/// What the kernel's log says of the process `pid`, of servers like it, and of disks: at most the newest twenty
/// lines, oldest first. The child of a save has a pid of its own but its parent's name.
pub fn read_kernel(text: &str, pid: u32) -> Vec<KernelLine> {
    let read = |line: &str| {
        let class = kernel_class(line, pid)?;
        // Behind the time in brackets, or whole.
        let text = line.split_once("] ").map_or(line, |(_, text)| text);
        Some(KernelLine { class, text: cut(text) })
    };
    newest(text.lines().filter_map(read).collect())
}

fn kernel_class(line: &str, pid: u32) -> Option<KernelClass> {
    let server = |name: &str| SERVERS.iter().any(|server| name.contains(server));
    if let Some((_, behind)) = line.split_once("Killed process ").or_else(|| line.split_once("Kill process "))
    {
        let digits: String = behind.chars().take_while(char::is_ascii_digit).collect();
        let comm = behind[digits.len()..]
            .split_once('(')
            .and_then(|(_, c)| c.split_once(')'))
            .map_or("", |(c, _)| c);
        return (digits.parse() == Ok(pid) || server(comm)).then_some(KernelClass::OomKill);
    }
    let denied = line.contains("apparmor=\"DENIED\"") || (line.contains("avc:") && line.contains("denied"));
    if denied {
        let comm = line.split_once("comm=\"").and_then(|(_, c)| c.split_once('"')).map_or("", |(c, _)| c);
        let own = line
            .split_whitespace()
            .any(|word| word.strip_prefix("pid=").is_some_and(|p| p.parse() == Ok(pid)));
        return (own || server(comm)).then_some(KernelClass::LsmDenied);
    }
    // Drives without a disk in them complain on many hosts.
    let empty_drive = ["dev fd0", "dev sr0"].iter().any(|drive| line.contains(drive));
    let disk = !empty_drive && DISK_WORDS.iter().any(|words| line.contains(words));
    disk.then_some(KernelClass::IoError)
}

fn cut(text: &str) -> String {
    text.trim_end().chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect()
}

fn newest<T>(mut lines: Vec<T>) -> Vec<T> {
    lines.drain(..lines.len().saturating_sub(LINES_MAX));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_child_is_the_one_that_counts() {
        let text = "1:M * Background saving started by pid 7\n1:M * Background saving started by pid 9\nx\n";
        assert_eq!((read_saver(text), read_saver("started by pid")), (Some(9), None));
    }

    #[test]
    fn each_version_says_it_in_its_own_words() {
        #[rustfmt::skip]
        let table = [
            ("812:M 01 Nov 2026 10:00:00.123 # Can't save in background: fork: Cannot allocate memory", LogClass::ForkEnomem),
            ("[4021] 05 Mar 11:20:33.001 # Can't save in background: fork: Cannot allocate memory", LogClass::ForkEnomem),
            ("1:M 01 Nov 2026 10:00:00.123 # Can't save in background: fork: Resource temporarily unavailable", LogClass::ForkEagain),
            ("1:M 01 Nov 2026 10:00:00.123 # Background saving terminated by signal 9", LogClass::Signal(9)),
            ("1:M 01 Nov 2026 10:00:00.123 # Background saving terminated by signal 25", LogClass::Signal(25)),
            ("[7] 01 Nov 10:00:00 # Failed opening .rdb for saving: Permission denied", LogClass::Open(Errno::Acces)),
            ("9:C 01 Nov 10:00:00.1 # Failed opening the RDB file root (in server root dir /etc/cron.d) for saving: Permission denied", LogClass::Open(Errno::Acces)),
            ("9:C 01 Nov 2026 10:00:00.1 # Failed opening the temp RDB file temp-9.rdb (in server root dir unknown) for saving: No such file or directory", LogClass::Open(Errno::Noent)),
            ("9:C 01 Nov 2026 10:00:00.1 # Failed opening the temp RDB file temp-9.rdb (in server root dir /data) for saving: Too many open files in system", LogClass::Open(Errno::Mfile)),
            ("9:C 01 Nov 10:00:00.1 # Write error saving DB on disk: No space left on device", LogClass::Write(Errno::Nospc)),
            ("9:C 01 Nov 2026 10:00:00.1 # Write error saving DB on disk(rdbSaveRio): No space left on device", LogClass::Write(Errno::Nospc)),
            ("9:C 01 Nov 2026 10:00:00.1 # Write error saving DB on disk(fsync): Input/output error", LogClass::Write(Errno::Io)),
            ("9:C 01 Nov 2026 10:00:00.1 # Write error while saving DB to the disk(fflush): Disk quota exceeded", LogClass::Write(Errno::Dquot)),
            ("9:C 01 Nov 2026 10:00:00.1 # Error moving temp DB file temp-9.rdb on the final destination dump.rdb (in server root dir /data): Is a directory", LogClass::Rename(Errno::Isdir)),
            ("[9] 01 Nov 10:00:00.1 # Error moving temp DB file on the final destination: Operation not permitted", LogClass::Rename(Errno::Perm)),
            ("1:M 01 Nov 2026 10:00:00.1 # Error writing to the AOF file: Read-only file system", LogClass::AofWrite(Errno::Rofs)),
            ("1:M 01 Nov 2026 10:00:00.1 # Short write while writing to the AOF file: (nwritten=12, expected=40)", LogClass::AofWrite(Errno::Nospc)),
            ("1:M 01 Nov 2026 10:00:00.1 # Fail to fsync the AOF file: Input/output error", LogClass::AofSync(Errno::Io)),
            ("pid=1 role=primary timestamp=\"01 Nov\" level=warning message=\"Can't save in background: fork: Cannot allocate memory\"", LogClass::ForkEnomem),
            ("1:M 01 Nov 2026 10:00:00.1 # Fail to fsync the AOF file: Something nobody has seen", LogClass::AofSync(Errno::Other)),
        ];
        for (line, class) in table {
            let read = read_log(line);
            assert_eq!(read.iter().map(|l| l.class).collect::<Vec<_>>(), [class], "{line}");
            assert!(!read[0].text.contains("2026") && !read[0].text.starts_with('['), "{}", read[0].text);
        }
    }

    #[test]
    fn only_what_came_after_the_newest_good_save_is_told() {
        let enomem = "1:M # Can't save in background: fork: Cannot allocate memory\n";
        let full = "9:C # Write error saving DB on disk(fclose): No space left on device\n";
        let aof = "1:M # Error writing to the AOF file: No space left on device\n";
        let classes = |text: String| read_log(&text).iter().map(|l| l.class).collect::<Vec<_>>();
        let (full_class, aof_class) = (LogClass::Write(Errno::Nospc), LogClass::AofWrite(Errno::Nospc));
        for saved in ["9:C * DB saved on disk\n", "1:M * Background saving terminated with success\n"] {
            assert_eq!(classes(format!("{enomem}{saved}{full}")), [full_class]);
            assert_eq!(classes(format!("{full}{saved}")), []);
            assert_eq!(classes(format!("{aof}{saved}")), [aof_class], "a snapshot proves nothing of the AOF");
        }
        assert_eq!(
            classes(format!("{full}{aof}1:M * AOF write error looks solved, server can write again.\n")),
            [full_class]
        );
        assert_eq!(
            classes(format!("{full}{aof}1:C # oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo\n{enomem}")),
            [LogClass::ForkEnomem]
        );
        assert_eq!(read_log(&enomem.repeat(50)).len(), LINES_MAX);
        assert_eq!(
            classes("1:M * 100 changes in 60 seconds. Saving...\n1:M # Background saving error\n".into()),
            []
        );
    }

    #[test]
    fn the_kernel_speaks_of_this_process_of_its_kin_and_of_disks() {
        #[rustfmt::skip]
        let table = [
            ("[ 11.1] Out of memory: Killed process 4711 (sh) total-vm:1kB, anon-rss:1kB", Some(KernelClass::OomKill)),
            ("[ 11.1] Memory cgroup out of memory: Killed process 99 (redis-server) total-vm:93kB", Some(KernelClass::OomKill)),
            ("Memory cgroup out of memory: Kill process 99 (valkey-server) score 900 or sacrifice child", Some(KernelClass::OomKill)),
            ("[ 11.1] Out of memory: Killed process 99 (java) total-vm:1kB", None),
            ("[ 11.1] blk_update_request: I/O error, dev sda, sector 2048 op 0x1:(WRITE)", Some(KernelClass::IoError)),
            ("[ 11.1] Buffer I/O error on device sda1, logical block 17", Some(KernelClass::IoError)),
            ("[ 11.1] EXT4-fs error (device sda1): ext4_find_entry:1455: inode #2: comm ls: reading directory", Some(KernelClass::IoError)),
            ("[ 11.1] EXT4-fs (sda1): Remounting filesystem read-only", Some(KernelClass::IoError)),
            ("[ 11.1] audit: type=1400 audit(1:2): apparmor=\"DENIED\" operation=\"mknod\" profile=\"r\" name=\"/d/temp-1.rdb\" pid=99 comm=\"redis-server\"", Some(KernelClass::LsmDenied)),
            ("type=1400 audit(1:2): avc:  denied  { write } for  pid=4711 comm=\"x\" name=\"data\" dev=\"sda1\"", Some(KernelClass::LsmDenied)),
            ("type=1400 audit(1:2): avc:  denied  { write } for  pid=47110 comm=\"httpd\" name=\"data\"", None),
            ("[ 11.1] blk_update_request: I/O error, dev fd0, sector 0", None),
            ("[ 11.1] nfs: server db-nfs not responding, still trying", Some(KernelClass::IoError)),
            ("[ 11.1] nfs: server db-nfs OK", None),
            ("[ 11.1] usb 1-1: new high-speed USB device", None),
        ];
        for (line, class) in table {
            assert_eq!(read_kernel(line, 4711).first().map(|l| l.class), class, "{line}");
        }
    }

    #[test]
    fn no_text_grows_and_no_character_is_cut_in_two() {
        let line = format!("Failed opening the RDB file {} for saving: Permission denied", "é".repeat(500));
        assert_eq!(read_log(&line)[0].text.chars().count(), TEXT_MAX);
        assert_eq!(read_log("Background saving terminated by signal 999999")[0].class, LogClass::Signal(0));
        assert!(read_kernel("Killed process (", 1).is_empty());
    }
}
