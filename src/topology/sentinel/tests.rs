//! Sentinels that agree, disagree, fall silent, come late and have two addresses.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const OLD: &str = "10.0.0.1:6379";
const NEW: &str = "10.0.0.2:6379";

fn says(primary: &str, epoch: u64) -> Said {
    Said {
        primary: primary.into(),
        run_id: Some(format!("run of {primary}")),
        epoch,
        replicas: 2,
        others: 2,
        down_after: 2 * SECOND,
        failover_timeout: 4 * SECOND,
        ..Said::default()
    }
}

fn name(n: usize) -> String {
    format!("s{n}:26379")
}

/// Three Sentinels; `None` is one that was never heard.
fn council(said: [Option<Said>; 3]) -> Council {
    let mut council = Council::new(&[name(0), name(1), name(2)]);
    for (n, said) in said.into_iter().enumerate() {
        if let Some(said) = said {
            tell(&mut council, n, SECOND, said);
        }
    }
    council
}

fn tell(council: &mut Council, n: usize, asked: Duration, said: Said) {
    let id = Some(format!("id{n}"));
    council.handle(asked, Event::Told { from: name(n), asked, id, said, peers: Vec::new() });
}

fn old() -> Who {
    Who { run_id: Some(format!("run of {OLD}")), addresses: vec![OLD.into()] }
}

fn view(council: &Council, now: Duration) -> View {
    council.report(now, &old()).view
}

#[test]
fn a_majority_of_all_that_are_known_decides() {
    let (us, other) = (|| Some(says(OLD, 3)), || Some(says(NEW, 4)));
    let down = |o_down: Option<Duration>| Some(Said { s_down: true, o_down, ..says(OLD, 3) });
    let leads = || Some(Said { failing_over: true, ..says(OLD, 3) });
    for (said, expected) in [
        ([us(), us(), us()], View::Agrees),
        ([us(), us(), None], View::Agrees),
        ([us(), None, None], View::Silent),
        ([None, None, None], View::Silent),
        ([us(), us(), down(None)], View::SDown { by: 1, of: 3 }),
        ([down(None), down(None), None], View::SDown { by: 2, of: 3 }),
        ([us(), us(), leads()], View::FailingOver),
        ([us(), us(), down(Some(Duration::ZERO))], View::FailingOver),
        // Down for a quorum for longer than an election: nobody replaces it.
        ([us(), us(), down(Some(11 * SECOND))], View::SDown { by: 1, of: 3 }),
        ([other(), other(), other()], View::SaysOther(NEW.into())),
        ([other(), other(), us()], View::SaysOther(NEW.into())),
        ([other(), other(), None], View::SaysOther(NEW.into())),
        // The newest configuration is told by one only: it may be on its way to all.
        ([other(), us(), us()], View::Disagree),
        ([other(), us(), None], View::Disagree),
        ([other(), None, None], View::Disagree),
        // One of the same epoch, or an older one, that names another is outvoted.
        ([Some(says(NEW, 3)), us(), us()], View::Agrees),
        ([Some(says(NEW, 2)), us(), us()], View::Agrees),
        ([Some(says(NEW, 3)), us(), None], View::Disagree),
    ] {
        let shown = format!("{said:?}");
        let found = view(&council(said), SECOND);
        assert_eq!(found, expected, "{shown}");
    }
}

#[test]
fn no_failover_is_expected_where_there_is_no_replica() {
    let alone = || Said { s_down: true, o_down: Some(SECOND), replicas: 0, ..says(OLD, 3) };
    let council = council([Some(alone()), Some(alone()), Some(alone())]);
    assert_eq!(view(&council, SECOND), View::SDown { by: 3, of: 3 });
    assert_eq!(council.report(SECOND, &old()).fails_over_within, None);
}

#[test]
fn an_answer_grows_old_and_a_late_one_changes_nothing() {
    let mut council = council([Some(says(NEW, 4)), Some(says(NEW, 4)), None]);
    // Asked before the failover, delivered after: the newer answer stands.
    tell(&mut council, 0, Duration::ZERO, says(OLD, 3));
    assert_eq!(view(&council, SECOND), View::SaysOther(NEW.into()));
    assert_eq!(council.primary(SECOND), Some((NEW.into(), 4)));
    assert_eq!(view(&council, SECOND + FRESH), View::SaysOther(NEW.into()));
    assert_eq!(view(&council, SECOND + FRESH + SECOND), View::Silent);
    assert_eq!(council.primary(SECOND + FRESH + SECOND), None);
}

#[test]
fn whoever_is_lost_says_nothing_and_still_counts() {
    let mut council = council([Some(says(OLD, 3)), Some(says(OLD, 3)), Some(says(OLD, 3))]);
    for n in 0..2 {
        assert_eq!(view(&council, SECOND), View::Agrees);
        council.handle(SECOND, Event::Lost { from: name(n), why: "refused".into() });
    }
    assert_eq!(view(&council, SECOND), View::Silent);
    assert_eq!(council.silent(SECOND), ["s0:26379: refused", "s1:26379: refused"]);
}

/// It is told of by others, so two that we are given are not a majority of three.
#[test]
fn sentinels_that_nobody_named_count_too() {
    let mut council = Council::new(&[name(0)]);
    tell(&mut council, 0, SECOND, says(OLD, 3));
    assert_eq!(view(&council, SECOND), View::Silent, "one of three");
    assert_eq!(council.poll_action(), Some(Action::Sit(name(0))));
    let peer = |n: usize| Peer { address: name(n), id: format!("id{n}") };
    let event = Event::Told {
        from: name(0),
        asked: SECOND,
        id: Some("id0".into()),
        said: says(OLD, 3),
        peers: vec![peer(1), peer(2)],
    };
    council.handle(SECOND, event);
    assert_eq!(council.poll_action(), Some(Action::Sit(name(1))));
    assert_eq!(council.poll_action(), Some(Action::Sit(name(2))));
    tell(&mut council, 2, SECOND, says(OLD, 3));
    assert_eq!(view(&council, SECOND), View::Agrees);
}

#[test]
fn one_sentinel_under_two_addresses_has_one_voice() {
    let mut council = Council::new(&["localhost:26379".into(), name(1), name(2)]);
    let told = |from: &str, id: &str, peers: Vec<Peer>| Event::Told {
        from: from.into(),
        asked: SECOND,
        id: Some(id.into()),
        said: says(OLD, 3),
        peers,
    };
    // Another tells of it by its number before it has told its own id.
    council.handle(
        SECOND,
        told(&name(1), "id1", vec![Peer { address: "127.0.0.1:26379".into(), id: "id0".into() }]),
    );
    while council.poll_action().is_some() {}
    council.handle(SECOND, told("localhost:26379", "id0", Vec::new()));
    assert_eq!(council.poll_action(), Some(Action::Leave("127.0.0.1:26379".into())));
    assert_eq!(council.report(SECOND, &old()).known, 3);
}

#[test]
fn one_that_nobody_tells_of_any_more_is_forgotten() {
    let mut council = Council::new(&[name(0)]);
    let told = |peers: Vec<Peer>| Event::Told {
        from: name(0),
        asked: SECOND,
        id: Some("id0".into()),
        said: Said { others: peers.len(), ..says(OLD, 3) },
        peers,
    };
    council.handle(SECOND, told(vec![Peer { address: name(1), id: "id1".into() }]));
    assert_eq!(view(&council, SECOND), View::Silent);
    council.handle(2 * SECOND, told(Vec::new()));
    assert_eq!(view(&council, 2 * SECOND), View::Agrees);
}

#[test]
fn one_that_does_not_know_the_group_is_none_of_it() {
    let mut council =
        council([Some(Said { others: 1, ..says(OLD, 3) }), Some(Said { others: 1, ..says(OLD, 3) }), None]);
    council.handle(SECOND, Event::Refused { from: name(2), why: "ERR No such master".into() });
    assert_eq!(council.report(SECOND, &old()).known, 2);
    assert_eq!(view(&council, SECOND), View::Agrees);
}

/// A restarted server has another run id until Sentinel asks again, a server behind another address only its run id.
#[test]
fn a_server_is_known_by_its_run_id_or_by_its_address() {
    let council = council([Some(says(OLD, 3)), Some(says(OLD, 3)), Some(says(OLD, 3))]);
    for (run_id, address, expected) in [
        (Some("run of 10.0.0.1:6379"), "localhost:6379", View::Agrees),
        (Some("another"), OLD, View::Agrees),
        (None, OLD, View::Agrees),
        (Some("another"), "localhost:6379", View::SaysOther(OLD.into())),
        (None, "localhost:6379", View::SaysOther(OLD.into())),
    ] {
        let who = Who { run_id: run_id.map(Into::into), addresses: vec![address.into()] };
        assert_eq!(council.report(SECOND, &who).view, expected, "{who:?}");
    }
}

#[test]
fn a_failover_is_over_when_it_is_told_or_when_nobody_told_for_long() {
    let mut council = council([Some(says(OLD, 3)), Some(says(OLD, 3)), Some(says(OLD, 3))]);
    let stir = |stir| Event::Stirred { from: name(1), stir };
    council.handle(SECOND, stir(Stir::Begins));
    assert_eq!(view(&council, SECOND), View::FailingOver);
    council.handle(SECOND, stir(Stir::Other));
    assert_eq!(view(&council, SECOND), View::FailingOver);
    council.handle(SECOND, stir(Stir::Ends));
    assert_eq!(view(&council, SECOND), View::Agrees);
    council.handle(SECOND, stir(Stir::Begins));
    let later = SECOND + FAILOVER_MOST + SECOND;
    for n in 0..3 {
        tell(&mut council, n, later, says(OLD, 3));
    }
    assert_eq!(view(&council, later), View::Agrees);
}

/// Whatever the order in which messages come, whichever are lost: once the last ones are in, the view is theirs;
/// and in between it is never that the old primary is agreed on when a majority has told otherwise.
#[test]
fn no_order_of_messages_makes_an_old_primary_the_agreed_one() {
    let mut seed = 88_172_645_463_325_252_u64;
    let mut below = |n: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % n as u64) as usize
    };
    for round in 0..2000 {
        let mut council = Council::new(&[name(0), name(1), name(2)]);
        // Each Sentinel answers twice as before and twice as after the failover; each is asked in that order.
        let mut mail: Vec<(usize, u64)> = (0..3).flat_map(|n| (1..=4).map(move |at| (n, at))).collect();
        let mut heard = [0_u64; 3];
        while !mail.is_empty() {
            let (n, at) = mail.swap_remove(below(mail.len()));
            if below(5) == 0 && at < 4 {
                continue;
            }
            let said = if at <= 2 { says(OLD, 3) } else { says(NEW, 4) };
            tell(&mut council, n, Duration::from_millis(at), said);
            heard[n] = heard[n].max(at);
            let moved = heard.iter().filter(|at| **at > 2).count();
            let found = view(&council, SECOND);
            if moved >= 2 {
                assert_eq!(found, View::SaysOther(NEW.into()), "round {round}: {heard:?}");
            } else if moved == 1 {
                assert_eq!(found, View::Disagree, "round {round}: {heard:?}");
            }
        }
    }
}
