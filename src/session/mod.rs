//! The data path: one downstream connection, its upstream twin, and the conversation between them.
//!
//! [`core`] is the conversation without I/O: two byte streams in, two out. [`ledger`] knows which
//! request each reply answers, [`state`] what the client has set up, [`replay`] judges what may be sent
//! again. [`shell`] owns the sockets and decides nothing.

pub mod allowance;
pub mod core;
pub mod ledger;
pub mod replay;
pub mod setup;
pub mod shell;
#[cfg(test)]
mod sim;
pub mod state;
