//! What demo, tests and benches share.

pub mod fake_redis;
