//! Limits that go together badly: allowed, but not what whoever set them expects. Told at the start and by
//! `check-config`, each with its cure.
//!
//! Refuses to know: what can not work at all, which is refused by the rules of [`super::build`]. Invariant: the
//! defaults are told of nothing.

use std::time::Duration;

use super::build::{HOLD_FOR_TWO, HOLD_TOO_SHORT};
use super::{Config, Policy, WhenExposed};

/// Until writes are open: two round trips, and a note made durable on a disk that may be busy.
const OPENING: Duration = Duration::from_millis(100);
/// Few applications wait longer for an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is read from a client at once, and parked as one.
const CHUNK: u64 = 64 << 10;

type Row = (fn(&Config) -> bool, &'static str);

/// When it is unwise, and what to do about it.
#[rustfmt::skip]
const UNWISE: [Row; 11] = [
    (|c| mitigates(c) && c.exposure_time.is_zero() && c.exposure_changes == 0,
        "exposure-time and exposure-changes are both 0: writes may stay open and unsaved for ever"),
    (|c| mitigates(c) && !c.exposure_time.is_zero() && c.exposure_time < HOLD_FOR_TWO,
        "exposure-time is shorter than 7s, and a second save is tried 6 s after a first that failed: the budget \
         ends before it; raise exposure-time to 10s or more"),
    (|c| mitigates(c) && !c.exposure_time.is_zero() && c.hold_time > c.exposure_time,
        "hold-time is longer than exposure-time: a command may wait longer than writes may stay open; lower \
         hold-time, or raise exposure-time"),
    (|c| mitigates(c) && c.exposure_changes > 0 && !holds(c),
        "exposure-changes with a hold-time or hold-bytes of 0: no write can be kept back while the server is asked \
         for its count, so the budget is overrun by what is written in up to 100 ms; raise hold-time to 1s or more"),
    (|c| mitigates(c) && c.when_exposed == WhenExposed::Keep && c.alert_url.is_none() && c.alert_command.is_none(),
        "when-exposed keep leaves writes open beyond the budget, and nobody is told: set alert-url or alert-command"),
    (|c| mitigates(c) && !holds(c),
        "with a hold-time or hold-bytes of 0 the refusals of an incident's first moments reach the applications; \
         raise it, or choose policy observe"),
    (|c| c.policy != Policy::Observe && holds(c) && c.hold_time < OPENING,
        "hold-time is shorter than 100ms, and to open writes may take as long on a busy disk: raise it to 1s or more"),
    (|c| c.policy != Policy::Observe && c.hold_time > PATIENCE,
        "hold-time is longer than 60s, and few applications wait so long: a write whose client has left is dropped; \
         lower it below the applications' own timeout"),
    (|c| c.policy != Policy::Observe && holds(c) && c.hold_bytes < CHUNK,
        "hold-bytes is less than 64KiB, what one busy client sends at once: its writes would not be held; raise it \
         to 1MiB or more"),
    (|c| c.policy != Policy::Observe && c.hold_bytes > 0 && c.hold_bytes > c.max_request_bytes.saturating_mul(1024),
        "hold-bytes is more than a thousand requests of max-request-bytes: memory may be gone before it is; lower it"),
    (|c| c.policy == Policy::Hold && c.hold_time < HOLD_FOR_TWO, HOLD_TOO_SHORT),
];

fn mitigates(config: &Config) -> bool {
    config.policy == Policy::Mitigate
}

fn holds(config: &Config) -> bool {
    !config.hold_time.is_zero() && config.hold_bytes > 0
}

/// What is unwise in this configuration.
pub(super) fn unwise(config: &Config) -> impl Iterator<Item = String> + use<'_> {
    UNWISE.iter().filter(|(is, _)| is(config)).map(|(_, says)| (*says).to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::options::Key;
    use super::super::tests::{Toy, built};

    #[test]
    fn what_goes_together_badly_is_told_with_its_cure() {
        use Key::*;
        let keep = (WhenExposed, "keep");
        type Row<'a> = (&'a [(Key, &'a str)], &'a [&'a str]);
        let table: &[Row] = &[
            (&[], &[]),
            (&[(ExposureTime, "0")], &["for ever"]),
            (&[(ExposureTime, "0"), (ExposureChanges, "10")], &[]),
            (&[(ExposureTime, "6s")], &["shorter than 7s"]),
            (&[(ExposureTime, "7s")], &[]),
            (&[(ExposureTime, "7s"), (HoldTime, "8s")], &["longer than exposure-time"]),
            (&[(ExposureChanges, "10"), (HoldTime, "0")], &["overrun", "first moments"]),
            (&[(HoldBytes, "0")], &["first moments"]),
            (&[keep], &["nobody is told"]),
            (&[keep, (AlertCommand, "cat")], &[]),
            (&[(HoldTime, "50ms")], &["shorter than 100ms"]),
            (&[(HoldTime, "61s")], &["longer than 60s"]),
            (&[(HoldBytes, "1000")], &["less than 64KiB"]),
            (&[(HoldBytes, "2GiB"), (MaxRequestBytes, "1MiB")], &["thousand requests"]),
            (&[(Policy, "hold")], &["8s or more"]),
            (&[(Policy, "hold"), (HoldTime, "8s"), (ExposureTime, "0"), keep], &[]),
            (&[(Policy, "observe"), (HoldTime, "0"), (ExposureTime, "2s"), keep], &[]),
        ];
        for (given, told) in table {
            let warnings = built(given, &Toy::new()).warnings;
            let all = warnings.len() == told.len() && told.iter().zip(&warnings).all(|(t, w)| w.contains(t));
            assert!(all, "{given:?}: {warnings:?}");
        }
    }
}
