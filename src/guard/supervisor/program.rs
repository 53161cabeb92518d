//! A program of the operator's: `sh -c`, JSON on its standard input, one minute, then its process group is ended.
//! The repair hook and alerts by command share it. Refuses to know: what it is told, and what for.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink};
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
    let (mut stdin, stderr, mut complaint) = (child.stdin.take(), child.stderr.take(), Vec::new());
    let ended = {
        let mut talk = std::pin::pin!(timeout(TIMEOUT, async {
            if let Some(mut stdin) = stdin.take() {
                // A program that does not read is not wrong.
                let _ = stdin.write_all(news).await;
            }
            child.wait().await.map_err(|e| format!("host: {e}"))
        }));
        // To its end: who complains at length must not wait for a reader.
        let mut listen = std::pin::pin!(async {
            let Some(mut stderr) = stderr else { return };
            let _ = (&mut stderr).take(COMPLAINT as u64).read_to_end(&mut complaint).await;
            let _ = copy(&mut stderr, &mut sink()).await;
        });
        tokio::select! {
            ended = &mut talk => {
                // Its last words may be on their way; whom it left behind may hold the pipe for ever.
                if matches!(&ended, Ok(Ok(status)) if !status.success()) {
                    let _ = timeout(Duration::from_secs(1), &mut listen).await;
                }
                ended
            }
            () = &mut listen => talk.await,
        }
    };
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{status}: {}", String::from_utf8_lossy(&complaint).trim())),
        Ok(Err(why)) => Err(why),
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

    /// More than a pipe holds: it would wait for a reader until its minute is over.
    #[tokio::test]
    async fn a_program_may_complain_at_length_and_leave_somebody_behind() {
        let complain = "head -c 300000 /dev/zero | tr '\\0' x >&2";
        let ended = |hook: String| async move { timeout(Duration::from_secs(20), run(&hook, b"x")).await };
        assert_eq!(ended(complain.into()).await, Ok(Ok(())));
        let why = ended(format!("{complain}; sleep 3 & exit 7")).await.expect("not waited for").unwrap_err();
        assert!(why.contains("exit status: 7") && why.ends_with("xxx") && why.len() < 400, "{why}");
    }
}
