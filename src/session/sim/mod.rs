//! Sessions, a server and a guard under a seed: bytes are cut and delayed at random in both directions, the
//! server's gate flips in the midst of batches, postures change, deadlines pass, clients leave, servers close, and
//! another server becomes the primary. Afterwards what each client was told is held against what took place.
//!
//! `BGSAFE_SIM_SEEDS=n` runs more seeds, `BGSAFE_SIM_SEED=n` one; a failing seed prints its transcript.

mod client;
mod server;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::{Core, Holding, Rules, ScriptReplay};
use crate::command::Table;
use crate::posture::Posture;
use crate::resp::error::held_by_default;
use client::{Client, Manner};
use server::{Conn, Server};

const SEEDS: u64 = 2000;
const STEPS: usize = 400;

/// xorshift64*: the same everywhere and for ever.
pub struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % n
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// The gate as `gate.rs` has it: tickets, and a proof that is younger than some of them.
struct Gate {
    posture: Posture,
    sightings: u64,
    open_through: u64,
}

/// One session: a core, and what a shell keeps around it.
struct Session {
    core: Core,
    client: Client,
    /// Client to us; us to the server; server to us is in its connection.
    inbox: Vec<u8>,
    carry: Vec<u8>,
    ripe: bool,
    to_server: Vec<u8>,
    up_carry: Vec<u8>,
    ticket: u64,
    left: bool,
    closed: bool,
}

struct World {
    rng: Rng,
    server: Server,
    conns: Vec<Conn>,
    sessions: Vec<Session>,
    gate: Gate,
    rules: Rules,
    now: Instant,
    moves: u64,
    trace: Option<Vec<String>>,
}

impl World {
    fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let small = rng.one_in(4);
        let rules = Rules {
            intercept: !rng.one_in(20),
            hold_time: Duration::from_secs(5),
            scripts: ScriptReplay::Declared,
            holds: held_by_default(),
            bulk_max: 1 << 20,
            retain_request_max: if small { 60 } else { 4096 },
            retain_session_max: if small { 300 } else { 1 << 16 },
            withhold_max: if small { 500 } else { 1 << 16 },
        };
        let now = Instant::now();
        let (shared, table) = (Arc::new(rules), Arc::new(Table::builtin()));
        let mut world = World {
            server: Server::default(),
            conns: Vec::new(),
            sessions: Vec::new(),
            gate: Gate { posture: Posture::Forward, sightings: 0, open_through: 0 },
            rules,
            now,
            moves: 0,
            trace: trace.then(Vec::new),
            rng,
        };
        for id in 0..1 + world.rng.below(3) {
            let manner = [Manner::Patient, Manner::Hasty, Manner::Resp3, Manner::Hasty, Manner::Listener]
                [world.rng.below(5)];
            let no_multi = world.rng.one_in(12);
            world.conns.push(Conn::new(no_multi));
            let mut client = Client::new(id, manner);
            client.excused = small || !rules.intercept || no_multi;
            world.sessions.push(Session {
                core: Core::new(Arc::clone(&shared), Arc::clone(&table), now).in_a_group(),
                client,
                inbox: Vec::new(),
                carry: Vec::new(),
                ripe: false,
                to_server: Vec::new(),
                up_carry: Vec::new(),
                ticket: 0,
                left: false,
                closed: false,
            });
        }
        world
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(text());
        }
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..STEPS {
            self.now += Duration::from_millis(self.rng.below(20) as u64);
            self.step()?;
        }
        self.note(|| "-- peace".into());
        self.server.heal();
        for i in 0..self.sessions.len() {
            if !self.sessions[i].left && !self.sessions[i].closed {
                let bytes = self.sessions[i].client.farewell(&mut self.rng);
                self.sessions[i].inbox.extend_from_slice(&bytes);
            }
        }
        // Everything that can still move, moves.
        for _ in 0..200 {
            self.guard(true);
            for i in 0..self.sessions.len() {
                self.downstream(i, usize::MAX)?;
                self.feed_server(i, usize::MAX, false);
                self.upstream(i, usize::MAX)?;
                self.hold(i)?;
                self.go(i)?;
            }
        }
        self.judge()
    }

    fn step(&mut self) -> Result<(), String> {
        let i = self.rng.below(self.sessions.len());
        let n = [1, 2, 5, 30, 1000][self.rng.below(5)];
        self.go(i)?;
        match self.rng.below(42) {
            0..6 => {
                let session = &mut self.sessions[i];
                let client = &mut session.client;
                let waits = client.asked.len() - client.told.len();
                let may = if client.manner == Manner::Patient { waits == 0 } else { waits < 20 };
                if may && !session.left && !session.closed && client.asked.len() < 60 {
                    let bytes = client.ask(&mut self.rng);
                    session.inbox.extend_from_slice(&bytes);
                    self.note(|| format!("{i} asks {}", bytes.escape_ascii()));
                }
            }
            6..16 => self.downstream(i, n)?,
            16..24 => self.feed_server(i, n, true),
            24..32 => self.upstream(i, n)?,
            32..35 => self.hold(i)?,
            35 | 36 => self.guard(false),
            37 if self.rng.one_in(3) => {
                let aof = self.rng.one_in(3);
                self.server.break_down(aof);
                self.note(|| "the server cannot save".into());
            }
            38 if self.rng.one_in(20) => self.leave(i),
            39 if self.rng.one_in(40) => self.close(i)?,
            40 if self.rng.one_in(12) => self.turn(),
            41 if self.rng.one_in(6) => self.move_on(i)?,
            39 if self.rng.one_in(20) => self.now += Duration::from_secs(6),
            _ => {}
        }
        Ok(())
    }

    /// The guard: opens writes and proves it, or changes what sessions do with them.
    fn guard(&mut self, peace: bool) {
        if peace || self.rng.one_in(3) {
            // Read before the probe, as the gate asks for.
            let seen = self.gate.sightings;
            self.server.heal();
            self.gate.posture = Posture::Forward;
            self.gate.open_through = self.gate.open_through.max(seen);
        } else if self.server.is_broken() && self.rng.one_in(2) {
            self.gate.posture = Posture::Hold;
        } else if self.rng.one_in(30) {
            self.gate.posture = Posture::Refuse;
            self.sessions.iter_mut().for_each(|s| s.client.excused = true);
        }
        let posture = self.gate.posture;
        self.note(|| format!("the guard says {posture}"));
    }

    /// Client to server.
    fn downstream(&mut self, i: usize, n: usize) -> Result<(), String> {
        let session = &mut self.sessions[i];
        if session.closed || !session.core.reads_downstream() {
            return Ok(());
        }
        let ripe = std::mem::take(&mut session.ripe) && !session.carry.is_empty();
        let n = if ripe { 0 } else { n.min(session.inbox.len()) };
        if n == 0 && !ripe {
            if session.inbox.is_empty() && session.carry.is_empty() {
                session.core.dry();
            }
            return Ok(());
        }
        let mut buf = std::mem::take(&mut session.carry);
        buf.extend(session.inbox.drain(..n));
        let taken = session.core.requests(&buf, self.gate.posture, self.now);
        session.to_server.extend_from_slice(&buf[..taken.direct]);
        session.carry = buf[buf.len() - taken.kept..].to_vec();
        session.ripe = taken.kept > 0 && !session.core.reads_downstream();
        self.after(i, b"")
    }

    fn feed_server(&mut self, i: usize, n: usize, flips: bool) {
        let session = &mut self.sessions[i];
        if session.closed {
            return;
        }
        let n = n.min(session.to_server.len());
        let bytes: Vec<u8> = session.to_server.drain(..n).collect();
        if n > 0 {
            self.server.feed(&mut self.conns, i, &bytes, &mut self.rng, flips);
            self.note(|| format!("{i} to server {}", bytes.escape_ascii()));
        }
    }

    /// Server to client.
    fn upstream(&mut self, i: usize, n: usize) -> Result<(), String> {
        let session = &mut self.sessions[i];
        let n = n.min(self.conns[i].out.len());
        if session.closed || n == 0 {
            return Ok(());
        }
        let mut buf = std::mem::take(&mut session.up_carry);
        buf.extend(self.conns[i].out.drain(..n));
        let settling = session.core.is_settling();
        let taken = session.core.replies(&buf, self.gate.posture, self.now);
        session.ripe |= settling && session.core.is_here();
        session.up_carry = buf[buf.len() - taken.kept..].to_vec();
        let new = buf[buf.len() - n..].to_vec();
        self.note(|| format!("{i} from server {}", new.escape_ascii()));
        self.after(i, &buf[..taken.direct])
    }

    /// What a shell does after each call: deliver, tell the guard, ask for budgets.
    fn after(&mut self, i: usize, direct: &[u8]) -> Result<(), String> {
        let session = &mut self.sessions[i];
        let mut down = direct.to_vec();
        down.append(&mut session.core.down);
        session.to_server.append(&mut session.core.up);
        if session.core.take_sighting().is_some() {
            self.gate.sightings += 1;
            session.ticket = self.gate.sightings;
        }
        if session.core.take_budget_request().is_some() && self.rng.one_in(50) {
            session.core.over_budget();
            session.ripe = true;
            session.client.excused = true;
            down.append(&mut session.core.down);
        }
        if let Some(why) = session.core.tally.degraded.filter(|_| !session.closed) {
            return Err(format!("session {i} lost count: {why:?}"));
        }
        if let Some((retained, withheld)) = session.core.memory()
            && (retained > self.rules.retain_session_max || withheld > self.rules.withhold_max + 2048)
        {
            return Err(format!("{retained} bytes retained, {withheld} withheld"));
        }
        let result = if session.left { Ok(()) } else { session.client.hear(&down) };
        if !down.is_empty() {
            self.note(|| format!("{i} hears {}", down.escape_ascii()));
        }
        result
    }

    fn hold(&mut self, i: usize) -> Result<(), String> {
        let session = &mut self.sessions[i];
        let here = session.core.is_here();
        let Some(holding) = session.core.holds().filter(|_| !session.closed) else { return Ok(()) };
        let forward = self.gate.posture == Posture::Forward;
        let open = match holding {
            _ if !here => false,
            Holding::Draining => false,
            Holding::Refused => forward && self.gate.open_through >= session.ticket,
            Holding::Unready => true,
            Holding::Parked => forward,
        };
        let due = session.core.next_deadline().is_none_or(|at| at <= self.now);
        if open {
            session.core.opened(self.now);
            session.ripe = true;
            self.note(|| format!("{i} opened"));
        } else if due || self.gate.posture == Posture::Refuse {
            session.core.timed_out();
            session.ripe = true;
            session.client.excused = true;
            self.note(|| format!("{i} timed out"));
        }
        self.after(i, b"")
    }

    /// Another server is the primary: what was the old one's is there, and nothing is written to the old one any more.
    fn turn(&mut self) {
        self.conns.iter_mut().for_each(|conn| conn.demoted = true);
        self.sessions.iter_mut().for_each(|session| session.core.leave());
        self.note(|| "another server is the primary".into());
    }

    /// A session that is to leave its server does so when it may.
    fn go(&mut self, i: usize) -> Result<(), String> {
        let core = &self.sessions[i].core;
        if core.is_stranded() && !self.sessions[i].closed {
            return self.close(i);
        }
        if core.is_here() || core.is_settling() { Ok(()) } else { self.move_on(i) }
    }

    /// If nothing is owed the session goes to another server, whether it was asked to or its own has gone.
    fn move_on(&mut self, i: usize) -> Result<(), String> {
        let (session, conn) = (&mut self.sessions[i], &mut self.conns[i]);
        let unsent = !session.to_server.is_empty() && !session.core.is_settling();
        let unread = !conn.out.is_empty() || !session.up_carry.is_empty();
        if session.closed || session.left || unsent || unread || !session.core.is_answered() {
            return Ok(());
        }
        if session.core.fixed().is_some() {
            return if session.core.is_here() { Ok(()) } else { self.close(i) };
        }
        *conn = conn.elsewhere();
        session.to_server.clear();
        session.core.part();
        session.core.arrive(self.now);
        session.ticket = 0;
        session.ripe = session.core.is_here();
        self.moves += 1;
        self.note(|| format!("{i} goes to another server"));
        self.after(i, b"")
    }

    fn leave(&mut self, i: usize) {
        let session = &mut self.sessions[i];
        session.left = true;
        session.core.abandoned();
        session.inbox.clear();
        session.carry.clear();
        self.note(|| format!("{i} leaves"));
    }

    fn close(&mut self, i: usize) -> Result<(), String> {
        self.upstream(i, usize::MAX)?;
        let session = &mut self.sessions[i];
        session.core.upstream_closed();
        session.client.excused = true;
        let carry = std::mem::take(&mut session.up_carry);
        self.note(|| format!("{i}'s server closes"));
        self.after(i, &carry)?;
        self.sessions[i].closed = true;
        Ok(())
    }

    fn judge(&mut self) -> Result<(), String> {
        for (session, conn) in self.sessions.iter_mut().zip(&self.conns) {
            let (core, client) = (&mut session.core, &session.client);
            let cut = session.left || session.closed;
            client.judge(&self.server, cut).map_err(|e| format!("session {}: {e}", client.id))?;
            if !cut && client.messages != conn.messages {
                return Err(format!("{} messages sent, {} heard", conn.messages, client.messages));
            }
            if !cut && (!core.is_idle() || core.memory() != Some((0, 0))) {
                return Err(format!("session {} is not idle in the end: {core:?}", client.id));
            }
            core.abandoned();
            let tally = &core.tally;
            if tally.held != tally.released + tally.timed_out + tally.abandoned {
                return Err(format!("held commands are not conserved: {tally:?}"));
            }
            if tally.degraded.is_some() && !session.closed {
                return Err(format!("session {} lost count: {:?}", client.id, tally.degraded));
            }
        }
        Ok(())
    }
}

fn run(seed: u64, trace: bool) -> (Result<(), String>, World) {
    let mut world = World::new(seed, trace);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    (result.unwrap_or_else(|_| Err("panicked".into())), world)
}

#[test]
fn what_clients_are_told_is_what_took_place() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match number("BGSAFE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("BGSAFE_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let (mut replays, mut held, mut moves) = (0, 0, 0);
    for seed in seeds.clone() {
        let (result, world) = run(seed, false);
        moves += world.moves;
        for session in &world.sessions {
            replays += session.core.tally.replays;
            held += session.core.tally.held;
        }
        if let Err(error) = result {
            let (_, world) = run(seed, true);
            panic!("seed {seed}: {error}\n{}", world.trace.unwrap_or_default().join("\n"));
        }
    }
    assert!(
        seeds.end - seeds.start < 100 || (replays > 100 && held > 100 && moves > 100),
        "the simulation sleeps"
    );
}
