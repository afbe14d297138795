//! What the producer of an event is told once nothing follows, where it has asked by `reply_to`.
//!
//! A message for anybody's client, not one between our parts: it has no wire version, so that it is an event again
//! where it comes into a Fn's queue. Never performs I/O.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue as HttpValue, StatusCode};
use serde::Serialize;

use crate::envelope::{Envelope, HeaderValue, Headers, Properties};
use crate::message::{EncodeError, Outcome, cloud_events, fields, http_headers};

/// AMQP's `type` of such a message.
const KIND: &str = "event-reply";
const PROBLEM_JSON: HttpValue = HttpValue::from_static("application/problem+json");
/// A reason is a tenant's text: no longer than a log line.
const DETAIL_CHARS_MAX: usize = 1024;

/// What became of an event.
#[derive(Debug, Clone, PartialEq)]
pub struct EventReply {
    /// The App's user, which the broker checks.
    pub user_id: String,
    /// The event's `correlation-id`, or its `message-id` where it has none.
    pub correlation_id: Option<String>,
    /// What its last attempt came to.
    pub outcome: Outcome,
    /// Whether it was given up, and is a dead letter.
    pub has_failed: bool,
    /// The HTTP headers of an answer.
    pub headers: HeaderMap,
    /// The body of an answer; else a short reason, safe to show.
    pub body: Bytes,
}

#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    message: &'a str,
}

impl EventReply {
    /// Makes it ready to be sent to the App's exchange for such replies. An answer that is a CloudEvent stays one, in
    /// binary mode; what is no answer becomes a problem document.
    pub fn into_envelope(self) -> Result<Envelope, EncodeError> {
        let Self { user_id, correlation_id, outcome, has_failed, headers: mut http, mut body } = self;
        let status = status_of(outcome);
        if !matches!(outcome, Outcome::Answer(_)) {
            http = HeaderMap::from_iter([(CONTENT_TYPE, PROBLEM_JSON)]);
            body = problem(outcome, status, &body);
        }
        let mut headers = Headers::default();
        headers.insert("fn-outcome", outcome.as_str());
        headers.insert("fn-status", i64::from(status.as_u16()));
        headers.insert("fn-failed", HeaderValue::Bool(has_failed));
        cloud_events::put_attributes(&mut http, &mut headers);
        if let Some(lines) = http_headers::write(&http)? {
            headers.insert(http_headers::NAME, lines);
        }
        let properties = Properties {
            kind: Some(KIND.to_owned()),
            correlation_id,
            content_type: http_headers::content_type(&http).map(str::to_owned),
            user_id: Some(user_id),
            persistent: true,
            ..Properties::default()
        };
        fields::sendable(Envelope { properties, headers, body })
    }

    /// The same event's reply where its answer cannot be carried.
    #[must_use]
    pub fn not_carried(self, why: &str) -> Self {
        let body = format!("the function's answer cannot be carried: {why}").into();
        Self { outcome: Outcome::Failed, headers: HeaderMap::new(), body, ..self }
    }
}

/// The status that a gateway would answer.
fn status_of(outcome: Outcome) -> StatusCode {
    match outcome {
        Outcome::Answer(status) => status,
        Outcome::TimedOut | Outcome::Expired => StatusCode::GATEWAY_TIMEOUT,
        Outcome::NotHere => StatusCode::SERVICE_UNAVAILABLE,
        Outcome::Failed | Outcome::RunnerLost | Outcome::BadWire => StatusCode::BAD_GATEWAY,
    }
}

/// A gateway's words for the same.
fn problem(outcome: Outcome, status: StatusCode, reason: &Bytes) -> Bytes {
    let (slug, title) = match outcome {
        Outcome::TimedOut | Outcome::Expired => ("deadline-passed", "Deadline passed"),
        Outcome::RunnerLost => ("runner-lost", "Runner lost"),
        Outcome::NotHere => ("not-hosted", "Revision not hosted"),
        Outcome::BadWire => ("bad-wire", "Wire version not spoken"),
        Outcome::Failed | Outcome::Answer(_) => ("function-failed", "Function failed"),
    };
    let detail: String = String::from_utf8_lossy(reason).chars().take(DETAIL_CHARS_MAX).collect();
    let kind = format!("https://funcatron.dev/problems/{slug}");
    let document = Problem { kind, title, status: status.as_u16(), detail: &detail, message: &detail };
    // Texts and a number are always JSON.
    serde_json::to_vec(&document).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(outcome: Outcome, headers: &[(&'static str, &'static str)]) -> EventReply {
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HttpValue::from_static(value)));
        EventReply {
            user_id: "i.team-a.shop".to_owned(),
            correlation_id: Some("c".to_owned()),
            outcome,
            has_failed: false,
            headers: headers.collect(),
            body: Bytes::from_static(b"words"),
        }
    }

    #[test]
    fn an_answer_is_told_as_it_is() {
        let headers = [("content-type", "text/x"), ("location", "/orders/7"), ("ce-id", "no event")];
        let sent = reply(Outcome::Answer(StatusCode::CREATED), &headers).into_envelope().unwrap();
        let Envelope { properties, headers, body } = sent;
        assert_eq!(properties.kind.as_deref(), Some("event-reply"));
        assert_eq!(properties.correlation_id.as_deref(), Some("c"));
        assert_eq!(properties.user_id.as_deref(), Some("i.team-a.shop"));
        assert_eq!(properties.content_type.as_deref(), Some("text/x"));
        assert_eq!((headers.text("fn-outcome"), headers.int("fn-status")), (Some("answer"), Some(201)));
        assert_eq!(headers.get("fn-failed"), Some(&HeaderValue::Bool(false)));
        assert_eq!(headers.text("fn-headers"), Some("location: /orders/7\r\nce-id: no event\r\n\r\n"));
        assert_eq!(body, "words");
    }

    #[test]
    fn an_answer_that_is_a_cloud_event_stays_one() {
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "/mail"),
            ("ce-type", "sent"),
            ("content-type", "application/json"),
        ];
        let sent = reply(Outcome::Answer(StatusCode::OK), &headers).into_envelope().unwrap();
        assert_eq!(sent.headers.text("cloudEvents:type"), Some("sent"));
        assert_eq!(sent.headers.get("fn-headers"), None);
        assert_eq!(sent.properties.content_type.as_deref(), Some("application/json"));
    }

    #[test]
    fn what_is_no_answer_is_a_problem_that_says_why() {
        for (outcome, status, slug) in [
            (Outcome::Failed, 502, "function-failed"),
            (Outcome::TimedOut, 504, "deadline-passed"),
            (Outcome::RunnerLost, 502, "runner-lost"),
        ] {
            let sent = EventReply { has_failed: true, ..reply(outcome, &[]) }.into_envelope().unwrap();
            assert_eq!(sent.properties.content_type.as_deref(), Some("application/problem+json"));
            assert_eq!(sent.headers.text("fn-outcome"), Some(outcome.as_str()));
            assert_eq!(sent.headers.get("fn-failed"), Some(&HeaderValue::Bool(true)));
            let problem: serde_json::Value = serde_json::from_slice(&sent.body).unwrap();
            assert_eq!(problem["status"], status);
            assert_eq!(problem["type"], format!("https://funcatron.dev/problems/{slug}"));
            assert_eq!((&problem["detail"], &problem["message"]), (&"words".into(), &"words".into()));
        }
    }

    #[test]
    fn a_reply_comes_back_into_a_queue_as_an_event() {
        let sent = reply(Outcome::Failed, &[]).into_envelope().unwrap();
        assert!(!crate::message::is_ours(&sent));
    }

    #[test]
    fn an_answer_that_no_message_can_carry_is_told_as_such() {
        let large: HeaderMap = (0..100)
            .map(|n| {
                (
                    http::HeaderName::try_from(format!("x-{n}")).unwrap(),
                    HttpValue::try_from("v".repeat(1200)).unwrap(),
                )
            })
            .collect();
        let answer = EventReply { headers: large, ..reply(Outcome::Answer(StatusCode::OK), &[]) };
        let why = answer.clone().into_envelope().unwrap_err().to_string();
        let told = answer.not_carried(&why).into_envelope().unwrap();
        assert_eq!(told.headers.text("fn-outcome"), Some("failed"));
        assert!(String::from_utf8_lossy(&told.body).contains("98304"));
    }
}
