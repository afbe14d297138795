//! What is kept of an HTTP request and of its answer: within bounds, and without credentials.
//!
//! Never keeps more than it says, and always says when it kept less than there was.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::link::HEADERS_MAX;
use crate::message::{Call, Intent, SpilledBody};
use crate::topology::DELIVERY_LIMIT;

/// Of a body: enough for nearly every JSON request, and four of them fit one AMQP message.
pub const BODY_BYTES_KEPT: usize = 64 * 1024;
/// Of all headers together: more than browsers and proxies send.
const HEADERS_BYTES_KEPT: usize = 16 * 1024;
/// Of a URL: what servers commonly take.
const URL_BYTES_KEPT: usize = 8 * 1024;
/// Of a template's parameters: they are parts of the URL.
const PARAMS_BYTES_KEPT: usize = 8 * 1024;
/// The longest that a Fn lets its calls wait, which its resource bounds.
const AGE_MAX_MS: u64 = 168 * 3_600_000;
/// `sha256:` and its digits.
const DIGEST_BYTES_MAX: usize = 71;
/// What stands in place of a credential.
const REDACTED: &str = "[redacted]";
/// Headers that carry credentials by their definition or by wide use.
const SECRET_HEADERS: [&str; 5] =
    ["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"];
/// Words in a header's name that say what it carries.
const SECRET_WORDS: [&str; 3] = ["token", "secret", "password"];

/// A body, as much of it as is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedBody {
    /// Its first bytes.
    #[serde(rename = "body", default, serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub bytes: Bytes,
    /// How long it was.
    #[serde(default)]
    pub body_bytes: u64,
    /// Whether that is more than is kept here.
    #[serde(default)]
    pub truncated: bool,
    /// Of one that stands whole in the object store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedRequest {
    /// The HTTP method.
    pub method: String,
    /// The absolute URL.
    pub url: String,
    /// Names and values, credentials redacted.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The body.
    #[serde(flatten)]
    pub body: RecordedBody,
    /// Whether headers, URL or parameters were more than is kept.
    #[serde(default)]
    pub cut: bool,
    /// The function's door.
    #[serde(default = "by_http")]
    pub intent: Intent,
    /// The whole timeout of an attempt, in milliseconds.
    #[serde(default)]
    pub timeout: u64,
    /// Attempts at most, where its Fn said so.
    #[serde(default, rename = "maxAttempts", skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// How long it might wait for its end, in milliseconds; absent where somebody waited for it.
    #[serde(default, rename = "maxAge", skip_serializing_if = "Option::is_none")]
    pub age_max_ms: Option<u64>,
    /// The revision that was current when it was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The operation of the OpenAPI document that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The path template that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The template's parameters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedAnswer {
    /// The HTTP status.
    pub status: u16,
    /// Names and values, credentials redacted.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The body.
    #[serde(flatten)]
    pub body: RecordedBody,
    /// Whether the headers were more than is kept.
    #[serde(default)]
    pub cut: bool,
}

impl RecordedBody {
    /// What is kept of a body.
    pub fn of(body: &Bytes) -> Self {
        let kept = body.len().min(BODY_BYTES_KEPT);
        // A copy, so that a small part does not hold a large body in memory.
        let bytes = if kept < body.len() { Bytes::copy_from_slice(&body[..kept]) } else { body.clone() };
        Self { bytes, body_bytes: body.len() as u64, truncated: kept < body.len(), digest: None }
    }

    /// One that is in the object store.
    pub fn spilled(body: &SpilledBody) -> Self {
        let SpilledBody { digest, size, at: _ } = body;
        Self { bytes: Bytes::new(), body_bytes: *size, truncated: true, digest: Some(digest.clone()) }
    }

    /// One that went past whoever tells of it, with its length where that was declared.
    pub fn unkept(length: Option<u64>) -> Self {
        let truncated = length != Some(0);
        Self { bytes: Bytes::new(), body_bytes: length.unwrap_or(0), truncated, digest: None }
    }

    fn bounded(self) -> Self {
        let cut = Self::of(&self.bytes);
        Self {
            truncated: self.truncated || cut.truncated,
            body_bytes: self.body_bytes.max(cut.body_bytes),
            bytes: cut.bytes,
            digest: self.digest.filter(|digest| digest.len() <= DIGEST_BYTES_MAX),
        }
    }
}

impl RecordedRequest {
    /// What is kept of a call.
    pub fn of(call: &Call) -> Self {
        let (headers, cut) = kept_headers(&call.headers);
        let request = Self {
            method: call.method.as_str().to_owned(),
            url: call.url.clone(),
            headers,
            body: call.spilled.as_ref().map_or_else(|| RecordedBody::of(&call.body), RecordedBody::spilled),
            cut,
            intent: call.intent,
            timeout: call.timeout_ms,
            attempts_max: call.attempts_max,
            age_max_ms: age_max_ms(call),
            revision: Some(call.revision.clone()),
            operation: call.operation.clone(),
            template: call.template.clone(),
            params: call.params.iter().cloned().collect(),
        };
        request.bounded()
    }

    /// Within the bounds and without credentials, whoever made it.
    pub(super) fn bounded(mut self) -> Self {
        self.body = self.body.bounded();
        self.cut |= bound_headers(&mut self.headers);
        self.attempts_max = self.attempts_max.map(|attempts| attempts.min(DELIVERY_LIMIT));
        self.age_max_ms = self.age_max_ms.map(|age_ms| age_ms.min(AGE_MAX_MS));
        if self.url.len() > URL_BYTES_KEPT {
            self.url.truncate(self.url.floor_char_boundary(URL_BYTES_KEPT));
            self.cut = true;
        }
        let texts = [&self.revision, &self.operation, &self.template].into_iter().flatten();
        let weight = texts.map(String::len).sum::<usize>()
            + self.params.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if weight > PARAMS_BYTES_KEPT || self.method.len() > PARAMS_BYTES_KEPT {
            (self.revision, self.operation, self.template) = (None, None, None);
            self.params.clear();
            self.method.truncate(self.method.floor_char_boundary(PARAMS_BYTES_KEPT));
            self.cut = true;
        }
        self
    }
}

impl RecordedAnswer {
    /// What is kept of an answer.
    pub fn of(status: http::StatusCode, headers: &HeaderMap, body: &Bytes) -> Self {
        let (headers, cut) = kept_headers(headers);
        Self { status: status.as_u16(), headers, body: RecordedBody::of(body), cut }
    }

    /// Within the bounds and without credentials, whoever made it.
    pub(super) fn bounded(mut self) -> Self {
        self.body = self.body.bounded();
        self.cut |= bound_headers(&mut self.headers);
        self
    }
}

/// Puts `[redacted]` in place of each header that carries a credential by its name. Names may be in any case.
pub fn redact(headers: &mut [(String, String)]) {
    for (name, value) in headers {
        if is_secret(name) {
            REDACTED.clone_into(value);
        }
    }
}

/// Whether a header's value was put in place of a credential.
pub fn is_redacted(value: &[u8]) -> bool {
    value == REDACTED.as_bytes()
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_HEADERS.contains(&name.as_str()) || SECRET_WORDS.iter().any(|word| name.contains(word))
}

fn kept_headers(http: &HeaderMap) -> (Vec<(String, String)>, bool) {
    let texts = http.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let mut headers = texts.collect();
    let cut = bound_headers(&mut headers);
    (headers, cut)
}

/// Redacts, then drops the headers behind the bounds; says whether there were any.
fn bound_headers(headers: &mut Vec<(String, String)>) -> bool {
    redact(headers);
    let mut weight = 0;
    let fits = |(name, value): &&(String, String)| {
        weight += name.len() + value.len();
        weight <= HEADERS_BYTES_KEPT
    };
    let kept = headers.iter().take(HEADERS_MAX).take_while(fits).count();
    let cut = kept < headers.len();
    headers.truncate(kept);
    cut
}

/// The age that a call was given. A call that is not to outlive its gateway has a timeout alone.
fn age_max_ms(call: &Call) -> Option<u64> {
    let submitted_s = call.timestamp_s.filter(|_| call.persistent && call.reply_to.is_none())?;
    let age_ms = call.deadline_ms.checked_sub(submitted_s.checked_mul(1000)?)?;
    // A message has its time in whole seconds, and so has a Fn its age: what is over was lost in the one.
    Some(age_ms / 1000 * 1000).filter(|age_ms| *age_ms > 0)
}

fn by_http() -> Intent {
    Intent::HttpRequest
}

fn to_base64<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD.decode(text).map(Bytes::from).map_err(serde::de::Error::custom)
}
