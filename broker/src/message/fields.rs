//! Reading and writing single headers and properties, each error naming its own.
//!
//! Knows no message; never looks at a body.

use crate::envelope::{Envelope, HeaderValue, Properties};
use crate::link::{HEADER_BYTES_MAX, HEADERS_MAX};
use crate::message::{CallId, DecodeError, EncodeError, WIRE_HEADER, WIRE_VERSION};
use crate::names::NAME_BYTES_MAX;

/// Checks what every message of ours must have: its type, the wire version, a bounded header count.
pub(super) fn check(envelope: &Envelope, kind: &'static str) -> Result<(), DecodeError> {
    check_versions(envelope, kind, &[WIRE_VERSION])
}

/// The same, where more than one version is understood.
pub(super) fn check_versions(
    envelope: &Envelope,
    kind: &'static str,
    versions: &[i64],
) -> Result<(), DecodeError> {
    if envelope.headers.len() > HEADERS_MAX {
        return Err(DecodeError::TooMany(envelope.headers.len()));
    }
    let version = envelope.headers.get(WIRE_HEADER).ok_or(DecodeError::Missing(WIRE_HEADER))?;
    let version = int(WIRE_HEADER, version)?;
    if !versions.contains(&version) {
        return Err(DecodeError::Wire(version));
    }
    match envelope.properties.kind.as_deref() {
        Some(found) if found == kind => Ok(()),
        Some(found) => Err(DecodeError::Kind { expected: kind, found: shown(found) }),
        None => Err(DecodeError::Missing("type")),
    }
}

/// Foreign text for an error message: bounded, whatever came.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// A parser's words, which may quote what was sent: bounded, whatever came.
pub(super) fn reason(words: &str) -> String {
    words.chars().take(256).collect()
}

/// The end of a text, whole characters, within the bound.
pub(super) fn tail(text: String, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text;
    }
    let start = text.ceil_char_boundary(text.len() - bytes_max);
    text[start..].to_owned()
}

pub(super) fn call_id(name: &'static str, value: Option<&str>) -> Result<CallId, DecodeError> {
    let text = value.ok_or(DecodeError::Missing(name))?;
    text.parse().map_err(|_| invalid(name, "not a UUID"))
}

pub(super) fn invalid(name: impl Into<String>, reason: impl Into<String>) -> DecodeError {
    DecodeError::Value { name: name.into(), reason: reason.into() }
}

pub(super) fn int(name: &str, value: &HeaderValue) -> Result<i64, DecodeError> {
    match value {
        HeaderValue::Int(number) => Ok(*number),
        other => Err(wrong_type(name, "an integer", other)),
    }
}

pub(super) fn text(name: &str, value: HeaderValue) -> Result<String, DecodeError> {
    match value {
        HeaderValue::Text(text) => Ok(text),
        other => Err(wrong_type(name, "text", &other)),
    }
}

pub(super) fn wrong_type(name: &str, expected: &'static str, found: &HeaderValue) -> DecodeError {
    DecodeError::Type { name: shown(name), expected, found: found.type_name() }
}

pub(super) fn attempt(value: &HeaderValue) -> Result<u32, DecodeError> {
    match u32::try_from(int("fn-attempt", value)?) {
        Ok(attempt) if attempt >= 1 => Ok(attempt),
        _ => Err(invalid("fn-attempt", "not between 1 and 4294967295")),
    }
}

/// Checks what AMQP itself bounds, before anything is sent: lapin would panic or stall on it.
pub(super) fn sendable(envelope: Envelope) -> Result<Envelope, EncodeError> {
    let Properties { kind, message_id, correlation_id, reply_to, content_type, user_id, .. } =
        &envelope.properties;
    let short = [
        ("type", kind),
        ("message-id", message_id),
        ("correlation-id", correlation_id),
        ("reply-to", reply_to),
        ("content-type", content_type),
        ("user-id", user_id),
    ];
    for (name, value) in short {
        if value.as_ref().is_some_and(|value| value.len() > NAME_BYTES_MAX) {
            return Err(EncodeError::Long { name: name.to_owned() });
        }
    }
    match envelope.header_bytes() {
        bytes if bytes > HEADER_BYTES_MAX => Err(EncodeError::TooLarge(bytes)),
        _ => Ok(envelope),
    }
}
