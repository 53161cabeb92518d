//! A client with a script: it writes down what it was told, and holds it against what the server did.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use crate::testing::fake_redis::FakeRedis;

/// One request of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// SET of the client's key to a token of its own.
    Write,
    /// GET of the client's key.
    Read,
    Ping,
    Multi,
    /// SET inside MULTI.
    Queued,
    Exec,
}

use Ask::*;

/// `W` write, `R` read, `P` ping, `(Q)` a transaction.
pub fn script(text: &str) -> Vec<Ask> {
    let ask = |c| match c {
        'W' => Write,
        'R' => Read,
        'P' => Ping,
        '(' => Multi,
        'Q' => Queued,
        ')' => Exec,
        other => panic!("no request: {other}"),
    };
    text.chars().map(ask).collect()
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    Nothing,
    Fine,
    Error,
    /// The connection ended first.
    Lost,
}

/// When does a client write?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// When it was answered.
    Patient,
    /// Whenever it likes.
    Hasty,
    /// All at once.
    Burst,
}

/// See the module's page.
#[derive(Clone, Debug)]
pub struct Client {
    pub id: usize,
    script: &'static [Ask],
    manner: Manner,
    pub asked: usize,
    told: Vec<Told>,
    waiting: VecDeque<usize>,
    heard: Vec<u8>,
    pub left: bool,
}

impl Client {
    pub fn new(id: usize, script: &'static [Ask], manner: Manner) -> Self {
        let told = vec![Told::Nothing; script.len()];
        Client {
            id,
            script,
            manner,
            asked: 0,
            told,
            waiting: VecDeque::new(),
            heard: Vec::new(),
            left: false,
        }
    }

    pub fn print(&self, fake: &FakeRedis, h: &mut impl Hasher) {
        (self.asked, &self.told, &self.waiting, &self.heard, self.left).hash(h);
        (0..self.script.len()).for_each(|at| self.ran(fake, at).hash(h));
    }

    fn token(&self, at: usize) -> String {
        format!("{}-{at}", self.id)
    }

    fn ran(&self, fake: &FakeRedis, at: usize) -> usize {
        let token = self.token(at);
        fake.applied.iter().filter(|(_, words)| words.get(2).is_some_and(|w| w == token.as_bytes())).count()
    }

    pub fn may_ask(&self) -> bool {
        !self.left
            && self.asked < self.script.len()
            && (self.manner != Manner::Patient || self.waiting.is_empty())
    }

    pub fn is_done(&self) -> bool {
        self.left || (self.asked == self.script.len() && self.waiting.is_empty())
    }

    /// Bytes of the next request, or of all that are left when it pipelines.
    pub fn ask(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let (at, key) = (self.asked, format!("key{}", self.id));
            bytes.extend_from_slice(
                match self.script[at] {
                    Write | Queued => format!("SET {key} {}\r\n", self.token(at)),
                    Read => format!("GET {key}\r\n"),
                    Ping => "PING\r\n".into(),
                    Multi => "MULTI\r\n".into(),
                    Exec => "EXEC\r\n".into(),
                }
                .as_bytes(),
            );
            self.waiting.push_back(at);
            self.asked += 1;
            if self.manner != Manner::Burst || self.asked == self.script.len() {
                return bytes;
            }
        }
    }

    /// The connection ended: what was not answered is of unknown fate; the next begins with what is left,
    /// behind the transaction that was under way.
    pub fn cut(&mut self) {
        self.waiting.drain(..).for_each(|at| self.told[at] = Told::Lost);
        self.heard.clear();
        while self.asked > 0
            && self.asked < self.script.len()
            && matches!(self.script[self.asked], Queued | Exec)
        {
            self.told[self.asked] = Told::Lost;
            self.asked += 1;
        }
    }

    pub fn hear(&mut self, fake: &FakeRedis, bytes: &[u8]) -> Result<(), String> {
        self.heard.extend_from_slice(bytes);
        while let Some(len) = reply(&self.heard, 0) {
            let text: String = self.heard.drain(..len).map(char::from).collect();
            let Some(at) = self.waiting.pop_front() else {
                return Err(format!("client {} was told {text:?}, and asked nothing", self.id));
            };
            self.told(fake, at, &text).map_err(|why| {
                format!("client {}, request {at} ({:?}) was told {text:?}: {why}", self.id, self.script[at])
            })?;
        }
        Ok(())
    }

    fn told(&mut self, fake: &FakeRedis, at: usize, text: &str) -> Result<(), &'static str> {
        let ask = self.script[at];
        self.told[at] = if text.starts_with('-') { Told::Error } else { Told::Fine };
        if self.told[at] == Told::Error {
            let honest = text.starts_with("-MISCONF") || (ask == Exec && text.starts_with("-EXECABORT"));
            return if honest { self.agrees(fake, at) } else { Err("not the server's refusal") };
        }
        let expected = match ask {
            Write | Multi => "+OK\r\n".to_string(),
            Ping => "+PONG\r\n".into(),
            Queued => "+QUEUED\r\n".into(),
            Exec => "*1\r\n+OK\r\n".into(),
            Read => {
                let last = (0..at).rev().find(|at| self.fate(*at).is_some_and(|told| told != Told::Error));
                match last {
                    // It may have run or not.
                    Some(last) if self.fate(last) == Some(Told::Lost) => return Ok(()),
                    // A restart loses what no save holds.
                    _ if text == "$-1\r\n" && fake.run_id() != FIRST_RUN => return Ok(()),
                    Some(last) => format!("${}\r\n{}\r\n", self.token(last).len(), self.token(last)),
                    None => "$-1\r\n".into(),
                }
            }
        };
        if text != expected {
            return Err("another reply than to what was asked");
        }
        self.agrees(fake, at)
    }

    /// What the client knows of the write at `at`: a queued one is as good as its EXEC.
    fn fate(&self, at: usize) -> Option<Told> {
        match self.script[at] {
            Write => Some(self.told[at]),
            Queued => Some(self.told[at + 1]),
            Read | Ping | Multi | Exec => None,
        }
    }

    /// What was acknowledged ran once, what was refused did not.
    fn agrees(&self, fake: &FakeRedis, at: usize) -> Result<(), &'static str> {
        let write = if self.script[at] == Exec { at - 1 } else { at };
        match (self.fate(write), self.ran(fake, write)) {
            (Some(Told::Fine), 0) => Err("acknowledged, and did not run"),
            (Some(Told::Fine), 2..) => Err("ran more than once"),
            (Some(Told::Error), 1..) => Err("refused, and ran"),
            _ => Ok(()),
        }
    }

    /// Each at most once, in the order of the script; holds after every step.
    pub fn order(&self, fake: &FakeRedis) -> Result<(), String> {
        let own = format!("{}-", self.id);
        let tokens = fake.applied.iter().filter_map(|(_, words)| std::str::from_utf8(words.get(2)?).ok());
        let ran: Vec<usize> = tokens.filter_map(|t| t.strip_prefix(&own)?.parse().ok()).collect();
        match ran.windows(2).all(|pair| pair[0] < pair[1]) {
            true => Ok(()),
            false => Err(format!("client {}'s writes ran as {ran:?}", self.id)),
        }
    }

    /// In the end.
    pub fn judge(&self, fake: &FakeRedis) -> Result<(), String> {
        if !self.is_done() || !self.heard.is_empty() {
            return Err(format!("client {} waits for ever: {:?}", self.id, self.told));
        }
        (0..self.script.len()).try_for_each(|at| self.agrees(fake, at)).map_err(String::from)
    }
}

/// [`FakeRedis::run_id`] of a server that was never restarted.
const FIRST_RUN: &str = "0000000000000000000000000000000000000001";

/// The end of the reply at `at`.
fn reply(bytes: &[u8], at: usize) -> Option<usize> {
    let line = bytes[at..].windows(2).position(|w| w == b"\r\n")?;
    let end = at + line + 2;
    let number = || std::str::from_utf8(&bytes[at + 1..at + line]).ok()?.parse::<i64>().ok();
    match bytes[at] {
        b'$' => match usize::try_from(number()?) {
            Ok(len) => (bytes.len() >= end + len + 2).then_some(end + len + 2),
            Err(_) => Some(end),
        },
        b'*' => (0..number()?.max(0))
            .try_fold(end, |at, _| if at < bytes.len() { reply(bytes, at) } else { None }),
        _ => Some(end),
    }
}
