//! Where is the primary, and what do those who decide it say of a server?
//!
//! | room | what it is |
//! |---|---|
//! | [`view`] | the words that the guard understands: Sentinel's view of one server |
//! | [`sentinel`] | many Sentinels as one machine: who is heard, whom they name, by how many |
//! | [`words`] | the RESP of what a Sentinel is asked, and of what it tells unasked |
//! | [`health`] | what one server answers to PING and ROLE, as one word |
//! | [`follow`] | the shell that turns the route to where the primary is |
//! | [`watch`] | the shell: a task and two connections for each Sentinel |
//!
//! All but the shell is pure. Invariant: silence is never consent: what was not heard of enough Sentinels lately
//! is [`view::View::Silent`] and never [`view::View::Agrees`].

pub mod follow;
pub mod health;
pub mod sentinel;
pub mod view;
pub mod watch;
pub mod words;
