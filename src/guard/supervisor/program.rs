//! A program of the operator's: `sh -c`, JSON on its standard input, one minute, then its process group is ended.
//! The repair hook and alerts by command share it. Refuses to know: what it is told, and what for.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::timeout;

/// The program is ended then.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Of its complaint so many bytes are shown.
const COMPLAINT: usize = 300;

/// Runs `words` with `news` on its standard input; its complaint, when it fails.
pub async fn run(words: &str, news: &[u8]) -> Result<(), String> {
    let mut command = Command::new("sh");
    command.arg("-c").arg(words).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| format!("host: sh: {e}"))?;
    let group = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    let talk = async {
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read is not wrong.
            let _ = stdin.write_all(news).await;
        }
        let status = child.wait().await.map_err(|e| format!("host: {e}"))?;
        match status.success() {
            true => Ok(()),
            false => {
                let mut words = Vec::new();
                if let Some(stderr) = child.stderr.take() {
                    let mut said = stderr.take(COMPLAINT as u64);
                    let _ = timeout(Duration::from_secs(1), said.read_to_end(&mut words)).await;
                }
                Err(format!("{status}: {}", String::from_utf8_lossy(&words).trim()))
            }
        }
    };
    match timeout(TIMEOUT, talk).await {
        Ok(result) => result,
        Err(_) => {
            if let Some(group) = group {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            Err(format!("ended: it took longer than {TIMEOUT:?}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_program_reads_the_news_and_its_failure_is_told_in_its_own_words() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("news");
        assert_eq!(run(&format!("cat > {}", file.display()), b"{\"a\":1}\n").await, Ok(()));
        assert_eq!(std::fs::read(&file).unwrap(), b"{\"a\":1}\n");
        let why = run("echo no volume >&2; exit 3", b"x").await.unwrap_err();
        assert!(why.contains("exit status: 3") && why.contains("no volume"), "{why}");
        assert_eq!(run("exec <&-; true", &vec![b'x'; 1 << 20]).await, Ok(()), "nobody must read");
    }
}
