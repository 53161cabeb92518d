//! A primary with its replicas and the Sentinels that watch them, for real, on free loopback ports.
//!
//! Refuses to know: bgsafe. Invariants: when [`Topology::start`] returns, each replica is in step and each Sentinel
//! knows the replicas and the other Sentinels, so a failover could happen; each process that was started here is
//! ended by its pid when its owner is dropped.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::client::{Direct, Reply, text};
use super::faults::process;
use super::find::Program;
use super::server::{Options, Server, free_port};

/// How many of what, and how impatient. The default is the usual one: two replicas, three Sentinels, 2 s.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Replicas of the first server.
    pub replicas: usize,
    /// Sentinels; none is a plain replication group.
    pub sentinels: usize,
    /// Sentinels that must agree that the primary is down.
    pub quorum: usize,
    /// `down-after-milliseconds`.
    pub down_after: Duration,
    /// `failover-timeout`.
    pub failover_timeout: Duration,
    /// Of every server.
    pub options: Options,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            replicas: 2,
            sentinels: 3,
            quorum: 2,
            down_after: Duration::from_secs(2),
            failover_timeout: Duration::from_secs(4),
            options: Options::default(),
        }
    }
}

/// What the Sentinels call the group.
pub const NAME: &str = "lab";

/// On a busy machine everything takes its time: Sentinels greet each other every 2 s.
const PATIENCE: Duration = Duration::from_secs(40);

/// See the module's page. Dropped in this order: Sentinels, then servers.
#[derive(Debug)]
pub struct Topology {
    /// They watch the servers.
    pub sentinels: Vec<Sentinel>,
    /// The first one begins as the primary.
    pub servers: Vec<Server>,
}

impl Topology {
    /// Starts everything and waits until everybody knows everybody.
    pub fn start(program: &Program, plan: &Plan) -> io::Result<Topology> {
        let options =
            || plan.options.clone().arg(&["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]);
        let mut servers = vec![Server::start(program, options())?];
        let port = servers[0].port().to_string();
        for _ in 0..plan.replicas {
            servers.push(Server::start(program, options().arg(&["--replicaof", "127.0.0.1", &port]))?);
        }
        for replica in &servers[1..] {
            wait_for("a replica to be in step", || {
                Ok(replica.direct()?.info("master_link_status")?.as_deref() == Some("up"))
            })?;
        }
        let watched = servers[0].site().address;
        let sentinels: io::Result<Vec<_>> =
            (0..plan.sentinels).map(|_| Sentinel::start(program, watched, plan)).collect();
        let topology = Topology { sentinels: sentinels?, servers };
        for sentinel in &topology.sentinels {
            wait_for("the Sentinels to know everybody", || {
                let of = |field: &str| sentinel.field(field);
                Ok(of("num-slaves")? == plan.replicas.to_string()
                    && of("num-other-sentinels")? == (plan.sentinels - 1).to_string()
                    && of("flags")? == "master")
            })?;
        }
        Ok(topology)
    }

    /// The server that this Sentinel takes for the primary.
    pub fn primary_of(&self, sentinel: usize) -> io::Result<SocketAddr> {
        self.sentinels[sentinel].primary()
    }

    /// The server at this address.
    pub fn server(&self, at: SocketAddr) -> Option<&Server> {
        self.servers.iter().find(|server| server.site().address == at)
    }

    /// `host:port` of every Sentinel, separated by commas.
    pub fn sentinel_list(&self) -> String {
        let all: Vec<String> = self.sentinels.iter().map(|s| s.address().to_string()).collect();
        all.join(",")
    }

    /// Waits until every living Sentinel names another primary than `old`, and that one says so too; where it is.
    pub fn wait_for_another_primary(&self, old: SocketAddr) -> io::Result<SocketAddr> {
        let mut found = old;
        wait_for("a failover", || {
            let living = self.sentinels.iter().filter(|s| s.is_alive());
            let named: io::Result<Vec<_>> = living.map(Sentinel::primary).collect();
            let named = named?;
            let Some(&first) = named.first() else { return Ok(false) };
            found = first;
            let agreed = first != old && named.iter().all(|&at| at == first);
            Ok(agreed && role(&mut Direct::connect(first)?)? == "master")
        })?;
        Ok(found)
    }
}

/// The first word of ROLE.
pub fn role(server: &mut Direct) -> io::Result<String> {
    match server.demand(&["ROLE"])? {
        Reply::Array(items) => Ok(items.first().map(text).unwrap_or_default()),
        other => Err(io::Error::other(format!("upstream: ROLE answered {other:?}"))),
    }
}

/// Waits for something that must come, and says what did not. An error while waiting is one more "not yet".
pub fn wait_for(what: &str, mut ready: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let last = ready();
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("in vain for {PATIENCE:?}: {what} ({last:?})")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One Sentinel.
#[derive(Debug)]
pub struct Sentinel {
    address: SocketAddr,
    pid: u32,
    child: Option<Child>,
    scratch: tempfile::TempDir,
}

impl Sentinel {
    /// Starts one that watches `primary`, and waits until it answers.
    pub fn start(program: &Program, primary: SocketAddr, plan: &Plan) -> io::Result<Sentinel> {
        let mut attempts = 5;
        loop {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
            match Sentinel::start_at(program, address, primary, plan) {
                // Between our letting go of a free port and its taking it, somebody else may.
                Err(_) if attempts > 1 => attempts -= 1,
                result => return result,
            }
        }
    }

    fn start_at(
        program: &Program,
        address: SocketAddr,
        primary: SocketAddr,
        plan: &Plan,
    ) -> io::Result<Sentinel> {
        let scratch = tempfile::Builder::new().prefix("bgsafe-sentinel-").tempdir()?;
        let conf = scratch.path().join("sentinel.conf");
        std::fs::write(
            &conf,
            format!(
                "port {}\nbind 127.0.0.1\nprotected-mode no\ndir {}\nlogfile {}\n\
                 sentinel monitor {NAME} {} {} {}\n\
                 sentinel down-after-milliseconds {NAME} {}\n\
                 sentinel failover-timeout {NAME} {}\nsentinel parallel-syncs {NAME} 1\n",
                address.port(),
                scratch.path().display(),
                scratch.path().join("log").display(),
                primary.ip(),
                primary.port(),
                plan.quorum,
                plan.down_after.as_millis(),
                plan.failover_timeout.as_millis(),
            ),
        )?;
        let mut command = program.command();
        command.arg(&conf).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let child = command.spawn()?;
        let mut sentinel = Sentinel { address, pid: child.id(), child: Some(child), scratch };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = sentinel.child.as_mut().expect("it was just set").try_wait()?;
            // Another process may answer on a port we lost the race for: the name of the group tells.
            let answers = ended.is_none() && sentinel.primary().is_ok_and(|at| at == primary);
            if answers {
                return Ok(sentinel);
            }
            if ended.is_some() || Instant::now() > deadline {
                let log = sentinel.log();
                let tail: Vec<&str> = log.lines().rev().take(3).collect();
                return Err(io::Error::other(format!("Sentinel did not start: {}", tail.join(" | "))));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// One command on a connection of its own; an error reply is an error.
    pub fn command(&self, words: &[&str]) -> io::Result<Reply> {
        Direct::connect(self.address)?.demand(words)
    }

    /// The primary, as it says.
    pub fn primary(&self) -> io::Result<SocketAddr> {
        let said = text(&self.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME])?);
        let at = said.split_once(' ').map(|(ip, port)| format!("{ip}:{port}")).unwrap_or_default();
        at.parse().map_err(|_| io::Error::other(format!("Sentinel answered {said:?}")))
    }

    /// One field of `SENTINEL MASTER`.
    pub fn field(&self, name: &str) -> io::Result<String> {
        let Reply::Array(pairs) = self.command(&["SENTINEL", "MASTER", NAME])? else {
            return Ok(String::new());
        };
        let at = pairs.iter().position(|word| text(word) == name);
        Ok(at.and_then(|at| pairs.get(at + 1)).map(text).unwrap_or_default())
    }

    /// Does it run?
    pub fn is_alive(&self) -> bool {
        self.child.is_some()
    }

    /// Ends it at once.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it, as a machine that hangs: connections stand and nothing answers. [`Sentinel::thaw`] wakes it.
    pub fn freeze(&self) {
        process::stop(self.pid);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        process::go_on(self.pid);
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.kill9();
    }
}
