//! Imports point down only: the drawing of docs/architecture.md, checked against each `crate::` path under src.
//!
//! Fails with the arrow that broke the drawing, and with files that have grown past one idea.

use std::fs;
use std::path::{Path, PathBuf};

/// The drawing. The longest room that fits a path decides; a room may import its own layer and those below.
const ROOMS: &[(&str, u8)] = &[
    ("main", 4),
    ("cli", 4),
    ("demo", 4),
    ("doctor", 4),
    ("proxy", 3),
    ("admin", 3),
    ("session/shell", 3),
    ("guard/supervisor", 3),
    ("guard/feed", 3),
    ("guard/fleet", 3),
    ("guard/store", 3),
    ("escrow", 3),
    ("topology/watch", 3),
    ("topology/follow", 3),
    ("gate", 2),
    ("route", 2),
    ("metrics", 2),
    ("control", 2),
    ("http", 2),
    ("host", 2),
    ("session", 1),
    ("guard", 1),
    ("topology", 1),
    ("resp", 0),
    ("command", 0),
    ("posture", 0),
    ("config", 0),
];

/// Stands beside the drawing: what demo, tests and benches share. Imports what it likes; only the surface uses it.
const BESIDE: &str = "testing";

/// A file that is longer holds a second idea.
const LINES_MAX: usize = 450;

fn room(path: &str) -> Option<(&'static str, u8)> {
    let fits = |room: &str| path == room || path.starts_with(&format!("{room}/"));
    ROOMS.iter().copied().filter(|(room, _)| fits(room)).max_by_key(|(room, _)| room.len())
}

/// Every file under `dir`, but the modules that are compiled for tests only.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is there") {
        let path = entry.expect("readable").path();
        if is_test_module(&path) {
            continue;
        }
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Declared as `#[cfg(test)] mod name;` by its parent; a directory's is all that is in it.
fn is_test_module(path: &Path) -> bool {
    let name = path.file_stem().and_then(|s| s.to_str()).expect("a name");
    let dir = path.parent().expect("under src");
    [dir.join("mod.rs"), dir.join("lib.rs"), dir.with_extension("rs")]
        .iter()
        .filter_map(|p| fs::read_to_string(p).ok())
        .any(|parent| {
            parent.contains(&format!("#[cfg(test)]\nmod {name};"))
                || parent.contains(&format!("#[cfg(test)]\npub mod {name};"))
        })
}

/// The code of a file: without its tests, which come last, and without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().map(|line| line.split("//").next().unwrap_or_default())
}

/// The rooms that a line names: `crate::a::b` and `crate::{a::b, c}`, as `a/b`.
fn imports(line: &str) -> Vec<String> {
    let path = |text: &str| {
        let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
        text[..end].trim_matches(':').replace("::", "/")
    };
    line.match_indices("crate::")
        .filter(|(at, _)| !line[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        .flat_map(|(at, name)| {
            let rest = &line[at + name.len()..];
            match rest.strip_prefix('{') {
                Some(list) => list.split(',').map(|item| path(item.trim())).collect(),
                None => vec![path(rest)],
            }
        })
        .filter(|path| !path.is_empty())
        .collect()
}

#[test]
fn imports_point_down_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut broken, mut arrows) = (Vec::new(), Vec::new(), 0);
    files(&src, &mut found);
    for file in found {
        let name = file.strip_prefix(&src).expect("under src").with_extension("");
        let name = name.to_str().expect("a name").trim_end_matches("/mod");
        let Some((from, layer)) = room(name) else {
            assert!(name == "lib" || name.starts_with(BESIDE), "{name} is in no room of the drawing");
            continue;
        };
        let text = fs::read_to_string(&file).expect("readable");
        for (n, line) in code(&text).enumerate() {
            for path in imports(line) {
                arrows += 1;
                match room(&path) {
                    Some((_, below)) if below <= layer => {}
                    None if path.starts_with(BESIDE) && layer == 4 => {}
                    other => {
                        let to = other.map_or("in no room".to_owned(), |(room, l)| format!("{room}, L{l}"));
                        broken
                            .push(format!("src/{name}:{} ({from}, L{layer}) → crate::{path} ({to})", n + 1));
                    }
                }
            }
        }
    }
    assert!(broken.is_empty(), "these arrows point up:\n{}", broken.join("\n"));
    assert!(arrows > 50, "only {arrows} arrows were found: the reading is broken");
}

#[test]
fn no_file_has_grown_past_one_idea() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&src, &mut found);
    let long: Vec<String> = found
        .iter()
        .filter_map(|file| {
            let text = fs::read_to_string(file).expect("readable");
            let lines = code(&text).count();
            (lines > LINES_MAX).then(|| format!("{}: {lines} lines without its tests", file.display()))
        })
        .collect();
    assert!(long.is_empty(), "longer than {LINES_MAX}:\n{}", long.join("\n"));
}

#[test]
fn arrows_are_read_from_every_form_of_a_path() {
    for (line, expected) in [
        ("use crate::gate::{Gate, Place};", vec!["gate"]),
        ("use crate::{gate::Gate, metrics};", vec!["gate/Gate", "metrics"]),
        ("    Command::Demo(args) => crate::demo::run(args),", vec!["demo/run"]),
        ("pub(crate) use crate::resp::scan;", vec!["resp/scan"]),
        ("let x = other_crate::thing();", vec![]),
    ] {
        assert_eq!(imports(line), expected, "{line}");
    }
}
