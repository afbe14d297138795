//! What is told of a call's end: a CloudEvent (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>), as
//! one JSON document for whoever is asked over HTTP, as headers and body for a Fn. Pure.

use funcatron_broker::message::{CALLBACK_OF_HEADER, CallId};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::document;
use crate::state::CallbackKind;
use crate::store::Call;

/// CloudEvents' version.
const SPEC_VERSION: &str = "1.0";
/// Of `data`.
const JSON: &str = "application/json";
/// The random end of a UUIDv7 (RFC 9562, section 5.7), which follows from the call's id.
const RANDOM_BITS: u128 = (1 << 62) - 1;
/// Where a UUID says its version, and the seventh.
const VERSION_BITS: u128 = 0xf << 76;
const VERSION_7: u128 = 0x7 << 76;

/// The id under which an end is told, however often: of the call's time, so that it sorts beside it.
pub(super) fn callback_id(call: CallId, kind: CallbackKind) -> CallId {
    let mut named = call.uuid().as_bytes().to_vec();
    named.extend_from_slice(event_type(kind).as_bytes());
    let hash = digest(&SHA256, &named);
    let random = hash.as_ref().iter().take(16).fold(0, |bits: u128, byte| (bits << 8) | u128::from(*byte));
    let kept = call.uuid().as_u128() & !RANDOM_BITS & !VERSION_BITS;
    CallId::from_uuid(Uuid::from_u128(kept | VERSION_7 | (random & RANDOM_BITS)))
}

fn event_type(kind: CallbackKind) -> &'static str {
    match kind {
        CallbackKind::Success => "dev.funcatron.call.succeeded",
        CallbackKind::Failure => "dev.funcatron.call.failed",
    }
}

/// A call's end, to be told.
#[derive(Debug)]
pub(super) struct Notice {
    pub(super) id: CallId,
    of: CallId,
    kind: &'static str,
    source: String,
    time: String,
    data: Value,
}

impl Notice {
    pub(super) fn of(kind: CallbackKind, call: Call) -> Self {
        let state = &call.state;
        let (namespace, app, fn_name) = (&state.namespace, &state.app, &state.fn_name);
        Self {
            id: callback_id(state.id, kind),
            of: state.id,
            kind: event_type(kind),
            source: format!("/namespaces/{namespace}/apps/{app}/fns/{fn_name}"),
            time: document::time(state.completed_ms.unwrap_or(state.heard_ms)),
            data: document::end(call),
        }
    }

    /// One document (CloudEvents' structured mode).
    pub(super) fn to_document(&self) -> Vec<u8> {
        let Self { id, of, kind, source, time, data } = self;
        let document = json!({
            "specversion": SPEC_VERSION, "type": kind, "source": source, "subject": of.to_string(),
            "id": id.to_string(), "time": time, "datacontenttype": JSON, "data": data,
        });
        serde_json::to_vec(&document).expect("texts and numbers are JSON")
    }

    /// Headers and body of a call (CloudEvents' binary mode), as a schedule's call has them.
    pub(super) fn to_request(&self) -> (HeaderMap, Vec<u8>) {
        let Self { id, of, kind, source, time, data } = self;
        let attributes = [
            ("ce-specversion", SPEC_VERSION),
            ("ce-id", &id.to_string()),
            ("ce-source", source),
            ("ce-subject", &of.to_string()),
            ("ce-type", kind),
            ("ce-time", time),
            (CALLBACK_OF_HEADER, &of.to_string()),
            (CONTENT_TYPE.as_str(), JSON),
        ];
        let header = |(name, value): (&'static str, &str)| {
            // Names of Kubernetes are plain ASCII; any other has no place in a header.
            Some((HeaderName::from_static(name), HeaderValue::from_str(value).ok()?))
        };
        let body = serde_json::to_vec(data).expect("texts and numbers are JSON");
        (attributes.into_iter().filter_map(header).collect(), body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_follows_from_call_and_kind_and_is_a_v7_of_the_calls_time() {
        // The second is a schedule's, a UUIDv8.
        for text in ["01890a5d-ac96-774b-bcce-b302099a8057", "01890a5d-ac96-8123-bfff-ffffffffffff"] {
            let call: CallId = text.parse().unwrap();
            let (success, failure) =
                (callback_id(call, CallbackKind::Success), callback_id(call, CallbackKind::Failure));
            assert_eq!(success, callback_id(call, CallbackKind::Success), "however often it is told");
            assert!(success != failure && success != call && failure != call);
            for id in [success, failure] {
                assert_eq!(
                    (id.uuid().get_version_num(), id.uuid().get_variant()),
                    (7, uuid::Variant::RFC4122)
                );
                assert_eq!(id.uuid().as_u128() >> 80, call.uuid().as_u128() >> 80, "the time stays");
            }
        }
        // Written down: an id that changed with a release would be told twice.
        let call: CallId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let written = callback_id(call, CallbackKind::Success).to_string();
        assert_eq!(written, "01890a5d-ac96-774b-bba8-769ec0aa4029");
    }
}
