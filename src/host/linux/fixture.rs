//! A machine made of files: a /proc, a /sys and one server on it, to be spoiled in one place.
//!
//! Invariant: everything is below one scratch directory.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::guard::evidence::HostFacts;
use crate::host::{Asked, Host};

use super::Linux;

/// The server's number on the host.
pub const PID: u32 = 40;
const PORT: u16 = 6379;
const INODE: u32 = 555;

/// Spoils a fixture in one place.
pub type Spoil = fn(&Fixture);

pub struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    /// Nothing at all.
    pub fn empty() -> Fixture {
        Fixture { dir: tempfile::tempdir().unwrap() }
    }

    /// A machine with systemd and unified control groups, and one server on it that began 100 s ago.
    pub fn new() -> Fixture {
        let at = Fixture::empty();
        at.write("/proc/uptime", "1000.00 99.9\n");
        at.write(
            "/proc/meminfo",
            "MemTotal: 1000 kB\nMemAvailable: 400 kB\nSwapTotal: 0 kB\nCommitLimit: 7 kB\n",
        );
        at.write("/proc/sys/vm/overcommit_memory", "0\n");
        at.write("/proc/sys/kernel/pid_max", "32768\n");
        at.write("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
        at.write("/sys/kernel/mm/transparent_hugepage/defrag", "always defer [madvise] never\n");
        at.mounts("22 1 8:1 / / rw - ext4 /dev/a rw\n30 22 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        at.write("/proc/self/cgroup", "0::/\n");
        at.namespaces("self");
        at.process(1, "systemd", 0, &[1], 0.0);
        at.process(PID, "redis-server", 1, &[PID], 900.0);
        at.write("/rootfs/var/lib/redis/dump.rdb", "REDIS0011");
        at.link(&format!("/proc/{PID}/root"), &at.path("/rootfs"));
        at.link(&format!("/proc/{PID}/cwd"), &at.path("/rootfs/var/lib/redis"));
        at.link(&format!("/proc/{PID}/fd/6"), Path::new(&format!("socket:[{INODE}]")));
        at.listens(PID, PORT, INODE);
        at.group("0::/system.slice/redis-server.service\n");
        at.write("/sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n");
        let own = "/sys/fs/cgroup/system.slice/redis-server.service";
        for (file, text) in [
            ("memory.max", "1000\n"),
            ("memory.current", "700\n"),
            ("memory.stat", "anon 5\ninactive_file 300\nactive_file 4\n"),
            ("memory.swap.max", "max\n"),
            ("memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\n"),
            ("pids.max", "max\n"),
            ("pids.current", "6\n"),
            ("pids.events", "max 0\n"),
        ] {
            at.write(&format!("{own}/{file}"), text);
        }
        at
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn link(&self, path: &str, target: &Path) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(target, path).unwrap();
    }

    pub fn remove(&self, path: &str) {
        let path = self.path(path);
        match path.symlink_metadata().unwrap().is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }

    /// As the host's first process, we and the server see them.
    pub fn mounts(&self, text: &str) {
        for process in ["1", "self", "40"] {
            self.write(&format!("/proc/{process}/mountinfo"), text);
        }
    }

    pub fn group(&self, text: &str) {
        self.write(&format!("/proc/{PID}/cgroup"), text);
    }

    pub fn namespaces(&self, process: &str) {
        self.link(&format!("/proc/{process}/ns/pid"), Path::new("pid:[4026531836]"));
        self.link(&format!("/proc/{process}/ns/cgroup"), Path::new("cgroup:[4026531835]"));
    }

    pub fn process(&self, pid: u32, comm: &str, parent: u32, ns_pids: &[u32], start_secs: f64) {
        let ticks = (start_secs * rustix::param::clock_ticks_per_second() as f64) as u64;
        let zeros = ["0"; 17].join(" ");
        self.write(&format!("/proc/{pid}/stat"), &format!("{pid} ({comm}) S {parent} {zeros} {ticks} 0 0\n"));
        let ns: Vec<String> = ns_pids.iter().map(u32::to_string).collect();
        let me = rustix::process::geteuid().as_raw();
        let status = format!(
            "Name:\t{comm}\nUid:\t{me}\t{me}\t{me}\t{me}\nGid:\t9\t9\t9\t9\nGroups:\t9 30 \nNSpid:\t{}\n\
             VmRSS:\t  100 kB\nVmData:\t  200 kB\nTHP_enabled:\t0\nThreads:\t4\nCapEff:\t0000000000000000\n",
            ns.join("\t")
        );
        self.write(&format!("/proc/{pid}/status"), &status);
        self.write(
            &format!("/proc/{pid}/limits"),
            "Limit  Soft Limit  Hard Limit  Units\nMax processes 10 unlimited processes\nMax open files 1024 4096 files\n",
        );
        self.write(&format!("/proc/{pid}/oom_score_adj"), "-17\n");
        self.write(&format!("/proc/{pid}/attr/current"), "unconfined\n");
        self.write(&format!("/proc/{pid}/uid_map"), "         0          0 4294967295\n");
        self.write(&format!("/proc/{pid}/gid_map"), "         0          0 4294967295\n");
        self.namespaces(&pid.to_string());
        self.link(&format!("/proc/{pid}/fd/0"), Path::new("/dev/null"));
    }

    pub fn listens(&self, pid: u32, port: u16, inode: u32) {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let line = format!(
            "   0: 0100007F:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 {inode} 1 0\n"
        );
        self.write(&format!("/proc/{pid}/net/tcp"), &format!("{head}{line}"));
    }

    pub fn asked() -> Asked {
        Asked {
            last_save: None,
            local: true,
            process_id: Some(PID.into()),
            uptime_secs: Some(100),
            tcp_port: Some(PORT),
            dir: Some("/var/lib/redis".into()),
            dbfilename: Some("dump.rdb".into()),
            logfile: Some("server.log".into()),
        }
    }

    pub fn host(&self) -> Linux {
        Linux::at(self.dir.path())
    }

    pub fn facts(&self) -> HostFacts {
        self.host().facts(&Fixture::asked())
    }
}
