//! How fast headroom shrinks, and so how long before a save will fail: the lead time of a warning.
//!
//! Refuses to know: what the resources are. Invariants: at most an hour is remembered; nothing is foretold from
//! less than ten minutes, nor from a fall that did not go on through the whole of the time.

use std::collections::VecDeque;
use std::time::Duration;

use super::headroom::Headroom;

/// Looks remembered: an hour of two a minute.
const POINTS_MOST: usize = 120;
/// What is foretold from less would be noise.
const SPAN_LEAST: Duration = Duration::from_secs(600);
/// What is farther away is no warning.
pub const LEAD_MOST: Duration = Duration::from_secs(6 * 3600);

/// When each resource will be too small for a save, at its present pace; `None`: not foretold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ahead {
    /// See [`Headroom::disk`].
    pub disk: Option<Duration>,
    /// See [`Headroom::memory`].
    pub memory: Option<Duration>,
    /// See [`Headroom::cgroup`].
    pub cgroup: Option<Duration>,
    /// See [`Headroom::commit`].
    pub commit: Option<Duration>,
}

impl Ahead {
    /// By name, for gauges.
    pub fn each(&self) -> [(&'static str, Option<Duration>); 4] {
        [("disk", self.disk), ("memory", self.memory), ("cgroup", self.cgroup), ("commit", self.commit)]
    }
}

/// See the module's page.
#[derive(Clone, Debug, Default)]
pub struct Trend {
    points: VecDeque<(Duration, Headroom)>,
}

impl Trend {
    /// One look more, at this moment of a clock that never goes back.
    pub fn push(&mut self, at: Duration, left: Headroom) {
        self.points.push_back((at, left));
        if self.points.len() > POINTS_MOST {
            self.points.pop_front();
        }
    }

    /// What it comes to.
    pub fn ahead(&self) -> Ahead {
        Ahead {
            disk: self.of(|left| left.disk),
            memory: self.of(|left| left.memory),
            cgroup: self.of(|left| left.cgroup),
            commit: self.of(|left| left.commit),
        }
    }

    /// The medians of three thirds must fall one after the other: one dip, or one step, foretells nothing.
    fn of(&self, pick: fn(&Headroom) -> Option<i64>) -> Option<Duration> {
        let known: Vec<(Duration, i64)> =
            self.points.iter().filter_map(|(at, left)| Some((*at, pick(left)?))).collect();
        let span = known.last()?.0.saturating_sub(known.first()?.0);
        if span < SPAN_LEAST || known.len() < 9 {
            return None;
        }
        let third = known.len() / 3;
        let median = |part: &[(Duration, i64)]| {
            let mut values: Vec<i64> = part.iter().map(|(_, left)| *left).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        let (first, middle, last) = (
            median(&known[..third]),
            median(&known[third..known.len() - third]),
            median(&known[known.len() - third..]),
        );
        if !(first > middle && middle > last && last > 0) {
            return None;
        }
        // From the middle of the first third to that of the last are two thirds of the time.
        let pace = first.abs_diff(last) as f64 / (span.as_secs_f64() * 2.0 / 3.0);
        let secs = last as f64 / pace;
        (secs <= LEAD_MOST.as_secs_f64()).then(|| Duration::from_secs_f64(secs))
    }
}

/// `3 h 20 min`, `12 min`.
pub fn lead(ahead: Duration) -> String {
    match ahead.as_secs() / 60 {
        minutes @ 0..60 => format!("{minutes} min"),
        minutes => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trend(disk: impl Fn(u64) -> Option<i64>, looks: u64) -> Option<Duration> {
        let mut trend = Trend::default();
        for n in 0..looks {
            trend.push(Duration::from_secs(n * 30), Headroom { disk: disk(n), ..Headroom::default() });
        }
        trend.ahead().disk
    }

    #[test]
    fn a_steady_fall_is_foretold_with_its_time() {
        // A megabyte every half minute, ten of them a look's noise, two hours left.
        let ahead =
            trend(|n| Some(300_000_000 - 1_000_000 * n as i64 + (n as i64 * 7 % 3) * 10_000), 60).unwrap();
        assert!((110..=130).contains(&(ahead.as_secs() / 60)), "{ahead:?}");
        assert_eq!(lead(ahead).split(' ').nth(1), Some("h"));
    }

    #[test]
    fn noise_steps_little_time_and_what_is_unknown_foretell_nothing() {
        assert_eq!(trend(|n| Some(1_000_000 - n as i64 * 1000), 15), None, "seven minutes");
        assert_eq!(trend(|n| Some(1_000_000 + (n as i64 * 7919) % 1000), 100), None, "noise");
        assert_eq!(trend(|n| Some(if n < 50 { 1_000_000 } else { 500_000 }), 100), None, "one step");
        assert_eq!(trend(|n| Some(1_000_000 + n as i64 * 1000), 100), None, "it grows");
        assert_eq!(trend(|n| Some(i64::MAX - n as i64), 100), None, "in a billion years");
        assert_eq!(trend(|_| None, 100), None);
        assert_eq!(trend(|n| (n % 50 == 0).then_some(5), 100), None, "too few");
    }

    #[test]
    fn an_hour_is_remembered() {
        let mut trend = Trend::default();
        for n in 0..10_000 {
            trend.push(Duration::from_secs(n), Headroom::default());
        }
        assert_eq!(trend.points.len(), POINTS_MOST);
    }
}
