//! bgsafe in front of a primary that Sentinels watch, for real: it opens writes before they act, opens no server
//! that they have replaced, and leaves to them what it was told to leave.

mod common;

use std::time::{Duration, Instant};

use bgsafe::testing::client::{Direct, Reply};
use bgsafe::testing::faults::Fault;
use bgsafe::testing::proxy::Proxy;
use bgsafe::testing::topology::{NAME, Plan, Topology, role, wait_for};
use common::{SWITCH, eventually, is_misconf, program, start_bgsafe};

/// A group, and what of the first server.
fn group() -> Topology {
    Topology::start(&program(), &Plan::default()).unwrap()
}

fn in_front(lab: &Topology, args: &[&str]) -> Proxy {
    start_bgsafe(&format!("redis://{}", lab.servers[0].site().address), args)
}

fn switch(lab: &Topology, at: usize) -> String {
    lab.servers[at].direct().unwrap().config(SWITCH).unwrap().unwrap()
}

fn field(bgsafe: &Proxy, name: &str) -> String {
    bgsafe.upstream_status().unwrap()[name].as_str().unwrap_or_default().to_owned()
}

fn sees(bgsafe: &Proxy, view: &str) {
    let patience = Duration::from_secs(20);
    eventually(&format!("sentinel {view}\n{}", bgsafe.log()), patience, || field(bgsafe, "sentinel") == view);
}

/// What was decided, in the words of the table.
fn timeline(bgsafe: &Proxy) -> String {
    let all = bgsafe.incidents().unwrap();
    let entries =
        all.iter().flat_map(|incident| incident["timeline"].as_array().cloned().unwrap_or_default());
    entries.map(|e| format!("{} {}: {}\n", e["phase"], e["event"], e["detail"])).collect()
}

#[test]
fn writes_are_open_before_sentinel_acts_and_no_failover_happens() {
    let lab = group();
    let first = lab.servers[0].site().address;
    // Nobody told it of Sentinels: the server shows them.
    let bgsafe = in_front(&lab, &[]);
    sees(&bgsafe, "agrees");
    let fault = Fault::ChildKiller.strike(lab.servers[0].site()).unwrap();
    let began = Instant::now();
    let reply = Direct::connect(bgsafe.listen()).unwrap().demand(&["SET", "k", "v"]);
    assert!(reply.is_ok(), "{reply:?}\n{}", bgsafe.log());
    assert!(began.elapsed() < Plan::default().down_after, "{:?}", began.elapsed());
    // For three times as long as Sentinel would have waited, it is content.
    std::thread::sleep(3 * Plan::default().down_after);
    for sentinel in &lab.sentinels {
        assert_eq!(sentinel.primary().unwrap(), first);
        assert!(!sentinel.log().contains("+odown"), "{}", sentinel.log());
    }
    assert_eq!(switch(&lab, 0), "no");
    drop(fault);
    let patience = Duration::from_secs(30);
    eventually("the switch is back", patience, || {
        switch(&lab, 0) == "yes" && field(&bgsafe, "phase") == "quiet"
    });
}

/// Sentinel failed over while nobody guarded the primary. It refuses writes, calls itself a primary, and is none.
#[test]
fn an_old_primary_that_sentinel_has_replaced_is_not_opened() {
    let lab = group();
    let first = lab.servers[0].site().address;
    let fault = Fault::ChildKiller.strike(lab.servers[0].site()).unwrap();
    let second = lab.wait_for_another_primary(first).unwrap();
    assert_eq!(role(&mut lab.servers[0].direct().unwrap()).unwrap(), "master");

    // One is told of the Sentinels, the other finds them by the server.
    let named = in_front(&lab, &["--sentinels", &lab.sentinel_list(), "--sentinel-name", NAME]);
    let finds = in_front(&lab, &[]);
    for bgsafe in [&named, &finds] {
        // Refused, or cut off by Sentinel when it makes the server a replica at last; never acknowledged.
        let reply = Direct::connect(bgsafe.listen()).unwrap().demand(&["SET", "k", "v"]);
        assert!(reply.is_err(), "{reply:?}\n{}", timeline(bgsafe));
        sees(bgsafe, "says-other");
        let told = timeline(bgsafe);
        assert!(told.contains(&format!("the primary is {second}")), "{told}");
        // Made a replica by Sentinel in the end, it is opened for its own good: it would abort.
        let primary = told.split("a replica that cannot save").next().unwrap();
        assert!(!primary.contains("switch lowered") && !primary.contains("bgsave started"), "{told}");
    }
    assert_eq!(Direct::connect(second).unwrap().command(&["GET", "k"]).unwrap(), Reply::Null);
    drop(fault);
}

/// A human's failover, in the middle of an incident: the old primary's switch is down, and it is about to be a replica.
#[test]
fn a_failover_that_begins_while_the_switch_is_down_neither_aborts_the_old_primary_nor_leaves_it_open() {
    let lab = group();
    let first = lab.servers[0].site().address;
    let bgsafe =
        in_front(&lab, &["--sentinels", &lab.sentinel_list(), "--sentinel-name", NAME, "--hold-time", "30s"]);
    sees(&bgsafe, "agrees");
    let fault = Fault::ChildKiller.strike(lab.servers[0].site()).unwrap();
    Direct::connect(bgsafe.listen()).unwrap().demand(&["SET", "before", "1"]).unwrap();
    assert_eq!(switch(&lab, 0), "no");
    lab.sentinels[0].command(&["SENTINEL", "FAILOVER", NAME]).unwrap();
    let began = Instant::now();
    eventually("writes are parked", Duration::from_secs(20), || field(&bgsafe, "posture") == "hold");
    eprintln!("parked {:?} after the failover was asked for", began.elapsed());
    lab.wait_for_another_primary(first).unwrap();
    // Demoted and following, with a save that still fails: it must live.
    wait_for("the old primary to follow", || {
        let mut old = lab.servers[0].direct()?;
        Ok(role(&mut old)? == "slave" && old.info("master_link_status")?.as_deref() == Some("up"))
    })
    .unwrap();
    let second = lab.primary_of(0).unwrap();
    Direct::connect(second).unwrap().demand(&["SET", "after", "1"]).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(
        role(&mut lab.servers[0].direct().unwrap()).unwrap(),
        "slave",
        "it lives\n{}",
        lab.servers[0].log()
    );
    drop(fault);
    eventually("the switch is back", Duration::from_secs(40), || switch(&lab, 0) == "yes");
}

#[test]
fn who_prefers_a_failover_gets_one() {
    let lab = group();
    let first = lab.servers[0].site().address;
    let bgsafe = in_front(&lab, &["--sentinel-policy", "prefer-failover"]);
    sees(&bgsafe, "agrees");
    let fault = Fault::ChildKiller.strike(lab.servers[0].site()).unwrap();
    let second = lab.wait_for_another_primary(first).unwrap();
    assert_ne!(first, second);
    sees(&bgsafe, "says-other");
    let told = timeline(&bgsafe);
    assert_eq!(switch(&lab, 0), "yes");
    assert!(told.contains("waiting for Sentinel to fail over") && !told.contains("switch lowered"), "{told}");
    drop(fault);
}

#[test]
fn of_three_sentinels_one_may_be_gone_and_with_two_gone_nothing_is_opened() {
    let mut lab = group();
    let args = ["--sentinels", &lab.sentinel_list(), "--sentinel-name", NAME];
    let bgsafe = in_front(&lab, &args);
    sees(&bgsafe, "agrees");
    // One hangs: its connections stand.
    lab.sentinels[0].freeze();
    std::thread::sleep(Duration::from_secs(6));
    sees(&bgsafe, "agrees");
    lab.sentinels[1].kill9();
    sees(&bgsafe, "blind");
    let fault = Fault::ChildKiller.strike(lab.servers[0].site()).unwrap();
    let reply = Direct::connect(bgsafe.listen()).unwrap().command(&["SET", "k", "v"]).unwrap();
    assert!(is_misconf(&reply), "{reply:?}");
    assert_eq!(switch(&lab, 0), "yes", "{}", timeline(&bgsafe));
    // Heard again, they agree, and it is opened.
    lab.sentinels[0].thaw();
    eventually("the switch is down", Duration::from_secs(20), || switch(&lab, 0) == "no");
    drop(fault);
    eventually("the switch is back", Duration::from_secs(40), || switch(&lab, 0) == "yes");
}
