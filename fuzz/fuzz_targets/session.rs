//! A conversation out of arbitrary bytes, cuts, postures and endings: nothing panics, memory stays within
//! its bounds, and while no refusal was seen and nothing was held the session is a wire.
#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bgsafe::command::Table;
use bgsafe::posture::Posture;
use bgsafe::resp::error::held_by_default;
use bgsafe::session::core::{Core, Rules, ScriptReplay};
use libfuzzer_sys::fuzz_target;

fn rules() -> Rules {
    Rules {
        intercept: true,
        hold_time: Duration::from_secs(5),
        scripts: ScriptReplay::Declared,
        holds: held_by_default(),
        bulk_max: u64::MAX,
        retain_request_max: 200,
        retain_session_max: 600,
        withhold_max: 400,
    }
}

/// One side's bytes: what was handed in, what came out, what is to be handed in again.
#[derive(Default)]
struct Side {
    given: Vec<u8>,
    out: Vec<u8>,
    kept: Vec<u8>,
}

struct Talk {
    core: Core,
    up: Side,
    down: Side,
    posture: Posture,
    now: Instant,
    interfered: bool,
}

impl Talk {
    fn collect(&mut self) {
        self.down.out.append(&mut self.core.down);
        self.up.out.append(&mut self.core.up);
        if let Some((commands, _)) = self.core.take_budget_request() {
            assert!(commands > 0);
            self.interfered = true;
        }
        self.interfered |= self.core.take_sighting().is_some();
    }

    fn requests(&mut self, bytes: &[u8]) {
        self.up.given.extend_from_slice(bytes);
        self.up.kept.extend_from_slice(bytes);
        if !self.core.reads_downstream() {
            return;
        }
        let buf = std::mem::take(&mut self.up.kept);
        let taken = self.core.requests(&buf, self.posture, self.now);
        assert_eq!(taken.direct + taken.kept, buf.len());
        self.up.out.extend_from_slice(&buf[..taken.direct]);
        self.up.kept = buf[taken.direct..].to_vec();
        self.collect();
    }

    fn replies(&mut self, bytes: &[u8]) {
        self.down.given.extend_from_slice(bytes);
        let mut buf = std::mem::take(&mut self.down.kept);
        buf.extend_from_slice(bytes);
        let taken = self.core.replies(&buf, self.posture, self.now);
        self.down.out.extend_from_slice(&buf[..taken.direct]);
        self.down.kept = buf[buf.len() - taken.kept..].to_vec();
        self.collect();
    }
}

fuzz_target!(|data: &[u8]| {
    let now = Instant::now();
    let mut talk = Talk {
        core: Core::new(Arc::new(rules()), Arc::new(Table::builtin()), now),
        up: Side::default(),
        down: Side::default(),
        posture: Posture::Forward,
        now,
        interfered: false,
    };
    let mut left = data;
    while let [op, tail @ ..] = left {
        let n = tail.len().min((op >> 3).into());
        let (bytes, tail) = tail.split_at(n);
        left = tail;
        match op & 7 {
            0..=2 => talk.requests(bytes),
            3 | 4 => talk.replies(bytes),
            5 => talk.posture = Posture::ALL[usize::from(op >> 3) % 4],
            6 => {
                talk.core.opened(now);
                talk.collect();
                talk.requests(&[]);
            }
            _ => {
                match op >> 3 {
                    0..=8 => talk.core.timed_out(),
                    9..=15 => talk.core.dry(),
                    _ => talk.core.abandoned(),
                }
                talk.collect();
            }
        }
        if !talk.interfered {
            assert!(talk.down.given.starts_with(&talk.down.out), "replies pass untouched");
            let up = [&talk.up.out[..], &talk.up.kept].concat();
            assert_eq!(up, talk.up.given, "requests pass untouched");
        }
    }
    talk.core.upstream_closed();
    talk.collect();
    if !talk.interfered {
        let down = [&talk.down.out[..], &talk.down.kept].concat();
        assert_eq!(down, talk.down.given, "nothing is kept for good");
    }
    let tally = &talk.core.tally;
    let ends = tally.released.wrapping_add(tally.timed_out).wrapping_add(tally.abandoned);
    assert!(tally.held == ends, "every hold ends: {tally:?}");
});
