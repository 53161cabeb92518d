//! `bgsafe doctor`: looks at a server and its host, says what is wrong, why it hurts and what cures it, and with
//! `--fix` cures it.
//!
//! | file | what |
//! |---|---|
//! | `gather` | looking: server and host into evidence |
//! | `unseen` | what could not be seen, and the right that would help |
//! | `report`, `text` | the findings as data and JSON, and on a terminal |
//! | `fix`, `apply`, `prove` | asking, changing, proving |
//! | `bounds` | what must not be done |
//! | `explain` | the tables, printed |
//! | `words` | the tables' enums in words |
//!
//! Refuses to know: which findings and remedies there are. Invariants: without `--fix` nothing is changed anywhere;
//! no key, value or secret is printed; the exit code says the same as the text:
//!
//! | code | means |
//! |---|---|
//! | 0 | nothing as bad as `--fail-on` was found; with `--fix`: is left |
//! | 1 | something was; with `--fix`: is left, or was not proved, or must not be touched |
//! | 2 | wrong words |
//! | 3 | the server could not be looked at |

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

mod apply;
mod bounds;
mod explain;
mod fix;
mod gather;
mod prove;
mod report;
mod text;
mod unseen;
mod words;

use crate::cli::{FAILED, UNREACHABLE, USAGE, complain, say};
use crate::config::layers::{Layer, Origin};
use crate::config::options::Key;
use crate::config::{self, Machine, units};
use crate::control::Endpoint;
use crate::guard::evidence::{Evidence, Healthy};
use crate::guard::finding::{Severity, diagnose};
use crate::guard::store::recorded;
use fix::{Outcome, Teller};
use gather::{Blind, Ward};
use report::Report;
use text::Style;

/// What `bgsafe doctor` was asked for.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// The server, as --upstream of `run` takes it [default: that of file and environment, else
    /// redis://127.0.0.1:6379]. A URL given here stands alone: file and environment are not read, but REDISCLI_AUTH.
    url: Option<String>,
    /// ACL user to look with [default: from the URL].
    #[arg(long, value_name = "USER")]
    control_user: Option<String>,
    /// File with the password [default: from the URL, else REDISCLI_AUTH].
    #[arg(long, value_name = "FILE")]
    control_password_file: Option<String>,
    /// Where a bgsafe in front of this server keeps what it saw while all was well [default: as for run].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// File to find the server in.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Cure what may be cured: each change is shown and asked for, then proved by a save.
    #[arg(long)]
    fix: bool,
    /// With --fix: do not ask.
    #[arg(long, requires = "fix")]
    yes: bool,
    /// With --fix: cure this finding only; may be repeated.
    #[arg(long, value_name = "FINDING", requires = "fix")]
    only: Vec<String>,
    /// With --fix: how long one proof may take.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = units::duration)]
    timeout: Duration,
    /// End with 1 only when a finding is at least this bad.
    #[arg(long, value_enum, value_name = "SEVERITY", default_value = "info")]
    fail_on: FailOn,
    /// Print what bgsafe knows: every finding and its remedies, or one of them in full.
    #[arg(long, value_name = "FINDING", num_args = 0..=1, conflicts_with_all = ["url", "fix", "json"])]
    explain: Option<Option<String>>,
}

/// A severity, as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// Data is at risk now.
    Crit,
    /// It soon may be.
    Warn,
    /// Anything at all.
    Info,
}

impl FailOn {
    fn severity(self) -> Severity {
        match self {
            FailOn::Crit => Severity::Crit,
            FailOn::Warn => Severity::Warn,
            FailOn::Info => Severity::Info,
        }
    }
}

/// Looks, tells, cures.
pub fn run(args: DoctorArgs) -> ExitCode {
    if let Some(finding) = &args.explain {
        return explained(finding.as_deref());
    }
    if args.fix && !args.yes && !std::io::stdin().is_terminal() {
        complain(
            &"doctor --fix asks before each change, and there is no terminal to ask on; add --yes to agree to all",
        );
        return ExitCode::from(USAGE);
    }
    if let Some(Err(why)) = args.only.iter().map(|id| explain::known(id)).find(Result::is_err) {
        complain(&why);
        return ExitCode::from(USAGE);
    }
    let (endpoint, healthy) = match endpoint(&args) {
        Ok(found) => found,
        Err(error) => {
            complain(&error);
            return ExitCode::from(USAGE);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error);
            return ExitCode::from(FAILED);
        }
    };
    let seen = runtime.block_on(examine(&args, endpoint, healthy));
    // A look at a disk that hangs must not hold the exit up.
    runtime.shutdown_background();
    seen.unwrap_or_else(|blind| {
        complain(&blind);
        ExitCode::from(UNREACHABLE)
    })
}

fn explained(finding: Option<&str>) -> ExitCode {
    let style = Style::stdout();
    match finding {
        None => say(&explain::tables(style)),
        Some(id) => match explain::entry(id, style) {
            Ok(entry) => say(&entry),
            Err(why) => {
                complain(&why);
                return ExitCode::from(USAGE);
            }
        },
    }
    ExitCode::SUCCESS
}

/// Whom to look at, and what a bgsafe in front of it saw while all was well.
fn endpoint(args: &DoctorArgs) -> Result<(Endpoint, Option<Healthy>), config::ConfigError> {
    let mut flags = Layer::default();
    let given = [
        (Key::Upstream, &args.url),
        (Key::ControlUser, &args.control_user),
        (Key::ControlPasswordFile, &args.control_password_file),
        (Key::StateDir, &args.state_dir),
    ];
    for (key, word) in given {
        if let Some(word) = word {
            flags.set(key, vec![word.clone()], Origin::Flag(key));
        }
    }
    let config::Server { address, credentials, state_dir, warnings } =
        config::server(flags, args.config.as_deref(), &Machine)?;
    for warning in warnings {
        complain(&format!("warning: {warning}"));
    }
    // Not `bgsafe:`: that is how a running bgsafe is known to others (`ServerFacts::other_guards`).
    let healthy = state_dir.and_then(|dir| recorded(&dir, &address.to_string()));
    Ok((Endpoint { address, credentials, name: format!("bgsafe-doctor-{}", std::process::id()) }, healthy))
}

async fn examine(args: &DoctorArgs, endpoint: Endpoint, healthy: Option<Healthy>) -> Result<ExitCode, Blind> {
    let mut ward = Ward::reach(endpoint, healthy).await?;
    let evidence = ward.look().await?;
    let style = Style::stdout();
    if !args.fix {
        let report = reported(&ward, &evidence);
        say(&shown(&report, args, style));
        return Ok(ExitCode::from(u8::from(report.has(args.fail_on.severity()))));
    }
    if !args.json {
        say(&(text::page(&reported(&ward, &evidence), style) + "\n"));
    }
    let teller = Teller { json: args.json, yes: args.yes };
    let Outcome { fixed, proved, forbidden } =
        fix::fix(&mut ward, evidence, &args.only, args.timeout, &teller).await?;
    let after = ward.look().await?;
    let mut report = reported(&ward, &after);
    let untouched = fixed.iter().all(|fixed| fixed.changes.is_empty());
    report.fixed = fixed;
    report.proved = proved;
    match (args.json, untouched) {
        (true, _) => say(&report.json()),
        (false, true) => teller.line("nothing was changed"),
        (false, false) => say(&("\nafter the fix:\n\n".to_owned() + &text::page(&report, style))),
    }
    let left = report.has(args.fail_on.severity()) || proved == Some(false) || forbidden.is_some();
    Ok(ExitCode::from(u8::from(left)))
}

fn reported(ward: &Ward, evidence: &Evidence) -> Report {
    let spots = unseen::spots(evidence, ward.info_denied.as_ref(), ward.user());
    Report::new(evidence, &diagnose(evidence), spots, prove::unix_ms())
}

fn shown(report: &Report, args: &DoctorArgs, style: Style) -> String {
    match args.json {
        true => report.json(),
        false => text::page(report, style),
    }
}
