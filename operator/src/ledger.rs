//! What the call ledger says of a call: whether it is over. Asks; never writes, and never waits long.

use std::time::Duration;

use funcatron_broker::message::CallId;
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;

/// A ledger that has not answered by then does not know, for this look.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// What could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    /// The URL is none.
    #[error("the ledger's URL cannot be read")]
    Address,
    /// No HTTP client can be made.
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
    /// No answer, or none that can be read.
    #[error("the ledger does not answer")]
    Unreachable(#[source] reqwest::Error),
    /// An answer that says no.
    #[error("the ledger answered {0}")]
    Refused(StatusCode),
}

/// How far a call has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Queued,
    Running,
    Success,
    Error,
    Timeout,
    Cancelled,
    Dead,
    /// A newer ledger's word.
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Known {
    status: Status,
}

impl Status {
    fn is_over(self) -> Option<bool> {
        match self {
            Self::Queued | Self::Running => Some(false),
            Self::Success | Self::Error | Self::Timeout | Self::Cancelled | Self::Dead => Some(true),
            Self::Other => None,
        }
    }
}

/// The ledger's HTTP API.
pub(crate) struct Ledger {
    http: Client,
    base: Url,
}

impl Ledger {
    /// At `http://host[:port][/path]`.
    pub(crate) fn new(url: &str) -> Result<Self, LedgerError> {
        let base = Url::parse(url).ok().filter(|url| url.scheme() == "http").ok_or(LedgerError::Address)?;
        let builder = Client::builder().timeout(REQUEST_TIMEOUT).tls_certs_only([]);
        Ok(Self { http: builder.build().map_err(LedgerError::Client)?, base })
    }

    /// Whether that call is over; `None` where the ledger does not know it.
    pub(crate) async fn is_over(&self, id: CallId) -> Result<Option<bool>, LedgerError> {
        let url = format!("{}/calls/{id}", self.base.as_str().trim_end_matches('/'));
        let answer = self.http.get(url).send().await.map_err(LedgerError::Unreachable)?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let Known { status } = answer.json().await.map_err(LedgerError::Unreachable)?;
                Ok(status.is_over())
            }
            status => Err(LedgerError::Refused(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ledger_that_says(status: u16, body: &'static str) -> Ledger {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let answer = (StatusCode::from_u16(status).unwrap(), body);
        let router =
            axum::Router::new().route("/calls/{id}", axum::routing::get(move || async move { answer }));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Ledger::new(&url).unwrap()
    }

    #[tokio::test]
    async fn a_call_is_over_when_its_status_is_final() {
        for (body, over) in [
            (r#"{"id": "x", "status": "queued"}"#, Some(false)),
            (r#"{"id": "x", "status": "running", "attempt": 2}"#, Some(false)),
            (r#"{"id": "x", "status": "success"}"#, Some(true)),
            (r#"{"id": "x", "status": "dead"}"#, Some(true)),
            (r#"{"id": "x", "status": "pondering"}"#, None),
        ] {
            let ledger = ledger_that_says(200, body).await;
            assert_eq!(ledger.is_over(CallId::fresh()).await.unwrap(), over, "{body}");
        }
    }

    #[tokio::test]
    async fn an_unknown_call_is_not_over_and_not_running() {
        assert_eq!(ledger_that_says(404, "{}").await.is_over(CallId::fresh()).await.unwrap(), None);
        assert!(ledger_that_says(500, "").await.is_over(CallId::fresh()).await.is_err());
        assert!(ledger_that_says(200, "nonsense").await.is_over(CallId::fresh()).await.is_err());
    }
}
