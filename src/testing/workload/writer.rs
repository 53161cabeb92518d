//! One writer: an application's loop, and its journal.
//!
//! Refuses to know: what the server really holds. Invariant: a token's number is taken before it is sent, and a
//! token is never sent twice: trying again is the proxy's business here, not the application's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use redis_protocol::resp2::types::BytesFrame;

use super::link::Link;
use super::{Fate, Journal, Kind, Live, Plan, TEXTS_MAX, keys};
use crate::testing::client::request;

pub(super) struct Writer {
    plan: Plan,
    stem: String,
    link: Option<Link>,
    live: Arc<Live>,
    stop: Arc<AtomicBool>,
    journal: Journal,
    /// When the first try after the last success began.
    waiting_since: Option<Instant>,
    /// The last INCR or LLEN answer, to which the next must fit; `None` after anything unclear.
    last_count: Option<i64>,
}

/// Between two tries to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
const BIG_PAUSE: Duration = Duration::from_millis(150);
const PIPELINE: usize = 16;
const PIPELINE_READ_AT: usize = 8;

impl Writer {
    pub(super) fn new(plan: &Plan, kind: Kind, id: usize, live: Arc<Live>, stop: Arc<AtomicBool>) -> Writer {
        let journal = Journal {
            kind,
            id,
            fates: Vec::new(),
            refused: 0,
            unexpected: 0,
            broken: 0,
            texts: Default::default(),
            latency: Histogram::new(3).expect("three digits are a valid precision"),
            longest_pause: Duration::ZERO,
            in_hand: 0,
        };
        let stem = keys::stem(&plan.name, kind, id);
        let plan = plan.clone();
        Writer { plan, stem, link: None, live, stop, journal, waiting_since: None, last_count: Some(0) }
    }

    /// Writes until told to stop.
    pub(super) async fn produce(mut self) -> Journal {
        // Spread over one pause, so that fifty writers are not one burst.
        tokio::time::sleep(self.plan.think * (self.journal.id % 16) as u32 / 16).await;
        while !self.stopped() {
            match self.journal.kind {
                Kind::Set => self.set().await,
                Kind::Incr => self.incr().await,
                Kind::Rpush | Kind::Queue => self.rpush().await,
                Kind::Xadd => self.xadd().await,
                Kind::Multi => self.multi().await,
                Kind::Pipeline => self.pipeline().await,
                Kind::Big => self.big().await,
                Kind::Ping => self.ping().await,
            }
            let pause = if self.journal.kind == Kind::Big { BIG_PAUSE } else { self.plan.think };
            tokio::time::sleep(pause).await;
        }
        self.end_pause();
        self.journal
    }

    /// Takes tokens off the queue and writes each down in a second list, until told to stop.
    pub(super) async fn consume(mut self) -> Journal {
        let done = keys::second(&self.stem);
        while !self.stopped() {
            let token = match self.ask_untimed(&["BLPOP", &self.stem.clone(), "1"]).await {
                Some(BytesFrame::Null) => continue,
                Some(BytesFrame::Array(pair)) if pair.len() == 2 => match &pair[1] {
                    BytesFrame::BulkString(token) => token.clone(),
                    other => {
                        self.wrong("BLPOP", other);
                        continue;
                    }
                },
                Some(other) => {
                    self.wrong("BLPOP", &other);
                    tokio::time::sleep(self.plan.think).await;
                    continue;
                }
                None => {
                    self.journal.in_hand += 1;
                    continue;
                }
            };
            self.write_down(&done, &token).await;
        }
        self.end_pause();
        self.journal
    }

    /// A refused note is tried again: the token left the queue and must not be forgotten. An unclear one is not,
    /// or it could be there twice.
    async fn write_down(&mut self, done: &str, token: &[u8]) {
        loop {
            match self.ask(vec![request(&[b"RPUSH", done.as_bytes(), token])]).await.pop() {
                Some(BytesFrame::Integer(_)) => return self.acked_reply(),
                Some(other) => self.wrong("RPUSH", &other),
                None => return self.journal.in_hand += 1,
            }
            if self.stopped() {
                return self.journal.in_hand += 1;
            }
            tokio::time::sleep(self.plan.think).await;
        }
    }

    async fn set(&mut self) {
        let token = self.take_token();
        let key = keys::nth(&self.stem, token);
        let value = token.to_string();
        let reply = self.ask(vec![request(&["SET", &key, &value])]).await.pop();
        if !self.settle(token, "SET", reply, is_ok) {
            return;
        }
        self.read_back(&key, value.as_bytes()).await;
    }

    async fn big(&mut self) {
        let token = self.take_token();
        let key = keys::nth(&self.stem, token % keys::BIG_SLOTS);
        let value = keys::big_value(self.journal.id, token, self.plan.big_bytes);
        let reply = self.ask(vec![request(&[b"SET", key.as_bytes(), &value])]).await.pop();
        if self.settle(token, "SET", reply, is_ok) {
            self.read_back(&key, &value).await;
        }
    }

    async fn read_back(&mut self, key: &str, value: &[u8]) {
        match self.ask(vec![request(&["GET", key])]).await.pop() {
            Some(BytesFrame::BulkString(read)) if read == value => {}
            Some(other) => self.wrong("GET after SET", &other),
            None => {}
        }
    }

    async fn incr(&mut self) {
        let token = self.take_token();
        let reply = self.ask(vec![request(&["INCR", &self.stem])]).await.pop();
        let count = integer(&reply);
        self.settle(token, "INCR", reply, |reply| matches!(reply, BytesFrame::Integer(_)));
        self.follows("INCR", count, 1);
    }

    async fn rpush(&mut self) {
        let token = self.take_token();
        let reply = self.ask(vec![request(&["RPUSH", &self.stem, &token.to_string()])]).await.pop();
        self.settle(token, "RPUSH", reply, |reply| matches!(reply, BytesFrame::Integer(_)));
    }

    async fn xadd(&mut self) {
        let token = self.take_token();
        let add = request(&["XADD", &self.stem, "*", "n", &token.to_string()]);
        let reply = self.ask(vec![add]).await.pop();
        self.settle(token, "XADD", reply, |reply| matches!(reply, BytesFrame::BulkString(_)));
    }

    async fn ping(&mut self) {
        let token = self.take_token();
        let reply = self.ask(vec![request(&["PING"])]).await.pop();
        self.settle(token, "PING", reply, |reply| is_simple(reply, "PONG"));
    }

    /// Even tokens in one write, as a client library's transaction; odd ones word by word.
    async fn multi(&mut self) {
        let token = self.take_token();
        let (number, second) = (token.to_string(), keys::second(&self.stem));
        let block = vec![
            request(&["MULTI"]),
            request(&["RPUSH", &self.stem, &number]),
            request(&["RPUSH", &second, &number]),
            request(&["EXEC"]),
        ];
        let mut replies = Vec::new();
        if token.is_multiple_of(2) {
            replies = self.ask(block).await;
        } else {
            for word in block {
                match self.ask(vec![word]).await.pop() {
                    Some(reply) => replies.push(reply),
                    None => break,
                }
            }
        }
        let exec = (replies.len() == 4).then(|| replies.pop()).flatten();
        for (reply, expected) in replies.iter().zip(["OK", "QUEUED", "QUEUED"]) {
            if !is_simple(reply, expected) {
                self.wrong("MULTI block", reply);
            }
        }
        self.settle(token, "EXEC", exec, |reply| match reply {
            BytesFrame::Array(items) => {
                items.len() == 2 && items.iter().all(|item| matches!(item, BytesFrame::Integer(_)))
            }
            _ => false,
        });
    }

    async fn pipeline(&mut self) {
        let mut requests = Vec::with_capacity(PIPELINE);
        let mut tokens = Vec::with_capacity(PIPELINE);
        for place in 0..PIPELINE {
            if place == PIPELINE_READ_AT {
                requests.push(request(&["LLEN", &self.stem]));
                continue;
            }
            let token = self.take_token();
            tokens.push(token);
            requests.push(request(&["RPUSH", &self.stem, &token.to_string()]));
        }
        let mut replies = self.ask(requests).await.into_iter();
        let mut tokens = tokens.into_iter();
        for place in 0..PIPELINE {
            let reply = replies.next();
            let count = integer(&reply);
            if place == PIPELINE_READ_AT {
                match reply {
                    Some(BytesFrame::Integer(_)) | None => self.follows("LLEN", count, 0),
                    Some(other) => self.wrong("LLEN", &other),
                }
                continue;
            }
            let token = tokens.next().expect("a token for each RPUSH");
            self.settle(token, "RPUSH", reply, |reply| matches!(reply, BytesFrame::Integer(_)));
            self.follows("RPUSH", count, 1);
        }
    }

    /// A counter's answer must be the last one plus `step`: reads see writes, and nothing is done twice.
    fn follows(&mut self, what: &str, count: Option<i64>, step: i64) {
        let fits = match (self.last_count, count) {
            (Some(last), Some(count)) => count == last + step,
            // After an unclear outcome any answer starts the row anew; an error leaves the row as it is.
            (None, _) | (_, None) => true,
        };
        if !fits {
            let last = self.last_count.unwrap_or_default();
            self.journal.unexpected += 1;
            self.note(format!("{what} counted {} after {last}", count.unwrap_or_default()));
        }
        if count.is_some() {
            self.last_count = count;
        }
    }

    fn take_token(&mut self) -> usize {
        self.journal.fates.push(Fate::Unknown);
        self.journal.fates.len() - 1
    }

    /// Writes a token's fate down; true when it was acknowledged.
    fn settle(
        &mut self,
        token: usize,
        what: &str,
        reply: Option<BytesFrame>,
        good: fn(&BytesFrame) -> bool,
    ) -> bool {
        match reply {
            Some(reply) if good(&reply) => {
                self.journal.fates[token] = Fate::Acked;
                self.acked_reply();
                true
            }
            Some(reply) => {
                // A reply that is neither says nothing about the token.
                if let BytesFrame::Error(_) = reply {
                    self.journal.fates[token] = Fate::Refused;
                }
                self.wrong(what, &reply);
                false
            }
            None => {
                self.last_count = None;
                false
            }
        }
    }

    fn acked_reply(&mut self) {
        self.live.acked.fetch_add(1, Relaxed);
        self.end_pause();
    }

    fn end_pause(&mut self) {
        if let Some(since) = self.waiting_since.take() {
            self.journal.longest_pause = self.journal.longest_pause.max(since.elapsed());
        }
    }

    fn wrong(&mut self, what: &str, reply: &BytesFrame) {
        match reply {
            BytesFrame::Error(text) => {
                self.journal.refused += 1;
                self.note(format!("{what}: -{text}"));
            }
            other => {
                self.journal.unexpected += 1;
                let mut shown = format!("{what} answered {other:?}");
                shown.truncate(shown.char_indices().nth(160).map_or(shown.len(), |(at, _)| at));
                self.note(shown);
            }
        }
    }

    fn note(&mut self, text: String) {
        self.live.errors.fetch_add(1, Relaxed);
        let texts = &mut self.journal.texts;
        let text =
            if texts.len() < TEXTS_MAX || texts.contains_key(&text) { text } else { "others".to_owned() };
        *texts.entry(text).or_default() += 1;
    }

    fn stopped(&self) -> bool {
        self.stop.load(Acquire)
    }

    async fn ask_untimed(&mut self, words: &[&str]) -> Option<BytesFrame> {
        self.talk(vec![request(words)]).await.pop()
    }

    /// Sends requests in one write. Fewer replies than requests: the connection is gone, and that was noted.
    async fn ask(&mut self, requests: Vec<BytesFrame>) -> Vec<BytesFrame> {
        let begun = Instant::now();
        self.waiting_since.get_or_insert(begun);
        let replies = self.talk(requests).await;
        self.journal.latency.saturating_record(begun.elapsed().as_micros() as u64);
        replies
    }

    async fn talk(&mut self, requests: Vec<BytesFrame>) -> Vec<BytesFrame> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => match Link::connect(&self.plan.target).await {
                Ok(link) => link,
                Err(error) => {
                    self.broke("connecting", &error);
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                    return Vec::new();
                }
            },
        };
        let (replies, ended) = link.exchange(requests).await;
        match ended {
            Ok(()) if link.surplus().is_empty() => self.link = Some(link),
            Ok(()) => {
                self.journal.unexpected += 1;
                self.note("a reply that nobody asked for".to_owned());
            }
            Err(error) => {
                self.broke("waiting for a reply", &error);
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
        replies
    }

    fn broke(&mut self, when: &str, error: &std::io::Error) {
        self.journal.broken += 1;
        self.note(format!("connection broke while {when}: {:?}", error.kind()));
    }
}

fn is_ok(reply: &BytesFrame) -> bool {
    is_simple(reply, "OK")
}

fn is_simple(reply: &BytesFrame, word: &str) -> bool {
    matches!(reply, BytesFrame::SimpleString(text) if text == word)
}

fn integer(reply: &Option<BytesFrame>) -> Option<i64> {
    match reply {
        Some(BytesFrame::Integer(count)) => Some(*count),
        _ => None,
    }
}
