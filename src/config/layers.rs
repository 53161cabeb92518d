//! Four layers of words, flag over environment over file over default, and where each word came
//! from. Refuses to know what a word means: [`super::build`] does.
//!
//! Invariant: of every option at most one layer's word survives, and it knows its origin.

use std::fmt;

use super::World;
use super::options::{COUNT, Key, OPTIONS};

/// Where a value came from, as errors and `check-config` say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag(Key),
    /// The environment, by this name.
    Env(String),
    /// A file: its path, line and column, each from 1.
    File(String, usize, usize),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(key) => write!(f, "flag --{}", key.row().name),
            Origin::Env(name) => write!(f, "environment {name}"),
            Origin::File(path, line, column) => write!(f, "file {path}:{line}:{column}"),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// What one layer says of one option: a list for `listen`, else one word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// As written, before any parsing.
    pub words: Vec<String>,
    /// By whom.
    pub origin: Origin,
}

/// One layer, or several merged.
#[derive(Clone, Debug)]
pub struct Layer([Option<Given>; COUNT]);

impl Default for Layer {
    /// Nothing is said. (The standard library derives this for short arrays only.)
    fn default() -> Self {
        Layer(std::array::from_fn(|_| None))
    }
}

impl Layer {
    /// Says `words` of `key`.
    pub fn set(&mut self, key: Key, words: Vec<String>, origin: Origin) {
        self.0[key as usize] = Some(Given { words, origin });
    }

    /// What was said of `key`.
    pub fn given(&self, key: Key) -> Option<&Given> {
        self.0[key as usize].as_ref()
    }

    /// This layer, and what `below` says where this one is silent.
    pub fn over(mut self, below: Layer) -> Layer {
        for (mine, theirs) in self.0.iter_mut().zip(below.0) {
            if mine.is_none() {
                *mine = theirs;
            }
        }
        self
    }

    /// The words of `BGSAFE_*`. An empty variable says nothing (compose files write those), and
    /// unknown ones are not ours to judge: Kubernetes sets `BGSAFE_PORT` for a service of that name.
    pub fn from_env(world: &dyn World) -> Layer {
        let mut layer = Layer::default();
        for row in &OPTIONS {
            let name = row.key.env();
            if let Some(text) = world.env(&name).filter(|text| !text.is_empty()) {
                layer.set(row.key, row.key.split(&text), Origin::Env(name));
            }
        }
        layer
    }

    /// The words of the table of options.
    pub fn defaults() -> Layer {
        let mut layer = Layer::default();
        for row in &OPTIONS {
            if let Some(text) = row.default {
                layer.set(row.key, row.key.split(text), Origin::Default);
            }
        }
        layer
    }
}

impl Key {
    /// The words in one text: several, at commas, where the option may be given more than once.
    pub fn split(self, text: &str) -> Vec<String> {
        match self.row().many {
            true => text.split(',').map(|word| word.trim().to_owned()).collect(),
            false => vec![text.to_owned()],
        }
    }
}
