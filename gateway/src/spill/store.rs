//! The object store as a gateway knows it: behind the ledger, by addresses that both can sign.
//! Never retries: a body passes once.

use std::time::Duration;

use bytes::Bytes;
use funcatron_crds::{ObjectAct, ObjectOf, SigningKey};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as SendError};
use hyper_util::rt::TokioExecutor;
use thiserror::Error;
use tokio::time::timeout;
use uuid::Uuid;

use super::outflow::{Outflow, Progress};
use crate::core::unix_ms;
use crate::problem::Problem;

/// A ledger that is there takes a connection within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest that nothing passes: a client is given up before, and S3 takes some seconds for a part.
const STALL_MAX: Duration = Duration::from_secs(30);
/// The ledger looks into its store before it answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// An address of this gateway's own use is used at once; clocks differ.
const OWN_LIFE_S: u64 = 5 * 60;
/// After the deadline before which a call begins: clocks differ, and an attempt asks a moment after it began.
const SLACK_S: u64 = 15 * 60;

type Sent = Either<Outflow, Empty<Bytes>>;

/// Whose body an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub(super) namespace: String,
    pub(super) app: String,
    pub(super) call: Uuid,
}

/// Why an object was not written or taken away.
#[derive(Debug, Error)]
pub(super) enum ObjectsError {
    #[error("the ledger does not answer")]
    Send(#[from] SendError),
    #[error("nothing moved for {STALL_MAX:?}")]
    Stalled,
    #[error("the address makes no request")]
    Request(#[from] http::Error),
    #[error("the ledger answered {0}")]
    Status(StatusCode),
}

impl From<ObjectsError> for Problem {
    fn from(error: ObjectsError) -> Self {
        match error {
            ObjectsError::Status(StatusCode::INSUFFICIENT_STORAGE | StatusCode::PAYLOAD_TOO_LARGE) => {
                Self::ObjectsFull
            }
            _ => Self::ObjectsAway,
        }
    }
}

/// Objects behind a ledger.
#[derive(Debug)]
pub(crate) struct Objects {
    /// Where the ledger is.
    ledger: String,
    /// Where runners fetch: a gateway.
    base: String,
    key: SigningKey,
    client: Client<HttpConnector, Sent>,
}

impl Objects {
    /// `ledger` is `http://host:port`; runners reach gateways at `base`.
    pub(crate) fn new(ledger: &str, base: &str, key: SigningKey) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        // A connection is little beside a body, and one that was closed meanwhile would lose it.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Self { ledger: ledger.to_owned(), base: base.to_owned(), key, client }
    }

    /// Where a runner fetches an object until its call can no longer run.
    pub(super) fn address(&self, object: &Object, deadline_ms: u64) -> String {
        let expires_s = (deadline_ms / 1000).saturating_add(SLACK_S);
        self.signed(ObjectAct::Get, &self.base, object, expires_s)
    }

    /// Writes an object as it comes.
    pub(super) async fn put(
        &self,
        object: &Object,
        body: Outflow,
        progress: &Progress,
    ) -> Result<(), ObjectsError> {
        let request = Request::put(self.own(ObjectAct::Put, object)).body(Either::Left(body))?;
        let answer = tokio::select! {
            biased;
            answer = self.client.request(request) => answer?,
            () = progress.stalled(STALL_MAX) => return Err(ObjectsError::Stalled),
        };
        expect(&answer, StatusCode::CREATED)
    }

    /// Takes an object away.
    pub(super) async fn delete(&self, object: &Object) -> Result<(), ObjectsError> {
        let request =
            Request::delete(self.own(ObjectAct::Delete, object)).body(Either::Right(Empty::new()))?;
        let answer = timeout(ANSWER_TIMEOUT, self.client.request(request));
        expect(&answer.await.map_err(|_| ObjectsError::Stalled)??, StatusCode::NO_CONTENT)
    }

    /// Asks for an object at an address that was verified.
    pub(super) async fn get(&self, method: Method, path: &str) -> Result<Response<Incoming>, ObjectsError> {
        let url = [self.ledger.trim_end_matches('/'), path].concat();
        let request = Request::builder().method(method).uri(url).body(Either::Right(Empty::new()))?;
        let answer = timeout(ANSWER_TIMEOUT, self.client.request(request));
        Ok(answer.await.map_err(|_| ObjectsError::Stalled)??)
    }

    /// The key that addresses are signed with.
    pub(super) fn key(&self) -> &SigningKey {
        &self.key
    }

    fn own(&self, act: ObjectAct, object: &Object) -> String {
        self.signed(act, &self.ledger, object, unix_ms() / 1000 + OWN_LIFE_S)
    }

    fn signed(&self, act: ObjectAct, base: &str, object: &Object, expires_s: u64) -> String {
        let Object { namespace, app, call } = object;
        let call = call.to_string();
        self.key.object_url(act, base, ObjectOf { namespace, app, call: &call }, expires_s)
    }
}

fn expect(answer: &Response<Incoming>, status: StatusCode) -> Result<(), ObjectsError> {
    if answer.status() == status { Ok(()) } else { Err(ObjectsError::Status(answer.status())) }
}
