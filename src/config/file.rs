//! `bgsafe.toml` into a layer of words. Refuses to know what a word means.
//!
//! Invariant: every complaint carries the line and column of what it complains about.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::layers::{Layer, Origin};
use super::options::{Key, OPTIONS};

/// Reads the text of a file called `path`.
pub fn layer(path: &str, text: &str) -> Result<Layer, ConfigError> {
    let file = File { path, text };
    let table = DeTable::parse(text).map_err(|e| file.error(e.span().unwrap_or(0..0), e.message().trim()))?;
    let mut layer = Layer::default();
    for (name, value) in table.get_ref() {
        let Some(key) = Key::named(name.get_ref()) else {
            return Err(file.error(name.span(), &unknown(name.get_ref())));
        };
        let words = file.words(key, value)?;
        let (line, column) = file.position(value.span());
        layer.set(key, words, Origin::File(path.to_owned(), line, column));
    }
    Ok(layer)
}

struct File<'a> {
    path: &'a str,
    text: &'a str,
}

impl File<'_> {
    fn words(&self, key: Key, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, ConfigError> {
        match value.get_ref() {
            DeValue::Array(words) if key.row().many => {
                words.iter().map(|word| self.word(key, word)).collect()
            }
            DeValue::String(text) => Ok(key.split(text)),
            _ => Ok(vec![self.word(key, value)?]),
        }
    }

    /// Numbers are taken as they are written, so `workers = 2` and `workers = "2"` are the same.
    fn word(&self, key: Key, value: &Spanned<DeValue<'_>>) -> Result<String, ConfigError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Integer(_) => Ok(self.text[value.span()].to_owned()),
            other => {
                let name = key.row().name;
                let wanted = if key.row().many { "a string or a list of strings" } else { "a string" };
                let says = format!("{name}: found {}, wanted {wanted}", other.type_str());
                Err(self.error(value.span(), &says))
            }
        }
    }

    fn error(&self, at: Range<usize>, says: &str) -> ConfigError {
        let (line, column) = self.position(at);
        ConfigError(format!("{}:{line}:{column}: {says}", self.path))
    }

    fn position(&self, at: Range<usize>) -> (usize, usize) {
        let before = &self.text[..at.start.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        (line, column)
    }
}

fn unknown(name: &str) -> String {
    let meant = name.replace('_', "-").to_ascii_lowercase();
    match Key::named(&meant) {
        Some(key) => format!("unknown key `{name}`; did you mean `{}`?", key.row().name),
        None => {
            let names: Vec<_> = OPTIONS.iter().map(|row| row.name).collect();
            format!("unknown key `{name}`; the keys are {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_words_and_knows_where() {
        let text = "# comment\nlisten = [\"a:1\", \"b:2\"]\nworkers = 2\n  hold-time = \"5s\"\n";
        let layer = layer("f.toml", text).expect("sound");
        let given = |key| layer.given(key).cloned().expect("given");
        assert_eq!(given(Key::Listen).words, ["a:1", "b:2"]);
        assert_eq!(given(Key::Workers).words, ["2"]);
        assert_eq!(given(Key::HoldTime).origin, Origin::File("f.toml".into(), 4, 15));
        assert_eq!(layer.given(Key::Policy), None);
    }

    #[test]
    fn every_complaint_has_its_line_and_column() {
        for (text, says) in [
            ("\nhold_time = \"5s\"", "f.toml:2:1: unknown key `hold_time`; did you mean `hold-time`?"),
            ("a = 1\n", "f.toml:1:1: unknown key `a`; the keys are listen, upstream"),
            ("[server]\nlisten = 1", "f.toml:1:2: unknown key `server`"),
            ("policy = \"hold\"\npolicy = \"hold\"", "f.toml:2:1: duplicate key"),
            ("workers = [1]", "f.toml:1:11: workers: found array, wanted a string"),
            ("workers = 1.5", "f.toml:1:11: workers: found float"),
            ("listen = [1.5]", "f.toml:1:11: listen: found float, wanted a string or a list"),
            ("policy =", "f.toml:1:9: "),
            ("é = \"", "f.toml:1:"),
        ] {
            let error = layer("f.toml", text).expect_err(text).to_string();
            assert!(
                error.strip_prefix("configuration: ").is_some_and(|e| e.starts_with(says)),
                "{text}: {error}"
            );
        }
    }
}
