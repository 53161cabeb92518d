//! The checker is checked: it must call a clean run clean, and find every kind of damage done behind its back.

use std::time::Duration;

use bgsafe::testing::client::{Direct, Reply, text};
use bgsafe::testing::find::for_tests;
use bgsafe::testing::server::{Options, Server};
use bgsafe::testing::workload::{self, Kind, Plan, Ran, Score, Target};

fn server() -> Server {
    Server::start(&for_tests().unwrap(), Options { unix_socket: true, ..Options::default() }).unwrap()
}

fn run(plan: Plan, millis: u64) -> Ran {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let running = workload::start(plan);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        running.stop().await
    })
}

fn plan(server: &Server, kinds: &[Kind], writers: usize) -> Plan {
    let target = Target::Tcp(server.site().address);
    Plan { kinds: kinds.to_vec(), writers, big_bytes: 50_000, ..Plan::new(target, "t") }
}

#[test]
fn a_clean_run_of_every_kind_is_perfect() {
    let server = server();
    let ran = run(plan(&server, &Kind::ALL, 50), 1500);
    let score = ran.verify(&mut server.direct().unwrap()).unwrap();
    assert!(score.total.perfect(), "{:?} {:?}", score.texts, score.kinds);
    for kind in Kind::ALL {
        assert!(score.kinds[&kind].acknowledged > 0, "{} did nothing", kind.name());
    }
    assert_eq!(score.total.sent, score.total.acknowledged);
    eprintln!("{}", workload::table(&[("direct", &score.total)]));
}

#[test]
fn writers_also_speak_over_a_unix_socket() {
    let server = server();
    let plan = Plan { target: Target::Unix(server.socket().unwrap()), ..plan(&server, &Kind::ALL, 9) };
    let score = run(plan, 300).verify(&mut server.direct().unwrap()).unwrap();
    assert!(score.total.perfect() && score.total.acknowledged > 100, "{:?}", score.texts);
}

/// One kind, one act of damage, what the judge must say: (lost, doubled, reordered).
struct Damage {
    name: &'static str,
    kind: Kind,
    act: &'static [&'static [&'static str]],
    verdict: (u64, u64, u64),
}

#[rustfmt::skip]
const DAMAGES: &[Damage] = &[
    Damage { name: "a SET key is gone",         kind: Kind::Set,      act: &[&["DEL", "t:set:0:3"]],                       verdict: (1, 0, 0) },
    Damage { name: "a SET key holds another's", kind: Kind::Set,      act: &[&["SET", "t:set:0:3", "4"]],                  verdict: (1, 0, 0) },
    Damage { name: "an INCR ran twice",         kind: Kind::Incr,     act: &[&["INCR", "t:incr:0"]],                       verdict: (0, 1, 0) },
    Damage { name: "two INCRs did not run",     kind: Kind::Incr,     act: &[&["DECRBY", "t:incr:0", "2"]],                verdict: (2, 0, 0) },
    Damage { name: "an RPUSH did not run",      kind: Kind::Rpush,    act: &[&["LREM", "t:rpush:0", "1", "2"]],            verdict: (1, 0, 0) },
    Damage { name: "an RPUSH ran twice",        kind: Kind::Rpush,    act: &[&["RPUSH", "t:rpush:0", "2"]],                verdict: (0, 1, 0) },
    Damage { name: "an RPUSH came late",        kind: Kind::Rpush,    act: &[&["LREM", "t:rpush:0", "1", "2"], &["RPUSH", "t:rpush:0", "2"]], verdict: (0, 0, 1) },
    Damage { name: "all RPUSHes are gone",      kind: Kind::Rpush,    act: &[&["LTRIM", "t:rpush:0", "5", "-1"]],          verdict: (5, 0, 0) },
    Damage { name: "a stream entry too many",   kind: Kind::Xadd,     act: &[&["XADD", "t:xadd:0", "*", "n", "1"]],        verdict: (0, 1, 0) },
    Damage { name: "stream entries trimmed",    kind: Kind::Xadd,     act: &[&["XTRIM", "t:xadd:0", "MAXLEN", "1"]],       verdict: (u64::MAX, 0, 0) },
    Damage { name: "half a transaction",        kind: Kind::Multi,    act: &[&["LREM", "t:multi:0:second", "1", "2"]],     verdict: (1, 0, 0) },
    Damage { name: "a transaction ran twice",   kind: Kind::Multi,    act: &[&["RPUSH", "t:multi:0", "0"], &["RPUSH", "t:multi:0:second", "0"]], verdict: (0, 1, 0) },
    Damage { name: "a pipeline's push twice",   kind: Kind::Pipeline, act: &[&["RPUSH", "t:pipeline:0", "7"]],             verdict: (0, 1, 0) },
    Damage { name: "a pipeline's push missing", kind: Kind::Pipeline, act: &[&["LREM", "t:pipeline:0", "1", "7"]],         verdict: (1, 0, 0) },
    Damage { name: "a consumed token again",    kind: Kind::Queue,    act: &[&["RPUSH", "t:queue:0", "0"]],                verdict: (0, 1, 0) },
    Damage { name: "a consumed token unknown",  kind: Kind::Queue,    act: &[&["LREM", "t:queue:0:second", "1", "1"]],     verdict: (1, 0, 0) },
    Damage { name: "a big value is cut",        kind: Kind::Big,      act: &[&["SETRANGE", "t:big:0:1", "100", "x"]],      verdict: (1, 0, 0) },
    Damage { name: "a big value is gone",       kind: Kind::Big,      act: &[&["DEL", "t:big:0:0"]],                       verdict: (1, 0, 0) },
    Damage { name: "an older big value stands", kind: Kind::Big,      act: &[&["SET", "t:big:0:0", "OLD"]],                verdict: (0, 0, 1) },
];

#[test]
fn every_damage_done_behind_its_back_is_found() {
    let server = server();
    for damage in DAMAGES {
        let mut direct = server.direct().unwrap();
        direct.demand(&["FLUSHALL"]).unwrap();
        let big = damage.kind == Kind::Big;
        let ran = run(plan(&server, &[damage.kind], 1), if big { 1000 } else { 200 });
        let before = ran.verify(&mut direct).unwrap();
        assert!(before.total.perfect(), "{}: {:?}", damage.name, before.texts);

        for words in damage.act {
            let reply = match words {
                [set, key, "OLD"] => {
                    let value = older(&mut direct, key);
                    direct.demand(&[set.as_bytes(), key.as_bytes(), &value])
                }
                words => direct.demand(words),
            };
            assert!(
                !matches!(reply.unwrap(), Reply::Integer(0)),
                "{}: the damage itself failed",
                damage.name
            );
        }
        let after = ran.verify(&mut direct).unwrap();
        let found = (after.total.lost, after.total.doubled, after.total.reordered);
        let expected = match damage.verdict {
            (u64::MAX, _, _) => (before.total.acknowledged - 1, 0, 0),
            verdict => verdict,
        };
        assert_eq!(found, expected, "{}: {}", damage.name, workload::table(&[("run", &after.total)]));
        assert!(!after.total.honest());
    }
}

/// The value with the number of the first token of the slot, in place of a later one's.
fn older(direct: &mut Direct, key: &str) -> Vec<u8> {
    let value = text(&direct.demand(&["GET", key]).unwrap());
    let mark = value.split_once('>').unwrap().0.to_owned() + ">";
    assert_ne!(mark, "<0:0>", "the slot was written once only");
    let bytes = value.len();
    let mut value = b"<0:0>".to_vec();
    value.resize(bytes - 5, b'.');
    value.extend_from_slice(b"<0:0>");
    value
}

#[test]
fn a_refusing_server_is_counted_as_errors_and_not_as_loss() {
    let server = server();
    let mut direct = server.direct().unwrap();
    let broken = bgsafe::testing::faults::Fault::DumpDir.strike(server.site()).unwrap();
    let kinds: Vec<Kind> = Kind::ALL.to_vec();
    let ran = run(plan(&server, &kinds, 18), 500);
    broken.heal().unwrap();
    let score: Score = ran.verify(&mut direct).unwrap();
    assert!(score.total.honest(), "{:?} {:?}", score.texts, score.kinds);
    assert_eq!(score.total.acknowledged, 0);
    assert!(score.total.refused > 100 && score.total.longest_pause > Duration::from_millis(300));
    assert!(score.texts.keys().any(|text| text.contains("MISCONF")), "{:?}", score.texts);
    assert!(score.texts.keys().any(|text| text.contains("EXECABORT")), "{:?}", score.texts);
}

#[test]
fn a_killed_server_leaves_unclear_tokens_and_broken_connections() {
    let mut server = server();
    let plan = plan(&server, &Kind::ALL, 27);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ran = runtime.block_on(async {
        let running = workload::start(plan);
        tokio::time::sleep(Duration::from_millis(400)).await;
        // A graceful end keeps the data: what is judged here is the writers' view of a lost connection.
        let _ = server.cli(&["SHUTDOWN", "SAVE"]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.restart().unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
        running.stop().await
    });
    let score = ran.verify(&mut server.direct().unwrap()).unwrap();
    assert!(score.total.honest(), "{:?} {:?}", score.texts, score.kinds);
    assert!(score.total.broken > 0 && score.total.refused == 0, "{:?}", score.texts);
}
