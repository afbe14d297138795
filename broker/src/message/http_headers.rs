//! HTTP headers as one AMQP header: the field lines of HTTP/1.1 with the empty line that ends them, names lowercase.
//!
//! Each AMQP header costs everyone on the way, the broker included, far more than its bytes; HTTP's own form is read by
//! any client's HTTP library. `Content-Type` is AMQP's own property where it fits one. Never drops a header.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};

use crate::envelope::HeaderValue;
use crate::link::HEADERS_MAX;
use crate::message::fields::{invalid, wrong_type};
use crate::message::{DecodeError, EncodeError};
use crate::names::NAME_BYTES_MAX;

/// The AMQP header that carries them.
pub(super) const NAME: &str = "fn-headers";
/// What a line has beside name and value.
const LINE_BYTES: usize = ": \r\n".len();

/// A single, plain `Content-Type`, which travels as AMQP's property.
pub(super) fn content_type(http: &HeaderMap) -> Option<&str> {
    let mut all = http.get_all(CONTENT_TYPE).iter();
    let (first, second) = (all.next()?, all.next());
    first.to_str().ok().filter(|text| text.len() <= NAME_BYTES_MAX && second.is_none())
}

/// The header's value; none where there is nothing to say. Without `Content-Type`, where that is a property.
pub(super) fn write(http: &HeaderMap) -> Result<Option<HeaderValue>, EncodeError> {
    let mut lines = BytesMut::new();
    put(http, content_type(http).is_none(), &mut lines)?;
    if lines.is_empty() {
        return Ok(None);
    }
    Ok(Some(match String::from_utf8(lines.into()) {
        Ok(text) => HeaderValue::Text(text),
        Err(bytes) => HeaderValue::Bytes(bytes.into_bytes().into()),
    }))
}

/// Writes field lines and the empty line that ends them; nothing, where there is no header.
pub(super) fn put(http: &HeaderMap, with_type: bool, into: &mut BytesMut) -> Result<(), EncodeError> {
    if http.len() > HEADERS_MAX {
        return Err(EncodeError::TooMany(http.len()));
    }
    let start = into.len();
    into.reserve(bytes(http));
    for (name, value) in http.iter().filter(|(name, _)| with_type || **name != CONTENT_TYPE) {
        into.put_slice(name.as_str().as_bytes());
        into.put_slice(b": ");
        into.put_slice(value.as_bytes());
        into.put_slice(b"\r\n");
    }
    if into.len() > start {
        into.put_slice(b"\r\n");
    }
    Ok(())
}

/// What field lines weigh, at most.
pub(super) fn bytes(http: &HeaderMap) -> usize {
    http.iter().map(|(name, value)| name.as_str().len() + value.len() + LINE_BYTES).sum::<usize>() + 2
}

/// Reads the header's value.
pub(super) fn read(value: HeaderValue) -> Result<HeaderMap, DecodeError> {
    match value {
        HeaderValue::Text(text) => parse(&Bytes::from(text)),
        HeaderValue::Bytes(bytes) => parse(&bytes),
        other => Err(wrong_type(NAME, "text", &other)),
    }
}

/// Reads field lines; values are slices of them.
pub(super) fn parse(lines: &Bytes) -> Result<HeaderMap, DecodeError> {
    if lines.is_empty() {
        return Ok(HeaderMap::new());
    }
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let fields = match httparse::parse_headers(lines, &mut fields) {
        Ok(httparse::Status::Complete((read, fields))) if read == lines.len() => fields,
        Ok(_) => return Err(invalid(NAME, "its end is not the one empty line")),
        Err(httparse::Error::TooManyHeaders) => return Err(DecodeError::TooMany(HEADERS_MAX + 1)),
        Err(error) => return Err(invalid(NAME, error.to_string())),
    };
    let mut http = HeaderMap::with_capacity(fields.len());
    for httparse::Header { name, value } in fields {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = http::HeaderValue::from_maybe_shared(lines.slice_ref(value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(invalid(NAME, "a line is no HTTP header"));
        };
        http.append(name, value);
    }
    Ok(http)
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
