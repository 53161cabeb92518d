//! The second half of an inquiry: what is asked only once the first told who we are and how many others there are.
//!
//! Refuses to know: the first half. Invariant: nothing here changes anything; a dry run runs nothing
//! (`acl.c:aclCommand`).

use super::{Command, Frame, rights, text, words};
use crate::guard::evidence::{Fact, Look, Reason, Right, Rights, ServerFacts, Word};

/// With more clients than this they are not listed: what their names tell is not worth megabytes.
const CLIENTS_LISTED: u64 = 500;

/// The commands that may be gone, as COMMAND INFO is asked, and the rights that go with each.
const GONE: [(&str, &[Right]); 3] = [
    ("PING", &[Right::Ping]),
    ("CONFIG", &[Right::ConfigGet, Right::ConfigSet, Right::ConfigRewrite]),
    ("BGSAVE", &[Right::Bgsave]),
];

/// What is asked, in this order.
#[derive(Clone, Debug, Default)]
pub(super) struct Second {
    /// The transaction that the first half opened is still open.
    discard: bool,
    clients: bool,
    /// As whom to run dry.
    user: Option<String>,
    /// There are no ACLs: what exists is allowed.
    everybody: bool,
}

impl Second {
    pub(super) fn new(look: &Look, server: &ServerFacts, discard: bool) -> Second {
        let major = |version: &String| version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        Second {
            discard,
            clients: server.clients.is_and(|n| *n <= CLIENTS_LISTED),
            user: server.whoami.known().cloned(),
            everybody: look.version.is_and(|version| major(version).is_some_and(|major| major < 6)),
        }
    }

    pub(super) fn batch(&self) -> Vec<Command> {
        let mut batch = Vec::new();
        if self.discard {
            batch.push(words("DISCARD"));
        }
        if self.clients {
            batch.push(words("CLIENT LIST"));
        }
        batch.push(words("PUBSUB NUMSUB __sentinel__:hello"));
        if let Some(user) = &self.user {
            batch.extend(Rights::DRY.map(|right| {
                let mut command = ["ACL", "DRYRUN", user].map(String::from).to_vec();
                command.extend(words(Rights::dry(right)));
                command
            }));
        }
        let names = GONE.iter().map(|(name, _)| (*name).to_string());
        batch.push(["COMMAND", "INFO"].map(String::from).into_iter().chain(names).collect());
        batch
    }

    /// Reads as many replies as the batch had commands; of fewer nothing is known.
    pub(super) fn read(&self, replies: &[Frame], own: &str, server: &mut ServerFacts) {
        let mut replies = replies.iter();
        if self.discard {
            replies.next();
        }
        if self.clients {
            match replies.next() {
                Some(Frame::BulkString(list)) => server.read_clients(&String::from_utf8_lossy(list), own),
                Some(other) => {
                    server.sentinels = Fact::Unknown(Reason::Denied(text(other)));
                    server.other_guards = Fact::Unknown(Reason::Denied(text(other)));
                }
                None => {}
            }
        }
        // Each Sentinel subscribes to its kind's own channel, whatever it is called and however many clients there
        // are (`sentinel.c:sentinelReconnectInstance`).
        if let Some(Frame::Array(pair)) = replies.next()
            && let [_, Frame::Integer(n)] = pair.as_slice()
        {
            server.sentinels = u64::try_from(*n).ok().into();
        }
        if self.user.is_some() {
            for (right, reply) in Rights::DRY.into_iter().zip(replies.by_ref()) {
                let word = match reply {
                    Frame::SimpleString(ok) if ok.as_ref() == b"OK" => Word::Allowed,
                    // The words of the refusal, as a string.
                    Frame::BulkString(_) => Word::Forbidden,
                    // The dry run itself is refused, or older than 7.0: nothing is known.
                    _ => Word::Silent,
                };
                server.rights.learn(right, word);
            }
        }
        if let Some(Frame::Array(entries)) = replies.next()
            && entries.len() == GONE.len()
        {
            for ((_, of), entry) in GONE.iter().zip(entries) {
                let gone = match entry {
                    Frame::Null => true,
                    Frame::Array(fields) => fields.is_empty(),
                    _ => false,
                };
                for right in *of {
                    match (gone, self.everybody) {
                        (true, _) => server.rights.learn(*right, Word::Withdrawn),
                        (false, true) if server.rights.may(*right).known().is_none() => {
                            server.rights.learn(*right, rights::word(entry));
                        }
                        (false, _) => {}
                    }
                }
            }
        }
    }
}
