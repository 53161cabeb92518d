//! Who is to be guarded: the configured server, those that the guarded ones name as their replicas, and those
//! that an earlier life owed something to. Pure: names and `now` go in, steps come out.
//!
//! Refuses to know: connections, roles. Invariants: the configured server stays; at most [`MOST`] are guarded;
//! nobody is left who is still owed something, or was named a moment ago.

use std::collections::BTreeMap;
use std::time::Duration;

/// Servers guarded at the most: each costs a connection, a thread and a page.
pub const MOST: usize = 32;
/// How long one may be named by nobody before it is left.
pub const GONE_AFTER: Duration = Duration::from_secs(60);
/// Between attempts to guard one whose page somebody else holds.
pub const BUSY_AGAIN: Duration = Duration::from_secs(5);

/// What is to be done about one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Guard it.
    Start(String),
    /// Leave it.
    Stop(String),
    /// It was named, and there is no room: told once.
    Full(String),
}

#[derive(Debug, Default)]
struct Known {
    guarded: bool,
    /// The same server is guarded under another name.
    twin: bool,
    told_full: bool,
    /// Not to be tried before.
    after: Duration,
    /// When it was last named by somebody, or owed something.
    seen: Duration,
}

/// See the module's page.
#[derive(Debug)]
pub struct Roster {
    own: String,
    /// By whom, whom: the newest list of each.
    lists: BTreeMap<String, Vec<String>>,
    known: BTreeMap<String, Known>,
}

impl Roster {
    /// The configured server, which somebody guards already.
    pub fn new(own: &str) -> Self {
        let mut known = BTreeMap::new();
        known.insert(own.to_string(), Known { guarded: true, ..Known::default() });
        Roster { own: own.to_string(), lists: BTreeMap::new(), known }
    }

    /// `by` names these as its replicas now.
    pub fn named(&mut self, now: Duration, by: &str, addresses: Vec<String>) {
        // Whom it named until now was there until now.
        self.refresh(now);
        self.lists.insert(by.to_string(), addresses);
        self.refresh(now);
    }

    /// An earlier life owed something to this one.
    pub fn owed(&mut self, now: Duration, address: &str) {
        self.known.entry(address.to_string()).or_default().seen = now;
    }

    /// It could not be guarded: somebody else does, or the disk is against it.
    pub fn busy(&mut self, now: Duration, address: &str) {
        if let Some(known) = self.known.get_mut(address) {
            (known.guarded, known.after) = (false, now + BUSY_AGAIN);
        }
    }

    /// It is a server that is guarded under another name.
    pub fn twin(&mut self, address: &str) {
        self.known.entry(address.to_string()).or_default().twin = true;
    }

    /// The next thing to do. `free`: is nothing owed to it, and nothing open?
    pub fn next(&mut self, now: Duration, free: impl Fn(&str) -> bool) -> Option<Step> {
        self.refresh(now);
        let gone = |known: &Known| now >= known.seen + GONE_AFTER;
        let leave = |(address, known): &(&String, &mut Known)| {
            known.guarded && **address != self.own && (known.twin || gone(known)) && free(address)
        };
        if let Some((address, known)) = self.known.iter_mut().find(leave) {
            known.guarded = false;
            let address = address.clone();
            self.lists.remove(&address);
            return Some(Step::Stop(address));
        }
        let own = &self.own;
        self.known.retain(|address, known| known.guarded || !gone(known) || address == own);
        let full = self.known.values().filter(|known| known.guarded).count() >= MOST;
        for (address, known) in &mut self.known {
            if known.guarded || known.twin || now < known.after {
                continue;
            }
            if !full {
                known.guarded = true;
                return Some(Step::Start(address.clone()));
            }
            if !std::mem::replace(&mut known.told_full, true) {
                return Some(Step::Full(address.clone()));
            }
        }
        None
    }

    /// Whom somebody guarded names is there. Names beyond a bound are not kept at all.
    fn refresh(&mut self, now: Duration) {
        for address in self.lists.values().flatten() {
            if let Some(known) = self.known.get_mut(address) {
                known.seen = now;
            } else if self.known.len() < 2 * MOST {
                self.known.insert(address.clone(), Known { seen: now, ..Known::default() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "localhost:6379";

    fn steps(roster: &mut Roster, secs: u64, free: bool) -> Vec<Step> {
        std::iter::from_fn(|| roster.next(Duration::from_secs(secs), |_| free)).collect()
    }

    fn named(roster: &mut Roster, secs: u64, names: &[&str]) {
        roster.named(Duration::from_secs(secs), OWN, names.iter().map(|n| (*n).to_string()).collect());
    }

    #[test]
    fn who_is_named_is_guarded_and_who_is_gone_for_a_while_is_left() {
        let mut roster = Roster::new(OWN);
        assert_eq!(steps(&mut roster, 0, true), []);
        named(&mut roster, 1, &["a:1", "b:1"]);
        assert_eq!(steps(&mut roster, 1, true), [Step::Start("a:1".into()), Step::Start("b:1".into())]);
        named(&mut roster, 100, &["b:1"]);
        assert_eq!(steps(&mut roster, 159, true), [], "a:1 was there until 100");
        assert_eq!(steps(&mut roster, 160, false), [], "it is owed something");
        assert_eq!(steps(&mut roster, 161, true), [Step::Stop("a:1".into())]);
        named(&mut roster, 170, &["a:1", "b:1"]);
        assert_eq!(steps(&mut roster, 170, true), [Step::Start("a:1".into())]);
        named(&mut roster, 171, &[]);
        assert_eq!(steps(&mut roster, 900, true).len(), 2, "the configured one stays");
    }

    #[test]
    fn names_of_one_who_is_left_count_no_more() {
        let mut roster = Roster::new(OWN);
        named(&mut roster, 0, &["a:1"]);
        steps(&mut roster, 0, true);
        roster.named(Duration::ZERO, "a:1", vec!["sub:1".into()]);
        assert_eq!(steps(&mut roster, 0, true), [Step::Start("sub:1".into())]);
        named(&mut roster, 1, &[]);
        assert_eq!(steps(&mut roster, 61, true), [Step::Stop("a:1".into())]);
        assert_eq!(steps(&mut roster, 121, true), [Step::Stop("sub:1".into())]);
    }

    #[test]
    fn a_busy_page_is_tried_again_and_a_twin_never() {
        let mut roster = Roster::new(OWN);
        named(&mut roster, 0, &["a:1", "b:1"]);
        steps(&mut roster, 0, true);
        roster.busy(Duration::ZERO, "a:1");
        roster.twin("b:1");
        assert_eq!(steps(&mut roster, 4, true), [Step::Stop("b:1".into())]);
        assert_eq!(steps(&mut roster, 5, true), [Step::Start("a:1".into())]);
    }

    #[test]
    fn there_is_room_for_so_many_and_the_rest_is_told_once() {
        let mut roster = Roster::new(OWN);
        let names: Vec<String> = (0..500).map(|n| format!("r{n:03}:1")).collect();
        roster.named(Duration::ZERO, OWN, names);
        let steps = steps(&mut roster, 0, true);
        let started = steps.iter().filter(|step| matches!(step, Step::Start(_))).count();
        assert_eq!((started, steps.len()), (MOST - 1, 2 * MOST - 1));
        assert_eq!(roster.next(Duration::from_secs(1), |_| true), None);
    }

    #[test]
    fn whom_an_earlier_life_owed_is_guarded_until_it_is_paid() {
        let mut roster = Roster::new(OWN);
        roster.owed(Duration::ZERO, "a:1");
        assert_eq!(steps(&mut roster, 0, false), [Step::Start("a:1".into())]);
        assert_eq!(steps(&mut roster, 600, false), []);
        assert_eq!(steps(&mut roster, 601, true), [Step::Stop("a:1".into())]);
    }
}
