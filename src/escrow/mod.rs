//! The copy is fetched and kept here: [`pull`] asks the server for it, [`keep`] puts it on disk, [`second`] lets the
//! server's own checker look at it.
//!
//! Refuses to know: when a copy is wanted. Invariants: a file with its final name is whole, checked and durable;
//! whatever happens in between leaves only a part that the next start removes; the disk is never filled.

pub mod keep;
pub mod pull;
pub mod second;
