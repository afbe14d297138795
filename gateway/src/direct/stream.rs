//! One stream between a runner and this gateway: its place among all streams, and when something last moved on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::core::Count;

/// A stream that is open.
#[derive(Debug)]
pub(crate) struct Stream {
    _place: Count,
    opened: Instant,
    moved_ms: AtomicU64,
}

impl Stream {
    pub(crate) fn new(place: Count) -> Self {
        Self { _place: place, opened: Instant::now(), moved_ms: AtomicU64::new(0) }
    }

    /// Something moved on it, in either direction.
    pub(crate) fn moved(&self) {
        let since = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(since, Ordering::Relaxed);
    }

    /// When it last did.
    pub(crate) fn last_moved(&self) -> Instant {
        self.opened + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed))
    }
}
