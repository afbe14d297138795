//! What the parts of a running ledger share: its database, the broker link of the moment, its counts.
//!
//! Never makes a link: that is the consumer's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use funcatron_broker::link::Link;
use funcatron_broker::names::Installation;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::callback::Outbound;
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::store::{Keep, Store};

/// Requests answered at once; each may hold a call's request and answer in memory.
const REQUESTS_MAX: usize = 256;

/// What the parts of a running ledger share.
pub(crate) struct Core {
    pub(crate) installation: Installation,
    pub(crate) store: Store,
    pub(crate) access: Arc<dyn Access>,
    pub(crate) keep: Keep,
    pub(crate) outbound: Outbound,
    /// Where bodies are kept that no message carries.
    pub(crate) objects: Option<Objects>,
    pub(crate) metrics: Metrics,
    /// Requests under way.
    pub(crate) requests: Semaphore,
    /// One redrive at a time: two would take each other's dead letters.
    pub(crate) redriving: Arc<Semaphore>,
    /// What a stopping ledger waits for.
    pub(crate) tasks: TaskTracker,
    link: watch::Sender<Option<Arc<dyn Link>>>,
    broker_seen: AtomicBool,
    database_seen: AtomicBool,
}

impl Core {
    pub(crate) fn new(
        installation: Installation,
        store: Store,
        access: Arc<dyn Access>,
        retention_ms: u64,
        outbound: Outbound,
        objects: Option<Objects>,
    ) -> Self {
        Self {
            installation,
            store,
            access,
            keep: Keep::for_ms(retention_ms),
            outbound,
            objects,
            metrics: Metrics::default(),
            requests: Semaphore::new(REQUESTS_MAX),
            redriving: Arc::new(Semaphore::new(1)),
            tasks: TaskTracker::new(),
            link: watch::Sender::new(None),
            broker_seen: AtomicBool::new(false),
            database_seen: AtomicBool::new(false),
        }
    }

    /// The link of the moment.
    pub(crate) fn link(&self) -> Option<Arc<dyn Link>> {
        self.link.borrow().clone()
    }

    /// This link is the one of the moment for as long as what is returned lives.
    pub(crate) fn lend(&self, link: Arc<dyn Link>) -> Lent<'_> {
        self.broker_seen.store(true, Ordering::Relaxed);
        self.metrics.link_up.set(1);
        self.link.send_replace(Some(link));
        Lent(self)
    }

    /// The schema is up to date.
    pub(crate) fn note_database(&self) {
        self.database_seen.store(true, Ordering::Relaxed);
    }

    /// Why it is not ready, if it is not. Once it was, it stays so: what is away later is told to each request.
    pub(crate) fn why_not_ready(&self) -> Option<&'static str> {
        if !self.database_seen.load(Ordering::Relaxed) {
            return Some("database not seen yet\n");
        }
        (!self.broker_seen.load(Ordering::Relaxed)).then_some("broker not seen yet\n")
    }
}

/// A link that others may use.
pub(crate) struct Lent<'a>(&'a Core);

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.0.metrics.link_up.set(0);
        self.0.link.send_replace(None);
    }
}
