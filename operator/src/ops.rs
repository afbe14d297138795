//! The operator's own port: `/livez`, `/readyz`, `/metrics`. Nothing of a tenant's is served here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Metrics, text};

/// How far the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The Lease was not yet read.
    Starting,
    /// Another leads.
    Standby,
    /// It leads, and lists everything.
    Syncing,
    /// It leads and reconciles.
    Leading,
}

/// The phase, shared with the port.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<AtomicU8>);

impl Progress {
    /// Of a process that has just begun.
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU8::new(Phase::Starting as u8)))
    }

    /// Moves on.
    pub(crate) fn enter(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }

    /// A standby is ready too: a rollout must not wait for it to lead.
    fn is_ready(&self) -> bool {
        let phase = self.0.load(Ordering::Acquire);
        phase == Phase::Standby as u8 || phase == Phase::Leading as u8
    }
}

/// Serves the port until shutdown.
pub(crate) async fn serve(
    address: SocketAddr,
    progress: Progress,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), std::io::Error> {
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, router(progress, &metrics)).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

fn router(progress: Progress, metrics: &Metrics) -> Router {
    let registry = Arc::new(metrics.registry());
    let ready = async |State((progress, _)): State<(Progress, Arc<Registry>)>| match progress.is_ready() {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready: the caches are not filled\n"),
    };
    let numbers = async |State((_, registry)): State<(Progress, Arc<Registry>)>| text(&registry);
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(numbers))
        .with_state((progress, registry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_ready_and_a_leader_only_once_it_has_listed_everything() {
        let progress = Progress::new();
        assert!(!progress.is_ready());
        for (phase, ready) in [
            (Phase::Starting, false),
            (Phase::Standby, true),
            (Phase::Syncing, false),
            (Phase::Leading, true),
        ] {
            progress.enter(phase);
            assert_eq!(progress.is_ready(), ready, "{phase:?}");
        }
    }
}
