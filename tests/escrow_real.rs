//! Copies of a real server's data, fetched for real: whole, of the right age, and gone when they did not become whole.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bgsafe::config::{Address, Credentials, Secret};
use bgsafe::control::Endpoint;
use bgsafe::escrow::keep::Keep;
use bgsafe::escrow::pull::pull;
use bgsafe::guard::debt::Debt;
use bgsafe::guard::escrow::{Order, PullError, Snapshot};
use bgsafe::guard::store::Store;
use bgsafe::testing::client::{Direct, text};
use bgsafe::testing::faults::process;
use bgsafe::testing::find::{Program, for_tests};
use bgsafe::testing::proxy::Proxy;
use bgsafe::testing::server::{Options, Server};
use serde_json::Value;

fn program() -> Program {
    for_tests().unwrap_or_else(|why| panic!("{why}"))
}

/// A diskless server without a pause before it forks.
fn server(args: &[&str]) -> Server {
    let options = Options::default().arg(&["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]);
    Server::start(&program(), options.arg(args)).unwrap()
}

fn endpoint(server: &Server) -> Endpoint {
    Endpoint {
        address: Address::Tcp(server.site().address.to_string()),
        credentials: None,
        name: "bgsafe-escrow:test".into(),
        renames: Default::default(),
    }
}

fn order(direct: &mut Direct) -> Order {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let number = |text: Option<String>| text.unwrap().parse().unwrap();
    Order {
        at_ms: now.as_millis() as u64,
        changes: number(direct.info("rdb_changes_since_last_save").unwrap()),
        last_save: number(direct.info("rdb_last_save_time").unwrap()),
        run_id: direct.info("run_id").unwrap().unwrap(),
    }
}

fn fetch_as(endpoint: &Endpoint, keep: &Keep, order: Order) -> Result<Snapshot, PullError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(pull(endpoint, keep, order))
}

fn fetch(server: &Server, keep: &Keep) -> Result<Snapshot, PullError> {
    let order = order(&mut server.direct().unwrap());
    fetch_as(&endpoint(server), keep, order)
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn fill(direct: &mut Direct, keys: usize, bytes: usize) {
    for n in 0..keys {
        // Not to be compressed.
        let value: String =
            (0..bytes).map(|i| char::from(b'!' + ((i * 7 + n * 31 + i * i) % 90) as u8)).collect();
        direct.demand(&["SET", &format!("key:{n}"), &value]).unwrap();
    }
}

/// A fresh server of the same program that has this copy for its dump.
fn restored(snapshot: &Snapshot) -> Server {
    let mut fresh = Server::start(&program(), Options::default()).unwrap();
    fresh.kill9();
    fs::copy(&snapshot.path, fresh.dir().join("dump.rdb")).unwrap();
    fresh.restart().unwrap();
    fresh
}

/// What M §5.8 ends with: its directory was deleted, so no save of its own can ever work again.
#[test]
fn a_server_whose_directory_is_gone_gives_a_copy_and_its_status_stays() {
    let server = server(&[]);
    let mut direct = server.direct().unwrap();
    fill(&mut direct, 300, 2000);
    direct.demand(&["SELECT", "3"]).unwrap();
    direct.demand(&["RPUSH", "list", "a", "b"]).unwrap();
    fs::remove_dir_all(server.dir()).unwrap();
    direct.demand(&["BGSAVE"]).unwrap();
    let status = |direct: &mut Direct| direct.info("rdb_last_bgsave_status").unwrap().unwrap();
    while status(&mut direct) != "err" {
        std::thread::sleep(Duration::from_millis(10));
    }
    let before = order(&mut direct);
    let escrow = tempfile::tempdir().unwrap();
    let keep = Keep::open(escrow.path(), "s", 2, 0).unwrap();
    let copy = fetch(&server, &keep).unwrap();
    assert_eq!((copy.run_id.as_str(), copy.changes), (before.run_id.as_str(), before.changes));
    assert!(copy.checked.starts_with(&["end".into(), "sum".into()]), "{copy:?}");
    if copy.checked.len() > 2 {
        assert_eq!(copy.keys, Some(301), "{copy:?}");
    }
    assert_eq!(copy.bytes, fs::metadata(&copy.path).unwrap().len());
    eprintln!(
        "{}: layout {}, checked: {}, keys {:?}",
        copy.server,
        copy.version,
        copy.checked.join(", "),
        copy.keys
    );
    let after = order(&mut direct);
    assert_eq!(
        (after.changes, after.last_save, status(&mut direct).as_str()),
        (before.changes, before.last_save, "err")
    );
    let clients = || text(&server.direct().unwrap().demand(&["CLIENT", "LIST"]).unwrap());
    for _ in 0..500 {
        if !clients().contains("bgsafe-escrow") {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!clients().contains("bgsafe-escrow"), "{}", clients());

    let fresh = restored(&copy);
    let mut there = fresh.direct().unwrap();
    assert_eq!(text(&there.demand(&["DBSIZE"]).unwrap()), "300");
    for n in [0, 150, 299] {
        let key = format!("key:{n}");
        direct.demand(&["SELECT", "0"]).unwrap();
        assert_eq!(there.demand(&["GET", &key]).unwrap(), direct.demand(&["GET", &key]).unwrap());
    }
    there.demand(&["SELECT", "3"]).unwrap();
    assert_eq!(text(&there.demand(&["LRANGE", "list", "0", "-1"]).unwrap()), "a b");
}

/// The mark of the end and the sum hold for any size, and for none.
#[test]
fn copies_of_every_size_are_whole_and_only_the_newest_are_kept() {
    let server = server(&["--rdbcompression", "no"]);
    let mut direct = server.direct().unwrap();
    let escrow = tempfile::tempdir().unwrap();
    let keep = Keep::open(escrow.path(), "s", 2, 0).unwrap();
    let mut sizes = Vec::new();
    for (keys, bytes) in [(0, 0), (1, 1), (40, 100_000), (3, 3_000_000)] {
        fill(&mut direct, keys, bytes);
        let copy = fetch(&server, &keep).unwrap();
        assert_eq!(keep.newest().as_ref(), Some(&copy));
        sizes.push(copy.bytes);
    }
    assert!(sizes[3] > 9_000_000, "{sizes:?}");
    assert_eq!(names(escrow.path()).len(), 4, "two copies and their notes");
}

/// A file of its disk would fail where its saves fail, and say so in the status that opens the writes.
#[test]
fn a_server_that_syncs_by_its_disk_is_left_alone() {
    let server = server(&[]);
    let mut direct = server.direct().unwrap();
    direct.demand(&["CONFIG", "SET", "repl-diskless-sync", "no"]).unwrap();
    direct.demand(&["SET", "k", "v"]).unwrap();
    let before = order(&mut direct);
    let escrow = tempfile::tempdir().unwrap();
    let keep = Keep::open(escrow.path(), "s", 2, 0).unwrap();
    let error = fetch(&server, &keep).unwrap_err();
    assert!(error.lasting && error.why.contains("CONFIG SET repl-diskless-sync yes"), "{error:?}");
    let after = order(&mut direct);
    assert_eq!((after.changes, after.last_save), (before.changes, before.last_save), "no save was made");
    assert!(names(escrow.path()).is_empty());
    let other = Order { run_id: "0".repeat(40), ..after };
    direct.demand(&["CONFIG", "SET", "repl-diskless-sync", "yes"]).unwrap();
    let error = fetch_as(&endpoint(&server), &keep, other).unwrap_err();
    assert!(!error.lasting && error.why.contains("another process"), "{error:?}");
    assert!(names(escrow.path()).is_empty());
}

#[test]
fn a_child_or_a_server_killed_in_the_middle_leaves_nothing() {
    for whole in [false, true] {
        let mut server = server(&["--rdb-key-save-delay", "3000"]);
        fill(&mut server.direct().unwrap(), 2000, 200);
        let escrow = tempfile::tempdir().unwrap();
        let keep = Keep::open(escrow.path(), "s", 2, 0).unwrap();
        let (endpoint, order) = (endpoint(&server), order(&mut server.direct().unwrap()));
        let fetching = std::thread::spawn({
            let keep = keep.clone();
            move || fetch_as(&endpoint, &keep, order)
        });
        let grown = || {
            names(escrow.path()).iter().any(|n| {
                n.ends_with(".rdb.part")
                    && fs::metadata(escrow.path().join(n)).is_ok_and(|m| m.len() > 20_000)
            })
        };
        for _ in 0..2000 {
            if grown() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(grown());
        match whole {
            true => server.kill9(),
            false => assert_eq!(process::kill_children(server.pid()), 1),
        }
        let error = fetching.join().unwrap().unwrap_err();
        assert!(!error.lasting && error.why.starts_with("upstream: "), "{error:?}");
        assert!(names(escrow.path()).is_empty(), "{:?}", names(escrow.path()));
    }
}

#[test]
fn a_user_without_the_right_is_told_which() {
    let server = server(&[]);
    let mut direct = server.direct().unwrap();
    let rights = "on >pw resetkeys -@all +ping +info +config|get +client|setname";
    let set = |direct: &mut Direct, more: &str| {
        let line = format!("ACL SETUSER guard {rights} {more}");
        direct.demand(&line.split_whitespace().collect::<Vec<_>>()).unwrap();
    };
    let escrow = tempfile::tempdir().unwrap();
    let keep = Keep::open(escrow.path(), "s", 2, 0).unwrap();
    let credentials = Credentials { user: Some("guard".into()), password: Secret("pw".into()) };
    let endpoint = Endpoint { credentials: Some(credentials), ..endpoint(&server) };
    for (more, ok) in [("", false), ("+replconf", false), ("+psync", false), ("+psync +replconf", true)] {
        set(&mut direct, more);
        let result = fetch_as(&endpoint, &keep, order(&mut direct));
        assert_eq!(result.is_ok(), ok, "{more}: {result:?}");
        if let Err(error) = result {
            assert!(error.lasting && error.why.contains("+psync +replconf"), "{more}: {error:?}");
        }
        assert_eq!(names(escrow.path()).is_empty(), !ok, "{more}");
    }
}

/// The real bgsafe before such a server.
fn bgsafe(server: &Server, args: &[&str]) -> Proxy {
    let upstream = format!("redis://{}", server.site().address);
    Proxy::start(Path::new(env!("CARGO_BIN_EXE_bgsafe")), &upstream, args).unwrap()
}

fn eventually(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !ready() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn escrow_of(proxy: &Proxy) -> Option<Value> {
    Some(proxy.upstream_status().ok()?["escrow"].clone()).filter(|copy| !copy.is_null())
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// One client through bgsafe until it is told to stop: what was acknowledged, and when.
fn write_until(stop: Arc<AtomicBool>, at: SocketAddr) -> JoinHandle<Vec<(u64, u64)>> {
    std::thread::spawn(move || {
        let (mut client, mut acked) = (Direct::connect(at).unwrap(), Vec::new());
        for n in 0.. {
            if stop.load(Relaxed) {
                break;
            }
            client.demand(&["SET", &format!("token:{n}"), "1"]).unwrap();
            acked.push((n, unix_ms()));
            std::thread::sleep(Duration::from_millis(2));
        }
        acked
    })
}

#[test]
fn a_server_beyond_repair_is_copied_under_writers_and_every_token_of_before_is_in_the_copy() {
    let server = server(&[]);
    let mut direct = server.direct().unwrap();
    fill(&mut direct, 50, 1000);
    let proxy = bgsafe(&server, &["--escrow", "always", "--escrow-every", "2s", "--escrow-keep", "2"]);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = write_until(stop.clone(), proxy.listen());
    std::thread::sleep(Duration::from_millis(300));
    fs::remove_dir_all(server.dir()).unwrap();
    direct.demand(&["BGSAVE"]).unwrap();
    eventually("a copy", || escrow_of(&proxy).is_some());
    let first = escrow_of(&proxy).unwrap();
    eventually("a later one", || escrow_of(&proxy).is_some_and(|copy| copy["path"] != first["path"]));
    eventually("the third, and the first gone", || {
        !Path::new(first["path"].as_str().unwrap()).exists() && escrow_of(&proxy).is_some()
    });
    stop.store(true, Relaxed);
    let acked = writer.join().unwrap();
    let stopped = unix_ms();
    let noted = || -> Snapshot {
        let path = escrow_of(&proxy).unwrap()["path"].as_str().unwrap().to_owned();
        serde_json::from_slice(&fs::read(Path::new(&path).with_extension("json")).unwrap()).unwrap()
    };
    eventually("a copy of everything", || noted().at_ms > stopped);
    // No further one is asked for: the newest has everything.
    std::thread::sleep(Duration::from_millis(4500));
    let status = proxy.upstream_status().unwrap();
    let copy = &status["escrow"];
    assert_eq!(status["exposure"]["changes"], 0, "{status}");
    assert!(status["exposure"]["secs"].as_u64() <= copy["age_secs"].as_u64(), "{status}");
    // It is no proof of the server's disk: the switch is down, the debt owed, the status what it was.
    assert_eq!(direct.config("stop-writes-on-bgsave-error").unwrap().as_deref(), Some("no"));
    assert!(!status["debt"].is_null(), "{status}");
    assert_eq!(direct.info("rdb_last_bgsave_status").unwrap().as_deref(), Some("err"));
    let left = fs::read_dir(proxy.state_dir().join("escrow")).unwrap().count();
    assert_eq!(left, 4, "two copies and their notes");
    let log = proxy.log();
    assert!(log.contains("copy taken"), "{log}");

    let snapshot = noted();
    assert!(unix_ms() - snapshot.at_ms > 3500, "{snapshot:?}");
    let fresh = restored(&snapshot);
    let mut there = fresh.direct().unwrap();
    let before: Vec<_> = acked.iter().filter(|(_, at)| *at < snapshot.at_ms).collect();
    assert!(before.len() > 50, "{} of {}", before.len(), acked.len());
    for (n, _) in &before {
        assert_eq!(text(&there.demand(&["EXISTS", &format!("token:{n}")]).unwrap()), "1", "token {n}");
    }
    let keys = text(&direct.demand(&["DBSIZE"]).unwrap());
    assert_eq!(text(&there.demand(&["DBSIZE"]).unwrap()), keys, "the newest copy has everything");
    eprintln!(
        "{} of {} tokens are from before the copy; {} bytes",
        before.len(),
        acked.len(),
        snapshot.bytes
    );
}

#[test]
fn a_bgsafe_killed_in_the_middle_leaves_a_part_that_the_next_life_removes() {
    let server = server(&["--rdb-key-save-delay", "2000"]);
    let mut direct = server.direct().unwrap();
    fill(&mut direct, 1500, 200);
    let mut proxy = bgsafe(&server, &["--escrow", "always"]);
    let escrow = proxy.state_dir().join("escrow");
    fs::remove_dir_all(server.dir()).unwrap();
    direct.demand(&["BGSAVE"]).unwrap();
    let part = || names(&escrow).into_iter().find(|name| name.ends_with(".rdb.part"));
    eventually("a part", || {
        part().is_some_and(|name| fs::metadata(escrow.join(name)).is_ok_and(|m| m.len() > 20_000))
    });
    let left = part().unwrap();
    proxy.kill9();
    assert!(escrow.join(&left).exists());
    proxy.restart().unwrap();
    assert!(!escrow.join(&left).exists(), "{:?}", names(&escrow));
    // It finds the debt, and takes the copy that its last life did not live to take.
    eventually("a copy", || escrow_of(&proxy).is_some());
    assert!(part().is_none() && names(&escrow).len() == 2, "{:?}", names(&escrow));
    assert!(!proxy.upstream_status().unwrap()["debt"].is_null());
    // Over a restart it is known, and counted from.
    let before = escrow_of(&proxy).unwrap();
    proxy.restart().unwrap();
    eventually("the same", || escrow_of(&proxy).is_some_and(|copy| copy["path"] == before["path"]));
}

/// A filesystem of our own, gone at the end.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(mib: u32) -> Option<Tmpfs> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "bgsafe-test"]).arg(dir.path());
        mount.output().is_ok_and(|done| done.status.success()).then_some(Tmpfs(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

/// The debt's page lies on the same disk.
#[test]
fn our_own_disk_is_never_filled_and_the_debts_page_stays_writable() {
    let Some(disk) = Tmpfs::new(80) else { return eprintln!("left out: mounting a tmpfs needs root") };
    let server = server(&["--rdbcompression", "no"]);
    fill(&mut server.direct().unwrap(), 10, 3_000_000);
    let state = disk.0.path().join("state");
    let (mut store, found) = Store::open(&state, "a:1").unwrap();
    assert_eq!(found, Ok(None));
    let (address, run_id, owed, incident) = ("a:1".into(), "r".into(), "yes".into(), "i".into());
    let setting = "stop-writes-on-bgsave-error".to_string();
    let debt =
        Debt { version: 1, address, upstream: "a:1".into(), run_id, setting, owed, since_ms: 1, incident };
    store.write(&debt).unwrap();
    let escrow = state.join("escrow");
    let keep = Keep::open(&escrow, "a:1", 2, 0).unwrap();
    // 16 MiB beyond the reserve, and the copy has 30 MB.
    let error = fetch(&server, &keep).unwrap_err();
    assert!(!error.lasting && error.why.contains("stay free for bgsafe's own notes"), "{error:?}");
    assert!(names(&escrow).is_empty());
    store.erase().unwrap();
    store.write(&debt).unwrap();
    drop(store);
    assert_eq!(Store::open(&state, "a:1").unwrap().1, Ok(Some(debt)));
    let bounded = Keep::open(&escrow, "a:1", 2, 1 << 20).unwrap();
    let error = fetch(&server, &bounded).unwrap_err();
    assert!(error.lasting && error.why.contains("--escrow-max-bytes"), "{error:?}");
    assert!(names(&escrow).is_empty());
    // What fits is taken.
    server.direct().unwrap().demand(&["DEL", "key:1", "key:2", "key:3", "key:4", "key:5", "key:6"]).unwrap();
    assert!(fetch(&server, &keep).unwrap().bytes > 11_000_000);
}
