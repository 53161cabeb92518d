use std::time::{Duration, Instant};

use super::client::{Client, Manner, script};
use super::explore::{Broken, Explorer};
use super::mutant::{Mutant, with};
use super::session;
use super::step::{Budget, Step};
use super::world::World;
use crate::gate::{Gate, Ticket};
use crate::posture::{Form, Posture, Refusal, Variant};

/// Nothing but time and one fault that a save has shown.
const F: Budget = Budget {
    faults: 1,
    timers: 3,
    bad_children: 0,
    saves: 0,
    yes: 0,
    no: 0,
    crashes: 0,
    cuts: 0,
    restarts: 0,
    bad_stores: 0,
    leaves: 0,
    rewrites: 0,
    copies: 0,
    late: 0,
};

/// Corners of the space: what it is about, the clients' scripts (see [`world`]), what may happen to them. Each
/// is explored to its end; together they are what one core can do in CI.
const CORNERS: [(&str, &str, Budget); 22] = [
    ("a hold behind every reply", ">WRW|W", Budget { timers: 1, ..F }),
    ("probes are held like writes", ">WPW", F),
    ("a transaction beside a write", "(Q)|W", Budget { timers: 1, ..F }),
    ("a pipelined transaction", ">(Q)", Budget { saves: 1, timers: 2, ..F }),
    ("a save heals in between", "+WW", Budget { saves: 1, timers: 2, ..F }),
    ("two saves race", "W", Budget { saves: 1, bad_children: 1, timers: 5, ..F }),
    ("a copy is fetched", "W", Budget { copies: 1, bad_children: 1, crashes: 1, timers: 2, ..F }),
    ("clients leave", "W|W", Budget { leaves: 1, timers: 1, ..F }),
    ("a client leaves late", ">WW", Budget { leaves: 1, late: 1, timers: 1, ..F }),
    ("we die", ">WRW", Budget { crashes: 1, timers: 2, ..F }),
    ("we die with two clients", "W|W", Budget { crashes: 1, timers: 1, ..F }),
    ("we die twice", "W", Budget { crashes: 2, timers: 2, ..F }),
    ("the line breaks", "W", Budget { cuts: 1, late: 1, timers: 1, ..F }),
    ("the line breaks and we die", "W", Budget { cuts: 1, crashes: 1, timers: 2, ..F }),
    ("an operator says no", "W", Budget { no: 1, saves: 1, timers: 2, ..F }),
    ("… while the line breaks and we die", "W", Budget { no: 1, cuts: 1, crashes: 1, timers: 1, ..F }),
    ("an operator says yes", "W", Budget { yes: 1, bad_children: 1, timers: 3, ..F }),
    ("… while the line breaks", "W", Budget { yes: 1, cuts: 1, timers: 2, ..F }),
    ("the server restarts", "W", Budget { restarts: 1, crashes: 1, no: 1, timers: 1, ..F }),
    ("the page cannot be written", "W", Budget { bad_stores: 1, crashes: 1, timers: 2, ..F }),
    ("… by an operator's no", "W", Budget { bad_stores: 1, cuts: 1, no: 1, timers: 1, ..F }),
    ("a rewrite comes from elsewhere", "W", Budget { rewrites: 1, timers: 2, ..F }),
];

/// Clients that the deep run sends into every corner, whatever its own are.
const DEEP: [&str; 6] = [">WRW|>WW", "(Q)|(Q)", ">(Q)|+WR", "+WPW|W", "WRW|(Q)", ">WWW|P"];

/// Each bug, and a corner in which it shows.
const BUGS: [(Mutant, &str, Budget); 22] = [
    (Mutant::ReplaysTwice, ">WRW", F),
    (Mutant::ReplaysPastALaterWrite, ">WW", Budget { saves: 1, ..F }),
    (Mutant::SendsPastAHold, "+WW", F),
    (Mutant::TellsSwallowed, "(Q)", F),
    (Mutant::ForgetsTheHoldsEnd, "W", Budget { cuts: 1, late: 1, ..F }),
    (Mutant::DropsWhatTimedOut, "W", Budget { cuts: 1, late: 1, ..F }),
    (Mutant::MiscountsReleases, "W", F),
    (Mutant::OpensYoungerTickets, "W|W", F),
    (Mutant::IgnoresTickets, "W", F),
    (Mutant::LowersBeforeTheDebtIsDurable, "W", F),
    (Mutant::TrustsAFailedStore, "W", Budget { bad_stores: 1, ..F }),
    (Mutant::ErasesTheDebtEarly, "W", Budget { crashes: 1, ..F }),
    (Mutant::AdoptsAnybodysDebt, "W", Budget { restarts: 1, no: 1, ..F }),
    (Mutant::TakesAnOperatorsNoForYes, "W", Budget { no: 1, ..F }),
    (Mutant::TakesANoForOurs, "W", Budget { no: 1, cuts: 1, ..F }),
    (Mutant::RearmsOnStatusOk, "W", Budget { saves: 1, ..F }),
    (Mutant::BelievesStarted, "W", F),
    (Mutant::ForgetsTheDebt, "W", Budget { crashes: 1, ..F }),
    (Mutant::WaitsForALostAnswer, "W", Budget { cuts: 1, ..F }),
    (Mutant::OverlooksARewrite, "W", Budget { rewrites: 1, ..F }),
    (Mutant::RearmsOnACopy, "W", Budget { copies: 1, bad_children: 1, ..F }),
    (Mutant::Spins, "W", F),
];

/// Scripts, `|` between clients, in the letters of [`script`]; `>` before one that writes all at once, `+`
/// before one that does not wait for replies.
fn world(clients: &str, budget: Budget) -> World {
    let client = |(id, text): (usize, &str)| {
        let manner = match text.as_bytes()[0] {
            b'>' => Manner::Burst,
            b'+' => Manner::Hasty,
            _ => Manner::Patient,
        };
        Client::new(id, script(text.trim_start_matches(['>', '+'])).leak(), manner)
    };
    World::new(clients.split('|').enumerate().map(client).collect(), budget)
}

/// On a thread of its own: paths are long, and each step of one is a call.
fn explore(
    clients: &'static str,
    budget: Budget,
    mutant: Option<Mutant>,
    most: Duration,
) -> (Explorer, Result<(), Broken>) {
    let run = move || {
        let mut explorer = Explorer::until(Instant::now() + most);
        let result = with(mutant, || explorer.run(&world(clients, budget)));
        (explorer, result)
    };
    let thread = std::thread::Builder::new().stack_size(1 << 28).spawn(run);
    thread.expect("a thread").join().expect("it catches what panics")
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

/// `BGSAFE_MODEL_TIMERS=n` lets time pass n times more on each path, `BGSAFE_MODEL_DEEP=1` sends more clients
/// into every corner, `BGSAFE_MODEL_SECS=n` gives each of them n seconds.
#[test]
fn whatever_happens_every_promise_is_kept() {
    let (more, deep) = (number("BGSAFE_MODEL_TIMERS").unwrap_or(0), number("BGSAFE_MODEL_DEEP").is_some());
    let most = Duration::from_secs(number("BGSAFE_MODEL_SECS").unwrap_or(600));
    let (mut states, mut transitions, mut drains) = (0, 0, 0);
    for (name, own, budget) in CORNERS {
        let budget = Budget { timers: budget.timers + more as u8, ..budget };
        for clients in std::iter::once(own).chain(DEEP.into_iter().filter(|_| deep)) {
            let began = Instant::now();
            let (explorer, result) = explore(clients, budget, None, most);
            if let Err(Broken { why, path, fair }) = result {
                panic!("{name}, {clients}: {why}\n{path:?}, then {fair} fair steps");
            }
            let whole = if explorer.cut_short { "CUT SHORT" } else { "whole" };
            let (s, t, d) = (explorer.states(), explorer.transitions, explorer.drains);
            eprintln!(
                "{name:40} {clients:10} {s:8} states {t:9} transitions {d:6} ends {:7.1?} {whole}",
                began.elapsed()
            );
            (states, transitions, drains) = (states + s, transitions + t, drains + d);
        }
    }
    eprintln!("{states} states, {transitions} transitions, {drains} fair ends");
    assert!(states > 50_000, "only {states} states: the model sleeps");
}

#[test]
fn each_bug_is_found() {
    for (bug, clients, budget) in BUGS {
        // It is the bug that is found, nothing else.
        let (_, result) = explore(clients, budget, None, Duration::from_secs(60));
        result.unwrap_or_else(|broken| panic!("without {bug:?}: {broken:?}"));
        let (explorer, result) = explore(clients, budget, Some(bug), Duration::from_secs(60));
        match result {
            Err(Broken { why, path, fair }) => {
                eprintln!(
                    "{bug:?} after {} states: {why}\n    {path:?}, then {fair} fair steps",
                    explorer.states()
                )
            }
            Ok(()) => {
                panic!("{bug:?} was not found in {} states of {clients}, {budget:?}", explorer.states())
            }
        }
    }
}

/// Found by this model: the debt was being written when the line broke, so nothing that lowers was ever sent,
/// and yet the `no` that the next connection saw was taken for ours and "restored".
#[test]
fn a_no_seen_after_a_lost_line_is_the_operators_when_we_lowered_nothing() {
    use Step::*;
    let path = [
        Fault,
        Heal,
        Ask(0),
        Serve(0),
        Reply(0),
        ServeGuard,
        HearGuard,
        ServeGuard,
        HearGuard,
        Cut,
        Stored,
        Up,
        No,
    ];
    let end = |mutant| {
        with(mutant, || {
            let mut world = world("W", Budget { no: 1, cuts: 1, ..F });
            path.into_iter().try_for_each(|step| world.take(step)).expect("the trouble comes behind it");
            Explorer::default().drain(world)
        })
    };
    assert_eq!(end(None), Ok(()));
    assert_eq!(end(Some(Mutant::TakesANoForOurs)), Err("the operator's own `no` was touched".into()));
}

#[test]
fn the_gate_of_the_model_is_the_gate() {
    let refusal = Refusal { variant: Variant::Rdb, form: Form::Command };
    let postures = [Posture::Forward, Posture::Hold, Posture::Refuse];
    // Each digit in base 6 is a call.
    for calls in 0..6u32.pow(6) {
        let (real, mut model, mut seen) = (Gate::new(100), session::Gate::default(), 0);
        for call in (0..6).map(|n| calls / 6u32.pow(n) % 6) {
            match call {
                0 => {
                    model.sightings += 1;
                    assert_eq!(real.sight(refusal).0, model.sightings);
                }
                1 => {
                    seen = model.sightings;
                    assert_eq!(real.sightings(), seen);
                }
                2 => {
                    real.open_through(seen);
                    model.open_through = model.open_through.max(seen);
                }
                n => {
                    model.posture = postures[n as usize - 3];
                    real.set_posture(model.posture);
                }
            }
            for ticket in 1..=model.sightings {
                assert_eq!(real.is_open(Ticket(ticket)), model.is_open(ticket), "{calls}");
            }
        }
    }
}
