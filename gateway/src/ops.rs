//! The listener for those who run the platform: liveness, readiness, metrics.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::core::Core;
use crate::listen::Handler;
use crate::response::ResponseBody;

const PLAIN: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers probes and scrapes.
#[derive(Clone)]
pub(crate) struct Ops {
    pub(crate) core: Arc<Core>,
    pub(crate) registry: Arc<Registry>,
    /// From the word to stop on, no new requests are wanted.
    pub(crate) leaving: CancellationToken,
}

impl Handler for Ops {
    async fn handle(&self, request: Request<Incoming>, _peer: SocketAddr) -> Response<ResponseBody> {
        match request.uri().path() {
            "/livez" => answer(StatusCode::OK, PLAIN, "ok\n".to_owned()),
            "/readyz" => self.readiness(),
            "/metrics" => self.metrics(),
            _ => answer(StatusCode::NOT_FOUND, PLAIN, "not found\n".to_owned()),
        }
    }
}

impl Ops {
    fn readiness(&self) -> Response<ResponseBody> {
        let why_not = if self.leaving.is_cancelled() {
            "stopping\n"
        } else if !self.core.tables.is_synced() {
            "tables not seen yet\n"
        } else if !self.core.is_ready() {
            "broker not seen yet\n"
        } else {
            return answer(StatusCode::OK, PLAIN, "ok\n".to_owned());
        };
        answer(StatusCode::SERVICE_UNAVAILABLE, PLAIN, why_not.to_owned())
    }

    fn metrics(&self) -> Response<ResponseBody> {
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            warn!(%error, "could not write the metrics");
            return answer(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "metrics failed\n".to_owned());
        }
        answer(StatusCode::OK, OPEN_METRICS, text)
    }
}

fn answer(status: StatusCode, kind: &'static str, text: String) -> Response<ResponseBody> {
    let mut response = Response::new(Full::new(Bytes::from(text)).into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
