//! `/api/events`: server-sent events. `status` at once and every second, with the newest sample beside it;
//! `phase` at each turn of an incident, as it happens.
//!
//! Refuses to know what any of it means. Invariants: a stream ends with the shutdown; at most [`STREAMS_MAX`] are
//! open, so that people who watch never keep a probe or a scraper out; who reads too slowly misses turns, and
//! finds them in the incident's timeline.

use std::convert::Infallible;
use std::sync::Arc;

use axum::response::sse::{Event, Sse};
use futures_util::stream::{Stream, unfold};
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::history::{EVERY, History, Sample};
use super::{Status, View};
use crate::guard::feed::PhaseChange;

/// Open at a time: of the admin room's places these are the most that people may take.
pub const STREAMS_MAX: usize = 16;

/// The data of a `status` event.
#[derive(Debug, Serialize)]
struct Beat {
    status: Status,
    sample: Option<Sample>,
}

/// One reader's stream.
struct Reader {
    view: Arc<dyn View>,
    history: Arc<History>,
    turns: Option<broadcast::Receiver<PhaseChange>>,
    tick: Interval,
    shutdown: CancellationToken,
    _place: OwnedSemaphorePermit,
}

/// Until the reader leaves or `shutdown`.
pub fn stream(
    view: Arc<dyn View>,
    history: Arc<History>,
    shutdown: CancellationToken,
    place: OwnedSemaphorePermit,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let turns = Some(view.turns());
    let reader = Reader { view, history, turns, tick, shutdown, _place: place };
    Sse::new(unfold(reader, |mut reader| async move { Some((Ok(reader.next().await?), reader)) }))
}

impl Reader {
    async fn next(&mut self) -> Option<Event> {
        loop {
            let turn = async {
                match &mut self.turns {
                    Some(turns) => turns.recv().await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                () = self.shutdown.cancelled() => return None,
                turn = turn => match turn {
                    Ok(turn) => Event::default().event("phase").json_data(turn),
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => {
                        self.turns = None;
                        continue;
                    }
                },
                _ = self.tick.tick() => {
                    let beat = Beat { status: Status::of(&*self.view), sample: self.history.newest() };
                    Event::default().event("status").json_data(beat)
                }
            };
            match event {
                Ok(event) => return Some(event),
                Err(error) => tracing::debug!(%error, "admin: an event could not be written"),
            }
        }
    }
}
