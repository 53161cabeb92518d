//! The guard: what happens between the first refusal and the operator's setting being back.
//!
//! Everything here but [`feed`], [`fleet`], [`store`] and [`supervisor`] is pure: events and `now` go in, actions come
//! out. [`incident`] is the state machine; [`saver`] knows when a save is proved and when one may
//! be tried; [`policy`] holds the decision tables; [`dialogue`] is the RESP of each action.

pub mod aof;
pub mod debt;
pub mod dialogue;
pub mod escrow;
pub mod evidence;
pub mod feed;
pub mod finding;
pub mod fleet;
pub mod handover;
pub mod incident;
pub mod journal;
pub mod peers;
pub mod policy;
pub mod record;
pub mod remedy;
pub mod roster;
pub mod saver;
pub mod store;
pub mod supervisor;

#[cfg(test)]
mod sim;
