//! HTTP headers within AMQP headers: `http:<lowercase name>`, text, a list where repeated.
//!
//! A value that is no UTF-8 travels as bytes, so that what was sent arrives. `Content-Type` is AMQP's
//! own property where it fits one. Never drops a header.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};

use crate::envelope::{HeaderValue, Headers};
use crate::link::HEADERS_MAX;
use crate::message::DecodeError;
use crate::message::fields::{invalid, shown, wrong_type};
use crate::names::NAME_BYTES_MAX;

/// What an HTTP header's name is preceded by.
pub(super) const PREFIX: &str = "http:";

/// Moves a single, plain `Content-Type` out of the HTTP headers.
pub(super) fn take_content_type(http: &mut HeaderMap) -> Option<String> {
    let mut all = http.get_all(CONTENT_TYPE).iter();
    let (first, second) = (all.next()?, all.next());
    let text = first.to_str().ok().filter(|text| text.len() <= NAME_BYTES_MAX && second.is_none())?;
    let text = text.to_owned();
    http.remove(CONTENT_TYPE);
    Some(text)
}

/// Writes HTTP headers into AMQP headers.
pub(super) fn write(http: &HeaderMap, into: &mut Headers) {
    for name in http.keys() {
        let mut values = http.get_all(name).iter().map(amqp_value);
        let (first, second) = (values.next(), values.next());
        let value = match (first, second) {
            (Some(first), Some(second)) => {
                HeaderValue::List([first, second].into_iter().chain(values).collect())
            }
            (Some(only), None) => only,
            (None, _) => continue,
        };
        let mut wire = String::with_capacity(PREFIX.len() + name.as_str().len());
        wire.push_str(PREFIX);
        wire.push_str(name.as_str());
        into.push(wire, value);
    }
}

fn amqp_value(value: &http::HeaderValue) -> HeaderValue {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => HeaderValue::Text(text.to_owned()),
        Err(_) => HeaderValue::Bytes(bytes::Bytes::copy_from_slice(value.as_bytes())),
    }
}

/// Reads one AMQP header, whose name has lost its `http:`, into HTTP headers.
pub(super) fn read(name: &str, value: HeaderValue, into: &mut HeaderMap) -> Result<(), DecodeError> {
    let lower = !name.bytes().any(|c| c.is_ascii_uppercase());
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok().filter(|_| lower);
    let header = parsed.ok_or_else(|| invalid(wire_name(name), "not a lowercase HTTP header name"))?;
    let values = match value {
        HeaderValue::List(values) => values,
        one => vec![one],
    };
    if into.len() + values.len() > HEADERS_MAX {
        return Err(DecodeError::TooMany(into.len() + values.len()));
    }
    for value in values {
        into.append(header.clone(), http_value(name, value)?);
    }
    Ok(())
}

/// Puts AMQP's content type back among the HTTP headers.
pub(super) fn restore_content_type(
    content_type: Option<String>,
    into: &mut HeaderMap,
) -> Result<(), DecodeError> {
    let Some(text) = content_type else { return Ok(()) };
    let value = http::HeaderValue::try_from(text);
    into.insert(CONTENT_TYPE, value.map_err(|_| invalid("content-type", "not an HTTP header value"))?);
    Ok(())
}

fn http_value(name: &str, value: HeaderValue) -> Result<http::HeaderValue, DecodeError> {
    let parsed = match value {
        HeaderValue::Text(text) => http::HeaderValue::try_from(text),
        HeaderValue::Bytes(bytes) => http::HeaderValue::from_maybe_shared(bytes),
        other => return Err(wrong_type(&wire_name(name), "text", &other)),
    };
    parsed.map_err(|_| invalid(wire_name(name), "not an HTTP header value"))
}

fn wire_name(name: &str) -> String {
    format!("{PREFIX}{}", shown(name))
}
