//! What does the conversation itself cost? Requests and their replies through the core, without sockets: time per
//! command (criterion's throughput is commands).
//!
//! Each row checks that every byte goes on as it came and that the ledger is empty after each round.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgsafe::command::Table;
use bgsafe::posture::Posture;
use bgsafe::session::core::{Core, Degree, Rules, ScriptReplay};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn core() -> Core {
    let rules = Rules {
        intercept: true,
        hold_time: Duration::from_secs(5),
        scripts: ScriptReplay::Declared,
        holds: bgsafe::resp::error::held_by_default(),
        bulk_max: 512 << 20,
        retain_request_max: 8 << 20,
        retain_session_max: 16 << 20,
        withhold_max: 1 << 20,
    };
    Core::new(Arc::new(rules), Arc::new(Table::builtin()), Instant::now())
}

/// One wake-up of a session: what came from the client, what came from the server.
fn round(core: &mut Core, requests: &[u8], replies: &[u8], now: Instant) {
    let taken = core.requests(black_box(requests), Posture::Forward, now);
    assert_eq!((taken.direct, taken.kept), (requests.len(), 0));
    let taken = core.replies(black_box(replies), Posture::Forward, now);
    assert_eq!((taken.direct, taken.kept), (replies.len(), 0));
    // As the shell does after each call.
    core.tally.runs.clear();
    core.tally.requests = Default::default();
}

fn session(criterion: &mut Criterion) {
    let value = "v".repeat(64);
    let set = format!("*3\r\n$3\r\nSET\r\n$8\r\nkey:0042\r\n$64\r\n{value}\r\n");
    let get = "*2\r\n$3\r\nGET\r\n$8\r\nkey:0042\r\n".to_owned();
    let found = format!("$64\r\n{value}\r\n");
    let mut group = criterion.benchmark_group("session");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(30);
    for (name, request, reply) in [("GET 64 B", get, found), ("SET 64 B", set, "+OK\r\n".to_owned())] {
        for pipeline in [1, 16, 64] {
            let (requests, replies) = (request.repeat(pipeline), reply.repeat(pipeline));
            let (mut core, now) = (core(), Instant::now());
            round(&mut core, requests.as_bytes(), replies.as_bytes(), now);
            assert!(core.is_idle() && core.degree() == Degree::Ledgered);
            group.throughput(Throughput::Elements(pipeline as u64));
            group.bench_function(BenchmarkId::new(name, format!("P={pipeline}")), |b| {
                b.iter(|| round(&mut core, requests.as_bytes(), replies.as_bytes(), now));
            });
            assert!(core.is_idle() && core.down.is_empty() && core.up.is_empty());
        }
    }
    group.finish();
}

criterion_group!(benches, session);
criterion_main!(benches);
