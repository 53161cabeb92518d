//! The whole proxy inside another program: settings by name, then [`bgsafe::proxy::run`], which serves
//! until SIGTERM or SIGINT. Try it: `cargo run --example embed -- 127.0.0.1:6380 127.0.0.1:6379`

use std::process::ExitCode;

use bgsafe::config::layers::{Layer, Origin};
use bgsafe::config::options::Key;
use bgsafe::config::{self, Machine};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(listen), Some(upstream)) = (args.next(), args.next()) else {
        eprintln!("usage: embed LISTEN UPSTREAM");
        return ExitCode::from(2);
    };
    let mut layer = Layer::default();
    let state = std::env::temp_dir().join("bgsafe-embed").display().to_string();
    for (key, word) in [(Key::Listen, listen), (Key::Upstream, upstream), (Key::StateDir, state)] {
        layer.set(key, vec![word], Origin::Flag(key));
    }
    let loaded = match config::load(layer, None, &Machine) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match bgsafe::proxy::run(loaded.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
