//! What one step is, how many of each the environment may take, and which are possible now.

use super::session::Session;
use super::world::{Asked, World};

/// What the environment may still do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// fork fails from now on, and a save has shown it.
    pub faults: u8,
    /// A saving child fails by itself.
    pub bad_children: u8,
    /// Somebody's BGSAVE.
    pub saves: u8,
    /// An operator's `yes`, or `no`.
    pub yes: u8,
    pub no: u8,
    pub crashes: u8,
    /// Of the control connection.
    pub cuts: u8,
    pub restarts: u8,
    pub bad_stores: u8,
    pub leaves: u8,
    /// Somebody's CONFIG REWRITE, past us.
    pub rewrites: u8,
    /// Copies may be asked for (1), or not.
    pub copies: u8,
    /// Time passes although something is on its way.
    pub late: u8,
    /// Time passes.
    pub timers: u8,
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A client writes; its session reads if it does read.
    Ask(usize),
    /// A session reads what waited.
    Read(usize),
    /// The server runs one command of a session.
    Serve(usize),
    /// A session reads one reply.
    Reply(usize),
    /// A held session looks at the gate and its deadline.
    Wake(usize),
    /// The server runs a batch of the guard's.
    ServeGuard,
    /// The guard reads the answer.
    HearGuard,
    Stored,
    Up,
    ChildEnds,
    /// The guard's own deadline has passed.
    Due,
    /// To the next deadline; nothing else moves, or (late) something does.
    Timer,
    Late,
    Fault,
    Heal,
    ChildFails,
    /// The copy that was asked for is here (true), or will not be.
    Copied(bool),
    Bgsave,
    Yes,
    No,
    /// The process dies; the page being written is (true) or is not.
    Crash(bool),
    Cut,
    Restart,
    /// The page could not be written, it is said; it was (true) or was not.
    StoreFails(bool),
    Leave(usize),
    Rewrite,
}

impl World {
    /// What moves by itself, without time passing.
    pub fn moves(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (i, session) in self.sessions.iter().enumerate() {
            let each = [
                (session.may_reply(), Step::Reply(i)),
                (session.may_wake(self), Step::Wake(i)),
                (session.may_read(), Step::Read(i)),
                (session.may_serve(), Step::Serve(i)),
                (session.client.may_ask(), Step::Ask(i)),
            ];
            steps.extend(each.into_iter().filter(|(may, _)| *may).map(|(_, step)| step));
        }
        match &self.asked {
            Some(Asked { replies: Some(_), .. }) => steps.push(Step::HearGuard),
            Some(_) => steps.push(Step::ServeGuard),
            None => {}
        }
        if self.storing.is_some() {
            steps.push(Step::Stored);
        }
        if !self.up {
            steps.push(Step::Up);
        }
        if self.guard.next_deadline().is_some_and(|at| at <= self.clock().mono) {
            steps.push(Step::Due);
        }
        steps
    }

    /// Everything that may happen.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = self.moves();
        let (left, moving) = (self.budget, !steps.is_empty());
        let wakes = steps.iter().any(|step| matches!(step, Step::Wake(_) | Step::Due));
        let saving = self.fake.is_saving();
        let may = [
            (saving, Step::ChildEnds),
            (saving && left.bad_children > 0, Step::ChildFails),
            (self.pulling.is_some(), Step::Copied(true)),
            (self.pulling.is_some(), Step::Copied(false)),
            (left.saves > 0 && !saving && !self.fake.faults.fork, Step::Bgsave),
            (left.faults > 0 && !saving, Step::Fault),
            (self.fake.faults.fork, Step::Heal),
            (left.yes > 0 && !self.fake.knob, Step::Yes),
            (left.no > 0 && self.fake.knob && !self.in_doubt, Step::No),
            (left.crashes > 0, Step::Crash(false)),
            (left.crashes > 0 && self.storing.is_some(), Step::Crash(true)),
            (left.cuts > 0 && self.up, Step::Cut),
            (left.restarts > 0, Step::Restart),
            (left.rewrites > 0, Step::Rewrite),
            (left.bad_stores > 0 && self.storing.is_some(), Step::StoreFails(false)),
            (left.bad_stores > 0 && self.storing.is_some(), Step::StoreFails(true)),
            (left.timers > 0 && !moving, Step::Timer),
            (left.timers > 0 && left.late > 0 && moving && !wakes, Step::Late),
        ];
        steps.extend(may.into_iter().filter(|(may, _)| *may).map(|(_, step)| step));
        let leaves = |(i, session): (usize, &Session)| {
            (left.leaves > 0 && !session.client.is_done() && session.client.asked > 0)
                .then_some(Step::Leave(i))
        };
        steps.extend(self.sessions.iter().enumerate().filter_map(leaves));
        steps
    }

    /// The next step of a world in which nothing goes wrong any more; `None`: only time may pass.
    pub fn fair(&self) -> Option<Step> {
        let child = self.fake.is_saving().then_some(Step::ChildEnds);
        let copy = self.pulling.is_some().then_some(Step::Copied(true));
        self.moves().first().copied().or(child).or(copy)
    }
}
