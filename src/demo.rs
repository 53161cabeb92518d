//! The main job on real input, shown.

use std::path::PathBuf;
use std::process::ExitCode;

/// What `bgsafe demo` was asked for.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// The redis-server or valkey-server to start [default: found on this machine].
    #[arg(long, value_name = "PATH")]
    pub server: Option<PathBuf>,
    /// Writers on each side.
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub writers: u16,
    /// How long to write.
    #[arg(long, value_name = "SECONDS", default_value_t = 6, value_parser = clap::value_parser!(u64).range(2..=3600))]
    pub seconds: u64,
    /// How to break persistence [default: the first that works here].
    #[arg(long, value_name = "FAULT")]
    pub fault: Option<DemoFault>,
    /// Install a server without asking when none is found.
    #[arg(long)]
    pub yes: bool,
    /// Leave out the run without bgsafe.
    #[arg(long)]
    pub no_compare: bool,
}

/// A way to break persistence for real.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DemoFault {
    /// The server may start no more processes, so fork fails.
    Nproc,
    /// A directory stands where the snapshot's file should.
    Dir,
}

/// A place-holder until the demo is wired in.
pub fn run(_args: DemoArgs) -> ExitCode {
    ExitCode::FAILURE
}
