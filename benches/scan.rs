//! What does it cost to find the ends of replies? Our scanner, and beside it redis-protocol's cheapest entry.
//!
//! Every row checks its own answer and that nothing is allocated before it is measured. Goals: a short frame in
//! 25 ns, no allocations, bulk bodies free (4 KiB costs what 64 B costs), 200,000 elements in chunks linear.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bgsafe::resp::scan::{Scan, Step};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use redis_protocol::resp2::decode::decode_range;

/// Counts what is allocated; all else is the system's.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: each call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The frames in `bytes`, given in chunks.
fn frames(scan: &mut Scan, bytes: &[u8], chunk: usize) -> u64 {
    let mut n = 0;
    for chunk in bytes.chunks(chunk) {
        let mut at = 0;
        loop {
            match scan.next(chunk, at) {
                Step::More => break,
                Step::Value { end, .. } | Step::Error { end, top: true, .. } => {
                    n += 1;
                    at = end;
                }
                Step::Error { end, .. } => at = end,
                other => panic!("{other:?}"),
            }
        }
    }
    n
}

fn bulk(len: usize) -> Vec<u8> {
    [format!("${len}\r\n").into_bytes(), vec![b'v'; len], b"\r\n".to_vec()].concat()
}

fn array(elements: usize, len: usize) -> Vec<u8> {
    [format!("*{elements}\r\n").into_bytes(), bulk(len).repeat(elements)].concat()
}

fn scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scan");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(30);
    let rows: [(&str, Vec<u8>); 6] = [
        ("short +OK", b"+OK\r\n".to_vec()),
        ("integer", b":1000\r\n".to_vec()),
        ("bulk 64 B", bulk(64)),
        ("bulk 4 KiB", bulk(4096)),
        ("bulk 1 MiB", bulk(1 << 20)),
        ("array 100 x 16 B", array(100, 16)),
    ];
    for (name, bytes) in &rows {
        let mut scan = Scan::new();
        let before = ALLOCATIONS.load(Relaxed);
        assert_eq!(frames(&mut scan, bytes, bytes.len()), 1, "{name}");
        assert!(scan.at_boundary(), "{name}");
        assert_eq!(ALLOCATIONS.load(Relaxed), before, "{name} allocates");
        group.bench_function(BenchmarkId::new("bgsafe", name), |b| {
            b.iter(|| frames(&mut scan, black_box(bytes), bytes.len()));
        });
        let used = decode_range(bytes).expect("RESP2").expect("whole").1;
        assert_eq!(used, bytes.len(), "{name}");
        group.bench_function(BenchmarkId::new("redis-protocol", name), |b| {
            b.iter(|| decode_range(black_box(bytes)).expect("RESP2").map(|(_, used)| used));
        });
    }
    group.finish();
}

/// One array that arrives in reads of 16 KiB. A decoder that starts anew at each read is quadratic here, so it
/// gets the small rows only.
fn chunks(criterion: &mut Criterion) {
    const READ: usize = 16 * 1024;
    let mut group = criterion.benchmark_group("scan in chunks of 16 KiB");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2)).sample_size(10);
    for elements in [2_000, 20_000, 200_000] {
        let bytes = array(elements, 16);
        group.throughput(Throughput::Elements(elements as u64));
        let mut scan = Scan::new();
        let before = ALLOCATIONS.load(Relaxed);
        assert_eq!(frames(&mut scan, &bytes, READ), 1);
        assert_eq!(ALLOCATIONS.load(Relaxed), before, "{elements} elements allocate");
        group.bench_function(BenchmarkId::new("bgsafe", elements), |b| {
            b.iter(|| frames(&mut scan, black_box(&bytes), READ));
        });
        if elements <= 20_000 {
            group.bench_function(BenchmarkId::new("redis-protocol", elements), |b| {
                b.iter(|| {
                    let reads = (READ..bytes.len()).step_by(READ).chain([bytes.len()]);
                    reads.filter_map(|end| decode_range(black_box(&bytes[..end])).expect("RESP2")).count()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, scan, chunks);
criterion_main!(benches);
