//! Where requests end, and what they begin with.
//!
//! [`parse`] takes the bytes at a request boundary and finds, in one walk, the request's end and its
//! first words. When the chunk ends first it gives a [`Rest`] that finds the end in later chunks with
//! arithmetic alone. Multibulk and inline requests, as `networking.c:processMultibulkBuffer` and
//! `processInlineBuffer` read them.
//!
//! Refuses to know what a command does. Allocates nothing.

use memchr::memchr;

use super::number::number;

/// `networking.c:PROTO_INLINE_MAX_SIZE`: a longer line without an end is an error to the server.
pub const INLINE_MAX: usize = 64 * 1024;
/// Words are looked at this far; no command name or option that matters is longer.
pub const WORD_MAX: usize = 40;
/// A head is certainly complete within this many bytes: three words with their lengths.
pub const HEAD_BYTES_MAX: usize = 192;

/// What a request begins with. Its name is at hand; other words are walked to when somebody asks, which
/// few commands need: to gather them for all would cost every request a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// Words in the request, its name included.
    pub argc: u64,
    /// The command's name as the client spelled it, cut at [`WORD_MAX`] bytes.
    pub name: &'a [u8],
    /// The request from its first byte, as far as it is here.
    request: &'a [u8],
}

impl<'a> Head<'a> {
    /// A request of which nothing but its existence is known.
    pub const UNKNOWN: Head<'static> = Head { argc: 1, name: b"", request: b"" };

    /// The word at `n` (0 is the name), cut at [`WORD_MAX`] bytes or where the chunk ended; empty if it
    /// is not there.
    #[cold]
    pub fn word(&self, n: u64) -> &'a [u8] {
        if n >= self.argc {
            return &[];
        }
        let word = match self.request.first() {
            Some(b'*') => multibulk_word(self.request, n),
            _ => std::iter::successors(inline_word(self.request), |(_, rest)| inline_word(rest))
                .nth(n as usize)
                .map(|(word, _)| word),
        };
        word.map_or(&[], cut)
    }

    /// All its words, none of them cut. For the few requests of which each word counts; `None` when it is not
    /// whole, or an inline request with an escape, which only the server reads rightly.
    #[cold]
    pub fn words(&self) -> Option<Vec<&'a [u8]>> {
        if self.request.first() != Some(&b'*') {
            let words = std::iter::successors(inline_word(self.request), |(_, rest)| inline_word(rest));
            return (!self.request.contains(&b'\\')).then(|| words.map(|(word, _)| word).collect());
        }
        let (argc, mut at) = number(self.request, 1)?;
        let mut words = Vec::with_capacity(usize::try_from(argc).ok()?.min(WORDS_AT_ONCE));
        for _ in 0..argc {
            let (len, body) = number(self.request, at? + 1)?;
            let (len, body) = (usize::try_from(len).ok()?, body?);
            words.push(self.request.get(body..body.checked_add(len)?)?);
            at = Some(body + len + 2);
        }
        Some(words)
    }
}

/// Room is made for this many words before they are seen.
const WORDS_AT_ONCE: usize = 64;

fn cut(word: &[u8]) -> &[u8] {
    &word[..word.len().min(WORD_MAX)]
}

/// The bulk string at `n` of a multibulk request, as far as it is here.
fn multibulk_word(request: &[u8], n: u64) -> Option<&[u8]> {
    let (_, mut at) = number(request, 1)?;
    for _ in 0..n {
        let (len, body) = number(request, at? + 1)?;
        at = Some(body?.checked_add(usize::try_from(len).ok()? + 2)?);
    }
    let (len, body) = number(request, at? + 1)?;
    let rest = request.get(body?..)?;
    Some(&rest[..rest.len().min(usize::try_from(len).ok()?)])
}

/// What stands at a request boundary.
#[derive(Debug, PartialEq)]
pub enum Parsed<'a> {
    /// A whole request of `len` bytes.
    Whole {
        /// Its length.
        len: usize,
        /// Its first words.
        head: Head<'a>,
    },
    /// The chunk ends inside it. `head` is known as soon as the name is.
    Part {
        /// Its first words, as far as they are here; `None` while even the name is not.
        head: Option<Head<'a>>,
        /// Finds the end.
        rest: Rest,
    },
    /// `len` bytes that get no reply: an empty line, `*0`, `*-1`.
    Empty {
        /// Their length.
        len: usize,
    },
    /// The server will answer with a protocol error and close.
    Malformed,
}

/// Finds the end of a request whose beginning is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Bulk strings still to come after the one being skipped.
    args: u64,
    /// Bytes of the current bulk, CRLF included, still to pass.
    skip: u64,
    /// Length of the bulk string at hand, or of the last one.
    bulk: u64,
    /// In an inline line of this many bytes so far.
    inline: Option<usize>,
    /// A head line that the chunk cut.
    carry: [u8; 32],
    carry_len: u8,
}

/// Kind byte and number.
type HeadLine = (u8, i64);

/// What [`Rest::feed`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// The request ends just before this offset.
    End(usize),
    /// It goes on.
    More,
    /// The server will answer with a protocol error and close.
    Malformed,
}

/// What stands at the beginning of `buf`, which is not empty.
#[inline]
pub fn parse(buf: &[u8]) -> Parsed<'_> {
    if buf.first() == Some(&b'*') { multibulk(buf) } else { inline(buf) }
}

#[inline]
fn multibulk(buf: &[u8]) -> Parsed<'_> {
    let Some((argc, end)) = number(buf, 1) else { return Parsed::Malformed };
    let Some(mut at) = end else {
        return Parsed::Part { head: None, rest: Rest::head(0, buf) };
    };
    if argc <= 0 {
        return Parsed::Empty { len: at };
    }
    let argc = argc as u64;
    let mut name: &[u8] = &[];
    let mut i = 0;
    while i < argc {
        let line = at;
        match buf.get(at) {
            None => return Parsed::Part { head: known(argc, name, buf, i), rest: Rest::head(argc - i, &[]) },
            Some(b'$') => {}
            Some(_) => return Parsed::Malformed,
        }
        let Some((len, end)) = number(buf, at + 1) else { return Parsed::Malformed };
        let Some(body) = end else {
            return Parsed::Part {
                head: known(argc, name, buf, i),
                rest: Rest::head(argc - i, &buf[line..]),
            };
        };
        if len < 0 {
            return Parsed::Malformed;
        }
        let here = buf.len() - body;
        if i == 0 {
            name = &buf[body..body + here.min(len as usize).min(WORD_MAX)];
        }
        let whole = len as u64 + 2;
        if whole > here as u64 {
            // The name is known once all of it, or more of it than any command has, is here.
            let seen = i + u64::from(here as u64 >= len as u64 || here >= WORD_MAX);
            let mut rest = Rest::head(argc - i - 1, &[]);
            rest.skip = whole - here as u64;
            rest.bulk = len as u64;
            return Parsed::Part { head: known(argc, name, buf, seen), rest };
        }
        at = body + whole as usize;
        i += 1;
    }
    Parsed::Whole { len: at, head: Head { argc, name, request: buf } }
}

fn known<'a>(argc: u64, name: &'a [u8], request: &'a [u8], seen: u64) -> Option<Head<'a>> {
    (seen > 0).then_some(Head { argc, name, request })
}

#[cold]
fn inline(buf: &[u8]) -> Parsed<'_> {
    let Some(end) = memchr(b'\n', buf) else {
        return if buf.len() > INLINE_MAX {
            Parsed::Malformed
        } else {
            Parsed::Part { head: None, rest: Rest { inline: Some(buf.len()), ..Rest::head(0, &[]) } }
        };
    };
    let line = &buf[..end];
    let words = || std::iter::successors(inline_word(line), |(_, rest)| inline_word(rest));
    match words().next() {
        None => Parsed::Empty { len: end + 1 },
        Some((name, _)) => {
            let head = Head { argc: words().count() as u64, name: cut(name), request: line };
            Parsed::Whole { len: end + 1, head }
        }
    }
}

/// The first word of an inline request and what follows it, as `sds.c:sdssplitargs` cuts. Escapes stay
/// as they are: no command's name needs one.
fn inline_word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    // C's isspace() knows the vertical tab, and to C the line ends at its first NUL.
    let start = line.iter().position(|b| !b.is_ascii_whitespace() && *b != 0x0b)?;
    let line = &line[start..];
    let quote = match line[0] {
        0 => return None,
        q @ (b'"' | b'\'') => q,
        _ => {
            let ends = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | 0);
            let end = line.iter().position(ends).unwrap_or(line.len());
            return Some((&line[..end], &line[end..]));
        }
    };
    let mut i = 1;
    while i < line.len() && line[i] != quote {
        i += if line[i] == b'\\' { 2 } else { 1 };
    }
    let end = i.min(line.len());
    Some((&line[1..end], &line[(end + 1).min(line.len())..]))
}

impl Rest {
    /// `args` bulk strings are still to come; `carry` is the head line that the chunk cut.
    fn head(args: u64, carry: &[u8]) -> Rest {
        let mut rest =
            Rest { args, skip: 0, bulk: 0, inline: None, carry: [0; 32], carry_len: carry.len() as u8 };
        rest.carry[..carry.len()].copy_from_slice(carry);
        rest
    }

    /// Length that the bulk string at hand (or the last one) was announced with.
    pub fn bulk(&self) -> u64 {
        self.bulk
    }

    /// Walks on through `buf`.
    pub fn feed(&mut self, buf: &[u8]) -> Fed {
        let mut at = 0;
        if let Some(len) = self.inline {
            return match memchr(b'\n', buf) {
                Some(n) => Fed::End(n + 1),
                None if len + buf.len() > INLINE_MAX => Fed::Malformed,
                None => {
                    self.inline = Some(len + buf.len());
                    Fed::More
                }
            };
        }
        loop {
            let n = self.skip.min((buf.len() - at) as u64);
            self.skip -= n;
            at += n as usize;
            if self.skip > 0 {
                return Fed::More;
            }
            if self.args == 0 && self.carry_len == 0 {
                return Fed::End(at);
            }
            let (head, used) = match self.line(&buf[at..]) {
                Ok(Some(line)) => line,
                Ok(None) => return Fed::More,
                Err(()) => return Fed::Malformed,
            };
            at += used;
            match head {
                // Only the first line of a request starts with a star, and with `args` at zero.
                (b'*', argc) if self.args == 0 => {
                    if argc <= 0 {
                        return Fed::End(at);
                    }
                    self.args = argc as u64;
                }
                (b'$', len) if self.args > 0 && len >= 0 => {
                    self.args -= 1;
                    self.skip = len as u64 + 2;
                    self.bulk = len as u64;
                }
                _ => return Fed::Malformed,
            }
        }
    }

    /// The next head line and the bytes of `buf` used; `None` when it is cut again.
    fn line(&mut self, buf: &[u8]) -> Result<Option<(HeadLine, usize)>, ()> {
        let carried = self.carry_len as usize;
        let room = self.carry.len() - carried;
        let used = memchr(b'\n', &buf[..buf.len().min(room)]).map(|n| n + 1);
        let take = used.unwrap_or(buf.len());
        if take > room {
            return Err(());
        }
        self.carry[carried..carried + take].copy_from_slice(&buf[..take]);
        let line = &self.carry[..carried + take];
        if let Some(first) = line.first() {
            if !matches!((first, self.args), (b'*', 0) | (b'$', 1..)) {
                return Err(());
            }
            match (number(line, 1), used) {
                (Some((n, Some(_))), Some(used)) => {
                    self.carry_len = 0;
                    return Ok(Some(((*first, n), used)));
                }
                (Some((_, None)), None) => {}
                _ => return Err(()),
            }
        }
        self.carry_len = (carried + take) as u8;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n*0\r\n\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\n*1\r\n$\r\n\
        *-1\r\n \"set\" a 'b c'\r\n*1\r\n$4\r\nPING\r\n";

    /// The ends of the requests in `bytes`, given in chunks cut at `cuts`.
    fn ends(bytes: &[u8], cuts: &[usize]) -> Vec<usize> {
        let (mut ends, mut start, mut rest) = (Vec::new(), 0, None::<Rest>);
        for &cut in cuts.iter().chain([&bytes.len()]) {
            let mut chunk = &bytes[start..cut];
            while !chunk.is_empty() {
                let used = match &mut rest {
                    Some(r) => match r.feed(chunk) {
                        Fed::End(n) => n,
                        Fed::More => break,
                        Fed::Malformed => panic!("malformed: {chunk:?}"),
                    },
                    None => match parse(chunk) {
                        Parsed::Whole { len, .. } | Parsed::Empty { len } => len,
                        Parsed::Part { rest: r, .. } => {
                            rest = Some(r);
                            break;
                        }
                        Parsed::Malformed => panic!("malformed: {chunk:?}"),
                    },
                };
                rest = None;
                chunk = &chunk[used..];
                ends.push(cut - chunk.len());
            }
            start = cut;
        }
        assert!(rest.is_none());
        ends
    }

    #[test]
    fn every_split_in_three_finds_the_same_ends() {
        let whole = ends(STREAM, &[]);
        assert_eq!(whole.len(), 8);
        for a in 0..=STREAM.len() {
            for b in a..=STREAM.len() {
                assert_eq!(ends(STREAM, &[a, b]), whole, "cut at {a} and {b}");
            }
        }
        assert_eq!(ends(STREAM, &(1..STREAM.len()).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn heads_give_the_first_words() {
        let head = |bytes: &'static [u8]| match parse(bytes) {
            Parsed::Whole { head, .. } | Parsed::Part { head: Some(head), .. } => {
                (head.argc, [0, 1, 2].map(|n| head.word(n).to_vec()))
            }
            other => panic!("{other:?}"),
        };
        let words = |a: &str, b: &str, c: &str| [a, b, c].map(|w| w.as_bytes().to_vec());
        assert_eq!(head(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"), (2, words("GET", "k", "")));
        assert_eq!(head(b"  set \"a b\" c d \r\n"), (4, words("set", "a b", "c")));
        assert_eq!(head(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\nabc"), (3, words("SET", "k", "abc")));
        assert_eq!(head(b"*2\r\n$3\r\nGET"), (2, words("GET", "", "")));
        assert!(matches!(parse(b"*2\r\n$3\r\nGE"), Parsed::Part { head: None, .. }));
        assert!(matches!(parse(b"PIN"), Parsed::Part { head: None, .. }));
    }

    #[test]
    fn the_name_is_the_first_word() {
        for request in ["*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", " get  k\r\n"] {
            let Parsed::Whole { head, .. } = parse(request.as_bytes()) else { panic!("{request:?}") };
            assert_eq!((head.name, head.word(1), head.word(2)), (head.word(0), &b"k"[..], &b""[..]));
        }
        assert_eq!(Head::UNKNOWN.word(0), b"");
    }

    #[test]
    fn what_no_server_accepts_is_malformed() {
        for bad in [
            "*x\r\n",
            "*1\r\n+PING\r\n",
            "*1\r\n$-5\r\nPING\r\n",
            "*1\r\n$x\r\n",
            "*1 \r\n",
            "*99999999999999999999\r\n",
        ] {
            assert_eq!(parse(bad.as_bytes()), Parsed::Malformed, "{bad:?}");
            let Parsed::Part { mut rest, .. } = parse(&bad.as_bytes()[..1]) else { panic!("{bad:?}") };
            let fed = bad.bytes().skip(1).map(|b| rest.feed(&[b])).find(|f| *f != Fed::More);
            assert_eq!(fed, Some(Fed::Malformed), "{bad:?} byte by byte");
        }
        let endless = vec![b'a'; INLINE_MAX + 1];
        assert_eq!(parse(&endless), Parsed::Malformed);
        assert!(matches!(parse(b"*1073741824\r\n"), Parsed::Part { .. }), "a huge header costs nothing");
    }
}
