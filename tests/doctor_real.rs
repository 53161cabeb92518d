//! Each fault, made for real: what `bgsafe doctor` says first, and that what it prints cures it when it is typed; and
//! what bgsafe cures by itself when it may (`--repair host`), and leaves alone when it may not.
//!
//! Prints `ROW fault | finding | remedy | proof | ms` for each, to be collected into docs/doctor.md: the remedy is the
//! command as it was typed, or the table's words for what bgsafe did. Faults that need what this host has not say
//! `SKIPPED` and why.

mod common;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bgsafe::testing::client::Direct;
use bgsafe::testing::faults::Fault;
use bgsafe::testing::server::{Server, Site};
use common::{Lab, eventually, program};
use serde_json::Value;

/// A save of two gigabytes takes its time.
const PROOF: Duration = Duration::from_secs(60);
/// Long enough for bgsafe to look, and to do what it may not.
const NOTHING_HAPPENS: Duration = Duration::from_secs(3);

/// What becomes of the printed command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It is typed, and the next save proves it.
    Type,
    /// It is for a human's judgement, or reaches beyond a test's rights: healed by the lab.
    Heal,
}

/// What doctor must say of a fault.
struct Expected {
    fault: Fault,
    /// The first finding.
    finding: &'static str,
    /// In its command there must be all of these; `{pid}`, `{dir}`, `{uid}` and `{port}` are the server's.
    command: &'static [&'static str],
    then: Then,
}

#[rustfmt::skip]
const EXPECTED: &[Expected] = &[
    Expected { fault: Fault::Nproc, finding: "fork-eagain", command: &["prlimit", "--pid {pid}", "--nproc="], then: Then::Type },
    Expected { fault: Fault::PidsLimit, finding: "fork-eagain", command: &["echo ", "pids.max"], then: Then::Type },
    Expected { fault: Fault::ForkEagain, finding: "fork-eagain", command: &[], then: Then::Heal },
    Expected { fault: Fault::ForkFails, finding: "fork-enomem", command: &[], then: Then::Heal },
    Expected { fault: Fault::Overcommit, finding: "fork-enomem", command: &["sysctl -w vm.overcommit_memory=1"], then: Then::Type },
    Expected { fault: Fault::DirDeleted, finding: "dir-missing", command: &["{dir}", "CONFIG SET dir"], then: Then::Type },
    Expected { fault: Fault::DirReadonly, finding: "dir-permission", command: &["{dir}"], then: Then::Type },
    Expected { fault: Fault::WrongOwner, finding: "dir-permission", command: &["chown {uid}:{uid} {dir}"], then: Then::Type },
    Expected { fault: Fault::StickyDump, finding: "dir-permission", command: &["chown {uid}:{uid} {dir}/dump.rdb"], then: Then::Type },
    Expected { fault: Fault::DumpDir, finding: "dir-permission", command: &["mv {dir}/dump.rdb"], then: Then::Type },
    Expected { fault: Fault::ImmutableDir, finding: "dir-immutable", command: &["chattr -i", "{dir}"], then: Then::Type },
    Expected { fault: Fault::DiskFull, finding: "disk-full", command: &["{dir}"], then: Then::Heal },
    Expected { fault: Fault::DeadTemps, finding: "disk-full", command: &["rm", "{dir}/temp-"], then: Then::Type },
    Expected { fault: Fault::InodesFull, finding: "inodes-full", command: &["{dir}"], then: Then::Heal },
    Expected { fault: Fault::RemountRo, finding: "read-only-filesystem", command: &[], then: Then::Heal },
    Expected { fault: Fault::FsizeLimit, finding: "file-size-limit", command: &["prlimit", "--pid {pid}", "--fsize="], then: Then::Type },
    Expected { fault: Fault::CgroupOom, finding: "child-oom-killed", command: &["echo ", "bgsafe-lab-{pid}", "memory."], then: Then::Type },
    Expected { fault: Fault::KilledChild, finding: "child-killed", command: &["BGSAVE"], then: Then::Type },
    Expected { fault: Fault::ChildKiller, finding: "child-killed", command: &["BGSAVE"], then: Then::Heal },
    Expected { fault: Fault::ChildCrash, finding: "child-crashed", command: &[], then: Then::Heal },
    Expected { fault: Fault::DeadEnd, finding: "child-killed", command: &["BGSAVE"], then: Then::Type },
    Expected { fault: Fault::BreakIn, finding: "break-in-signs", command: &[], then: Then::Heal },
    Expected { fault: Fault::AofFull, finding: "disk-full", command: &["{dir}"], then: Then::Heal },
    Expected { fault: Fault::AofFsync, finding: "aof-fsync-sticky", command: &["redis-cli"], then: Then::Type },
];

#[test]
fn every_fault_is_in_the_table() {
    use clap::ValueEnum;
    for fault in Fault::value_variants() {
        let rows = EXPECTED.iter().filter(|row| row.fault == *fault).count();
        assert_eq!(rows, 1, "{fault:?}");
    }
}

/// Can it be made here, and can a cure be expected to see what it must?
fn possible(fault: Fault) -> Result<(), String> {
    fault.possible_for(&program())?;
    match fault {
        // Dead is what no process of the machine has open: every one must let us look, its init too.
        Fault::DeadTemps => {
            let open = std::fs::read_dir("/proc/1/fd").and_then(|mut open| open.next().transpose());
            match open.and_then(|open| open.map(|fd| std::fs::read_link(fd.path())).transpose()) {
                Err(error) => Err(format!("host: /proc/1/fd: {error}: nothing can be proved dead here")),
                Ok(_) => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn skipped(fault: Fault) -> bool {
    let Err(why) = possible(fault) else { return false };
    eprintln!("SKIPPED {fault:?}: {why}");
    true
}

fn name(fault: Fault) -> String {
    clap::ValueEnum::to_possible_value(&fault).expect("every fault has a name").get_name().to_owned()
}

fn row(fault: Fault, finding: &str, remedy: &str, proof: &str, since: Instant) {
    println!("ROW {} | {finding} | {remedy} | {proof} | {}", name(fault), since.elapsed().as_millis());
}

/// The template's words for this server.
fn filled(template: &str, site: &Site) -> String {
    template
        .replace("{pid}", &site.pid.to_string())
        .replace("{dir}", &site.data.to_string_lossy())
        .replace("{uid}", &site.uid.unwrap_or(0).to_string())
        .replace("{port}", &site.address.port().to_string())
}

/// `bgsafe doctor --json`, as a person runs it.
fn doctor(site: &Site) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bgsafe"));
    command.args(["doctor", "--json", &format!("redis://{}", site.address)]).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BGSAFE_")) {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "there are findings: {said}{complained}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}{complained}"))
}

/// What a cure may leave on the host for good, taken away again when the test ends, however it ends.
struct Tidy {
    had_file: bool,
}

const OVERCOMMIT_FILE: &str = bgsafe::guard::remedy::OVERCOMMIT_FILE;

impl Tidy {
    fn new() -> Tidy {
        Tidy { had_file: Path::new(OVERCOMMIT_FILE).exists() }
    }
}

impl Drop for Tidy {
    fn drop(&mut self) {
        if !self.had_file && Path::new(OVERCOMMIT_FILE).exists() {
            std::fs::remove_file(OVERCOMMIT_FILE).expect("what root wrote root can remove");
        }
    }
}

/// As root types it; but raising another user's limit takes CAP_SYS_RESOURCE, which a container's root lacks: that is
/// typed as the server's user.
fn shell(command: &str, site: &Site) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null());
    if let Some(uid) = site.uid.filter(|_| command.starts_with("prlimit")) {
        shell.uid(uid).gid(uid);
    }
    shell
}

fn works_again(fault: Fault, direct: &mut Direct, saved_at: i64) -> &'static str {
    if matches!(fault, Fault::AofFull | Fault::AofFsync) {
        eventually("the append to work again", PROOF, || {
            direct.info("aof_last_write_status").unwrap().as_deref() == Some("ok")
                && !common::is_misconf(&direct.command(&["SET", "k", "1"]).unwrap())
        });
        return "the append works";
    }
    // LASTSAVE counts whole seconds: it can only be seen to advance in the next one.
    std::thread::sleep(Duration::from_millis(1100));
    eventually("a save", PROOF, || {
        let _ = direct.command(&["BGSAVE"]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        direct.info("rdb_last_bgsave_status").unwrap().as_deref() == Some("ok")
            && direct.last_save().unwrap() > saved_at
    });
    "BGSAVE ok, LASTSAVE up"
}

/// A fault, what doctor says of it, and the command typed.
fn diagnosed(fault: Fault) {
    if skipped(fault) {
        return;
    }
    let row_of = EXPECTED.iter().find(|row| row.fault == fault).expect("every fault is in the table");
    let _alone = alone(fault);
    let _tidy = Tidy::new();
    let server = Server::start(&program(), fault.options(&program())).unwrap();
    let mut direct = server.direct().unwrap();
    direct.demand(&["SET", "k", "0"]).unwrap();
    direct.demand(&["SAVE"]).unwrap();
    let saved_at = direct.last_save().unwrap();
    let broken = fault.strike(server.site()).unwrap();

    let begun = Instant::now();
    let report = doctor(server.site());
    let first = &report["findings"][0];
    assert_eq!(first["id"], row_of.finding, "{fault:?}: {report:#}\n{}", server.log());
    let command = first["command"].as_str().unwrap_or_else(|| panic!("{fault:?}: no command: {first:#}"));
    for words in row_of.command {
        let words = filled(words, server.site());
        assert!(command.contains(&words), "{fault:?}: no {words:?} in {command:?}: {report:#}");
    }
    assert!(!command.is_empty(), "{fault:?}: nothing to type");
    let hands = match row_of.then {
        Then::Type => {
            let typed = shell(command, server.site()).output().unwrap();
            let words = String::from_utf8_lossy(&typed.stderr).into_owned();
            assert!(typed.status.success(), "{fault:?}: {command}: {words}");
            let proof = works_again(fault, &mut direct, saved_at);
            // The undo must bear that somebody has cured it.
            broken.heal().unwrap();
            format!("typed as printed; {proof}")
        }
        Then::Heal => {
            broken.heal().unwrap();
            format!("healed by the lab; {}", works_again(fault, &mut direct, saved_at))
        }
    };
    let command = command.replace(&*server.site().root.to_string_lossy(), "…");
    row(fault, row_of.finding, &command, &hands, begun);
}

/// Those that the whole machine shares, or that fill its memory, do not run at the same time.
fn alone(fault: Fault) -> Option<std::sync::MutexGuard<'static, ()>> {
    static HEAVY: Mutex<()> = Mutex::new(());
    let heavy = matches!(fault, Fault::Overcommit | Fault::CgroupOom);
    heavy.then(|| HEAVY.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

macro_rules! diagnosed {
    ($($name:ident: $fault:ident,)*) => { $(#[test] fn $name() { diagnosed(Fault::$fault) })* };
}

diagnosed! {
    a_process_limit_is_found: Nproc,
    a_full_pids_group_is_found: PidsLimit,
    a_fork_that_should_be_tried_again_is_found: ForkEagain,
    a_failing_fork_is_found: ForkFails,
    strict_accounting_is_found: Overcommit,
    a_deleted_directory_is_found: DirDeleted,
    a_read_only_directory_is_found: DirReadonly,
    a_directory_of_roots_is_found: WrongOwner,
    a_dump_of_roots_is_found: StickyDump,
    a_directory_in_the_place_of_the_dump_is_found: DumpDir,
    an_immutable_directory_is_found: ImmutableDir,
    a_full_disk_is_found: DiskFull,
    files_of_dead_saves_are_found: DeadTemps,
    a_file_system_without_inodes_is_found: InodesFull,
    a_read_only_file_system_is_found: RemountRo,
    a_limit_of_file_sizes_is_found: FsizeLimit,
    an_oom_killed_child_is_found: CgroupOom,
    a_killed_child_is_found: KilledChild,
    a_killer_of_children_is_found: ChildKiller,
    crashing_children_are_found: ChildCrash,
    a_dead_end_is_found: DeadEnd,
    an_intruder_is_found: BreakIn,
    a_full_append_disk_is_found: AofFull,
    a_sticky_fsync_error_is_found: AofFsync,
}

/// What bgsafe cures by itself when it may reach the host, and how the host shows it.
struct Cured {
    fault: Fault,
    finding: &'static str,
    /// Is the cause gone from the host?
    gone: fn(&Site) -> bool,
    /// bgsafe must run as the server's user: raising a foreign limit takes CAP_SYS_RESOURCE, which containers lack.
    as_server: bool,
}

#[rustfmt::skip]
const CURED: &[Cured] = &[
    Cured { fault: Fault::Overcommit, finding: "fork-enomem", gone: overcommit_is_one, as_server: false },
    Cured { fault: Fault::WrongOwner, finding: "dir-permission", gone: server_owns_the_directory, as_server: false },
    Cured { fault: Fault::DirDeleted, finding: "dir-missing", gone: |site| site.data.is_dir(), as_server: false },
    Cured { fault: Fault::Nproc, finding: "fork-eagain", gone: many_processes, as_server: true },
    Cured { fault: Fault::DeadTemps, finding: "disk-full", gone: no_dead_temps, as_server: false },
];

fn overcommit_is_one(_: &Site) -> bool {
    std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap().trim() == "1"
}

fn server_owns_the_directory(site: &Site) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(&site.data).is_ok_and(|meta| Some(meta.uid()) == site.uid)
}

fn many_processes(site: &Site) -> bool {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", site.pid)).unwrap();
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max processes")?.split_whitespace().next());
    soft.is_some_and(|soft| soft != "1")
}

fn no_dead_temps(site: &Site) -> bool {
    let names = std::fs::read_dir(&site.data).unwrap().map(|entry| entry.unwrap().file_name());
    let dead = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("temp-");
    !names.into_iter().any(|name| dead(&name))
}

fn row_of(fault: Fault) -> &'static Cured {
    CURED.iter().find(|row| row.fault == fault).expect("in the table")
}

/// Writers at work, the fault strikes, and nobody but bgsafe does anything about it.
fn cured(fault: Fault) {
    if skipped(fault) {
        return;
    }
    let Cured { finding, gone, as_server, .. } = *row_of(fault);
    let _alone = alone(fault);
    let _tidy = Tidy::new();
    let mut lab = Lab::run_as(as_server, fault.options(&program()), &["--repair", "host"]);
    lab.write();
    // LASTSAVE counts whole seconds: the proof must fall into a later one than the lab's own save.
    std::thread::sleep(Duration::from_millis(700));
    let site = lab.server.site().clone();
    let begun = Instant::now();
    let broken = fault.strike(&site).unwrap();
    eventually("bgsafe to hear of it", PROOF, || !lab.bgsafe.incidents().unwrap().is_empty());
    lab.wait_until_quiet_for("yes", PROOF);
    assert!(gone(&site), "{fault:?}: the cause is still there");
    let took = begun;
    let before = lab.acked();
    eventually("writes to flow on", Duration::from_secs(5), || lab.acked() > before + 100);

    let score = lab.judge();
    lab.assert_perfect(&score);
    lab.assert_no_debt_file();
    lab.assert_saved();
    let incident = lab.assert_incident("rdb", &["rearmed"]);
    let found = finding_of(&incident, finding);
    assert_eq!(found["applied"], true, "{incident:#}");
    assert!(incident["verified_after_ms"].as_u64().is_some(), "{incident:#}");
    let proof = format!("rearmed, {} tokens, none lost", score.total.acknowledged);
    let remedy = found["remedy"].as_str().unwrap_or_default().replace(&*site.root.to_string_lossy(), "…");
    row(fault, finding, &format!("by bgsafe: {remedy}"), &proof, took);
    // The undo must bear that somebody has cured it.
    broken.heal().unwrap();
}

fn finding_of<'a>(incident: &'a Value, id: &str) -> &'a Value {
    let findings = incident["findings"].as_array().into_iter().flatten();
    let mut found = findings.filter(|finding| finding["id"] == id);
    found.next().unwrap_or_else(|| panic!("no finding {id}: {incident:#}"))
}

/// The same, but bgsafe may do nothing to the host: it does nothing, and tells what a human would type.
fn left_alone(fault: Fault) {
    if skipped(fault) {
        return;
    }
    let Cured { finding, gone, .. } = *row_of(fault);
    let expected = EXPECTED.iter().find(|row| row.fault == fault).expect("in the table");
    let _alone = alone(fault);
    for repair in ["off", "redis"] {
        let tidy = Tidy::new();
        let mut lab = Lab::new(fault.options(&program()), &["--repair", repair]);
        lab.write();
        std::thread::sleep(Duration::from_millis(700));
        let site = lab.server.site().clone();
        let broken = fault.strike(&site).unwrap();
        std::thread::sleep(NOTHING_HAPPENS);
        assert!(!gone(&site), "--repair {repair}: {fault:?} was cured all the same");
        // Others' tests may write it meanwhile; this one's alone with it.
        assert!(fault != Fault::Overcommit || Path::new(OVERCOMMIT_FILE).exists() == tidy.had_file);
        let incident = lab.bgsafe.incidents().unwrap().into_iter().next().expect("an incident is open");
        let found = finding_of(&incident, finding);
        assert_eq!(found["applied"], false, "{incident:#}");
        let remedy = found["remedy"].as_str().unwrap_or_default();
        for words in expected.command {
            assert!(remedy.contains(&filled(words, &site)), "{words:?} is not in {remedy:?}");
        }
        broken.heal().unwrap();
        lab.wait_until_quiet_for("yes", PROOF);
        let score = lab.judge();
        lab.assert_perfect(&score);
        lab.assert_no_debt_file();
        lab.assert_incident("rdb", &["rearmed"]);
    }
}

macro_rules! cured {
    ($($fault:ident: $cured:ident, $left_alone:ident;)*) => {
        $(
            #[test] fn $cured() { cured(Fault::$fault) }
            #[test] fn $left_alone() { left_alone(Fault::$fault) }
        )*

        #[test]
        fn every_cure_has_a_test() {
            let tested = [$(Fault::$fault),*];
            assert!(CURED.iter().all(|row| tested.contains(&row.fault)));
        }
    };
}

cured! {
    Overcommit: strict_accounting_is_cured, strict_accounting_is_left_alone;
    WrongOwner: a_directory_of_roots_is_cured, a_directory_of_roots_is_left_alone;
    DirDeleted: a_deleted_directory_is_cured, a_deleted_directory_is_left_alone;
    Nproc: a_process_limit_is_cured, a_process_limit_is_left_alone;
    DeadTemps: files_of_dead_saves_are_cured, files_of_dead_saves_are_left_alone;
}

/// Consent: a group's limit is changed only by `doctor --fix`, which asks.
#[test]
fn a_full_pids_group_is_not_bgsafes_to_raise() {
    let fault = Fault::PidsLimit;
    if skipped(fault) {
        return;
    }
    let mut lab = Lab::new(fault.options(&program()), &["--repair", "host"]);
    lab.write();
    let broken = fault.strike(lab.server.site()).unwrap();
    std::thread::sleep(NOTHING_HAPPENS);
    let mut direct = lab.server.direct().unwrap();
    assert_eq!(direct.info("rdb_last_bgsave_status").unwrap().as_deref(), Some("err"), "nobody raised it");
    let incident = lab.bgsafe.incidents().unwrap().into_iter().next().expect("an incident is open");
    let found = finding_of(&incident, "fork-eagain");
    assert_eq!(found["applied"], false, "{incident:#}");
    assert!(found["remedy"].as_str().is_some_and(|remedy| remedy.contains("pids.max")), "{incident:#}");
    broken.heal().unwrap();
    lab.wait_until_quiet_for("yes", PROOF);
    let score = lab.judge();
    lab.assert_perfect(&score);
}

/// A save that worked there would be the intruder's: whatever bgsafe may do, it makes none possible.
#[test]
fn an_intruders_directory_is_not_opened() {
    use std::os::unix::fs::MetadataExt;
    let fault = Fault::BreakIn;
    if skipped(fault) {
        return;
    }
    let mut lab = Lab::new(fault.options(&program()), &["--repair", "host", "--hold-time", "300ms"]);
    lab.write();
    let site = lab.server.site().clone();
    let broken = fault.strike(&site).unwrap();
    let target = site.root.join("home/.ssh");
    let before = std::fs::metadata(&target).map(|meta| (meta.uid(), meta.mode())).unwrap();
    std::thread::sleep(NOTHING_HAPPENS);
    assert_eq!(std::fs::metadata(&target).map(|meta| (meta.uid(), meta.mode())).unwrap(), before);
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0, "nothing was saved there");
    let dir = lab.server.direct().unwrap().config("dir").unwrap();
    assert_eq!(dir.as_deref(), target.to_str(), "it is evidence");
    let incident = lab.bgsafe.incidents().unwrap().into_iter().next().expect("an incident is open");
    finding_of(&incident, "break-in-signs");
    let findings = incident["findings"].as_array().into_iter().flatten();
    for finding in findings {
        assert_eq!(finding["applied"], false, "{incident:#}");
        eprintln!("TOLD {} | {}", finding["id"], finding["remedy"]);
    }
    broken.heal().unwrap();
    let score = lab.judge();
    lab.assert_honest(&score);
}
