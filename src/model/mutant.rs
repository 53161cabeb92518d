//! Bugs that can be put into the code under test, one at a time: the model must find each of them.
//!
//! The word `mutant!(Name)` stands where the bug would be; outside of tests it is the word `false`.

use std::cell::Cell;

/// One bug each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A command that is sent again is sent twice.
    ReplaysTwice,
    /// A refused write is sent again although a later one of its session ran.
    ReplaysPastALaterWrite,
    /// What comes behind a held command goes on to the server.
    SendsPastAHold,
    /// The client is shown replies to what it did not ask, or has been told already.
    TellsSwallowed,
    /// A hold has no end of its own.
    ForgetsTheHoldsEnd,
    /// When a hold's time is up its replies are not delivered.
    DropsWhatTimedOut,
    /// Commands released from a hold are not counted as such.
    MiscountsReleases,
    /// PONG opens tickets that were issued after its PING.
    OpensYoungerTickets,
    /// A ticket is open when any other is.
    IgnoresTickets,
    /// The switch is lowered while the debt is on its way to the disk.
    LowersBeforeTheDebtIsDurable,
    /// … or never got there.
    TrustsAFailedStore,
    /// The debt is erased when the save is proved, not when the switch is back.
    ErasesTheDebtEarly,
    /// The debt of another server process is adopted.
    AdoptsAnybodysDebt,
    /// A `no` read in the transaction that lowers is taken for ours.
    TakesAnOperatorsNoForYes,
    /// `rdb_last_bgsave_status:ok` proves a save.
    RearmsOnStatusOk,
    /// `+Background saving started` does.
    BelievesStarted,
    /// A copy on our own disk proves that saving works.
    RearmsOnACopy,
    /// The same `no`, found after the line broke before anything was sent, is taken for ours.
    TakesANoForOurs,
    /// The answer to what was asked on a lost connection is waited for.
    WaitsForALostAnswer,
    /// A rewrite that the server counts is not told.
    OverlooksARewrite,
    /// While a child saves it is looked at without a pause.
    Spins,
    /// The next life does not read the debt.
    ForgetsTheDebt,
    /// A server that Sentinel has replaced is opened all the same.
    LowersAZombie,
    /// Sentinels that cannot be asked are taken for agreeing.
    TakesSilenceForConsent,
    /// Another bgsafe's `no` is taken for the operator's.
    FollowsNobody,
    /// The switch is lowered, and a debt adopted, without a claim.
    ClaimsNothing,
    /// The `no` of one that died while it lowered the switch is taken for the operator's.
    ForgetsTheDeadClaimant,
    /// An owner whose line only blinked is taken for gone.
    InheritsAtOnce,
}

thread_local! {
    static PUT_IN: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Is this one put in, on this thread?
pub fn is(mutant: Mutant) -> bool {
    PUT_IN.get() == Some(mutant)
}

/// Runs `f` with this bug.
pub fn with<T>(mutant: Option<Mutant>, f: impl FnOnce() -> T) -> T {
    PUT_IN.set(mutant);
    let result = f();
    PUT_IN.set(None);
    result
}
