//! One session as its shell drives it: a real core between two wires that are queues, a client at one end.
//! Chunks are whole requests and replies: where bytes are cut is the matter of the every-split tests.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::time::Instant;

use super::client::Client;
use super::world::{HOLD, World, core};
use crate::posture::{Posture, Refusal};
use crate::session::core::{Core, Holding};
use crate::testing::fake_redis::FakeRedis;

/// The gate without its wakers: held against the real one in [`super::tests`].
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    pub posture: Posture,
    pub sightings: u64,
    pub open_through: u64,
}

impl Default for Gate {
    fn default() -> Self {
        Gate { posture: Posture::Forward, sightings: 0, open_through: 0 }
    }
}

impl Gate {
    pub fn is_open(&self, ticket: u64) -> bool {
        self.posture == Posture::Forward && (self.open_through >= ticket || mutant!(IgnoresTickets))
    }
}

/// See the module's page.
#[derive(Clone, Debug)]
pub struct Session {
    pub core: Core,
    pub client: Client,
    inbox: Vec<u8>,
    /// The inbox may be looked at again without new bytes.
    ripe: bool,
    to_server: Vec<u8>,
    from_server: VecDeque<Vec<u8>>,
    carry: Vec<u8>,
    pub ticket: u64,
    /// The guard's PING was answered PONG since the ticket was drawn.
    pub proved: bool,
    /// When the hold at hand must be over.
    pub ends: Option<Instant>,
}

impl Session {
    pub fn new(client: Client) -> Session {
        let now = Instant::now();
        Session {
            core: core(now),
            client,
            inbox: Vec::new(),
            ripe: false,
            to_server: Vec::new(),
            from_server: VecDeque::new(),
            carry: Vec::new(),
            ticket: 0,
            proved: false,
            ends: None,
        }
    }

    pub fn print(&self, world: &World, h: &mut impl Hasher) {
        self.core.print(world.instant(), h);
        self.client.print(&world.fake, h);
        (&self.inbox, self.ripe, &self.to_server, &self.from_server, &self.carry).hash(h);
        if self.core.holds() == Some(Holding::Draining) || self.core.holds() == Some(Holding::Refused) {
            (world.gate.sightings - self.ticket, world.gate.is_open(self.ticket), self.proved).hash(h);
        }
    }

    // ---- what may happen ----

    pub fn may_reply(&self) -> bool {
        !self.from_server.is_empty()
    }

    pub fn may_serve(&self) -> bool {
        !self.to_server.is_empty()
    }

    pub fn may_read(&self) -> bool {
        self.core.reads_downstream() && !self.inbox.is_empty()
    }

    pub fn may_wake(&self, world: &World) -> bool {
        self.wakes(&world.gate, world.instant()).is_some()
    }

    /// `poll_hold` of the shell: Some(true) when the gate is open, Some(false) when the time is up.
    fn wakes(&self, gate: &Gate, now: Instant) -> Option<bool> {
        let open = match self.core.holds()? {
            Holding::Draining => false,
            Holding::Refused => gate.is_open(self.ticket),
            Holding::Unready => true,
            Holding::Parked => gate.posture == Posture::Forward,
        };
        let due = self.core.next_deadline().is_none_or(|at| at <= now) || gate.posture == Posture::Refuse;
        (open || due).then_some(open)
    }

    // ---- what happens ----

    pub fn ask(&mut self, gate: &Gate, now: Instant) -> Option<Refusal> {
        let bytes = self.client.ask();
        self.inbox.extend_from_slice(&bytes);
        if self.core.reads_downstream() { self.read(gate, now) } else { None }
    }

    pub fn read(&mut self, gate: &Gate, now: Instant) -> Option<Refusal> {
        let buf = std::mem::take(&mut self.inbox);
        let taken = self.core.requests(&buf, gate.posture, now);
        self.to_server.extend_from_slice(&buf[..taken.direct]);
        self.inbox = buf[buf.len() - taken.kept..].to_vec();
        let refusal = self.after(now);
        if self.inbox.is_empty() && self.core.reads_downstream() {
            self.core.dry();
        }
        refusal
    }

    pub fn reply(&mut self, gate: &Gate, now: Instant) -> Option<Refusal> {
        let mut buf = std::mem::take(&mut self.carry);
        buf.extend(self.from_server.pop_front().expect("enabled"));
        let taken = self.core.replies(&buf, gate.posture, now);
        self.carry = buf[buf.len() - taken.kept..].to_vec();
        let queued = std::mem::replace(&mut self.core.down, buf[..taken.direct].to_vec());
        self.core.down.extend(queued);
        self.after(now)
    }

    pub fn wake(&mut self, gate: &Gate, now: Instant) -> Result<Option<Refusal>, String> {
        match self.wakes(gate, now).expect("enabled") {
            true if self.core.holds() == Some(Holding::Refused) && !self.proved => {
                return Err(format!(
                    "client {}'s writes are sent again, and no PONG says why",
                    self.client.id
                ));
            }
            true => self.core.opened(now),
            false => self.core.timed_out(),
        }
        Ok(self.after(now))
    }

    fn after(&mut self, now: Instant) -> Option<Refusal> {
        self.to_server.append(&mut self.core.up);
        self.core.take_budget_request();
        match self.core.holds() {
            Some(_) => drop(self.ends.get_or_insert(now + HOLD)),
            None => self.ends = None,
        }
        self.core.take_sighting()
    }

    /// What the core has for the client reaches it, if it is still there.
    pub fn deliver(&mut self, fake: &FakeRedis) -> Result<(), String> {
        let bytes = std::mem::take(&mut self.core.down);
        if self.client.left {
            return Ok(());
        }
        if let Some(why) = self.core.tally.degraded {
            return Err(format!("client {}'s session lost count: {why:?}", self.client.id));
        }
        self.client.hear(fake, &bytes)
    }

    /// The words of the command that the server runs next.
    pub fn next_command(&mut self) -> Vec<u8> {
        use crate::resp::request::{Parsed, parse};
        let Parsed::Whole { len, .. } = parse(&self.to_server) else { panic!("chunks are whole requests") };
        let bytes: Vec<u8> = self.to_server.drain(..len).collect();
        let text = String::from_utf8(bytes).expect("scripts are ASCII");
        match text.starts_with('*') {
            true => text.split("\r\n").skip(2).step_by(2).collect::<Vec<_>>().join(" ").trim_end().into(),
            false => text.trim_end().into(),
        }
    }

    pub fn answered(&mut self, reply: Vec<u8>) {
        self.from_server.push_back(reply);
    }

    pub fn leave(&mut self) {
        self.client.left = true;
        self.core.abandoned();
        self.core.down.clear();
        self.inbox.clear();
        self.ends = None;
    }

    /// What it has not read by now is lost.
    pub fn upstream_closed(&mut self, fake: &FakeRedis) -> Result<(), String> {
        self.core.upstream_closed();
        self.core.tally.degraded = None;
        self.deliver(fake)?;
        self.conserves()
    }

    fn conserves(&self) -> Result<(), String> {
        let tally = &self.core.tally;
        match tally.held == tally.released + tally.timed_out + tally.abandoned {
            true => Ok(()),
            false => Err(format!("holds are not conserved: {tally:?}")),
        }
    }

    pub fn judge(&self, fake: &FakeRedis) -> Result<(), String> {
        self.client.judge(fake)?;
        if !self.core.is_idle() && !self.client.left {
            return Err(format!("client {}'s session is not idle: {:?}", self.client.id, self.core));
        }
        let mut last = self.clone();
        last.core.abandoned();
        last.conserves()
    }
}
