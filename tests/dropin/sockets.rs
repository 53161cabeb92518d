//! What happens to sockets: closes, resets, unix sockets, blocked clients, replicas, servers that die or talk
//! nonsense.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::support::{Conn, PATIENCE, Proxy, Server, command, eventually, free_port};

#[test]
fn a_blocked_client_that_leaves_is_not_left_blocked_at_the_server() {
    let server = Server::start(&[]);
    let proxy = Proxy::of(&server);
    for (how, leave) in [
        ("closes", (|conn| drop(conn)) as fn(Conn)),
        ("resets", Conn::reset),
        ("half-closes", |mut conn| {
            conn.half_close();
            conn.until_end();
        }),
    ] {
        for blocking in
            ["BLPOP none 0", "XREAD BLOCK 0 STREAMS none $", "WAIT 3 0", "SUBSCRIBE ch", "MONITOR"]
        {
            server.settled();
            let mut conn = Conn::tcp(proxy.address);
            conn.ask("PING");
            assert!(conn.send(&command(blocking)));
            if blocking.starts_with('B') || blocking.starts_with('X') || blocking.starts_with('W') {
                eventually(blocking, || server.info("blocked_clients") == "1");
            }
            leave(conn);
            println!("{blocking}: a client that {how} is gone");
            server.settled();
            assert_eq!(server.info("blocked_clients"), "0");
        }
    }
}

#[test]
fn a_client_that_is_killed_gets_what_was_answered_and_the_end() {
    let server = Server::start(&[]);
    let proxy = Proxy::of(&server);
    let mut own = Conn::tcp(proxy.address);
    let id = own.ask("CLIENT ID").trim_matches([':', '\r', '\n']).to_owned();
    let from = own.seen.len();
    own.send(&command(&format!("CLIENT KILL ID {id} SKIPME no")));
    own.until_end();
    assert_eq!(&own.seen[from..], b":1\r\n");
    let mut other = Conn::tcp(proxy.address);
    let id = other.ask("CLIENT ID").trim_matches([':', '\r', '\n']).to_owned();
    assert_eq!(server.ask(&format!("CLIENT KILL ID {id}")), ":1\r\n");
    other.until_end();
}

#[test]
fn a_client_may_leave_at_any_byte() {
    let server = Server::start(&[]);
    let proxy = Proxy::of(&server);
    let whole = [command("SET k v"), command("LPUSH l a b"), b"PING\r\n".to_vec(), command("GET k")].concat();
    for cut in 0..=whole.len() {
        for reset in [false, true] {
            let mut conn = Conn::tcp(proxy.address);
            assert!(conn.send(&whole[..cut]));
            if reset {
                conn.reset();
            }
        }
    }
    server.settled();
    assert_eq!(Conn::tcp(proxy.address).ask("GET k"), "$1\r\nv\r\n");
}

#[test]
fn unix_sockets_serve_on_both_sides() {
    let server = Server::start(&[]);
    let path = server.dir.path().join("bgsafe.sock");
    let listen = format!("unix:{}", path.display());
    let proxy = Proxy::start(&format!("unix://{}", server.unix().display()), &["--listen", &listen]);
    for mut conn in [Conn::unix(&path), Conn::tcp(proxy.address)] {
        assert_eq!(conn.ask("SET k v"), "+OK\r\n");
        assert_eq!(conn.ask("GET k"), "$1\r\nv\r\n");
        conn.send(b"QUIT\r\n");
        conn.until_end();
        assert!(conn.seen.ends_with(b"+OK\r\n"));
    }
}

#[test]
fn a_replica_attached_through_bgsafe_gets_the_data() {
    let server = Server::start(&[]);
    let proxy = Proxy::of(&server);
    server.ask(&format!("SET before {}", "x".repeat(300_000)));
    let replica = Server::start(&["--replicaof", "127.0.0.1", &proxy.address.port().to_string()]);
    eventually("the link is up", || replica.info("master_link_status") == "up");
    Conn::tcp(proxy.address).ask("SET after 1");
    eventually("a later write arrives", || replica.ask("GET after") == "$1\r\n1\r\n");
    assert_eq!(replica.ask("STRLEN before"), ":300000\r\n");
    assert_eq!(Conn::tcp(proxy.address).ask("WAIT 1 5000"), ":1\r\n");
}

#[test]
fn sync_through_the_address_streams_the_snapshot_and_what_follows() {
    let server = Server::start(&["--repl-diskless-sync-delay", "0"]);
    let proxy = Proxy::of(&server);
    server.ask("SET k v");
    let mut conn = Conn::tcp(proxy.address);
    conn.send(b"SYNC\r\n");
    // In every snapshot, whatever its first word.
    conn.until_from(0, b"redis-bits");
    eventually("the replica is online", || {
        server.info("slave0").contains("state=online") || {
            conn.send(b"REPLCONF ACK 0\r\n");
            false
        }
    });
    let from = conn.seen.len();
    server.ask("SET follows here");
    conn.until_from(from, b"follows");
}

#[test]
fn a_server_that_dies_is_passed_on_as_a_close_and_its_return_is_noticed() {
    let mut server = Server::start(&[]);
    let mut proxy = Proxy::of(&server);
    let mut conns: Vec<Conn> = (0..5).map(|_| Conn::tcp(proxy.address)).collect();
    for conn in &mut conns {
        conn.ask("PING");
    }
    conns[0].send(&command("BLPOP none 0"));
    conns[1].send(&command("SUBSCRIBE ch"));
    server.kill();
    for conn in &mut conns {
        conn.until_end();
    }
    let mut late = Conn::tcp(proxy.address);
    late.send(b"PING\r\n");
    late.until_end();
    let said = String::from_utf8_lossy(&late.seen).into_owned();
    assert!(said.starts_with("-ERR bgsafe: upstream ") && said.contains("cannot be reached"), "{said:?}");
    let _back = Server::start_at(server.address.port(), &[]);
    assert_eq!(Conn::tcp(proxy.address).ask("PING"), "+PONG\r\n");
    assert!(proxy.is_alive());
}

/// A server of our own. A client says `ECHO` and four digits; `serve` is given the number. Everybody else (the
/// guard, a start-up probe) is turned away. It lives as long as the test program.
fn fake(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has ports");
    let address = listener.local_addr().expect("bound");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for io in listener.incoming() {
            let Ok(mut io) = io else { return };
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || {
                io.set_nodelay(true).expect("a socket");
                io.set_read_timeout(Some(PATIENCE)).expect("a socket");
                // It lives: whoever asks is told so, however it treats its clients.
                let mut request = [0; ASK.len() + 6];
                let (first, rest) = request.split_at_mut(PING.len());
                if io.read_exact(first).is_ok() && first == PING {
                    let _ = io.write_all(b"+PONG\r\n");
                } else if io.read_exact(rest).is_ok() && request.starts_with(ASK) {
                    let number = std::str::from_utf8(&request[ASK.len()..ASK.len() + 4]).expect("digits");
                    serve(io, number.parse().expect("digits"));
                }
            });
        }
    });
    address
}

const PING: &[u8] = b"PING\r\n";
const ASK: &[u8] = b"*2\r\n$4\r\nECHO\r\n$4\r\n";

/// What comes back for number `n` until the end.
fn asked(proxy: &Proxy, n: usize) -> Vec<u8> {
    let mut conn = Conn::tcp(proxy.address);
    conn.send(&[ASK, format!("{n:04}\r\n").as_bytes()].concat());
    conn.until_end();
    conn.seen
}

#[test]
fn a_server_that_closes_or_resets_at_any_byte_delivers_what_it_sent() {
    const REPLY: &[u8] = b"*3\r\n$5\r\nhello\r\n:1\r\n-ERR x\r\n-MISCONF\r\n+OK\r\n>1\r\n+push\r\n";
    let address = fake(|mut io, n| {
        io.write_all(&REPLY[..n / 2]).expect("it listens");
        if n % 2 == 1 {
            // A reset overtakes what is not read yet.
            std::thread::sleep(Duration::from_millis(5));
            let _ = socket2::SockRef::from(&io).set_linger(Some(Duration::ZERO));
        }
    });
    let proxy = Proxy::start(&format!("redis://{address}"), &[]);
    for n in 0..2 * (REPLY.len() + 1) {
        let got = asked(&proxy, n);
        assert_eq!(got, &REPLY[..n / 2], "cut at {}, reset: {}", n / 2, n % 2 == 1);
    }
}

#[test]
fn nonsense_and_nesting_from_a_server_pass_untouched() {
    let deep = [b"*1\r\n".repeat(10_000), b":1\r\n".to_vec()].concat();
    let replies: Vec<Vec<u8>> = vec![
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![0xff; 100_000],
        b"$-7\r\n+OK\r\n".to_vec(),
        b"*99999999999999999999\r\n".to_vec(),
        b"$9223372036854775807\r\nabc".to_vec(),
        b"+no end".to_vec(),
        [b"-".to_vec(), vec![b'M'; 200_000], b"\r\n".to_vec()].concat(),
        b"-MISC".to_vec(),
        b"+OK\n-ERR bare\n".to_vec(),
        b"|1\r\n+k\r\n+v\r\n-ERR behind an attribute\r\n".to_vec(),
        b"$?\r\n;3\r\nabc\r\n;0\r\n".to_vec(),
        b"+more\r\n+than\r\n+was\r\n+asked\r\n".to_vec(),
        deep,
    ];
    let served = replies.clone();
    let address = fake(move |mut io, n| {
        for piece in served[n].chunks(997) {
            io.write_all(piece).expect("it listens");
        }
    });
    let proxy = Proxy::start(&format!("redis://{address}"), &[]);
    for (n, reply) in replies.iter().enumerate() {
        let got = asked(&proxy, n);
        let head = String::from_utf8_lossy(&reply[..reply.len().min(40)]);
        assert!(got == *reply, "{head:?}: {} bytes of {}", got.len(), reply.len());
    }
}

#[test]
fn a_server_that_is_not_there_is_named_in_one_error_line() {
    let port = free_port();
    for (upstream, named) in [
        (format!("redis://127.0.0.1:{port}"), format!("127.0.0.1:{port}")),
        ("unix:///nonexistent/sock".to_owned(), "/nonexistent/sock".to_owned()),
    ] {
        let proxy = Proxy::start(&upstream, &[]);
        let mut conn = Conn::tcp(proxy.address);
        conn.send(b"PING\r\n");
        conn.until_end();
        let said = String::from_utf8_lossy(&conn.seen).into_owned();
        assert!(said.starts_with("-ERR bgsafe: upstream ") && said.ends_with("\r\n"), "{said:?}");
        assert!(said.contains(&named) && said.matches('\n').count() == 1, "{said:?}");
    }
}

#[test]
fn a_client_that_half_closes_behind_a_refused_write_gets_the_refusal() {
    let server = Server::start(&[]);
    let proxy = Proxy::start(&format!("redis://{}", server.address), &["--policy", "hold"]);
    server.settled();
    std::fs::create_dir(server.dir.path().join("dump.rdb")).expect("nothing stands there");
    server.ask("SET dirty 1");
    server.ask("BGSAVE");
    eventually("a save has failed", || server.info("rdb_last_bgsave_status") == "err");
    let mut conn = Conn::tcp(proxy.address);
    conn.send(&command("SET k v"));
    conn.half_close();
    conn.until_end();
    let said = String::from_utf8_lossy(&conn.seen).into_owned();
    assert!(said.is_empty() || said.starts_with("-MISCONF "), "{said:?}");
    assert_eq!(server.ask("EXISTS k"), ":0\r\n", "what was not acknowledged did not run");
}
