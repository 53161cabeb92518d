//! The options of `run` as clap sees them, made from the one table in [`crate::config::options`].
//! Refuses to know what a word means: it only says which words came from the command line.
//!
//! Invariant: a flag that was not given leaves no trace, so that lower layers are heard.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};

use crate::config::layers::{Layer, Origin};
use crate::config::options::OPTIONS;

/// `--config`, and the layer of all other flags.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config FILE`.
    pub config: Option<PathBuf>,
    /// Every other option that was given.
    pub layer: Layer,
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("File with options [default: ./bgsafe.toml, else /etc/bgsafe/bgsafe.toml, when there]");
        OPTIONS.iter().fold(command.arg(config), |command, row| {
            let help = match row.default {
                Some(default) => format!("{} [default: {default}]", row.help),
                None => row.help.to_owned(),
            };
            let action = if row.many { ArgAction::Append } else { ArgAction::Set };
            command.arg(Arg::new(row.name).long(row.name).value_name(row.value).action(action).help(help))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut layer = Layer::default();
        for row in &OPTIONS {
            if let Some(words) = matches.get_many::<String>(row.name) {
                let words = words.flat_map(|word| row.key.split(word)).collect();
                layer.set(row.key, words, Origin::Flag(row.key));
            }
        }
        Ok(Flags { config: matches.get_one("config").cloned(), layer })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
