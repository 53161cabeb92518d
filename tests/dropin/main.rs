//! Is bgsafe drop-in? What a client gets through it is what it gets from the server, byte for byte.
//!
//! | room | what it shows |
//! |---|---|
//! | `scripts` | written conversations, direct and through, in every fragmentation |
//! | `random` | conversations and noise from a grammar under a seed |
//! | `sockets` | closes, resets, unix sockets, blocked clients, replicas, servers that die or talk nonsense |
//! | `limits` | memory with huge values and many sessions, slow readers, client limits, start-up errors |
//!
//! Bounded in count and time; needs a redis-server (on PATH, or named by `BGSAFE_REDIS`).

#[path = "../support/mod.rs"]
mod support;

mod limits;
mod random;
mod scripts;
mod sockets;

/// What differs between any two connections, made equal: clocks, client ids and addresses in MONITOR's lines
/// and HELLO's reply. What MONITOR shows of the guard's own connection comes when it comes: it is left out.
fn normal(bytes: &[u8], guard: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        let after_id = out.ends_with(b"$2\r\nid\r\n");
        if after_id && line.first() == Some(&b':') {
            out.extend_from_slice(b":id\r\n");
        } else {
            match monitored(line) {
                Some((from, _)) if from == guard => {}
                Some((_, line)) => out.extend_from_slice(&line),
                None => out.extend_from_slice(line),
            }
        }
    }
    out
}

/// `+1700000000.123456 [0 127.0.0.1:1] "get"`: from where, and the line without its clock and address.
fn monitored(line: &[u8]) -> Option<(&str, Vec<u8>)> {
    let text = std::str::from_utf8(line).ok()?;
    let (clock, rest) = text.strip_prefix('+')?.split_once(" [")?;
    let (secs, micros) = clock.split_once('.')?;
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let (place, rest) = rest.split_once("] ")?;
    let (db, from) = place.split_once(' ')?;
    let place = if from == "lua" { from } else { "somewhere" };
    let line = || format!("+clock [{db} {place}] {rest}").into_bytes();
    (digits(secs) && digits(micros)).then(|| (from, line()))
}

/// Fails with the first difference and what surrounds it.
fn assert_same(say: &str, guard: &str, direct: &[u8], through: &[u8]) {
    let (direct, through) = (normal(direct, guard), normal(through, guard));
    if direct == through {
        return;
    }
    let at = direct.iter().zip(&through).take_while(|(a, b)| a == b).count();
    let near = |bytes: &[u8]| {
        let from = at.saturating_sub(120).min(bytes.len());
        bytes[from..(at + 200).min(bytes.len())].escape_ascii().to_string()
    };
    panic!(
        "{say}: differs at byte {at} of {} direct and {} through\n direct: …{}\nthrough: …{}",
        direct.len(),
        through.len(),
        near(&direct),
        near(&through)
    );
}
