//! Takes away the bodies of calls that need them no more. Which these are is the store's to know.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{ObjectError, Objects};
use crate::clock::now_ms;
use crate::core::Core;

/// A body that nobody needs takes room from others for this long; the look at a table of few rows costs nothing.
const INTERVAL: Duration = Duration::from_secs(5);

/// Collects until the ledger stops.
pub(crate) async fn run(core: Arc<Core>, stop: CancellationToken) {
    let Some(objects) = &core.objects else { return };
    let collecting = async {
        loop {
            tokio::time::sleep(INTERVAL).await;
            match objects.collect().await {
                Ok(0) => {}
                Ok(collected) => {
                    core.metrics.objects_collected.inc_by(collected);
                    info!(collected, "took away bodies of calls that are over");
                }
                Err(failure) => {
                    warn!(failure = &failure as &dyn std::error::Error, "could not take bodies away");
                }
            }
        }
    };
    stop.run_until_cancelled(collecting).await;
}

impl Objects {
    /// Takes away what nobody needs; says how many objects that were.
    async fn collect(&self) -> Result<u64, ObjectError> {
        let mut collected = 0;
        loop {
            let due = self.rows.objects_to_collect(now_ms()).await?;
            if due.is_empty() {
                return Ok(collected);
            }
            for name in due {
                self.delete(&name).await?;
                collected += 1;
            }
        }
    }
}
