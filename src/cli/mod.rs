//! The command line: words into calls, results into exit codes. Refuses to know how anything is done.
//!
//! Invariant: data goes to standard output, talk to standard error, and the exit code is one of
//!
//! | code | means |
//! |---|---|
//! | 0 | done; for `status`: no incident is open; for `doctor`: nothing is wrong |
//! | 1 | failed; for `status`: an incident is open; for `doctor`: something is wrong |
//! | 2 | the command line, the environment or the file is wrong |
//! | 3 | no running bgsafe was reached; for `doctor`: the server could not be looked at |

use std::fmt::Display;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::config::layers::{Layer, Origin};
use crate::config::options::Key;
use crate::config::{self, Loaded, Machine};
use crate::demo::DemoArgs;
use crate::doctor::DoctorArgs;

mod flags;
mod incidents;
mod log;
pub(crate) mod paint;
mod status;

pub use flags::Flags;

/// Failed.
pub const FAILED: u8 = 1;
/// Wrong words.
pub const USAGE: u8 = 2;
/// Nobody there.
pub const UNREACHABLE: u8 = 3;

const AFTER: &str = "Every option of `run` is also an environment variable (--hold-time is BGSAFE_HOLD_TIME) and a \
    key of bgsafe.toml (hold-time). A flag wins over the environment, the environment over the file. \
    `bgsafe check-config` prints the result and who said what.";

/// A transparent proxy that keeps applications writing while Redis or Valkey cannot save.
#[derive(Debug, Parser)]
#[command(name = "bgsafe", version, about, after_help = AFTER, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(flatten)]
    run: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy in the foreground (also when no command is given).
    #[command(after_help = AFTER)]
    Run(Flags),
    /// Break a real server's persistence and watch: with bgsafe in front, and without.
    Demo(DemoArgs),
    /// Look at a server and its host, say what is wrong or will be, and cure it: exit 0 nothing wrong, 1 findings,
    /// 3 could not look.
    Doctor(DoctorArgs),
    /// Show the state of a running bgsafe: exit 0 quiet, 1 an incident is open, 3 not reachable.
    Status(StatusArgs),
    /// List past incidents, or show one with its timeline.
    Incidents(IncidentsArgs),
    /// Check file, environment and flags together and print the result, secrets masked.
    CheckConfig(Flags),
    /// Print a completion script for a shell.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
}

/// What `bgsafe status` was asked for.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    at: AdminArgs,
    /// Print JSON, as GET /api/status answers.
    #[arg(long)]
    json: bool,
    /// Redraw every second until Ctrl-C.
    #[arg(long)]
    watch: bool,
}

#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
struct IncidentsArgs {
    #[command(flatten)]
    list: ListArgs,
    #[command(subcommand)]
    command: Option<IncidentsCommand>,
}

#[derive(Clone, Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    at: AdminArgs,
    /// Print JSON, as the admin address answers.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum IncidentsCommand {
    /// Show one incident with its timeline.
    Show {
        /// As `bgsafe incidents` lists it.
        id: String,
        #[command(flatten)]
        list: ListArgs,
    },
}

#[derive(Clone, Debug, Args)]
struct AdminArgs {
    /// Admin address of the running bgsafe [default: BGSAFE_ADMIN, else the file's, else 127.0.0.1:9380].
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// File to find the admin address in.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The whole program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(flags) => with_config(flags, serve),
        Command::Demo(args) => crate::demo::run(args),
        Command::Doctor(args) => crate::doctor::run(args),
        Command::Status(args) => at_admin(&args.at, async |address| status::run(address, &args).await),
        Command::Incidents(args) => {
            let (show, list) = match args.command {
                Some(IncidentsCommand::Show { id, list }) => (Some(id), list),
                None => (None, args.list),
            };
            at_admin(&list.at, async |address| incidents::run(address, show.as_deref(), list.json).await)
        }
        Command::CheckConfig(flags) => with_config(flags, check),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "bgsafe", &mut script);
            say(&String::from_utf8_lossy(&script));
            ExitCode::SUCCESS
        }
        Command::Man => {
            let mut page = Vec::new();
            match clap_mangen::Man::new(Cli::command()).render(&mut page) {
                Ok(()) => {
                    say(&String::from_utf8_lossy(&page));
                    ExitCode::SUCCESS
                }
                Err(error) => failed(&error),
            }
        }
    }
}

fn with_config(flags: Flags, then: fn(Loaded) -> ExitCode) -> ExitCode {
    match config::load(flags.layer, flags.config.as_deref(), &Machine) {
        Ok(loaded) => then(loaded),
        Err(error) => {
            complain(&error);
            ExitCode::from(USAGE)
        }
    }
}

fn serve(loaded: Loaded) -> ExitCode {
    log::init(&loaded.config);
    for warning in &loaded.warnings {
        tracing::warn!("configuration: {warning}");
    }
    match crate::proxy::run(loaded.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn check(loaded: Loaded) -> ExitCode {
    say(&loaded.text());
    for warning in &loaded.warnings {
        complain(&format!("warning: {warning}"));
    }
    ExitCode::SUCCESS
}

/// Finds the admin address and asks there, on a small runtime of its own.
fn at_admin(at: &AdminArgs, ask: impl AsyncFnOnce(&str) -> ExitCode) -> ExitCode {
    let mut flags = Layer::default();
    if let Some(admin) = &at.admin {
        flags.set(Key::Admin, vec![admin.clone()], Origin::Flag(Key::Admin));
    }
    let address = match config::admin_address(flags, at.config.as_deref(), &Machine) {
        Ok(address) => address,
        Err(error) => {
            complain(&error);
            return ExitCode::from(USAGE);
        }
    };
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(ask(&address)),
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn Display) -> ExitCode {
    complain(error);
    ExitCode::from(FAILED)
}

/// To standard output. A reader that left (`| head`) is no error.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// To standard error, in one line that names us.
pub(crate) fn complain(what: &dyn Display) {
    let _ = writeln!(std::io::stderr(), "bgsafe: {what}");
}
