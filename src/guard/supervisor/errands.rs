//! What is done away from the guard's own task, because it may take its time: looking at the host,
//! changing it, running the operator's program. Each ends as an [`Event`], within its time.
//!
//! Refuses to know: why. Invariants: one look at a time, so that a disk that hangs costs one thread; threads
//! are detached, so that it cannot keep the process from ending; a program that outlives its minute is ended.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink};
use tokio::process::Command;
use tokio::sync::{mpsc::UnboundedSender, oneshot};
use tokio::time::timeout;

use crate::config::Address;
use crate::guard::evidence::{HostFacts, Look, ServerFacts};
use crate::guard::incident::Event;
use crate::guard::record::Finding;
use crate::guard::remedy::Change;
use crate::host::{Asked, Host, is_local};

/// A host that does not answer by then is not in sight.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// A change that was not made by then is told as one that was not.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// The operator's program is ended then.
const HOOK_TIMEOUT: Duration = Duration::from_secs(60);
/// Of its complaint so many bytes are shown.
const HOOK_WORDS: usize = 300;

/// See the module's page.
pub struct Errands {
    pub host: Arc<dyn Host>,
    pub address: Address,
    pub hook: Option<String>,
    pub done: UnboundedSender<Event>,
    /// A look is under way, perhaps for ever.
    pub looking: Arc<AtomicBool>,
}

impl Errands {
    /// Ends as [`Event::Examined`].
    pub fn examine(&self, look: Look, server: ServerFacts) {
        let done = self.done.clone();
        if self.looking.swap(true, AcqRel) {
            let hung = HostFacts::elsewhere("the host has not answered the last look yet");
            return tell(&done, Event::Examined(Box::new(hung)));
        }
        let (host, address, looking) =
            (self.host.clone(), self.address.clone(), Looking(self.looking.clone()));
        let facts = away(move || {
            // Before the answer is sent: it may be followed by the next question at once.
            let _looking = looking;
            let asked = Asked::new(&look, &server, is_local(&address));
            host.facts(&asked)
        });
        tokio::spawn(async move {
            let facts = match timeout(LOOK_TIMEOUT, facts).await {
                Ok(Ok(facts)) => facts,
                Ok(Err(_)) => HostFacts::elsewhere("the look at the host failed"),
                Err(_) => HostFacts::elsewhere("the host did not answer within 2 s"),
            };
            tell(&done, Event::Examined(Box::new(facts)));
        });
    }

    /// Ends as [`Event::Changed`].
    pub fn change(&self, errand: u64, change: Change) {
        let (host, done) = (self.host.clone(), self.done.clone());
        let result = away(move || host.apply(&change));
        tokio::spawn(async move {
            let result = match timeout(CHANGE_TIMEOUT, result).await {
                Ok(Ok(Ok(applied))) => Ok(format!("{} -> {}", applied.before, applied.after)),
                Ok(Ok(Err(why))) => Err(why.to_string()),
                Ok(Err(_)) => Err("bgsafe: the change failed".into()),
                Err(_) => Err("host: no answer within 30 s; the change may still be made".into()),
            };
            tell(&done, Event::Changed(errand, result));
        });
    }

    /// Ends as [`Event::Hooked`].
    pub fn hook(&self, finding: Finding, incident: Option<String>, upstream: String) {
        let Some(hook) = self.hook.clone() else { return };
        let done = self.done.clone();
        tokio::spawn(async move {
            let id = finding.id.clone();
            let news = serde_json::json!({"upstream": upstream, "incident": incident, "finding": finding});
            let result = run(&hook, format!("{news}\n").as_bytes()).await;
            tell(&done, Event::Hooked(id, result));
        });
    }
}

/// A look is under way for as long as this lives: a panic, or no thread to be had, ends it too.
struct Looking(Arc<AtomicBool>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}

/// On a thread of its own. A panic there drops the sender.
fn away<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (answer, result) = oneshot::channel();
    // Without a thread to be had the sender is dropped, too.
    let _ = thread::Builder::new().name("bgsafe-host".into()).spawn(move || answer.send(work()));
    result
}

/// The guard may have ended meanwhile.
fn tell(done: &UnboundedSender<Event>, event: Event) {
    let _ = done.send(event);
}

async fn run(hook: &str, news: &[u8]) -> Result<(), String> {
    let mut command = Command::new("sh");
    command.arg("-c").arg(hook).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| format!("host: sh: {e}"))?;
    let group = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    let (mut stdin, stderr, mut words) = (child.stdin.take(), child.stderr.take(), Vec::new());
    let ended = {
        let mut talk = std::pin::pin!(timeout(HOOK_TIMEOUT, async {
            if let Some(mut stdin) = stdin.take() {
                // A program that does not read is not wrong.
                let _ = stdin.write_all(news).await;
            }
            child.wait().await.map_err(|e| format!("host: {e}"))
        }));
        // To its end: who complains at length must not wait for a reader.
        let mut listen = std::pin::pin!(async {
            let Some(mut stderr) = stderr else { return };
            let _ = (&mut stderr).take(HOOK_WORDS as u64).read_to_end(&mut words).await;
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
        Ok(Ok(status)) => Err(format!("{status}: {}", String::from_utf8_lossy(&words).trim())),
        Ok(Err(why)) => Err(why),
        Err(_) => {
            if let Some(group) = group {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            Err(format!("ended: it took longer than {HOOK_TIMEOUT:?}"))
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

    struct Broken(AtomicBool);

    impl Host for Broken {
        fn facts(&self, _: &Asked) -> HostFacts {
            assert!(self.0.swap(true, AcqRel), "the first look fails");
            HostFacts { pid: crate::guard::evidence::Fact::Known(7), ..HostFacts::default() }
        }

        fn apply(&self, _: &Change) -> Result<crate::host::Applied, crate::host::HostError> {
            Err(crate::host::HostError::Elsewhere("a test".into()))
        }
    }

    /// Nor by one for which no thread was to be had, on a host that is out of processes.
    #[tokio::test]
    async fn a_look_that_failed_blinds_no_later_one() {
        let (done, mut events) = tokio::sync::mpsc::unbounded_channel();
        let host = Arc::new(Broken(AtomicBool::new(false)));
        let address = Address::Unix("/run/redis.sock".into());
        let errands = Errands { host, address, hook: None, done, looking: Arc::default() };
        for known in [None, Some(7)] {
            errands.examine(Look::default(), ServerFacts::default());
            let Some(Event::Examined(facts)) = events.recv().await else { panic!("an answer") };
            assert_eq!(facts.pid.get(), known, "{:?}", facts.pid);
        }
    }
}
