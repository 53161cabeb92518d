//! The program as a shell sees it: words in, exit code and two streams out.

use std::net::TcpListener;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

/// `bgsafe` in an empty directory with an environment of its own.
fn bgsafe(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bgsafe"));
    command.args(args).current_dir(dir).env_clear().env("HOME", dir).env("STATE_DIRECTORY", dir);
    command
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn run(command: &mut Command) -> Ran {
    let output = command.output().expect("bgsafe starts");
    Ran {
        code: output.status.code().expect("it exits by itself"),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a scratch directory")
}

#[test]
fn help_lists_every_command_and_every_option() {
    let dir = scratch();
    let ran = run(&mut bgsafe(dir.path(), &["--help"]));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let commands = ["run", "demo", "doctor", "status", "incidents", "check-config", "completions", "man"];
    for word in commands.into_iter().chain(bgsafe::config::options::OPTIONS.iter().map(|row| row.name)) {
        assert!(ran.out.contains(word), "{word}:\n{}", ran.out);
    }
    for row in &bgsafe::config::options::OPTIONS {
        assert!(ran.out.contains(&format!("--{} <{}>", row.name, row.value)), "{}", row.name);
    }
}

#[test]
fn wrong_words_end_with_two_and_say_why() {
    let dir = scratch();
    let table: &[(&[&str], &str)] = &[
        (&["--no-such-flag"], "--no-such-flag"),
        (&["run", "--no-such-flag"], "--no-such-flag"),
        (&["no-such-command"], "no-such-command"),
        (&["--hold-time", "5"], "bgsafe: configuration: flag --hold-time: `5` has no unit; write 5s or 5ms"),
        (&["run", "--policy", "redirekt"], "is not one of mitigate, hold, observe, redirect"),
        (&["run", "--config", "none.toml"], "none.toml: "),
        (&["check-config", "--upstream", "rediss://h"], "does not speak TLS"),
        (&["status", "--admin", "off"], "nobody answers"),
        (&["demo", "--fault", "earthquake"], "earthquake"),
        (&["incidents", "show"], "<ID>"),
    ];
    for (args, says) in table {
        let ran = run(&mut bgsafe(dir.path(), args));
        assert!(
            ran.code == 2 && ran.err.contains(says) && ran.out.is_empty(),
            "{args:?}: {} {}",
            ran.code,
            ran.err
        );
    }
}

#[test]
fn check_config_merges_the_layers_and_masks_secrets() {
    let dir = scratch();
    std::fs::write(dir.path().join("bgsafe.toml"), "hold-time = \"3s\"\nhold-bytes = \"3MiB\"\n")
        .expect("written");
    let args = ["check-config", "--hold-time", "1s", "--upstream", "redis://me:hush@h"];
    let ran = run(bgsafe(dir.path(), &args).env("BGSAFE_POLICY", "observe").env("REDISCLI_AUTH", "hush"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    for (line, origin) in [
        ("hold-time = \"1s\"", "# flag --hold-time"),
        ("hold-bytes = \"3MiB\"", "# file ./bgsafe.toml:2:14"),
        ("policy = \"observe\"", "# environment BGSAFE_POLICY"),
        ("max-clients = 10000", "# default"),
        ("upstream = \"redis://me:***@h:6379\"", "# flag --upstream"),
    ] {
        let found = ran.out.lines().any(|l| l.starts_with(line) && l.ends_with(origin));
        assert!(found, "{line}  {origin}:\n{}", ran.out);
    }
    assert!(ran.err.contains("warning: a password on the command line"), "{}", ran.err);
    assert!(!ran.out.contains("hush") && !ran.err.contains("hush"));
}

#[test]
fn an_unknown_key_is_refused_with_its_place() {
    let dir = scratch();
    std::fs::write(dir.path().join("bgsafe.toml"), "\nhold_time = \"3s\"\n").expect("written");
    let ran = run(&mut bgsafe(dir.path(), &["check-config"]));
    assert_eq!(ran.code, 2);
    let says =
        "bgsafe: configuration: ./bgsafe.toml:2:1: unknown key `hold_time`; did you mean `hold-time`?\n";
    assert_eq!(ran.err, says);
}

#[test]
fn status_of_nobody_names_the_address_and_the_cure() {
    let dir = scratch();
    let free =
        TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").to_string();
    for args in [&["status"][..], &["incidents"], &["incidents", "show", "x"]] {
        let ran = run(bgsafe(dir.path(), args).env("BGSAFE_ADMIN", &free));
        assert_eq!(ran.code, 3, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(&free) && ran.err.contains("start it with `bgsafe run`"), "{}", ran.err);
    }
}

#[test]
fn completions_and_the_manual_come_from_the_same_words() {
    let dir = scratch();
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(&mut bgsafe(dir.path(), &["completions", shell]));
        assert!(ran.code == 0 && ran.out.contains("hold-time"), "{shell}");
    }
    let ran = run(&mut bgsafe(dir.path(), &["man"]));
    assert!(
        ran.code == 0 && ran.out.contains(".TH bgsafe 1") && ran.out.contains("hold\\-time"),
        "{}",
        ran.out
    );
}
