//! What a client has set up that a new server does not know: who it is, its names, its options, what it listens to.
//! Taken from requests once replies have confirmed them, and said again where the session moves to.
//!
//! Refuses to know replies, sockets, and when a session moves. Database and protocol version are
//! [`State`](super::state::State)'s, because replay needs them too.
//!
//! Invariants: what is said again leads to what the client has set up, or [`Setup::lost`] says why it cannot; no more
//! than [`BYTES_MAX`] are kept. Credentials are kept as the client sent them, in memory only: no format shows them,
//! and they are overwritten before they are let go.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::command::{Kind, Topic};
use crate::resp::encode;

/// Names and words of one session that are kept. With more the session stays where it is.
pub const BYTES_MAX: usize = 64 * 1024;

/// Words of one request, in their order.
type Words = Vec<Box<[u8]>>;

/// Why a session cannot be set up anywhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It said QUIT.
    Quit,
    /// More than [`BYTES_MAX`], or a request that was too large to be kept.
    TooMuch,
    /// A setting was made in a transaction: whether it stands, no reply of its own says.
    Transaction,
    /// It names another connection by its number (`CLIENT TRACKING … REDIRECT`), and numbers do not move.
    OtherConnection,
    /// It was said in a way that only the server reads rightly, or that we do not know.
    Unread,
}

/// What AUTH was told. Shows nothing, and is overwritten when it goes.
#[derive(Clone, PartialEq, Eq)]
struct Credentials(Words);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        for word in &mut self.0 {
            word.fill(0);
        }
        // What nobody reads afterwards might not be written at all.
        std::hint::black_box(&self.0);
    }
}

/// See the module's page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    user: Option<Credentials>,
    name: Option<Box<[u8]>>,
    /// `lib-name` and `lib-ver`.
    info: [Option<Box<[u8]>>; 2],
    /// The words behind CLIENT TRACKING.
    tracking: Option<Words>,
    no_evict: bool,
    no_touch: bool,
    readonly: bool,
    topics: [BTreeSet<Box<[u8]>>; 3],
    bytes: usize,
    lost: Option<Lost>,
}

/// Most sessions set nothing up: no room is taken before the first that does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lazy(Option<Box<Setup>>);

static NOTHING: Setup = Setup {
    user: None,
    name: None,
    info: [None, None],
    tracking: None,
    no_evict: false,
    no_touch: false,
    readonly: false,
    topics: [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()],
    bytes: 0,
    lost: None,
};

impl Deref for Lazy {
    type Target = Setup;

    fn deref(&self) -> &Setup {
        self.0.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for Lazy {
    fn deref_mut(&mut self) -> &mut Setup {
        self.0.get_or_insert_default()
    }
}

/// One request that sets something up, for [`Setup::say`]: its kind and argument as a slot wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// What it does.
    pub kind: Kind,
    /// Version of HELLO, database of SELECT, topics of SUBSCRIBE; else 1.
    pub arg: u32,
    /// An error to it ends the session; else it is only a label, and older servers do not know it.
    pub needed: bool,
}

const TOPICS: [Topic; 3] = [Topic::Channel, Topic::Pattern, Topic::Shard];

fn index(topic: Topic) -> usize {
    match topic {
        Topic::Channel => 0,
        Topic::Pattern => 1,
        Topic::Shard => 2,
    }
}

impl Setup {
    /// Why it cannot be said again, if it cannot.
    pub fn lost(&self) -> Option<Lost> {
        self.lost
    }

    /// From now on it cannot be said again.
    pub fn lose(&mut self, why: Lost) {
        self.lost.get_or_insert(why);
    }

    /// Topics of this kind listened to.
    pub fn topics(&self, topic: Topic) -> usize {
        self.topics[index(topic)].len()
    }

    /// Does the server keep track of what this client has read?
    pub fn is_tracking(&self) -> bool {
        self.tracking.is_some()
    }

    /// A request that was answered with success.
    pub fn note(&mut self, kind: Kind, words: Option<Vec<&[u8]>>) {
        let Some(words) = words else { return self.lose(Lost::Unread) };
        match (kind, words.as_slice()) {
            (Kind::Subscribe(topic), [_, names @ ..]) => {
                names.iter().for_each(|name| self.listen(topic, name))
            }
            (Kind::Unsubscribe(topic), [_]) => self.hear_nothing(topic),
            (Kind::Unsubscribe(topic), [_, names @ ..]) => {
                for name in names {
                    if self.topics[index(topic)].remove(*name) {
                        self.bytes -= name.len();
                    }
                }
            }
            (Kind::Hello, [_, _, options @ ..]) => self.hello(options),
            (Kind::Setting, [_, option, rest @ ..]) => self.setting(option, rest),
            (Kind::State, [name, rest @ ..]) => self.state(name, rest),
            _ => {}
        }
        if self.bytes > BYTES_MAX {
            self.lose(Lost::TooMuch);
        }
    }

    /// RESET (`networking.c:resetCommand`): library names and NO-EVICT outlive it.
    pub fn reset(&mut self) {
        let Setup { info, no_evict, lost, .. } = std::mem::take(self);
        let bytes = info.iter().flatten().map(|word| word.len()).sum();
        // What a transaction may have set is reset too; what RESET leaves alone stays unknown.
        let lost = lost.filter(|why| *why != Lost::Transaction);
        *self = Setup { info, no_evict, bytes, lost, ..Setup::default() };
    }

    /// The server let a topic go by itself.
    fn hear_nothing(&mut self, topic: Topic) {
        let names = std::mem::take(&mut self.topics[index(topic)]);
        self.bytes -= names.iter().map(|name| name.len()).sum::<usize>();
    }

    fn listen(&mut self, topic: Topic, name: &[u8]) {
        if self.lost.is_none() && self.topics[index(topic)].insert(name.into()) {
            self.bytes += name.len();
            if self.bytes > BYTES_MAX {
                self.lose(Lost::TooMuch);
            }
        }
    }

    fn authenticate(&mut self, words: &[&[u8]]) {
        let had = self.user.take().map_or(0, |user| len(&user.0));
        self.user = Some(Credentials(keep(words)));
        self.bytes = self.bytes - had + words.iter().map(|word| word.len()).sum::<usize>();
    }

    fn call(&mut self, name: &[u8]) {
        replace(&mut self.name, &mut self.bytes, name);
    }

    /// The options of HELLO (`networking.c:helloCommand`).
    fn hello(&mut self, mut options: &[&[u8]]) {
        loop {
            options = match options {
                [] => return,
                [word, user, password, rest @ ..] if is(word, "auth") => {
                    self.authenticate(&[user, password]);
                    rest
                }
                [word, name, rest @ ..] if is(word, "setname") => {
                    self.call(name);
                    rest
                }
                _ => return self.lose(Lost::Unread),
            };
        }
    }

    /// CLIENT, whose second word is `option`.
    fn setting(&mut self, option: &[u8], rest: &[&[u8]]) {
        match rest {
            [name] if is(option, "setname") => self.call(name),
            [which, value] if is(option, "setinfo") => {
                let at = usize::from(is(which, "lib-ver"));
                replace(&mut self.info[at], &mut self.bytes, value);
            }
            [on] if is(option, "no-evict") => self.no_evict = is(on, "on"),
            [on] if is(option, "no-touch") => self.no_touch = is(on, "on"),
            [on, options @ ..] if is(option, "tracking") => {
                if options.iter().any(|word| is(word, "redirect")) && is(on, "on") {
                    return self.lose(Lost::OtherConnection);
                }
                self.bytes -= self.tracking.take().as_deref().map_or(0, len);
                if is(on, "on") {
                    self.bytes += rest.iter().map(|word| word.len()).sum::<usize>();
                    self.tracking = Some(keep(rest));
                }
            }
            _ => self.lose(Lost::Unread),
        }
    }

    /// Those of [`Kind::State`] that last. The others change a role, a disk, or one request.
    fn state(&mut self, name: &[u8], rest: &[&[u8]]) {
        if is(name, "auth") {
            self.authenticate(rest);
        } else if is(name, "readonly") || is(name, "readwrite") {
            self.readonly = is(name, "readonly");
        } else if is(name, "quit") {
            self.lose(Lost::Quit);
        }
    }

    /// Says all of it to a new server, which takes it in this order: who, how, what, and last what makes a RESP2
    /// connection deaf to everything else.
    pub fn say(&self, db: u32, proto: u8, out: &mut Vec<u8>, mut said: impl FnMut(Said)) {
        let mut one = |words: &[&[u8]], kind, arg, needed| {
            encode::command(out, words);
            said(Said { kind, arg, needed });
        };
        if let Some(Credentials(user)) = &self.user {
            one(&with(&[b"AUTH"], user), Kind::State, 1, true);
        }
        if proto != 2 {
            one(&[b"HELLO", proto.to_string().as_bytes()], Kind::Hello, proto.into(), true);
        }
        if let Some(name) = &self.name {
            one(&[b"CLIENT", b"SETNAME", name], Kind::Setting, 1, true);
        }
        for (which, value) in [&b"lib-name"[..], b"lib-ver"].iter().zip(&self.info) {
            if let Some(value) = value {
                one(&[b"CLIENT", b"SETINFO", which, value], Kind::Setting, 1, false);
            }
        }
        for (on, option) in [(self.no_evict, &b"NO-EVICT"[..]), (self.no_touch, b"NO-TOUCH")] {
            if on {
                one(&[b"CLIENT", option, b"ON"], Kind::Setting, 1, true);
            }
        }
        if db != 0 {
            one(&[b"SELECT", db.to_string().as_bytes()], Kind::Select, db, true);
        }
        if self.readonly {
            one(&[b"READONLY"], Kind::State, 1, true);
        }
        if let Some(options) = &self.tracking {
            one(&with(&[b"CLIENT", b"TRACKING"], options), Kind::Setting, 1, true);
        }
        for (topic, verb) in TOPICS.into_iter().zip([&b"SUBSCRIBE"[..], b"PSUBSCRIBE", b"SSUBSCRIBE"]) {
            // Shard channels of one command must share a slot.
            let most = if topic == Topic::Shard { 1 } else { usize::MAX };
            let names: Words = self.topics[index(topic)].iter().cloned().collect();
            for some in names.chunks(most.min(names.len().max(1))) {
                one(&with(&[verb], some), Kind::Subscribe(topic), some.len() as u32, true);
            }
        }
    }
}

fn is(word: &[u8], text: &str) -> bool {
    word.eq_ignore_ascii_case(text.as_bytes())
}

fn keep(words: &[&[u8]]) -> Words {
    words.iter().map(|&word| word.into()).collect()
}

fn len(words: &[Box<[u8]>]) -> usize {
    words.iter().map(|word| word.len()).sum()
}

/// An empty value is none.
fn replace(slot: &mut Option<Box<[u8]>>, bytes: &mut usize, value: &[u8]) {
    *bytes = *bytes + value.len() - slot.as_ref().map_or(0, |had| had.len());
    *slot = (!value.is_empty()).then(|| value.into());
}

fn with<'a>(first: &[&'a [u8]], rest: &'a [Box<[u8]>]) -> Vec<&'a [u8]> {
    first.iter().copied().chain(rest.iter().map(AsRef::as_ref)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Table;
    use crate::resp::request::{Parsed, parse};

    fn noted(requests: &[&str]) -> Setup {
        let (table, mut setup) = (Table::builtin(), Setup::default());
        for request in requests {
            let mut bytes = Vec::new();
            encode::command(&mut bytes, &request.split(' ').map(str::as_bytes).collect::<Vec<_>>());
            let Parsed::Whole { head, .. } = parse(&bytes) else { panic!("{request}") };
            match table.kind(&head) {
                Kind::Reset => setup.reset(),
                kind => setup.note(kind, head.words()),
            }
        }
        setup
    }

    /// What is said again, a request a line.
    fn said(setup: &Setup, db: u32, proto: u8) -> Vec<String> {
        let (mut out, mut lines) = (Vec::new(), Vec::new());
        setup.say(db, proto, &mut out, |_| {});
        let mut at = 0;
        while at < out.len() {
            let Parsed::Whole { len, head } = parse(&out[at..]) else { panic!("whole requests are said") };
            let words = head.words().expect("whole");
            lines.push(words.iter().map(|w| String::from_utf8_lossy(w)).collect::<Vec<_>>().join(" "));
            at += len;
        }
        lines
    }

    #[test]
    fn what_was_set_up_is_said_again_in_an_order_that_a_server_takes() {
        let setup = noted(&[
            "HELLO 3 AUTH joe secret SETNAME first",
            "CLIENT SETNAME second",
            "client setinfo LIB-NAME lib",
            "CLIENT SETINFO lib-ver 1",
            "CLIENT NO-EVICT on",
            "CLIENT NO-TOUCH on",
            "CLIENT NO-TOUCH off",
            "CLIENT TRACKING ON BCAST",
            "CLIENT TRACKING on OPTIN NOLOOP",
            "READONLY",
            "SUBSCRIBE b a c",
            "UNSUBSCRIBE c",
            "PSUBSCRIBE p*",
            "SSUBSCRIBE s1 s2",
        ]);
        assert_eq!(setup.lost(), None);
        let lines = said(&setup, 5, 3);
        let expected = [
            "AUTH joe secret",
            "HELLO 3",
            "CLIENT SETNAME second",
            "CLIENT SETINFO lib-name lib",
            "CLIENT SETINFO lib-ver 1",
            "CLIENT NO-EVICT ON",
            "SELECT 5",
            "READONLY",
            "CLIENT TRACKING on OPTIN NOLOOP",
            "SUBSCRIBE a b",
            "PSUBSCRIBE p*",
            "SSUBSCRIBE s1",
            "SSUBSCRIBE s2",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_fresh_session_has_nothing_to_say_and_reset_leaves_what_redis_leaves() {
        assert!(said(&Setup::default(), 0, 2).is_empty());
        let setup =
            noted(&["AUTH p", "CLIENT SETINFO lib-name l", "CLIENT NO-EVICT on", "SUBSCRIBE a", "RESET"]);
        assert_eq!(said(&setup, 0, 2), ["CLIENT SETINFO lib-name l", "CLIENT NO-EVICT ON"]);
        assert_eq!(setup.bytes, 1);
    }

    #[test]
    fn what_cannot_be_said_again_is_lost_for_a_reason() {
        let long = format!("SUBSCRIBE {}", "x".repeat(BYTES_MAX + 1));
        for (request, why) in [
            ("QUIT", Lost::Quit),
            (long.as_str(), Lost::TooMuch),
            ("CLIENT TRACKING on REDIRECT 7", Lost::OtherConnection),
            ("HELLO 3 NEWOPTION x", Lost::Unread),
            ("CLIENT SETINFO a b c", Lost::Unread),
        ] {
            assert_eq!(noted(&[request]).lost(), Some(why), "{request}");
        }
        assert_eq!(noted(&["CLIENT TRACKING off REDIRECT 7", "BGSAVE", "ASKING"]).lost(), None);
    }

    #[test]
    fn bytes_are_counted_both_ways_and_credentials_are_never_shown() {
        let mut requests =
            vec!["AUTH joe secret", "CLIENT SETNAME n", "SUBSCRIBE a bb a", "CLIENT TRACKING on"];
        let setup = noted(&requests);
        assert_eq!(setup.bytes, 9 + 1 + 3 + 2);
        assert!(!format!("{setup:?}").contains("secret"));
        requests.extend(["AUTH x", "CLIENT SETNAME ", "UNSUBSCRIBE", "CLIENT TRACKING off"]);
        let setup = noted(&requests);
        assert_eq!((setup.bytes, setup.topics(Topic::Channel)), (1, 0));
    }
}
