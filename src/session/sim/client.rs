//! A client that writes down what it asked and what it was told, and in the end holds both against what the
//! server really did.

use std::collections::HashMap;

use super::Rng;
use super::server::Server;

/// A reply, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub kind: u8,
    pub text: String,
    pub items: Vec<Reply>,
}

impl Reply {
    fn is_error(&self) -> bool {
        self.kind == b'-'
    }

    fn is_refusal(&self) -> bool {
        self.is_error() && (["MISCONF", "READONLY", "EXECABORT"].iter().any(|code| self.text.contains(code)))
    }
}

/// What a client is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// One request at a time, nothing that cannot be repeated: it must never see a refusal.
    Patient,
    /// Pipelines of everything, over RESP2.
    Hasty,
    /// … and over RESP3, with subscriptions between.
    Resp3,
    /// Only listens, over RESP2.
    Listener,
}

/// One end user.
#[derive(Debug)]
pub struct Client {
    pub id: usize,
    pub manner: Manner,
    pub asked: Vec<Vec<String>>,
    pub told: Vec<Reply>,
    /// Confirmations still owed to the request at hand.
    owed: usize,
    subscribed: usize,
    pub messages: u32,
    input: Vec<u8>,
    in_multi: bool,
    tokens: usize,
    /// It may have seen a refusal for a reason: a deadline, a budget, a posture.
    pub excused: bool,
}

impl Client {
    pub fn new(id: usize, manner: Manner) -> Self {
        Client {
            id,
            manner,
            asked: Vec::new(),
            told: Vec::new(),
            owed: 0,
            subscribed: 0,
            messages: 0,
            input: Vec::new(),
            in_multi: false,
            tokens: 0,
            excused: false,
        }
    }

    /// Bytes of the next requests.
    pub fn ask(&mut self, rng: &mut Rng) -> Vec<u8> {
        let n = match self.manner {
            Manner::Patient => 1,
            Manner::Hasty | Manner::Resp3 | Manner::Listener => 1 + rng.below(6),
        };
        let mut out = Vec::new();
        if self.manner == Manner::Resp3 && self.asked.is_empty() {
            self.put(&mut out, "HELLO 3".into(), rng);
        }
        for _ in 0..n {
            let request = self.invent(rng);
            self.put(&mut out, request, rng);
        }
        out
    }

    fn put(&mut self, out: &mut Vec<u8>, request: String, rng: &mut Rng) {
        let words: Vec<String> = request.split(' ').map(str::to_owned).collect();
        match rng.below(10) {
            0 => out.extend_from_slice(b"\r\n"),
            1 => out.extend_from_slice(b"*0\r\n"),
            _ => {}
        }
        if rng.one_in(3) {
            out.extend_from_slice(format!("{request}\r\n").as_bytes());
        } else {
            out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
            for word in &words {
                out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
            }
        }
        self.asked.push(words);
    }

    /// Ends an open transaction, so that everything can be held against the server.
    pub fn farewell(&mut self, rng: &mut Rng) -> Vec<u8> {
        let mut out = Vec::new();
        if self.in_multi {
            self.in_multi = false;
            self.put(&mut out, "EXEC".into(), rng);
        }
        out
    }

    fn token(&mut self) -> String {
        self.tokens += 1;
        format!("t{}-{}", self.id, self.tokens)
    }

    fn invent(&mut self, rng: &mut Rng) -> String {
        let own = self.id;
        if self.manner == Manner::Listener {
            return match rng.below(4) {
                0 => "SUBSCRIBE a b".into(),
                1 => ["UNSUBSCRIBE", "UNSUBSCRIBE a"][rng.below(2)].into(),
                _ => "PING".into(),
            };
        }
        let patient = self.manner == Manner::Patient;
        loop {
            return match rng.below(24) {
                0..5 => format!("RPUSH l{own} {}", self.token()),
                5..7 => format!("SET s{own} {}", self.token()),
                7 => format!("SET shared {}", self.token()),
                8..11 => format!("LRANGE l{own} 0 -1"),
                11 => format!("GET s{own}"),
                12 => "PING".into(),
                13 => format!("PUBLISH {} {}", ["a", "b", "c"][rng.below(3)], self.token()),
                14 => format!("SELECT {}", [0, 1, 2, 99][rng.below(4)]),
                // Refused twice, its refusal is delivered: see `replay::rule`.
                15 if !patient => format!("FCALL f 1 l{own} {}", self.token()),
                16 if !patient => format!("EVAL x 1 l{own} {}", self.token()),
                17 if !self.in_multi => {
                    self.in_multi = true;
                    "MULTI".into()
                }
                18 | 19 if self.in_multi => {
                    self.in_multi = false;
                    ["EXEC", "EXEC", "EXEC", "DISCARD"][rng.below(4)].into()
                }
                20 if !patient && !self.in_multi => ["WATCH shared", "UNWATCH"][rng.below(2)].into(),
                21 if !patient && rng.one_in(4) && self.manner == Manner::Hasty => {
                    self.in_multi = false;
                    "RESET".into()
                }
                22 => "CLIENT SETNAME x".into(),
                23 if self.manner == Manner::Resp3 && !self.in_multi => {
                    ["SUBSCRIBE a b", "SUBSCRIBE c", "UNSUBSCRIBE", "UNSUBSCRIBE b"][rng.below(4)].into()
                }
                23 if !patient => {
                    ["NOSUCH", "EXEC", "DISCARD"][if self.in_multi { 0 } else { rng.below(3) }].into()
                }
                _ => continue,
            };
        }
    }

    /// Bytes from the server.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.input.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((reply, end)) = take(&self.input, at)? {
            at = end;
            self.hear_one(reply)?;
        }
        self.input.drain(..at);
        Ok(())
    }

    fn hear_one(&mut self, reply: Reply) -> Result<(), String> {
        let first = reply.items.first().map_or("", |item| item.text.as_str());
        let confirms = matches!(first, "subscribe" | "unsubscribe") && matches!(reply.kind, b'>' | b'*');
        if first == "message" && matches!(reply.kind, b'>' | b'*') {
            self.messages += 1;
            return Ok(());
        }
        let Some(asked) = self.asked.get(self.told.len()) else {
            return Err(format!("a reply that nobody asked for: {reply:?}"));
        };
        if confirms {
            if self.owed == 0 {
                self.owed = match (asked[0].as_str(), asked.len() - 1) {
                    ("UNSUBSCRIBE", 0) => self.subscribed.max(1),
                    ("SUBSCRIBE" | "UNSUBSCRIBE", n) => n,
                    _ => return Err(format!("{reply:?} is no reply to {asked:?}")),
                };
            }
            self.subscribed = reply.items[2].text.parse().map_err(|e| format!("{e}: {reply:?}"))?;
            self.owed -= 1;
            if self.owed > 0 {
                return Ok(());
            }
        }
        self.told.push(reply);
        Ok(())
    }

    /// Holds what it was told against what happened. `cut`: the connection was cut, so the last requests may
    /// lack their replies.
    pub fn judge(&self, server: &Server, cut: bool) -> Result<(), String> {
        if !cut && (self.told.len() != self.asked.len() || !self.input.is_empty()) {
            let at = self.told.len();
            return Err(format!(
                "{} asked, {} answered, next {:?}",
                self.asked.len(),
                at,
                self.asked.get(at)
            ));
        }
        let mut view = View { db: 0, own: HashMap::new(), order: 0, watched: false, multi: None };
        for (asked, told) in self.asked.iter().zip(&self.told) {
            view.step(server, asked, told)?;
            if self.manner == Manner::Patient && !self.excused && told.is_refusal() {
                return Err(format!("a patient client saw a refusal of {asked:?}: {told:?}"));
            }
        }
        for asked in &self.asked {
            let Some(token) = asked.last().filter(|t| t.starts_with(&format!("t{}-", self.id))) else {
                continue;
            };
            let published = server.published.get(token).copied().unwrap_or(0)
                + server.published.get(&format!("{token}-published")).copied().unwrap_or(0);
            if server.applied.get(token).map_or(0, Vec::len) > 1 || published > 1 {
                return Err(format!("{asked:?} took place more than once"));
            }
        }
        Ok(())
    }
}

/// What a client must believe, having been told what it was told.
struct View {
    db: u32,
    /// Its own keys by database.
    own: HashMap<(u32, String), Vec<String>>,
    order: u64,
    watched: bool,
    multi: Option<Vec<Vec<String>>>,
}

impl View {
    fn step(&mut self, server: &Server, asked: &[String], told: &Reply) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what}: {asked:?} was answered {told:?}"));
        match (asked[0].as_str(), told.is_error()) {
            ("MULTI", false) => self.multi = Some(Vec::new()),
            ("EXEC", error) => {
                let Some(queue) = self.multi.take() else {
                    return if error { Ok(()) } else { wrong("EXEC without MULTI") };
                };
                let ran = told.kind == b'*' && !(told.items.is_empty() && told.text == "-1");
                if ran && told.items.len() != queue.len() {
                    return wrong("not as many elements as queued");
                }
                for (n, request) in queue.iter().enumerate() {
                    match told.items.get(n).filter(|_| ran) {
                        Some(item) => self.effect(server, request, item, true)?,
                        None => absent(server, request)?,
                    }
                }
                self.watched = false;
            }
            ("DISCARD", false) => {
                for request in self.multi.take().unwrap_or_default() {
                    absent(server, &request)?;
                }
                self.watched = false;
            }
            ("RESET", _) => {
                for request in self.multi.take().unwrap_or_default() {
                    absent(server, &request)?;
                }
                (self.db, self.watched) = (0, false);
            }
            ("WATCH", false) => self.watched = true,
            ("UNWATCH", false) if self.multi.is_none() => self.watched = false,
            _ => match &mut self.multi {
                Some(queue) if told.text == "QUEUED" => queue.push(asked.to_vec()),
                Some(_) if told.is_error() => return absent(server, asked),
                Some(_) => return wrong("not queued"),
                None => return self.effect(server, asked, told, false),
            },
        }
        Ok(())
    }

    fn effect(
        &mut self,
        server: &Server,
        asked: &[String],
        told: &Reply,
        in_exec: bool,
    ) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what}: {asked:?} was answered {told:?}"));
        match (asked[0].as_str(), told.is_error()) {
            ("SELECT", false) => self.db = asked[1].parse().map_err(|e| format!("{e}"))?,
            ("RPUSH" | "SET" | "FCALL" | "EVAL", true) => return absent(server, asked),
            ("RPUSH" | "SET" | "FCALL" | "EVAL", false) => {
                let (key, token) = (&asked[asked.len() - 2], &asked[asked.len() - 1]);
                let Some([applied]) = server.applied.get(token).map(Vec::as_slice) else {
                    return wrong("not applied exactly once");
                };
                if applied.db != self.db {
                    return wrong("applied in another database");
                }
                if applied.order < self.order {
                    return wrong("applied before what was asked earlier");
                }
                if in_exec && applied.watched != self.watched {
                    return wrong("the transaction's WATCH was lost");
                }
                self.order = applied.order;
                let list = self.own.entry((self.db, key.clone())).or_default();
                if asked[0] == "SET" {
                    list.clear();
                }
                list.push(token.clone());
            }
            ("LRANGE" | "GET", false) => {
                let seen: Vec<_> = told.items.iter().map(|item| item.text.clone()).collect();
                let known = self.own.get(&(self.db, asked[1].clone())).cloned().unwrap_or_default();
                if seen != known {
                    return Err(format!("{asked:?} shows {seen:?} where {known:?} was acknowledged"));
                }
            }
            ("PUBLISH", error) => {
                let n = server.published.get(&asked[2]).copied().unwrap_or(0);
                if n != u32::from(!error) {
                    return wrong("not published exactly once");
                }
            }
            ("PING", false) if told.text != "PONG" && told.items.is_empty() => return wrong("no PONG"),
            _ => {}
        }
        Ok(())
    }
}

/// What was answered with an error did not take place.
fn absent(server: &Server, asked: &[String]) -> Result<(), String> {
    match asked.last().filter(|token| server.applied.contains_key(*token)) {
        Some(_) => Err(format!("{asked:?} was answered with an error and took place")),
        None => Ok(()),
    }
}

/// The reply at `at`, and its end.
fn take(buf: &[u8], at: usize) -> Result<Option<(Reply, usize)>, String> {
    let Some(n) = buf[at..].windows(2).position(|w| w == b"\r\n") else { return Ok(None) };
    let line = std::str::from_utf8(&buf[at..at + n]).map_err(|e| e.to_string())?;
    let (mut end, kind) = (at + n + 2, buf[at]);
    let mut reply = Reply { kind, text: line.get(1..).unwrap_or("").to_owned(), items: Vec::new() };
    let number = || reply.text.parse::<i64>().map_err(|e| format!("{e}: {line}"));
    match kind {
        b'+' | b'-' | b':' | b'_' => {}
        b'$' => {
            if let Ok(len) = usize::try_from(number()?) {
                if buf.len() < end + len + 2 {
                    return Ok(None);
                }
                reply.text = String::from_utf8_lossy(&buf[end..end + len]).into_owned();
                end += len + 2;
            }
        }
        b'*' | b'>' | b'%' => {
            for _ in 0..number()?.max(0) * if kind == b'%' { 2 } else { 1 } {
                let Some((item, after)) = take(buf, end)? else { return Ok(None) };
                reply.items.push(item);
                end = after;
            }
        }
        _ => return Err(format!("no RESP: {line}")),
    }
    Ok(Some((reply, end)))
}
