//! Listeners, workers, upstream connecting, drain: everything around a session that is not its
//! conversation. Refuses to know RESP, but for the two errors of its own that a client may get.

pub mod listener;
pub mod stream;
pub mod upstream;
pub mod worker;
