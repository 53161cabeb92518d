//! A bgsafe as a process of its own, on free ports, with its state in a scratch directory.
//!
//! Refuses to know: bgsafe's inside. It is judged by its ports, its admin answers and its exit, as an operator would.
//! Invariant: the process it started is ended by pid when it is dropped.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::server::free_port;
use crate::admin::client;

/// See the module's page.
#[derive(Debug)]
pub struct Proxy {
    program: PathBuf,
    uid: Option<u32>,
    upstream: String,
    args: Vec<String>,
    listen: SocketAddr,
    admin: SocketAddr,
    scratch: tempfile::TempDir,
    child: Option<Child>,
}

const READY_TIMEOUT: Duration = Duration::from_secs(10);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

impl Proxy {
    /// Starts `program run` in front of an upstream URL and waits until `/readyz` says yes.
    pub fn start(program: &Path, upstream: &str, args: &[&str]) -> io::Result<Proxy> {
        Proxy::start_as(program, upstream, args, None)
    }

    /// The same under another user's number (root only): a copy of the program, as ours may be out of its reach.
    pub fn start_as(program: &Path, upstream: &str, args: &[&str], uid: Option<u32>) -> io::Result<Proxy> {
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut proxy = Proxy {
            program: program.to_owned(),
            uid,
            upstream: upstream.to_owned(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            listen: nowhere,
            admin: nowhere,
            scratch: tempfile::Builder::new().prefix("bgsafe-proxy-").tempdir()?,
            child: None,
        };
        if let Some(uid) = uid {
            let scratch = proxy.scratch.path();
            std::os::unix::fs::chown(scratch, Some(uid), Some(uid))?;
            proxy.program = scratch.join("bgsafe");
            std::fs::copy(program, &proxy.program)?;
            std::os::unix::fs::chown(&proxy.program, Some(uid), Some(uid))?;
        }
        // A free port may be taken by somebody else before bgsafe binds it: then try others.
        let mut attempts = 3;
        loop {
            proxy.listen.set_port(free_port()?);
            proxy.admin.set_port(free_port()?);
            match proxy.spawn() {
                Err(_) if attempts > 1 && proxy.log().contains("in use") => attempts -= 1,
                Err(error) => return Err(error),
                Ok(()) => return Ok(proxy),
            }
        }
    }

    /// Starts it again after [`Proxy::kill9`] or [`Proxy::terminate`]: same ports, same state.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill9();
        self.spawn()
    }

    /// Ends it at once.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits for the drained exit. Past 10 s it is killed, and that is an error.
    pub fn terminate(&mut self) -> io::Result<ExitStatus> {
        let Some(mut child) = self.child.take() else {
            return Err(io::Error::other("us: it is not running"));
        };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a child's pid is positive"), Signal::TERM)?;
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::other("us: it did not drain in 10 s"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Where applications connect.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Its HTTP address.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Debts and incident records.
    pub fn state_dir(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    /// What it wrote to standard error and output since its first start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// A path of its admin address, as JSON. Blocks; not to be called on a runtime's thread.
    pub fn json(&self, path: &str) -> io::Result<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(fetch_json(self.admin, path))
    }

    /// The only upstream's entry in `/api/status`.
    pub fn upstream_status(&self) -> io::Result<Value> {
        Ok(self.json("/api/status")?["upstreams"][0].take())
    }

    /// Every incident in full, newest first.
    pub fn incidents(&self) -> io::Result<Vec<Value>> {
        let list = self.json("/api/incidents")?;
        let ids = list.as_array().into_iter().flatten().filter_map(|incident| incident["id"].as_str());
        ids.map(|id| self.json(&format!("/api/incidents/{id}"))).collect()
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    fn spawn(&mut self) -> io::Result<()> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(&self.program);
        command.args(["run", "--upstream", &self.upstream]);
        command.args(["--listen", &self.listen.to_string(), "--admin", &self.admin.to_string()]);
        command.arg("--state-dir").arg(self.state_dir()).args(&self.args);
        // Somebody's own settings must not reach into the scratch: neither a file nor the environment.
        command.current_dir(self.scratch.path());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BGSAFE_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        self.child = Some(command.spawn()?);

        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let child = self.child.as_mut().expect("it was just set");
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Err(self.start_error(&format!("ended at once ({status})")));
            }
            if self.ready() {
                return Ok(());
            }
            if Instant::now() > deadline {
                self.kill9();
                return Err(self.start_error("was not ready in 10 s"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ready(&self) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let answer = runtime.map(|runtime| runtime.block_on(client::get(self.admin, "/readyz")));
        matches!(answer, Ok(Ok((200, _))))
    }

    fn start_error(&self, what: &str) -> io::Error {
        let log = self.log();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        io::Error::other(format!("us: {} {what}: {}", self.program.display(), tail.join(" | ")))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// A path of an admin address, as JSON.
pub async fn fetch_json(admin: SocketAddr, path: &str) -> io::Result<Value> {
    match client::get(admin, path).await.map_err(io::Error::other)? {
        (200, body) => serde_json::from_str(&body).map_err(io::Error::other),
        (status, body) => Err(io::Error::other(format!("us: {path} answered {status}: {body}"))),
    }
}
