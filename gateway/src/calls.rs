//! What became of calls: asked of the ledger on the client's behalf, on the internal listener alone.
//! Never reads an answer but its bounds.

use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, Method, Request, Response, Uri, header, request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;
use tracing::debug;

use crate::config::HostPolicy;
use crate::problem::Problem;

/// Below it is a call by its id, which nobody knows but who made it.
const BY_ID: &str = "/calls/";
/// Below it is what belongs to an App, for whoever may know and change all of it.
const BY_APP: &str = "/v1/namespaces/";
/// What callbacks are checked with: everybody's to know.
const CALLBACK_KEY: &str = "/v1/callback-key";
/// A page of calls or an answer that was kept is far below it.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// A look into a database takes milliseconds; a redrive of dead letters some seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// What of a request the ledger is told besides its line.
const PASSED: [HeaderName; 2] = [header::ACCEPT, header::AUTHORIZATION];

/// A ledger to ask.
pub(crate) struct Ledger {
    /// Whether everything is everybody's, as on a laptop. On a cluster tenants' functions reach this listener.
    whole: bool,
    authority: Authority,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Ledger {
    /// `url` is `http://host:port`; `None` where it is anything else.
    pub(crate) fn new(url: &str, policy: HostPolicy) -> Option<Self> {
        let parts = url.parse::<Uri>().ok()?.into_parts();
        let authority = parts.authority.filter(|_| parts.scheme == Some(Scheme::HTTP))?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        Some(Self { whole: policy == HostPolicy::Dev, authority, client })
    }

    /// Whether a path is the ledger's.
    pub(crate) fn serves(&self, path: &str) -> bool {
        path.starts_with(BY_ID) || path == CALLBACK_KEY || (self.whole && path.starts_with(BY_APP))
    }

    /// Asks, and hands the answer on.
    pub(crate) async fn ask(&self, head: &request::Parts) -> Result<Response<Full<Bytes>>, Problem> {
        let reads = [Method::GET, Method::HEAD].contains(&head.method);
        let changes = self.whole && head.method == Method::POST;
        if !(reads || changes) {
            return Err(Problem::MethodNotAllowed("GET, HEAD".to_owned()));
        }
        let asking = self.client.request(self.request(head)?);
        let answered = timeout(ANSWER_TIMEOUT, async {
            let (mut parts, body) = asking.await.map_err(|error| error.to_string())?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            parts.headers.remove(header::TRANSFER_ENCODING);
            parts.headers.remove(header::CONNECTION);
            Ok::<_, String>(Response::from_parts(parts, Full::new(body)))
        });
        match answered.await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                debug!(error, "the ledger does not answer");
                Err(Problem::LedgerAway)
            }
            Err(_) => Err(Problem::LedgerAway),
        }
    }

    fn request(&self, head: &request::Parts) -> Result<Request<Full<Bytes>>, Problem> {
        let path = head.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path);
        let uri = Uri::from_parts(parts).map_err(|_| Problem::NoRoute)?;
        let mut request = Request::new(Full::default());
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = uri;
        for name in PASSED {
            if let Some(value) = head.headers.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_http_address_is_a_ledgers() {
        assert!(Ledger::new("http://ledger.system.svc:80", HostPolicy::Strict).is_some());
        for url in ["", "ledger", "https://ledger", "/calls"] {
            assert!(Ledger::new(url, HostPolicy::Strict).is_none(), "{url}");
        }
    }

    #[test]
    fn on_a_cluster_a_call_is_found_by_its_id_alone() {
        let ledger = |policy| Ledger::new("http://ledger", policy).unwrap();
        let (cluster, laptop) = (ledger(HostPolicy::Strict), ledger(HostPolicy::Dev));
        let of_app = "/v1/namespaces/a/apps/b/calls";
        assert!(cluster.serves("/calls/1") && !cluster.serves(of_app));
        assert!(cluster.serves("/v1/callback-key") && laptop.serves("/v1/callback-key"));
        assert!(laptop.serves("/calls/1") && laptop.serves(of_app));
        assert!(!laptop.serves("/invoke/a/b") && !laptop.serves("/v1") && !laptop.serves("/calls"));
    }
}
