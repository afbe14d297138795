//! CloudEvents 1.0 in binary mode: attributes as AMQP headers to attributes as HTTP headers, and back.
//!
//! By the specification's bindings for AMQP (3.1) and HTTP (3.1). An event in structured mode is its body and content
//! type, which nobody here touches. Written by strangers: what is no CloudEvent, or is too much of one, is left as it
//! came and fails nothing. Never performs I/O, and never looks at a body.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue as HttpValue};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::envelope::{HeaderValue, Headers};

/// What stands before an attribute's name in an AMQP header; the second is for clients that cannot write the first.
const AMQP_PREFIXES: [&str; 2] = ["cloudEvents:", "cloudEvents_"];
/// What stands before an attribute's name in an HTTP header.
const HTTP_PREFIX: &str = "ce-";
const SPEC_VERSION: &str = "specversion";
/// The only version there is a mapping for; the specification keeps it for all of 1.0.
const VERSION: &str = "1.0";
/// Without these an event is no CloudEvent.
const REQUIRED: [&str; 3] = ["id", "source", "type"];
/// The content type has a property and an HTTP header of its own.
const DATA_CONTENT_TYPE: &str = "datacontenttype";
/// A name that the specification keeps for the body.
const DATA: &str = "data";

/// The specification has nine; Python's HTTP server, for one, takes a hundred headers in all.
const ATTRIBUTES_MAX: usize = 64;
/// An event of 64 KiB is what everyone on its way must carry.
const BYTES_MAX: usize = 64 * 1024;

/// What a value must not hold in an HTTP header as it is: anything but printable ASCII, and `"` and `%`.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Takes a CloudEvent's attributes out of a message's headers, as the HTTP headers that stand for them: `ce-<name>`,
/// and `content-type` where an attribute says it. Empty, with every header left, where the message is no CloudEvent.
pub fn take_attributes(headers: &mut Headers) -> HeaderMap {
    let taken = match attributes(headers) {
        Some(taken) if is_complete(&taken) => taken,
        _ => return HeaderMap::new(),
    };
    let all = std::mem::take(headers);
    *headers = all.into_iter().filter(|(name, value)| attribute(name, value).is_none()).collect();
    taken
}

/// Puts the attributes of an answer that is a CloudEvent among a message's headers, and takes them from the answer's.
/// Changes nothing where it is none.
pub fn put_attributes(http: &mut HeaderMap, headers: &mut Headers) {
    if !is_complete(http) || attribute_count(http) > ATTRIBUTES_MAX {
        return;
    }
    let names: Vec<HeaderName> = http.keys().filter(|name| own_name(name).is_some()).cloned().collect();
    for name in names {
        let decoded = own_name(&name).zip(http.get(&name).and_then(decoded));
        // One that cannot be read stays what it is: a header of the answer's.
        if let Some((own, value)) = decoded {
            headers.insert(format!("{}{own}", AMQP_PREFIXES[0]), value);
            http.remove(&name);
        }
    }
}

/// All attributes as HTTP headers; `None` where they are more than anybody has to carry. Where a name comes with either
/// prefix, the first one's wins.
fn attributes(headers: &Headers) -> Option<HeaderMap> {
    let mut http = HeaderMap::new();
    let mut bytes = 0;
    for prefix in AMQP_PREFIXES {
        for (name, value) in headers.iter().filter(|(name, _)| name.starts_with(prefix)) {
            let Some((attribute, text)) = attribute(name, value) else { continue };
            let (name, value) = header(attribute, &text)?;
            bytes += name.as_str().len() + value.len();
            http.entry(name).or_insert(value);
            if http.len() > ATTRIBUTES_MAX || bytes > BYTES_MAX {
                return None;
            }
        }
    }
    Some(http)
}

fn header(attribute: &str, text: &str) -> Option<(HeaderName, HttpValue)> {
    if attribute == DATA_CONTENT_TYPE {
        return Some((CONTENT_TYPE, HttpValue::from_str(text).ok()?));
    }
    let name = HeaderName::try_from(format!("{HTTP_PREFIX}{attribute}")).ok()?;
    let value = utf8_percent_encode(text, ESCAPED).to_string();
    Some((name, HttpValue::try_from(value).ok()?))
}

/// The attribute that an AMQP header stands for, and its value in the specification's text form.
fn attribute<'a>(name: &'a str, value: &HeaderValue) -> Option<(&'a str, String)> {
    let name = AMQP_PREFIXES.into_iter().find_map(|prefix| name.strip_prefix(prefix))?;
    is_name(name).then_some(name).zip(text(value))
}

/// As the specification has names. A body is never a header.
fn is_name(name: &str) -> bool {
    let plain = name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    plain && !name.is_empty() && name != DATA
}

/// A scalar's text form; of a float, which the specification lacks, JSON's.
fn text(value: &HeaderValue) -> Option<String> {
    match value {
        HeaderValue::Text(text) => Some(text.clone()),
        HeaderValue::Bytes(bytes) => Some(BASE64.encode(bytes)),
        HeaderValue::Int(number) => Some(number.to_string()),
        HeaderValue::Bool(truth) => Some(truth.to_string()),
        HeaderValue::Float(number) => number.is_finite().then(|| number.to_string()),
        HeaderValue::Timestamp(seconds) => {
            let seconds = i64::try_from(*seconds).ok()?;
            Timestamp::from_second(seconds).ok().map(|time| time.to_string())
        }
        HeaderValue::Decimal { .. } | HeaderValue::List(_) | HeaderValue::Table(_) | HeaderValue::Void => {
            None
        }
    }
}

/// Whether these headers are a CloudEvent's, of the version that is understood.
fn is_complete(http: &HeaderMap) -> bool {
    let get = |name: &str| http.get(format!("{HTTP_PREFIX}{name}"));
    let version = get(SPEC_VERSION).is_some_and(|version| version == VERSION);
    version && REQUIRED.into_iter().all(|name| get(name).is_some_and(|value| !value.is_empty()))
}

fn attribute_count(http: &HeaderMap) -> usize {
    http.keys().filter(|name| own_name(name).is_some()).count()
}

fn own_name(name: &HeaderName) -> Option<&str> {
    name.as_str().strip_prefix(HTTP_PREFIX).filter(|name| is_name(name) && *name != DATA_CONTENT_TYPE)
}

/// A header's value as the attribute's: unquoted where it is quoted, and without escapes.
fn decoded(value: &HttpValue) -> Option<String> {
    let text = std::str::from_utf8(value.as_bytes()).ok()?;
    let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let plain = quoted.map_or_else(|| text.to_owned(), unescaped);
    percent_decode_str(&plain).decode_utf8().ok().map(|text| text.into_owned())
}

/// A quoted string's content (RFC 9110, 5.6.4).
fn unescaped(quoted: &str) -> String {
    let (mut plain, mut characters) = (String::with_capacity(quoted.len()), quoted.chars());
    while let Some(character) = characters.next() {
        plain.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    plain
}

#[cfg(test)]
#[path = "cloud_events_tests.rs"]
mod tests;
