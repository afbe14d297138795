//! Forgets old calls now and then. What is old is the store's to know.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::now_ms;
use crate::core::Core;

/// Often enough that each sweep is small.
const INTERVAL: Duration = Duration::from_secs(60);

/// Sweeps until the ledger stops.
pub(crate) async fn run(core: Arc<Core>, stop: CancellationToken) {
    let sweeping = async {
        loop {
            tokio::time::sleep(INTERVAL).await;
            match core.store.sweep(now_ms(), core.retention_ms).await {
                Ok(0) => {}
                Ok(calls) => {
                    core.metrics.swept.inc_by(calls);
                    info!(calls, "forgot old calls");
                }
                Err(failure) => {
                    warn!(failure = &failure as &dyn std::error::Error, "could not forget old calls");
                }
            }
        }
    };
    stop.run_until_cancelled(sweeping).await;
}
