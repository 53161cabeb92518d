//! Sessions follow the primary: real servers, real sockets, and a route that the test turns itself.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgsafe::command::Table;
use bgsafe::config::Address;
use bgsafe::gate::Gate;
use bgsafe::metrics::Metrics;
use bgsafe::proxy::listener::Listener;
use bgsafe::proxy::worker::{Shared, Worker};
use bgsafe::resp::error::held_by_default;
use bgsafe::route::Route;
use bgsafe::session::allowance::Allowance;
use bgsafe::session::core::{Rules, ScriptReplay};
use bgsafe::testing::client::text;
use bgsafe::testing::find::for_tests;
use bgsafe::testing::server::{Options, Server};
use bgsafe::testing::topology::{Plan as Group, Topology, role, wait_for};
use bgsafe::testing::workload::{self, Kind, Plan, Target};
use support::{Conn, command};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// Workers and a listener without a guard: whoever holds the route decides.
struct Front {
    route: Arc<Route>,
    listen: SocketAddr,
    closing: CancellationToken,
    runtime: Runtime,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

fn address(server: &Server) -> Address {
    Address::Tcp(server.site().address.to_string())
}

fn gate() -> Arc<Gate> {
    Arc::new(Gate::new(64 << 20))
}

impl Front {
    fn of(server: &Server, hold_time: Duration) -> Front {
        let runtime = Runtime::new().expect("a runtime");
        let route = Arc::new(Route::new(address(server), gate()).turning());
        let rules = Rules {
            intercept: true,
            hold_time,
            scripts: ScriptReplay::Declared,
            holds: held_by_default(),
            bulk_max: 512 << 20,
            retain_request_max: 8 << 20,
            retain_session_max: 16 << 20,
            withhold_max: 1 << 20,
        };
        let shared = Arc::new(Shared {
            route: Arc::clone(&route),
            rules: Arc::new(rules),
            retained: Arc::new(Allowance::new(256 << 20)),
            table: std::sync::RwLock::new(Arc::new(Table::builtin())),
            client_timeout: Duration::ZERO,
        });
        let (metrics, closing) = (Metrics::new(2), CancellationToken::new());
        let workers = (0..2).map(|n| {
            let stats = Arc::clone(&metrics.workers[n]);
            Worker::spawn(n, Arc::clone(&shared), stats, closing.clone()).expect("a worker")
        });
        let workers = Arc::new(workers.collect::<Vec<_>>());
        let listener = runtime.block_on(Listener::bind(&Address::Tcp("127.0.0.1:0".into()))).expect("a port");
        let Address::Tcp(listen) = listener.address() else { panic!("it listens on TCP") };
        runtime.spawn(listener.run(workers, 1000, closing.clone()));
        Front { route, listen: listen.parse().expect("an address"), closing, runtime }
    }

    fn turn_to(&self, server: &Server) {
        self.route.turn(address(server), gate());
    }

    fn client(&self) -> Conn {
        Conn::tcp(self.listen)
    }
}

fn two_servers() -> Topology {
    let program = for_tests().unwrap_or_else(|why| panic!("{why}"));
    let plan = Group { replicas: 1, sentinels: 0, ..Group::default() };
    Topology::start(&program, &plan).expect("two servers in step")
}

/// A coordinated hand-over: nothing that was acknowledged is lost.
fn fail_over(group: &Topology) {
    let (old, new) = (&group.servers[0], &group.servers[1]);
    let port = new.port().to_string();
    // The replica says that it is in step a moment before the primary does.
    wait_for("FAILOVER to begin", || {
        old.direct()?.demand(&["FAILOVER", "TO", "127.0.0.1", &port]).map(|_| true)
    })
    .expect("FAILOVER");
    wait_for("the hand-over", || {
        Ok(role(&mut new.direct()?)? == "master" && role(&mut old.direct()?)? == "slave")
    })
    .expect("a hand-over");
}

fn clients_of(server: &Server) -> Vec<String> {
    let reply = server.direct().and_then(|mut direct| direct.demand(&["CLIENT", "LIST"])).expect("a list");
    text(&reply).lines().map(str::to_owned).collect()
}

#[test]
fn a_planned_turn_under_writers_costs_no_error_and_no_token() {
    let group = two_servers();
    let front = Front::of(&group.servers[0], Duration::from_secs(30));
    let mut plan = Plan::new(Target::Tcp(front.listen), "turn");
    plan.writers = 24;
    // BLPOP is answered by the server that is demoted, in its own words: `queue` would see that.
    plan.kinds.retain(|kind| *kind != Kind::Queue);
    plan.big_bytes = 100_000;
    let running = {
        let _inside = front.runtime.enter();
        workload::start(plan)
    };
    let acked = |more: u64| {
        let (before, deadline) = (running.live().acked(), Instant::now() + Duration::from_secs(60));
        while running.live().acked() < before + more {
            assert!(Instant::now() < deadline, "writers are stuck at {before}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    acked(300);
    fail_over(&group);
    front.turn_to(&group.servers[1]);
    acked(600);
    let ran = front.runtime.block_on(running.stop());
    let mut direct = group.servers[1].direct().expect("it runs");
    let score = ran.verify(&mut direct).expect("a score");
    assert!(score.total.perfect(), "{:?}\n{:#?}", score.texts, score.total);
    assert!(score.total.acknowledged >= 900);
}

#[test]
fn what_a_client_has_set_up_stands_on_the_new_primary() {
    let group = two_servers();
    let front = Front::of(&group.servers[0], Duration::from_secs(20));
    let mut listener = front.client();
    assert!(listener.ask("HELLO 3").contains("proto"));
    for (line, answer) in [
        ("CLIENT SETNAME ear", "+OK\r\n"),
        ("SELECT 5", "+OK\r\n"),
        ("CLIENT NO-EVICT on", "+OK\r\n"),
        ("CLIENT TRACKING on", "+OK\r\n"),
    ] {
        assert_eq!(listener.ask(line), answer, "{line}");
    }
    assert!(listener.ask("SUBSCRIBE news").contains("subscribe"));
    assert!(listener.ask("PSUBSCRIBE p*").contains("psubscribe"));
    let mut old = front.client();
    assert_eq!(old.ask("CLIENT SETNAME plain"), "+OK\r\n");
    old.send(&command("SUBSCRIBE olds"));
    old.until_from(0, b"$4\r\nolds\r\n:1\r\n");
    fail_over(&group);
    front.turn_to(&group.servers[1]);
    wait_for("the sessions on the new primary", || {
        let list = clients_of(&group.servers[1]);
        let has = |words: &[&str]| list.iter().any(|line| words.iter().all(|word| line.contains(word)));
        let ear = has(&["name=ear", "db=5", "sub=1", "psub=1", "resp=3"]);
        Ok(ear && has(&["name=plain", "sub=1", "resp=2"]))
    })
    .unwrap_or_else(|why| panic!("{why}: {:#?}", clients_of(&group.servers[1])));
    // What it has cached is void, and it hears what is said there.
    let mut new = group.servers[1].direct().expect("it runs");
    for channel in ["news", "pop", "olds"] {
        new.demand(&["PUBLISH", channel, "hello"]).expect("PUBLISH");
    }
    listener.until_from(0, b">2\r\n$10\r\ninvalidate\r\n_\r\n");
    listener.until_from(0, b"$4\r\nnews\r\n$5\r\nhello\r\n");
    listener.until_from(0, b"$3\r\npop\r\n$5\r\nhello\r\n");
    old.until_from(0, b"*3\r\n$7\r\nmessage\r\n$4\r\nolds\r\n$5\r\nhello\r\n");
    assert_eq!(listener.ask("SET here 1"), "+OK\r\n");
    new.demand(&["SELECT", "5"]).expect("SELECT");
    assert_eq!(text(&new.demand(&["GET", "here"]).expect("GET")), "1");
}

#[test]
fn what_cannot_be_moved_ends_as_the_table_says() {
    let group = two_servers();
    let front = Front::of(&group.servers[0], Duration::from_secs(10));
    let (mut queued, mut watching, mut silent, mut blocked, mut monitor) =
        (front.client(), front.client(), front.client(), front.client(), front.client());
    assert_eq!(queued.ask("SET before 1"), "+OK\r\n");
    queued.send(&[command("MULTI"), command("INCR n")].concat());
    queued.until_from(0, b"+QUEUED\r\n");
    assert_eq!(watching.ask("WATCH n"), "+OK\r\n");
    assert_eq!(silent.ask("WATCH n"), "+OK\r\n");
    monitor.send(&command("MONITOR"));
    monitor.until_from(0, b"+OK\r\n");
    blocked.send(&command("BLPOP nothing 0"));
    wait_for("the blocked client", || {
        Ok(clients_of(&group.servers[0]).iter().any(|line| line.contains("cmd=blpop")))
    })
    .expect("it blocks");
    // It asks while its server is gone from the way: its request was not sent.
    front.route.nowhere();
    std::thread::sleep(Duration::from_millis(50));
    watching.send(&command("SET after 1"));
    std::thread::sleep(Duration::from_millis(50));
    fail_over(&group);
    front.turn_to(&group.servers[1]);
    watching.until_end();
    assert!(
        watching.seen.windows(10).any(|w| w == b"-UNBLOCKED"),
        "{:?}",
        String::from_utf8_lossy(&watching.seen)
    );
    let told = silent.seen.len();
    silent.until_end();
    assert_eq!(silent.seen.len(), told, "who asked nothing is told nothing");
    monitor.until_end();
    blocked.until_from(0, b"-UNBLOCKED force unblock");
    queued.send(&command("EXEC"));
    queued.until_from(0, b"*1\r\n:1\r\n");
    let mut new = group.servers[1].direct().expect("it runs");
    assert_eq!(text(&new.demand(&["GET", "n"]).expect("GET")), "1");
    assert_eq!(text(&new.demand(&["EXISTS", "after"]).expect("EXISTS")), "0");
}

#[test]
fn a_server_that_dies_between_requests_and_comes_back_is_not_noticed() {
    let program = for_tests().unwrap_or_else(|why| panic!("{why}"));
    let mut server = Server::start(&program, Options::default()).expect("a server");
    let front = Front::of(&server, Duration::from_secs(30));
    let mut sessions: Vec<Conn> = (0..20).map(|_| front.client()).collect();
    for (n, session) in sessions.iter_mut().enumerate() {
        assert_eq!(session.ask(&format!("CLIENT SETNAME s{n}")), "+OK\r\n");
        assert_eq!(session.ask("SELECT 3"), "+OK\r\n");
    }
    server.kill9();
    std::thread::sleep(Duration::from_millis(100));
    for (n, session) in sessions.iter_mut().enumerate() {
        session.send(&command(&format!("SET k{n} 1")));
    }
    let mut fresh = front.client();
    fresh.send(&command("PING"));
    std::thread::sleep(Duration::from_millis(300));
    server.restart().expect("it starts again");
    for session in &mut sessions {
        let from = session.seen.len();
        session.until_from(from, b"+OK\r\n");
        assert_eq!(&session.seen[from..], b"+OK\r\n");
    }
    fresh.until_from(0, b"+PONG\r\n");
    let mut direct = server.direct().expect("it runs");
    direct.demand(&["SELECT", "3"]).expect("SELECT");
    assert_eq!(text(&direct.demand(&["DBSIZE"]).expect("DBSIZE")), "20");
    assert!(clients_of(&server).iter().any(|line| line.contains("name=s7") && line.contains("db=3")));
}

#[test]
fn a_client_that_the_server_hangs_up_on_is_hung_up_on() {
    let program = for_tests().unwrap_or_else(|why| panic!("{why}"));
    let server = Server::start(&program, Options::default()).expect("a server");
    let front = Front::of(&server, Duration::from_secs(30));
    let mut session = front.client();
    assert_eq!(session.ask("CLIENT SETNAME victim"), "+OK\r\n");
    let list = clients_of(&server);
    let line = list.iter().find(|line| line.contains("name=victim")).expect("it is there");
    let id = line.split_once("id=").and_then(|(_, rest)| rest.split(' ').next()).expect("an id");
    server.direct().and_then(|mut direct| direct.demand(&["CLIENT", "KILL", "ID", id])).expect("CLIENT KILL");
    let asked = Instant::now();
    session.until_end();
    assert!(asked.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_server_that_stays_away_is_told_of_after_the_hold_time() {
    let program = for_tests().unwrap_or_else(|why| panic!("{why}"));
    let mut server = Server::start(&program, Options::default()).expect("a server");
    let front = Front::of(&server, Duration::from_millis(600));
    let mut session = front.client();
    assert_eq!(session.ask("SET a 1"), "+OK\r\n");
    server.kill9();
    std::thread::sleep(Duration::from_millis(50));
    let asked = Instant::now();
    session.send(&command("SET a 2"));
    let mut fresh = front.client();
    for client in [&mut session, &mut fresh] {
        client.until_end();
        let told = String::from_utf8_lossy(&client.seen).into_owned();
        assert!(told.ends_with("\r\n") && told.contains("-ERR bgsafe: upstream "), "{told}");
    }
    assert!(asked.elapsed() >= Duration::from_millis(300));
}

#[test]
fn a_budget_of_changes_is_spent_behind_the_gate_where_the_session_is() {
    let program = for_tests().unwrap_or_else(|why| panic!("{why}"));
    let server = || Server::start(&program, Options::default()).expect("a server");
    let (first, second) = (server(), server());
    let front = Front::of(&first, Duration::from_secs(20));
    let old = front.route.now().expect("somewhere").gate;
    old.allow(Some((0, 100)));
    let mut session = front.client();
    for n in 0..3 {
        assert_eq!(session.ask(&format!("SET a {n}")), "+OK\r\n");
    }
    session.send(&[command("MULTI"), command("INCR n")].concat());
    session.until_from(0, b"+QUEUED\r\n");
    let new = gate();
    new.allow(Some((0, 2)));
    front.route.turn(address(&second), Arc::clone(&new));
    // INCR is queued again.
    wait_for("the transaction behind the new gate", || Ok(new.counted() == (1, 1))).expect("it moves");
    assert_eq!(old.counted(), (4, 4));
    session.send(&command("EXEC"));
    session.until_from(0, b"*1\r\n:1\r\n");
    wait_for("EXEC to be counted", || Ok(new.counted() == (2, 2))).expect("it is answered");
    // That was the budget, here; what the old gate would allow is nothing to us.
    let from = session.seen.len();
    session.send(&command("SET b 1"));
    std::thread::sleep(Duration::from_millis(150));
    let mut direct = second.direct().expect("it runs");
    assert_eq!(text(&direct.demand(&["EXISTS", "b"]).expect("EXISTS")), "0");
    new.allow(Some((2, 5)));
    new.wake(9);
    session.until_from(from, b"+OK\r\n");
    drop(session);
    wait_for("all to be answered", || Ok(new.counted() == (3, 3))).expect("it ends");
    assert_eq!(old.counted(), (4, 4));
}

#[test]
fn a_write_that_waits_for_a_server_to_be_ready_waits_for_the_budget_too() {
    let program = for_tests().unwrap_or_else(|why| panic!("{why}"));
    let server = Server::start(&program, Options::default()).expect("a server");
    let mut direct = server.direct().expect("it runs");
    direct.demand(&["REPLICAOF", "127.0.0.1", "1"]).expect("REPLICAOF");
    let front = Front::of(&server, Duration::from_secs(20));
    let gate = front.route.now().expect("somewhere").gate;
    gate.allow(Some((0, 1)));
    let mut session = front.client();
    session.send(&command("SET a 1"));
    wait_for("it to be refused", || Ok(gate.counted() == (1, 1))).expect("it is answered");
    direct.demand(&["REPLICAOF", "NO", "ONE"]).expect("REPLICAOF");
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(text(&direct.demand(&["EXISTS", "a"]).expect("EXISTS")), "0");
    assert!(session.seen.is_empty());
    gate.allow(Some((1, 1)));
    gate.wake(9);
    session.until_from(0, b"+OK\r\n");
}
