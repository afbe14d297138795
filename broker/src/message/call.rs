//! A call: an HTTP request, or an invocation, on its way to a runner.
//!
//! Never carries a secret of the platform's; what the client sent is all there is.

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::envelope::{Envelope, HeaderValue, Headers, Properties};
use crate::message::{CallId, DecodeError, EncodeError, WIRE_HEADER, WIRE_VERSION, fields, http_headers};

/// AMQP's `type` of a call.
const KIND: &str = "call";
/// Headers of ours on a call, for the first allocation.
const OWN_HEADERS: usize = 13;

/// Which of its doors a function is entered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    fn parse(text: &str) -> Option<Self> {
        [Self::HttpRequest, Self::Invoke].into_iter().find(|intent| intent.as_str() == text)
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

impl Call {
    /// Makes it ready to be sent.
    pub fn into_envelope(self) -> Result<Envelope, EncodeError> {
        let mut http = self.headers;
        let content_type = http_headers::take_content_type(&mut http);
        let mut headers = Headers::with_capacity(OWN_HEADERS + http.keys_len());
        let mut put = |name: &str, value: HeaderValue| headers.push(name.to_owned(), value);
        put(WIRE_HEADER, HeaderValue::Int(WIRE_VERSION));
        put("fn-deadline", wire_int(self.deadline_ms));
        put("fn-timeout", wire_int(self.timeout_ms));
        put("fn-attempt", HeaderValue::Int(i64::from(self.attempt)));
        put("fn-intent", self.intent.as_str().into());
        put("fn-method", self.method.as_str().into());
        put("fn-url", self.url.into());
        put("fn-app", self.app.into());
        put("fn-name", self.fn_name.into());
        put("fn-revision", self.revision.into());
        if let Some(operation) = self.operation {
            put("fn-operation", operation.into());
        }
        if let Some(template) = self.template {
            put("fn-template", template.into());
        }
        if !self.params.is_empty() {
            let params = self.params.into_iter().map(|(name, value)| (name, HeaderValue::Text(value)));
            put("fn-params", HeaderValue::Table(params.collect()));
        }
        http_headers::write(&http, &mut headers);
        let properties = Properties {
            kind: Some(KIND.to_owned()),
            message_id: Some(self.id.to_string()),
            correlation_id: None,
            reply_to: self.reply_to,
            content_type,
            user_id: None,
            expiration_ms: self.expiration_ms,
            timestamp_s: self.timestamp_s,
            persistent: self.persistent,
        };
        fields::sendable(Envelope { properties, headers, body: self.body })
    }

    /// Reads a call; one that cannot be read says where to answer that.
    pub fn from_envelope(envelope: Envelope) -> Result<Self, Box<Undecodable>> {
        let id = fields::call_id("message-id", envelope.properties.message_id.as_deref()).ok();
        let attempt = envelope.headers.get("fn-attempt").and_then(|value| fields::attempt(value).ok());
        let reply_to = envelope.properties.reply_to.clone();
        Self::read(envelope)
            .map_err(|reason| Box::new(Undecodable { reason, id, reply_to, attempt: attempt.unwrap_or(1) }))
    }

    fn read(envelope: Envelope) -> Result<Self, DecodeError> {
        fields::check(&envelope, KIND)?;
        let Envelope { properties, headers, body } = envelope;
        let mut partial = Partial::default();
        for (name, value) in headers {
            partial.take(&name, value)?;
        }
        partial.finish(properties, body)
    }
}

/// Beyond 2^63 there is no date to speak of; the cap keeps the encoding total.
fn wire_int(number: u64) -> HeaderValue {
    HeaderValue::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

/// A call while its headers are being read, in one pass and without a copy.
#[derive(Default)]
struct Partial {
    deadline_ms: Option<u64>,
    timeout_ms: Option<u64>,
    attempt: Option<u32>,
    intent: Option<Intent>,
    method: Option<Method>,
    url: Option<String>,
    app: Option<String>,
    fn_name: Option<String>,
    revision: Option<String>,
    operation: Option<String>,
    template: Option<String>,
    params: Vec<(String, String)>,
    headers: HeaderMap,
}

impl Partial {
    fn take(&mut self, name: &str, value: HeaderValue) -> Result<(), DecodeError> {
        if let Some(http) = name.strip_prefix(http_headers::PREFIX) {
            return http_headers::read(http, value, &mut self.headers);
        }
        match name {
            "fn-deadline" => self.deadline_ms = Some(fields::unsigned(name, &value)?),
            "fn-timeout" => self.timeout_ms = Some(fields::unsigned(name, &value)?),
            "fn-attempt" => self.attempt = Some(fields::attempt(&value)?),
            "fn-intent" => self.intent = Some(intent(&fields::text(name, value)?)?),
            "fn-method" => self.method = Some(method(&fields::text(name, value)?)?),
            "fn-url" => self.url = Some(fields::text(name, value)?),
            "fn-app" => self.app = Some(fields::text(name, value)?),
            "fn-name" => self.fn_name = Some(fields::text(name, value)?),
            "fn-revision" => self.revision = Some(fields::text(name, value)?),
            "fn-operation" => self.operation = Some(fields::text(name, value)?),
            "fn-template" => self.template = Some(fields::text(name, value)?),
            "fn-params" => self.params = fields::texts(name, value)?,
            // A newer minor version, the broker or a plugin may add what is not known here.
            _ => {}
        }
        Ok(())
    }

    fn finish(self, properties: Properties, body: Bytes) -> Result<Call, DecodeError> {
        let Properties {
            kind: _,
            message_id,
            correlation_id: _,
            reply_to,
            content_type,
            user_id: _,
            expiration_ms,
            timestamp_s,
            persistent,
        } = properties;
        let mut headers = self.headers;
        http_headers::restore_content_type(content_type, &mut headers)?;
        Ok(Call {
            id: fields::call_id("message-id", message_id.as_deref())?,
            reply_to,
            deadline_ms: self.deadline_ms.ok_or(DecodeError::Missing("fn-deadline"))?,
            timeout_ms: self.timeout_ms.ok_or(DecodeError::Missing("fn-timeout"))?,
            expiration_ms,
            timestamp_s,
            persistent,
            attempt: self.attempt.ok_or(DecodeError::Missing("fn-attempt"))?,
            intent: self.intent.ok_or(DecodeError::Missing("fn-intent"))?,
            method: self.method.ok_or(DecodeError::Missing("fn-method"))?,
            url: self.url.ok_or(DecodeError::Missing("fn-url"))?,
            app: self.app.ok_or(DecodeError::Missing("fn-app"))?,
            fn_name: self.fn_name.ok_or(DecodeError::Missing("fn-name"))?,
            revision: self.revision.ok_or(DecodeError::Missing("fn-revision"))?,
            operation: self.operation,
            template: self.template,
            params: self.params,
            headers,
            body,
        })
    }
}

fn intent(text: &str) -> Result<Intent, DecodeError> {
    Intent::parse(text).ok_or_else(|| fields::invalid("fn-intent", "neither httprequest nor invoke"))
}

fn method(text: &str) -> Result<Method, DecodeError> {
    Method::from_bytes(text.as_bytes()).map_err(|_| fields::invalid("fn-method", "not an HTTP method"))
}
