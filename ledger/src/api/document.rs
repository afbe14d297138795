//! Calls as JSON. Times are RFC 3339 in UTC.

use axum::response::{IntoResponse, Response};
use funcatron_broker::message::{RecordedAnswer, RecordedRequest, Source};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;

use crate::state::{CallState, CallbackKind};
use crate::store::{Call, ShownCallback};

/// A call without its request and answer, as lists have it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    id: String,
    number: u64,
    namespace: String,
    app: String,
    #[serde(rename = "fn")]
    fn_name: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_of: Option<String>,
    submitted: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<RecordedRequest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<RecordedAnswer>,
    /// Said where it is so.
    #[serde(skip_serializing_if = "is_false")]
    trimmed: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    callbacks: Vec<Callback>,
}

/// Who was told the call's end.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Callback {
    kind: &'static str,
    target: String,
    status: &'static str,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    at: String,
}

/// A page of a list.
#[derive(Serialize)]
pub(crate) struct List {
    pub(crate) calls: Vec<Summary>,
    /// Where the next page is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

impl Summary {
    pub(crate) fn of(number: u64, state: CallState) -> Self {
        Self {
            id: state.id.to_string(),
            number,
            namespace: state.namespace,
            app: state.app,
            fn_name: state.fn_name,
            status: state.status.as_str(),
            source: state.source,
            retry_of: state.retry_of.map(|id| id.to_string()),
            submitted: time(state.submitted_ms),
            started: state.started_ms.map(time),
            completed: state.completed_ms.map(time),
            attempts: state.attempts,
            revision: state.revision,
            runner: state.runner,
            reason: state.reason,
        }
    }
}

/// A whole call.
pub(crate) fn whole(status: StatusCode, call: Call, callbacks: Vec<ShownCallback>) -> Response {
    json(status, &Whole::of(call, callbacks))
}

/// What a callback tells of a call: its end, and not what was asked for, which is the caller's.
pub(crate) fn end(call: Call) -> serde_json::Value {
    let told = Whole::of(Call { request: None, ..call }, Vec::new());
    serde_json::to_value(&told).expect("texts and numbers are JSON")
}

impl Whole {
    fn of(call: Call, callbacks: Vec<ShownCallback>) -> Self {
        let Call { number, state, request, answer, is_trimmed: trimmed } = call;
        let callbacks = callbacks.into_iter().map(Callback::of).collect();
        Self { summary: Summary::of(number, state), request, answer, trimmed, callbacks }
    }
}

impl Callback {
    fn of(shown: ShownCallback) -> Self {
        let ShownCallback { kind, target, status, attempts, last_error, at_ms } = shown;
        let kind = match kind {
            CallbackKind::Success => "onSuccess",
            CallbackKind::Failure => "onFailure",
        };
        Self { kind, target, status: status.as_str(), attempts, last_error, at: time(at_ms) }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    let body = serde_json::to_vec(value).expect("texts and numbers are JSON");
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

/// RFC 3339, in UTC.
pub(crate) fn time(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    // What is beyond all dates is shown as the last one: no clock of ours says it.
    jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX).to_string()
}
