//! A message as the request that a function of Fn's contract gets, and what the platform says in any. Pure.

use bytes::Bytes;
use funcatron_broker::link::{Envelope, HeaderValue as AmqpValue};
use funcatron_broker::message::{Call, CallId, Intent, cloud_events};
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body_util::Full;
use jiff::Timestamp;

use super::contract::Through;

const CALL_ID: HeaderName = HeaderName::from_static("fn-call-id");
const DEADLINE: HeaderName = HeaderName::from_static("fn-deadline");
const INTENT: HeaderName = HeaderName::from_static("fn-intent");
const ATTEMPT: HeaderName = HeaderName::from_static("fn-attempt");
const HTTP_METHOD: HeaderName = HeaderName::from_static("fn-http-method");
const REQUEST_URL: HeaderName = HeaderName::from_static("fn-http-request-url");
const OPERATION_ID: HeaderName = HeaderName::from_static("fn-operation-id");
const ROUTE_TEMPLATE: HeaderName = HeaderName::from_static("fn-route-template");
const PATH_PARAMS: HeaderName = HeaderName::from_static("fn-path-params");
const EXCHANGE: HeaderName = HeaderName::from_static("fn-exchange");
const ROUTING_KEY: HeaderName = HeaderName::from_static("fn-routing-key");
/// Where Fn's functions take every call.
const CALL: &str = "/call";
/// What stands before each of the client's headers.
pub(super) const HTTP_PREFIX: &str = "fn-http-h-";
/// What stands before each of an event's headers.
const AMQP_PREFIX: &str = "fn-amqp-h-";
/// A Unix socket has no host, and neither has an event; HTTP/1.1 wants one.
const LOCALHOST: HeaderValue = HeaderValue::from_static("localhost");
/// Headers about one connection, which end with it (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    CONTENT_LENGTH,
];

/// Whether a header speaks of its connection, or of the framing, which each connection does for itself.
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
}

/// Whether a header is the platform's to say, and nobody else's.
pub(super) fn is_platforms(name: &HeaderName) -> bool {
    name.as_str().starts_with("fn-")
}

/// The request of a call. `attempt` and `deadline_ms` are this attempt's.
pub(super) fn of_call(call: Call, attempt: u32, deadline_ms: u64) -> Request<Full<Bytes>> {
    let mut own = call_headers(&call, attempt, deadline_ms);
    let Call { intent, method, url, headers, body, .. } = call;
    match intent {
        Intent::HttpRequest => {
            put(&mut own, HTTP_METHOD, Some(method.as_str()));
            put(&mut own, REQUEST_URL, Some(&url));
            take_prefixed(&mut own, headers);
        }
        Intent::Invoke => take_plain(&mut own, headers),
    }
    build(Method::POST, Uri::from_static(CALL), own, body)
}

/// The request of an event.
pub(super) fn of_event(
    event: Envelope,
    through: Through<'_>,
    attempt: u32,
    deadline_ms: u64,
) -> Request<Full<Bytes>> {
    let (own, body) = event_headers(event, through, attempt, deadline_ms);
    build(Method::POST, Uri::from_static(CALL), own, body)
}

/// What the platform says of a call.
pub(super) fn call_headers(call: &Call, attempt: u32, deadline_ms: u64) -> HeaderMap {
    let Call { id, intent, operation, template, params, headers, .. } = call;
    let mut own = own_headers(*id, intent.as_str(), attempt, deadline_ms, headers.len());
    put(&mut own, OPERATION_ID, operation.as_deref());
    put(&mut own, ROUTE_TEMPLATE, template.as_deref());
    if !params.is_empty() {
        put(&mut own, PATH_PARAMS, Some(&ascii_json(params)));
    }
    own
}

/// What the platform says of an event, and the event's body.
pub(super) fn event_headers(
    event: Envelope,
    through: Through<'_>,
    attempt: u32,
    deadline_ms: u64,
) -> (HeaderMap, Bytes) {
    let Envelope { properties, mut headers, body } = event;
    let Through { exchange, routing_key } = through;
    let id = properties.message_id.as_deref().and_then(|id| id.parse().ok()).unwrap_or_else(CallId::fresh);
    let mut own = own_headers(id, "event", attempt, deadline_ms, headers.len());
    put(&mut own, EXCHANGE, Some(exchange));
    put(&mut own, ROUTING_KEY, Some(routing_key));
    own.extend(cloud_events::take_attributes(&mut headers));
    put(&mut own, CONTENT_TYPE, properties.content_type.as_deref());
    for (name, value) in headers.iter() {
        if let (AmqpValue::Text(text), Some(name)) = (value, prefixed(AMQP_PREFIX, name)) {
            put(&mut own, name, Some(text));
        }
    }
    (own, body)
}

fn own_headers(id: CallId, intent: &'static str, attempt: u32, deadline_ms: u64, others: usize) -> HeaderMap {
    let mut own = HeaderMap::with_capacity(others + 12);
    own.insert(HOST, LOCALHOST);
    put(&mut own, CALL_ID, Some(&id.to_string()));
    put(&mut own, DEADLINE, Some(&rfc3339(deadline_ms)));
    own.insert(INTENT, HeaderValue::from_static(intent));
    own.insert(ATTEMPT, HeaderValue::from(attempt));
    own
}

/// A request of HTTP/1.1.
pub(super) fn build(method: Method, target: Uri, headers: HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = target;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    request
}

/// The client's headers for a function that sees HTTP: each under a prefix but the content type. Repeated ones are
/// joined, since function libraries keep but the last.
fn take_prefixed(own: &mut HeaderMap, mut headers: HeaderMap) {
    if let Some(content_type) = headers.remove(CONTENT_TYPE) {
        own.insert(CONTENT_TYPE, content_type);
    }
    for name in headers.keys() {
        let Some(prefixed) = prefixed(HTTP_PREFIX, name.as_str()) else { continue };
        let mut values = headers.get_all(name).iter();
        let (first, more) = (values.next(), values.next().is_some());
        let value = if more { joined(&headers, name) } else { first.cloned() };
        if let Some(value) = value {
            own.insert(prefixed, value);
        }
    }
}

/// All values as one, by RFC 9110, 5.3; cookies by RFC 6265, 5.4.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let separator: &[u8] = if *name == COOKIE { b"; " } else { b", " };
    let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&values.join(separator)).ok()
}

/// The caller's headers for a function that is invoked: as they came, but none that is the platform's to say.
fn take_plain(own: &mut HeaderMap, headers: HeaderMap) {
    each(headers, |name, value| {
        if !is_hop_by_hop(name) && *name != HOST && !is_platforms(name) {
            own.append(name.clone(), value);
        }
    });
}

/// A header map hands out each name once, then further values without.
pub(super) fn each(headers: HeaderMap, mut take: impl FnMut(&HeaderName, HeaderValue)) {
    let mut last = None;
    for (name, value) in headers {
        last = name.or(last);
        if let Some(name) = &last {
            take(name, value);
        }
    }
}

fn prefixed(prefix: &str, name: &str) -> Option<HeaderName> {
    let mut whole = String::with_capacity(prefix.len() + name.len());
    whole.push_str(prefix);
    whole.push_str(name);
    HeaderName::try_from(whole).ok()
}

/// Sets a header; a value that HTTP cannot carry is left out.
fn put(headers: &mut HeaderMap, name: HeaderName, value: Option<&str>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
        headers.insert(name, value);
    }
}

fn rfc3339(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX).to_string()
}

/// A JSON object in ASCII alone: a header carries nothing else safely.
fn ascii_json(params: &[(String, String)]) -> String {
    let object: serde_json::Map<String, serde_json::Value> =
        params.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    let json = serde_json::Value::Object(object).to_string();
    if json.is_ascii() {
        return json;
    }
    let mut ascii = String::with_capacity(json.len() * 2);
    let mut units = [0; 2];
    for character in json.chars() {
        match character.is_ascii() {
            true => ascii.push(character),
            false => character
                .encode_utf16(&mut units)
                .iter()
                .for_each(|unit| ascii.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    ascii
}

#[cfg(test)]
#[path = "request_tests.rs"]
pub(super) mod tests;
