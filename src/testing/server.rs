//! A real server in a scratch directory, ended with it.
//!
//! Refuses to know: bgsafe, faults. Invariant: everything it made (process, directory, mount) is gone when it is
//! dropped, and it only ever ends the process it started, by pid. It listens on the loopback only.
//!
//! Trap: save points are passed as `--save 3600 1`, three arguments. As one quoted argument Redis 6 ends up with no
//! save points at all, never refuses a write, and a test goes green for the wrong reason.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::client::{Direct, Reply, text};
use super::faults::{kernel, process, shim};
use super::find::Program;

/// How a server is to be started. The default is a plain one with save points.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Further arguments, each word its own.
    pub args: Vec<String>,
    /// Start it with a configuration file, which CONFIG REWRITE writes.
    pub config_file: bool,
    /// Also listen on a unix socket in the scratch directory.
    pub unix_socket: bool,
    /// As root: run under a number that no user has, so that limits and modes bind. Otherwise no effect.
    pub unprivileged: bool,
    /// The data directory is a tmpfs of this many bytes (root only).
    pub tmpfs_bytes: Option<u64>,
    /// That tmpfs can hold only so many files.
    pub tmpfs_inodes: Option<u64>,
    /// Start it while overcommit accounting is strict in name (root only): its memory is charged from then on.
    pub strict_accounting: bool,
    /// Preload the shim that fails fork and fsync on demand (Linux, needs `cc`).
    pub shim: bool,
}

impl Options {
    /// Adds arguments.
    pub fn arg(mut self, words: &[&str]) -> Options {
        self.args.extend(words.iter().map(|&word| word.to_owned()));
        self
    }
}

/// What others need to know of a running server: where it is and whose.
#[derive(Clone, Debug)]
pub struct Site {
    /// The server process.
    pub pid: u32,
    /// Loopback.
    pub address: SocketAddr,
    /// The scratch directory: log, socket, shim flags.
    pub root: PathBuf,
    /// The data directory inside it.
    pub data: PathBuf,
    /// The number it runs under, when it is not ours.
    pub uid: Option<u32>,
}

impl Site {
    /// A new connection straight to the server.
    pub fn direct(&self) -> io::Result<Direct> {
        Direct::connect(self.address)
    }
}

/// See the module's page.
#[derive(Debug)]
pub struct Server {
    program: Program,
    options: Options,
    site: Site,
    child: Option<Child>,
    mount: Option<Mount>,
    // Last: the directory goes when nothing is in it any more.
    _scratch: tempfile::TempDir,
}

const CONFIG_FILE: &str = "redis.conf";
const START_TIMEOUT: Duration = Duration::from_secs(10);

impl Server {
    /// Starts a server and waits until it answers PING.
    pub fn start(program: &Program, options: Options) -> io::Result<Server> {
        let scratch = tempfile::Builder::new().prefix("bgsafe-lab-").tempdir()?;
        let root = scratch.path().canonicalize()?;
        let data = root.join("data");
        std::fs::create_dir(&data)?;
        let mount = match options.tmpfs_bytes {
            Some(bytes) => Some(Mount::tmpfs(&data, bytes, options.tmpfs_inodes)?),
            None => None,
        };
        let uid = (options.unprivileged && we_are_root()).then(scratch_uid);
        let mut program = program.clone();
        if let Some(uid) = uid {
            for path in [&root, &data] {
                std::os::unix::fs::chown(path, Some(uid), Some(uid))?;
            }
            program.path = reachable(&program, uid, &root)?;
        }
        if options.config_file {
            std::fs::write(root.join(CONFIG_FILE), "# Written by an operator.\n")?;
            if let Some(uid) = uid {
                std::os::unix::fs::chown(root.join(CONFIG_FILE), Some(uid), Some(uid))?;
            }
        }
        if options.shim {
            shim::compile(&root)?;
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let site = Site { pid: 0, address, root, data, uid };
        let mut server = Server { program, options, site, child: None, mount, _scratch: scratch };
        // Between our letting go of a free port and the server's taking it, somebody else may: then try another.
        let mut attempts = 5;
        loop {
            server.site.address.set_port(free_port()?);
            match server.spawn() {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 1 => attempts -= 1,
                Err(error) => return Err(error),
                Ok(()) => return Ok(server),
            }
        }
    }

    /// Ends the server if it runs, and starts it again on the same port and directory.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill9();
        self.spawn()
    }

    /// Ends the server at once, and the saves that it had started, as a power cut would.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Stopped first, so that it starts no other while they are ended. An orphaned save would go on
            // writing into a directory that is being removed.
            process::stop(child.id());
            process::kill_children(child.id());
            // Both fail only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// One command over a new connection; an I/O error names the upstream.
    pub fn cli(&self, words: &[&str]) -> io::Result<Reply> {
        self.site.direct()?.command(words)
    }

    /// A new connection straight to the server.
    pub fn direct(&self) -> io::Result<Direct> {
        self.site.direct()
    }

    /// Where it is.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.site.pid
    }

    /// Its loopback port.
    pub fn port(&self) -> u16 {
        self.site.address.port()
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.site.data
    }

    /// The unix socket, when asked for.
    pub fn socket(&self) -> Option<PathBuf> {
        self.options.unix_socket.then(|| self.site.root.join("sock"))
    }

    /// What its configuration file says now; empty when it has none.
    pub fn config_text(&self) -> String {
        std::fs::read_to_string(self.site.root.join(CONFIG_FILE)).unwrap_or_default()
    }

    /// What runs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Everything the server wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.site.root.join("server.log")).unwrap_or_default()
    }

    fn spawn(&mut self) -> io::Result<()> {
        let mut command = self.program.command();
        if self.options.config_file {
            command.arg(self.site.root.join(CONFIG_FILE));
        }
        command.args(["--bind", "127.0.0.1", "--port", &self.port().to_string(), "--daemonize", "no"]);
        command.args(["--save", "3600", "1", "--logfile"]).arg(self.site.root.join("server.log"));
        command.arg("--dir").arg(&self.site.data);
        if let Some(socket) = self.socket() {
            command.arg("--unixsocket").arg(socket);
        }
        command.args(&self.options.args).stdout(Stdio::null()).stderr(Stdio::null());
        for (name, value) in self.environment() {
            command.env(name, value);
        }
        if let Some(uid) = self.site.uid {
            command.uid(uid).gid(uid);
        }
        // Its own process group: Ctrl-C at a demo ends the demo, which then ends its servers in order.
        command.process_group(0);
        let _strict = match self.options.strict_accounting {
            true => Some(kernel::Strict::in_name()?),
            false => None,
        };
        let child = command.spawn()?;
        self.site.pid = child.id();
        self.child = Some(child);
        self.wait_for_pong()
    }

    fn environment(&self) -> Vec<(&'static str, OsString)> {
        match self.options.shim {
            true => shim::environment(&self.site.root),
            false => Vec::new(),
        }
    }

    fn wait_for_pong(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let child = self.child.as_mut().expect("spawn has just set it");
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Err(self.start_error(&format!("ended at once ({status})")));
            }
            let pong = self.cli(&["PING"]).map(|reply| text(&reply));
            // Another process may answer on a port we lost the race for: the pid tells.
            if pong.is_ok_and(|word| word == "PONG") {
                let pid = self.direct()?.info("process_id")?;
                if pid.as_deref() == Some(&*self.site.pid.to_string()) {
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                self.kill9();
                return Err(self.start_error("did not answer PING in 10 s"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn start_error(&self, what: &str) -> io::Error {
        let log = self.log();
        let kind = match log.contains("Address already in use") {
            true => io::ErrorKind::AddrInUse,
            false => io::ErrorKind::Other,
        };
        let tail: Vec<&str> = log.lines().rev().take(3).collect();
        io::Error::new(kind, format!("upstream: {} {what}: {}", self.program, tail.join(" | ")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill9();
        drop(self.mount.take());
    }
}

/// A mounted tmpfs; unmounted on drop.
#[derive(Debug)]
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(dir: &Path, bytes: u64, inodes: Option<u64>) -> io::Result<Mount> {
        let inodes = inodes.map(|count| format!(",nr_inodes={count}")).unwrap_or_default();
        let options = format!("size={bytes},mode=0777{inodes}");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir))?;
        Ok(Mount(dir.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A child of the server may still be writing its dump for a moment; a lazy unmount does not wait for it.
        if run(Command::new("umount").arg(&self.0)).is_err() {
            let _ = run(Command::new("umount").arg("-l").arg(&self.0));
        }
    }
}

/// Runs a program to its end; its last words become the error.
pub(super) fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let name = command.get_program().to_string_lossy().into_owned();
    Err(io::Error::other(format!("host: {name}: {words} ({})", output.status)))
}

/// A loopback port that was free a moment ago.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Does this process run as root?
pub fn we_are_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A user number that no account has, and that other test processes are not likely to use.
fn scratch_uid() -> u32 {
    61_000 + std::process::id() % 4_000
}

/// A path of the program that this user may run: a program in root's own cache is copied into the scratch directory.
fn reachable(program: &Program, uid: u32, root: &Path) -> io::Result<PathBuf> {
    let mut probe = program.command();
    let probe = probe.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).uid(uid).gid(uid);
    if probe.status().is_ok_and(|status| status.success()) {
        return Ok(program.path.clone());
    }
    let copy = root.join("server-program");
    std::fs::copy(&program.path, &copy)?;
    std::os::unix::fs::chown(&copy, Some(uid), Some(uid))?;
    Ok(copy)
}
