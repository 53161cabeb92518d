//! The guard: what happens between the first refusal and the operator's setting being back.

pub mod record;
