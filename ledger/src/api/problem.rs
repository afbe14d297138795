//! Every answer that is the ledger's own word rather than a function's: RFC 9457 problem documents with a `message`
//! member, as the gateway's are. Never tells of an internal fault more than that there was one.

use axum::response::{IntoResponse, Response};
use funcatron_broker::message::CallId;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use tracing::warn;

use crate::store::StoreError;

/// Names the call in every answer about one.
pub(crate) const FN_CALL_ID: HeaderName = HeaderName::from_static("fn-call-id");
/// Long enough for a database or a link to come back, short enough not to be felt.
pub(crate) const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");

/// Why a request gets no answer of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// Nothing is served there.
    NoRoute,
    /// The path is there, the method is not.
    MethodNotAllowed,
    /// A parameter makes no sense; says which and why.
    BadRequest(String),
    /// The caller may not.
    NotAllowed,
    /// No such App, whatever else was named.
    NoApp,
    /// The App is there, the call is not.
    NoCall,
    /// The Fn has no durable queue.
    NoDurableQueue,
    /// A runner has the call.
    Running(CallId),
    /// The call has ended already, so.
    Ended(CallId, &'static str),
    /// The call has not ended yet.
    NotEnded(CallId),
    /// Not enough was kept to repeat the call; says what is missing.
    NotRepeatable(CallId, &'static str),
    /// The call failed without an answer.
    Failed(CallId, Option<String>),
    /// The call was not done in time.
    TimedOut(CallId, Option<String>),
    /// The call was given up on.
    Dead(CallId, Option<String>),
    /// The call was cancelled: there will never be a result.
    Cancelled(CallId),
    /// There was an answer, and not all of it was kept; says how much there was.
    NotKept(CallId, Option<u64>),
    /// There may have been an answer, which had to make room for newer calls.
    MadeRoom(CallId),
    /// A redrive is under way.
    Redriving,
    /// As many requests are under way as may be.
    Busy,
    /// The function's queue takes no more.
    QueueFull,
    /// No link to the broker.
    BrokerAway,
    /// The database does not answer.
    DatabaseAway,
    /// An object's address is forged or too old; says which.
    NotSigned(String),
    /// No such object.
    NoObject,
    /// Nobody may write an object as long as that; says how long it may be.
    ObjectTooLarge(u64),
    /// The object store has no room for it.
    ObjectsFull,
    /// The object store does not answer.
    ObjectsAway,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
}

impl Problem {
    /// Status, last part of the type's URI, title.
    fn row(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::NoRoute => (S::NOT_FOUND, "no-route", "No route"),
            Self::MethodNotAllowed => (S::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed"),
            Self::BadRequest(_) => (S::BAD_REQUEST, "bad-request", "Bad request"),
            Self::NotAllowed => (S::FORBIDDEN, "not-allowed", "Not allowed"),
            Self::NoApp => (S::NOT_FOUND, "no-app", "No such App"),
            Self::NoCall => (S::NOT_FOUND, "no-call", "No such call"),
            Self::NoDurableQueue => (S::NOT_FOUND, "no-durable-queue", "No durable queue"),
            Self::Running(_) => (S::CONFLICT, "running", "Call is running"),
            Self::Ended(..) => (S::CONFLICT, "ended", "Call has ended"),
            Self::NotEnded(_) => (S::CONFLICT, "not-ended", "Call has not ended"),
            Self::NotRepeatable(..) => (S::CONFLICT, "not-repeatable", "Call cannot be repeated"),
            Self::Failed(..) => (S::BAD_GATEWAY, "function-failed", "Function failed"),
            Self::TimedOut(..) => (S::GATEWAY_TIMEOUT, "deadline-passed", "Deadline passed"),
            Self::Dead(..) => (S::BAD_GATEWAY, "dead", "Call was given up on"),
            Self::Cancelled(_) => (S::GONE, "cancelled", "Call was cancelled"),
            Self::NotKept(..) | Self::MadeRoom(_) => {
                (S::BAD_GATEWAY, "result-not-kept", "Result was not kept")
            }
            Self::Redriving => (S::SERVICE_UNAVAILABLE, "redriving", "Redrive under way"),
            Self::Busy => (S::SERVICE_UNAVAILABLE, "ledger-busy", "Ledger busy"),
            Self::QueueFull => (S::SERVICE_UNAVAILABLE, "queue-full", "Queue full"),
            Self::BrokerAway => (S::SERVICE_UNAVAILABLE, "broker-away", "Broker away"),
            Self::DatabaseAway => (S::SERVICE_UNAVAILABLE, "database-away", "Database away"),
            Self::NotSigned(_) => (S::FORBIDDEN, "forbidden", "Forbidden"),
            Self::NoObject => (S::NOT_FOUND, "no-object", "No such object"),
            Self::ObjectTooLarge(_) => (S::PAYLOAD_TOO_LARGE, "body-too-large", "Body too large"),
            Self::ObjectsFull => (S::INSUFFICIENT_STORAGE, "objects-full", "Object store full"),
            Self::ObjectsAway => (S::SERVICE_UNAVAILABLE, "objects-away", "Object store away"),
        }
    }

    fn detail(&self) -> String {
        let text: &str = match self {
            Self::BadRequest(why) | Self::NotSigned(why) => why,
            Self::ObjectTooLarge(bytes_max) => return format!("an object has at most {bytes_max} bytes"),
            Self::Ended(_, status) => return format!("the call has ended already: {status}"),
            Self::NotRepeatable(_, why) => why,
            Self::Failed(_, Some(why)) | Self::TimedOut(_, Some(why)) | Self::Dead(_, Some(why)) => why,
            Self::NotKept(_, Some(bytes)) => {
                return format!(
                    "the answer's body had {bytes} bytes, of which the call's record holds the first"
                );
            }
            Self::NoRoute => "nothing is served at this address",
            Self::MethodNotAllowed => "this address is served, but not for this method",
            Self::NotAllowed => "you may not do this in this namespace",
            Self::NoApp => "no App of this name is known in this namespace",
            Self::NoCall => "this App has no such call, or it is no longer kept",
            Self::NoDurableQueue => "this function has no durable queue, and so no dead letters",
            Self::Running(_) => "a runner has the call; only one that has not begun can be cancelled",
            Self::NotEnded(_) => "the call has not ended yet; one that has can be retried",
            Self::Failed(_, None) => "the function failed and gave no answer",
            Self::TimedOut(_, None) => "the function was not done in time",
            Self::Dead(_, None) => "the call failed as often as it may, and is among the dead letters",
            Self::Cancelled(_) => "the call was cancelled before it began; it has no result",
            Self::NotKept(_, None) => "the call succeeded, and no answer of it was kept",
            Self::MadeRoom(_) => "what was kept of the call had to make room for newer calls of its App",
            Self::Redriving => "dead letters are being put back already; try again when that is done",
            Self::Busy => "this ledger answers as many requests as it may",
            Self::QueueFull => "the function's queue takes no more calls now",
            Self::BrokerAway => "the message broker is away; nothing was sent",
            Self::DatabaseAway => "the ledger's database does not answer",
            Self::NoObject => "no body of this call is kept",
            Self::ObjectsFull => "as many bodies are kept as there is room for, of this App or of all",
            Self::ObjectsAway => "the object store does not answer",
        };
        text.to_owned()
    }

    fn call(&self) -> Option<CallId> {
        match self {
            Self::Running(id)
            | Self::Ended(id, _)
            | Self::NotEnded(id)
            | Self::NotRepeatable(id, _)
            | Self::Failed(id, _)
            | Self::TimedOut(id, _)
            | Self::Dead(id, _)
            | Self::Cancelled(id)
            | Self::NotKept(id, _)
            | Self::MadeRoom(id) => Some(*id),
            _ => None,
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        warn!(error = &error as &dyn std::error::Error, "could not answer a request");
        Self::DatabaseAway
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, slug, title) = self.row();
        let (detail, call) = (self.detail(), self.call());
        let document = Document {
            kind: format!("https://funcatron.dev/problems/{slug}"),
            title,
            status: status.as_u16(),
            detail: &detail,
            message: &detail,
            instance: call.map(|id| id.uuid().urn().to_string()),
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (status, [(CONTENT_TYPE, "application/problem+json")], body).into_response();
        if let Some(id) = call {
            response.headers_mut().insert(FN_CALL_ID, id_value(id));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S);
        }
        response
    }
}

/// A call's id as a header's value.
pub(crate) fn id_value(id: CallId) -> HeaderValue {
    HeaderValue::from_str(&id.to_string()).expect("a UUID is plain ASCII")
}
