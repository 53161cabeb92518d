//! The command table.

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
    /// MULTI, EXEC, DISCARD, WATCH, and what is queued between.
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
