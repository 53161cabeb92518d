//! Requests end where they end, however the chunks are cut.
#![no_main]

use bgsafe::resp::request::{Fed, Parsed, Rest, parse};
use libfuzzer_sys::fuzz_target;

/// The offsets after each request, and whether a server would have accepted them all.
fn ends(bytes: &[u8], cut: usize) -> (Vec<usize>, bool) {
    let (mut ends, mut rest, mut at) = (Vec::new(), None::<Rest>, 0);
    for chunk in bytes.chunks(cut.max(1)) {
        let mut left = chunk;
        while !left.is_empty() {
            let used = match &mut rest {
                Some(r) => match r.feed(left) {
                    Fed::End(n) => n,
                    Fed::More => break,
                    Fed::Malformed => return (ends, false),
                },
                None => match parse(left) {
                    Parsed::Whole { len, head } => {
                        assert!(head.argc > 0 && len <= left.len());
                        len
                    }
                    Parsed::Empty { len } => len,
                    Parsed::Part { rest: r, .. } => {
                        rest = Some(r);
                        break;
                    }
                    Parsed::Malformed => return (ends, false),
                },
            };
            rest = None;
            left = &left[used..];
            ends.push(at + chunk.len() - left.len());
        }
        at += chunk.len();
    }
    (ends, true)
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let (whole, sound) = ends(bytes, bytes.len());
    let (chunked, sound_too) = ends(bytes, cut.into());
    assert_eq!(whole, chunked, "cut in pieces of {cut}");
    assert!(sound_too || !sound, "only a cut line may hide for a while that it is none");
});
