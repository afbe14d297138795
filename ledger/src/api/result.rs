//! A call's result: the function's own answer where there is one, else why there is none.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use funcatron_broker::message::{CallId, RecordedAnswer, is_redacted};
use http::header::{self, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, StatusCode};

use super::document;
use super::problem::{FN_CALL_ID, Problem, RETRY_AFTER_S, id_value};
use crate::state::Status;
use crate::store::Call;

/// Where the call stands, beside the function's own headers.
const FN_CALL_STATUS: HeaderName = HeaderName::from_static("fn-call-status");
/// Headers that speak of a connection or of a body's form on it (RFC 9110, section 7.6.1): this one has its own.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The answer to whoever asks for the result; each says how the call stands.
pub(crate) fn result(call: Call) -> Response {
    let (id, status) = (call.state.id, call.state.status);
    let mut response = own(call).unwrap_or_else(IntoResponse::into_response);
    let headers = response.headers_mut();
    headers.insert(FN_CALL_ID, id_value(id));
    headers.insert(FN_CALL_STATUS, HeaderValue::from_static(status.as_str()));
    response
}

/// The function's last answer, however its call ended; without one, why.
fn own(call: Call) -> Result<Response, Problem> {
    let (id, status, reason) = (call.state.id, call.state.status, call.state.reason.clone());
    match (status, call.answer) {
        (Status::Queued | Status::Running, answer) => Ok(waiting(Call { answer, ..call })),
        (Status::Cancelled, _) => Err(Problem::Cancelled(id)),
        (_, Some(answer)) => replay(id, answer),
        (_, None) if call.is_trimmed => Err(Problem::MadeRoom(id)),
        (Status::Dead, None) => Err(Problem::Dead(id, reason)),
        (Status::Timeout, None) => Err(Problem::TimedOut(id, reason)),
        (Status::Error, None) => Err(Problem::Failed(id, reason)),
        (Status::Success, None) => Err(Problem::NotKept(id, None)),
    }
}

/// Not yet: come again.
fn waiting(call: Call) -> Response {
    let mut response = document::whole(StatusCode::ACCEPTED, call, Vec::new());
    response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S);
    response
}

/// The function's own status, headers and body. A part of a body is not passed off as the whole.
fn replay(id: CallId, answer: RecordedAnswer) -> Result<Response, Problem> {
    let RecordedAnswer { status, headers, body, cut: _ } = answer;
    if body.truncated {
        return Err(Problem::NotKept(id, Some(body.body_bytes)));
    }
    let Ok(status) = StatusCode::from_u16(status) else { return Err(Problem::NotKept(id, None)) };
    let mut response = (status, Body::from(body.bytes)).into_response();
    response.headers_mut().remove(CONTENT_TYPE);
    for (name, value) in headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            continue;
        };
        if !HOP_BY_HOP.contains(&name) && !is_redacted(value.as_bytes()) {
            response.headers_mut().append(name, value);
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{CallState, Tells};

    #[test]
    fn what_had_to_make_room_is_not_said_to_be_the_functions_failure() {
        let state = CallState {
            id: CallId::fresh(),
            namespace: "team-a".into(),
            app: "shop".into(),
            fn_name: "mail".into(),
            status: Status::Queued,
            source: None,
            retry_of: None,
            submitted_ms: 1,
            started_ms: None,
            completed_ms: None,
            heard_ms: 1,
            attempts: 0,
            started_attempt: 0,
            failed_attempt: 0,
            answer_attempt: 0,
            revision: None,
            runner: None,
            reason: None,
            tells: Tells::Unknown,
        };
        for status in [Status::Success, Status::Error, Status::Timeout, Status::Dead] {
            let state = CallState { status, ..state.clone() };
            let id = state.id;
            let call = Call { number: 1, state, request: None, answer: None, is_trimmed: true };
            assert_eq!(own(call).unwrap_err(), Problem::MadeRoom(id));
        }
    }
}
