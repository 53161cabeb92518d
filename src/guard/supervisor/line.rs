//! The control connection as the supervisor sees it: made, answering, lost, and made again.
//!
//! Refuses to know: what is asked, and what an answer means. Invariant: one thing at a time is awaited from the server.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use super::Shell;
use crate::control::{Control, ControlError};
use crate::guard::dialogue::Answer;
use crate::guard::incident::Event;

/// Between attempts to connect: from and to.
pub(super) const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What became of the one thing we wait for from the server.
pub(super) enum Line {
    Connected(Result<Control, ControlError>),
    Answered(Control, Result<(u64, Answer), ControlError>),
}

impl Shell {
    pub(super) fn heard(&mut self, line: Line) {
        self.line = None;
        match line {
            Line::Connected(Ok(control)) => {
                self.watching.reached(control.peer());
                self.control = Some(control);
                self.tell(Event::Up);
            }
            Line::Connected(Err(why)) | Line::Answered(_, Err(why)) => self.lost(&why),
            Line::Answered(control, Ok((sightings, answer))) => {
                self.control = Some(control);
                if !std::mem::replace(&mut self.answers, true) {
                    self.retry = RECONNECT.0;
                    self.failed.clear();
                    info!(upstream = self.params.settings.address, "control connection up");
                }
                if self.params.settings.exposure_changes > 0 {
                    let (sent, answered) = self.asked;
                    self.tell(Event::Passed { sent, answered });
                }
                self.tell(Event::Answered { sightings, answer });
            }
        }
    }

    /// A connection counts as one when something was answered on it: a server that accepts and hangs up
    /// is asked less and less often, and told of once.
    fn lost(&mut self, why: &ControlError) {
        self.answers = false;
        let words = why.to_string();
        if self.failed != words {
            warn!(
                side = "upstream",
                address = self.params.settings.address,
                "no control connection, so refusals cannot be cured: {words}"
            );
            self.failed.clone_from(&words);
        }
        let pause = self.retry;
        self.retry = (pause * 2).min(RECONNECT.1);
        self.connect(pause);
        self.tell(Event::Down(words));
    }

    pub(super) fn connect(&mut self, pause: Duration) {
        let endpoint = self.params.endpoint.clone();
        self.line = Some(Box::pin(async move {
            sleep(pause).await;
            Line::Connected(Control::connect(&endpoint).await)
        }));
    }
}

pub(super) async fn wait_line(line: &mut Option<Pin<Box<dyn Future<Output = Line> + Send>>>) -> Line {
    match line {
        Some(line) => line.await,
        None => std::future::pending().await,
    }
}
