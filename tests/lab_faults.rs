//! Each fault alone, without bgsafe: the server does refuse, and after the heal a save (or an append) works again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bgsafe::testing::client::{Direct, Reply, text};
use bgsafe::testing::faults::{Fault, process};
use bgsafe::testing::find::for_tests;
use bgsafe::testing::server::Server;
use clap::ValueEnum;

fn refuses(direct: &mut Direct) -> bool {
    matches!(direct.command(&["SET", "k", "v"]).unwrap(), Reply::Error(text) if text.starts_with("MISCONF"))
}

fn eventually(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(8);
    while !ready() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn check(fault: Fault) {
    let program = for_tests().unwrap();
    if let Err(why) = fault.possible_for(&program) {
        return eprintln!("SKIPPED {fault:?}: {why}");
    }
    let server = Server::start(&program, fault.options(&program)).unwrap();
    let mut direct = server.direct().unwrap();
    direct.demand(&["SET", "k", "0"]).unwrap();
    direct.demand(&["SAVE"]).unwrap();
    let saved_at = direct.last_save().unwrap();

    let broken = fault.strike(server.site()).unwrap();
    assert!(refuses(&mut direct), "{fault:?} does not make the server refuse");
    let one_shot = matches!(fault, Fault::KilledChild | Fault::DeadEnd);
    let aof = matches!(fault, Fault::AofFull | Fault::AofFsync);
    if !one_shot && !aof {
        // Still broken: another try fails too.
        let _ = direct.command(&["BGSAVE"]).unwrap();
        eventually("a child to end", || process::children(server.pid()).is_empty());
        std::thread::sleep(Duration::from_millis(200));
        assert!(refuses(&mut direct), "{fault:?} let a save through");
    }
    if aof {
        assert_eq!(direct.info("aof_last_write_status").unwrap().as_deref(), Some("err"));
    }

    broken.heal().unwrap();
    if aof {
        eventually("the append to work again", || !refuses(&mut direct));
        return;
    }
    // LASTSAVE counts whole seconds: it can only be seen to advance in the next one.
    std::thread::sleep(Duration::from_millis(1100));
    // A child that was forked before the heal may still have to end.
    eventually("a save to be started", || !matches!(direct.command(&["BGSAVE"]).unwrap(), Reply::Error(_)));
    eventually("writes to be accepted", || !refuses(&mut direct));
    assert!(direct.last_save().unwrap() > saved_at);
}

macro_rules! faults {
    ($($name:ident: $fault:ident,)*) => {
        $(#[test] fn $name() { check(Fault::$fault) })*

        #[test]
        fn every_fault_has_a_test() {
            let tested = [$(Fault::$fault),*];
            let all: BTreeMap<String, Fault> =
                Fault::value_variants().iter().map(|&fault| (format!("{fault:?}"), fault)).collect();
            assert_eq!(all.len(), tested.len());
        }
    };
}

faults! {
    a_process_limit_fails_fork_and_is_raised_again: Nproc,
    a_directory_in_the_place_of_the_dump_fails_saves: DumpDir,
    one_killed_child_makes_the_server_refuse: KilledChild,
    a_killer_of_children_fails_every_save: ChildKiller,
    a_deleted_directory_comes_back_with_its_setting: DirDeleted,
    a_read_only_directory_fails_saves: DirReadonly,
    a_full_disk_fails_saves: DiskFull,
    a_failing_fork_fails_saves: ForkFails,
    a_full_disk_fails_appends: AofFull,
    a_failed_fsync_sticks: AofFsync,
    a_dead_end_refuses_with_nothing_wrong: DeadEnd,
}

#[test]
fn a_fault_that_is_only_dropped_is_undone_too() {
    let program = for_tests().unwrap();
    let server = Server::start(&program, Fault::DumpDir.options(&program)).unwrap();
    let mut direct = server.direct().unwrap();
    direct.demand(&["SET", "k", "0"]).unwrap();
    direct.demand(&["SAVE"]).unwrap();
    drop(Fault::DumpDir.strike(server.site()).unwrap());
    assert!(server.dir().join("dump.rdb").is_file(), "the operator's dump is back in its place");
    assert_eq!(text(&direct.demand(&["SAVE"]).unwrap()), "OK");
}

#[test]
fn a_save_that_runs_ends_with_its_server_and_leaves_nothing() {
    let program = for_tests().unwrap();
    let server = Server::start(&program, Default::default()).unwrap();
    let mut direct = server.direct().unwrap();
    direct.demand(&["SET", "k", "0"]).unwrap();
    direct.demand(&["CONFIG", "SET", "rdb-key-save-delay", "30000000"]).unwrap();
    direct.demand(&["BGSAVE"]).unwrap();
    eventually("a child", || !process::children(server.pid()).is_empty());
    let (children, root) = (process::children(server.pid()), server.site().root.clone());
    drop(server);
    let state = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A dead child waits for init to collect it: a zombie is as good as gone.
    eventually("the child's end", || {
        children.iter().all(|pid| state(pid).is_empty() || state(pid).contains(") Z "))
    });
    assert!(!root.exists());
}
