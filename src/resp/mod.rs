//! The words of RESP: where replies and requests end, what an error line means.
//!
//! Everything here works on borrowed bytes, is resumable at any byte, allocates nothing on the hot
//! path and never recurses: a nested reply is a count of values still owed, so depth costs nothing.

pub mod encode;
pub mod error;
mod number;
pub mod request;
pub mod scan;
pub mod sync;
