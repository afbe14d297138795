//! Waiting for what is to become true, and no longer than a deadline.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Between two looks: far below what any test asks for.
const LOOK: Duration = Duration::from_millis(10);

/// Looks until what is looked for is there; after the deadline, says why it is not.
pub async fn until<T>(
    what: impl Display + Send,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(why) if began.elapsed() > deadline => {
                return Err(why).with_context(|| format!("{what}: not within {deadline:?}"));
            }
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}
