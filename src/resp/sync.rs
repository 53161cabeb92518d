//! What follows PSYNC: newlines while the server prepares, the line that says how the snapshot comes, the snapshot.
//! Two forms (`replication.c:readSyncBulkPayload`): `$EOF:` and a mark of forty bytes that comes again at the end
//! (a diskless transfer), or `$` and a length (a file of the server's disk).
//!
//! Refuses to know: sockets, what a snapshot is. Invariants: resumable at any byte; it keeps back less than a mark and
//! never more than [`LINE_MAX`] of a line; not one byte of a mark reaches the body.

use memchr::memmem;

/// Of the mark.
pub const MARK: usize = 40;
/// A longer line is none of these.
const LINE_MAX: usize = 512;

/// How the snapshot comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As a child of the server writes it, to its mark.
    Stream,
    /// A file of so many bytes.
    File(u64),
}

/// Is there more to come?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Yes.
    More,
    /// The snapshot is whole. What came behind it is not looked at.
    Done,
}

/// Not what follows PSYNC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// In the server's words.
    #[error("upstream: {0}")]
    Refused(String),
    /// In no words that we know.
    #[error("upstream: not understood after PSYNC: {0:?}")]
    Odd(String),
}

#[derive(Debug)]
enum State {
    Line(Vec<u8>),
    Stream { mark: [u8; MARK], kept: Vec<u8> },
    File { left: u64 },
    Done,
}

/// See the module's page.
#[derive(Debug)]
pub struct Reply {
    state: State,
    form: Option<Form>,
}

impl Default for Reply {
    fn default() -> Self {
        Reply { state: State::Line(Vec::new()), form: None }
    }
}

impl Reply {
    /// How the snapshot comes, once that was said.
    pub fn form(&self) -> Option<Form> {
        self.form
    }

    /// Reads `chunk`; what of it is snapshot is appended to `body`.
    ///
    /// # Errors
    /// When the server refuses, or says what is not understood. Nothing can be read after that.
    pub fn feed(&mut self, mut chunk: &[u8], body: &mut Vec<u8>) -> Result<Step, SyncError> {
        loop {
            match &mut self.state {
                State::Line(line) => {
                    let end = memchr::memchr(b'\n', chunk);
                    let (part, rest) = chunk.split_at(end.map_or(chunk.len(), |at| at + 1));
                    if line.len() + part.len() > LINE_MAX {
                        return Err(odd(line));
                    }
                    line.extend_from_slice(part);
                    chunk = rest;
                    if end.is_none() {
                        return Ok(Step::More);
                    }
                    let said = std::mem::take(line);
                    self.hear(said.trim_ascii_end())?;
                }
                State::Stream { mark, kept } => {
                    let start = body.len();
                    body.append(kept);
                    body.extend_from_slice(chunk);
                    if let Some(at) = memmem::find(&body[start..], mark) {
                        body.truncate(start + at);
                        self.state = State::Done;
                        return Ok(Step::Done);
                    }
                    let from = body.len().saturating_sub(MARK - 1).max(start);
                    *kept = body.split_off(from);
                    return Ok(Step::More);
                }
                State::File { left } => {
                    let n = chunk.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    body.extend_from_slice(&chunk[..n]);
                    *left -= n as u64;
                    if *left > 0 {
                        return Ok(Step::More);
                    }
                    self.state = State::Done;
                }
                State::Done => return Ok(Step::Done),
            }
        }
    }

    fn hear(&mut self, line: &[u8]) -> Result<(), SyncError> {
        match line {
            // While it prepares: one a second (`replication.c:replicationCron`).
            [] => {}
            [b'-', words @ ..] => return Err(SyncError::Refused(text(words))),
            [b'$', b'E', b'O', b'F', b':', mark @ ..] => {
                let mark = mark.try_into().map_err(|_| odd(line))?;
                self.form = Some(Form::Stream);
                self.state = State::Stream { mark, kept: Vec::new() };
            }
            [b'$', digits @ ..] => {
                let plain = digits.iter().all(u8::is_ascii_digit);
                let length = std::str::from_utf8(digits).ok().filter(|_| plain).and_then(|n| n.parse().ok());
                let left = length.ok_or_else(|| odd(line))?;
                self.form = Some(Form::File(left));
                self.state = State::File { left };
            }
            line if line.starts_with(b"+FULLRESYNC ") => {}
            line => return Err(odd(line)),
        }
        Ok(())
    }
}

fn odd(line: &[u8]) -> SyncError {
    SyncError::Odd(text(&line[..line.len().min(64)]))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "+FULLRESYNC 4f1b0c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f7a8b 148\r\n";
    const MARKED: &str = "d6471ca7f71a1784d43b913c1dbc2ae6d06eeadc";

    /// The end, the body, the form, after all chunks.
    fn read<'a>(
        chunks: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Result<Step, SyncError>, Vec<u8>, Option<Form>) {
        let (mut reply, mut body, mut end) = (Reply::default(), Vec::new(), Ok(Step::More));
        for chunk in chunks {
            end = reply.feed(chunk, &mut body);
            if end.is_err() {
                break;
            }
        }
        (end, body, reply.form())
    }

    fn transcripts() -> Vec<(Vec<u8>, &'static [u8], Form)> {
        // A body that holds most of the mark, twice, and line ends.
        let body: &[u8] = b"REDIS0010\xfa\r\n$EOF:d6471ca7f71a1784d43b913c1dbc2ae6d06eead\n\
            d6471ca7f71a1784d43b913c1dbc2ae6d06eeadd6471ca7\xff12345678";
        let stream = |head: &str, tail: &str| {
            let mut all = format!("{head}$EOF:{MARKED}\r\n").into_bytes();
            all.extend_from_slice(body);
            all.extend_from_slice(MARKED.as_bytes());
            all.extend_from_slice(tail.as_bytes());
            all
        };
        let mut file = format!("\n\n${}\r\n", body.len()).into_bytes();
        file.extend_from_slice(body);
        file.extend_from_slice(b"*1\r\n$4\r\nPING\r\n");
        vec![
            (stream(HEAD, ""), body, Form::Stream),
            (stream(&format!("\n\n\n{HEAD}\n"), "*1\r\n$4\r\nPING\r\n"), body, Form::Stream),
            (stream("", MARKED), body, Form::Stream),
            (file, body, Form::File(body.len() as u64)),
            (b"$0\r\n".to_vec(), b"", Form::File(0)),
            (format!("$EOF:{MARKED}\r\n{MARKED}").into_bytes(), b"", Form::Stream),
        ]
    }

    #[test]
    fn the_body_is_the_same_at_every_split_in_two_and_byte_by_byte() {
        for (all, body, form) in transcripts() {
            for at in 0..=all.len() {
                let (end, got, said) = read([&all[..at], &all[at..]]);
                assert_eq!((end, got.as_slice(), said), (Ok(Step::Done), body, Some(form)), "split at {at}");
            }
            for size in [1, 2, 39, 40, 41] {
                let (end, got, said) = read(all.chunks(size));
                assert_eq!((end, got.as_slice(), said), (Ok(Step::Done), body, Some(form)), "by {size}");
            }
        }
    }

    #[test]
    fn what_is_cut_short_is_never_done() {
        for (all, body, _) in transcripts() {
            let end = memmem::find(&all, body)
                .filter(|_| !body.is_empty())
                .map_or(all.len() - 1, |at| at + body.len() - 1);
            for cut in 0..=end.min(all.len() - 1) {
                assert_eq!(read([&all[..cut]]).0, Ok(Step::More), "cut at {cut} of {:?}", text(&all));
            }
        }
    }

    #[test]
    fn hostile_lines_are_refused_and_none_is_kept_for_long() {
        for line in [
            "$-1\r\n",
            "$+5\r\n",
            "$\r\n",
            "$18446744073709551616\r\n",
            "$99999999999999999999999999999999\r\n",
            "$12x\r\n",
            "$EOF:short\r\n",
            "$EOF:d6471ca7f71a1784d43b913c1dbc2ae6d06eeadc0\r\n",
            "$EOF:\r\n",
            "+CONTINUE\r\n",
            ":1\r\n",
            "*1\r\n",
            "HTTP/1.1 400 Bad Request\r\n",
        ] {
            assert!(matches!(read([line.as_bytes()]).0, Err(SyncError::Odd(_))), "{line:?}");
        }
        let long = vec![b'$'; LINE_MAX + 1];
        assert!(matches!(read(long.chunks(7)).0, Err(SyncError::Odd(_))));
        let largest = format!("${}\r\nx", u64::MAX);
        assert_eq!(read([largest.as_bytes()]), (Ok(Step::More), b"x".to_vec(), Some(Form::File(u64::MAX))));
        let refused = "-NOPERM this user has no permissions to run the 'psync' command";
        let error = read([format!("\n{refused}\r\n").as_bytes()]).0;
        assert_eq!(error, Err(SyncError::Refused(refused[1..].into())));
    }
}
