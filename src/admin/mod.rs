//! HTTP for people, probes and dashboards.
