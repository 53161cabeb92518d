//! Where a supervisor sits among those of its server's peers: it tells news, and hears of theirs.

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::guard::incident::{Event, News};

/// See the module's page.
#[derive(Debug)]
pub struct Seat {
    news: UnboundedSender<(String, News)>,
    events: UnboundedReceiver<Event>,
}

impl Seat {
    /// Tells into `news` under the server's address; what is sent to the other end comes to its guard.
    pub fn new(news: UnboundedSender<(String, News)>) -> (Seat, UnboundedSender<Event>) {
        let (sender, events) = unbounded_channel();
        (Seat { news, events }, sender)
    }

    /// Nobody to tell, nobody to hear.
    pub fn alone() -> Seat {
        Seat::new(unbounded_channel().0).0
    }

    /// Nobody listening is no error.
    pub(super) fn tell(&self, address: &str, news: News) {
        let _ = self.news.send((address.to_string(), news));
    }

    /// What the others tell; `None` when nobody ever will.
    pub(super) async fn hear(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}
