//! Listeners, workers, upstream connecting, drain.
