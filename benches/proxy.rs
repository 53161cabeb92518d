//! What does bgsafe cost end to end? A closed loop of fifty connections against a real server: direct, through
//! bgsafe, and through haproxy in TCP mode when it is on PATH.
//!
//! Half SET, half GET of 64 bytes, one by one (P=1) and in pipelines (P=16); every reply is compared. Prints, as the
//! median of the rounds, requests a second, the latency of a round trip, and the proxy's own CPU time a request. The
//! ways take turns within a round, so that a busy machine disturbs all of them. `-- --test`: once, briefly.

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use support::{Proxy, Server, eventually, free_port, multibulk};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CONNECTIONS: usize = 50;
const PIPELINES: [usize; 2] = [1, 16];

/// One way to the server.
struct Way {
    name: &'static str,
    address: SocketAddr,
    /// Whose CPU time is the way's cost.
    pid: Option<u32>,
    runs: Vec<Vec<Figures>>,
}

/// What one run gave.
#[derive(Clone, Copy, Debug)]
struct Figures {
    per_second: f64,
    /// p50, p99, p99.9 of a round trip.
    micros: [u64; 3],
    cpu_micros: Option<f64>,
}

/// haproxy with one thread, which copies bytes and looks at nothing.
struct Haproxy {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Haproxy {
    fn start(server: SocketAddr) -> Option<Haproxy> {
        let dir = tempfile::tempdir().ok()?;
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let config = format!(
            "global\n nbthread 1\n maxconn 1000\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n \
             timeout server 60s\nlisten redis\n bind {address}\n server redis {server}\n"
        );
        let file = dir.path().join("haproxy.cfg");
        std::fs::write(&file, config).ok()?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let haproxy = Haproxy { child, address, _dir: dir };
        eventually("haproxy accepts", || std::net::TcpStream::connect(address).is_ok());
        Some(haproxy)
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of all threads of a process.
fn cpu(pid: u32) -> Option<Duration> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let spent = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Some(Duration::from_nanos(spent.sum()))
}

/// One connection's part until `end`: its requests, with their round trips in `histogram`.
async fn talk(
    address: SocketAddr,
    id: usize,
    pipeline: usize,
    end: Instant,
    histogram: &mut Histogram<u64>,
) -> u64 {
    let mut io = TcpStream::connect(address).await.expect("somebody listens");
    io.set_nodelay(true).expect("a socket");
    let (key, value) = (format!("bench:{id:04}"), "v".repeat(64));
    let set = multibulk(&["SET", &key, &value]);
    let get = multibulk(&["GET", &key]);
    let (ok, found) = (b"+OK\r\n".to_vec(), format!("$64\r\n{value}\r\n").into_bytes());
    // P=1 takes turns, a pipeline holds both.
    let rounds: Vec<(Vec<u8>, Vec<u8>)> = match pipeline {
        1 => vec![(set, ok), (get, found)],
        n => vec![([set, get].concat().repeat(n / 2), [ok, found].concat().repeat(n / 2))],
    };
    let (mut sent, mut replies) = (0, vec![0; 64 * 1024]);
    loop {
        for (requests, expected) in &rounds {
            let began = Instant::now();
            if began >= end {
                return sent;
            }
            io.write_all(requests).await.expect("it takes requests");
            io.read_exact(&mut replies[..expected.len()]).await.expect("it answers");
            assert!(replies[..expected.len()] == expected[..], "a wrong reply on connection {id}");
            histogram.saturating_record(began.elapsed().as_micros() as u64);
            sent += pipeline as u64;
        }
    }
}

fn run(way: &Way, pipeline: usize, time: Duration) -> Figures {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let before = way.pid.and_then(cpu);
    let began = Instant::now();
    let (mut all, mut sent) = (Histogram::new_with_max(60_000_000, 3).expect("bounds"), 0);
    runtime.block_on(async {
        let tasks: Vec<_> = (0..CONNECTIONS)
            .map(|id| {
                let (address, end) = (way.address, began + time);
                tokio::spawn(async move {
                    let mut histogram = Histogram::new_with_max(60_000_000, 3).expect("bounds");
                    let sent = talk(address, id, pipeline, end, &mut histogram).await;
                    (sent, histogram)
                })
            })
            .collect();
        for task in tasks {
            let (n, histogram) = task.await.expect("every reply was right");
            sent += n;
            all.add(histogram).expect("same bounds");
        }
    });
    let took = began.elapsed();
    let spent = way.pid.and_then(cpu).zip(before).map(|(after, before)| after - before);
    Figures {
        per_second: sent as f64 / took.as_secs_f64(),
        micros: [0.5, 0.99, 0.999].map(|q| all.value_at_quantile(q)),
        cpu_micros: spent.map(|spent| spent.as_secs_f64() * 1e6 / sent as f64),
    }
}

/// The run that is in the middle by throughput.
fn median(runs: &[Figures]) -> Figures {
    let mut runs = runs.to_vec();
    runs.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    runs[runs.len() / 2]
}

fn main() {
    let smoke = std::env::args().any(|arg| arg == "--test");
    let (rounds, time) = if smoke { (1, Duration::from_millis(150)) } else { (5, Duration::from_secs(2)) };
    let server = Server::start(&["--save", ""]);
    let proxy = Proxy::start(&format!("redis://{}", server.address), &["--workers", "1"]);
    let haproxy = Haproxy::start(server.address);
    let way = |name, address, pid| Way { name, address, pid, runs: vec![Vec::new(); PIPELINES.len()] };
    let mut ways = vec![way("direct", server.address, None), way("bgsafe", proxy.address, Some(proxy.pid()))];
    match &haproxy {
        Some(haproxy) => ways.push(way("haproxy", haproxy.address, Some(haproxy.child.id()))),
        None => println!("haproxy is not on PATH: left out"),
    }
    for _ in 0..rounds {
        for (i, pipeline) in PIPELINES.into_iter().enumerate() {
            for way in &mut ways {
                let figures = run(way, pipeline, time);
                way.runs[i].push(figures);
            }
        }
    }
    println!("{CONNECTIONS} connections, SET and GET of 64 bytes, median of {rounds} rounds of {time:?}");
    println!(
        "{:10} {:>5} {:>10} {:>9} {:>9} {:>10} {:>12}",
        "", "P", "req/s", "p50 us", "p99 us", "p99.9 us", "cpu us/req"
    );
    for (i, pipeline) in PIPELINES.into_iter().enumerate() {
        for way in &ways {
            let Figures { per_second, micros: [p50, p99, p999], cpu_micros } = median(&way.runs[i]);
            let cpu = cpu_micros.map_or("-".to_owned(), |us| format!("{us:.2}"));
            println!(
                "{:10} {pipeline:>5} {per_second:>10.0} {p50:>9} {p99:>9} {p999:>10} {cpu:>12}",
                way.name
            );
        }
    }
}
