//! The words the data path and the guard share: what sessions do with writes, and which kind of
//! refusal was seen. Knows neither sessions nor incidents.

use std::fmt;

/// What sessions do with a gated command (a write or a PING) that has not been sent yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Posture {
    /// Send it. A refusal that comes back is withheld and replayed once writes are open.
    Forward = 0,
    /// Park it until writes are open, its deadline passes, or its client leaves.
    Hold = 1,
    /// Writes move to another server (not built yet: no policy chooses it).
    Redirect = 2,
    /// Send it, and deliver the server's own error if it refuses.
    Refuse = 3,
}

impl Posture {
    /// Every posture, in the order of its number.
    pub const ALL: [Posture; 4] = [Posture::Forward, Posture::Hold, Posture::Redirect, Posture::Refuse];

    /// The posture with this number. Panics on any other: only [`Posture`] numbers are ever stored.
    pub fn from_u8(n: u8) -> Posture {
        Self::ALL[n as usize]
    }

    /// The name shown in status, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Posture::Forward => "forward",
            Posture::Hold => "hold",
            Posture::Redirect => "redirect",
            Posture::Refuse => "refuse",
        }
    }
}

impl fmt::Display for Posture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which persistence failed. `stop-writes-on-bgsave-error` governs the first only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// The last background snapshot failed (`server.c:writeCommandsDeniedByDiskError`).
    Rdb,
    /// The append-only file could not be written or synced.
    Aof,
}

impl Variant {
    /// Every variant.
    pub const ALL: [Variant; 2] = [Variant::Rdb, Variant::Aof];

    /// The name shown in status, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Rdb => "rdb",
            Variant::Aof => "aof",
        }
    }
}

/// Which wire form a refusal had (the table of forms is in [`crate::resp::error`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// A top-level `-MISCONF` to one command.
    Command,
    /// `-EXECABORT … because of: MISCONF …`: the whole transaction was refused.
    Transaction,
    /// A refusal that came out of a script or function: part of it may have run.
    Script,
    /// Inside an array: one element of an EXEC or a script's reply.
    Nested,
    /// Never reached a client: noticed through `INFO errorstats` or by our own PING.
    Silent,
}

impl Form {
    /// Every form, in the order of the metric's labels.
    pub const ALL: [Form; 5] = [Form::Command, Form::Transaction, Form::Script, Form::Nested, Form::Silent];

    /// The value of the label `kind` of `bgsafe_refusals_total`.
    pub fn name(self) -> &'static str {
        match self {
            Form::Command => "command",
            Form::Transaction => "transaction",
            Form::Script => "script",
            Form::Nested => "nested",
            Form::Silent => "silent",
        }
    }
}

/// One refusal as the data path tells it to the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// RDB or AOF.
    pub variant: Variant,
    /// Its wire form.
    pub form: Form,
}

/// Errors of the same family as a refusal: the server did not run the command, and may run it later, or another server
/// may now. No guard cures them; who waits asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Unready {
    /// A write met a replica.
    ReadOnly = 0,
    /// The server is reading its data set.
    Loading = 1,
    /// A replica without its primary, told not to serve stale data.
    MasterDown = 2,
    /// Fewer good replicas than the operator wants for a write.
    NoReplicas = 3,
    /// The cluster does not serve this slot.
    ClusterDown = 4,
    /// The memory limit is reached.
    Oom = 5,
}

/// Which of them are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnreadySet(u8);

impl UnreadySet {
    /// None: all are delivered as they come.
    pub const NONE: UnreadySet = UnreadySet(0);

    /// These.
    pub const fn of(list: &[Unready]) -> UnreadySet {
        let (mut bits, mut i) = (0, 0);
        while i < list.len() {
            bits |= 1 << list[i] as u8;
            i += 1;
        }
        UnreadySet(bits)
    }

    /// Is it among them?
    pub fn has(self, which: Unready) -> bool {
        self.0 & 1 << which as u8 != 0
    }
}
