//! What a gateway counts, for Prometheus. Labels are bounded: listeners, status codes, and Apps that are in the tables.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tracing::debug;

use crate::core::Core;
use crate::pending::Settled;

/// From half a millisecond, below which only the broker's own round trip lies, to the longest common timeouts.
const LATENCY_BUCKETS_S: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];
/// Status codes are 100 to 599, anything else would not be one.
const CODES: usize = 500;

/// Which listener a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Public,
    Internal,
}

/// What a gateway counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    answers: [Vec<AtomicU64>; 2],
    latency: Histogram,
    pub(crate) wakes: Counter,
    pub(crate) returned: Counter,
    pub(crate) replies_late: Counter,
    pub(crate) replies_forged: Counter,
    pub(crate) attempts_again: Counter,
    pub(crate) cancels: Counter,
    pub(crate) cancels_dropped: Counter,
    pub(crate) records_dropped: Counter,
    pub(crate) direct_opened: Counter,
    pub(crate) direct_refused: Counter,
    pub(crate) lines_opened: Counter,
    pub(crate) lines_refused: Counter,
    pub(crate) spilled: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let codes = || (0..CODES).map(|_| AtomicU64::new(0)).collect();
        Self {
            answers: [codes(), codes()],
            latency: Histogram::new(LATENCY_BUCKETS_S),
            wakes: Counter::default(),
            returned: Counter::default(),
            replies_late: Counter::default(),
            replies_forged: Counter::default(),
            attempts_again: Counter::default(),
            cancels: Counter::default(),
            cancels_dropped: Counter::default(),
            records_dropped: Counter::default(),
            direct_opened: Counter::default(),
            direct_refused: Counter::default(),
            lines_opened: Counter::default(),
            lines_refused: Counter::default(),
            spilled: Counter::default(),
        }
    }

    pub(crate) fn answered(&self, door: Door, status: StatusCode, took: Duration) {
        let at = usize::from(status.as_u16()).saturating_sub(100).min(CODES - 1);
        self.answers[door as usize][at].fetch_add(1, Ordering::Relaxed);
        self.latency.observe(took.as_secs_f64());
    }

    /// What became of a reply.
    pub(crate) fn reply(&self, settled: Settled) {
        match settled {
            Settled::Told => {}
            Settled::Late => {
                self.replies_late.inc();
            }
            Settled::Forged | Settled::Nameless => {
                self.replies_forged.inc();
                debug!(?settled, "reply dropped");
            }
        }
    }

    fn codes(&self) -> impl Iterator<Item = (&'static str, usize, u64)> {
        let doors = ["public", "internal"].into_iter().zip(&self.answers);
        doors.flat_map(|(door, codes)| {
            let counts = codes.iter().map(|count| count.load(Ordering::Relaxed)).enumerate();
            counts.filter(|(_, count)| *count > 0).map(move |(at, count)| (door, at + 100, count))
        })
    }
}

/// Puts all that is counted under its names.
pub(crate) fn registry(core: &Arc<Core>) -> Registry {
    let mut registry = Registry::with_prefix("funcatron_gateway");
    let metrics = &core.metrics;
    let counters = [
        ("wakes", "Wakes sent for revisions whose calls nobody took", &metrics.wakes),
        ("calls_returned", "Calls that no queue took", &metrics.returned),
        ("replies_late", "Replies that nobody waited for any more", &metrics.replies_late),
        ("replies_forged", "Replies whose sender was not the call's App", &metrics.replies_forged),
        ("attempts_again", "Idempotent calls published once more", &metrics.attempts_again),
        ("cancels", "Calls cancelled since their client left", &metrics.cancels),
        ("cancels_dropped", "Cancels that found no room or no link", &metrics.cancels_dropped),
        ("records_dropped", "Calls of which the ledger was not told", &metrics.records_dropped),
        ("direct_opened", "Streams that runners opened", &metrics.direct_opened),
        ("direct_refused", "Streams with a token that no call waits for", &metrics.direct_refused),
        ("lines_opened", "Lines that runners opened for their replies", &metrics.lines_opened),
        ("lines_refused", "Lines with a token that no call waits for", &metrics.lines_refused),
        ("bodies_spilled", "Bodies put into the object store", &metrics.spilled),
    ];
    for (name, help, counter) in counters {
        registry.register(name, help, counter.clone());
    }
    registry.register(
        "request_duration_seconds",
        "From a request's head to its answer",
        metrics.latency.clone(),
    );
    registry.register_collector(Box::new(Gauges(Arc::clone(core))));
    registry
}

/// What is read off at each scrape.
struct Gauges(Arc<Core>);

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let core = &self.0;
        let gauges = [
            ("calls_in_flight", "Requests that hold a place", core.in_flight.load(Ordering::Relaxed) as u64),
            ("calls_pending", "Calls that wait for a reply", core.pending.len() as u64),
            ("buffered_bytes", "Bytes of bodies in memory", core.budget.used()),
            ("direct_streams", "Streams open now", core.streams.load(Ordering::Relaxed) as u64),
            ("lines", "Lines open now", core.lines.load(Ordering::Relaxed) as u64),
            ("link_up", "Whether there is a link to the broker", u64::from(core.uplink.current().is_some())),
        ];
        for (name, help, value) in gauges {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        let mut family =
            encoder.encode_descriptor("requests", "Requests answered", None, MetricType::Counter)?;
        for (door, code, count) in core.metrics.codes() {
            let labels = [("listener", door.to_owned()), ("code", code.to_string())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        self.apps(&mut encoder)
    }
}

impl Gauges {
    fn apps(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Answers to calls of each App";
        let mut family = encoder.encode_descriptor("app_answers", help, None, MetricType::Counter)?;
        for app in self.0.tables.all_apps() {
            for (class, count) in app.counts.answers() {
                let labels = [("namespace", &*app.namespace), ("app", &*app.app), ("class", class)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        Ok(())
    }
}
