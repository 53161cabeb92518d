//! `bgsafe demo` is itself a test: its exit code says whether the writers noticed anything.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use bgsafe::testing::find::for_tests;

/// Runs the demo with a scratch place of its own.
fn demo(scratch: &Path, args: &[&str]) -> Output {
    let server = for_tests().unwrap_or_else(|why| panic!("{why}"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_bgsafe"));
    command.arg("demo").args(args).env("TMPDIR", scratch);
    // A checker is a server only by the name it is found under: then the demo finds it by itself too.
    if server.arg0.is_none() {
        command.arg("--server").arg(server.path);
    }
    command.output().unwrap()
}

fn scratch(mode: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
    dir
}

#[test]
fn the_demo_ends_well_and_leaves_nothing_behind() {
    let scratch = scratch(0o755);
    let output = demo(scratch.path(), &["--seconds", "1", "--writers", "27"]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    for words in ["BROKEN", "HEALED", "PROVED", "rearmed", "noticed nothing", "direct"] {
        assert!(out.contains(words), "no {words:?} in:\n{out}");
    }
    assert!(!out.contains('\x1b'), "colours are for terminals");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "something is left in the scratch place");
}

/// A scratch place that only we may enter: the server cannot run under another number there.
#[test]
fn the_demo_falls_back_to_a_fault_that_works_here() {
    let scratch = scratch(0o700);
    let output = demo(scratch.path(), &["--seconds", "1", "--writers", "18", "--no-compare"]);
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{out}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!out.contains("straight at"), "{out}");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "something is left in the scratch place");
}

#[test]
fn a_demo_without_a_server_says_which_command_gives_one() {
    let scratch = scratch(0o755);
    let output = Command::new(env!("CARGO_BIN_EXE_bgsafe"))
        .args(["demo", "--server", "/nowhere/redis-server"])
        .env("TMPDIR", scratch.path())
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("/nowhere/redis-server") && err.contains("BGSAFE_TEST_SERVER"), "{err}");
}
