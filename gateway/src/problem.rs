//! Every answer that is Funcatron's own word rather than the function's: RFC 9457 problem documents.
//! Never tells of an internal fault more than the call's id.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use uuid::Uuid;

use crate::body::ReadBodyError;
use crate::response::ResponseBody;

/// Names the call in every answer.
pub(crate) const FN_CALL_ID: HeaderName = HeaderName::from_static("fn-call-id");
/// Long enough for a link or a revision to come back, short enough not to be felt.
const RETRY_AFTER_S: &str = "1";
/// A runner's reason is text of a tenant's: no longer than a log line.
const DETAIL_CHARS_MAX: usize = 1024;

/// Why a request gets no answer of a function's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The request breaks HTTP where hyper lets it through.
    BadRequest(&'static str),
    /// No Route, trigger or Fn is there.
    NoRoute,
    /// The path is there, the method is not.
    MethodNotAllowed(String),
    /// A bundle's address is forged or too old.
    Forbidden(String),
    /// No bundle of that digest.
    NoBundle,
    /// Where bundles come from does not answer.
    BundlesAway,
    /// The body did not arrive in time.
    BodyTooSlow,
    /// The body is longer than its App takes, in bytes.
    BodyTooLarge(u64),
    /// Request line and headers are too long, or a header cannot travel.
    HeadTooLarge,
    /// The App or Fn has as many calls as it may.
    TenantBusy(&'static str),
    /// This gateway has as many calls or bytes as it may.
    GatewayBusy,
    /// No link to the broker, and the call was never published.
    BrokerAway,
    /// The broker did not confirm in time that it has the call.
    NotConfirmed,
    /// The Fn's durable queue is full.
    QueueFull,
    /// The ledger does not answer.
    LedgerAway,
    /// The body is longer than a message carries, in bytes, and there is nowhere else to put it.
    NoObjectStore(u64),
    /// The object store does not answer; the call was not taken.
    ObjectsAway,
    /// The object store has no room; the call was not taken.
    ObjectsFull,
    /// No body of that call is in the object store.
    NoObject,
    /// The App is not in the tables.
    NoApp,
    /// The Fn has no revision that loaded.
    NoRevision,
    /// Its revision's queue was not there, time and again.
    Unroutable,
    /// The runner that took it cannot host it.
    NotHosted(String),
    /// The function failed, died or answered nonsense.
    FunctionFailed(String),
    /// Its runner was lost, and it must not run again.
    RunnerLost,
    /// The link was lost after it was published, and it must not run again.
    OutcomeUnknown,
    /// The runner and this gateway speak different versions.
    BadWire(String),
    /// Its deadline passed.
    DeadlinePassed,
    /// A runner took it too late to start it.
    NotStarted,
    /// The platform's own fault.
    Internal,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    message: &'a str,
    instance: String,
}

impl Problem {
    /// Status, last part of the type's URI, title.
    fn row(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::BadRequest(_) => (S::BAD_REQUEST, "bad-request", "Bad request"),
            Self::NoRoute => (S::NOT_FOUND, "no-route", "No route"),
            Self::MethodNotAllowed(_) => (S::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed"),
            Self::Forbidden(_) => (S::FORBIDDEN, "forbidden", "Forbidden"),
            Self::NoBundle => (S::NOT_FOUND, "no-bundle", "No such bundle"),
            Self::BundlesAway => (S::SERVICE_UNAVAILABLE, "bundles-away", "Bundles away"),
            Self::BodyTooSlow => (S::REQUEST_TIMEOUT, "body-too-slow", "Body too slow"),
            Self::BodyTooLarge(_) => (S::PAYLOAD_TOO_LARGE, "body-too-large", "Body too large"),
            Self::HeadTooLarge => (S::REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large", "Head too large"),
            Self::TenantBusy(_) => (S::TOO_MANY_REQUESTS, "tenant-busy", "Too many calls at once"),
            Self::GatewayBusy => (S::SERVICE_UNAVAILABLE, "gateway-busy", "Gateway busy"),
            Self::BrokerAway => (S::SERVICE_UNAVAILABLE, "broker-away", "Broker away"),
            Self::NotConfirmed => (S::SERVICE_UNAVAILABLE, "not-confirmed", "Not confirmed"),
            Self::QueueFull => (S::SERVICE_UNAVAILABLE, "queue-full", "Queue full"),
            Self::LedgerAway => (S::SERVICE_UNAVAILABLE, "ledger-away", "Ledger away"),
            Self::NoObjectStore(_) => (S::PAYLOAD_TOO_LARGE, "body-too-large", "Body too large"),
            Self::ObjectsAway => (S::SERVICE_UNAVAILABLE, "objects-away", "Object store away"),
            Self::ObjectsFull => (S::SERVICE_UNAVAILABLE, "objects-full", "Object store full"),
            Self::NoObject => (S::NOT_FOUND, "no-object", "No such object"),
            Self::NoApp => (S::SERVICE_UNAVAILABLE, "no-app", "App not there"),
            Self::NoRevision => (S::SERVICE_UNAVAILABLE, "no-revision", "No revision loaded"),
            Self::Unroutable => (S::SERVICE_UNAVAILABLE, "unroutable", "Revision not there"),
            Self::NotHosted(_) => (S::SERVICE_UNAVAILABLE, "not-hosted", "Revision not hosted"),
            Self::FunctionFailed(_) => (S::BAD_GATEWAY, "function-failed", "Function failed"),
            Self::RunnerLost => (S::BAD_GATEWAY, "runner-lost", "Runner lost"),
            Self::OutcomeUnknown => (S::BAD_GATEWAY, "outcome-unknown", "Outcome unknown"),
            Self::BadWire(_) => (S::BAD_GATEWAY, "bad-wire", "Wire version not spoken"),
            Self::DeadlinePassed => (S::GATEWAY_TIMEOUT, "deadline-passed", "Deadline passed"),
            Self::NotStarted => (S::GATEWAY_TIMEOUT, "not-started", "Not started in time"),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, "internal", "Internal server error"),
        }
    }

    pub(crate) fn detail(&self) -> String {
        match self {
            Self::Forbidden(why) => why.clone(),
            Self::TenantBusy(whose) => format!("this {whose} has as many calls in flight as it may"),
            Self::NotHosted(why) | Self::FunctionFailed(why) | Self::BadWire(why) => {
                why.chars().take(DETAIL_CHARS_MAX).collect()
            }
            Self::BodyTooLarge(limit) => format!("this App takes bodies of at most {limit} bytes"),
            Self::NoObjectStore(limit) => format!(
                "a body of more than {limit} bytes goes with a call that nobody waits for only where a ledger with an \
                 object store is installed"
            ),
            other => other.text().to_owned(),
        }
    }

    /// What is said of it whatever it is about.
    fn text(&self) -> &'static str {
        match self {
            Self::BadRequest(why) => why,
            Self::NoRoute => "nothing is served at this address",
            Self::MethodNotAllowed(_) => "this address is served, but not for this method",
            Self::NoBundle => "no bundle of this digest belongs to this App",
            Self::BundlesAway => "the source of bundles does not answer",
            Self::BodyTooSlow => "the request's body did not arrive in time",
            Self::HeadTooLarge => "the request's line and headers are more than this gateway takes",
            Self::GatewayBusy => "this gateway has as much in flight as it may",
            Self::BrokerAway => "the message broker is away; the call was not sent",
            Self::NotConfirmed => "the broker did not confirm in time that it has the call, which may run",
            Self::QueueFull => {
                "as many calls of this function wait as its queue holds; the call was not taken"
            }
            Self::LedgerAway => "the ledger of calls does not answer; the call itself is not touched by that",
            Self::ObjectsAway => "the object store for large bodies does not answer; the call was not taken",
            Self::ObjectsFull => {
                "the object store for large bodies has no room for this one; the call was not taken"
            }
            Self::NoObject => "no body of this call is in the object store",
            Self::NoApp => "the App of this address is not there",
            Self::NoRevision => "no revision of this function has loaded yet",
            Self::Unroutable => "no runner's queue took the call; it was not run",
            Self::RunnerLost => "the runner was lost during the call, which may have run",
            Self::OutcomeUnknown => "the link to the broker was lost during the call, which may have run",
            Self::DeadlinePassed => "the function did not answer before the call's deadline",
            Self::NotStarted => "the call's time was too short by the time a runner was free; it was not run",
            Self::Internal => "the platform failed; its log names this call",
            // What these say is never the same.
            Self::Forbidden(_)
            | Self::TenantBusy(_)
            | Self::NotHosted(_)
            | Self::FunctionFailed(_)
            | Self::BadWire(_)
            | Self::BodyTooLarge(_)
            | Self::NoObjectStore(_) => "",
        }
    }

    /// Of a request whose body did not come.
    pub(crate) fn unread(error: &ReadBodyError) -> Self {
        match error {
            ReadBodyError::TooLarge(limit) => Self::BodyTooLarge(*limit),
            ReadBodyError::TooSlow => Self::BodyTooSlow,
            ReadBodyError::NoRoom => Self::GatewayBusy,
            ReadBodyError::Broken => Self::BadRequest("the body broke off or is malformed"),
        }
    }

    /// Status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        self.row().0
    }

    /// The answer, naming the call.
    pub(crate) fn into_response(self, call: Uuid) -> Response<ResponseBody> {
        let (status, slug, title) = self.row();
        let detail = self.detail();
        let document = Document {
            kind: format!("https://funcatron.dev/problems/{slug}"),
            title,
            status: status.as_u16(),
            detail: &detail,
            message: &detail,
            instance: call.urn().to_string(),
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(Full::new(Bytes::from(body)).into());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(FN_CALL_ID, call_id_value(call));
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        if let Self::MethodNotAllowed(allow) = &self
            && let Ok(allow) = HeaderValue::from_str(allow)
        {
            headers.insert(ALLOW, allow);
        }
        response
    }
}

/// The call's id as a header's value.
pub(crate) fn call_id_value(call: Uuid) -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    let text = call.hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn parts(problem: Problem) -> (http::response::Parts, serde_json::Value) {
        let (parts, body) = problem.into_response(Uuid::from_u128(7)).into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_problem_carries_rfc_9457_members_a_message_and_the_call() {
        let (parts, document) = parts(Problem::NoRoute).await;
        assert_eq!(parts.status, 404);
        assert_eq!(parts.headers["content-type"], "application/problem+json");
        assert_eq!(parts.headers["fn-call-id"], "00000000-0000-0000-0000-000000000007");
        assert_eq!(document["status"], 404);
        assert_eq!(document["type"], "https://funcatron.dev/problems/no-route");
        assert_eq!(document["title"], "No route");
        assert_eq!(document["message"], document["detail"]);
        assert_eq!(document["instance"], "urn:uuid:00000000-0000-0000-0000-000000000007");
    }

    #[tokio::test]
    async fn what_may_pass_says_when_to_come_back() {
        for problem in [
            Problem::BrokerAway,
            Problem::NoApp,
            Problem::NoRevision,
            Problem::GatewayBusy,
            Problem::TenantBusy("App"),
            Problem::Unroutable,
            Problem::NotConfirmed,
            Problem::QueueFull,
        ] {
            let (parts, _) = parts(problem.clone()).await;
            assert_eq!(parts.headers["retry-after"], "1", "{problem:?}");
        }
        let (parts, _) = parts(Problem::RunnerLost).await;
        assert!(!parts.headers.contains_key("retry-after"));
    }

    #[tokio::test]
    async fn a_wrong_method_is_told_the_right_ones() {
        let (parts, _) = parts(Problem::MethodNotAllowed("GET, HEAD".into())).await;
        assert_eq!(
            (parts.status.as_u16(), &parts.headers["allow"]),
            (405, &HeaderValue::from_static("GET, HEAD"))
        );
    }

    #[tokio::test]
    async fn a_runners_reason_is_cut() {
        let (_, document) = parts(Problem::FunctionFailed("é".repeat(5000))).await;
        assert_eq!(document["detail"].as_str().unwrap().chars().count(), 1024);
    }
}
