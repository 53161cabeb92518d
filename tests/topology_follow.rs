//! A `redis+sentinel://` upstream, for real: sessions are sent to whom a majority of the Sentinels names, once that
//! one says so itself.

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bgsafe::testing::client::Direct;
use bgsafe::testing::faults::Fault;
use bgsafe::testing::proxy::Proxy;
use bgsafe::testing::topology::{NAME, Plan, Topology};
use common::{SWITCH, eventually, program, start_bgsafe};

/// From Sentinel's own word to ours.
const TURN: Duration = Duration::from_millis(500);

fn in_front(lab: &Topology) -> Proxy {
    start_bgsafe(&format!("redis+sentinel://{}/{NAME}", lab.sentinel_list()), &[])
}

/// The port of the server that a new client reaches; 0 for none.
fn reached(bgsafe: &Proxy) -> u16 {
    let port = Direct::connect(bgsafe.listen()).and_then(|mut client| client.info("tcp_port"));
    port.ok().flatten().and_then(|port| port.trim().parse().ok()).unwrap_or(0)
}

/// Waits for the first Sentinels' majority to name another one, and for new clients to reach it.
fn turned(lab: &Topology, bgsafe: &Proxy, old: SocketAddr) -> SocketAddr {
    let mut new = old;
    eventually("a majority names another primary", Duration::from_secs(40), || {
        let named: Vec<SocketAddr> = lab.sentinels.iter().filter_map(|s| s.primary().ok()).collect();
        new = named.iter().copied().find(|at| *at != old).unwrap_or(old);
        named.iter().filter(|at| **at == new && new != old).count() >= 2
    });
    let began = Instant::now();
    eventually("new clients reach it", Duration::from_secs(20), || reached(bgsafe) == new.port());
    eprintln!("turned {:?} after the majority\n{}", began.elapsed(), bgsafe.log());
    assert!(began.elapsed() < TURN, "{:?} after the majority\n{}", began.elapsed(), bgsafe.log());
    new
}

#[test]
fn new_clients_reach_the_primary_after_a_planned_failover_and_after_a_crash() {
    let mut lab = Topology::start(&program(), &Plan::default()).unwrap();
    let bgsafe = in_front(&lab);
    let first = lab.servers[0].site().address;
    assert_eq!(reached(&bgsafe), first.port());

    lab.sentinels[0].command(&["SENTINEL", "FAILOVER", NAME]).unwrap();
    let second = turned(&lab, &bgsafe, first);
    Direct::connect(bgsafe.listen()).unwrap().demand(&["SET", "k", "v"]).unwrap();

    let at = lab.servers.iter().position(|server| server.site().address == second).unwrap();
    // Within 2 * failover-timeout Sentinel begins no other.
    std::thread::sleep(Duration::from_secs(8));
    lab.servers[at].kill9();
    turned(&lab, &bgsafe, second);
    Direct::connect(bgsafe.listen()).unwrap().demand(&["SET", "k", "v2"]).unwrap();
}

/// The guard of the new primary is as good as that of the first.
#[test]
fn the_new_primary_is_guarded() {
    let lab = Topology::start(&program(), &Plan::default()).unwrap();
    let bgsafe = in_front(&lab);
    let first = lab.servers[0].site().address;
    lab.sentinels[0].command(&["SENTINEL", "FAILOVER", NAME]).unwrap();
    let second = turned(&lab, &bgsafe, first);
    let server = lab.server(second).unwrap();
    let fault = Fault::ChildKiller.strike(server.site()).unwrap();
    Direct::connect(bgsafe.listen()).unwrap().demand(&["SET", "k", "v"]).unwrap();
    let switch = || server.direct().unwrap().config(SWITCH).unwrap().unwrap();
    assert_eq!(switch(), "no");
    assert_eq!(lab.primary_of(0).unwrap(), second);
    drop(fault);
    eventually("the switch is back", Duration::from_secs(40), || switch() == "yes");
}
