//! Sentinel's view of one server, in the words that the guard decides by.
//!
//! Refuses to know: how it was heard.

use std::time::Duration;

/// What the Sentinels, taken together, say of a server that takes itself for the primary.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum View {
    /// It is the primary, and nobody thinks it down.
    Agrees,
    /// It is the primary, and some think it down; no failover has begun.
    SDown {
        /// So many.
        by: usize,
        /// Of so many.
        of: usize,
    },
    /// A failover away from it is under way, or must be expected at any moment.
    FailingOver,
    /// Another one is, at this address.
    SaysOther(String),
    /// Not enough of them name the same one.
    Disagree,
    /// Too few were heard lately.
    #[default]
    Silent,
}

impl View {
    /// The name shown in status and logs.
    pub fn name(&self) -> &'static str {
        match self {
            View::Agrees => "agrees",
            View::SDown { .. } => "s-down",
            View::FailingOver => "failing-over",
            View::SaysOther(_) => "says-other",
            View::Disagree => "disagree",
            View::Silent => "silent",
        }
    }
}

/// A view, and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Report {
    /// Taken together.
    pub view: View,
    /// The newest configuration that anybody told of.
    pub epoch: u64,
    /// Sentinels heard lately, and known at all.
    pub heard: usize,
    /// See above.
    pub known: usize,
    /// If the server stops answering, a failover is over after so long; `None`: there can be none.
    pub fails_over_within: Option<Duration>,
}

impl Report {
    /// For a timeline.
    pub fn line(&self) -> String {
        let Report { epoch, heard, known, .. } = self;
        let who = format!("{heard} of {known} Sentinels heard, epoch {epoch}");
        match &self.view {
            View::SaysOther(other) => format!("the primary is {other}; {who}"),
            View::SDown { by, of } => format!("{by} of {of} think it down; {who}"),
            View::Agrees | View::FailingOver | View::Disagree | View::Silent => who,
        }
    }
}

/// What is known of Sentinel when something must be decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Whether one watches this server was not asked yet.
    Unasked,
    /// It was, and the server may not tell us.
    Untold,
    /// None does.
    Nobody,
    /// One does, and its view may still come.
    Awaited,
    /// One does, and its view cannot be had.
    Blind,
    /// Their view, heard lately.
    Sees(View),
}

impl Watch {
    /// The name shown in status and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Watch::Unasked => "unasked",
            Watch::Untold => "untold",
            Watch::Nobody => "none",
            Watch::Awaited => "awaited",
            Watch::Blind => "blind",
            Watch::Sees(view) => view.name(),
        }
    }
}
