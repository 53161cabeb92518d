//! What the client has set up on its connection: transaction, watches, database, protocol version,
//! subscriptions. Requests announce a change, replies confirm it; each field says which it follows.
//!
//! Refuses to know bytes and sockets. Invariant: everything here can be rebuilt from RESET.

use crate::command::Topic;

use super::setup::Lazy;

/// See the module's page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Inside MULTI, as requests say. Holds where the transaction's bytes begin.
    pub transaction: Option<Transaction>,
    /// WATCH since the last EXEC, DISCARD or UNWATCH, as requests say.
    pub watching: bool,
    /// RESP version, as replies to HELLO confirm.
    pub proto: u8,
    /// Selected database, as replies confirm; `None` when a transaction may have changed it.
    pub db: Option<u32>,
    /// SUBSCRIBE requests whose replies are not all here.
    pub subscribing: u32,
    /// What a new server would have to be told.
    pub setup: Lazy,
    channels: u64,
    patterns: u64,
    shards: u64,
}

/// An open MULTI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Its number, from 1: the slots of one transaction share it.
    pub id: u32,
    /// Position of MULTI in the retained bytes.
    pub start: u64,
    /// Nothing in it may be sent again: a WATCH came before it, or its bytes are not all retained.
    pub sealed: bool,
    /// SELECT is among the queued.
    pub selects: bool,
    /// SUBSCRIBE or HELLO is among the queued: EXEC's reply will not be countable.
    pub uncountable: bool,
}

impl Default for State {
    fn default() -> Self {
        State {
            transaction: None,
            watching: false,
            proto: 2,
            db: Some(0),
            subscribing: 0,
            setup: Lazy::default(),
            channels: 0,
            patterns: 0,
            shards: 0,
        }
    }
}

/// The words of confirmations (`pubsub.c:addReplyPubsubSubscribed` and its siblings).
const CONFIRMATIONS: [(&[u8], Topic, bool); 6] = [
    (b"subscribe", Topic::Channel, true),
    (b"unsubscribe", Topic::Channel, false),
    (b"psubscribe", Topic::Pattern, true),
    (b"punsubscribe", Topic::Pattern, false),
    (b"ssubscribe", Topic::Shard, true),
    (b"sunsubscribe", Topic::Shard, false),
];

/// The words of messages (`pubsub.c:addReplyPubsubMessage` and its siblings).
const MESSAGES: [&[u8]; 3] = [b"message", b"pmessage", b"smessage"];

impl State {
    /// Topics of this kind subscribed to now.
    pub fn topics(&self, topic: Topic) -> u64 {
        match topic {
            Topic::Channel => self.channels,
            Topic::Pattern => self.patterns,
            Topic::Shard => self.shards,
        }
    }

    /// Do arrays have to be looked into? RESP2 delivers messages as arrays once a subscription stands.
    pub fn reads_words(&self) -> bool {
        self.subscribing > 0 || self.is_subscribed()
    }

    /// Any subscription stands.
    pub fn is_subscribed(&self) -> bool {
        self.channels + self.patterns + self.shards > 0
    }

    /// A push or array that begins with `word` and ends with the count `total`: which topic and
    /// direction it confirms.
    pub fn confirmation(word: &[u8]) -> Option<(Topic, bool)> {
        CONFIRMATIONS.iter().find(|(w, ..)| *w == word).map(|&(_, topic, on)| (topic, on))
    }

    /// Is it a message that nobody asked for?
    pub fn is_message(word: &[u8]) -> bool {
        MESSAGES.contains(&word)
    }

    /// Takes a confirmation in. `total` is the count the server gave: channels and patterns together
    /// (`pubsub.c:clientSubscriptionsCount`), or shard channels alone.
    pub fn confirm(&mut self, topic: Topic, total: i64) {
        let total = u64::try_from(total).unwrap_or(0);
        match topic {
            Topic::Channel => self.channels = total.saturating_sub(self.patterns),
            Topic::Pattern => self.patterns = total.saturating_sub(self.channels),
            Topic::Shard => self.shards = total,
        }
    }

    /// RESET was answered: back to the beginning (`networking.c:resetCommand`). What requests say is ahead of
    /// it already.
    pub fn reset(&mut self) {
        let State { subscribing, transaction, watching, ref mut setup, .. } = *self;
        setup.reset();
        let setup = std::mem::take(setup);
        *self = State { subscribing, transaction, watching, setup, ..State::default() };
    }

    /// Do the names that are kept stand for all the server counts? A server may let go of a topic unasked.
    pub fn knows_topics(&self) -> bool {
        [Topic::Channel, Topic::Pattern, Topic::Shard]
            .into_iter()
            .all(|topic| self.setup.topics(topic) as u64 == self.topics(topic))
    }

    /// A new server knows nothing of this client yet; what it is to be told stays.
    pub fn arrive(&mut self) {
        let setup = std::mem::take(&mut self.setup);
        *self = State { setup, ..State::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_totals_tell_channels_from_patterns() {
        let mut state = State::default();
        for (topic, total, expected) in [
            (Topic::Channel, 1, (1, 0)),
            (Topic::Channel, 1, (1, 0)),
            (Topic::Pattern, 2, (1, 1)),
            (Topic::Channel, 3, (2, 1)),
            (Topic::Pattern, 2, (2, 0)),
            (Topic::Channel, 1, (1, 0)),
            (Topic::Channel, 0, (0, 0)),
        ] {
            state.confirm(topic, total);
            assert_eq!((state.channels, state.patterns), expected);
        }
        assert!(!state.is_subscribed());
    }
}
