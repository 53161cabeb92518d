//! A server small enough to be believed: strings, lists, transactions, publish/subscribe, scripts, and the
//! gate that refuses writes, as `server.c:processCommand` orders it (M §2.1, §2.4, §2.5).
//!
//! Each write carries a token of its own. What was applied, where, and in which order is written down, so
//! that nothing a client is told has to be believed.

use std::collections::{BTreeSet, HashMap};

use crate::resp::request::{Fed, Parsed, Rest, parse};

use super::Rng;

const RDB: &str =
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.";
const READONLY: &str = "READONLY You can't write against a read only replica.";
const AOF: &str = "MISCONF Errors writing to the AOF file: No space left on device";

/// One write that took place.
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    pub order: u64,
    pub db: u32,
    /// It ran in a transaction under a WATCH.
    pub watched: bool,
}

/// What all connections share.
#[derive(Debug, Default)]
pub struct Server {
    keys: HashMap<(u32, String), Vec<String>>,
    versions: HashMap<(u32, String), u64>,
    pub applied: HashMap<String, Vec<Applied>>,
    pub published: HashMap<String, u32>,
    /// Why writes are refused now.
    broken: Option<&'static str>,
    orders: u64,
}

/// One connection.
#[derive(Debug)]
pub struct Conn {
    input: Vec<u8>,
    pub out: Vec<u8>,
    db: u32,
    resp3: bool,
    multi: Option<Vec<Vec<String>>>,
    dirty: bool,
    watched: Vec<((u32, String), u64)>,
    channels: BTreeSet<String>,
    pub messages: u32,
    /// Pushes that wait for the end of the command that runs on this very connection.
    deferred: Vec<u8>,
    /// An ACL forbids MULTI.
    pub no_multi: bool,
    /// It is to a server that has become a replica: what is written to the new one is there at once, but nothing is
    /// written here any more.
    pub demoted: bool,
}

impl Conn {
    pub fn new(no_multi: bool) -> Self {
        Conn {
            input: Vec::new(),
            out: Vec::new(),
            db: 0,
            resp3: false,
            multi: None,
            dirty: false,
            watched: Vec::new(),
            channels: BTreeSet::new(),
            messages: 0,
            deferred: Vec::new(),
            no_multi,
            demoted: false,
        }
    }

    /// The same client's connection to another server, which knows nothing of it.
    pub fn elsewhere(&self) -> Conn {
        Conn { messages: self.messages, ..Conn::new(self.no_multi) }
    }

    fn line(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    fn bulk(&mut self, text: &str) {
        self.line(&format!("${}\r\n{text}", text.len()));
    }

    fn end_multi(&mut self) {
        self.multi = None;
        self.dirty = false;
        self.watched.clear();
    }

    fn push(&mut self, words: &[&str]) {
        self.line(&format!("{}{}", if self.resp3 { '>' } else { '*' }, words.len()));
        for word in words {
            if word.starts_with(':') { self.line(word) } else { self.bulk(word) }
        }
    }
}

impl Server {
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    pub fn break_down(&mut self, aof: bool) {
        self.broken = Some(if aof { AOF } else { RDB });
    }

    pub fn heal(&mut self) {
        self.broken = None;
    }

    /// Bytes came in on connection `i`; runs what is complete. The gate may flip before each command.
    pub fn feed(&mut self, conns: &mut [Conn], i: usize, bytes: &[u8], rng: &mut Rng, flips: bool) {
        conns[i].input.extend_from_slice(bytes);
        loop {
            let input = std::mem::take(&mut conns[i].input);
            let (len, words) = match (input.is_empty(), parse_words(&input)) {
                (false, Some(found)) => found,
                _ => {
                    conns[i].input = input;
                    return;
                }
            };
            conns[i].input = input[len..].to_vec();
            if words.is_empty() {
                continue;
            }
            if flips && rng.one_in(12) {
                match self.broken {
                    Some(_) => self.broken = None,
                    None => self.break_down(rng.one_in(3)),
                }
            }
            self.process(conns, i, &words);
            let deferred = std::mem::take(&mut conns[i].deferred);
            conns[i].out.extend_from_slice(&deferred);
        }
    }

    /// `server.c:processCommand`.
    fn process(&mut self, conns: &mut [Conn], i: usize, words: &[String]) {
        let conn = &mut conns[i];
        let name = words[0].as_str();
        if name == "MULTI" && conn.no_multi {
            return conn.line("-NOPERM this user has no permissions to run the 'multi' command");
        }
        let queued = conn.multi.iter().flatten().any(|w| is_write(w));
        if let Some(why) = self.broken
            && (is_write(words) || name == "PING" || (name == "EXEC" && queued))
        {
            if name == "EXEC" {
                conn.end_multi();
                return conn.line(&format!("-EXECABORT Transaction discarded because of: {why}"));
            }
            conn.dirty |= conn.multi.is_some();
            return conn.line(&format!("-{why}"));
        }
        if conn.demoted && (is_write(words) || (name == "EXEC" && queued)) {
            if name == "EXEC" {
                conn.end_multi();
                return conn.line(&format!("-EXECABORT Transaction discarded because of: {READONLY}"));
            }
            conn.dirty |= conn.multi.is_some();
            return conn.line(&format!("-{READONLY}"));
        }
        let at_once = matches!(name, "MULTI" | "EXEC" | "DISCARD" | "WATCH" | "RESET");
        if let Some(queue) = &mut conn.multi
            && !at_once
        {
            queue.push(words.to_vec());
            return conn.line("+QUEUED");
        }
        self.execute(conns, i, words, false);
    }

    fn execute(&mut self, conns: &mut [Conn], i: usize, words: &[String], in_exec: bool) {
        let conn = &mut conns[i];
        let word = |n: usize| words.get(n).map_or("", String::as_str);
        let key = (conn.db, word(1).to_owned());
        match word(0) {
            "RPUSH" | "SET" => {
                if word(0) == "SET" {
                    self.keys.remove(&key);
                }
                let n = self.apply(conn, key, word(2), in_exec);
                conn.line(&if word(0) == "SET" { "+OK".to_owned() } else { format!(":{n}") });
            }
            "GET" | "LRANGE" => {
                let list = self.keys.get(&key).cloned().unwrap_or_default();
                conn.line(&format!("*{}", list.len()));
                list.iter().for_each(|token| conn.bulk(token));
            }
            "FCALL" => {
                let key = (conn.db, word(3).to_owned());
                let n = self.apply(conn, key, word(4), in_exec);
                conn.line(&format!(":{n}"));
            }
            // The script publishes, then writes.
            "EVAL" => {
                let (key, token) = ((conn.db, word(3).to_owned()), word(4).to_owned());
                self.publish(conns, i, "script", &format!("{token}-published"));
                let conn = &mut conns[i];
                match self.broken.or(conn.demoted.then_some(READONLY)) {
                    Some(why) => conn.line(&format!("-{why} script: 0fe1, on @user_script:1.")),
                    None => {
                        let n = self.apply(conn, key, &token, in_exec);
                        conn.line(&format!(":{n}"));
                    }
                }
            }
            "PUBLISH" => {
                let n = self.publish(conns, i, word(1), word(2));
                conns[i].line(&format!(":{n}"));
            }
            "PING" if !conn.resp3 && !conn.channels.is_empty() => conn.line("*2\r\n$4\r\npong\r\n$0\r\n"),
            "PING" => conn.line("+PONG"),
            "SELECT" => {
                match word(1).parse() {
                    Ok(db @ 0..16) => {
                        conn.db = db;
                        conn.line("+OK");
                    }
                    _ => conn.line("-ERR DB index is out of range"),
                };
            }
            "HELLO" => {
                conn.resp3 = true;
                conn.line("%1\r\n$5\r\nproto\r\n:3");
            }
            "RESET" => {
                let (out, input) = (std::mem::take(&mut conn.out), std::mem::take(&mut conn.input));
                *conn = Conn {
                    out,
                    input,
                    messages: conn.messages,
                    demoted: conn.demoted,
                    ..Conn::new(conn.no_multi)
                };
                conn.line("+RESET");
            }
            "MULTI" if conn.multi.is_some() => conn.line("-ERR MULTI calls can not be nested"),
            "MULTI" => {
                conn.multi = Some(Vec::new());
                conn.line("+OK");
            }
            "DISCARD" if conn.multi.is_none() => conn.line("-ERR DISCARD without MULTI"),
            "DISCARD" => {
                conn.end_multi();
                conn.line("+OK");
            }
            "WATCH" if conn.multi.is_some() => conn.line("-ERR WATCH inside MULTI is not allowed"),
            "WATCH" => {
                let version = self.versions.get(&key).copied().unwrap_or(0);
                conn.watched.push((key, version));
                conn.line("+OK");
            }
            "UNWATCH" => {
                conn.watched.clear();
                conn.line("+OK");
            }
            "EXEC" => self.exec(conns, i),
            "SUBSCRIBE" => {
                for channel in &words[1..] {
                    conn.channels.insert(channel.clone());
                    let total = format!(":{}", conn.channels.len());
                    conn.push(&["subscribe", channel, &total]);
                }
            }
            "UNSUBSCRIBE" => {
                let names: Vec<_> = match words.len() {
                    1 => conn.channels.iter().cloned().collect(),
                    _ => words[1..].to_vec(),
                };
                if names.is_empty() {
                    let kind = if conn.resp3 { '>' } else { '*' };
                    conn.line(&format!("{kind}3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0"));
                }
                for channel in names {
                    conn.channels.remove(&channel);
                    let total = format!(":{}", conn.channels.len());
                    conn.push(&["unsubscribe", &channel, &total]);
                }
            }
            "CLIENT" => conn.line("+OK"),
            other => conn.line(&format!("-ERR unknown command '{other}'")),
        }
    }

    /// `multi.c:execCommand`.
    fn exec(&mut self, conns: &mut [Conn], i: usize) {
        let conn = &mut conns[i];
        let Some(queue) = conn.multi.take() else { return conn.line("-ERR EXEC without MULTI") };
        let stale = conn.watched.iter().any(|(k, v)| self.versions.get(k).copied().unwrap_or(0) != *v);
        if conn.dirty || stale {
            let text = match conn.dirty {
                true => "-EXECABORT Transaction discarded because of previous errors.",
                false if conn.resp3 => "_",
                false => "*-1",
            };
            conn.end_multi();
            return conn.line(text);
        }
        conn.line(&format!("*{}", queue.len()));
        for words in queue {
            self.execute(conns, i, &words, true);
        }
        conns[i].end_multi();
    }

    fn apply(&mut self, conn: &Conn, key: (u32, String), token: &str, in_exec: bool) -> usize {
        self.orders += 1;
        let watched = in_exec && !conn.watched.is_empty();
        self.applied.entry(token.to_owned()).or_default().push(Applied {
            order: self.orders,
            db: conn.db,
            watched,
        });
        *self.versions.entry(key.clone()).or_default() += 1;
        let list = self.keys.entry(key).or_default();
        list.push(token.to_owned());
        list.len()
    }

    fn publish(&mut self, conns: &mut [Conn], i: usize, channel: &str, message: &str) -> usize {
        *self.published.entry(message.to_owned()).or_default() += 1;
        let mut n = 0;
        for (j, conn) in conns.iter_mut().enumerate().filter(|(_, c)| c.channels.contains(channel)) {
            let before = conn.out.len();
            conn.push(&["message", channel, message]);
            if j == i {
                // `networking.c:_addReplyToBufferOrList`: never in the midst of a reply.
                let push = conn.out.split_off(before);
                conn.deferred.extend_from_slice(&push);
            }
            conn.messages += 1;
            n += 1;
        }
        n
    }
}

/// Flagged `write`, or a script that is gated as a whole.
fn is_write(words: &[String]) -> bool {
    matches!(words[0].as_str(), "RPUSH" | "SET" | "FCALL")
}

/// The first request of `input`: its length and words.
fn parse_words(input: &[u8]) -> Option<(usize, Vec<String>)> {
    let len = match parse(input) {
        Parsed::Whole { len, .. } => len,
        Parsed::Empty { len } => return Some((len, Vec::new())),
        Parsed::Part { .. } => return None,
        Parsed::Malformed => panic!("the server was sent {:?}", String::from_utf8_lossy(input)),
    };
    let text = std::str::from_utf8(&input[..len]).expect("the simulation writes UTF-8");
    let words = match text.starts_with('*') {
        true => text.split("\r\n").skip(2).step_by(2).map(str::to_owned).collect(),
        false => text.split_ascii_whitespace().map(str::to_owned).collect(),
    };
    // Found a second time, byte by byte: the two ways of finding an end agree.
    if let Parsed::Part { mut rest, .. } = parse(&input[..1]) {
        let rest: &mut Rest = &mut rest;
        assert_eq!(rest.feed(&input[1..]), Fed::End(len - 1));
    }
    Some((len, words))
}
