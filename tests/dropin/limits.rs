//! Memory, many clients, slow clients, client limits, and words for those who start it wrongly.

use std::time::{Duration, Instant};

use crate::support::{Conn, Proxy, Server, bgsafe, command, eventually, free_port, multibulk};

const MIB: usize = 1024 * 1024;

#[test]
fn a_value_of_a_hundred_megabytes_passes_in_constant_memory() {
    let server = Server::start(&["--save", ""]);
    let proxy = Proxy::of(&server);
    let mut conn = Conn::tcp(proxy.address);
    conn.ask("PING");
    let (before, _) = proxy.memory_kib();
    let len = 100 * MIB;
    assert!(conn.send(format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${len}\r\n").as_bytes()));
    let piece: Vec<u8> = (0..MIB).map(|i| (i % 251) as u8).collect();
    for _ in 0..100 {
        assert!(conn.send(&piece));
    }
    assert!(conn.send(b"\r\n"));
    conn.until_from(6, b"+OK\r\n");
    assert_eq!(server.ask("STRLEN big"), format!(":{len}\r\n"));
    conn.send(&command("GET big"));
    conn.skip(format!("${len}\r\n").len() + len + 2);
    assert_eq!(conn.ask("GETRANGE big 1048576 1048577"), "$2\r\n\0\u{1}\r\n");
    let (after, peak) = proxy.memory_kib();
    // A request is retained up to 8 MiB, in a vector that may have doubled.
    assert!(peak - before < 24 * 1024, "peak {peak} KiB from {before} KiB");
    assert!(after.saturating_sub(before) < 4 * 1024, "{after} KiB stay, from {before} KiB");
}

#[test]
fn an_idle_session_costs_no_more_than_four_kib() {
    const SESSIONS: usize = 2_000;
    let server = Server::start(&[]);
    let proxy = Proxy::of(&server);
    // The worker's own buffers are there before we look.
    let mut first = Conn::tcp(proxy.address);
    first.ask("PING");
    let (before, _) = proxy.memory_kib();
    let mut conns: Vec<Conn> = (0..SESSIONS).map(|_| Conn::tcp(proxy.address)).collect();
    for conn in &mut conns {
        conn.ask("SET k v");
    }
    let (after, _) = proxy.memory_kib();
    let each = (after - before) * 1024 / SESSIONS as u64;
    println!("{each} bytes a session");
    assert!(each <= 4096, "{each} bytes a session");
    drop(conns);
    assert_eq!(first.ask("GET k"), "$1\r\nv\r\n");
    drop(first);
    server.settled();
}

#[test]
fn a_slow_reader_harms_nobody_else_and_loses_nothing() {
    let server = Server::start(&["--save", ""]);
    let proxy = Proxy::start(&format!("redis://{}", server.address), &["--workers", "1"]);
    server.ask(&format!("SET part {}", "p".repeat(MIB)));
    let (before, _) = proxy.memory_kib();
    let mut slow = Conn::tcp(proxy.address);
    let count = 60;
    assert!(slow.send(&command("GET part").repeat(count)));
    let mut other = Conn::tcp(proxy.address);
    let mut worst = Duration::ZERO;
    for _ in 0..200 {
        let began = Instant::now();
        other.ask("PING");
        worst = worst.max(began.elapsed());
    }
    assert!(worst < Duration::from_millis(500), "another's ping took {worst:?}");
    let (now, _) = proxy.memory_kib();
    assert!(now.saturating_sub(before) < 4 * 1024, "{now} KiB from {before} KiB while one does not read");
    slow.skip(count * (MIB + "$1048576\r\n\r\n".len()));
    assert_eq!(slow.ask("PING"), "+PONG\r\n");
}

#[test]
fn a_client_that_floods_and_never_reads_is_held_by_its_own_socket() {
    let server = Server::start(&["--save", ""]);
    let proxy = Proxy::of(&server);
    server.ask(&format!("SET part {}", "p".repeat(64 * 1024)));
    let mut flood = Conn::tcp(proxy.address);
    let (before, _) = proxy.memory_kib();
    let writer = std::thread::spawn(move || {
        // Twenty thousand replies of 64 KiB that nobody takes: at some point it cannot send any more.
        flood.send(&command("GET part").repeat(20_000));
        flood
    });
    std::thread::sleep(Duration::from_millis(300));
    let (now, _) = proxy.memory_kib();
    assert!(now.saturating_sub(before) < 8 * 1024, "{now} KiB from {before} KiB");
    Conn::tcp(proxy.address).ask("PING");
    drop(proxy);
    writer.join().expect("its socket ended");
}

#[test]
fn the_client_after_the_last_one_allowed_gets_redis_own_words() {
    let server = Server::start(&[]);
    let proxy = Proxy::start(&format!("redis://{}", server.address), &["--max-clients", "3"]);
    let mut conns: Vec<Conn> = Vec::new();
    eventually("three are served, once the start-up probe is gone", || {
        let mut conn = Conn::tcp(proxy.address);
        conn.send(b"PING\r\n");
        if conn.read() && conn.seen == b"+PONG\r\n" {
            conns.push(conn);
        }
        conns.len() == 3
    });
    let mut late = Conn::tcp(proxy.address);
    late.until_end();
    assert_eq!(String::from_utf8_lossy(&late.seen), "-ERR max number of clients reached\r\n");
    conns.pop();
    eventually("there is room again", || {
        let mut conn = Conn::tcp(proxy.address);
        conn.send(b"PING\r\n");
        conn.read() && conn.seen == b"+PONG\r\n"
    });
}

#[test]
fn the_servers_own_client_limit_is_passed_on() {
    let server = Server::start(&["--maxclients", "20"]);
    let proxy = Proxy::of(&server);
    // The guard's own connection is one of the twenty, so it is the server who says when it is full.
    let mut held = Vec::new();
    loop {
        let mut conn = Conn::tcp(server.address);
        conn.send(b"PING\r\n");
        conn.read();
        if conn.seen != b"+PONG\r\n" {
            break;
        }
        held.push(conn);
    }
    let mut late = Conn::tcp(proxy.address);
    late.until_end();
    assert_eq!(String::from_utf8_lossy(&late.seen), "-ERR max number of clients reached\r\n");
}

#[test]
fn requests_of_every_awkward_size_arrive_whole() {
    let server = Server::start(&["--save", ""]);
    let proxy = Proxy::of(&server);
    let mut conn = Conn::tcp(proxy.address);
    for len in [0, 1, 191, 192, 193, 16_383, 16_384, 32_768, 65_535, 65_536, 65_537, 8 * MIB, 9 * MIB] {
        let value = vec![b'v'; len];
        let request = multibulk(&[b"SET".as_slice(), b"k", &value]);
        let from = conn.seen.len();
        assert!(conn.send(&request));
        conn.until_from(from, b"+OK\r\n");
        assert_eq!(server.ask("STRLEN k"), format!(":{len}\r\n"));
    }
    let mut inline = Conn::tcp(proxy.address);
    inline.send(&vec![b'a'; 70_000]);
    inline.until_end();
    assert_eq!(String::from_utf8_lossy(&inline.seen), "-ERR Protocol error: too big inline request\r\n");
}

#[test]
fn what_is_started_wrongly_ends_at_once_with_a_line_that_says_so() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("the loopback has ports");
    let taken = taken.local_addr().expect("bound").to_string();
    let free = format!("127.0.0.1:{}", free_port());
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["--listen", &taken, "--admin", "off"], 1, &["cannot listen on", &taken, "--listen"]),
        (&["--listen", &free, "--admin", &taken], 1, &["admin address", &taken, "--admin"]),
        (
            &["--listen", "unix:/nonexistent/dir/sock", "--admin", "off"],
            1,
            &["cannot listen on", "/nonexistent/dir/sock"],
        ),
        (
            &["--listen", &free, "--admin", "off", "--state-dir", "/dev/null/state"],
            1,
            &["state directory", "/dev/null/state", "--state-dir"],
        ),
        (&["--no-such-flag"], 2, &["--no-such-flag"]),
        (&["--upstream", "http://x"], 2, &["http"]),
        (&["--hold-time", "soon"], 2, &["hold-time"]),
        (&["--workers", "0"], 2, &["workers"]),
        (&["--config", "/nonexistent/bgsafe.toml"], 2, &["/nonexistent/bgsafe.toml"]),
    ];
    for (args, code, words) in cases {
        let mut command = bgsafe(&[], dir.path());
        let state = dir.path().join("state");
        command.arg("run").args(*args);
        if !args.contains(&"--state-dir") {
            command.arg("--state-dir").arg(state);
        }
        let out = command.output().expect("bgsafe was built");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(*code), "{args:?}: {said}");
        for word in *words {
            assert!(said.contains(word), "{args:?}: {word:?} is not in {said:?}");
        }
    }
}

#[test]
fn a_low_soft_limit_of_open_files_is_raised_as_redis_raises_its_own() {
    let server = Server::start(&["--save", ""]);
    let proxy = Proxy::start_under(&["sh", "-c", "ulimit -S -n 100; exec \"$0\" \"$@\""], &server);
    let mut conns: Vec<Conn> = (0..200).map(|_| Conn::tcp(proxy.address)).collect();
    for conn in &mut conns {
        assert_eq!(conn.ask("PING"), "+PONG\r\n");
    }
}

#[test]
fn a_silent_client_is_closed_and_a_talking_or_listening_one_is_not() {
    let server = Server::start(&[]);
    let args = ["--hold-time", "200ms", "--client-timeout", "600ms"];
    let proxy = Proxy::start(&format!("redis://{}", server.address), &args);
    let (mut silent, mut talking, mut listening) =
        (Conn::tcp(proxy.address), Conn::tcp(proxy.address), Conn::tcp(proxy.address));
    silent.ask("PING");
    listening.send(&command("SUBSCRIBE news"));
    listening.until_from(0, b":1\r\n");
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        assert_eq!(talking.ask("INCR n").chars().next(), Some(':'));
        std::thread::sleep(Duration::from_millis(100));
    }
    silent.until_end();
    server.ask("PUBLISH news hello");
    listening.until_from(0, b"hello\r\n");
}
