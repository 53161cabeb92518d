//! Copies of a real server's data, fetched for real: whole, of the right age, and gone when they did not become whole.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bgsafe::config::{Address, Credentials, Secret};
use bgsafe::control::Endpoint;
use bgsafe::escrow::keep::Keep;
use bgsafe::escrow::pull::pull;
use bgsafe::guard::escrow::{Order, PullError, Snapshot};
use bgsafe::testing::client::{Direct, text};
use bgsafe::testing::faults::process;
use bgsafe::testing::find::{Program, for_tests};
use bgsafe::testing::server::{Options, Server};

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
    let rights = "on >pw resetkeys resetchannels -@all +ping +info +config|get +client|setname";
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
