//! Gets run documents and code by digest from the gateway. Believes no byte that the digest does not cover, and
//! never logs an address: its signature is a capability.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use funcatron_crds::Digest;
use http::{StatusCode, Uri, uri::Scheme};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use funcatron_broker::backoff::Backoff;

/// One attempt: 1 MB within a cluster takes milliseconds, and a call may be waiting.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Two more attempts outlast a gateway's restart behind its Service; the next wake tries again anyway.
const ATTEMPTS_MAX: u32 = 3;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// Why something was not fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("the address is not plain http")]
    Address,
    #[error("the gateway does not answer")]
    Send(#[source] hyper_util::client::legacy::Error),
    #[error("the gateway answered {0}")]
    Status(StatusCode),
    #[error("the transfer broke off")]
    Receive(#[source] hyper::Error),
    #[error("no answer within {ATTEMPT_TIMEOUT:?}")]
    TimedOut,
    #[error("more than {0} bytes")]
    TooLarge(usize),
    #[error("the bytes are not those that the digest names")]
    WrongDigest,
}

impl FetchError {
    /// Whether the same request may succeed a moment later.
    fn is_passing(&self) -> bool {
        match self {
            Self::Send(_) | Self::Receive(_) | Self::TimedOut => true,
            Self::Status(status) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Address | Self::TooLarge(_) | Self::WrongDigest => false,
        }
    }
}

/// Fetches over plain HTTP.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Fetcher {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(ATTEMPT_TIMEOUT));
        Self { client: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// The bytes that `digest` names, of which there are `bytes_max` at most.
    pub(crate) async fn get(
        &self,
        url: &str,
        digest: &Digest,
        bytes_max: usize,
    ) -> Result<Bytes, FetchError> {
        let address: Uri = url.parse().map_err(|_| FetchError::Address)?;
        if address.scheme() != Some(&Scheme::HTTP) {
            return Err(FetchError::Address);
        }
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        loop {
            let attempt =
                tokio::time::timeout(ATTEMPT_TIMEOUT, self.attempt(address.clone(), bytes_max)).await;
            match attempt.unwrap_or(Err(FetchError::TimedOut)) {
                Ok(bytes) if Digest::of(&bytes) == *digest => return Ok(bytes),
                Ok(_) => return Err(FetchError::WrongDigest),
                Err(error) if !error.is_passing() || backoff.failures() + 1 >= ATTEMPTS_MAX => {
                    return Err(error);
                }
                Err(_) => tokio::time::sleep(backoff.after_failure(rand::random())).await,
            }
        }
    }

    async fn attempt(&self, address: Uri, bytes_max: usize) -> Result<Bytes, FetchError> {
        let answer = self.client.get(address).await.map_err(FetchError::Send)?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        let mut body = answer.into_body();
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(FetchError::Receive)?.into_data() else { continue };
            if bytes.len() + data.len() > bytes_max {
                return Err(FetchError::TooLarge(bytes_max));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    }
}
