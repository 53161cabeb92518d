//! The judge: what the server holds against what the writers were told.
//!
//! Refuses to know: how it was written. Invariant: every acknowledged token is looked for in Redis itself, and one
//! that is missing, there twice or out of order is counted, whatever the writer saw.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use redis_protocol::resp2::types::OwnedFrame;

use super::{Fate, Journal, Kind, Ran, keys};
use crate::testing::client::{Direct, text};

/// What became of the tokens of one kind, or of all.
#[derive(Clone, Debug)]
pub struct KindScore {
    /// Tokens sent.
    pub sent: u64,
    /// Of these, those the server said were done.
    pub acknowledged: u64,
    /// Error replies.
    pub refused: u64,
    /// Replies that were neither an error nor what was expected: a stale read, a wrong count, one too many.
    pub unexpected: u64,
    /// Connections that failed.
    pub broken: u64,
    /// Acknowledged and not there.
    pub lost: u64,
    /// There more than once, or there although refused.
    pub doubled: u64,
    /// Places where a later token stands before an earlier one of the same writer.
    pub reordered: u64,
    /// The longest time a writer of small values went without a success that it was trying for.
    pub longest_pause: Duration,
    /// The same for a writer of 1 MB values, whose transfer alone takes long on a paced loopback.
    pub longest_transfer: Duration,
    /// Microseconds from request to reply; blocking pops left out.
    pub latency: Histogram<u64>,
}

impl Default for KindScore {
    fn default() -> Self {
        KindScore {
            sent: 0,
            acknowledged: 0,
            refused: 0,
            unexpected: 0,
            broken: 0,
            lost: 0,
            doubled: 0,
            reordered: 0,
            longest_pause: Duration::ZERO,
            longest_transfer: Duration::ZERO,
            latency: Histogram::new(3).expect("three digits are a valid precision"),
        }
    }
}

impl KindScore {
    /// Everything that an application would have noticed.
    pub fn errors(&self) -> u64 {
        self.refused + self.unexpected + self.broken
    }

    /// Nothing acknowledged is lost, doubled or reordered, and no reply was a lie.
    pub fn honest(&self) -> bool {
        self.lost + self.doubled + self.reordered + self.unexpected == 0
    }

    /// Honest, and the application noticed nothing.
    pub fn perfect(&self) -> bool {
        self.honest() && self.errors() == 0
    }

    fn add(&mut self, other: &KindScore) {
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unexpected += other.unexpected;
        self.broken += other.broken;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.longest_pause = self.longest_pause.max(other.longest_pause);
        self.longest_transfer = self.longest_transfer.max(other.longest_transfer);
        self.latency.add(&other.latency).expect("all histograms resize themselves");
    }
}

/// The verdict on a run.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// All kinds together.
    pub total: KindScore,
    /// Kind by kind.
    pub kinds: BTreeMap<Kind, KindScore>,
    /// What was wrong, in words, and how often.
    pub texts: BTreeMap<String, u64>,
}

impl Ran {
    /// Asks the server itself. `server` must be a connection past the proxy, and nobody else may be writing.
    pub fn verify(&self, server: &mut Direct) -> io::Result<Score> {
        let mut score = Score::default();
        // A queue's two tasks are judged as one: the producer's tokens, the consumer's allowance.
        let mut in_hand: BTreeMap<usize, u64> = BTreeMap::new();
        for journal in &self.journals {
            *in_hand.entry(journal.id).or_default() += journal.in_hand;
        }
        for journal in &self.journals {
            let stem = keys::stem(&self.plan.name, journal.kind, journal.id);
            let truth = match journal.kind {
                _ if journal.fates.is_empty() => Truth::default(),
                Kind::Set => judge_set(server, &stem, &journal.fates)?,
                Kind::Incr => judge_incr(server, &stem, &journal.fates)?,
                Kind::Rpush | Kind::Pipeline => judge(&journal.fates, &list(server, &stem)?),
                Kind::Xadd => judge(&journal.fates, &stream(server, &stem)?),
                Kind::Multi => {
                    let second = list(server, &keys::second(&stem))?;
                    judge_multi(&journal.fates, &list(server, &stem)?, &second)
                }
                Kind::Queue => {
                    let mut tokens = list(server, &keys::second(&stem))?;
                    tokens.extend(list(server, &stem)?);
                    let mut truth = judge(&journal.fates, &tokens);
                    truth.lost = truth.lost.saturating_sub(in_hand[&journal.id]);
                    truth
                }
                Kind::Big => self.judge_big(server, &stem, journal)?,
                Kind::Ping => Truth::default(),
            };
            let of_writer = told(journal, &truth);
            score.total.add(&of_writer);
            score.kinds.entry(journal.kind).or_default().add(&of_writer);
            for (text, count) in &journal.texts {
                *score.texts.entry(text.clone()).or_default() += count;
            }
        }
        Ok(score)
    }

    fn judge_big(&self, server: &mut Direct, stem: &str, journal: &Journal) -> io::Result<Truth> {
        let mut truth = Truth::default();
        for slot in 0..keys::BIG_SLOTS {
            let stored = server.demand(&["GET", &keys::nth(stem, slot)])?;
            let OwnedFrame::BulkString(stored) = stored else {
                let acked = |token: &usize| journal.fates[*token] == Fate::Acked;
                truth.lost += u64::from(slots_tokens(journal, slot).any(|token| acked(&token)));
                continue;
            };
            let is = |token: &usize| stored == keys::big_value(journal.id, *token, self.plan.big_bytes);
            match slots_tokens(journal, slot).rev().find(is) {
                None => truth.lost += 1,
                Some(token) => {
                    truth.doubled += u64::from(journal.fates[token] == Fate::Refused);
                    let later = slots_tokens(journal, slot).filter(|&other| other > token);
                    let overtaken = later.filter(|&other| journal.fates[other] == Fate::Acked).count();
                    truth.reordered += u64::from(overtaken > 0);
                }
            }
        }
        Ok(truth)
    }
}

fn slots_tokens(journal: &Journal, slot: usize) -> impl DoubleEndedIterator<Item = usize> {
    (0..journal.fates.len()).filter(move |token| token % keys::BIG_SLOTS == slot)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Truth {
    lost: u64,
    doubled: u64,
    reordered: u64,
}

fn told(journal: &Journal, truth: &Truth) -> KindScore {
    let (small, big) = match journal.kind {
        Kind::Big => (Duration::ZERO, journal.longest_pause),
        _ => (journal.longest_pause, Duration::ZERO),
    };
    KindScore {
        sent: journal.fates.len() as u64,
        acknowledged: journal.fates.iter().filter(|&&fate| fate == Fate::Acked).count() as u64,
        refused: journal.refused,
        unexpected: journal.unexpected,
        broken: journal.broken,
        lost: truth.lost,
        doubled: truth.doubled,
        reordered: truth.reordered,
        longest_pause: small,
        longest_transfer: big,
        latency: journal.latency.clone(),
    }
}

/// Tokens in the order they stand in Redis, against their fates. What is no token of this writer is a double too.
fn judge(fates: &[Fate], found: &[Option<usize>]) -> Truth {
    let mut seen = vec![0u64; fates.len()];
    let mut truth = Truth::default();
    let mut highest_acked = None;
    for &token in found {
        let Some(token) = token.filter(|&token| token < fates.len()) else {
            truth.doubled += 1;
            continue;
        };
        seen[token] += 1;
        match fates[token] {
            _ if seen[token] > 1 => truth.doubled += 1,
            Fate::Refused => truth.doubled += 1,
            // Sent on a connection that ended: it may overtake what its writer sent later on another one.
            Fate::Unknown => {}
            Fate::Acked => {
                truth.reordered += u64::from(highest_acked.is_some_and(|highest| token < highest));
                highest_acked = highest_acked.max(Some(token));
            }
        }
    }
    let missing = |(fate, count): (&Fate, &u64)| *fate == Fate::Acked && *count == 0;
    truth.lost = fates.iter().zip(&seen).filter(|&pair| missing(pair)).count() as u64;
    truth
}

/// Both lists are judged; a token that is in one only is a torn transaction, and half of it is lost.
fn judge_multi(fates: &[Fate], first: &[Option<usize>], second: &[Option<usize>]) -> Truth {
    let (one, two) = (judge(fates, first), judge(fates, second));
    let count = |list: &[Option<usize>]| {
        let mut seen = vec![false; fates.len()];
        for token in list.iter().flatten().filter(|&&token| token < fates.len()) {
            seen[*token] = true;
        }
        seen
    };
    let pairs = count(first).into_iter().zip(count(second)).zip(fates);
    // An acknowledged token that is missing is counted by `judge` already.
    let torn = pairs.filter(|((one, two), fate)| one != two && **fate != Fate::Acked).count() as u64;
    Truth {
        lost: one.lost.max(two.lost) + torn,
        doubled: one.doubled.max(two.doubled),
        reordered: one.reordered.max(two.reordered),
    }
}

fn judge_incr(server: &mut Direct, key: &str, fates: &[Fate]) -> io::Result<Truth> {
    let count: u64 = text(&server.demand(&["GET", key])?).parse().unwrap_or(0);
    let of = |wanted: Fate| fates.iter().filter(|&&fate| fate == wanted).count() as u64;
    let (acked, unknown) = (of(Fate::Acked), of(Fate::Unknown));
    let lost = acked.saturating_sub(count);
    let doubled = count.saturating_sub(acked + unknown);
    Ok(Truth { lost, doubled, reordered: 0 })
}

fn judge_set(server: &mut Direct, stem: &str, fates: &[Fate]) -> io::Result<Truth> {
    let mut found = Vec::with_capacity(fates.len());
    for first in (0..fates.len()).step_by(500) {
        let tokens = first..fates.len().min(first + 500);
        let mut words = vec!["MGET".to_owned()];
        words.extend(tokens.clone().map(|token| keys::nth(stem, token)));
        let OwnedFrame::Array(values) = server.demand(&words)? else {
            return Err(io::Error::other("upstream: MGET answered no array"));
        };
        let intact =
            |(value, token): (&OwnedFrame, usize)| (text(value) == token.to_string()).then_some(token);
        found.extend(values.iter().zip(tokens).filter_map(intact).map(Some));
    }
    Ok(judge(fates, &found))
}

fn list(server: &mut Direct, key: &str) -> io::Result<Vec<Option<usize>>> {
    match server.demand(&["LRANGE", key, "0", "-1"])? {
        OwnedFrame::Array(items) => Ok(items.iter().map(|item| text(item).parse().ok()).collect()),
        other => Err(io::Error::other(format!("upstream: LRANGE answered {other:?}"))),
    }
}

fn stream(server: &mut Direct, key: &str) -> io::Result<Vec<Option<usize>>> {
    let OwnedFrame::Array(entries) = server.demand(&["XRANGE", key, "-", "+"])? else {
        return Err(io::Error::other("upstream: XRANGE answered no array"));
    };
    // An entry is [id, [field, value]].
    let number = |entry: &OwnedFrame| text(entry).rsplit(' ').next()?.parse().ok();
    Ok(entries.iter().map(number).collect())
}

/// The score of one or two runs, side by side, as a person reads it.
pub fn table(columns: &[(&str, &KindScore)]) -> String {
    type Row = (&'static str, fn(&KindScore) -> String);
    let rows: [Row; 10] = [
        ("sent", |score| score.sent.to_string()),
        ("acknowledged", |score| score.acknowledged.to_string()),
        ("errors", |score| score.errors().to_string()),
        ("lost", |score| score.lost.to_string()),
        ("doubled", |score| score.doubled.to_string()),
        ("reordered", |score| score.reordered.to_string()),
        ("longest pause", |score| millis(score.longest_pause)),
        ("… of 1 MB SETs", |score| millis(score.longest_transfer)),
        ("latency p50", |score| millis(Duration::from_micros(score.latency.value_at_quantile(0.5)))),
        ("latency p99", |score| millis(Duration::from_micros(score.latency.value_at_quantile(0.99)))),
    ];
    let mut out = format!("{:<16}", "");
    for (name, _) in columns {
        out += &format!("{name:>16}");
    }
    for (name, cell) in rows {
        out += &format!("\n{name:<16}");
        for (_, score) in columns {
            out += &format!("{:>16}", cell(score));
        }
    }
    out
}

fn millis(time: Duration) -> String {
    match time.as_micros() {
        micros @ 0..10_000 => format!("{:.1} ms", micros as f64 / 1000.0),
        micros => format!("{} ms", micros / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Fate::*;

    fn truth(lost: u64, doubled: u64, reordered: u64) -> Truth {
        Truth { lost, doubled, reordered }
    }

    #[test]
    fn the_judge_tells_lost_doubled_and_reordered_apart() {
        #[rustfmt::skip]
        let rows: [(&str, &[Fate], &[usize], Truth); 9] = [
            ("all there",                   &[Acked, Acked, Acked],   &[0, 1, 2],    truth(0, 0, 0)),
            ("one missing",                 &[Acked, Acked, Acked],   &[0, 2],       truth(1, 0, 0)),
            ("one twice",                   &[Acked, Acked, Acked],   &[0, 1, 1, 2], truth(0, 1, 0)),
            ("two swapped",                 &[Acked, Acked, Acked],   &[1, 0, 2],    truth(0, 0, 1)),
            ("refused and not there",       &[Acked, Refused, Acked], &[0, 2],       truth(0, 0, 0)),
            ("refused and yet there",       &[Acked, Refused, Acked], &[0, 1, 2],    truth(0, 1, 0)),
            ("unclear may be there",        &[Acked, Unknown, Acked], &[0, 2, 1],    truth(0, 0, 0)),
            ("unclear may not be there twice", &[Acked, Unknown],     &[0, 1, 1],    truth(0, 1, 0)),
            ("a number nobody sent",        &[Acked],                 &[0, 7],       truth(0, 1, 0)),
        ];
        for (name, fates, found, expected) in rows {
            let found: Vec<_> = found.iter().map(|&token| Some(token)).collect();
            assert_eq!(judge(fates, &found), expected, "{name}");
        }
    }

    #[test]
    fn a_torn_transaction_is_a_loss() {
        let fates = [Acked, Unknown];
        assert_eq!(judge_multi(&fates, &[Some(0), Some(1)], &[Some(0)]), truth(1, 0, 0));
        assert_eq!(judge_multi(&fates, &[Some(0), Some(1)], &[Some(0), Some(1)]), truth(0, 0, 0));
        assert_eq!(judge_multi(&fates, &[Some(0)], &[]), truth(1, 0, 0));
    }
}
