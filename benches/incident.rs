//! How long do writers wait when a real server cannot save? And how fast do ten thousand held commands go?
//!
//! *Pause*: writers in a closed loop while saving is broken for real (a directory stands where dump.rdb should be),
//! again and again; of each incident the longest SET counts: refusal, opening, sending again. *Release*: policy
//! `hold`, ten thousand SETs held in five hundred sessions, then the cure; from the first reply to the last.
//! Every reply is checked. `cargo test --benches` runs it once, briefly.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use support::{Conn, Proxy, Server, command, eventually};

const WRITERS: usize = 4;

/// Saving, broken on demand.
struct Saving<'a>(&'a Server);

impl Saving<'_> {
    fn dump(&self) -> PathBuf {
        self.0.dir.path().join("dump.rdb")
    }

    /// From here on each save fails, and the server knows of one.
    fn break_it(&self) {
        let _ = std::fs::remove_file(self.dump());
        std::fs::create_dir(self.dump()).expect("nothing stands there");
        self.0.ask("SET dirty 1");
        eventually("a save has failed", || {
            self.0.ask("BGSAVE");
            std::thread::sleep(Duration::from_millis(20));
            self.0.info("rdb_last_bgsave_status") == "err"
        });
    }

    fn cure(&self) {
        std::fs::remove_dir(self.dump()).expect("we made it");
    }

    fn is_whole(&self) -> bool {
        self.0.info("rdb_last_bgsave_status") == "ok"
            && self.0.ask("CONFIG GET stop-writes-on-bgsave-error").ends_with("yes\r\n")
    }
}

/// Longest SET of each of `incidents`, in microseconds.
fn pauses(incidents: usize) -> Histogram<u64> {
    let server = Server::start(&[]);
    let proxy = Proxy::of(&server);
    server.settled();
    let saving = Saving(&server);
    let mut pauses = Histogram::new_with_max(60_000_000, 3).expect("bounds");
    for incident in 0..incidents {
        let (done, ready) = (Arc::new(AtomicBool::new(false)), Arc::new(Barrier::new(WRITERS + 1)));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (done, ready) = (Arc::clone(&done), Arc::clone(&ready));
                let mut conn = Conn::tcp(proxy.address);
                std::thread::spawn(move || {
                    ready.wait();
                    let (mut longest, mut n) = (Duration::ZERO, 0u64);
                    while !done.load(Relaxed) {
                        let set = command(&format!("SET {incident}:{writer} {n}"));
                        let began = Instant::now();
                        conn.send(&set);
                        assert!(
                            conn.read() && conn.seen == b"+OK\r\n",
                            "{:?}",
                            String::from_utf8_lossy(&conn.seen)
                        );
                        longest = longest.max(began.elapsed());
                        conn.seen.clear();
                        n += 1;
                        // Not a load test: a machine that is busy with us would be what is measured.
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    longest
                })
            })
            .collect();
        ready.wait();
        saving.break_it();
        std::thread::sleep(Duration::from_millis(200));
        saving.cure();
        eventually("the save is proved and the switch is back", || saving.is_whole());
        done.store(true, Relaxed);
        let longest = writers.into_iter().map(|w| w.join().expect("each write was acknowledged")).max();
        pauses.saturating_record(longest.unwrap_or_default().as_micros() as u64);
    }
    pauses
}

/// From the first reply to the last of `sessions` × `each` held commands.
fn release(sessions: usize, each: usize) -> Duration {
    let server = Server::start(&[]);
    let args = ["--policy", "hold", "--hold-time", "60s"];
    let proxy = Proxy::start(&format!("redis://{}", server.address), &args);
    server.settled();
    let saving = Saving(&server);
    saving.break_it();
    let mut conns: Vec<Conn> = (0..sessions).map(|_| Conn::tcp(proxy.address)).collect();
    for (n, conn) in conns.iter_mut().enumerate() {
        assert!(conn.send(&command(&format!("SET held:{n} v")).repeat(each)));
    }
    let whole = b"+OK\r\n".repeat(each);
    let readers: Vec<_> = conns
        .into_iter()
        .map(|mut conn| {
            let whole = whole.clone();
            std::thread::spawn(move || {
                assert!(conn.read(), "held for too long");
                let first = Instant::now();
                while conn.seen.len() < whole.len() {
                    assert!(conn.read(), "held for too long");
                }
                assert!(conn.seen == whole, "{:?}", String::from_utf8_lossy(&conn.seen));
                (first, Instant::now())
            })
        })
        .collect();
    // Readers are there before what they wait for.
    std::thread::sleep(Duration::from_millis(300));
    saving.cure();
    let times: Vec<_> = readers.into_iter().map(|r| r.join().expect("each was acknowledged")).collect();
    let first = times.iter().map(|(first, _)| *first).min().expect("there are sessions");
    times.iter().map(|(_, last)| last.duration_since(first)).max().unwrap_or_default()
}

fn main() {
    // cargo bench says --bench; cargo test says nothing.
    let smoke = std::env::args().any(|arg| arg == "--test") || !std::env::args().any(|arg| arg == "--bench");
    let (incidents, sessions) = if smoke { (1, 20) } else { (12, 500) };
    let pauses = pauses(incidents);
    let ms = |q| pauses.value_at_quantile(q) as f64 / 1e3;
    println!(
        "longest pause of a writer over {incidents} incidents: p50 {:.1} ms, p99 {:.1} ms",
        ms(0.5),
        ms(0.99)
    );
    let took = release(sessions, 20);
    println!("{} held commands released in {:.1} ms", sessions * 20, took.as_secs_f64() * 1e3);
}
