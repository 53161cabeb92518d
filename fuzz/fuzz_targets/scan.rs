//! Replies end where they end, however the chunks are cut; where redis-protocol accepts a value that the
//! scanner found, it has the same length.
#![no_main]

use bgsafe::resp::scan::{Scan, Step};
use libfuzzer_sys::fuzz_target;
use redis_protocol::{resp2, resp3};

/// The offsets after each top-level value, and whether the stream stayed RESP.
fn ends(bytes: &[u8], cut: usize) -> (Vec<usize>, bool) {
    let (mut scan, mut ends, mut buf, mut base) = (Scan::new(), Vec::new(), Vec::new(), 0);
    for chunk in bytes.chunks(cut.max(1)) {
        buf.extend_from_slice(chunk);
        let mut at = 0;
        loop {
            match scan.next(&buf, at) {
                Step::More => {
                    at = buf.len();
                    break;
                }
                Step::Value { end, .. } => {
                    at = end;
                    ends.push(base + end);
                }
                Step::Error { end, closes, .. } => {
                    at = end;
                    if closes.is_some() {
                        ends.push(base + end);
                    }
                }
                Step::Line { start } => {
                    at = start;
                    break;
                }
                Step::Malformed { .. } => return (ends, false),
            }
        }
        base += at;
        buf.drain(..at);
    }
    (ends, true)
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let bytes = &bytes[..bytes.len().min(4096)];
    let (whole, sound) = ends(bytes, bytes.len());
    let (chunked, sound_too) = ends(bytes, cut.into());
    assert_eq!(whole, chunked, "cut in pieces of {cut}");
    assert!(sound_too || !sound, "only a cut line may hide for a while that it is none");
    let mut start = 0;
    for end in whole {
        let value = &bytes[start..end];
        start = end;
        // To us a line ends at its LF; no server sends one without its CR.
        if (1..value.len()).any(|i| (value[i] == b'\n') != (value[i - 1] == b'\r')) {
            continue;
        }
        if let Ok(Some((_, n))) = resp2::decode::decode(value) {
            assert_eq!(n, value.len(), "RESP2 {value:?}");
        } else if let Ok(Some((_, n))) = resp3::decode::complete::decode(value) {
            assert_eq!(n, value.len(), "RESP3 {value:?}");
        }
    }
});
