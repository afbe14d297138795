//! What all of a gateway's parts share: configuration, tables, pending calls, link, counts.
//! Owns the places that calls in flight take; never serves a request itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use funcatron_broker::message::CallEvent;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::apps::{AppPart, FnPart};
use crate::body::{BodyTimes, Budget};
use crate::bundles::BundleSource;
use crate::calls::Ledger;
use crate::config::GatewayConfig;
use crate::metrics::Metrics;
use crate::pending::Pending;
use crate::problem::Problem;
use crate::recorder;
use crate::spill::Objects;
use crate::tables::TableStore;
use crate::uplink::Uplink;
use crate::wake::Wakes;

/// Cancels that wait for the link; beyond it they are dropped, and the calls end at their deadline.
pub(crate) const CANCELS_MAX: usize = 4096;

/// A gateway's shared parts.
pub(crate) struct Core {
    pub(crate) config: Arc<GatewayConfig>,
    pub(crate) tables: Arc<TableStore>,
    pub(crate) bundles: Arc<dyn BundleSource>,
    pub(crate) pending: Arc<Pending>,
    pub(crate) uplink: Arc<Uplink>,
    pub(crate) ledger: Option<Ledger>,
    /// Where bodies go that no message carries.
    pub(crate) objects: Option<Arc<Objects>>,
    pub(crate) wakes: Wakes,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) in_flight: Arc<AtomicUsize>,
    pub(crate) streams: Arc<AtomicUsize>,
    pub(crate) lines: Arc<AtomicUsize>,
    pub(crate) cancels: mpsc::Sender<Cancelled>,
    pub(crate) records: mpsc::Sender<[CallEvent; 2]>,
}

/// What others take out of a core that it puts in.
pub(crate) struct Outboxes {
    pub(crate) cancelled: mpsc::Receiver<Cancelled>,
    pub(crate) recorded: mpsc::Receiver<[CallEvent; 2]>,
}

/// A call whose client left.
#[derive(Debug)]
pub(crate) struct Cancelled {
    pub(crate) id: Uuid,
    pub(crate) app: Arc<AppPart>,
}

impl Core {
    /// Puts the parts together; the receivers are for whoever publishes cancels and records.
    pub(crate) fn new(
        config: Arc<GatewayConfig>,
        tables: Arc<TableStore>,
        bundles: Arc<dyn BundleSource>,
    ) -> (Arc<Self>, Outboxes) {
        let (cancels, cancelled) = mpsc::channel(CANCELS_MAX);
        let (records, recorded) = mpsc::channel(recorder::WAITING_MAX);
        let (pending, metrics) = (Arc::new(Pending::new()), Arc::new(Metrics::new()));
        let installation = tables.installation().clone();
        let (ledger, objects) = (config.ledger(), config.objects().map(Arc::new));
        let uplink =
            Arc::new(Uplink::new(installation, ledger.is_some(), Arc::clone(&pending), Arc::clone(&metrics)));
        let budget = Budget::new(config.limits.buffered_bytes_max);
        let core = Self {
            config,
            tables,
            bundles,
            pending,
            uplink,
            ledger,
            objects,
            wakes: Wakes::default(),
            metrics,
            budget,
            in_flight: Arc::default(),
            streams: Arc::default(),
            lines: Arc::default(),
            cancels,
            records,
        };
        (Arc::new(core), Outboxes { cancelled, recorded })
    }

    /// Whether tables and broker have both been seen: from then on this gateway has an answer to every request, be it
    /// that the broker is away.
    pub(crate) fn is_ready(&self) -> bool {
        self.tables.is_synced() && self.uplink.was_seen()
    }

    pub(crate) fn body_times(&self) -> BodyTimes {
        let limits = &self.config.limits;
        BodyTimes { idle: limits.body_idle_timeout, whole: limits.body_timeout }
    }

    /// Takes a place for one call, or says whose places are taken.
    pub(crate) fn enter(&self, app: &AppPart, function: &FnPart) -> Result<Place, Problem> {
        let limits = &self.config.limits;
        let gateway = Count::up(&self.in_flight, limits.in_flight_max).ok_or(Problem::GatewayBusy)?;
        let app_max = app.in_flight_max.unwrap_or(limits.app_in_flight_max);
        let of_app = Count::up(&app.counts.in_flight, app_max);
        let of_app = of_app.ok_or(Problem::TenantBusy("App"))?;
        let of_fn = Count::up(&function.in_flight, limits.fn_in_flight_max);
        let of_fn = of_fn.ok_or(Problem::TenantBusy("function"))?;
        Ok(Place { _counts: [gateway, of_app, of_fn] })
    }

    /// Takes a place for one stream between a runner and this gateway, if there is one.
    pub(crate) fn enter_stream(&self) -> Option<Count> {
        Count::up(&self.streams, self.config.limits.streams_max)
    }
}

/// A place of a call in flight; dropped, it is free.
#[derive(Debug)]
pub(crate) struct Place {
    _counts: [Count; 3],
}

/// One of many at once; dropped, it counts no more.
#[derive(Debug)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    pub(crate) fn up(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let held = Self(Arc::clone(count));
        // Counted before it is compared, so that two at once cannot both take the last place; dropped, it is uncounted.
        (held.0.fetch_add(1, Ordering::Relaxed) < max).then_some(held)
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A fresh UUIDv7: time first, so that ids sort, then 74 random bits of a generator that cannot be foretold.
pub(crate) fn fresh_id(now_ms: u64) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(now_ms, &rand::random()).into_uuid()
}

/// The time of day in Unix milliseconds, as deadlines have it.
pub(crate) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// A short reason of a runner's, as text.
pub(crate) fn reason(body: &Bytes, otherwise: &str) -> String {
    if body.is_empty() { otherwise.to_owned() } else { String::from_utf8_lossy(body).into_owned() }
}
