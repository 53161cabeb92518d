//! What one server answers to PING and ROLE, as one word: never "it did not say PONG".
//!
//! Refuses to know: what follows from it.

use redis_protocol::resp2::types::BytesFrame as Frame;

/// See the module's page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// A primary that takes writes.
    Alive,
    /// A primary that refuses them because it cannot persist: its guard sees to that.
    RefusingWrites,
    /// It reads its data set.
    Loading,
    /// A replica without its primary.
    MasterDown,
    /// A script runs.
    Busy,
    /// Not a primary.
    WrongRole,
    /// No answer, or none that says what it is.
    Unreachable(String),
}

impl Health {
    /// May sessions be sent there?
    pub fn is_primary(&self) -> bool {
        match self {
            Health::Alive | Health::RefusingWrites => true,
            Health::Loading
            | Health::MasterDown
            | Health::Busy
            | Health::WrongRole
            | Health::Unreachable(_) => false,
        }
    }

    /// From the replies to PING and ROLE. ROLE decides; PING says how it is.
    pub fn read(ping: &Frame, role: &Frame) -> Health {
        let words = |frame: &Frame| match frame {
            Frame::Error(why) => why.to_string(),
            _ => String::new(),
        };
        let (ping, refused) = (words(ping), words(role));
        let code = |text: &str| text.split(' ').next().unwrap_or_default().to_string();
        match (code(&ping).as_str(), code(&refused).as_str()) {
            ("LOADING", _) | (_, "LOADING") => return Health::Loading,
            ("MASTERDOWN", _) => return Health::MasterDown,
            ("BUSY", _) | (_, "BUSY") => return Health::Busy,
            _ => {}
        }
        let Frame::Array(items) = role else {
            return Health::Unreachable(format!("ROLE answered {refused}"));
        };
        let word = match items.first() {
            Some(Frame::BulkString(word) | Frame::SimpleString(word)) => word.as_ref(),
            _ => b"",
        };
        match (word, code(&ping).as_str()) {
            (b"master" | b"primary", "MISCONF") => Health::RefusingWrites,
            // Without the right to PING it is a primary all the same.
            (b"master" | b"primary", "" | "NOPERM") => Health::Alive,
            (b"master" | b"primary", _) => Health::Unreachable(format!("PING answered {ping}")),
            _ => Health::WrongRole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_decides_and_ping_says_how_it_is() {
        let fault = |text: &str| Frame::Error(text.to_string().into());
        let pong = || Frame::SimpleString("PONG".into());
        let role = |word: &'static str| Frame::Array(vec![Frame::BulkString(word.into()), Frame::Integer(0)]);
        for (ping, role, expected) in [
            (pong(), role("master"), Health::Alive),
            (fault("NOPERM no"), role("master"), Health::Alive),
            (fault("MISCONF Redis is"), role("master"), Health::RefusingWrites),
            (pong(), role("slave"), Health::WrongRole),
            (fault("MISCONF Redis is"), role("slave"), Health::WrongRole),
            (pong(), role("sentinel"), Health::WrongRole),
            (fault("LOADING Redis is"), role("master"), Health::Loading),
            (fault("MASTERDOWN Link"), role("slave"), Health::MasterDown),
            (fault("BUSY Redis is"), fault("BUSY Redis is"), Health::Busy),
            (fault("NOAUTH x"), fault("NOAUTH x"), Health::Unreachable("ROLE answered NOAUTH x".into())),
            (fault("ERR x"), role("master"), Health::Unreachable("PING answered ERR x".into())),
        ] {
            assert_eq!(Health::read(&ping, &role), expected, "{ping:?} {role:?}");
        }
    }
}
