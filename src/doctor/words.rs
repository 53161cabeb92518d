//! The words of the tables as text and JSON say them. Decides nothing.

use crate::guard::evidence::Role;
use crate::guard::finding::{Kind, Source};
use crate::guard::remedy::{Consent, Proof, Reach};

pub(super) fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Cause => "cause",
        Kind::Danger => "danger",
        Kind::Advice => "advice",
    }
}

pub(super) fn source(source: Source) -> &'static str {
    match source {
        Source::Info => "info",
        Source::Config => "config",
        Source::Clients => "clients",
        Source::Process => "process",
        Source::Kernel => "kernel",
        Source::Cgroup => "cgroup",
        Source::Place => "directory",
        Source::Log => "log",
        Source::KernelLog => "kernel-log",
    }
}

pub(super) fn reach(reach: Reach) -> &'static str {
    match reach {
        Reach::Redis => "redis",
        Reach::Kernel => "kernel",
        Reach::Cgroup => "cgroup",
        Reach::Filesystem => "filesystem",
        Reach::Human => "human",
    }
}

pub(super) fn consent(consent: Consent) -> &'static str {
    match consent {
        Consent::Auto => "auto",
        Consent::Ask => "ask",
        Consent::Never => "never",
    }
}

pub(super) fn proof(proof: Proof) -> &'static str {
    match proof {
        Proof::Save => "a BGSAVE that ends well",
        Proof::Aof => "the signs of the append-only file",
        Proof::Reading => "reading it back",
    }
}

pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Replica => "replica",
        Role::Other => "other",
    }
}
