//! A line that is a refusal was possibly one at each of its beginnings, or it would not have been kept back.
#![no_main]

use bgsafe::resp::error::{REFUSAL_BYTES_MAX, classify, is_exec_abort, may_become_refusal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    let _ = is_exec_abort(line);
    if classify(line).is_some() {
        for cut in 0..line.len().min(REFUSAL_BYTES_MAX) {
            assert!(may_become_refusal(&line[..cut]), "{:?}", &line[..cut]);
        }
    }
});
