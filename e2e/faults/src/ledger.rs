//! What the ledger says became of calls, by its HTTP API.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http_body_util::{BodyExt as _, Full};
use serde::Deserialize;
use tokio::time::timeout;

use crate::load::{pool, uri};
use crate::tally::Listed;

/// What one page holds at most.
const PAGE: u32 = 100;
/// A page takes milliseconds; a ledger that is being started takes no connection.
const PAGE_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct List {
    calls: Vec<Listed>,
    next: Option<String>,
}

/// All calls of an App that were submitted since then, in Unix milliseconds.
pub(crate) async fn calls(
    ledger: SocketAddr,
    namespace: &str,
    app: &str,
    since_ms: u64,
) -> Result<Vec<Listed>> {
    let client = pool();
    let mut path = format!("/v1/namespaces/{namespace}/apps/{app}/calls?limit={PAGE}&from={since_ms}");
    let mut all = Vec::new();
    loop {
        let page = async {
            let mut request = http::Request::new(Full::default());
            *request.uri_mut() = uri(ledger, &path);
            let response = client.request(request).await.context("ask the ledger")?;
            let status = response.status();
            let body = response.into_body().collect().await.context("read the ledger's answer")?.to_bytes();
            ensure!(status.is_success(), "the ledger answered {status}: {}", String::from_utf8_lossy(&body));
            serde_json::from_slice::<List>(&body).context("the ledger's list cannot be read")
        };
        let List { calls, next } = timeout(PAGE_PATIENCE, page).await.context("wait for the ledger")??;
        all.extend(calls);
        match next {
            Some(next) => path = next,
            None => return Ok(all),
        }
    }
}
