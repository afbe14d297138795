//! Several replies in one message, which costs the broker what one costs.
//!
//! The body is one record after another, each preceded by its length, so that one that is nonsense hurts no other.
//! As hostile as any reply: nothing is trusted before its `user_id` was compared, which is the message's.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::HeaderMap;

use crate::envelope::{Envelope, HeaderValue, Headers, Properties};
use crate::link::{HEADER_BYTES_MAX, HEADERS_MAX};
use crate::message::reply::{Outcome, Reply, Unread, status_code};
use crate::message::{CallId, DecodeError, WIRE_HEADER, WIRE_VERSION, fields, http_headers};

/// AMQP's `type` of such a message.
pub(super) const KIND: &str = "replies";
/// Records that are read of one message; a runner sends far fewer.
const RECORDS_MAX: usize = 1_024;
/// A larger reply gains nothing by company.
const REPLY_BYTES_MAX: usize = 16 * 1024;
/// Half of RabbitMQ's frame: what waits for a message's end waits no longer than for a call of that size, and a reply
/// that is kept, which is a slice of its message, keeps no more.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// A record's fixed part: its length, id, attempt, status, and the lengths of outcome and headers.
const FIXED_BYTES: usize = 4 + 16 + 4 + 2 + 1 + 4;

/// Replies of one sender to one gateway, packed into as few messages as their sizes allow.
#[derive(Debug)]
pub struct Packed {
    /// Those that travel by themselves.
    pub alone: Vec<Reply>,
    /// Messages of several, ready to be sent as a `Reply`'s envelope would be.
    pub together: Vec<Envelope>,
}

/// Packs replies that all have the sender `user_id`.
pub fn pack(user_id: &str, replies: Vec<Reply>) -> Packed {
    let (mut together, mut alone) = (Vec::with_capacity(replies.len()), Vec::new());
    for reply in replies {
        match weight(&reply).filter(|bytes| *bytes <= REPLY_BYTES_MAX) {
            Some(bytes) => together.push((bytes, reply)),
            None => alone.push(reply),
        }
    }
    if together.len() == 1 {
        alone.extend(together.pop().map(|(_, reply)| reply));
    }
    let mut messages = Vec::new();
    let mut body = BytesMut::new();
    for (bytes, reply) in &together {
        if !body.is_empty() && body.len() + bytes > MESSAGE_BYTES_MAX {
            messages.push(envelope(user_id, body.split().freeze()));
        }
        put(reply, &mut body);
    }
    if !body.is_empty() {
        messages.push(envelope(user_id, body.freeze()));
    }
    Packed { alone, together: messages }
}

fn envelope(user_id: &str, body: Bytes) -> Envelope {
    let mut headers = Headers::with_capacity(1);
    headers.push(WIRE_HEADER.to_owned(), HeaderValue::Int(WIRE_VERSION));
    let properties = Properties {
        kind: Some(KIND.to_owned()),
        user_id: Some(user_id.to_owned()),
        ..Properties::default()
    };
    Envelope { properties, headers, body }
}

/// A record's bytes; none for a reply with more headers than a record has.
pub(super) fn weight(reply: &Reply) -> Option<usize> {
    let Reply { outcome, headers, body, .. } = reply;
    let bytes = FIXED_BYTES + outcome.as_str().len() + http_headers::bytes(headers) + body.len();
    (headers.len() <= HEADERS_MAX).then_some(bytes)
}

/// Writes a record.
pub(super) fn put(reply: &Reply, into: &mut BytesMut) {
    let Reply { id, user_id: _, attempt, outcome, headers, body } = reply;
    let record = begin(into);
    into.put_slice(id.uuid().as_bytes());
    into.put_u32(*attempt);
    into.put_u16(if let Outcome::Answer(status) = outcome { status.as_u16() } else { 0 });
    let text = outcome.as_str().as_bytes();
    into.put_u8(u8::try_from(text.len()).expect("an outcome is a short word"));
    into.put_slice(text);
    let lines = begin(into);
    http_headers::put(headers, true, into).expect("their number was looked at");
    end(into, lines);
    into.put_slice(body);
    end(into, record);
}

/// Leaves room for a length.
fn begin(into: &mut BytesMut) -> usize {
    into.put_u32(0);
    into.len()
}

/// Writes the length of what was written since.
fn end(into: &mut BytesMut, start: usize) {
    let length = u32::try_from(into.len() - start).expect("a reply is far smaller");
    into[start - 4..start].copy_from_slice(&length.to_be_bytes());
}

/// Reads a message's replies. What cannot be read and names no call ends them; its sender alone is to blame.
pub(super) fn read(envelope: Envelope) -> Vec<Result<Reply, Unread>> {
    let user_id = envelope.properties.user_id.clone();
    if let Err(reason) = fields::check(&envelope, KIND) {
        return vec![Err(Unread { reason, id: None, user_id, attempt: None })];
    }
    if envelope.body.len() > MESSAGE_BYTES_MAX {
        let reason = fields::invalid("body", "several replies in more than 64 KiB");
        return vec![Err(Unread { reason, id: None, user_id, attempt: None })];
    }
    let mut body = envelope.body;
    let mut replies = Vec::new();
    while !body.is_empty() && replies.len() < RECORDS_MAX {
        let length = body.try_get_u32().ok().and_then(|length| usize::try_from(length).ok());
        let Some(length) = length.filter(|length| *length <= body.len()) else {
            let reason = fields::invalid("body", "a record ends after the message");
            replies.push(Err(Unread { reason, id: None, user_id, attempt: None }));
            return replies;
        };
        replies.push(record(body.split_to(length), user_id.clone()));
    }
    replies
}

/// Reads a record, without its length.
pub(super) fn record(mut bytes: Bytes, user_id: Option<String>) -> Result<Reply, Unread> {
    let head = bytes.try_get_u128().and_then(|id| Ok((id, bytes.try_get_u32()?)));
    let Ok((id, attempt)) = head else {
        let reason = fields::invalid("body", "a record without a call's id and attempt");
        return Err(Unread { reason, id: None, user_id, attempt: None });
    };
    let id = CallId::from_uuid(uuid::Uuid::from_u128(id));
    match rest(&mut bytes) {
        Ok((outcome, headers)) if attempt >= 1 => {
            Ok(Reply { id, user_id, attempt, outcome, headers, body: bytes })
        }
        Ok(_) => {
            let reason = fields::invalid("attempt", "not between 1 and 4294967295");
            Err(Unread { reason, id: Some(id), user_id, attempt: None })
        }
        Err(reason) => Err(Unread { reason, id: Some(id), user_id, attempt: Some(attempt) }),
    }
}

fn rest(bytes: &mut Bytes) -> Result<(Outcome, HeaderMap), DecodeError> {
    let short = |_| fields::invalid("body", "a record is too short");
    let status = bytes.try_get_u16().map_err(short)?;
    let length = bytes.try_get_u8().map_err(short)?;
    let outcome = take(bytes, length.into())?;
    let outcome = std::str::from_utf8(&outcome).map_err(|_| fields::invalid("outcome", "not UTF-8"))?;
    let outcome = Outcome::read(outcome, || status_code(status.into()))?;
    let length = usize::try_from(bytes.try_get_u32().map_err(short)?).unwrap_or(usize::MAX);
    if length > HEADER_BYTES_MAX {
        return Err(fields::invalid("headers", "larger than 96 KiB"));
    }
    Ok((outcome, http_headers::parse(&take(bytes, length)?)?))
}

fn take(bytes: &mut Bytes, length: usize) -> Result<Bytes, DecodeError> {
    match length <= bytes.len() {
        true => Ok(bytes.split_to(length)),
        false => Err(fields::invalid("body", "a record is too short")),
    }
}
