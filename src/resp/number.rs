//! The numbers in heads of requests and replies: `$3`, `*-1`, `:+5`. How long, how many.
//!
//! Refuses to know what they count. Invariant: what is no number yet but may become one is told apart
//! from what never will; the judgement of a cut number is its caller's.

/// Numbers are at most 20 digits and a sign; this leaves room for `+` and leading zeros.
pub(super) const HEAD_MAX: usize = 32;
/// This many digits cannot overflow.
const PLAIN_MAX: usize = 18;

/// The number that starts at `at` and the offset after its CRLF; `None` for the offset when the chunk ends
/// first. `None` altogether when it is no number. Plain digits with their end in the chunk are all that
/// servers and clients send but for `-1` and what a chunk cuts, so they are read in one short loop.
#[inline]
pub(super) fn number(buf: &[u8], at: usize) -> Option<(i64, Option<usize>)> {
    let text = buf.get(at..).unwrap_or_default();
    let (mut n, mut len) = (0u64, 0);
    while let Some(&b) = text.get(len) {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        n = n.wrapping_mul(10).wrapping_add(u64::from(digit));
        len += 1;
    }
    match text.get(len..len + 2) {
        Some(b"\r\n") if (1..=PLAIN_MAX).contains(&len) => Some((n as i64, Some(at + len + 2))),
        _ => odd_number(buf, at),
    }
}

/// Signs, cut numbers, and what is none.
#[inline(never)]
fn odd_number(buf: &[u8], at: usize) -> Option<(i64, Option<usize>)> {
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
