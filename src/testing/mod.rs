//! What demo, tests and benches share: real servers, faults made for real, writers that count their tokens.
//!
//! | room | what it is |
//! |---|---|
//! | [`find`] | where a Redis-like server program is on this machine, and how one is obtained when there is none |
//! | [`server`] | such a server, started in a scratch directory and ended with it |
//! | [`topology`] | a primary, its replicas and the Sentinels that watch them |
//! | [`client`] | a blocking connection straight to it: the lab's eyes and hands |
//! | [`faults`] | ways to break persistence for real, each undone on drop |
//! | [`proxy`] | a bgsafe as a process of its own, on free ports |
//! | [`fake_redis`] | a server without sockets or time, for the simulation |
//! | [`workload`] | concurrent writers with unique tokens, and the count of what became of them |
//!
//! But for [`fake_redis`] it refuses to know sessions, guard and gate. The lab judges bgsafe from outside, as an application and an operator would.

pub mod client;
pub mod failover;
pub mod fake_redis;
pub mod faults;
pub mod find;
mod obtain;
pub mod proxy;
pub mod server;
pub mod topology;
pub mod workload;
