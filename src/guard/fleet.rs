//! One supervisor for each known server: the configured one, and the replicas that it names. Each has its own
//! guard, gate, page and control connection; what one must know of the others goes through here.
//!
//! Refuses to know: what any guard decides. Invariants: a server has one supervisor of ours, under whatever name; the
//! configured one is never left, and nobody who is owed something; one who cannot be reached hinders nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::evidence::Peer;
use super::feed::{Shared, lock};
use super::handover::{self, Candidate};
use super::incident::{Event, News};
use super::record::{Incident, Phase, UpstreamStatus};
use super::roster::{Roster, Step};
use super::store::{self, StoreError};
use super::supervisor::{self, Opened, Params, Seat, Supervisor};
use crate::config::Address;
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::route::Route;

/// How often it is looked whether somebody came or went.
const TICK: Duration = Duration::from_secs(1);
/// A name that is not resolved by then is taken as it is.
const LOOKUP: Duration = Duration::from_secs(1);

/// What everybody may read of all guards.
#[derive(Debug)]
pub struct Crew {
    /// The configured server's first.
    guards: Mutex<Vec<(String, Arc<Shared>)>>,
    /// Where sessions go.
    serving: Mutex<String>,
    enlist: UnboundedSender<String>,
}

impl Crew {
    /// The configured server's.
    pub fn first(&self) -> Arc<Shared> {
        Arc::clone(&lock(&self.guards)[0].1)
    }

    /// Before the server at this address, or the one with this run id: it may be known by another name.
    pub fn gate(&self, address: &str, run_id: Option<&str>) -> Option<(String, Arc<Gate>)> {
        let all = self.all();
        let by_name = all.iter().find(|(known, _)| known == address);
        let same = |shared: &Shared| run_id.is_some_and(|id| shared.status().run_id == id);
        by_name
            .or_else(|| all.iter().find(|(_, shared)| same(shared)))
            .map(|(known, shared)| (known.clone(), shared.gate()))
    }

    /// Sessions go to this one now.
    pub fn serves(&self, known: &str) {
        known.clone_into(&mut lock(&self.serving));
    }

    /// This one is to be guarded, too. Said once it holds for a minute.
    pub fn enlist(&self, address: &str) {
        let _ = self.enlist.send(address.to_string());
    }

    fn all(&self) -> Vec<(String, Arc<Shared>)> {
        lock(&self.guards).clone()
    }

    /// `upstreams` of `/api/status`: the one that sessions go to first, then by address.
    pub fn status(&self) -> Vec<UpstreamStatus> {
        let mut all: Vec<_> = self.all().into_iter().map(|(_, shared)| shared.status()).collect();
        let serving = lock(&self.serving).clone();
        for status in &mut all {
            status.serves = status.address == serving;
        }
        all.sort_by(|a, b| (!a.serves, &a.address).cmp(&(!b.serves, &b.address)));
        all
    }

    /// Everybody's, newest first. Each guard has read all records of the directory at its start: of a server's the
    /// newest are its own guard's.
    pub fn incidents(&self) -> Vec<Incident> {
        let mut by_id = BTreeMap::new();
        for (address, shared) in self.all() {
            for incident in shared.incidents() {
                let own = incident.upstream == address;
                let known = by_id.contains_key(&incident.id);
                if own || !known {
                    by_id.insert(incident.id.clone(), incident);
                }
            }
        }
        by_id.into_values().rev().take(store::INCIDENTS_MOST).collect()
    }

    /// One of them.
    pub fn incident(&self, id: &str) -> Option<Incident> {
        let found =
            self.all().into_iter().filter_map(|(address, shared)| Some((address, shared.incident(id)?)));
        let mut found: Vec<_> = found.collect();
        found.sort_by_key(|(address, incident)| *address != incident.upstream);
        found.into_iter().next().map(|(_, incident)| incident)
    }
}

/// All guards, running. Cancel the token to end them as an operator would.
#[derive(Debug)]
pub struct Fleet {
    /// For status and incidents.
    pub crew: Arc<Crew>,
    /// Ends when all have ended.
    pub task: JoinHandle<()>,
}

/// Guards the configured server, and from then on whom it names.
///
/// # Errors
/// When the state directory cannot be used for the configured server.
pub fn spawn(
    params: Params,
    gate: Arc<Gate>,
    route: Arc<Route>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> Result<Fleet, StoreError> {
    let (own, at) = (params.settings.address.clone(), params.endpoint.address.clone());
    let (news, inbox) = unbounded_channel();
    let (seat, events) = Seat::new(news.clone());
    let opened = Opened::new(&params)?;
    let first =
        supervisor::spawn_at(seat, opened, params.clone(), gate.clone(), metrics.clone(), shutdown.clone())?;
    let (enlist, wanted) = unbounded_channel();
    let crew = Arc::new(Crew {
        enlist,
        guards: Mutex::new(vec![(own.clone(), Arc::clone(&first.shared))]),
        serving: Mutex::new(own.clone()),
    });
    let (opens, opened) = unbounded_channel();
    let mut shell = Shell {
        opens,
        route,
        roster: Roster::new(&own),
        crew: Arc::clone(&crew),
        members: BTreeMap::new(),
        endangered: BTreeSet::new(),
        resolved: BTreeMap::new(),
        ending: Vec::new(),
        asked: BTreeSet::new(),
        told: (0, 0),
        start: Instant::now(),
        spawned: 0,
        params,
        metrics,
        news,
        shutdown,
    };
    shell
        .members
        .insert(own.clone(), Member { supervisor: first, at, gate, events, leave: CancellationToken::new() });
    for debt in store::owed(&shell.params.state_dir) {
        if debt.upstream == own && debt.address != own {
            info!(upstream = debt.address, "an earlier bgsafe owes this server: it is guarded");
            shell.roster.owed(Duration::ZERO, &debt.address);
        }
    }
    Ok(Fleet { crew, task: tokio::spawn(shell.run(inbox, opened, wanted)) })
}

/// A server that is to be guarded, and what the disk knew of it.
type Ready = (Params, Result<Opened, StoreError>);

struct Member {
    supervisor: Supervisor,
    at: Address,
    gate: Arc<Gate>,
    events: UnboundedSender<Event>,
    leave: CancellationToken,
}

struct Shell {
    route: Arc<Route>,
    /// Whose disk was asked, and what it said.
    opens: UnboundedSender<Ready>,
    params: Params,
    metrics: Arc<Metrics>,
    crew: Arc<Crew>,
    roster: Roster,
    members: BTreeMap<String, Member>,
    /// Replicas in danger, in their guards' words.
    endangered: BTreeSet<String>,
    /// Roused, and not heard of since.
    asked: BTreeSet<String>,
    /// How many of both the guards were told of.
    told: (u32, u32),
    /// Names and what they resolve to.
    resolved: BTreeMap<String, String>,
    ending: Vec<JoinHandle<()>>,
    start: Instant,
    /// Supervisors ever started, but for the first.
    spawned: u16,
    news: UnboundedSender<(String, News)>,
    shutdown: CancellationToken,
}

impl Shell {
    async fn run(
        mut self,
        mut inbox: UnboundedReceiver<(String, News)>,
        mut opened: UnboundedReceiver<Ready>,
        mut wanted: UnboundedReceiver<String>,
    ) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break,
                Some((from, news)) = inbox.recv() => self.heard(&from, news).await,
                Some(ready) = opened.recv() => self.begin(ready),
                Some(address) = wanted.recv() => self.roster.owed(self.start.elapsed(), &address),
                _ = tick.tick() => self.find_twins(),
            }
            self.muster();
        }
        let members = std::mem::take(&mut self.members).into_values();
        for task in members.map(|member| member.supervisor.task).chain(self.ending) {
            let _ = task.await;
        }
    }

    async fn heard(&mut self, from: &str, news: News) {
        match news {
            News::Replicas(peers) => {
                let mut addresses = Vec::new();
                for peer in peers {
                    // Twice as many as are guarded are remembered: more need not be resolved.
                    if addresses.len() < 2 * super::roster::MOST && !self.is_own(&peer.address).await {
                        addresses.push(peer.address);
                    }
                }
                debug!(upstream = from, ?addresses, "names its replicas");
                self.roster.named(self.start.elapsed(), from, addresses);
            }
            News::Endangered(danger) => {
                match danger {
                    true => self.endangered.insert(from.to_string()),
                    false => self.endangered.remove(from),
                };
                self.tell_of_danger();
            }
            News::Alarmed => {
                for (address, member) in &self.members {
                    let status = member.supervisor.shared.status();
                    if address != from && status.up && status.role == "replica" {
                        self.asked.insert(address.clone());
                        let _ = member.events.send(Event::Roused);
                    }
                }
                self.tell_of_danger();
            }
            News::WantsOver(peers) => {
                let seen = |peer: Peer| {
                    let member = self.member(&peer.address);
                    Candidate { status: member.map(|(_, member)| member.supervisor.shared.status()), peer }
                };
                let fit = handover::choose(peers.into_iter().map(seen).collect());
                if let Some(member) = self.members.get(from) {
                    let _ = member.events.send(Event::Candidate(fit));
                }
            }
            News::Over(result) => self.over(from, result),
            News::Looked => {
                self.asked.remove(from);
                self.tell_of_danger();
            }
        }
    }

    /// The role moved: sessions that went to the old primary go to the new one, and meet its own gate there.
    fn over(&mut self, from: &str, result: Result<String, String>) {
        lock(&self.metrics.guard).redirects[usize::from(result.is_err())] += 1;
        let Ok(to) = result else { return };
        let served = *lock(&self.crew.serving) == from;
        if let Some((address, member)) = self.member(&to).filter(|_| served) {
            info!(upstream = address, "is where sessions go now");
            self.route.turn(member.at.clone(), Arc::clone(&member.gate));
            lock(&self.crew.serving).clone_from(address);
        }
    }

    /// Who is reached under this name; the configured server may have another one there.
    fn member(&self, address: &str) -> Option<(&String, &Member)> {
        let own = &self.params.settings.address;
        let is_own = || self.resolved.get(address).is_some_and(|at| self.resolved.get(own) == Some(at));
        let found = self.members.get_key_value(address);
        found.or_else(|| self.members.get_key_value(own).filter(|_| is_own()))
    }

    fn tell_of_danger(&mut self) {
        let count = |of: &BTreeSet<String>| u32::try_from(of.len()).unwrap_or(u32::MAX);
        let (known, asked) = (count(&self.endangered), count(&self.asked));
        if std::mem::replace(&mut self.told, (known, asked)) != (known, asked) {
            for member in self.members.values() {
                let _ = member.events.send(Event::Endangered { known, asked });
            }
        }
    }

    /// Is this the configured server under another name?
    async fn is_own(&mut self, address: &str) -> bool {
        let own = self.params.settings.address.clone();
        self.resolve(&own).await == self.resolve(address).await
    }

    async fn resolve(&mut self, address: &str) -> String {
        if let Some(known) = self.resolved.get(address) {
            return known.clone();
        }
        let found = timeout(LOOKUP, lookup_host(address)).await;
        let at = found.ok().and_then(Result::ok).and_then(|mut all| all.next());
        let Some(at) = at else { return address.to_string() };
        if self.resolved.len() >= 4 * super::roster::MOST {
            self.resolved.clear();
        }
        self.resolved.insert(address.to_string(), at.to_string());
        at.to_string()
    }

    /// Two addresses that lead to one process: its run id tells. The one that was configured, or is owed, stays.
    fn find_twins(&mut self) {
        let own = &self.params.settings.address;
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        let mut order: Vec<_> = self.members.iter().collect();
        let debt = |member: &Member| member.supervisor.shared.status().debt.is_some();
        order.sort_by_key(|(address, member)| (*address != own, !debt(member)));
        for (address, member) in order {
            let run_id = member.supervisor.shared.status().run_id;
            if run_id.is_empty() {
                continue;
            }
            if let Some(other) = seen.get(&run_id) {
                info!(upstream = address, "is {other} under another name: guarded once");
                self.roster.twin(address);
            } else {
                seen.insert(run_id, address.clone());
            }
        }
    }

    /// Who is to be guarded, and is not yet; who no longer is.
    fn muster(&mut self) {
        loop {
            let now = self.start.elapsed();
            let serving = lock(&self.crew.serving).clone();
            let free = |address: &str| {
                let status = self.members.get(address).map(|member| member.supervisor.shared.status());
                // While the disk is still asked it is not yet there to be left; and where sessions go nobody may name it.
                address != serving
                    && status.is_some_and(|status| status.debt.is_none() && status.phase == Phase::Quiet)
            };
            match self.roster.next(now, free) {
                Some(Step::Start(address)) => self.start(address),
                Some(Step::Stop(address)) => self.stop(&address),
                Some(Step::Full(address)) => {
                    warn!(
                        upstream = address,
                        "is not guarded: more than {} servers are known",
                        super::roster::MOST
                    );
                }
                None => break,
            }
        }
        self.ending.retain(|task| !task.is_finished());
    }

    /// Asks the disk first, away from here: one that hangs must not keep the others' guards from theirs.
    fn start(&mut self, address: String) {
        self.spawned = self.spawned.wrapping_add(1);
        let mut params = self.params.clone();
        params.endpoint.address = Address::Tcp(address.clone());
        params.settings.address = address;
        // Incidents of two guards may begin in one millisecond.
        params.settings.nonce = params.settings.nonce.wrapping_add(self.spawned);
        let (opens, address) = (self.opens.clone(), params.settings.address.clone());
        let ask = move || {
            let opened = Opened::new(&params);
            // Nobody listens any more when all ends.
            let _ = opens.send((params, opened));
        };
        // A thread that nobody waits for, so that it cannot keep the process from ending either.
        if let Err(why) = thread::Builder::new().name("bgsafe-open".into()).spawn(ask) {
            debug!(upstream = address, "is not guarded now: {why}");
            self.roster.busy(self.start.elapsed(), &address);
        }
    }

    fn begin(&mut self, (params, opened): Ready) {
        let (address, at) = (params.settings.address.clone(), params.endpoint.address.clone());
        let gate = Arc::new(Gate::new(params.hold_bytes));
        let (seat, events) = Seat::new(self.news.clone());
        let leave = self.shutdown.child_token();
        let begun = opened.and_then(|opened| {
            supervisor::spawn_at(seat, opened, params, gate.clone(), self.metrics.clone(), leave.clone())
        });
        match begun {
            Ok(supervisor) => {
                info!(upstream = address, "is guarded, too");
                lock(&self.crew.guards).push((address.clone(), Arc::clone(&supervisor.shared)));
                let (known, asked) = self.told;
                let _ = events.send(Event::Endangered { known, asked });
                self.members.insert(address, Member { supervisor, at, gate, events, leave });
            }
            Err(why) => {
                debug!(upstream = address, "is not guarded now: {why}");
                self.roster.busy(self.start.elapsed(), &address);
            }
        }
    }

    fn stop(&mut self, address: &str) {
        info!(upstream = address, "is guarded no longer");
        lock(&self.crew.guards).retain(|(known, _)| known != address);
        if let Some(member) = self.members.remove(address) {
            member.leave.cancel();
            self.ending.push(member.supervisor.task);
        }
        self.endangered.remove(address);
        self.asked.remove(address);
        self.tell_of_danger();
    }
}
