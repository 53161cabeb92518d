//! The main job on real input, shown: a real server whose persistence breaks for real, bgsafe in front of it, writers
//! on both sides, and the count afterwards.
//!
//! | second | what happens |
//! |---|---|
//! | 0 | two servers in scratch directories, bgsafe before one of them, writers on both |
//! | 2 | persistence is broken, on both at once |
//! | 2 + `--seconds` | the cause is healed, on both at once |
//! | after | until bgsafe has proved a save and put the switch back, and one second more |
//!
//! Refuses to know: bgsafe's inside; it runs this same program as a child and asks it over HTTP. Invariant: the exit
//! code is 0 only when the writers behind bgsafe noticed nothing, every acknowledged token is there exactly once and
//! in order, and the switch is back. Everything it started is ended by pid; it writes to its scratch directories only.

mod show;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::testing::faults::{Broken, Fault};
use crate::testing::find::{Consent, Places, Program, find};
use crate::testing::proxy::{Proxy, fetch_json};
use crate::testing::server::{Server, Site};
use crate::testing::workload::{self, Live, Plan, Running, Score, Target};
use show::Show;

/// Arguments of `bgsafe demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// The redis-server, valkey-server, redict-server or keydb-server to start [default: found on this machine].
    #[arg(long, value_name = "PATH")]
    pub server: Option<PathBuf>,
    /// Concurrent writers on each side.
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub writers: u16,
    /// How long persistence stays broken.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// How it is broken [default: nproc where it can be, else dump-dir].
    #[arg(long, value_enum, value_name = "FAULT")]
    pub fault: Option<Fault>,
    /// Install a server without asking when none is found.
    #[arg(long)]
    pub yes: bool,
    /// Leave out the same writers straight at a second server.
    #[arg(long)]
    pub no_compare: bool,
}

/// The classic: fork fails.
const PREFERRED: Fault = Fault::Nproc;
/// Works for every user on every system.
const FALLBACK: Fault = Fault::DumpDir;
const PEACE: Duration = Duration::from_secs(2);
const AFTERMATH: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(500);
/// From the heal to the switch being back.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);
const SWITCH: &str = "stop-writes-on-bgsave-error";

/// Plays the demo with this very program as the proxy.
pub fn run(args: DemoArgs) -> ExitCode {
    match std::env::current_exe() {
        Ok(program) => run_with(args, &program),
        Err(error) => {
            eprintln!("bgsafe demo: us: where this program is cannot be told: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Plays the demo with another build of bgsafe as the proxy.
pub fn run_with(args: DemoArgs, proxy: &Path) -> ExitCode {
    let show = Show::new();
    match prepare(&args, proxy, &show).and_then(|stage| play(stage, &show)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bgsafe demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that runs. Dropped from the top: the proxy before its server.
struct Stage {
    args: DemoArgs,
    fault: Fault,
    proxy: Proxy,
    guarded: Server,
    direct: Option<Server>,
}

fn prepare(args: &DemoArgs, proxy: &Path, show: &Show) -> io::Result<Stage> {
    let places = Places::of_this_process(args.server.clone());
    let consent = Consent::of_this_process(args.yes);
    let program = find(&places, consent, &mut |line| show.note(line)).map_err(io::Error::other)?;
    let (fault, guarded) = start_breakable(args.fault, !args.no_compare, &program, show)?;
    let direct = match args.no_compare {
        true => None,
        false => Some(Server::start(&program, fault.options(&program))?),
    };
    let upstream = format!("redis://{}", guarded.site().address);
    let proxy = Proxy::start(proxy, &upstream, &[])?;
    introduce(&program, args, &proxy, &guarded, show);
    Ok(Stage { args: args.clone(), fault, proxy, guarded, direct })
}

fn introduce(program: &Program, args: &DemoArgs, proxy: &Proxy, guarded: &Server, show: &Show) {
    show.title(&format!("bgsafe {} demo", env!("CARGO_PKG_VERSION")));
    show.field("server", &program.to_string());
    show.field("bgsafe", &format!("{} in front of {}", proxy.listen(), guarded.site().address));
    show.field("status page", &format!("http://{}/", proxy.admin()));
    let contrast = if args.no_compare { "" } else { ", and as many straight at a second server" };
    show.field("writers", &format!("{} through bgsafe{contrast}", args.writers));
}

/// A server that can be broken: as asked, or by the first preferred way that works here.
fn start_breakable(
    wanted: Option<Fault>,
    compare: bool,
    program: &Program,
    show: &Show,
) -> io::Result<(Fault, Server)> {
    let start = |fault: Fault| {
        fault.possible_for(program).map_err(io::Error::other)?;
        Server::start(program, fault.options(program)).map(|server| (fault, server))
    };
    match wanted {
        Some(Fault::DeadEnd) => {
            Err(io::Error::other("us: dead-end needs a server that nobody writes to; choose another --fault"))
        }
        Some(Fault::Overcommit) if compare => Err(io::Error::other(
            "us: overcommit is a setting of the whole machine; give --no-compare with it",
        )),
        Some(fault) => start(fault),
        None => start(PREFERRED).or_else(|why| {
            show.note(&format!("not by a process limit ({why})"));
            start(FALLBACK)
        }),
    }
}

fn play(stage: Stage, show: &Show) -> io::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(perform(&stage, show));
    // A strike that still waits for its server must not hold the exit up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

async fn perform(stage: &Stage, show: &Show) -> io::Result<bool> {
    let mut sides = Sides::start(stage);
    let (told, mut news) = mpsc::channel(8);
    let mut plot = tokio::spawn(Plot::new(stage, told).unfold());

    let begun = Instant::now();
    let mut tick = tokio::time::interval(TICK);
    tick.tick().await;
    let recovered = loop {
        tokio::select! {
            _ = tick.tick() => {
                let phase = phase(stage).await;
                show.tick(begun.elapsed(), &phase, &sides.samples());
            }
            Some(line) = news.recv() => show.event(begun.elapsed(), &line),
            done = &mut plot => break done.map_err(io::Error::other)??,
            _ = tokio::signal::ctrl_c() => {
                plot.abort();
                return Err(io::Error::other("interrupted; everything that was started is being ended"));
            }
        }
    };
    while let Ok(line) = news.try_recv() {
        show.event(begun.elapsed(), &line);
    }

    show.event(begun.elapsed(), "writers stopped; asking the servers which tokens they hold");
    let (guarded, direct) = sides.judge(stage).await?;
    show.timeline(&newest_incident(stage).await);
    show.scores(&guarded, direct.as_ref());
    if let Some(server) = &stage.direct
        && server.direct()?.info("rdb_last_bgsave_status")?.as_deref() == Some("err")
    {
        show.note("the direct server still refuses: Redis tries again only when a save point says so");
    }
    let perfect = guarded.total.perfect() && recovered;
    show.verdict(perfect, recovered, &guarded);
    Ok(perfect)
}

/// Writers on both sides.
struct Sides {
    guarded: Running,
    direct: Option<Running>,
    before: Vec<(u64, u64)>,
    sampled: Instant,
}

impl Sides {
    fn start(stage: &Stage) -> Sides {
        let plan = |address| Plan {
            writers: usize::from(stage.args.writers),
            think: Duration::from_millis(10),
            ..Plan::new(Target::Tcp(address), "demo")
        };
        Sides {
            guarded: workload::start(plan(stage.proxy.listen())),
            direct: stage.direct.as_ref().map(|server| workload::start(plan(server.site().address))),
            before: vec![(0, 0); 2],
            sampled: Instant::now(),
        }
    }

    /// For each side: acknowledged per second and errors, since the last call.
    fn samples(&mut self) -> Vec<(u64, u64)> {
        let seconds = self.sampled.elapsed().as_secs_f64().max(0.001);
        self.sampled = Instant::now();
        let lives = std::iter::once(self.guarded.live()).chain(self.direct.as_ref().map(Running::live));
        let now: Vec<_> = lives.map(|live: &Live| (live.acked(), live.errors())).collect();
        let rate = |(now, before): (&(u64, u64), &(u64, u64))| {
            (((now.0 - before.0) as f64 / seconds) as u64, now.1 - before.1)
        };
        let rates = now.iter().zip(&self.before).map(rate).collect();
        self.before = now;
        rates
    }

    async fn judge(self, stage: &Stage) -> io::Result<(Score, Option<Score>)> {
        let guarded = self.guarded.stop().await.verify(&mut stage.guarded.direct()?)?;
        let direct = match (self.direct, &stage.direct) {
            (Some(running), Some(server)) => Some(running.stop().await.verify(&mut server.direct()?)?),
            _ => None,
        };
        Ok((guarded, direct))
    }
}

/// What happens to the servers, and when. Ends with whether bgsafe's side recovered in time.
struct Plot {
    fault: Fault,
    broken_for: Duration,
    sites: Vec<Site>,
    admin: std::net::SocketAddr,
    told: mpsc::Sender<String>,
}

impl Plot {
    fn new(stage: &Stage, told: mpsc::Sender<String>) -> Plot {
        let servers = std::iter::once(&stage.guarded).chain(&stage.direct);
        Plot {
            fault: stage.fault,
            broken_for: Duration::from_secs(stage.args.seconds),
            sites: servers.map(|server| server.site().clone()).collect(),
            admin: stage.proxy.admin(),
            told,
        }
    }

    async fn unfold(self) -> io::Result<bool> {
        tokio::time::sleep(PEACE).await;
        self.tell(format!("BROKEN: {}", self.fault.says())).await;
        let strikes: Vec<JoinHandle<io::Result<Broken>>> = self
            .sites
            .iter()
            .map(|site| {
                let (fault, site) = (self.fault, site.clone());
                spawn_blocking(move || fault.strike(&site))
            })
            .collect();
        let until = Instant::now() + self.broken_for;
        let mut broken = Vec::new();
        for strike in strikes {
            broken.push(strike.await.map_err(io::Error::other)??);
        }
        tokio::time::sleep_until(until.into()).await;

        self.tell("HEALED: the cause is gone; nobody has told Redis or bgsafe".to_owned()).await;
        for fault in broken {
            spawn_blocking(|| fault.heal()).await.map_err(io::Error::other)??;
        }
        let recovered = self.recovery().await?;
        tokio::time::sleep(AFTERMATH).await;
        Ok(recovered)
    }

    /// Waits until bgsafe says quiet and the server itself says that the switch is back and a save has worked.
    async fn recovery(&self) -> io::Result<bool> {
        let healed = Instant::now();
        let site = Arc::new(self.sites[0].clone());
        while healed.elapsed() < RECOVERY_TIMEOUT {
            let status = fetch_json(self.admin, "/api/status").await?;
            let upstream = &status["upstreams"][0];
            let quiet = upstream["phase"] == "quiet" && upstream["debt"].is_null();
            let asked = site.clone();
            let restored =
                spawn_blocking(move || switch_is_back(&asked)).await.map_err(io::Error::other)??;
            if quiet && restored {
                let after = healed.elapsed().as_millis();
                self.tell(format!(
                    "PROVED: a save has worked and {SWITCH} is yes again, {after} ms after the heal"
                ))
                .await;
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(false)
    }

    async fn tell(&self, line: String) {
        // The listener is gone only when the demo is being torn down.
        let _ = self.told.send(line).await;
    }
}

fn switch_is_back(site: &Site) -> io::Result<bool> {
    let mut server = site.direct()?;
    Ok(server.config(SWITCH)?.as_deref() == Some("yes")
        && server.info("rdb_last_bgsave_status")?.as_deref() == Some("ok"))
}

async fn phase(stage: &Stage) -> String {
    let status = fetch_json(stage.proxy.admin(), "/api/status").await;
    let phase = status.ok().and_then(|status| Some(status["upstreams"][0]["phase"].as_str()?.to_owned()));
    phase.unwrap_or_else(|| "no answer".to_owned())
}

async fn newest_incident(stage: &Stage) -> Option<serde_json::Value> {
    let list = fetch_json(stage.proxy.admin(), "/api/incidents").await.ok()?;
    let id = list[0]["id"].as_str()?;
    fetch_json(stage.proxy.admin(), &format!("/api/incidents/{id}")).await.ok()
}
