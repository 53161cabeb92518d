//! Commands that the server has under other names (`rename-command`): what bgsafe means, into what the server
//! understands, and the server's own words back again.
//!
//! Refuses to know: what a command does. Invariant: only commands that bgsafe sends are here, each once; a new
//! name is shown nowhere, because it is kept as a secret by those who renamed it.

use std::fmt;

/// Every command that the control connection may send. What is not here cannot be meant by `--rename`.
pub const SENT: [&str; 20] = [
    "ACL",
    "AUTH",
    "BGREWRITEAOF",
    "BGSAVE",
    "CLIENT",
    "COMMAND",
    "CONFIG",
    "DISCARD",
    "EXEC",
    "FAILOVER",
    "INFO",
    "LASTSAVE",
    "LATENCY",
    "MULTI",
    "PING",
    "PSUBSCRIBE",
    "PSYNC",
    "PUBSUB",
    "REPLCONF",
    "ROLE",
];

/// What stands in the place of a new name.
const HIDDEN: &str = "***";

/// Pairs of a command and the name that the server has for it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Renames(Vec<(&'static str, String)>);

impl fmt::Debug for Renames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names().map(|name| format!("{name}={HIDDEN}"))).finish()
    }
}

/// Reads `NAME=NEWNAME`.
pub fn pair(text: &str) -> Result<(&'static str, String), String> {
    // The text is not quoted: after a typing error any part of it may be the name that is kept secret.
    let (name, new) = text.split_once('=').ok_or("write NAME=NEWNAME, such as CONFIG=cfg-9f3")?;
    let name = name.trim().to_ascii_uppercase();
    let sends = |word: &str| SENT.iter().any(|sent| sent.eq_ignore_ascii_case(word));
    if !sends(&name) && sends(new.trim()) {
        return Err("the server's own name comes second: write NAME=NEWNAME, such as CONFIG=cfg-9f3".into());
    }
    let Some(known) = SENT.iter().find(|sent| **sent == name) else {
        return Err(format!("{name} is no command bgsafe sends; those are {}", SENT.join(", ")));
    };
    match new.trim() {
        "" => Err(format!(
            "{name} has no new name: where the server does not have the command at all, leave this out; bgsafe finds \
             that out by itself"
        )),
        new if new.chars().any(|c| c.is_whitespace() || c.is_control()) => {
            Err(format!("the new name of {name} has a blank in it"))
        }
        new => Ok((known, new.to_owned())),
    }
}

impl Renames {
    /// All of them, in any order.
    ///
    /// # Errors
    /// When one command has two names.
    pub fn new(pairs: Vec<(&'static str, String)>) -> Result<Renames, String> {
        let twice = |at: usize| pairs[..at].iter().any(|(name, _)| *name == pairs[at].0);
        match (0..pairs.len()).find(|at| twice(*at)) {
            Some(at) => Err(format!("rename names {} twice; remove one", pairs[at].0)),
            None => Ok(Renames(pairs)),
        }
    }

    /// The commands that have another name.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.iter().map(|(name, _)| *name)
    }

    /// The words as the server understands them. Commands are also named by COMMAND INFO, and by ACL DRYRUN behind
    /// the user (`acl.c:aclCommand` and `server.c:commandInfoCommand` look them up as they are typed).
    pub fn apply(&self, mut command: Vec<String>) -> Vec<String> {
        if self.0.is_empty() {
            return command;
        }
        let is = |at: usize, word: &str| command.get(at).is_some_and(|w| w.eq_ignore_ascii_case(word));
        let named = match (is(0, "COMMAND") && is(1, "INFO"), is(0, "ACL") && is(1, "DRYRUN")) {
            (true, _) => 2..command.len(),
            (_, true) => 3..command.len().min(4),
            (false, false) => 0..0,
        };
        for at in std::iter::once(0).chain(named) {
            if let Some(word) = command.get_mut(at)
                && let Some((_, new)) = self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(word))
            {
                word.clone_from(new);
            }
        }
        command
    }

    /// The server's words as if nothing had been renamed.
    pub fn restore(&self, words: &str) -> Option<String> {
        let mut restored = None::<String>;
        for (name, new) in &self.0 {
            let text = restored.as_deref().unwrap_or(words);
            // An ASCII letter's other case is as long, so places are the same.
            let (mut out, mut rest) = (String::new(), text);
            while let Some(at) = rest.to_ascii_lowercase().find(&new.to_ascii_lowercase()) {
                out.push_str(&rest[..at]);
                out.push_str(&name.to_ascii_lowercase());
                rest = &rest[at + new.len()..];
            }
            if !out.is_empty() {
                restored = Some(out + rest);
            }
        }
        restored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renames(texts: &[&str]) -> Result<Renames, String> {
        Renames::new(texts.iter().map(|text| pair(text)).collect::<Result<_, _>>()?)
    }

    #[test]
    fn commands_go_out_under_their_new_names_and_errors_come_back_under_the_old() {
        let renames = renames(&["config=cfg9", "BGSAVE = save-it"]).unwrap();
        let sent = |line: &str| renames.apply(line.split(' ').map(String::from).collect()).join(" ");
        for (line, expected) in [
            ("CONFIG GET save", "cfg9 GET save"),
            ("BGSAVE SCHEDULE", "save-it SCHEDULE"),
            ("PING", "PING"),
            ("CONFIG SET dir BGSAVE", "cfg9 SET dir BGSAVE"),
            ("COMMAND INFO PING CONFIG BGSAVE", "COMMAND INFO PING cfg9 save-it"),
            ("ACL DRYRUN CONFIG CONFIG GET BGSAVE", "ACL DRYRUN CONFIG cfg9 GET BGSAVE"),
        ] {
            assert_eq!(sent(line), expected);
        }
        let said = "ERR unknown command 'CFG9', with args beginning with: 'cfg9'";
        let heard = "ERR unknown command 'config', with args beginning with: 'config'";
        assert_eq!(renames.restore(said).as_deref(), Some(heard));
        assert_eq!(renames.restore("ERR other"), None);
        assert_eq!(Renames::default().restore(said), None);
        assert!(!format!("{renames:?}").contains("cfg9"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_without_the_new_name() {
        for (texts, says) in [
            (&["GET=hush"][..], "GET is no command bgsafe sends; those are ACL"),
            (&["hush=CONFIG"], "comes second"),
            (&["hush"], "write NAME=NEWNAME"),
            (&["CONFIG="], "has no new name"),
            (&["CONFIG=hu sh"], "has a blank"),
            (&["CONFIG=hush", "config=hush2"], "names CONFIG twice"),
        ] {
            let error = renames(texts).unwrap_err();
            assert!(error.contains(says) && !error.contains("hush"), "{texts:?}: {error}");
        }
    }
}
