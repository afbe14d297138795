//! Keeps a link up: connects, hands it to a session, and connects again when it is down.
//!
//! Never decides what a session does, and never gives up before it is told to stop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::link::{Connector, Link};

/// The first wait after a failure: a broker's restart is noticed at once.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait: calls flow again within two seconds of a broker's return, of which the way back up takes its
/// part; a thousand clients at one broker are then 2,000 attempts a second at most.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Runs `session` on one link after another until `shutdown`.
///
/// A session whose link goes down is dropped where it stands, and the next starts on a new link; work
/// that must survive belongs into tasks of its own. A session that returns while its link is up has
/// that link closed, and the next starts after the backoff. On `shutdown` the running session is left to return
/// by itself, so it should watch that token too; its link is closed after it.
pub async fn supervise<F, Fut>(connector: &dyn Connector, shutdown: CancellationToken, mut session: F)
where
    F: FnMut(Arc<dyn Link>) -> Fut,
    Fut: Future<Output = ()>,
{
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    let mut was_up = true;
    while !shutdown.is_cancelled() {
        let Some(attempt) = shutdown.run_until_cancelled(connector.connect()).await else { return };
        match attempt {
            Ok(link) => {
                info!("broker link up");
                was_up = true;
                backoff.succeeded();
                run_session(&link, &mut session).await;
            }
            Err(error) if was_up => {
                warn!(%error, "no broker link, trying on");
                was_up = false;
            }
            Err(_) => {}
        }
        // Clients that fell together do not come back together.
        let wait = backoff.after_failure(rand::random());
        if shutdown.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

async fn run_session<F, Fut>(link: &Arc<dyn Link>, session: &mut F)
where
    F: FnMut(Arc<dyn Link>) -> Fut,
    Fut: Future<Output = ()>,
{
    tokio::select! {
        biased;
        reason = link.closed() => warn!(%reason, "broker link down"),
        () = session(Arc::clone(link)) => link.close().await,
    }
}
