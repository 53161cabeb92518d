//! Real servers, a real bgsafe and raw sockets for the tests from outside.
//!
//! Refuses to know bgsafe's inside: it is started as a program and spoken to over sockets. Invariant: each
//! process that is started here is ended by its pid when its owner is dropped, and listens on the loopback only.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bgsafe::testing::find::{self, Program};

/// Nothing here takes longer unless something hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A port that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("the loopback has ports").port()
}

/// Waits until `what` holds.
pub fn eventually(say: &str, mut what: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {say}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process that ends with its owner.
#[derive(Debug)]
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The server that demo and other tests use too.
pub fn program() -> &'static Program {
    static FOUND: OnceLock<Program> = OnceLock::new();
    FOUND.get_or_init(|| find::for_tests().unwrap_or_else(|why| panic!("{why}")))
}

/// A redis-server in a scratch directory.
#[derive(Debug)]
pub struct Server {
    process: Owned,
    pub address: SocketAddr,
    pub dir: tempfile::TempDir,
}

impl Server {
    /// Started with these further arguments, and answering.
    pub fn start(args: &[&str]) -> Server {
        Server::start_at(free_port(), args)
    }

    /// The same on this port.
    pub fn start_at(port: u16, args: &[&str]) -> Server {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let program = program();
        let debug: &[&str] = if program.at_least(7, 0) { &["--enable-debug-command", "yes"] } else { &[] };
        let log = File::create(dir.path().join("log")).expect("a log");
        let child = program
            .command()
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "3600", "1"])
            .args(debug)
            .args(["--unixsocket", "sock", "--dir"])
            .arg(dir.path())
            .args(args)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", program.path.display()));
        let server = Server { process: Owned(child), address: ([127, 0, 0, 1], port).into(), dir };
        eventually("the server answers", || TcpStream::connect(server.address).is_ok());
        server.ask("PING");
        server
    }

    /// Its unix socket.
    pub fn unix(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    /// One command on a connection of its own; the reply's bytes.
    pub fn ask(&self, words: &str) -> String {
        Conn::tcp(self.address).ask(words)
    }

    /// One field of INFO.
    pub fn info(&self, field: &str) -> String {
        let text = self.ask("INFO everything");
        let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    }

    /// Waits until nobody but the guard of the bgsafe in front and ourselves is connected.
    pub fn settled(&self) {
        eventually("only the guard is connected", || {
            self.info("connected_clients") == "2" && self.ask("CLIENT LIST").contains("name=bgsafe")
        });
    }

    /// The address of the guard's connection, once it stands.
    pub fn guard(&self) -> String {
        self.settled();
        let list = self.ask("CLIENT LIST");
        let line = list.lines().find(|l| l.contains("name=bgsafe")).expect("it is connected");
        let field = line.split(' ').find_map(|f| f.strip_prefix("addr="));
        field.expect("each client has an address").to_owned()
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        let _ = self.process.0.kill();
        let _ = self.process.0.wait();
    }
}

/// A bgsafe in front of something.
#[derive(Debug)]
pub struct Proxy {
    process: Owned,
    pub address: SocketAddr,
    pub dir: tempfile::TempDir,
}

impl Proxy {
    /// In front of a redis:// or unix:// address, with further arguments.
    pub fn start(upstream: &str, args: &[&str]) -> Proxy {
        Proxy::spawn(&[], upstream, args)
    }

    /// In front of a server, started by `wrapper`, which is given the program and its arguments.
    pub fn start_under(wrapper: &[&str], server: &Server) -> Proxy {
        Proxy::spawn(wrapper, &format!("redis://{}", server.address), &[])
    }

    fn spawn(wrapper: &[&str], upstream: &str, args: &[&str]) -> Proxy {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let address = ([127, 0, 0, 1], free_port()).into();
        let mut command = bgsafe(wrapper, dir.path());
        command.args(["run", "--listen", &format!("{address}"), "--upstream", upstream]);
        command.args(["--admin", "off", "--log-level", "warn", "--state-dir"]).arg(dir.path().join("state"));
        let log = File::create(dir.path().join("log")).expect("a log");
        command.args(args).stdout(log.try_clone().expect("a log")).stderr(log);
        let process = Owned(command.spawn().expect("bgsafe was built"));
        let proxy = Proxy { process, address, dir };
        eventually("bgsafe accepts", || TcpStream::connect(address).is_ok());
        proxy
    }

    /// In front of a server.
    pub fn of(server: &Server) -> Proxy {
        Proxy::start(&format!("redis://{}", server.address), &[])
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Resident memory now, and at its highest, in KiB.
    pub fn memory_kib(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name)).expect("Linux's words");
            line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number of kB")
        };
        (field("VmRSS"), field("VmHWM"))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Does it run still?
    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.0.try_wait(), Ok(None))
    }
}

/// The program, behind a wrapper if there is one, with nothing of our surroundings.
pub fn bgsafe(wrapper: &[&str], dir: &Path) -> Command {
    let mut words = wrapper.iter().chain([&env!("CARGO_BIN_EXE_bgsafe")]);
    let mut command = Command::new(words.next().expect("one at least"));
    command.args(words);
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("BGSAFE_")) {
        command.env_remove(name);
    }
    command.current_dir(dir).stdin(Stdio::null());
    command
}

/// A command as clients send it.
pub fn multibulk<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// The same from one line, split at blanks.
pub fn command(line: &str) -> Vec<u8> {
    multibulk(&line.split(' ').collect::<Vec<_>>())
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// A raw connection, and everything it has received.
pub struct Conn {
    wire: Box<dyn Wire>,
    tcp: Option<TcpStream>,
    pub seen: Vec<u8>,
    pub ended: bool,
}

impl Conn {
    pub fn tcp(address: SocketAddr) -> Conn {
        let io = TcpStream::connect(address).expect("somebody listens");
        io.set_nodelay(true).expect("a socket");
        io.set_read_timeout(Some(PATIENCE)).expect("a socket");
        io.set_write_timeout(Some(PATIENCE)).expect("a socket");
        let tcp = io.try_clone().ok();
        Conn { wire: Box::new(io), tcp, seen: Vec::new(), ended: false }
    }

    pub fn unix(path: &Path) -> Conn {
        let io = UnixStream::connect(path).expect("somebody listens");
        io.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Conn { wire: Box::new(io), tcp: None, seen: Vec::new(), ended: false }
    }

    /// Sends; a server that has closed already is no failure here.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.wire.write_all(bytes).is_ok()
    }

    /// Reads once. False at the end, or when nothing came.
    pub fn read(&mut self) -> bool {
        let mut chunk = [0; 64 * 1024];
        match self.wire.read(&mut chunk) {
            Ok(n @ 1..) => {
                self.seen.extend_from_slice(&chunk[..n]);
                true
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            Ok(_) | Err(_) => {
                self.ended = true;
                false
            }
        }
    }

    /// Reads until what came since `from` holds `mark`.
    pub fn until_from(&mut self, from: usize, mark: &[u8]) {
        let mut at = from;
        loop {
            if self.seen[at..].windows(mark.len()).any(|w| w == mark) {
                return;
            }
            at = self.seen.len().saturating_sub(mark.len()).max(from);
            assert!(
                self.read(),
                "{:?} did not come (ended: {}): {:?}",
                String::from_utf8_lossy(mark),
                self.ended,
                String::from_utf8_lossy(&self.seen[self.seen.len().saturating_sub(400)..])
            );
        }
    }

    /// Reads to the end.
    pub fn until_end(&mut self) {
        while self.read() {}
        assert!(
            self.ended,
            "no end came: {:?}",
            String::from_utf8_lossy(&self.seen[self.seen.len().saturating_sub(400)..])
        );
    }

    /// Reads exactly `n` more bytes, and forgets them.
    pub fn skip(&mut self, mut n: usize) {
        let mut chunk = vec![0; 256 * 1024];
        while n > 0 {
            let most = n.min(chunk.len());
            match self.wire.read(&mut chunk[..most]) {
                Ok(got @ 1..) => n -= got,
                other => panic!("{n} bytes are missing: {other:?}"),
            }
        }
    }

    /// One command, and its reply up to the echo behind it.
    pub fn ask(&mut self, line: &str) -> String {
        const MARK: &str = "so-far-and-no-further";
        let from = self.seen.len();
        assert!(
            self.send(&[command(line), command(&format!("ECHO {MARK}"))].concat()),
            "{line}: cannot send"
        );
        let mark = format!("${}\r\n{MARK}\r\n", MARK.len());
        self.until_from(from, mark.as_bytes());
        String::from_utf8_lossy(&self.seen[from..self.seen.len() - mark.len()]).into_owned()
    }

    /// Nothing more will be sent.
    pub fn half_close(&mut self) {
        let _ = self.tcp.as_ref().expect("over TCP").shutdown(std::net::Shutdown::Write);
    }

    /// Breaks off: the peer gets a reset.
    pub fn reset(self) {
        let io = self.tcp.as_ref().expect("over TCP");
        let _ = socket2::SockRef::from(io).set_linger(Some(Duration::ZERO));
    }
}

/// A reproducible stream of numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Sends `bytes` in pieces: 0 whole, 1 byte by byte, else as the numbers fall.
pub fn send_cut(conn: &mut Conn, bytes: &[u8], cut: u64, rng: &mut Rng) {
    let mut at = 0;
    while at < bytes.len() {
        let n = match cut {
            0 => bytes.len(),
            1 if bytes.len() < 600 => 1,
            _ => 1 + if rng.below(3) == 0 { rng.below(7) } else { rng.below(bytes.len().max(64)) },
        };
        let end = (at + n).min(bytes.len());
        if !conn.send(&bytes[at..end]) {
            return;
        }
        if cut > 0 && rng.below(8) == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
        at = end;
    }
}
