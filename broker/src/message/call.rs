//! A call: an HTTP request, or an invocation, on its way to a runner.
//!
//! Never carries a secret of the platform's; what the client sent is all there is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::NonZeroU32;

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde::{Deserialize, Serialize};

use crate::envelope::{Envelope, HeaderValue, Headers, Properties};
use crate::link::HEADERS_MAX;
use crate::message::{
    CallId, DecodeError, EncodeError, Offer, SpilledBody, WIRE_HEADER, WIRE_VERSION, WIRE_VERSION_BODY,
    WIRE_VERSION_SPILLED, check_claimant, fields, http_headers,
};

/// AMQP's `type` of a call.
const KIND: &str = "call";
/// The header that says what is called, as JSON: one, since each costs everyone on the way far more than its bytes.
const HEAD: &str = "fn-call";
/// Headers of ours on a call.
const OWN_HEADERS: usize = 3;

/// Attempts at what waits in a durable queue, where nobody says otherwise.
pub const ATTEMPTS_DEFAULT: u32 = 4;

/// How long such a call may wait since it was accepted, where nobody says otherwise: six hours, over an outage of an
/// afternoon and not into the next day's work.
pub const AGE_DEFAULT_MS: u64 = 6 * 3_600_000;

/// Which of its doors a function is entered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// As an HTTP request with method, URL and headers.
    HttpRequest,
    /// Invoked directly: body and content type.
    Invoke,
}

impl Intent {
    /// As it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HttpRequest => "httprequest",
            Self::Invoke => "invoke",
        }
    }
}

/// One call to a function.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Its id; the same on every attempt.
    pub id: CallId,
    /// The reply queue of the gateway that waits; `None` where nobody does.
    pub reply_to: Option<String>,
    /// When nobody waits any more, in Unix milliseconds.
    pub deadline_ms: u64,
    /// The whole timeout, of which the deadline is the end.
    pub timeout_ms: u64,
    /// Milliseconds after which the broker may drop it unstarted.
    pub expiration_ms: Option<u64>,
    /// Unix seconds at which it was sent.
    pub timestamp_s: Option<u64>,
    /// Whether it survives the broker's restart.
    pub persistent: bool,
    /// From 1.
    pub attempt: u32,
    /// In a durable queue: attempts at most; `ATTEMPTS_DEFAULT` where it does not say.
    pub attempts_max: Option<u32>,
    /// In a durable queue, of a call whose id may be published more than once: the nonce of this publication, by which
    /// its runner claims it. Absent, the call is run without asking.
    pub claimant: Option<String>,
    /// The door.
    pub intent: Intent,
    /// The HTTP method.
    pub method: Method,
    /// The absolute URL as the client sees it.
    pub url: String,
    /// The App.
    pub app: String,
    /// The Fn.
    pub fn_name: String,
    /// The revision whose queue it was sent to.
    pub revision: String,
    /// The operation of the OpenAPI document that matched.
    pub operation: Option<String>,
    /// The path template that matched.
    pub template: Option<String>,
    /// The template's parameters, in its order of name.
    pub params: Vec<(String, String)>,
    /// The HTTP headers, `Content-Type` among them.
    pub headers: HeaderMap,
    /// The stream on which its bodies may go past the broker; absent, all goes in messages.
    pub direct: Option<Offer>,
    /// The body, where it is in the object store and not here: of what waits in a durable queue alone.
    pub spilled: Option<SpilledBody>,
    /// The HTTP body.
    pub body: Bytes,
}

/// An envelope that is no call, with what is needed to answer it `bad-wire` nevertheless.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct Undecodable {
    /// Why.
    pub reason: DecodeError,
    /// The id of the call, where it has a readable one.
    pub id: Option<CallId>,
    /// Where the answer goes, where it says so.
    pub reply_to: Option<String>,
    /// The attempt, 1 where it cannot be read.
    pub attempt: u32,
}

/// What stands in `fn-call`.
#[derive(Serialize, Deserialize)]
struct Head<'a> {
    deadline: u64,
    timeout: u64,
    attempt: NonZeroU32,
    #[serde(default, rename = "maxAttempts", skip_serializing_if = "Option::is_none")]
    attempts_max: Option<u32>,
    #[serde(default, rename = "claim", skip_serializing_if = "Option::is_none")]
    claimant: Option<Cow<'a, str>>,
    intent: Intent,
    method: Cow<'a, str>,
    url: Cow<'a, str>,
    app: Cow<'a, str>,
    #[serde(rename = "fn")]
    fn_name: Cow<'a, str>,
    revision: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operation: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    template: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    params: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    direct: Option<Cow<'a, Offer>>,
    #[serde(default, rename = "body", skip_serializing_if = "Option::is_none")]
    spilled: Option<Cow<'a, SpilledBody>>,
}

/// What is read of a head that makes no sense as a whole.
#[derive(Deserialize)]
struct AttemptOnly {
    attempt: NonZeroU32,
}

impl Call {
    /// Makes it ready to be sent.
    pub fn to_envelope(&self) -> Result<Envelope, EncodeError> {
        let mut headers = Headers::with_capacity(OWN_HEADERS);
        headers.push(WIRE_HEADER.to_owned(), HeaderValue::Int(self.version()));
        headers.push(HEAD.to_owned(), HeaderValue::Text(self.head()));
        if let Some(lines) = http_headers::write(&self.headers)? {
            headers.push(http_headers::NAME.to_owned(), lines);
        }
        let properties = Properties {
            kind: Some(KIND.to_owned()),
            message_id: Some(self.id.to_string()),
            reply_to: self.reply_to.clone(),
            content_type: http_headers::content_type(&self.headers).map(str::to_owned),
            expiration_ms: self.expiration_ms,
            timestamp_s: self.timestamp_s,
            persistent: self.persistent,
            ..Properties::default()
        };
        fields::sendable(Envelope { properties, headers, body: self.body.clone() })
    }

    fn version(&self) -> i64 {
        if self.spilled.is_some() {
            return WIRE_VERSION_SPILLED;
        }
        let streams = self.direct.as_ref().is_some_and(|offer| offer.body);
        if streams { WIRE_VERSION_BODY } else { WIRE_VERSION }
    }

    fn head(&self) -> String {
        let params = self.params.iter();
        let head = Head {
            deadline: self.deadline_ms,
            timeout: self.timeout_ms,
            attempt: NonZeroU32::new(self.attempt).unwrap_or(NonZeroU32::MIN),
            attempts_max: self.attempts_max,
            claimant: self.claimant.as_deref().map(Cow::from),
            intent: self.intent,
            method: self.method.as_str().into(),
            url: self.url.as_str().into(),
            app: self.app.as_str().into(),
            fn_name: self.fn_name.as_str().into(),
            revision: self.revision.as_str().into(),
            operation: self.operation.as_deref().map(Cow::from),
            template: self.template.as_deref().map(Cow::from),
            params: params.map(|(name, value)| (name.into(), value.into())).collect(),
            direct: self.direct.as_ref().map(Cow::Borrowed),
            spilled: self.spilled.as_ref().map(Cow::Borrowed),
        };
        serde_json::to_string(&head).expect("text and numbers are JSON")
    }

    /// Reads a call; one that cannot be read says where to answer that.
    pub fn from_envelope(mut envelope: Envelope) -> Result<Self, Box<Undecodable>> {
        let head = envelope.headers.remove(HEAD);
        let (message_id, reply_to) = (&envelope.properties.message_id, &envelope.properties.reply_to);
        let id = fields::call_id("message-id", message_id.as_deref()).ok();
        let reply_to = reply_to.clone();
        Self::read(envelope, head.as_ref()).map_err(|reason| {
            let attempt = head.as_ref().map_or(1, attempt_of);
            Box::new(Undecodable { reason, id, reply_to, attempt })
        })
    }

    /// The attempt that a message is of, if it is a call.
    pub fn attempt_of(envelope: &Envelope) -> Option<u32> {
        envelope.headers.get(HEAD).map(attempt_of)
    }

    fn read(envelope: Envelope, head: Option<&HeaderValue>) -> Result<Self, DecodeError> {
        fields::check_versions(&envelope, KIND, &[WIRE_VERSION, WIRE_VERSION_BODY, WIRE_VERSION_SPILLED])?;
        let is_spilled = envelope.headers.int(WIRE_HEADER) == Some(WIRE_VERSION_SPILLED);
        let Envelope { properties, mut headers, body } = envelope;
        let head: Head<'_> = match head {
            Some(HeaderValue::Text(json)) => serde_json::from_str(json)
                .map_err(|error| fields::invalid(HEAD, fields::reason(&error.to_string())))?,
            Some(other) => return Err(fields::wrong_type(HEAD, "text", other)),
            None => return Err(DecodeError::Missing(HEAD)),
        };
        let mut http = headers.remove(http_headers::NAME).map_or(Ok(HeaderMap::new()), http_headers::read)?;
        http_headers::restore_content_type(properties.content_type, &mut http)?;
        let method = Method::from_bytes(head.method.as_bytes())
            .map_err(|_| fields::invalid(HEAD, "method is not an HTTP method"))?;
        if head.params.len() > HEADERS_MAX {
            return Err(DecodeError::TooMany(head.params.len()));
        }
        if is_spilled && head.spilled.is_none() {
            return Err(fields::invalid(HEAD, "body is missing"));
        }
        head.claimant.as_deref().map_or(Ok(()), check_claimant)?;
        let params = head.params.into_iter();
        Ok(Self {
            id: fields::call_id("message-id", properties.message_id.as_deref())?,
            reply_to: properties.reply_to,
            deadline_ms: head.deadline,
            timeout_ms: head.timeout,
            expiration_ms: properties.expiration_ms,
            timestamp_s: properties.timestamp_s,
            persistent: properties.persistent,
            attempt: head.attempt.get(),
            attempts_max: head.attempts_max,
            claimant: head.claimant.map(Cow::into_owned),
            intent: head.intent,
            method,
            url: head.url.into_owned(),
            app: head.app.into_owned(),
            fn_name: head.fn_name.into_owned(),
            revision: head.revision.into_owned(),
            operation: head.operation.map(Cow::into_owned),
            template: head.template.map(Cow::into_owned),
            params: params.map(|(name, value)| (name.into_owned(), value.into_owned())).collect(),
            headers: http,
            direct: head.direct.map(Cow::into_owned),
            spilled: head.spilled.map(Cow::into_owned),
            body,
        })
    }
}

fn attempt_of(head: &HeaderValue) -> u32 {
    let HeaderValue::Text(json) = head else { return 1 };
    serde_json::from_str(json).map_or(1, |AttemptOnly { attempt }| attempt.get())
}
