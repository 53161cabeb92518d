//! The forms a refusal takes on this server, through the real bgsafe: what versions word differently must reach the
//! client as the server worded it, and what may have run in part must never run twice.

mod common;

use std::time::Duration;

use bgsafe::testing::client::{Direct, Reply, text};
use bgsafe::testing::faults::Fault;
use bgsafe::testing::find::Program;
use bgsafe::testing::proxy::Proxy;
use bgsafe::testing::server::Server;
use common::{eventually, program, start_bgsafe};

/// Scripts that a refusal strikes inside. Up to 6.2 the first two are answered `ERR Error running script … -MISCONF …`
/// and `@user_script: 1: -MISCONF …`, from 7.0 on both `MISCONF …` (`scripting.c:luaPushError`,
/// `script_lua.c:luaCallFunction`).
const STRUCK_INSIDE: [(&str, &str); 3] = [
    ("call", "return redis.call('INCR', KEYS[1])"),
    ("pcall", "return redis.pcall('INCR', KEYS[1])"),
    ("nested", "return {1, {redis.pcall('INCR', KEYS[1])}}"),
];
/// As above, refused before it begins where servers know flags.
const DECLARED: &str = "#!lua\nreturn redis.call('INCR', KEYS[1])";

/// Of a server whose saves fail: bgsafe before it, a connection through that, and one straight to the server.
fn broken_server(policy: &str, check: impl FnOnce(&Program, &Proxy, Direct, Direct)) {
    let (program, fault) = (program(), Fault::DumpDir);
    let server = Server::start(&program, fault.options(&program)).unwrap();
    server.cli(&["SET", "lab:before", "1"]).unwrap();
    let bgsafe = start_bgsafe(&format!("redis://{}", server.site().address), &["--policy", policy]);
    let broken = fault.strike(server.site()).unwrap();
    check(&program, &bgsafe, Direct::connect(bgsafe.listen()).unwrap(), server.direct().unwrap());
    broken.heal().unwrap();
    if policy == "mitigate" {
        eventually("the switch to be back", Duration::from_secs(10), || {
            let status = bgsafe.upstream_status().unwrap();
            status["phase"] == "quiet" && status["debt"].is_null()
        });
        let incident = bgsafe.incidents().unwrap().remove(0);
        assert_eq!((&incident["variant"], &incident["outcome"]), (&"rdb".into(), &"rearmed".into()));
    }
}

/// How often the server has run EVAL.
fn runs(direct: &mut Direct) -> u64 {
    let stats = text(&direct.demand(&["INFO", "commandstats"]).unwrap());
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_eval:calls="));
    calls.and_then(|calls| calls.split(',').next()).map_or(0, |calls| calls.parse().unwrap())
}

/// Refusals that bgsafe's sessions have sighted, of all forms.
fn sighted(bgsafe: &Proxy) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_, text) = runtime.block_on(bgsafe::admin::client::get(bgsafe.admin(), "/metrics")).unwrap();
    let forms =
        text.lines().filter(|line| line.starts_with("bgsafe_refusals_total{") && !line.contains("silent"));
    forms.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Is there a refusal in it, at any depth?
fn refused(reply: &Reply) -> bool {
    match reply {
        Reply::Error(words) => words.contains("MISCONF "),
        Reply::Array(items) => items.iter().any(refused),
        Reply::SimpleString(_) | Reply::BulkString(_) | Reply::Integer(_) | Reply::Null => false,
    }
}

#[test]
fn nothing_of_a_refusal_is_changed_where_nothing_may_be_done() {
    broken_server("observe", |program, bgsafe, mut through, mut direct| {
        let scripts = STRUCK_INSIDE.map(|(_, script)| ["EVAL", script, "1", "k"]);
        for words in scripts.iter().map(|words| &words[..]).chain([
            &["SET", "k", "1"][..],
            &["PING"],
            &["INCR", "k"],
            &["EVAL", DECLARED, "1", "k"],
        ]) {
            let own = direct.command(words).unwrap();
            assert!(refused(&own) || (words[1] == DECLARED && !program.at_least(7, 0)), "{words:?}: {own:?}");
            let (before, seen) = (runs(&mut direct), sighted(bgsafe));
            assert_eq!(through.command(words).unwrap(), own, "{words:?}");
            assert_eq!(sighted(bgsafe) - seen, u64::from(refused(&own)), "{words:?}: {own:?}");
            let begins = words[0] == "EVAL" && (words[1] != DECLARED || !program.at_least(7, 0));
            assert_eq!(runs(&mut direct) - before, u64::from(begins), "{words:?}");
        }
        // A script that is refused inside of a transaction, among what is not.
        for direct in [&mut through, &mut direct] {
            let eval = ["EVAL", STRUCK_INSIDE[0].1, "1", "k"];
            for (words, answer) in [(&["MULTI"][..], "OK"), (&["GET", "k"], "QUEUED"), (&eval, "QUEUED")] {
                assert_eq!(text(&direct.command(words).unwrap()), answer);
            }
            let Reply::Array(items) = direct.command(&["EXEC"]).unwrap() else { panic!("not run") };
            assert!(items.len() == 2 && items[0] == Reply::Null && refused(&items[1]), "{items:?}");
        }
    });
}

/// A script may have run in part: it is not run again, and its error is its answer. It opens the writes all the same.
#[test]
fn a_script_refused_inside_is_answered_once_and_opens_the_writes() {
    for (name, script) in STRUCK_INSIDE {
        broken_server("mitigate", |_, bgsafe, mut through, mut direct| {
            let (before, mut sent, mut incremented) = (runs(&mut direct), 0_u64, 0);
            eventually("the writes to be open", Duration::from_secs(5), || {
                let reply = through.command(&["EVAL", script, "1", "k"]).unwrap();
                sent += 1;
                incremented += u64::from(!refused(&reply));
                incremented == 3
            });
            assert_eq!(runs(&mut direct) - before, sent, "{name}: each was run once");
            assert_eq!(sighted(bgsafe), sent - incremented, "{name}: what was delivered was sighted");
            assert_eq!(text(&direct.command(&["GET", "k"]).unwrap()), incremented.to_string(), "{name}");
        });
    }
}

/// Refused before it began: nobody notices. Where servers do not know flags it is an error of its own.
#[test]
fn a_script_that_declares_its_flags_is_invisible_or_the_servers_own_error() {
    broken_server("mitigate", |program, _, mut through, mut direct| {
        let words = ["EVAL", DECLARED, "1", "k"];
        match program.at_least(7, 0) {
            true => assert_eq!(text(&through.command(&words).unwrap()), "1"),
            false => {
                let own = direct.command(&words).unwrap();
                assert!(
                    matches!(&own, Reply::Error(words) if words.starts_with("ERR Error compiling script"))
                );
                assert_eq!(through.command(&words).unwrap(), own);
                assert_eq!(text(&through.command(&["INCR", "k"]).unwrap()), "1");
            }
        }
    });
}
