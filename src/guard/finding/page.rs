//! docs/findings.md, written from the two tables.
//!
//! Refuses to know: any evidence. Invariant: nothing stands there that is not in a table.

use super::{CHECKS, Kind, Source};
use crate::guard::remedy::{Consent, Reach, remedies};

/// The whole page.
pub fn markdown() -> String {
    let mut page = String::from(HEAD);
    page.push_str("| finding | kind | severity | what |\n|---|---|---|---|\n");
    for check in CHECKS {
        let (id, kind, severity) = (check.id, check.kind.name(), check.severity.name());
        page.push_str(&format!("| [{id}](#{id}) | {kind} | {severity} | {} |\n", check.what));
    }
    for check in CHECKS {
        let needs: Vec<_> = check.needs.iter().map(|source| source.name()).collect();
        page.push_str(&format!(
            "\n## {}\n\n{} {}\n\n**Cure.** {}\n\n{}\n\n*Seen in:* {}. *Source:* {}.\n\n",
            check.id,
            check.what,
            check.why,
            check.cure,
            check.explain,
            needs.join(", "),
            check.source
        ));
        page.push_str("| remedy | reach | consent | needs | lasts | undo |\n|---|---|---|---|---|---|\n");
        for remedy in remedies(check.id) {
            let lasts = if remedy.survives { "yes" } else { "until restart" };
            let (reach, consent) = (remedy.reach.name(), remedy.consent.name());
            page.push_str(&format!(
                "| {} | {reach} | {consent} | {} | {lasts} | {} |\n",
                remedy.does, remedy.needs, remedy.undo
            ));
        }
    }
    page
}

const HEAD: &str = "# Findings

<!-- Written from src/guard/finding and src/guard/remedy: BGSAFE_BLESS=1 cargo test --lib guard::finding::page -->

What bgsafe looks for, what it means, and what is done about it. `bgsafe doctor --explain FINDING` prints the same.
A *cause* is why saving fails now, a *danger* is what will fail next or makes it worse, *advice* is what could be better;
what is a cause during a failure is a danger in peace. Consent: *auto* is done when `--repair` reaches that far, *ask* is
offered by `bgsafe doctor --fix`, *never* is printed for a person to type.

";

impl Kind {
    /// The word in reports and docs.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Cause => "cause",
            Kind::Danger => "danger",
            Kind::Advice => "advice",
        }
    }
}

impl Source {
    /// In words, for reports and docs.
    pub fn name(self) -> &'static str {
        match self {
            Source::Info => "INFO",
            Source::Config => "CONFIG",
            Source::Clients => "CLIENT LIST",
            Source::Process => "the server's process",
            Source::Kernel => "kernel settings and memory",
            Source::Cgroup => "control groups",
            Source::Place => "the data directory",
            Source::Log => "the server's log",
            Source::KernelLog => "the kernel's log",
        }
    }
}

impl Reach {
    /// The word in reports and docs.
    pub fn name(self) -> &'static str {
        match self {
            Reach::Redis => "redis",
            Reach::Kernel => "kernel",
            Reach::Cgroup => "control group",
            Reach::Filesystem => "filesystem",
            Reach::Human => "person",
        }
    }
}

impl Consent {
    /// The word in reports and docs.
    pub fn name(self) -> &'static str {
        match self {
            Consent::Auto => "auto",
            Consent::Ask => "ask",
            Consent::Never => "never",
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_what_the_tables_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/findings.md");
        if std::env::var_os("BGSAFE_BLESS").is_some() {
            std::fs::write(path, super::markdown()).expect("docs can be written");
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(page == super::markdown(), "BGSAFE_BLESS=1 cargo test --lib guard::finding::page");
    }
}
