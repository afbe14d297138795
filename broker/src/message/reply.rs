//! A reply: what became of a call.
//!
//! Written by an App's runners, which its code may have taken over: never trusted before `user_id` was
//! compared with the user of the call's App.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::envelope::{Envelope, HeaderValue, Headers, Properties};
use crate::message::{
    CallId, DecodeError, EncodeError, WIRE_HEADER, WIRE_VERSION, fields, http_headers, replies,
};

/// AMQP's `type` of a reply.
const KIND: &str = "reply";
/// Headers of ours on a reply.
const OWN_HEADERS: usize = 5;

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The function answered, with this HTTP status.
    Answer(StatusCode),
    /// The function failed, died or answered nonsense.
    Failed,
    /// The function was not done in time.
    TimedOut,
    /// The call came back from a runner that was lost: it may have run.
    RunnerLost,
    /// This runner cannot host the revision.
    NotHere,
    /// The call came too late to be started.
    Expired,
    /// The call was of an unknown wire version, or unreadable.
    BadWire,
}

impl Outcome {
    const OTHERS: [Self; 6] =
        [Self::Failed, Self::TimedOut, Self::RunnerLost, Self::NotHere, Self::Expired, Self::BadWire];

    /// As it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answer(_) => "answer",
            Self::Failed => "failed",
            Self::TimedOut => "timed-out",
            Self::RunnerLost => "runner-lost",
            Self::NotHere => "not-here",
            Self::Expired => "expired",
            Self::BadWire => "bad-wire",
        }
    }

    pub(super) fn read(
        text: &str,
        status: impl FnOnce() -> Result<StatusCode, DecodeError>,
    ) -> Result<Self, DecodeError> {
        if text == "answer" {
            return status().map(Self::Answer);
        }
        let known = Self::OTHERS.into_iter().find(|outcome| outcome.as_str() == text);
        known.ok_or_else(|| fields::invalid("fn-outcome", "no known outcome"))
    }
}

/// What stood where a reply should be, with what is needed to tell its call so.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct Unread {
    /// Why it is no reply.
    pub reason: DecodeError,
    /// The id of the call, where it has a readable one.
    pub id: Option<CallId>,
    /// As a reply's.
    pub user_id: Option<String>,
    /// The attempt, where it can be read.
    pub attempt: Option<u32>,
}

/// The answer to one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The call's id.
    pub id: CallId,
    /// The broker user that sent it, which the broker has checked; absent, nothing was checked.
    pub user_id: Option<String>,
    /// The attempt that this answers.
    pub attempt: u32,
    /// What became of the call.
    pub outcome: Outcome,
    /// The HTTP headers of an answer, `Content-Type` among them.
    pub headers: HeaderMap,
    /// The body of an answer; else a short reason, safe to show.
    pub body: Bytes,
}

impl Reply {
    /// A reply that is no answer, with a short reason that the client may see.
    pub fn without_answer(
        id: CallId,
        user_id: impl Into<String>,
        attempt: u32,
        outcome: Outcome,
        reason: impl Into<Bytes>,
    ) -> Self {
        let user_id = Some(user_id.into());
        Self { id, user_id, attempt, outcome, headers: HeaderMap::new(), body: reason.into() }
    }

    /// Makes it ready to be sent to the reply exchange, with the call's `reply_to` as key.
    pub fn into_envelope(self) -> Result<Envelope, EncodeError> {
        let mut headers = Headers::with_capacity(OWN_HEADERS);
        headers.push(WIRE_HEADER.to_owned(), HeaderValue::Int(WIRE_VERSION));
        headers.push("fn-attempt".to_owned(), HeaderValue::Int(i64::from(self.attempt)));
        headers.push("fn-outcome".to_owned(), self.outcome.as_str().into());
        if let Outcome::Answer(status) = self.outcome {
            headers.push("fn-status".to_owned(), HeaderValue::Int(i64::from(status.as_u16())));
        }
        if let Some(lines) = http_headers::write(&self.headers)? {
            headers.push(http_headers::NAME.to_owned(), lines);
        }
        let content_type = http_headers::content_type(&self.headers).map(str::to_owned);
        let properties = Properties {
            kind: Some(KIND.to_owned()),
            correlation_id: Some(self.id.to_string()),
            content_type,
            user_id: self.user_id,
            ..Properties::default()
        };
        fields::sendable(Envelope { properties, headers, body: self.body })
    }

    /// Reads what came for a gateway: one reply, or several in one message.
    pub fn read_all(envelope: Envelope) -> Vec<Result<Self, Unread>> {
        if envelope.properties.kind.as_deref() == Some(replies::KIND) {
            return replies::read(envelope);
        }
        let id = fields::call_id("correlation-id", envelope.properties.correlation_id.as_deref()).ok();
        let attempt = envelope.headers.get("fn-attempt").and_then(|value| fields::attempt(value).ok());
        let user_id = envelope.properties.user_id.clone();
        vec![Self::from_envelope(envelope).map_err(|reason| Unread { reason, id, user_id, attempt })]
    }

    /// Reads one reply.
    pub(super) fn from_envelope(envelope: Envelope) -> Result<Self, DecodeError> {
        fields::check(&envelope, KIND)?;
        let Envelope { properties, headers, body } = envelope;
        let (mut attempt, mut outcome, mut status, mut http) = (None, None, None, HeaderMap::new());
        for (name, value) in headers {
            match name.as_str() {
                "fn-attempt" => attempt = Some(fields::attempt(&value)?),
                "fn-outcome" => outcome = Some(fields::text(&name, value)?),
                http_headers::NAME => http = http_headers::read(value)?,
                "fn-status" => status = Some(status_code(fields::int(&name, &value)?)?),
                _ => {}
            }
        }
        let outcome = outcome.ok_or(DecodeError::Missing("fn-outcome"))?;
        http_headers::restore_content_type(properties.content_type, &mut http)?;
        Ok(Self {
            id: fields::call_id("correlation-id", properties.correlation_id.as_deref())?,
            user_id: properties.user_id,
            attempt: attempt.ok_or(DecodeError::Missing("fn-attempt"))?,
            outcome: Outcome::read(&outcome, || status.ok_or(DecodeError::Missing("fn-status")))?,
            headers: http,
            body,
        })
    }
}

/// An interim status is no final answer, and hyper refuses what has no three digits.
pub(super) fn status_code(number: i64) -> Result<StatusCode, DecodeError> {
    let code = u16::try_from(number).ok().filter(|code| (200..=599).contains(code));
    let status = code.and_then(|code| StatusCode::from_u16(code).ok());
    status.ok_or_else(|| fields::invalid("fn-status", "not between 200 and 599"))
}
