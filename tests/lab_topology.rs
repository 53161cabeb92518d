//! The lab's own group of servers and Sentinels does what it says, or no test on it means anything.

use bgsafe::testing::find::for_tests;
use bgsafe::testing::topology::{NAME, Plan, Topology, role, wait_for};

#[test]
fn sentinels_promote_a_replica_when_told_and_when_the_primary_is_gone() {
    let program = for_tests().unwrap_or_else(|why| panic!("{why}"));
    let mut lab = Topology::start(&program, &Plan::default()).unwrap();
    let first = lab.servers[0].site().address;
    assert_eq!(lab.primary_of(0).unwrap(), first);

    lab.sentinels[0].command(&["SENTINEL", "FAILOVER", NAME]).unwrap();
    let second = lab.wait_for_another_primary(first).unwrap();
    wait_for("the old primary to follow", || Ok(role(&mut lab.servers[0].direct()?)? == "slave")).unwrap();

    // Within 2 * failover-timeout of a failover Sentinel begins no other: the kill below waits for that.
    lab.sentinels[2].kill9();
    let at = lab.servers.iter().position(|server| server.site().address == second).unwrap();
    lab.servers[at].kill9();
    assert_ne!(lab.wait_for_another_primary(second).unwrap(), second);
}
