//! The command table: name → what a request does to a session, and what may be done with it when the
//! server refuses it.
//!
//! Built in is what Redis 7.0 and its successors know; the server's own `COMMAND` refreshes it, so
//! module commands and newer ones are known too. Refuses to know sessions and replies.
//!
//! Invariant: a name that is in neither table is [`Kind::Unknown`]: sent on, never held, never repeated.

use crate::resp::request::Head;

/// Kinds of requests, as metrics show them (label `class`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Pure reads.
    Read = 0,
    /// Writes, and PING, which is refused like one.
    Write = 1,
    /// EVAL, FCALL and their kin.
    Script = 2,
    /// MULTI, EXEC, DISCARD, WATCH, UNWATCH.
    Transaction = 3,
    /// SUBSCRIBE and its kin, PUBLISH.
    Pubsub = 4,
    /// Everything else.
    Other = 5,
}

impl Class {
    /// Every class, with its name.
    pub const ALL: [(Class, &'static str); 6] = [
        (Class::Read, "read"),
        (Class::Write, "write"),
        (Class::Script, "script"),
        (Class::Transaction, "transaction"),
        (Class::Pubsub, "pubsub"),
        (Class::Other, "other"),
    ];
}

/// What a subscription is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// SUBSCRIBE.
    Channel,
    /// PSUBSCRIBE.
    Pattern,
    /// SSUBSCRIBE.
    Shard,
}

/// What a request does, as far as replay is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads keys and changes nothing: may be asked again.
    Read,
    /// Flagged `write`: refused as a whole or run as a whole.
    Write,
    /// Refused like a write (`server.c:processCommand`).
    Ping,
    /// May write, and may have done part of it before a refusal.
    Script,
    /// Changes something other than keys, or nothing: what is done is not repeated.
    Effect,
    /// In no table: may be anything.
    Unknown,
    /// Changes something about its own connection and nothing that later requests mean; done is done.
    Setting,
    /// Changes what later requests of the session mean; never moved across a replay.
    State,
    /// SELECT: a state that can be rewound.
    Select,
    /// HELLO: may change the protocol version.
    Hello,
    /// RESET: everything back to the beginning.
    Reset,
    /// MULTI.
    Multi,
    /// EXEC.
    Exec,
    /// DISCARD.
    Discard,
    /// WATCH.
    Watch,
    /// UNWATCH.
    Unwatch,
    /// One reply for each topic named.
    Subscribe(Topic),
    /// One reply for each topic named; for each topic subscribed to when none is named.
    Unsubscribe(Topic),
    /// From its reply on the server talks unasked.
    Monitor,
    /// SYNC, PSYNC: the connection turns into a replication stream.
    Replicate,
    /// CLIENT REPLY OFF or SKIP: requests without replies.
    ReplyOff,
}

impl Kind {
    /// Refused by a server that cannot save, or perhaps so: parked while the gate is shut.
    pub fn is_gated(self) -> bool {
        matches!(self, Kind::Write | Kind::Ping | Kind::Script | Kind::Exec)
    }

    /// Part of what the client sets up on its connection: said again where the session moves to.
    pub fn sets_up(self) -> bool {
        matches!(self, Kind::Setting | Kind::State | Kind::Hello | Kind::Subscribe(_) | Kind::Unsubscribe(_))
    }

    /// The label it counts under.
    pub fn class(self) -> Class {
        match self {
            Kind::Read => Class::Read,
            Kind::Write | Kind::Ping => Class::Write,
            Kind::Script => Class::Script,
            Kind::Multi | Kind::Exec | Kind::Discard | Kind::Watch | Kind::Unwatch => Class::Transaction,
            Kind::Subscribe(_) | Kind::Unsubscribe(_) => Class::Pubsub,
            Kind::Effect
            | Kind::Unknown
            | Kind::Setting
            | Kind::State
            | Kind::Select
            | Kind::Hello
            | Kind::Reset
            | Kind::Monitor
            | Kind::Replicate
            | Kind::ReplyOff => Class::Other,
        }
    }
}

/// Names with the flag `readonly` in Redis 7.0 to 8.2 and Valkey 9 (`src/commands/*.json`).
const READS: &str = "bitcount bitfield_ro bitpos dbsize dump eval_ro evalsha_ro exists expiretime fcall_ro geodist geohash \
    geopos georadius_ro georadiusbymember_ro geosearch get getbit getrange hexists hexpiretime hget hgetall hkeys hlen hmget \
    hpexpiretime hpttl hrandfield hscan hstrlen httl hvals keys lcs lindex llen lolwut lpos lrange mget object pexpiretime \
    pfcount pttl randomkey scan scard sdiff sinter sintercard sismember smembers smismember sort_ro srandmember sscan strlen \
    substr sunion touch ttl type xinfo xlen xpending xrange xrevrange zcard zcount zdiff zinter zintercard zlexcount \
    zmscore zrandmember zrange zrangebylex zrangebyscore zrank zrevrange zrevrangebylex zrevrangebyscore zrevrank zscan zscore \
    zunion";

/// Names with the flag `write`.
const WRITES: &str = "append bitfield bitop blmove blmpop blpop brpop brpoplpush bzmpop bzpopmax bzpopmin copy decr decrby del \
    delex delifeq expire expireat flushall flushdb geoadd georadius georadiusbymember geosearchstore getdel getex getset hdel \
    hexpire hexpireat hgetdel hgetex hincrby hincrbyfloat hmset hpersist hpexpire hpexpireat hset hsetex hsetnx incr incrby \
    incrbyfloat linsert lmove lmpop lpop lpush lpushx lrem lset ltrim migrate move mset msetex msetnx persist pexpire pexpireat \
    pfadd pfdebug pfmerge psetex rename renamenx restore restore-asking rpop rpoplpush rpush rpushx sadd sdiffstore set setbit \
    setex setnx setrange sinterstore smove sort spop srem sunionstore swapdb unlink xack xackdel xadd xautoclaim xclaim xdel \
    xdelex xgroup xreadgroup xsetid xtrim zadd zdiffstore zincrby zinterstore zmpop zpopmax zpopmin zrangestore zrem \
    zremrangebylex zremrangebyrank zremrangebyscore zunionstore";

/// Neither, and nothing that later requests depend on.
const EFFECTS: &str = "acl client cluster command config debug echo function info lastsave latency memory module publish pubsub \
    replconf role script slowlog spublish time xread";

/// What they answer speaks of the writes before them on the connection (`replication.c:waitCommand`): behind a write
/// that is sent again they are asked again.
const WITNESSES: [&str; 2] = ["wait", "waitaof"];

/// Saves and changes of role: done before a write, they would not cover it if it were sent again behind them.
const MILESTONES: &str = "bgrewriteaof bgsave failover replicaof save shutdown slaveof";

/// Names with rules of their own.
const SPECIALS: [(&str, Kind); 26] = [
    ("ping", Kind::Ping),
    ("eval", Kind::Script),
    ("evalsha", Kind::Script),
    ("fcall", Kind::Script),
    ("select", Kind::Select),
    ("hello", Kind::Hello),
    ("reset", Kind::Reset),
    ("quit", Kind::State),
    ("auth", Kind::State),
    ("asking", Kind::State),
    ("readonly", Kind::State),
    ("readwrite", Kind::State),
    ("multi", Kind::Multi),
    ("exec", Kind::Exec),
    ("discard", Kind::Discard),
    ("watch", Kind::Watch),
    ("unwatch", Kind::Unwatch),
    ("subscribe", Kind::Subscribe(Topic::Channel)),
    ("psubscribe", Kind::Subscribe(Topic::Pattern)),
    ("ssubscribe", Kind::Subscribe(Topic::Shard)),
    ("unsubscribe", Kind::Unsubscribe(Topic::Channel)),
    ("punsubscribe", Kind::Unsubscribe(Topic::Pattern)),
    ("sunsubscribe", Kind::Unsubscribe(Topic::Shard)),
    ("monitor", Kind::Monitor),
    ("sync", Kind::Replicate),
    ("psync", Kind::Replicate),
];

/// What a word after the name makes of a command.
const REFINED: [(&str, &str, Kind); 14] = [
    ("function", "load", Kind::Write),
    ("function", "delete", Kind::Write),
    ("function", "flush", Kind::Write),
    ("function", "restore", Kind::Write),
    // It may block: asked again, it would wait for entries that it has given already.
    ("xread", "block", Kind::Unknown),
    ("xread", "count", Kind::Unknown),
    ("xread", "streams", Kind::Read),
    ("client", "caching", Kind::State),
    ("client", "reply", Kind::ReplyOff),
    ("client", "setname", Kind::Setting),
    ("client", "setinfo", Kind::Setting),
    ("client", "tracking", Kind::Setting),
    ("client", "no-evict", Kind::Setting),
    ("client", "no-touch", Kind::Setting),
];

/// Longest name in any table.
const NAME_MAX: usize = 24;
/// A power of two, at least twice what any server lists, so that probes stay short.
const SLOTS: usize = 2048;

type Key = [u64; NAME_MAX / 8];

/// What one server's commands do. Read-only once built; sessions share it.
pub struct Table {
    slots: Box<[Option<(Key, Kind)>; SLOTS]>,
    len: usize,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Table {
    /// The built-in table.
    pub fn builtin() -> Self {
        let mut table = Table { slots: Box::new([None; SLOTS]), len: 0 };
        let plain =
            [(READS, Kind::Read), (WRITES, Kind::Write), (EFFECTS, Kind::Effect), (MILESTONES, Kind::State)];
        for (names, kind) in plain {
            for name in names.split_ascii_whitespace() {
                table.insert(name.as_bytes(), kind);
            }
        }
        for (name, kind) in SPECIALS {
            table.insert(name.as_bytes(), kind);
        }
        for name in WITNESSES {
            table.insert(name.as_bytes(), Kind::Read);
        }
        table
    }

    /// The built-in table, corrected by what the server's own `COMMAND` says of each name: is it flagged
    /// `write`, is it flagged `readonly`. Names with rules of their own keep them.
    pub fn refreshed<'a>(commands: impl IntoIterator<Item = (&'a [u8], bool, bool)>) -> Self {
        let mut table = Self::builtin();
        for (name, write, readonly) in commands {
            let kind = match (write, readonly) {
                (true, _) => Kind::Write,
                (false, true) => Kind::Read,
                (false, false) => Kind::Effect,
            };
            match table.find(name) {
                None | Some(Kind::Read | Kind::Write) => table.insert(name, kind),
                // XGROUP and its like are flagged by their subcommands only.
                Some(_) => {}
            }
        }
        // A container reports no flag of its own; its writes are what matters.
        table.insert(b"xgroup", Kind::Write);
        for name in ["object", "xinfo"].into_iter().chain(WITNESSES) {
            table.insert(name.as_bytes(), Kind::Read);
        }
        table
    }

    /// What this request does.
    #[inline]
    pub fn kind(&self, head: &Head<'_>) -> Kind {
        match self.find(head.name) {
            Some(Kind::Effect) => refine(head),
            Some(kind) => kind,
            None => Kind::Unknown,
        }
    }

    #[inline]
    fn find(&self, name: &[u8]) -> Option<Kind> {
        let key = key(name)?;
        let mut i = hash(&key);
        while let Some((known, kind)) = &self.slots[i] {
            if *known == key {
                return Some(*kind);
            }
            i = (i + 1) % SLOTS;
        }
        None
    }

    fn insert(&mut self, name: &[u8], kind: Kind) {
        let Some(key) = key(name) else { return };
        let mut i = hash(&key);
        while let Some((known, old)) = &mut self.slots[i] {
            if *known == key {
                *old = kind;
                return;
            }
            i = (i + 1) % SLOTS;
        }
        // Half full is where probing would begin to cost; a server with more names keeps the rest unknown.
        if self.len < SLOTS / 2 {
            self.slots[i] = Some((key, kind));
            self.len += 1;
        }
    }
}

/// Commands whose second word decides.
fn refine(head: &Head<'_>) -> Kind {
    let is = |word: &[u8], text: &str| word.eq_ignore_ascii_case(text.as_bytes());
    let row = REFINED.iter().find(|(name, sub, _)| is(head.name, name) && is(head.word(1), sub));
    match row {
        // CLIENT REPLY ON is answered like any other; what has lost count stays so.
        Some((_, _, Kind::ReplyOff)) if is(head.word(2), "on") => Kind::Effect,
        Some((_, _, kind)) => *kind,
        None => Kind::Effect,
    }
}

/// The name in lower case as three words to compare, its length in the last byte. Loads overlap instead
/// of copying to a buffer: a copy of a length known only at run time stalls the loads behind it.
#[inline]
fn key(name: &[u8]) -> Option<Key> {
    const LOWER: u64 = 0x2020_2020_2020_2020;
    let len = name.len();
    if len >= NAME_MAX {
        return None;
    }
    let tail = |from: usize| if len > from { word(&name[from..]) | LOWER } else { 0 };
    Some([tail(0), tail(8), (tail(16) & (u64::MAX >> 8)) | (len as u64) << 56])
}

/// The first eight bytes; of fewer, a value that differs for any two names of one length.
#[inline]
fn word(bytes: &[u8]) -> u64 {
    let four = |at: usize| u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")));
    match bytes.len() {
        8.. => u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")),
        n @ 4..=7 => four(0) | four(n - 4) << 32,
        n @ 1..=3 => u64::from(bytes[0]) | u64::from(bytes[n / 2]) << 8 | u64::from(bytes[n - 1]) << 16,
        0 => 0,
    }
}

#[inline]
fn hash(key: &Key) -> usize {
    let mixed = key[0] ^ key[1].rotate_left(21) ^ key[2].rotate_left(42);
    (mixed.wrapping_mul(0x517c_c1b7_2722_0a95) >> (64 - SLOTS.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::request::{Parsed, parse};

    fn kind(table: &Table, words: [&str; 3]) -> Kind {
        let bulk = |word: &str| format!("${}\r\n{word}\r\n", word.len());
        let request = format!("*3\r\n{}", words.map(bulk).concat());
        match parse(request.as_bytes()) {
            Parsed::Whole { head, .. } => table.kind(&head),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_are_found_in_any_case_with_their_rules() {
        let table = Table::builtin();
        let cases = [
            (["SET", "k", "v"], Kind::Write),
            (["GeT", "k", ""], Kind::Read),
            (["georadiusbymember_RO", "k", ""], Kind::Read),
            (["PING", "", ""], Kind::Ping),
            (["FUNCTION", "LOAD", "x"], Kind::Write),
            (["FUNCTION", "LIST", ""], Kind::Effect),
            (["XREAD", "STREAMS", "s"], Kind::Read),
            (["xread", "BLOCK", "0"], Kind::Unknown),
            (["CLIENT", "reply", "OFF"], Kind::ReplyOff),
            (["client", "REPLY", "on"], Kind::Effect),
            (["CLIENT", "SETNAME", "x"], Kind::Setting),
            (["CLIENT", "GETNAME", ""], Kind::Effect),
            (["WAIT", "1", "0"], Kind::Read),
            (["BGSAVE", "", ""], Kind::State),
            (["json.set", "k", ""], Kind::Unknown),
            (["a name that is far too long for any table", "", ""], Kind::Unknown),
            (["", "", ""], Kind::Unknown),
        ];
        for (words, expected) in cases {
            assert_eq!(kind(&table, words), expected, "{words:?}");
        }
    }

    #[test]
    fn the_servers_own_list_wins_where_we_have_no_rule() {
        let table = Table::refreshed([
            (&b"json.set"[..], true, false),
            (b"json.get", false, true),
            (b"eval", true, false),
            (b"get", true, false),
            (b"xgroup", false, false),
            (b"wait", false, false),
            (b"save", false, false),
        ]);
        assert_eq!(kind(&table, ["WAIT", "1", "0"]), Kind::Read);
        assert_eq!(kind(&table, ["SAVE", "", ""]), Kind::State);
        assert_eq!(kind(&table, ["JSON.SET", "", ""]), Kind::Write);
        assert_eq!(kind(&table, ["JSON.GET", "", ""]), Kind::Read);
        assert_eq!(kind(&table, ["EVAL", "", ""]), Kind::Script);
        assert_eq!(kind(&table, ["GET", "", ""]), Kind::Write);
        assert_eq!(kind(&table, ["XGROUP", "CREATE", ""]), Kind::Write);
    }
}
