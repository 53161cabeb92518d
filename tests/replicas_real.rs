//! A primary and two replicas, for real: a replica that cannot save ends itself at its primary's next write (Redis 7.0
//! and later). Behind bgsafe it lives, and comes first when the primary is in trouble, too.

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bgsafe::testing::client::{Direct, text};
use bgsafe::testing::faults::{Fault, process};
use bgsafe::testing::proxy::Proxy;
use bgsafe::testing::server::{Options, Server};
use bgsafe::testing::topology::{Plan, Topology, wait_for};
use bgsafe::testing::workload::{self, Kind, Ran, Target};
use common::{SWITCH, eventually, program, start_bgsafe};
use serde_json::Value;

/// On a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);
const FAULT: Fault = Fault::DumpDir;

/// A primary with its replicas, or nothing where replicas do not end themselves.
fn group() -> Option<Topology> {
    let program = program();
    if !program.at_least(7, 0) {
        eprintln!("{program}: its replicas do not end themselves");
        return None;
    }
    let options: Options = FAULT.options(&program);
    Some(Topology::start(&program, &Plan { sentinels: 0, options, ..Plan::default() }).unwrap())
}

fn url(server: &Server) -> String {
    format!("redis://{}", server.site().address)
}

fn switch(server: &Server) -> String {
    server.direct().unwrap().config(SWITCH).unwrap().unwrap()
}

/// `upstreams` of `/api/status`, of this server.
fn status(bgsafe: &Proxy, server: &Server) -> Value {
    let address = server.site().address.to_string();
    let all = bgsafe.json("/api/status").unwrap()["upstreams"].take();
    let found = all.as_array().unwrap().iter().find(|upstream| upstream["address"] == address.as_str());
    found.cloned().unwrap_or_default()
}

fn is_guarded(bgsafe: &Proxy, server: &Server, role: &str) -> bool {
    let status = status(bgsafe, server);
    status["up"] == true && status["role"] == role && status["run_id"] != ""
}

/// bgsafe before the first of them, with a guard for each.
fn guarded(group: &Topology, args: &[&str]) -> Proxy {
    let bgsafe = start_bgsafe(&url(&group.servers[0]), args);
    eventually("a guard for every server", PATIENCE, || {
        is_guarded(&bgsafe, &group.servers[0], "primary")
            && group.servers[1..].iter().all(|replica| is_guarded(&bgsafe, replica, "replica"))
    });
    bgsafe
}

/// Writers for a while; what they were told.
fn write(at: SocketAddr, name: &str, time: Duration) -> Ran {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let plan = workload::Plan {
        writers: 20,
        think: Duration::from_millis(10),
        big_bytes: 100_000,
        ..workload::Plan::new(Target::Tcp(at), name)
    };
    let running = {
        let _inside = runtime.enter();
        workload::start(plan)
    };
    std::thread::sleep(time);
    runtime.block_on(running.stop())
}

fn assert_perfect(ran: &Ran, server: &Server) {
    let score = ran.verify(&mut server.direct().unwrap()).unwrap();
    assert!(score.total.perfect() && score.total.acknowledged > 100, "{:#?} {:#?}", score.total, score.texts);
}

fn run_id(server: &Server) -> String {
    server.direct().unwrap().info("run_id").unwrap().unwrap()
}

/// In step with the primary: everything it was sent was applied.
fn in_step(group: &Topology, replica: &Server) {
    wait_for("the replica to be in step", || {
        let offset = |server: &Server| server.direct()?.info("master_repl_offset");
        Ok(offset(replica)? == offset(&group.servers[0])?)
    })
    .unwrap();
}

/// Unix milliseconds of the first line of this kind in an incident of this server.
fn happened(bgsafe: &Proxy, server: &Server, event: &str) -> u64 {
    let address = server.site().address.to_string();
    let all = bgsafe.incidents().unwrap();
    let incident =
        all.iter().rfind(|incident| incident["upstream"] == address.as_str()).expect("an incident");
    // Only the fraction of the day matters: the test is not run at midnight, or is run again.
    let opened = incident["opened_at"].as_str().unwrap();
    let clock: Vec<f64> = opened[11..23].split(':').map(|part| part.parse().unwrap()).collect();
    let opened_ms = ((clock[0] * 60.0 + clock[1]) * 60_000.0 + clock[2] * 1000.0).round() as u64;
    let lines = incident["timeline"].as_array().unwrap();
    let line =
        lines.iter().find(|line| line["event"] == event).unwrap_or_else(|| panic!("{event}: {incident:#}"));
    opened_ms + line["at_ms"].as_u64().unwrap()
}

fn quiet(bgsafe: &Proxy, servers: &[Server]) {
    eventually("everybody to be quiet, and nothing owed", PATIENCE, || {
        servers.iter().all(|server| {
            let status = status(bgsafe, server);
            status["phase"] == "quiet" && status["debt"].is_null() && switch(server) == "yes"
        })
    });
}

#[test]
fn a_replica_that_cannot_save_lives_and_its_switch_comes_back() {
    let Some(group) = group() else { return };
    let bgsafe = guarded(&group, &[]);
    let (replica, other) = (&group.servers[1], &group.servers[2]);
    let before = run_id(replica);
    let broken = FAULT.strike(replica.site()).unwrap();
    eventually("the replica to be made safe", PATIENCE, || switch(replica) == "no");
    assert_eq!((switch(&group.servers[0]), switch(other)), ("yes".into(), "yes".into()));
    let ran = write(bgsafe.listen(), "lives", Duration::from_secs(2));
    assert_perfect(&ran, &group.servers[0]);
    in_step(&group, replica);
    assert_eq!(run_id(replica), before, "it lives");
    assert!(status(&bgsafe, replica)["debt"]["owed"] == "yes");
    broken.heal().unwrap();
    quiet(&bgsafe, &group.servers);
    assert_eq!(replica.direct().unwrap().info("rdb_last_bgsave_status").unwrap().as_deref(), Some("ok"));
    let incidents = bgsafe.incidents().unwrap();
    assert_eq!(incidents.len(), 1, "{incidents:#?}");
    assert_eq!(incidents[0]["upstream"], replica.site().address.to_string().as_str());
    assert_eq!((&incidents[0]["outcome"], &incidents[0]["refusals"]), (&"rearmed".into(), &0.into()));
    assert_eq!(run_id(replica), before);
}

/// The control: the same with nobody who guards it.
#[test]
fn without_a_guard_it_ends_itself_at_the_next_write() {
    let Some(group) = group() else { return };
    let bgsafe = start_bgsafe(&url(&group.servers[0]), &["--guard-replicas", "no"]);
    let replica = &group.servers[1];
    let broken = FAULT.strike(replica.site()).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(switch(replica), "yes");
    Direct::connect(bgsafe.listen()).unwrap().demand(&["SET", "k", "v"]).unwrap();
    eventually("the replica to end itself", PATIENCE, || replica.direct().is_err());
    drop(broken);
}

#[test]
fn replicas_are_made_safe_before_the_primary_lets_writes_through() {
    let Some(group) = group() else { return };
    let bgsafe = guarded(&group, &["--hold-time", "20s"]);
    let (primary, replica) = (&group.servers[0], &group.servers[1]);
    let before = run_id(replica);
    // Both fail at one moment, as far as bgsafe can tell: it does not look meanwhile.
    let pid = bgsafe.pid().unwrap();
    process::stop(pid);
    let broken = [FAULT.strike(replica.site()).unwrap(), FAULT.strike(primary.site()).unwrap()];
    process::go_on(pid);
    let started = Instant::now();
    Direct::connect(bgsafe.listen()).unwrap().demand(&["SET", "k", "v"]).unwrap();
    eprintln!("written after {:?}", started.elapsed());
    in_step(&group, replica);
    assert_eq!(run_id(replica), before, "it lives");
    let [first, then] = [replica, primary].map(|server| happened(&bgsafe, server, "switch lowered"));
    assert!(first <= then, "replica at {first}, primary at {then}");
    eprintln!("the replica's switch went down {} ms before the primary's", then - first);
    let ran = write(bgsafe.listen(), "both", Duration::from_secs(1));
    assert_perfect(&ran, primary);
    assert_eq!(run_id(replica), before, "it lives");
    for broken in broken {
        broken.heal().unwrap();
    }
    quiet(&bgsafe, &group.servers);
}

#[test]
fn a_killed_bgsafe_is_followed_by_one_that_pays_the_replicas_debt() {
    let Some(group) = group() else { return };
    let mut bgsafe = guarded(&group, &[]);
    let replica = &group.servers[1];
    let broken = FAULT.strike(replica.site()).unwrap();
    eventually("the replica to be made safe", PATIENCE, || switch(replica) == "no");
    bgsafe.kill9();
    broken.heal().unwrap();
    // Nobody names it any more: the debt alone tells of it.
    replica.cli(&["REPLICAOF", "NO", "ONE"]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    bgsafe.restart().unwrap();
    eventually("the debt to be paid", PATIENCE, || switch(replica) == "yes");
    quiet(&bgsafe, &group.servers[1..2]);
    assert!(bgsafe.log().contains("an earlier bgsafe owes this server"), "{}", bgsafe.log());
}

/// A name that leads nowhere, as behind a NAT: told once, and nobody's hindrance.
#[test]
fn a_replica_that_cannot_be_reached_hinders_nobody() {
    let program = program();
    let options =
        FAULT.options(&program).arg(&["--replica-announce-ip", "127.0.0.1", "--replica-announce-port", "1"]);
    let plan = Plan { sentinels: 0, replicas: 1, options, ..Plan::default() };
    let group = Topology::start(&program, &plan).unwrap();
    let primary = &group.servers[0];
    let bgsafe = start_bgsafe(&url(primary), &[]);
    eventually("it to be known", PATIENCE, || {
        let upstreams = bgsafe.json("/api/status").unwrap()["upstreams"].take();
        upstreams[1]["address"] == "127.0.0.1:1"
            && upstreams[1]["role"] == "unknown"
            && upstreams[1]["up"] == false
    });
    let broken = FAULT.strike(primary.site()).unwrap();
    Direct::connect(bgsafe.listen()).unwrap().demand(&["SET", "k", "v"]).unwrap();
    let opened = bgsafe.incidents().unwrap().remove(0);
    eprintln!("writes open after {} ms", opened["mitigated_after_ms"]);
    assert!(opened["mitigated_after_ms"].as_u64().unwrap() < 150, "{opened:#}");
    broken.heal().unwrap();
    quiet(&bgsafe, &group.servers[..1]);
    assert_eq!(bgsafe.log().matches("no control connection").count(), 1, "{}", bgsafe.log());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_, metrics) = runtime.block_on(bgsafe::admin::client::get(bgsafe.admin(), "/metrics")).unwrap();
    let mut series: Vec<&str> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, _)| name)
        .collect();
    let all = series.len();
    series.sort_unstable();
    series.dedup();
    assert_eq!((series.len(), all), (all, all), "no series twice");
    assert!(
        metrics.contains("bgsafe_upstream_up 1")
            && metrics.contains("bgsafe_upstream_role{role=\"unknown\"} 0")
    );
    let answer = primary.cli(&["PING"]).unwrap();
    assert_eq!(text(&answer), "PONG");
}

/// Of ROLE, and where it has got to.
fn role_of(server: &Server) -> String {
    bgsafe::testing::topology::role(&mut server.direct().unwrap()).unwrap_or_default()
}

fn primary_of(group: &Topology) -> Option<&Server> {
    group.servers[1..].iter().find(|server| role_of(server) == "master")
}

#[test]
fn the_role_moves_to_a_healthy_replica_and_the_old_primary_is_repaired() {
    let Some(group) = group() else { return };
    let bgsafe = guarded(&group, &["--policy", "redirect", "--hold-time", "10s"]);
    let old = &group.servers[0];
    let before = run_id(old);
    // One of the two is not fit: its own save failed.
    let unfit = FAULT.strike(group.servers[1].site()).unwrap();
    eventually("the unfit one to be made safe", PATIENCE, || switch(&group.servers[1]) == "no");
    let writers = {
        let at = bgsafe.listen();
        std::thread::spawn(move || write(at, "over", Duration::from_secs(6)))
    };
    std::thread::sleep(Duration::from_millis(500));
    let broken = FAULT.strike(old.site()).unwrap();
    eventually("the role to move", PATIENCE, || {
        role_of(old) == "slave" && role_of(&group.servers[2]) == "master"
    });
    eventually("it to be told", PATIENCE, || {
        bgsafe.json("/api/status").unwrap()["upstreams"][0]["address"]
            == group.servers[2].site().address.to_string().as_str()
    });
    let ran = writers.join().unwrap();
    // Writes of its new primary reach it, and it lives.
    group.servers[2].cli(&["SET", "after", "1"]).unwrap();
    wait_for("the old primary to follow", || {
        Ok(old.direct()?.info("master_link_status")?.as_deref() == Some("up"))
    })
    .unwrap();
    eventually("what was written there", PATIENCE, || text(&old.cli(&["GET", "after"]).unwrap()) == "1");
    assert_eq!((run_id(old), switch(old)), (before, "no".into()), "it lives");
    let score = ran.verify(&mut group.servers[2].direct().unwrap()).unwrap();
    eprintln!("{} acknowledged; {:#?}", score.total.acknowledged, score.texts);
    // Who waits in a blocking pop is sent away by the server itself when its role goes.
    for (kind, score) in score.kinds.iter().filter(|(kind, _)| **kind != Kind::Queue) {
        assert!(score.perfect(), "{}: {score:?}", kind.name());
    }
    assert!(score.total.honest() && score.total.acknowledged > 100, "nothing acknowledged was lost");
    unfit.heal().unwrap();
    broken.heal().unwrap();
    quiet(&bgsafe, &group.servers);
    let address = old.site().address.to_string();
    let incidents = bgsafe.incidents().unwrap();
    let incident = incidents.iter().find(|incident| incident["upstream"] == address.as_str()).unwrap();
    assert_eq!(incident["outcome"], "redirected", "{incident:#}");
    eprintln!("the role had moved after {} ms", incident["mitigated_after_ms"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_, metrics) = runtime.block_on(bgsafe::admin::client::get(bgsafe.admin(), "/metrics")).unwrap();
    assert!(metrics.contains("bgsafe_redirects_total{result=\"ok\"} 1"), "{metrics}");
}

#[test]
fn with_no_replica_fit_writes_wait_and_the_command_is_told() {
    let Some(group) = group() else { return };
    let bgsafe = guarded(&group, &["--policy", "redirect", "--hold-time", "20s"]);
    let unfit: Vec<_> =
        group.servers[1..].iter().map(|server| FAULT.strike(server.site()).unwrap()).collect();
    eventually("both to be made safe", PATIENCE, || group.servers[1..].iter().all(|s| switch(s) == "no"));
    let broken = FAULT.strike(group.servers[0].site()).unwrap();
    let at = bgsafe.listen();
    let waits = std::thread::spawn(move || {
        Direct::connect(at).unwrap().demand(&["SET", "k", "v"]).map(|ok| text(&ok))
    });
    eventually("it to be told", PATIENCE, || bgsafe.log().contains("no replica is fit"));
    assert!(bgsafe.log().contains("FAILOVER TO <replica> <port> TIMEOUT 10000"), "{}", bgsafe.log());
    assert_eq!((switch(&group.servers[0]), role_of(&group.servers[0])), ("yes".into(), "master".into()));
    broken.heal().unwrap();
    assert_eq!(waits.join().unwrap().unwrap(), "OK");
    drop(unfit);
    quiet(&bgsafe, &group.servers);
}

#[test]
fn a_bgsafe_killed_in_the_middle_of_it_is_followed_by_one_that_cleans_up() {
    let Some(group) = group() else { return };
    let mut bgsafe = guarded(&group, &["--policy", "redirect", "--hold-time", "10s"]);
    let old = &group.servers[0];
    let before = run_id(old);
    // Replicas that stand still come into step no more: the server waits for them.
    let stopped: Vec<u32> = group.servers[1..].iter().map(Server::pid).collect();
    let broken = FAULT.strike(old.site()).unwrap();
    stopped.iter().for_each(|pid| process::stop(*pid));
    let at = bgsafe.listen();
    let waits = std::thread::spawn(move || {
        Direct::connect(at).and_then(|mut through| through.command(&["SET", "k", "v"])).is_ok()
    });
    let until = Instant::now() + PATIENCE;
    while switch(old) != "no" && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
    bgsafe.kill9();
    let state = old.direct().unwrap().info("master_failover_state").unwrap();
    eprintln!("killed while {state:?}");
    stopped.iter().for_each(|pid| process::go_on(*pid));
    let _ = waits.join();
    assert_eq!(switch(old), "no");
    bgsafe.restart().unwrap();
    broken.heal().unwrap();
    eventually("the debt to be paid", PATIENCE, || switch(old) == "yes");
    eventually("one primary", PATIENCE, || (role_of(old) == "master") != primary_of(&group).is_some());
    quiet(&bgsafe, &group.servers[..1]);
    assert_eq!(run_id(old), before, "it lives");
}
