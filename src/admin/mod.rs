//! HTTP for people, probes and dashboards.

pub mod client;
