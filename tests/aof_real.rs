//! The append-only file of a real server: what clears a failed sync on this version, and what bgsafe makes of it with
//! fifty writers. The table of `guard::aof` is held against the server itself.

mod common;

use std::time::Duration;

use bgsafe::guard::aof::{Row, VERSIONS};
use bgsafe::guard::debt::{Debt, VERSION_SETTING};
use bgsafe::guard::store::Store;
use bgsafe::testing::client::{Direct, text};
use bgsafe::testing::faults::Fault;
use bgsafe::testing::server::Server;
use common::{Lab, eventually, program};

const STICKY: Fault = Fault::AofFsync;

fn skipped(fault: Fault) -> bool {
    let Err(why) = fault.possible_for(&program()) else { return false };
    eprintln!("SKIPPED {fault:?}: {why}");
    true
}

/// What the table says of the server on test.
fn row() -> &'static Row {
    let program = program();
    let numbers: Vec<u32> = program.version.split('.').map(|n| n.parse().unwrap()).collect();
    let version = (numbers[0], numbers[1], numbers[2]);
    let product = program.product.to_string().to_lowercase();
    let fits = |row: &&Row| row.server == product && row.from <= version && version < row.below;
    VERSIONS.iter().find(fits).unwrap_or_else(|| panic!("no row for {product} {version:?}"))
}

fn is_ok(direct: &mut Direct) -> bool {
    direct.info("aof_last_write_status").unwrap().as_deref() == Some("ok")
}

fn is_ok_within(direct: &mut Direct, secs: u64) -> bool {
    (0..secs * 20).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        is_ok(direct)
    })
}

/// On, written, synced, whole.
fn assert_sound(lab: &Lab) {
    let mut direct = lab.server.direct().unwrap();
    assert_eq!(direct.config("appendonly").unwrap().as_deref(), Some("yes"));
    for (field, value) in [
        ("aof_enabled", "1"),
        ("aof_rewrite_in_progress", "0"),
        ("aof_rewrite_scheduled", "0"),
        ("aof_last_bgrewrite_status", "ok"),
        ("aof_last_write_status", "ok"),
    ] {
        assert_eq!(direct.info(field).unwrap().as_deref(), Some(value), "{field}");
    }
}

/// What a power cut would leave is what was there: the file holds it, not only the memory.
fn assert_on_disk(lab: &mut Lab) {
    std::thread::sleep(Duration::from_millis(2500));
    let size = |lab: &Lab| text(&lab.server.direct().unwrap().command(&["DBSIZE"]).unwrap());
    let before = size(lab);
    lab.server.restart().unwrap();
    assert_eq!(size(lab), before, "keys after kill -9 of the server");
}

/// Without bgsafe: the table is what the server does.
#[test]
fn what_the_table_says_of_this_version_is_so() {
    if skipped(STICKY) {
        return;
    }
    for (way, clears) in [("nothing", false), ("rewrite", row().rewrite), ("off and on", row().reopen)] {
        let server = Server::start(&program(), STICKY.options(&program())).unwrap();
        let broken = STICKY.strike(server.site()).unwrap();
        let mut direct = server.direct().unwrap();
        assert_eq!(direct.info("aof_buffer_length").unwrap().as_deref(), Some("0"), "no write waits");
        match way {
            "rewrite" => drop(direct.demand(&["BGREWRITEAOF"]).unwrap()),
            "off and on" => {
                for words in [
                    &["MULTI"][..],
                    &["CONFIG", "SET", "appendonly", "no"],
                    &["CONFIG", "SET", "appendonly", "yes"],
                    &["EXEC"],
                ] {
                    direct.demand(words).unwrap();
                }
            }
            _ => {}
        }
        assert_eq!(
            is_ok_within(&mut direct, if clears { 15 } else { 3 }),
            clears,
            "{way} on {}",
            row().source
        );
        drop(broken);
    }
}

#[test]
fn a_write_error_keeps_something_back_and_heals_by_room() {
    if skipped(Fault::AofFull) {
        return;
    }
    let mut lab = Lab::new(Fault::AofFull.options(&program()), &["--hold-time", "30s"]);
    lab.write();
    let broken = Fault::AofFull.strike(lab.server.site()).unwrap();
    let waits = lab.server.direct().unwrap().info("aof_buffer_length").unwrap().unwrap();
    assert_ne!(waits, "0", "a write waits");
    std::thread::sleep(Duration::from_millis(1500));
    broken.heal().unwrap();
    lab.wait_until_quiet_for("yes", Duration::from_secs(40));
    let score = lab.judge();
    lab.assert_perfect(&score);
    let incident = lab.assert_incident("aof", &["self-healed"]);
    assert!(incident["verified_after_ms"].is_u64(), "{incident:#}");
    assert_on_disk(&mut lab);
}

#[test]
fn a_sticky_sync_is_cured_behind_held_writers_and_the_file_is_on() {
    if skipped(STICKY) {
        return;
    }
    let mut lab = Lab::new(STICKY.options(&program()), &["--aof-repair", "switch", "--hold-time", "60s"]);
    lab.write();
    std::thread::sleep(Duration::from_millis(1200));
    let broken = STICKY.strike(lab.server.site()).unwrap();
    lab.wait_until_quiet_for("yes", Duration::from_secs(50));
    assert_sound(&lab);
    let before = lab.acked();
    eventually("writes to flow again", Duration::from_secs(20), || lab.acked() > before + 200);
    let score = lab.judge();
    lab.assert_perfect(&score);
    lab.assert_no_debt_file();
    let outcome = if row().rewrite { "self-healed" } else { "rearmed" };
    let incident = lab.assert_incident("aof", &[outcome]);
    assert!(incident["verified_after_ms"].is_u64(), "{incident:#}");
    // Its undo would switch the file off and on.
    std::mem::forget(broken);
    assert_on_disk(&mut lab);
}

#[test]
fn by_default_the_file_is_never_switched_off() {
    if skipped(STICKY) {
        return;
    }
    let mut lab = Lab::new(STICKY.options(&program()), &["--hold-time", "300ms"]);
    lab.write();
    let broken = STICKY.strike(lab.server.site()).unwrap();
    if row().rewrite {
        lab.wait_until_quiet_for("yes", Duration::from_secs(40));
        assert_sound(&lab);
    } else {
        let told = |lab: &Lab| lab.bgsafe.log().contains("append-only file left alone");
        eventually("the reason", Duration::from_secs(20), || told(&lab));
        assert!(lab.bgsafe.log().contains("needs --aof-repair switch"), "{}", lab.bgsafe.log());
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!is_ok(&mut lab.server.direct().unwrap()), "nobody touched it");
        broken.heal().unwrap();
        lab.wait_until_quiet_for("yes", Duration::from_secs(40));
    }
    let score = lab.judge();
    lab.assert_honest(&score);
    lab.assert_incident("aof", &["self-healed"]);
}

/// As a kill -9 between `no` and `yes` leaves it: the note on disk, the file off.
#[test]
fn a_file_left_off_by_a_killed_bgsafe_is_switched_on_by_the_next() {
    if !program().at_least(6, 2) {
        eprintln!("SKIPPED: no version before 6.2 is ever switched off");
        return;
    }
    let mut lab = Lab::new(STICKY.options(&program()), &[]);
    let mut direct = lab.server.direct().unwrap();
    lab.bgsafe.kill9();
    let address = lab.server.site().address.to_string();
    let (mut store, found) = Store::open(&lab.bgsafe.state_dir(), &address).unwrap();
    assert_eq!(found, Ok(None));
    let debt = Debt {
        version: VERSION_SETTING,
        upstream: address.clone(),
        address,
        run_id: direct.info("run_id").unwrap().unwrap(),
        setting: "appendonly".into(),
        owed: "yes".into(),
        since_ms: 1_795_342_500_000,
        incident: "20261122T101500Z-1f3a".into(),
    };
    store.write(&debt).unwrap();
    drop(store);
    direct.demand(&["CONFIG", "SET", "appendonly", "no"]).unwrap();
    direct.demand(&["SET", "lab:meanwhile", "1"]).unwrap();
    lab.bgsafe.restart().unwrap();
    lab.wait_until_quiet_for("yes", Duration::from_secs(40));
    eventually("the file to be on", Duration::from_secs(5), || {
        direct.config("appendonly").unwrap().as_deref() == Some("yes")
    });
    assert_sound(&lab);
    lab.assert_no_debt_file();
    let incident = lab.assert_incident("aof", &["rearmed"]);
    assert!(incident["verified_after_ms"].is_u64(), "{incident:#}");
    assert_on_disk(&mut lab);
}
