//! Counters as OpenMetrics text: one table of families, read from our own atomics when somebody
//! scrapes, so that the hot path pays nothing. Refuses to know who counts.
//!
//! Invariant: every label value of a family is there from the first scrape, at zero. (`remedies_total` has the
//! pairs that the guard seeds from its own table; `persistence_headroom_bytes` says nothing of what is not known.)

use std::fmt;
use std::sync::{Arc, PoisonError};

use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::View;
use crate::command::Class;
use crate::guard::record::{Outcome, Phase, UpstreamStatus};
use crate::metrics::{
    AlertEnd, AlertSink, Degraded, GuardStats, HoldEnd, Latency, Metrics, SessionEnd, WorkerStats,
};
use crate::posture::{Form, Variant};

/// Of the answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Readers of Prometheus' older text format know no type of this name and refuse the whole scrape; to
/// both formats a family without a TYPE line is of unknown type, so the line is left out.
const UNTYPED: &str = "# TYPE bgsafe_connections_total unknown\n";

/// Renders what a [`View`] sees.
pub struct Exposition(Registry);

impl Exposition {
    /// Reads `view` at each [`Exposition::render`].
    pub fn new(view: Arc<dyn View>) -> Self {
        let mut registry = Registry::with_prefix("bgsafe");
        registry.register_collector(Box::new(Scrape(view)));
        Exposition(registry)
    }

    /// The text, with its `# EOF`.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut out = String::with_capacity(32 << 10);
        text::encode(&mut out, &self.0)?;
        Ok(out.replace(UNTYPED, ""))
    }
}

type Labels = Vec<(&'static str, String)>;
/// Counts never come near the end of it; headroom may be below zero.
type Samples = Vec<(Labels, i64)>;
type Timings = Vec<(Labels, Histogram<u64>)>;

/// What one scrape sees: everything is read once.
struct Seen<'a> {
    metrics: &'a Metrics,
    guard: &'a GuardStats,
    upstreams: &'a [UpstreamStatus],
}

struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    read: fn(&Seen) -> Samples,
}

#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Seconds,
    Bytes,
    Counter,
    /// A counter whose name without `_total` is taken by a gauge. OpenMetrics wants family names
    /// to be unique, so it goes out untyped, under its full name.
    Untyped,
}

const fn family(name: &'static str, kind: Kind, help: &'static str, read: fn(&Seen) -> Samples) -> Family {
    Family { name, kind, help, read }
}

/// Names without prefix, unit and `_total`: the encoder adds those.
#[rustfmt::skip]
const FAMILIES: [Family; 31] = [
    family("build_info", Kind::Gauge, "What is running, always 1",
        |_| vec![(label("version", env!("CARGO_PKG_VERSION")), 1)]),
    family("connections", Kind::Gauge, "Connected clients",
        |s| one(s.metrics.sum(|w| w.connections.load()))),
    family("connections_total", Kind::Untyped, "Clients accepted, a counter",
        |s| one(s.metrics.sum(|w| w.connections_total.load()))),
    family("requests", Kind::Counter, "Requests, by class of command",
        |s| each(Class::ALL, |(class, name)| (label("class", name), s.metrics.sum(|w| w.requests[class as usize].load())))),
    family("bytes", Kind::Counter, "Bytes sent on, by the side they went to",
        |s| each([(0, "upstream"), (1, "downstream")], |(at, name)| (label("direction", name), s.metrics.sum(|w| w.bytes[at].load())))),
    family("refusals", Kind::Counter, "MISCONF refusals seen, by wire form; silent ones reached no session", refusals),
    family("sessions_degraded", Kind::Counter, "Sessions that became a plain wire, by reason",
        |s| each(Degraded::ALL, |(why, name)| (label("why", name), s.metrics.sum(|w| w.degraded[why as usize].load())))),
    family("session_ends", Kind::Counter, "Sessions ended, by the side that ended them and why",
        |s| each(SessionEnd::ALL, |(end, side, why)| (labels([("side", side), ("why", why)]), s.metrics.sum(|w| w.ends[end as usize].load())))),
    family("held_commands", Kind::Gauge, "Commands that wait now",
        |s| one(s.upstreams.iter().map(|u| u.held.commands).sum())),
    family("held", Kind::Bytes, "Bytes of the commands that wait now",
        |s| one(s.upstreams.iter().map(|u| u.held.bytes).sum())),
    family("holds", Kind::Counter, "Holds, by how they ended; over_budget never was one",
        |s| each(HoldEnd::ALL, |(end, name)| (label("end", name), s.metrics.sum(|w| w.holds[end as usize].load())))),
    family("replays", Kind::Counter, "Commands sent a second time",
        |s| one(s.metrics.sum(|w| w.replays.load()))),
    family("incidents", Kind::Counter, "Ended incidents, by variant and outcome", incidents),
    family("remedies", Kind::Counter, "Remedies tried, by finding and result",
        |s| s.guard.remedies.iter()
            .map(|((finding, result), n)| (labels([("finding", finding.as_str()), ("result", result)]), signed(*n))).collect()),
    family("persistence_headroom", Kind::Bytes, "What the next save would leave of each resource; below zero it would fail. Absent: not known",
        |s| s.guard.headroom.each().into_iter().filter_map(|(resource, left)| Some((label("resource", resource), left?))).collect()),
    family("persistence_headroom_ends", Kind::Seconds, "When that will be gone at the pace of the last hour. Absent: not foretold",
        |s| s.guard.ahead.each().into_iter().filter_map(|(resource, ahead)| Some((label("resource", resource), signed(ahead?.as_secs())))).collect()),
    family("escrow_copies", Kind::Counter, "Copies of the data fetched onto bgsafe's disk, by result",
        |s| each([(0, "ok"), (1, "failed")], |(at, name)| (label("result", name), s.guard.copies[at]))),
    family("escrow_copy", Kind::Bytes, "The newest copy; 0 without one",
        |s| one(s.upstreams.iter().filter_map(|u| Some(u.escrow.as_ref()?.bytes)).max().unwrap_or(0))),
    family("escrow_copy_age", Kind::Seconds, "Since before the newest copy was asked for; 0 without one",
        |s| one(s.upstreams.iter().filter_map(|u| Some(u.escrow.as_ref()?.age_secs)).max().unwrap_or(0))),
    family("redirects", Kind::Counter, "Moves of the writes to another server, by result",
        |s| each([(0, "ok"), (1, "failed")], |(at, result)| (label("result", result), s.guard.redirects[at]))),
    family("alerts", Kind::Counter, "Alerts, by whom they were for and what became of them",
        |s| AlertSink::ALL.into_iter().flat_map(|(sink, to)| AlertEnd::ALL.map(|(end, result)| (
            labels([("sink", to), ("result", result)]), signed(s.guard.alerts[sink as usize][end as usize])))).collect()),
    family("phase", Kind::Gauge, "1 for the phase the incident is in",
        |s| each(Phase::ALL, |phase| (label("phase", phase.name()), any(s, |u| u.serves && u.phase == phase)))),
    family("exposure", Kind::Seconds, "For how long acknowledged writes have been unsaved while the switch is down",
        |s| one(serving(s).map(|u| u.exposure.secs).max().unwrap_or(0))),
    family("exposure_changes", Kind::Gauge, "Changes acknowledged and unsaved while the switch is down",
        |s| one(serving(s).map(|u| u.exposure.changes).sum())),
    family("since_save", Kind::Seconds, "Since the last good save, as the server says, whatever the switch reads",
        |s| one(serving(s).filter_map(|u| u.exposure.secs_since_save).max().unwrap_or(0))),
    family("unsaved_changes", Kind::Gauge, "Changes since the last good save: the server's count, and what passed since it was asked",
        |s| one(serving(s).filter_map(|u| u.exposure.changes_since_save).sum())),
    family("debt", Kind::Gauge, "1 while bgsafe owes the restore of stop-writes-on-bgsave-error",
        |s| one(any(s, |u| u.debt.is_some()))),
    family("following", Kind::Gauge, "1 while another bgsafe before the same server owes that restore",
        |s| one(any(s, |u| u.owner.is_some()))),
    family("upstream_up", Kind::Gauge, "1 while the control connection is up",
        |s| one(any(s, |u| u.serves && u.up))),
    family("upstream_role", Kind::Gauge, "1 for the upstream's role",
        |s| each(["primary", "replica", "unknown"], |role| (label("role", role), any(s, |u| u.serves && u.role == role)))),
    family("findings", Kind::Gauge, "Standing findings, each with a command for a human to type",
        |s| one(s.upstreams.iter().map(|u| u.findings.len() as u64).sum())),
];

fn refusals(seen: &Seen) -> Samples {
    each(Form::ALL, |form| {
        let sessions = seen.metrics.sum(|w| w.refusals[form as usize].load());
        let silent = if form == Form::Silent { seen.guard.silent_refusals } else { 0 };
        (label("kind", form.name()), sessions + silent)
    })
}

fn incidents(seen: &Seen) -> Samples {
    let pairs = Variant::ALL.into_iter().flat_map(|v| Outcome::ALL.map(|o| (v.name(), o)));
    let count = |pair: (&'static str, Outcome)| {
        let n = seen.guard.incidents.get(&pair).copied().unwrap_or(0);
        (labels([("variant", pair.0), ("outcome", pair.1.name())]), signed(n))
    };
    pairs.map(count).collect()
}

/// Upper bounds in microseconds.
struct Timing {
    name: &'static str,
    help: &'static str,
    bounds: &'static [u64],
    read: fn(&Seen) -> Timings,
}

const TIMINGS: [Timing; 4] = [
    Timing {
        name: "request_duration",
        help: "Request read to the last byte of its reply read, by class of command",
        bounds: &[
            50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
            1_000_000, 2_500_000, 5_000_000, 10_000_000,
        ],
        read: |s| {
            let one = |(class, name): (Class, &'static str)| {
                (label("class", name), merged(s.metrics, |l| &l.request[class as usize]))
            };
            Class::ALL.into_iter().map(one).collect()
        },
    },
    Timing {
        name: "overhead",
        help: "Time a request or reply spent inside bgsafe, read to written",
        bounds: &[5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 100_000, 1_000_000],
        read: |s| vec![(Vec::new(), merged(s.metrics, |l| &l.overhead))],
    },
    Timing {
        name: "mitigation_duration",
        help: "First sighting of a refusal to open writes",
        bounds: &[
            100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
            2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
        ],
        read: |s| vec![(Vec::new(), s.guard.mitigation.clone())],
    },
    Timing {
        name: "verify_duration",
        help: "First sighting of a refusal to a proven save",
        bounds: &[
            100_000,
            250_000,
            500_000,
            1_000_000,
            2_500_000,
            5_000_000,
            10_000_000,
            30_000_000,
            60_000_000,
            300_000_000,
            900_000_000,
            3_600_000_000,
        ],
        read: |s| vec![(Vec::new(), s.guard.verify.clone())],
    },
];

struct Scrape(Arc<dyn View>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (metrics, upstreams) = (self.0.metrics(), self.0.status());
        let guard = metrics.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = Seen { metrics, guard: &guard, upstreams: &upstreams };
        FAMILIES.iter().try_for_each(|family| family.encode(&seen, &mut encoder))?;
        TIMINGS.iter().try_for_each(|timing| timing.encode(&seen, &mut encoder))
    }
}

impl Family {
    fn encode(&self, seen: &Seen, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (unit, shape) = match self.kind {
            Kind::Gauge => (None, MetricType::Gauge),
            Kind::Seconds => (Some(&Unit::Seconds), MetricType::Gauge),
            Kind::Bytes => (Some(&Unit::Bytes), MetricType::Gauge),
            Kind::Counter => (None, MetricType::Counter),
            Kind::Untyped => (None, MetricType::Unknown),
        };
        let mut out = encoder.encode_descriptor(self.name, self.help, unit, shape)?;
        for (labels, value) in (self.read)(seen) {
            // The encoder would write an empty label set as `{}`.
            match labels.is_empty() {
                true => self.sample(value, &mut out)?,
                false => self.sample(value, &mut out.encode_family(&labels)?)?,
            }
        }
        Ok(())
    }

    fn sample(&self, value: i64, out: &mut MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self.kind {
            Kind::Counter => out.encode_counter::<NoLabelSet, _, u64>(&value.unsigned_abs(), None),
            Kind::Gauge | Kind::Seconds | Kind::Bytes | Kind::Untyped => out.encode_gauge(&value),
        }
    }
}

impl Timing {
    fn encode(&self, seen: &Seen, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut out =
            encoder.encode_descriptor(self.name, self.help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (labels, histogram) in (self.read)(seen) {
            let (sum, buckets) = self.buckets(&histogram);
            match labels.is_empty() {
                true => out.encode_histogram::<NoLabelSet>(sum, histogram.len(), &buckets, None)?,
                false => out.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                    sum,
                    histogram.len(),
                    &buckets,
                    None,
                )?,
            }
        }
        Ok(())
    }

    /// Seconds in all, and how many fell into each bucket (not yet added up: the encoder does that).
    /// The histogram knows values to two digits, so a value at a bound may fall to either side.
    fn buckets(&self, histogram: &Histogram<u64>) -> (f64, Vec<(f64, u64)>) {
        let bounds = self.bounds.iter().map(|micros| seconds(*micros)).chain([f64::INFINITY]);
        let mut buckets: Vec<_> = bounds.map(|bound| (bound, 0)).collect();
        let mut sum = 0.0;
        for step in histogram.iter_recorded() {
            let micros = histogram.median_equivalent(step.value_iterated_to());
            buckets[self.bounds.partition_point(|bound| *bound < micros)].1 += step.count_at_value();
            sum += seconds(micros) * step.count_at_value() as f64;
        }
        (sum, buckets)
    }
}

/// All workers' histograms of one kind in one. A worker is locked for a copy of one only.
fn merged(metrics: &Metrics, pick: impl Fn(&Latency) -> &Histogram<u64>) -> Histogram<u64> {
    let copy = |worker: &Arc<WorkerStats>| worker.latency(|latency| pick(latency).clone());
    let mut all = metrics.workers.iter().map(copy);
    let mut sum = all.next().unwrap_or_else(|| GuardStats::new().mitigation);
    for one in all {
        sum.add(one).expect("every worker's histogram has the same bounds");
    }
    sum
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn one(value: u64) -> Samples {
    vec![(Vec::new(), signed(value))]
}

fn each<T, const N: usize>(all: [T; N], sample: impl FnMut(T) -> (Labels, u64)) -> Samples {
    all.into_iter().map(sample).map(|(labels, value)| (labels, signed(value))).collect()
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn label(name: &'static str, value: &str) -> Labels {
    labels([(name, value)])
}

fn labels<const N: usize>(pairs: [(&'static str, &str); N]) -> Labels {
    pairs.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

/// Where sessions go: a replica's figures would double theirs.
fn serving<'a>(seen: &'a Seen) -> impl Iterator<Item = &'a UpstreamStatus> {
    seen.upstreams.iter().filter(|u| u.serves)
}

fn any(seen: &Seen, is: impl Fn(&UpstreamStatus) -> bool) -> u64 {
    u64::from(seen.upstreams.iter().any(is))
}
