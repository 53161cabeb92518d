//! Everything that can happen to a small world: two clients of at most three requests each, the real session
//! cores, the real guard, the fake Redis, a page for the debt, and an environment that may do few things, at
//! any moment. Every interleaving is taken; [`step::Step`] says what one step is, `tests` which corners.
//!
//! Refuses to know: where bytes are cut, what a host looks like. Invariant: equal prints have equal futures, but
//! for the environment's budget; so each state is entered once.

mod client;
mod explore;
pub mod mutant;
mod print;
mod session;
mod step;
#[cfg(test)]
mod tests;
mod world;
