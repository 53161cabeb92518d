//! Depth first through everything that may happen, each state once; from every state in which only time
//! could go on, a fair drain in which nothing goes wrong any more must end well.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::step::Step;
use super::world::World;

/// What broke, and how it came.
#[derive(Debug)]
pub struct Broken {
    pub why: String,
    pub path: Vec<Step>,
    /// So many fair steps came behind it.
    pub fair: u64,
}

/// See the module's page.
#[derive(Default)]
pub struct Explorer {
    /// Prints seen, with the time steps that were left.
    seen: HashMap<u64, u8>,
    /// Prints on the way here, with their time.
    open: HashMap<u64, u64>,
    /// From here a drain ends well.
    drained: HashSet<u64>,
    path: Vec<Step>,
    fair: u64,
    pub transitions: u64,
    pub drains: u64,
    deadline: Option<Instant>,
    /// It was not finished in time.
    pub cut_short: bool,
}

impl Explorer {
    pub fn until(deadline: Instant) -> Explorer {
        Explorer { deadline: Some(deadline), ..Explorer::default() }
    }

    pub fn states(&self) -> usize {
        self.seen.len()
    }

    pub fn run(&mut self, world: &World) -> Result<(), Broken> {
        let result = catch_unwind(AssertUnwindSafe(|| self.visit(world)));
        let why = match result {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => why,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                format!(
                    "panicked: {}",
                    text.or(panic.downcast_ref::<&str>().map(|s| (*s).into())).unwrap_or_default()
                )
            }
        };
        Err(Broken { why, path: std::mem::take(&mut self.path), fair: self.fair })
    }

    fn visit(&mut self, world: &World) -> Result<(), String> {
        if self.deadline.is_some_and(|at| Instant::now() > at) {
            self.cut_short = true;
            return Ok(());
        }
        let timers = world.budget.timers;
        let mut left = world.budget;
        left.timers = 0;
        let key = mix(world.print(), left);
        if self.open.get(&key) == Some(&world.now) {
            return Err("it goes round in circles while no time passes".into());
        }
        match self.seen.get_mut(&key) {
            Some(known) if *known >= timers => return Ok(()),
            Some(known) => *known = timers,
            None => drop(self.seen.insert(key, timers)),
        }
        if world.moves().is_empty() {
            self.drain(world.clone())?;
        }
        let before = self.open.insert(key, world.now);
        for step in world.steps() {
            let mut next = world.clone();
            self.path.push(step);
            self.transitions += 1;
            next.take(step)?;
            self.visit(&next)?;
            self.path.pop();
        }
        match before {
            Some(at) => self.open.insert(key, at),
            None => self.open.remove(&key),
        };
        Ok(())
    }

    /// Nothing goes wrong any more: all must end as it should.
    pub fn drain(&mut self, mut world: World) -> Result<(), String> {
        world.fake.faults = Default::default();
        self.drains += 1;
        let (mut trail, began) = (Vec::new(), world.now);
        let mut calm = 0;
        loop {
            if trail.len() < 4000 {
                let print = world.print();
                if self.drained.contains(&print) {
                    break;
                }
                trail.push(print);
            }
            let step = world.fair().unwrap_or(Step::Timer);
            if step == Step::Timer {
                let verdict = world.settled();
                calm = if verdict.is_ok() { calm + 1 } else { 0 };
                if calm == 3 {
                    break;
                }
                if world.now > began + 300_000 {
                    return Err(format!("five minutes after the last trouble: {}", verdict.unwrap_err()));
                }
            }
            self.fair += 1;
            world.take(step)?;
        }
        self.fair = 0;
        self.drained.extend(trail);
        Ok(())
    }
}

fn mix(print: u64, left: impl std::hash::Hash) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut h = DefaultHasher::new();
    (print, left).hash(&mut h);
    h.finish()
}
