//! `--explain`: the tables of checks and remedies, printed. The words are the tables' own.
//!
//! Refuses to know: any server. Invariant: every row of both tables is shown.

use std::fmt::Write as _;

use super::text::{Style, wrap};
use super::words;
use crate::cli::paint::Mood;
use crate::guard::finding::{CHECKS, Check, check};
use crate::guard::remedy::remedies;

/// Every check with its remedies.
pub(super) fn tables(style: Style) -> String {
    let mut out = String::new();
    for check in CHECKS {
        head(check, style, &mut out);
        for line in wrap(check.what, style.width - 6) {
            let _ = writeln!(out, "      {line}");
        }
        for remedy in remedies(check.id) {
            let how = format!("{}, {}", words::reach(remedy.reach), words::consent(remedy.consent));
            style.row("cure", &format!("{} ({how})", remedy.does), &mut out);
        }
    }
    let _ = writeln!(
        out,
        "\nconsent: auto is done by bgsafe itself, ask by `bgsafe doctor --fix`, never by a human"
    );
    out
}

/// The row of this id, or the ids that were perhaps meant.
pub(super) fn known(id: &str) -> Result<&'static Check, String> {
    check(id).ok_or_else(|| {
        let near = nearest(id, CHECKS.iter().map(|check| check.id)).join(", ");
        format!("`{id}` is no finding; perhaps {near}; all: bgsafe doctor --explain")
    })
}

/// One entry in full.
pub(super) fn entry(id: &str, style: Style) -> Result<String, String> {
    let check = known(id)?;
    let mut out = String::new();
    head(check, style, &mut out);
    let needs: Vec<_> = check.needs.iter().map(|need| words::source(*need)).collect();
    for (name, text) in [("what", check.what), ("why", check.why), ("cure", check.cure)] {
        style.row(name, text, &mut out);
    }
    if !check.explain.is_empty() {
        out.push('\n');
        for line in wrap(check.explain, style.width - 6) {
            let _ = writeln!(out, "      {line}");
        }
        out.push('\n');
    }
    style.row("from", &needs.join(", or "), &mut out);
    for remedy in remedies(check.id) {
        let _ = writeln!(out, "\n      {}", style.paint.word(Mood::Bold, remedy.does, 0));
        let lasts = if remedy.survives { "outlasts a restart" } else { "gone after a restart" };
        let how = format!(
            "reaches {}; consent {}; {lasts}; proved by {}",
            words::reach(remedy.reach),
            words::consent(remedy.consent),
            words::proof(remedy.proof)
        );
        for (name, text) in [("how", how.as_str()), ("asks", remedy.needs), ("undo", remedy.undo)] {
            style.row(name, text, &mut out);
        }
    }
    let _ = writeln!(out, "\n      source: {}", check.source);
    Ok(out)
}

fn head(check: &Check, style: Style, out: &mut String) {
    let id = style.paint.word(Mood::Bold, check.id, 0);
    let _ = writeln!(
        out,
        "{}  {id}  ({})",
        style.paint.word(Mood::Faint, check.severity.name(), 4),
        words::kind(check.kind)
    );
}

/// The three names that take the fewest changes of a letter.
fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut near: Vec<_> = names.map(|name| (distance(word, name), name)).collect();
    near.sort();
    near.truncate(3);
    near.into_iter().map(|(_, name)| name).collect()
}

/// Letters to add, drop or change, after Levenshtein; a name that holds the word whole is near.
fn distance(a: &str, b: &str) -> usize {
    if !a.is_empty() && b.contains(a) {
        return 0;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    // A word longer than any id is cut: only its beginning can be meant.
    for (i, x) in a.chars().take(64).enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::paint::Paint;

    const PLAIN: Style = Style { paint: Paint(false), width: 100 };

    #[test]
    fn every_id_is_in_the_tables_and_has_an_entry() {
        let all = tables(PLAIN);
        for check in CHECKS {
            assert!(all.contains(check.id), "{}", check.id);
            let entry = entry(check.id, PLAIN).expect(check.id);
            assert!(entry.contains(check.source), "{entry}");
        }
    }

    #[test]
    fn a_misspelt_id_is_answered_with_the_nearest() {
        let names = ["disk-full", "disk-headroom", "dir-missing", "fd-limit"];
        assert_eq!(nearest("disc-full", names.into_iter())[0], "disk-full");
        assert_eq!(nearest("missing", names.into_iter())[0], "dir-missing");
        assert!(entry("unknwon", PLAIN).expect_err("no such id").contains("unknown"));
    }
}
