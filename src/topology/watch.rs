//! The shell around [`Council`]: for each Sentinel a task with two connections, one that asks and one that listens;
//! and a scout that hears on a server's own channel which Sentinels watch it.
//!
//! Refuses to know: what any answer means. Invariant: an answer is dated by the moment it was asked for, so one that
//! comes late is never taken for news.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::sentinel::{Action, Council, Event, Stir, Who};
use super::view::Report;
use super::words::{self, HELLO, Hello};
use crate::config::rename::Renames;
use crate::config::{Address, Credentials};
use crate::control::{Control, ControlError, Endpoint};

/// Between two questions in peace, and while anything is wrong.
const ASK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(200));
/// One that hangs is lost after so long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Before one that was lost is tried again, and a scout begins anew.
const AGAIN: Duration = Duration::from_secs(1);

/// Whom to ask, about which group.
#[derive(Clone, Debug)]
pub struct Params {
    /// What the Sentinels call it; `None` until one is met.
    pub name: Option<String>,
    /// `host:port` of those that are known by name.
    pub sentinels: Vec<String>,
    /// For AUTH at each of them.
    pub credentials: Option<Credentials>,
    /// For CLIENT SETNAME.
    pub client: String,
}

/// Reads what the Sentinels say together; clones read the same. The tasks end with the token.
#[derive(Clone, Debug)]
pub struct Watcher {
    council: watch::Receiver<Council>,
    inbox: UnboundedSender<(String, Event)>,
    start: Instant,
}

impl Watcher {
    /// Starts to ask.
    pub fn spawn(params: Params, shutdown: CancellationToken) -> Watcher {
        let start = Instant::now();
        let council = Council::new(&params.sentinels);
        let (publish, council_seen) = watch::channel(council.clone());
        let (inbox, events) = unbounded_channel();
        let hub = Hub { params, council, publish, start, seats: BTreeMap::new(), inbox: inbox.clone() };
        tokio::spawn(hub.run(events, shutdown));
        Watcher { council: council_seen, inbox, start }
    }

    /// Waits until somebody said something, or fell silent.
    pub async fn changed(&mut self) {
        if self.council.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What they say of this server now.
    pub fn report(&self, who: &Who) -> Report {
        self.council.borrow().report(self.start.elapsed(), who)
    }

    /// Whom a majority names, and the epoch.
    pub fn primary(&self) -> Option<(String, u64)> {
        self.council.borrow().primary(self.start.elapsed())
    }

    /// A line for each that says nothing.
    pub fn silent(&self) -> Vec<String> {
        self.council.borrow().silent(self.start.elapsed())
    }

    /// Somebody told of a Sentinel of this group.
    fn met(&self, hello: Hello) {
        let _ = self.inbox.send((hello.name, Event::Met(hello.peer)));
    }
}

struct Hub {
    params: Params,
    council: Council,
    publish: watch::Sender<Council>,
    start: Instant,
    /// Its end, and what makes it ask at once.
    seats: BTreeMap<String, (CancellationToken, Arc<Notify>)>,
    inbox: UnboundedSender<(String, Event)>,
}

impl Hub {
    async fn run(mut self, mut events: UnboundedReceiver<(String, Event)>, shutdown: CancellationToken) {
        self.act(&shutdown);
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.recv() => event,
            };
            let Some((group, event)) = event else { return };
            if let Event::Met(peer) = &event {
                let first = self.params.name.is_none();
                let name = self.params.name.get_or_insert_with(|| group.clone());
                if *name != group {
                    continue;
                }
                if first {
                    info!(group, sentinel = peer.address, "a Sentinel watches this server");
                }
            }
            if let Event::Stirred { .. } = &event {
                // All of them at once: the news is on its way to each.
                self.seats.values().for_each(|(_, ask)| ask.notify_one());
            }
            self.council.handle(self.start.elapsed(), event);
            self.act(&shutdown);
            let _ = self.publish.send(self.council.clone());
        }
    }

    fn act(&mut self, shutdown: &CancellationToken) {
        let Some(name) = self.params.name.clone() else { return };
        while let Some(action) = self.council.poll_action() {
            match action {
                Action::Sit(address) => {
                    let (end, ask) = (shutdown.child_token(), Arc::new(Notify::new()));
                    let endpoint = Endpoint {
                        address: Address::Tcp(address.clone()),
                        credentials: self.params.credentials.clone(),
                        name: self.params.client.clone(),
                        renames: Renames::default(),
                    };
                    let seat = Seat {
                        name: name.clone(),
                        address: address.clone(),
                        endpoint,
                        start: self.start,
                        ask: ask.clone(),
                        inbox: self.inbox.clone(),
                        council: self.publish.subscribe(),
                        told: None,
                    };
                    let ends = end.clone();
                    tokio::spawn(async move {
                        tokio::select! {
                            () = ends.cancelled() => {}
                            () = seat.run() => {}
                        }
                    });
                    self.seats.insert(address, (end, ask));
                }
                Action::Leave(address) => {
                    if let Some((end, _)) = self.seats.remove(&address) {
                        end.cancel();
                    }
                }
            }
        }
    }
}

/// One Sentinel.
struct Seat {
    name: String,
    address: String,
    endpoint: Endpoint,
    start: Instant,
    ask: Arc<Notify>,
    inbox: UnboundedSender<(String, Event)>,
    council: watch::Receiver<Council>,
    /// The trouble that the log was told of last.
    told: Option<String>,
}

impl Seat {
    async fn run(mut self) {
        loop {
            let why = tokio::select! {
                why = self.asks() => why,
                () = self.listens() => continue,
            };
            let words = why.to_string();
            if self.told.as_ref() != Some(&words) {
                warn!(side = "sentinel", address = self.address, group = self.name, "{words}");
            }
            self.told = Some(words.clone());
            self.tell(Event::Lost { from: self.address.clone(), why: words });
            sleep(AGAIN).await;
        }
    }

    async fn asks(&self) -> ControlError {
        let mut control = match Control::connect(&self.endpoint).await {
            Ok(control) => control,
            Err(why) => return why,
        };
        loop {
            let asked = self.start.elapsed();
            let replies = match control.exchange(&words::question(&self.name), ANSWER_TIMEOUT).await {
                Ok(replies) => replies,
                Err(why) => return why,
            };
            let from = self.address.clone();
            self.tell(match words::answer(&replies) {
                Ok(told) => Event::Told { from, asked, id: told.id, said: told.said, peers: told.peers },
                Err(why) => Event::Refused { from, why },
            });
            let stirred = self.council.borrow().is_stirred(self.start.elapsed());
            let pause = if stirred { ASK.1 } else { ASK.0 };
            // A question that was wanted meanwhile is asked at once.
            let _ = timeout(pause, self.ask.notified()).await;
        }
    }

    /// Without a subscription there are still the questions: its loss is no loss of the Sentinel.
    async fn listens(&self) {
        loop {
            if let Ok(mut control) = Control::connect(&self.endpoint).await
                && control.exchange(&words::subscription(), ANSWER_TIMEOUT).await.is_ok()
            {
                while let Ok(message) = control.listen().await {
                    if let Some(stir) = words::stir(&message, &self.name) {
                        self.stirred(stir);
                    }
                }
            }
            sleep(AGAIN).await;
        }
    }

    fn stirred(&self, stir: Stir) {
        self.tell(Event::Stirred { from: self.address.clone(), stir });
    }

    fn tell(&self, event: Event) {
        let _ = self.inbox.send((self.name.clone(), event));
    }
}

/// Listens where Sentinels greet each other on this server, for as long as it is not dropped. The subscription is by
/// pattern: so it is not counted among those of the Sentinels themselves (`PUBSUB NUMSUB`).
pub async fn scout(endpoint: Endpoint, watcher: Watcher) {
    let subscribe = ["PSUBSCRIBE", HELLO].map(String::from).to_vec();
    let mut told = None;
    loop {
        let why = match Control::connect(&endpoint).await {
            Err(why) => why.to_string(),
            Ok(mut control) => match control.exchange(std::slice::from_ref(&subscribe), ANSWER_TIMEOUT).await
            {
                Err(why) => why.to_string(),
                Ok(replies) => match replies.as_slice() {
                    [redis_protocol::resp2::types::BytesFrame::Error(why)] => why.to_string(),
                    _ => loop {
                        match control.listen().await {
                            Ok(message) => {
                                words::hello(&message).into_iter().for_each(|hello| watcher.met(hello))
                            }
                            Err(why) => break why.to_string(),
                        }
                    },
                },
            },
        };
        if told.as_ref() != Some(&why) {
            warn!(
                side = "upstream",
                "cannot hear which Sentinels watch this server: {why}; give --sentinels and --sentinel-name, or \
                 ACL SETUSER +psubscribe &{HELLO} for the control user"
            );
        }
        told = Some(why);
        sleep(AGAIN).await;
    }
}
