//! A callback over HTTP: one signed POST to an address that was judged, and what its answer says.
//!
//! Never follows a redirect, never asks a proxy, never reads an answer's body: its status says it all.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use jiff::Timestamp;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Response};

use super::event::Notice;
use super::guard::{AllowList, Refusal};
use super::pace::{Attempted, judge_status};
use super::sign::CallbackKey;

/// A receiver that is there takes a connection within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// CloudEvents in structured mode.
const STRUCTURED: &str = "application/cloudevents+json";
/// Who asks, for the receiver's logs.
const AGENT: &str = concat!("funcatron/", env!("CARGO_PKG_VERSION"));

/// No HTTP client can be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an HTTP client for callbacks")]
pub(crate) struct PosterError(#[source] reqwest::Error);

/// Sends callbacks over HTTP.
#[derive(Debug)]
pub(crate) struct Poster {
    http: Client,
    timeout: Duration,
    allow: Arc<AllowList>,
}

impl Poster {
    pub(crate) fn new(allow: AllowList, timeout: Duration) -> Result<Self, PosterError> {
        // One provider of cryptography for the process; whoever came first is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let allow = Arc::new(allow);
        let http = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout)
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            // A connection serves one callback: no tenant's rides on another's.
            .pool_max_idle_per_host(0)
            .tls_certs_only(system_roots())
            .dns_resolver(Judged(Arc::clone(&allow)));
        Ok(Self { http: http.build().map_err(PosterError)?, timeout, allow })
    }

    /// Tells whoever answers there.
    pub(super) async fn post(&self, url: &str, notice: &Notice, key: &CallbackKey, now_s: u64) -> Attempted {
        let url = match self.allow.judge_url(url) {
            Ok(url) => url,
            Err(refusal) => return Attempted::Never(refusal.to_string()),
        };
        let (id, body) = (notice.id.to_string(), notice.to_document());
        let signature = key.sign(&id, now_s, &body);
        let request = self
            .http
            .post(url)
            .header(CONTENT_TYPE, STRUCTURED)
            .header(USER_AGENT, AGENT)
            .header("webhook-id", id)
            .header("webhook-timestamp", now_s)
            .header("webhook-signature", signature);
        match request.body(body).send().await {
            Ok(answer) => judge_status(answer.status().as_u16(), retry_after(&answer, now_s)),
            Err(error) => self.what_failed(&error),
        }
    }

    fn what_failed(&self, error: &reqwest::Error) -> Attempted {
        let mut cause: &dyn Error = error;
        loop {
            if let Some(refusal) = cause.downcast_ref::<Refusal>() {
                return Attempted::Never(refusal.to_string());
            }
            let Some(next) = cause.source() else { break };
            cause = next;
        }
        let error = match error.is_timeout() {
            true => format!("it did not answer within {:?}", self.timeout),
            // The root says what happened; what stands around it says to which URL.
            false => format!("it could not be reached: {cause}"),
        };
        Attempted::Again { error, retry_after: None }
    }
}

/// The system's own certificate authorities.
fn system_roots() -> Vec<Certificate> {
    let found = rustls_native_certs::load_native_certs().certs;
    found.iter().filter_map(|root| Certificate::from_der(root).ok()).collect()
}

/// Resolves names, and hands out only the addresses that may be connected to: nobody asks again in between, so a name
/// cannot change its mind after it was judged.
struct Judged(Arc<AllowList>);

impl Resolve for Judged {
    fn resolve(&self, name: Name) -> Resolving {
        let allow = Arc::clone(&self.0);
        Box::pin(async move {
            let host = name.as_str();
            // The port is the URL's, whatever stands here.
            let found = tokio::net::lookup_host((host, 0)).await?;
            let open: Vec<SocketAddr> = found.filter(|found| allow.allows(host, found.ip())).collect();
            if open.is_empty() {
                return Err(Refusal::Address.into());
            }
            Ok(Box::new(open.into_iter()) as Addrs)
        })
    }
}

/// When to come again, in seconds or as a date (RFC 9110, section 10.2.3).
fn retry_after(answer: &Response, now_s: u64) -> Option<Duration> {
    read_retry_after(answer.headers().get(RETRY_AFTER)?.to_str().ok()?, now_s)
}

fn read_retry_after(text: &str, now_s: u64) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date: Timestamp = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
    let date_s = u64::try_from(date.as_second()).ok()?;
    Some(Duration::from_secs(date_s.saturating_sub(now_s)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_come_again_is_seconds_or_a_date() {
        let read = |text| read_retry_after(text, 784_111_770);
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(read("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO), "long ago is now");
        assert_eq!((read("soon"), read("-1")), (None, None));
    }
}
