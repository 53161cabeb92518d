//! The numbers in heads of requests and replies: how long, how many.
//!
//! Refuses to know what they count. Leaves the judgement of a cut number to its caller.

/// Numbers are at most 20 digits and a sign; this leaves room for `+` and leading zeros.
pub(super) const HEAD_MAX: usize = 32;

/// [`number`], with the common case first: up to three digits and all of the head in the chunk.
#[inline]
pub(super) fn short_number(buf: &[u8], at: usize) -> Option<(i64, Option<usize>)> {
    let digit = |b: u8| b.wrapping_sub(b'0');
    if let Some(&[a, b, c, d, e]) = buf.get(at..at + 5) {
        let (a, ten) = (digit(a), 10);
        if a < ten && b == b'\r' && c == b'\n' {
            return Some((i64::from(a), Some(at + 3)));
        }
        if a < ten && digit(b) < ten && c == b'\r' && d == b'\n' {
            return Some((i64::from(a) * 10 + i64::from(digit(b)), Some(at + 4)));
        }
        if a < ten && digit(b) < ten && digit(c) < ten && d == b'\r' && e == b'\n' {
            let n = i64::from(a) * 100 + i64::from(digit(b)) * 10 + i64::from(digit(c));
            return Some((n, Some(at + 5)));
        }
    }
    number(buf, at)
}

/// The number that starts at `at` and the offset after its CRLF; `None` for the offset when the chunk
/// ends first. `None` altogether when it is no number. Built while walking: heads are short.
pub(super) fn number(buf: &[u8], at: usize) -> Option<(i64, Option<usize>)> {
    let mut i = at;
    let negative = buf.get(i) == Some(&b'-');
    if negative || buf.get(i) == Some(&b'+') {
        i += 1;
    }
    let (digits, mut n) = (i, 0u64);
    while let Some(&b) = buf.get(i) {
        let d = b.wrapping_sub(b'0');
        if d > 9 {
            break;
        }
        n = n.wrapping_mul(10).wrapping_add(u64::from(d));
        i += 1;
    }
    if i - digits > 19 {
        return None;
    }
    let value = if negative { (n as i64).wrapping_neg() } else { n as i64 };
    match (buf.get(i), buf.get(i + 1)) {
        (Some(b'\r'), Some(b'\n')) if i > digits => Some((value, Some(i + 2))),
        (Some(b'\r'), None) if i > digits => Some((value, None)),
        (None, None) if i - at < HEAD_MAX => Some((value, None)),
        _ => None,
    }
}
