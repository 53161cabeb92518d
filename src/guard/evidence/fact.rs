//! A field of evidence: known, or unknown for a reason. A missing permission, an old version or a
//! garbled line never reads as "fine".
//!
//! Invariant: an unknown fact is equal to no value, below no limit and above none.

/// Why something is not known.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Reason {
    /// Nobody asked, or the answer has no such field.
    #[default]
    NotTold,
    /// Forbidden, in the words of who forbade it.
    Denied(String),
    /// Said, but not understood.
    Garbled(String),
    /// The server runs where we cannot look: another host, another namespace.
    Elsewhere(String),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::NotTold => f.write_str("not told"),
            Reason::Denied(why) => write!(f, "denied: {why}"),
            Reason::Garbled(what) => write!(f, "not understood: {what}"),
            Reason::Elsewhere(why) => write!(f, "out of sight: {why}"),
        }
    }
}

/// Something we were told, or were not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact<T> {
    /// It was said, and understood.
    Known(T),
    /// It was not, for this reason.
    Unknown(Reason),
}

impl<T> Default for Fact<T> {
    fn default() -> Self {
        Fact::UNKNOWN
    }
}

impl<T> Fact<T> {
    /// Not told.
    pub const UNKNOWN: Fact<T> = Fact::Unknown(Reason::NotTold);

    /// The value, when there is one.
    pub fn known(&self) -> Option<&T> {
        match self {
            Fact::Known(value) => Some(value),
            Fact::Unknown(_) => None,
        }
    }

    /// Why there is none.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Fact::Known(_) => None,
            Fact::Unknown(reason) => Some(reason),
        }
    }

    /// Known, and so.
    pub fn is_and(&self, so: impl FnOnce(&T) -> bool) -> bool {
        self.known().is_some_and(so)
    }

    /// Another thing, when this one is known.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Fact<U> {
        match self {
            Fact::Known(value) => Fact::Known(f(value)),
            Fact::Unknown(reason) => Fact::Unknown(reason),
        }
    }
}

impl<T: PartialEq> Fact<T> {
    /// Known, and equal to `value`. Unknown is never equal to anything.
    pub fn is(&self, value: T) -> bool {
        self.known() == Some(&value)
    }
}

impl<T: Copy> Fact<T> {
    /// The value itself, when there is one.
    pub fn get(&self) -> Option<T> {
        self.known().copied()
    }
}

impl<T> From<Option<T>> for Fact<T> {
    fn from(option: Option<T>) -> Self {
        option.map_or(Fact::UNKNOWN, Fact::Known)
    }
}

/// A whole number, or not understood.
pub fn number<T: std::str::FromStr>(value: &str) -> Fact<T> {
    match value.trim().parse() {
        Ok(number) => Fact::Known(number),
        Err(_) => garbled(value),
    }
}

/// `0` or `1`.
pub fn flag(value: &str) -> Fact<bool> {
    match value {
        "0" => Fact::Known(false),
        "1" => Fact::Known(true),
        _ => garbled(value),
    }
}

/// `ok` or `err`.
pub fn status(value: &str) -> Fact<bool> {
    match value {
        "ok" => Fact::Known(true),
        "err" => Fact::Known(false),
        _ => garbled(value),
    }
}

/// `yes` or `no`.
pub fn yes_no(value: &str) -> Fact<bool> {
    match value {
        "yes" => Fact::Known(true),
        "no" => Fact::Known(false),
        _ => garbled(value),
    }
}

/// Not understood; of an absurdly long word only the beginning.
pub fn garbled<T>(value: &str) -> Fact<T> {
    Fact::Unknown(Reason::Garbled(value.chars().take(40).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_unknown_and_says_so() {
        assert_eq!(number::<u64>("17"), Fact::Known(17));
        for absurd in ["", "-1", "1e9", "99999999999999999999999", "x"] {
            assert!(matches!(number::<u64>(absurd), Fact::Unknown(Reason::Garbled(_))), "{absurd}");
        }
        assert_eq!(flag("2"), garbled("2"));
        assert!(!Fact::<u64>::UNKNOWN.is_and(|_| true));
    }
}
