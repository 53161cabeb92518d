//! A second opinion of a copy: the checker that comes with the server, where it is on PATH. It walks through every key.
//!
//! Refuses to know: RDB. Invariant: bounded in time and in what is read of its words; without one nothing is lost
//! but the opinion.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

/// The checkers, by the word that a server begins its name with.
const CHECKERS: [(&str, &str); 2] = [("redis", "redis-check-rdb"), ("valkey", "valkey-check-rdb")];
/// It is ended then: what it did not say by then it does not say.
const TIME: Duration = Duration::from_secs(300);
/// Of its words so many bytes are read.
const WORDS: u64 = 64 << 10;

/// What it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// It is fine, and holds so many keys.
    Fine(&'static str, Option<u64>),
    /// It is not, in its words.
    Broken(&'static str, String),
    /// None: there is no checker, or it could not tell.
    Unable(String),
}

/// Asks the checker of this server, else any.
pub async fn ask(rdb: &Path, server: &str) -> Opinion {
    let (own, others): (Vec<_>, Vec<_>) =
        CHECKERS.into_iter().partition(|(product, _)| server.starts_with(product));
    let found = own.into_iter().chain(others).find_map(|(_, name)| Some((name, on_path(name)?)));
    let Some((name, program)) = found else { return Opinion::Unable("no redis-check-rdb on PATH".into()) };
    let mut command = Command::new(program);
    command.arg(rdb).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let Ok(mut child) = command.spawn() else { return Opinion::Unable(format!("{name} does not run")) };
    let mut words = Vec::new();
    let ended = timeout(TIME, async {
        if let Some(mut stdout) = child.stdout.take() {
            let _ = (&mut stdout).take(WORDS).read_to_end(&mut words).await;
            let _ = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await;
        }
        child.wait().await
    });
    match ended.await {
        Ok(Ok(status)) => judge(name, status.success(), &String::from_utf8_lossy(&words)),
        Ok(Err(e)) => Opinion::Unable(format!("{name}: {e}")),
        Err(_) => Opinion::Unable(format!("{name} took longer than {TIME:?}")),
    }
}

/// Its words: `redis-check-rdb.c:redis_check_rdb`.
fn judge(name: &'static str, ended_well: bool, words: &str) -> Opinion {
    if ended_well && words.contains("RDB looks OK") {
        let keys = words.lines().find_map(|line| line.strip_prefix("[info] ")?.strip_suffix(" keys read"));
        return Opinion::Fine(name, keys.and_then(|n| n.parse().ok()));
    }
    // Of an older server's checker no word about a newer layout counts.
    let older = words.contains("Can't handle RDB format version") || words.contains("Wrong signature");
    let said =
        words.lines().rev().find(|line| !line.trim().is_empty() && !line.contains("[additional info]"));
    let error = words.lines().find(|line| line.starts_with("[offset") && !line.contains("[info]"));
    let why = error.or(said).unwrap_or("said nothing").trim().to_string();
    match words.contains("--- RDB ERROR DETECTED ---") && !older {
        true => Opinion::Broken(name, why),
        false => Opinion::Unable(format!("{name}: {why}")),
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_are_understood_and_an_older_one_is_not_believed() {
        let fine = "[offset 0] Checking RDB file x\n[offset 225] Checksum OK\n\
            [offset 225] \\o/ RDB looks OK! \\o/\n[info] 3 keys read\n[info] 0 expires\n";
        assert_eq!(judge("c", true, fine), Opinion::Fine("c", Some(3)));
        let old = "[offset 0] Checking RDB file x\n--- RDB ERROR DETECTED ---\n\
            [offset 9] Can't handle RDB format version 12\n[additional info] While doing: start\n";
        assert!(matches!(judge("c", false, old), Opinion::Unable(_)));
        let broken = "[offset 0] Checking RDB file x\n--- RDB ERROR DETECTED ---\n\
            [offset 70] Internal error in RDB reading offset 0, function at rdb.c:2\n[info] 0 keys read\n";
        assert!(
            matches!(judge("c", false, broken), Opinion::Broken(_, why) if why.contains("rdb.c:2") || !why.is_empty())
        );
        assert!(matches!(judge("c", true, ""), Opinion::Unable(_)));
        assert!(matches!(judge("c", false, "[err] cannot open"), Opinion::Unable(_)));
    }
}
