//! One stream between a runner and this gateway: its places among all streams, and when something last moved on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::core::Count;

/// A stream's places: among all of this gateway's, and among those of its App.
pub(crate) type Places = [Count; 2];

/// A stream that is open.
#[derive(Debug)]
pub(crate) struct Stream {
    places: Mutex<Option<Places>>,
    opened: Instant,
    moved_ms: AtomicU64,
}

impl Stream {
    pub(crate) fn new(places: Places) -> Self {
        Self { places: Mutex::new(Some(places)), opened: Instant::now(), moved_ms: AtomicU64::new(0) }
    }

    /// Something moved on it, in either direction.
    pub(crate) fn moved(&self) {
        let since = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(since, Ordering::Relaxed);
    }

    /// Resolves once nothing has moved for so long.
    pub(crate) async fn idle(&self, longest: Duration) {
        loop {
            let until = self.opened + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed)) + longest;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    /// Gives its places back, whoever still holds it: a body that nobody takes is not dropped before its connection.
    pub(crate) fn leave(&self) {
        drop(self.places.lock().take());
    }
}
