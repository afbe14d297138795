//! Envelopes to lapin's types and back, and topology to AMQP's arguments. Pure.
//!
//! On the way out everything is moved; on the way in lapin lends its properties, so texts are copied.

use std::collections::BTreeMap;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, LongString, ShortString};

use crate::envelope::{Envelope, HeaderValue, Headers, Properties};
use crate::topology::{Attempts, Overflow, QueueKind, QueueSpec};

/// AMQP's delivery modes.
const TRANSIENT: u8 = 1;
const PERSISTENT: u8 = 2;

/// RabbitMQ takes a delivery back after half an hour, while a call may take an hour once it has waited for its slot and
/// its code. The copy would run beside it, uncounted.
const ATTEMPT_MS_MAX: i64 = 3 * 3_600_000;
/// RabbitMQ 4's word for a quorum queue without a delivery limit, where absence means 20.
const NO_DELIVERY_LIMIT: i64 = -1;
/// RabbitMQ closes the channel over a longer life than this, which is 49 days.
const EXPIRATION_MS_MAX: u64 = u32::MAX as u64;

/// Splits an envelope, whose sizes were checked, into what lapin sends.
pub(super) fn outgoing(envelope: Envelope) -> (BasicProperties, Bytes) {
    let Envelope { properties, headers, body } = envelope;
    let Properties {
        kind,
        message_id,
        correlation_id,
        reply_to,
        content_type,
        content_encoding,
        app_id,
        user_id,
        expiration_ms,
        timestamp_s,
        priority,
        persistent,
    } = properties;
    let mut out = BasicProperties::default()
        .with_delivery_mode(if persistent { PERSISTENT } else { TRANSIENT })
        .with_headers(table(headers));
    out = with(out, kind, BasicProperties::with_type);
    out = with(out, message_id, BasicProperties::with_message_id);
    out = with(out, correlation_id, BasicProperties::with_correlation_id);
    out = with(out, reply_to, BasicProperties::with_reply_to);
    out = with(out, content_type, BasicProperties::with_content_type);
    out = with(out, content_encoding, BasicProperties::with_content_encoding);
    out = with(out, app_id, BasicProperties::with_app_id);
    out = with(out, user_id, BasicProperties::with_user_id);
    if let Some(priority) = priority {
        out = out.with_priority(priority);
    }
    if let Some(ms) = expiration_ms {
        out = out.with_expiration(ms.min(EXPIRATION_MS_MAX).to_string().into());
    }
    if let Some(s) = timestamp_s {
        out = out.with_timestamp(s);
    }
    (out, body)
}

fn with(
    properties: BasicProperties,
    text: Option<String>,
    set: impl FnOnce(BasicProperties, ShortString) -> BasicProperties,
) -> BasicProperties {
    match text {
        Some(text) => set(properties, text.into()),
        None => properties,
    }
}

fn table(headers: Headers) -> FieldTable {
    let map: BTreeMap<ShortString, AMQPValue> =
        headers.into_iter().map(|(name, value)| (name.into(), amqp(value))).collect();
    map.into()
}

fn amqp(value: HeaderValue) -> AMQPValue {
    match value {
        HeaderValue::Text(text) => AMQPValue::LongString(text.into()),
        HeaderValue::Bytes(bytes) => AMQPValue::ByteArray(ByteArray::from(&bytes[..])),
        HeaderValue::Int(number) => AMQPValue::LongLongInt(number),
        HeaderValue::Bool(truth) => AMQPValue::Boolean(truth),
        HeaderValue::Float(number) => AMQPValue::Double(number),
        HeaderValue::Timestamp(seconds) => AMQPValue::Timestamp(seconds),
        HeaderValue::Decimal { scale, value } => AMQPValue::DecimalValue(DecimalValue { scale, value }),
        HeaderValue::List(values) => {
            AMQPValue::FieldArray(FieldArray::from(values.into_iter().map(amqp).collect::<Vec<_>>()))
        }
        HeaderValue::Table(headers) => AMQPValue::FieldTable(table(headers)),
        HeaderValue::Void => AMQPValue::Void,
    }
}

/// Puts together what lapin received.
pub(super) fn incoming(properties: &BasicProperties, body: Vec<u8>) -> Envelope {
    let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    let expiration = properties.expiration().as_ref();
    let ours = Properties {
        kind: text(properties.kind()),
        message_id: text(properties.message_id()),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        app_id: text(properties.app_id()),
        user_id: text(properties.user_id()),
        expiration_ms: expiration.and_then(|ms| ms.as_str().parse().ok()),
        timestamp_s: *properties.timestamp(),
        priority: *properties.priority(),
        persistent: *properties.delivery_mode() == Some(PERSISTENT),
    };
    let headers = properties.headers().as_ref().map(headers).unwrap_or_default();
    Envelope { properties: ours, headers, body: Bytes::from(body) }
}

fn headers(table: &FieldTable) -> Headers {
    let mut headers = Headers::with_capacity(table.inner().len());
    for (name, value) in table {
        // A table's names are unique already.
        headers.push(name.to_string(), ours(value));
    }
    headers
}

fn ours(value: &AMQPValue) -> HeaderValue {
    match value {
        AMQPValue::Boolean(truth) => HeaderValue::Bool(*truth),
        AMQPValue::ShortShortInt(number) => HeaderValue::Int((*number).into()),
        AMQPValue::ShortShortUInt(number) => HeaderValue::Int((*number).into()),
        AMQPValue::ShortInt(number) => HeaderValue::Int((*number).into()),
        AMQPValue::ShortUInt(number) => HeaderValue::Int((*number).into()),
        AMQPValue::LongInt(number) => HeaderValue::Int((*number).into()),
        AMQPValue::LongUInt(number) => HeaderValue::Int((*number).into()),
        AMQPValue::LongLongInt(number) => HeaderValue::Int(*number),
        AMQPValue::Timestamp(seconds) => HeaderValue::Timestamp(*seconds),
        AMQPValue::Float(number) => HeaderValue::Float((*number).into()),
        AMQPValue::Double(number) => HeaderValue::Float(*number),
        AMQPValue::ShortString(text) => HeaderValue::Text(text.to_string()),
        AMQPValue::LongString(text) => long(text),
        AMQPValue::ByteArray(bytes) => HeaderValue::Bytes(Bytes::copy_from_slice(bytes.as_slice())),
        AMQPValue::FieldArray(values) => HeaderValue::List(values.as_slice().iter().map(ours).collect()),
        AMQPValue::FieldTable(table) => HeaderValue::Table(headers(table)),
        AMQPValue::DecimalValue(DecimalValue { scale, value }) => {
            HeaderValue::Decimal { scale: *scale, value: *value }
        }
        AMQPValue::Void => HeaderValue::Void,
    }
}

/// AMQP's long strings are bytes; most are text.
fn long(text: &LongString) -> HeaderValue {
    match std::str::from_utf8(text.as_bytes()) {
        Ok(text) => HeaderValue::Text(text.to_owned()),
        Err(_) => HeaderValue::Bytes(Bytes::copy_from_slice(text.as_bytes())),
    }
}

/// A queue's arguments, as RabbitMQ names them.
pub(super) fn arguments(spec: &QueueSpec) -> FieldTable {
    let QueueSpec { kind, length_max, bytes_max, overflow, attempts, keeps_trying } = spec;
    let mut table = FieldTable::default();
    let kind = match kind {
        QueueKind::Quorum => "quorum",
        QueueKind::Classic | QueueKind::Exclusive => "classic",
    };
    let overflow = match overflow {
        Overflow::DropHead => "drop-head",
        Overflow::RejectPublish => "reject-publish",
    };
    table.insert("x-queue-type".into(), text(kind));
    table.insert("x-max-length".into(), number(*length_max));
    if let Some(bytes) = bytes_max {
        table.insert(
            "x-max-length-bytes".into(),
            AMQPValue::LongLongInt(i64::try_from(*bytes).unwrap_or(i64::MAX)),
        );
    }
    table.insert("x-overflow".into(), text(overflow));
    if *keeps_trying {
        table.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(NO_DELIVERY_LIMIT));
    }
    if let Some(attempts) = attempts {
        let Attempts { delivery_limit, dead_letter } = attempts;
        table.insert("x-delivery-limit".into(), number(*delivery_limit));
        table.insert("x-consumer-timeout".into(), AMQPValue::LongLongInt(ATTEMPT_MS_MAX));
        table.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        table.insert("x-dead-letter-exchange".into(), text(""));
        table.insert("x-dead-letter-routing-key".into(), text(dead_letter.as_str()));
    }
    table
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn number(value: u32) -> AMQPValue {
    AMQPValue::LongLongInt(value.into())
}
