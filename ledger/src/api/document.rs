//! Calls as JSON. Times are RFC 3339 in UTC.

use axum::response::{IntoResponse, Response};
use funcatron_broker::message::{RecordedAnswer, RecordedRequest, Source};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;

use crate::state::CallState;
use crate::store::Call;

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
pub(crate) fn whole(status: StatusCode, call: Call) -> Response {
    let Call { number, state, request, answer, is_trimmed: trimmed } = call;
    json(status, &Whole { summary: Summary::of(number, state), request, answer, trimmed })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    let body = serde_json::to_vec(value).expect("texts and numbers are JSON");
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

fn time(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    // What is beyond all dates is shown as the last one: no clock of ours says it.
    jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX).to_string()
}
