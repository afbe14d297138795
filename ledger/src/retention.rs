//! Forgets old calls now and then, and ends those of which nothing is heard. What is old is the store's to know.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::now_ms;
use crate::core::Core;
use crate::store::Swept;

/// Often enough that each sweep is small, and that a tenant who floods the ledger gets no further beyond its bounds
/// than the database takes in this time.
const INTERVAL: Duration = Duration::from_secs(20);

/// Sweeps until the ledger stops.
pub(crate) async fn run(core: Arc<Core>, stop: CancellationToken) {
    let sweeping = async {
        loop {
            tokio::time::sleep(INTERVAL).await;
            match core.store.sweep(now_ms(), &core.keep).await {
                Ok(swept) if swept == Swept::default() => {}
                Ok(swept) => {
                    core.metrics.sweep(swept);
                    let Swept { forgotten, trimmed, given_up } = swept;
                    info!(forgotten, trimmed, given_up, "swept calls");
                }
                Err(failure) => {
                    warn!(failure = &failure as &dyn std::error::Error, "could not sweep calls");
                }
            }
        }
    };
    stop.run_until_cancelled(sweeping).await;
}
