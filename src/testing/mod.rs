//! What demo, tests and benches share.
