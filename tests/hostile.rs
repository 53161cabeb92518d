//! A server that turns bgsafe away, a stop in the middle of a hold, policies that must not touch, a kill at any
//! moment: what the operator reads, what the client gets, what is left behind.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bgsafe::testing::client::Direct;
use bgsafe::testing::faults::Fault;
use bgsafe::testing::server::free_port;
use common::{Lab, eventually, program};

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A bgsafe that need not become ready. Ended by pid.
struct Unready {
    child: Child,
    listen: SocketAddr,
    admin: SocketAddr,
    dir: tempfile::TempDir,
}

impl Unready {
    fn start(upstream: SocketAddr) -> Unready {
        let dir = tempfile::tempdir().unwrap();
        let local = || SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
        let (listen, admin) = (local(), local());
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_bgsafe"))
            .args(["run", "--upstream", &format!("redis://{upstream}")])
            .args(["--listen", &listen.to_string(), "--admin", &admin.to_string()])
            .arg("--state-dir")
            .arg(dir.path().join("state"))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let started = Unready { child, listen, admin, dir };
        eventually("bgsafe to listen", Duration::from_secs(10), || TcpStream::connect(admin).is_ok());
        started
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn ready(&self) -> String {
        let mut http = TcpStream::connect(self.admin).unwrap();
        http.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        http.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Unready {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that says `words` to whatever it is first sent, and goes on or hangs up. Its thread ends with us.
fn server_that(answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), answer.clone());
            std::thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut chunk) {
                    match answer(&chunk[..n]) {
                        Some(words) if stream.write_all(&words).is_ok() => {}
                        _ => return,
                    }
                }
            });
        }
    });
    address
}

/// Each cause is in the log, once, with its side, and bgsafe does not call itself ready.
#[test]
fn who_turns_bgsafe_away_is_named() {
    let says = |words: &'static [u8]| server_that(move |_| Some(words.to_vec()));
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let table = [
        (says(b"-ERR max number of clients reached\r\n"), "raise maxclients"),
        (says(b"-NOAUTH Authentication required.\r\n"), "check --control-user and --control-password-file"),
        (says(b"-DENIED Redis is running in protected mode\r\n"), "protected mode"),
        (says(b"\x01\x02 not RESP\r\n"), "no control connection"),
        (server_that(|_| None), "no control connection"),
        (nobody, "Connection refused"),
    ];
    let started = table.map(|(upstream, words)| (Unready::start(upstream), words));
    std::thread::sleep(millis(1500));
    for (bgsafe, words) in started {
        let log = bgsafe.log();
        let told: Vec<_> = log.lines().filter(|line| line.contains("no control connection")).collect();
        assert!((1..=2).contains(&told.len()), "{words}: {log}");
        assert!(told[0].contains(words) && told[0].contains("side=\"upstream\""), "{words}: {log}");
        assert!(bgsafe.ready().starts_with("HTTP/1.1 503"), "{words}: {}", bgsafe.ready());
    }
}

/// What it had sent already must not turn the close into a reset.
#[test]
fn a_client_of_an_unreachable_server_reads_why_and_a_clean_end() {
    let bgsafe = Unready::start(SocketAddr::from(([127, 0, 0, 1], free_port().unwrap())));
    // All at once: each is told when the hold time is over.
    let clients: Vec<_> = (0..5)
        .map(|_| {
            let mut client = TcpStream::connect(bgsafe.listen).unwrap();
            client.write_all(&b"PING\r\n".repeat(2000)).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            client
        })
        .collect();
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an end, not a reset");
        assert!(answer.starts_with("-ERR bgsafe: upstream "), "{answer}");
    }
}

/// A refusal waits for the other half of a request that will get no reply: nothing would wake the session.
#[test]
fn replies_that_a_hold_kept_go_as_soon_as_the_count_is_lost() {
    let refusal = b"-MISCONF Redis is configured to save RDB snapshots, but";
    let server = server_that(move |sent| {
        let sets = sent.windows(3).any(|w| w == b"SET") && !sent.starts_with(b"*3\r\n$6\r\nCLIENT");
        Some(if sets { [&refusal[..], b" cannot\r\n"].concat() } else { Vec::new() })
    });
    let bgsafe = Unready::start(server);
    let mut client = TcpStream::connect(bgsafe.listen).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    client.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*3\r\n$6\r\nCLIENT\r\n$5\r\nREP").unwrap();
    std::thread::sleep(millis(200));
    client.write_all(b"LY\r\n$3\r\nOFF\r\n").unwrap();
    let mut answer = [0; 20];
    client.read_exact(&mut answer).expect("the refusal at once");
    assert!(answer.starts_with(b"-MISCONF"));
}

/// The drain is shorter than the hold.
#[test]
fn a_stop_in_the_middle_of_a_hold_ends_it_with_the_servers_own_error() {
    let fault = Fault::DumpDir;
    let mut lab = Lab::new(fault.options(&program()), &["--policy", "hold", "--hold-time", "30s"]);
    let broken = fault.strike(lab.server.site()).unwrap();
    let mut client = Direct::connect(lab.bgsafe.listen()).unwrap();
    let waits = std::thread::spawn(move || client.command(&["SET", "held", "1"]));
    eventually("the write to be held", Duration::from_secs(5), || {
        lab.bgsafe.upstream_status().unwrap()["held"]["commands"] == 1
    });
    let began = Instant::now();
    assert!(lab.bgsafe.terminate().unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    let reply = waits.join().unwrap().expect("a reply, not a cut");
    assert!(common::is_misconf(&reply), "{reply:?}");
    broken.heal().unwrap();
}

/// How often the server ran `command`, by its own count.
fn ran(lab: &Lab, command: &str) -> u64 {
    let stats = bgsafe::testing::client::text(
        &lab.server.direct().unwrap().demand(&["INFO", "commandstats"]).unwrap(),
    );
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

/// Hold heals by BGSAVE and never sets; observe does neither, and its clients get the server's own bytes.
#[test]
fn policies_hold_and_observe_set_nothing() {
    for policy in ["hold", "observe"] {
        let fault = Fault::DumpDir;
        // Longer than the wait after a failed save: the guard's first may come before the heal.
        let lab = Lab::new(fault.options(&program()), &["--policy", policy, "--hold-time", "20s"]);
        let broken = fault.strike(lab.server.site()).unwrap();
        // The lab counts too: what it does itself is done by now, and its reads are no sets.
        let (sets, saves) = (ran(&lab, "config|set"), ran(&lab, "bgsave"));
        let mut through = Direct::connect(lab.bgsafe.listen()).unwrap();
        if policy == "observe" {
            let words = ["SET", "k", "v"];
            let own = lab.server.direct().unwrap().command(&words).unwrap();
            assert_eq!(through.command(&words).unwrap(), own);
            assert_eq!(through.command(&["PING"]).unwrap(), own);
            eventually("what it would have done", Duration::from_secs(5), || {
                let incidents = lab.bgsafe.incidents().unwrap();
                incidents.iter().any(|i| i.to_string().contains("would lower the switch"))
            });
            std::thread::sleep(millis(1200));
            assert_eq!(ran(&lab, "bgsave"), saves, "observe saves nothing");
            broken.heal().unwrap();
            // One child may still be at its failing end.
            eventually("the operator's own save", Duration::from_secs(5), || {
                let mut direct = lab.server.direct().unwrap();
                let _ = direct.command(&["BGSAVE"]).unwrap();
                direct.info("rdb_last_bgsave_status").unwrap().as_deref() == Some("ok")
            });
        } else {
            broken.heal().unwrap();
            through.demand(&["SET", "k", "v"]).expect("held and healed");
            assert!(ran(&lab, "bgsave") > saves);
        }
        lab.wait_until_quiet("yes");
        assert_eq!(ran(&lab, "config|set"), sets, "{policy}");
        lab.assert_incident("rdb", &["self-healed"]);
    }
}

/// Whenever it dies, the next life finds out what is owed. The moments are spread over an incident of a third of a
/// second: alarmed, lowered, saving, putting back, over.
#[test]
fn killed_at_any_moment_it_pays_and_nothing_acknowledged_is_lost() {
    let fault = Fault::KilledChild;
    let mut lab = Lab::new(fault.options(&program()), &[]);
    lab.write();
    for round in 0..12 {
        let broken = fault.strike(lab.server.site()).unwrap();
        std::thread::sleep(millis([0, 1, 2, 4, 8, 40, 100, 200, 300, 400, 700, 1100][round]));
        lab.bgsafe.kill9();
        let owed = std::fs::read_dir(lab.bgsafe.state_dir().join("debts")).unwrap().any(|page| {
            let page = std::fs::read(page.unwrap().path()).unwrap();
            !page.trim_ascii().is_empty()
        });
        assert!(owed || lab.switch() == "yes", "lowered without a debt");
        broken.heal().unwrap();
        lab.bgsafe.restart().unwrap();
        lab.wait_until_quiet("yes");
        lab.assert_no_debt_file();
    }
    let before = lab.acked();
    eventually("writes to flow again", Duration::from_secs(5), || lab.acked() > before + 200);
    let score = lab.judge();
    lab.assert_honest(&score);
    assert_eq!(score.total.refused, 0, "no refusal reached a writer: {:#?}", score.texts);
    let open: Vec<_> =
        lab.bgsafe.incidents().unwrap().into_iter().filter(|i| i["outcome"].is_null()).collect();
    assert!(open.is_empty(), "{open:#?}");
}
