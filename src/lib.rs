//! bgsafe: a RESP proxy that keeps applications writing while Redis or Valkey cannot save.
//!
//! Read this page, then `docs/architecture.md`: together they say where everything lives.
//!
//! | layer | rooms | may import |
//! |---|---|---|
//! | L4 surface | [`cli`], [`doctor`], [`demo`], `main.rs` | everything below |
//! | L3 shells | [`proxy`], [`session::shell`], [`guard::supervisor`], [`topology::watch`], [`escrow`], [`admin`] | L2, L1, L0 |
//! | L2 ports | [`gate`], [`route`], [`metrics`], [`control`], [`host`] | L1, L0 |
//! | L1 cores | [`session`] (core, ledger, state), [`guard`] (incident, evidence, finding, remedy, debt), [`topology`] | L0 |
//! | L0 words | [`resp`], [`command`], [`posture`], [`config`] | nothing of ours |
//!
//! L0 and L1 are pure: bytes, events and `now` go in; bytes and actions come out. The data path
//! (`session`) and the guard meet only in [`gate`]: sightings go up, a posture comes down.
//! [`testing`] holds what demo, tests and benches share: a server finder, faults made for real,
//! writers that count their tokens, and a fake Redis with a persistence model.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

/// Is this bug put in? Tests of the model do; in every other build it is the word `false`.
#[cfg(test)]
macro_rules! mutant {
    ($bug:ident) => {
        $crate::model::mutant::is($crate::model::mutant::Mutant::$bug)
    };
}
#[cfg(not(test))]
macro_rules! mutant {
    ($bug:ident) => {
        false
    };
}

pub mod admin;
pub mod cli;
pub mod command;
pub mod config;
pub mod control;
pub mod demo;
pub mod doctor;
pub mod escrow;
pub mod gate;
pub mod guard;
pub mod host;
pub mod http;
pub mod metrics;
#[cfg(test)]
mod model;
pub mod posture;
pub mod proxy;
pub mod resp;
pub mod route;
pub mod session;
pub mod testing;
pub mod topology;
