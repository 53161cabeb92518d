//! Where replies end.
//!
//! A reply is walked value by value: one kind byte, a byte loop over a number or a search for the
//! line's end, arithmetic over bulk bodies. Nesting is a count of values still owed (`*3` owes three,
//! a map of two owes four, an attribute owes its pairs besides the value it belongs to), so there is no
//! stack, no recursion and no depth limit, and a 1 MiB string costs one subtraction.
//!
//! Refuses to know what the requests were, and never judges a payload: it finds ends.
//!
//! Invariant: after any sequence of chunks the state is the same as after their concatenation. The one
//! exception is asked for: an error line at top level whose end is not in the chunk is reported as
//! [`Step::Line`] and *not* consumed, because the caller may have to keep it back.

use memchr::memchr;

use super::number::{HEAD_MAX, number};

/// What the scanner found next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The chunk is used up.
    More,
    /// A top-level value ended just before `end`; its kind byte.
    Value {
        /// Offset after its last byte.
        end: usize,
        /// Its kind byte: `+ - : $ * _ # , ( ! = % ~ >`.
        kind: u8,
    },
    /// A complete error line, `buf[text..end - 2]` without the `-`. At top level it is a whole reply.
    Error {
        /// Offset of the first byte after the `-`; for a nested error that an earlier chunk began the
        /// text is [`Scan::carried`] instead, and `text == end`.
        text: usize,
        /// Offset after its last byte.
        end: usize,
        /// Not inside an aggregate.
        top: bool,
        /// The error was the last owed value of a nested reply: a top-level value of this kind ended too.
        closes: Option<u8>,
    },
    /// A top-level error line starts at `start` and its end is not in the chunk. Nothing of it was
    /// consumed: give it again with more behind it, or call [`Scan::pass_line`] first.
    Line {
        /// Offset of the `-`.
        start: usize,
    },
    /// No RESP from `at` on. The scanner is of no more use.
    Malformed {
        /// Offset of the offending line.
        at: usize,
    },
}

/// Nested error lines that a chunk cuts are carried this far: enough for the longest way in which a
/// script words a refusal (M §2.2 L3), and to tell RDB from AOF.
const CARRY_MAX: usize = 192;
/// More owed values than this is a server gone mad, not a reply.
const OWED_MAX: u64 = 1 << 48;
/// Longest word of a push that we tell apart (`punsubscribe`).
const WORD_MAX: usize = 16;

/// Which part of an aggregate's first element has been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Not looked for.
    Off,
    /// The aggregate's head was read; its first element comes.
    Next,
    /// The first element is a bulk string whose body is passing.
    Body,
    /// Known.
    Done,
}

/// See the module's page. One per upstream connection, about 270 bytes.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Scan {
    /// Values still owed to the top-level value; 0 between replies.
    owed: u64,
    /// Bytes of a bulk body, with its CRLF, still to pass.
    skip: u64,
    /// Kind of the top-level value; 0 until its head was read.
    kind: u8,
    /// Inside a text line whose end is still to come.
    line: Line,
    /// Report the first word of arrays too, not only of pushes.
    words: bool,
    word_state: Word,
    word_len: u8,
    word: [u8; WORD_MAX],
    last_int: i64,
    carry_len: u8,
    carry: [u8; CARRY_MAX],
}

/// A line that a chunk cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    None,
    /// Its text does not matter.
    Text,
    /// A nested error: its head is in `carry`.
    Error,
    /// A head with a number: all of it so far is in `carry`.
    Head,
}

impl Default for Scan {
    fn default() -> Self {
        Self::new()
    }
}

impl Scan {
    /// Between replies.
    pub fn new() -> Self {
        Scan {
            owed: 0,
            skip: 0,
            kind: 0,
            line: Line::None,
            words: false,
            word_state: Word::Off,
            word_len: 0,
            word: [0; WORD_MAX],
            last_int: 0,
            carry_len: 0,
            carry: [0; CARRY_MAX],
        }
    }

    /// Also take down the first word of top-level arrays: RESP2 delivers messages that way.
    pub fn read_words(&mut self, on: bool) {
        self.words = on;
    }

    /// Between two replies?
    pub fn at_boundary(&self) -> bool {
        self.owed == 0
    }

    /// First word of the aggregate that ended last (first bulk element, cut at 16 bytes), if asked for.
    pub fn word(&self) -> &[u8] {
        &self.word[..self.word_len as usize]
    }

    /// The last `:` number of the aggregate that ended last, if its word was asked for.
    pub fn last_int(&self) -> i64 {
        self.last_int
    }

    /// Text (cut) of a nested error that began in an earlier chunk.
    pub fn carried(&self) -> &[u8] {
        &self.carry[..self.carry_len as usize]
    }

    /// The top-level error line that the caller was told of is let through: its text no longer matters.
    pub fn pass_line(&mut self) {
        debug_assert_eq!(self.owed.min(1), self.owed, "only a top-level line is ever kept back");
        self.owed = 1;
        self.kind = b'-';
        self.line = Line::Text;
    }

    /// What comes next in `buf` from `at` on.
    #[inline]
    pub fn next(&mut self, buf: &[u8], mut at: usize) -> Step {
        loop {
            if self.skip > 0 {
                at = self.pass_body(buf, at);
                if self.skip > 0 {
                    return Step::More;
                }
                if let Some(kind) = self.value_done() {
                    return Step::Value { end: at, kind };
                }
                continue;
            }
            if self.line != Line::None {
                match self.resume_line(buf, &mut at) {
                    Some(step) => return step,
                    None => continue,
                }
            }
            let Some(&kind) = buf.get(at) else { return Step::More };
            if self.owed == 0 {
                // What most writes are answered with.
                if kind == b'+' && buf[at..].starts_with(b"+OK\r\n") {
                    return Step::Value { end: at + 5, kind };
                }
                self.begin();
            }
            let top = self.kind == 0 && self.owed == 1;
            match kind {
                b'$' | b'*' | b':' | b'%' | b'~' | b'>' | b'|' | b'=' | b'!' => {
                    let Some((number, end)) = number(buf, at + 1) else {
                        return Step::Malformed { at };
                    };
                    let Some(end) = end else {
                        return self.keep_head(buf, at);
                    };
                    if top && kind != b'|' {
                        self.kind = kind;
                    }
                    at = end;
                    match self.head(kind, number) {
                        Head::Malformed => return Step::Malformed { at },
                        Head::Open => {}
                        Head::Done => {
                            if let Some(kind) = self.value_done() {
                                return Step::Value { end: at, kind };
                            }
                        }
                    }
                }
                b'+' | b',' | b'#' | b'_' | b'(' => {
                    if top {
                        self.kind = kind;
                    }
                    if self.word_state == Word::Next {
                        self.word_state = Word::Done;
                    }
                    match memchr(b'\n', &buf[at + 1..]) {
                        Some(n) => {
                            at += n + 2;
                            if let Some(kind) = self.value_done() {
                                return Step::Value { end: at, kind };
                            }
                        }
                        None => {
                            self.line = Line::Text;
                            return Step::More;
                        }
                    }
                }
                b'-' => {
                    let text = at + 1;
                    match memchr(b'\n', &buf[text..]) {
                        Some(n) => {
                            let end = text + n + 1;
                            if top {
                                self.kind = kind;
                            }
                            let closes = self.value_done();
                            return Step::Error { text, end, top, closes };
                        }
                        None if top => {
                            // Only attributes can stand before it, and they are complete: forget we began.
                            self.owed = 0;
                            return Step::Line { start: at };
                        }
                        None => {
                            self.line = Line::Error;
                            self.carry_len = 0;
                            self.keep(&buf[text..]);
                            return Step::More;
                        }
                    }
                }
                _ => return Step::Malformed { at },
            }
        }
    }

    fn begin(&mut self) {
        self.owed = 1;
        self.kind = 0;
        self.word_state = Word::Off;
        self.word_len = 0;
        self.last_int = 0;
    }

    /// One value is complete; the kind of the top-level value if that is complete now.
    #[inline]
    fn value_done(&mut self) -> Option<u8> {
        self.owed -= 1;
        (self.owed == 0).then_some(self.kind)
    }

    fn pass_body(&mut self, buf: &[u8], at: usize) -> usize {
        let n = self.skip.min((buf.len() - at) as u64) as usize;
        if self.word_state == Word::Body {
            // The last two bytes that are skipped are the CRLF.
            let body = (self.skip.saturating_sub(2) as usize).min(n);
            let len = self.word_len as usize;
            let take = body.min(WORD_MAX - len);
            self.word[len..len + take].copy_from_slice(&buf[at..at + take]);
            self.word_len += take as u8;
            if self.skip == n as u64 {
                self.word_state = Word::Done;
            }
        }
        self.skip -= n as u64;
        at + n
    }

    /// A head with its number: what it owes.
    #[inline]
    fn head(&mut self, kind: u8, number: i64) -> Head {
        match kind {
            b'$' | b'=' | b'!' => {
                if self.word_state == Word::Next {
                    self.word_state = Word::Body;
                }
                match number {
                    -1 => {
                        if self.word_state == Word::Body {
                            self.word_state = Word::Done;
                        }
                        Head::Done
                    }
                    0.. => {
                        self.skip = number as u64 + 2;
                        Head::Open
                    }
                    _ => Head::Malformed,
                }
            }
            b':' => {
                self.last_int = number;
                Head::Done
            }
            b'|' => self.owe(number, 2, 0),
            b'%' => self.owe(number, 2, 1),
            _ => {
                let outermost = self.owed == 1 && self.word_state == Word::Off && self.kind == kind;
                if outermost && (kind == b'>' || self.words) {
                    self.word_state = Word::Next;
                } else if self.word_state == Word::Next {
                    self.word_state = Word::Done;
                }
                self.owe(number, 1, 1)
            }
        }
    }

    /// `number` × `each` more values are owed, and `is` values (the aggregate itself) are not any more.
    #[inline]
    fn owe(&mut self, number: i64, each: u64, is: u64) -> Head {
        if number <= 0 {
            return match (number, is) {
                (0 | -1, 1) => Head::Done,
                (0, 0) => Head::Open,
                _ => Head::Malformed,
            };
        }
        let more = (number as u64).checked_mul(each).and_then(|n| n.checked_add(self.owed - is));
        match more {
            Some(owed) if owed <= OWED_MAX => {
                self.owed = owed;
                Head::Open
            }
            _ => Head::Malformed,
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let len = self.carry_len as usize;
        let take = bytes.len().min(CARRY_MAX - len);
        self.carry[len..len + take].copy_from_slice(&bytes[..take]);
        self.carry_len += take as u8;
    }

    fn keep_head(&mut self, buf: &[u8], at: usize) -> Step {
        self.line = Line::Head;
        self.carry_len = 0;
        self.keep(&buf[at..]);
        Step::More
    }

    /// Goes on with a line that an earlier chunk cut. `None`: it is done, and no top-level value ended.
    #[cold]
    fn resume_line(&mut self, buf: &[u8], at: &mut usize) -> Option<Step> {
        let rest = &buf[*at..];
        let found = memchr(b'\n', rest);
        let used = found.map_or(rest.len(), |n| n + 1);
        let line = self.line;
        match line {
            Line::None | Line::Text => {}
            Line::Error => self.keep(&rest[..used]),
            Line::Head => {
                if self.carry_len as usize + used > HEAD_MAX {
                    return Some(Step::Malformed { at: *at });
                }
                self.keep(&rest[..used]);
            }
        }
        *at += used;
        if found.is_none() {
            return Some(Step::More);
        }
        self.line = Line::None;
        match line {
            Line::None | Line::Text => self.value_done().map(|kind| Step::Value { end: *at, kind }),
            Line::Error => {
                let text = self.carry_len as usize;
                let cut = self.carried().iter().rev().take_while(|&&b| b == b'\n' || b == b'\r').count();
                self.carry_len = (text - cut) as u8;
                let closes = self.value_done();
                Some(Step::Error { text: *at, end: *at, top: false, closes })
            }
            Line::Head => {
                let carry = self.carry;
                let head = &carry[..self.carry_len as usize];
                let Some((n, Some(_))) = number(head, 1) else {
                    return Some(Step::Malformed { at: *at });
                };
                if self.kind == 0 && self.owed == 1 && head[0] != b'|' {
                    self.kind = head[0];
                }
                match self.head(head[0], n) {
                    Head::Malformed => Some(Step::Malformed { at: *at }),
                    Head::Open => None,
                    Head::Done => self.value_done().map(|kind| Step::Value { end: *at, kind }),
                }
            }
        }
    }
}

/// What a head turned out to be.
enum Head {
    /// More must come before the value is complete (or, for an attribute, its pairs).
    Open,
    /// The value is complete.
    Done,
    /// Not RESP.
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A transcript and the kinds of its top-level replies.
    const TRANSCRIPTS: &[(&[u8], &str)] = &[
        (b"+OK\r\n:12\r\n$3\r\nabc\r\n$-1\r\n$0\r\n\r\n*0\r\n*-1\r\n", "+:$$$**"),
        (b"*3\r\n$1\r\na\r\n*2\r\n:1\r\n*1\r\n+x\r\n$2\r\nbb\r\n+OK\r\n", "*+"),
        (b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n_\r\n~1\r\n#t\r\n,1.5\r\n(123456789012345678901234567890\r\n", "%~,("),
        (b"|1\r\n+ttl\r\n:3600\r\n$1\r\nx\r\n>2\r\n$7\r\nmessage\r\n:5\r\n=7\r\ntxt:abc\r\n!5\r\nERR a\r\n", "$>=!"),
        (b"*2\r\n|1\r\n+k\r\n*1\r\n:1\r\n:7\r\n:8\r\n:9\r\n", "*:"),
        (b"*1\r\n*1\r\n*1\r\n*1\r\n*0\r\n+a\r\n", "*+"),
        (b":-12345\r\n:+5\r\n+\r\n", "::+"),
        (b"*2\r\n-MISCONF a\r\n-ERR b\r\n-MISCONF c\r\n-ERR d\r\n", "*--"),
    ];

    /// Feeds `bytes` in chunks cut at `cuts`, as a caller that keeps top-level lines back; the kinds seen.
    fn kinds(bytes: &[u8], cuts: &[usize]) -> String {
        let (mut scan, mut seen, mut start, mut carry) = (Scan::new(), String::new(), 0, Vec::new());
        for &cut in cuts.iter().chain([&bytes.len()]) {
            carry.extend_from_slice(&bytes[start..cut]);
            start = cut;
            let chunk = std::mem::take(&mut carry);
            let mut at = 0;
            loop {
                match scan.next(&chunk, at) {
                    Step::More => break,
                    Step::Value { end, kind } => {
                        seen.push(kind as char);
                        at = end;
                    }
                    Step::Error { end, top, closes, .. } => {
                        if let Some(kind) = closes {
                            assert_eq!(top, kind == b'-');
                            seen.push(kind as char);
                        }
                        at = end;
                    }
                    Step::Line { start } => {
                        carry = chunk[start..].to_vec();
                        break;
                    }
                    Step::Malformed { at } => panic!("malformed at {at} of {chunk:?}"),
                }
            }
        }
        assert!(scan.at_boundary() && carry.is_empty());
        seen
    }

    #[test]
    fn every_split_in_three_finds_the_same_ends() {
        for (bytes, expected) in TRANSCRIPTS {
            for a in 0..=bytes.len() {
                for b in a..=bytes.len() {
                    assert_eq!(kinds(bytes, &[a, b]), *expected, "cut at {a} and {b}");
                }
            }
        }
    }

    #[test]
    fn single_bytes_find_the_same_ends() {
        for (bytes, expected) in TRANSCRIPTS {
            let cuts: Vec<_> = (1..bytes.len()).collect();
            assert_eq!(kinds(bytes, &cuts), *expected);
        }
    }

    #[test]
    fn a_million_levels_cost_nothing() {
        let deep = b"*1\r\n".repeat(1_000_000);
        let mut scan = Scan::new();
        assert_eq!(scan.next(&deep, 0), Step::More);
        assert_eq!(scan.next(b":1\r\n", 0), Step::Value { end: 4, kind: b'*' });
    }

    #[test]
    fn what_no_server_says_is_malformed() {
        for bad in [
            "x\r\n",
            "$x\r\n",
            "*-2\r\n",
            "$-2\r\n",
            "$3x\r\n",
            "*99999999999999999999999\r\n",
            "\r\n",
            "$?\r\n",
            "$ \r\n",
        ] {
            let mut scan = Scan::new();
            assert!(matches!(scan.next(bad.as_bytes(), 0), Step::Malformed { .. }), "{bad:?}");
            let mut scan = Scan::new();
            let step = bad.bytes().map(|b| scan.next(&[b], 0)).find(|s| *s != Step::More);
            assert!(matches!(step, Some(Step::Malformed { .. })), "{bad:?} byte by byte: {step:?}");
        }
    }

    #[test]
    fn pushes_and_on_demand_arrays_give_their_word_and_number() {
        let push = b">3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:4\r\n";
        let array = b"*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$2\r\nhi\r\n";
        for cut in 0..push.len() {
            let mut scan = Scan::new();
            let first = scan.next(&push[..cut], 0);
            assert_eq!(first, Step::More);
            assert_eq!(scan.next(&push[cut..], 0), Step::Value { end: push.len() - cut, kind: b'>' });
            assert_eq!((scan.word(), scan.last_int()), (&b"subscribe"[..], 4));
            scan.next(array, 0);
            assert_eq!(scan.word(), b"");
            scan.read_words(true);
            scan.next(array, 0);
            assert_eq!(scan.word(), b"message");
        }
    }

    #[test]
    fn a_nested_error_that_a_chunk_cuts_keeps_its_text() {
        let reply = b"*2\r\n-MISCONF Errors writing to the AOF file: x\r\n:1\r\n";
        for cut in 5..reply.len() - 6 {
            let mut scan = Scan::new();
            assert_eq!(scan.next(&reply[..cut], 0), Step::More);
            match scan.next(&reply[cut..], 0) {
                Step::Error { text, end, top: false, closes: None } => {
                    let text = if text == end {
                        scan.carried().to_vec()
                    } else {
                        reply[cut + text..cut + end - 2].to_vec()
                    };
                    assert_eq!(text, b"MISCONF Errors writing to the AOF file: x");
                }
                other => panic!("{other:?} at {cut}"),
            }
        }
    }
}
