//! The listener for those who run the platform: liveness, readiness, metrics. Nothing of a tenant's is served here.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::core::Core;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Ops {
    core: Arc<Core>,
    registry: Arc<Registry>,
    leaving: CancellationToken,
}

/// Probes and metrics.
pub(crate) fn router(core: Arc<Core>, leaving: CancellationToken) -> Router {
    let registry = Arc::new(core.metrics.registry());
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Ops { core, registry, leaving })
}

async fn readyz(State(ops): State<Ops>) -> (StatusCode, &'static str) {
    let stopping = ops.leaving.is_cancelled().then_some("stopping\n");
    match stopping.or_else(|| ops.core.why_not_ready()) {
        Some(why_not) => (StatusCode::SERVICE_UNAVAILABLE, why_not),
        None => (StatusCode::OK, "ok\n"),
    }
}

async fn metrics(State(ops): State<Ops>) -> Response {
    let mut text = String::new();
    if let Err(error) = encode(&mut text, &ops.registry) {
        warn!(%error, "could not write the metrics");
        return (StatusCode::INTERNAL_SERVER_ERROR, "metrics failed\n").into_response();
    }
    ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response()
}
