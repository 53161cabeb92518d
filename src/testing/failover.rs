//! What applications see when the primary changes: the same writers, the same event, behind bgsafe or behind HAProxy.
//!
//! HAProxy stands there as it is usually set up for Redis: it asks each server PING and INFO, and takes the one that
//! says `role:master` (its makers' published check). Refuses to know: how anybody follows a primary. Invariant: tokens
//! are counted at the server that is the primary when all is over, past whatever stood in front.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::client::Direct;
use super::faults::{Fault, process};
use super::find::Program;
use super::proxy::Proxy;
use super::server::{Server, free_port};
use super::topology::{NAME, Plan, Topology, role, wait_for};
use super::workload::{self, Kind, Score, Target};

/// What happens to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An operator types FAILOVER; nobody watches.
    Planned,
    /// An operator types SENTINEL FAILOVER.
    BySentinel,
    /// Its process is gone from one moment to the next; Sentinels notice.
    Killed,
    /// It hangs with all its connections open; Sentinels notice.
    Frozen,
    /// It cannot save any more and refuses writes; Sentinels notice that it does not say PONG.
    CannotSave,
}

impl Event {
    /// All of them.
    pub const ALL: [Event; 5] =
        [Event::Planned, Event::BySentinel, Event::Killed, Event::Frozen, Event::CannotSave];

    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Event::Planned => "FAILOVER by hand, no Sentinel",
            Event::BySentinel => "SENTINEL FAILOVER by hand",
            Event::Killed => "primary killed (-9), Sentinel fails over",
            Event::Frozen => "primary hangs (SIGSTOP), Sentinel fails over",
            Event::CannotSave => "primary cannot save",
        }
    }

    fn plan(self) -> Plan {
        let sentinels = if self == Event::Planned { 0 } else { 3 };
        Plan { sentinels, ..Plan::default() }
    }
}

/// What stands in front of the servers.
#[derive(Clone, Debug)]
pub enum Front {
    /// This program, with these arguments besides its upstream.
    Bgsafe(PathBuf, Vec<String>),
    /// `haproxy` on PATH.
    Haproxy,
}

/// What came of a run.
#[derive(Debug)]
pub struct Seen {
    /// What writers saw, and what the last primary holds.
    pub score: Score,
    /// From the event to a primary that is another one, as the Sentinels (or ROLE) say; `None`: it stayed.
    pub turned_after: Option<Duration>,
    /// The server that is the primary now.
    pub primary: SocketAddr,
    /// bgsafe's log.
    pub log: String,
}

/// Writers write before, during and after.
const BEFORE: Duration = Duration::from_millis(1200);
const AFTER: Duration = Duration::from_secs(3);
/// How long a primary that cannot save may stay one before we say that it stays.
const STAYS: Duration = Duration::from_secs(8);

/// Starts servers, front and writers, lets the event happen, and counts. Blocks; not to be called on a runtime.
///
/// # Errors
/// When something did not start, or did not turn where it must.
pub fn run(program: &Program, front: &Front, event: Event, writers: usize) -> io::Result<Seen> {
    let plan = event.plan();
    let mut topology = Topology::start(program, &plan)?;
    let standing = Standing::start(front, &topology)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let plan = workload::Plan {
        writers,
        think: Duration::from_millis(10),
        big_bytes: 100_000,
        // A pop that blocks ends with its primary, and a queue cannot tell what became of it then.
        kinds: Kind::ALL.into_iter().filter(|kind| *kind != Kind::Queue).collect(),
        ..workload::Plan::new(Target::Tcp(standing.listen()), "failover")
    };
    let running = {
        let _inside = runtime.enter();
        workload::start(plan)
    };
    std::thread::sleep(BEFORE);
    let begun = Instant::now();
    let primary = strike(&mut topology, event)?;
    let turned_after = (primary != topology.servers[0].site().address).then(|| begun.elapsed());
    std::thread::sleep(AFTER);
    let ran = runtime.block_on(running.stop());
    let score = ran.verify(&mut Direct::connect(primary)?)?;
    Ok(Seen { score, turned_after, primary, log: standing.log() })
}

/// Makes it happen, and waits for who is the primary then.
fn strike(topology: &mut Topology, event: Event) -> io::Result<SocketAddr> {
    let old = topology.servers[0].site().address;
    match event {
        Event::Planned => {
            let to = topology.servers[1].site().address;
            let port = to.port().to_string();
            topology.servers[0].direct()?.demand(&[
                "FAILOVER",
                "TO",
                "127.0.0.1",
                &port,
                "TIMEOUT",
                "5000",
            ])?;
            wait_for("the handover", || Ok(role(&mut Direct::connect(to)?)? == "master"))?;
            Ok(to)
        }
        Event::BySentinel => {
            topology.sentinels[0].command(&["SENTINEL", "FAILOVER", NAME])?;
            topology.wait_for_another_primary(old)
        }
        Event::Killed => {
            topology.servers[0].kill9();
            topology.wait_for_another_primary(old)
        }
        Event::Frozen => {
            process::stop(topology.servers[0].pid());
            let found = topology.wait_for_another_primary(old);
            process::go_on(topology.servers[0].pid());
            found
        }
        Event::CannotSave => {
            let broken = Fault::DumpDir.strike(topology.servers[0].site())?;
            let deadline = Instant::now() + STAYS;
            let mut found = old;
            while found == old && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
                found = leader(&topology.servers, old)?;
            }
            broken.heal()?;
            Ok(found)
        }
    }
}

/// Another server that says it is a primary, else `old`.
fn leader(servers: &[Server], old: SocketAddr) -> io::Result<SocketAddr> {
    for server in servers.iter().filter(|server| server.site().address != old) {
        if role(&mut server.direct()?)? == "master" {
            return Ok(server.site().address);
        }
    }
    Ok(old)
}

enum Standing {
    Bgsafe(Proxy),
    Haproxy(Haproxy),
}

impl Standing {
    fn start(front: &Front, topology: &Topology) -> io::Result<Standing> {
        match front {
            Front::Haproxy => Ok(Standing::Haproxy(Haproxy::start(&topology.servers)?)),
            Front::Bgsafe(program, args) => {
                let (first, rest) = upstreams(topology);
                let more = rest.iter().flat_map(|url| ["--upstream", url.as_str()]);
                let args: Vec<&str> = more.chain(args.iter().map(String::as_str)).collect();
                Proxy::start(Path::new(program), &first, &args).map(Standing::Bgsafe)
            }
        }
    }

    fn listen(&self) -> SocketAddr {
        match self {
            Standing::Bgsafe(proxy) => proxy.listen(),
            Standing::Haproxy(haproxy) => haproxy.address,
        }
    }

    fn log(&self) -> String {
        match self {
            Standing::Bgsafe(proxy) => proxy.log(),
            Standing::Haproxy(_) => String::new(),
        }
    }
}

/// The Sentinels when there are any, else every server.
fn upstreams(topology: &Topology) -> (String, Vec<String>) {
    if !topology.sentinels.is_empty() {
        return (format!("redis+sentinel://{}/{NAME}", topology.sentinel_list()), Vec::new());
    }
    let mut urls = topology.servers.iter().map(|server| format!("redis://{}", server.site().address));
    (urls.next().unwrap_or_default(), urls.collect())
}

/// One thread, in TCP mode, with the check that its makers publish for Redis.
struct Haproxy {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Haproxy {
    fn start(servers: &[Server]) -> io::Result<Haproxy> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("haproxy.cfg");
        let mut text = format!(
            "global\n  maxconn 4000\n  nbthread 1\n\
             defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\n\
             frontend redis\n  bind {address}\n  default_backend primary\n\
             backend primary\n  option tcp-check\n  tcp-check connect\n\
             \x20 tcp-check send PING\\r\\n\n  tcp-check expect string +PONG\n\
             \x20 tcp-check send info\\ replication\\r\\n\n  tcp-check expect string role:master\n\
             \x20 tcp-check send QUIT\\r\\n\n  tcp-check expect string +OK\n"
        );
        for (nth, server) in servers.iter().enumerate() {
            let at = server.site().address;
            text += &format!("  server r{nth} {at} check inter 1s on-marked-down shutdown-sessions\n");
        }
        std::fs::write(&file, text)?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let haproxy = Haproxy { child, address, _dir: dir };
        wait_for("HAProxy to find the primary", || {
            TcpStream::connect(address)?;
            Ok(Direct::connect(address)?.demand(&["PING"]).is_ok())
        })?;
        Ok(haproxy)
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
