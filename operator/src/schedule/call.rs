//! The call of one tick: an id that follows from Trigger and tick, and the message. A CloudEvent in binary mode over
//! HTTP (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>).

use bytes::Bytes;
use funcatron_broker::message::{Call, CallEvent, CallId, Happened, Intent, RecordedRequest, Source};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use uuid::Builder;

use super::decide::Firing;

/// What a function finds in `ce-type`.
const EVENT_TYPE: &str = "dev.funcatron.schedule";
/// CloudEvents' version.
const SPEC_VERSION: &str = "1.0";
/// Bytes of a UUIDv7 that hold its Unix milliseconds; ours sort among those.
const TIME_BYTES: usize = 6;

/// Whose tick it is, and whom it calls.
#[derive(Debug, Clone, Copy)]
pub struct Occasion<'a> {
    /// The tenant.
    pub namespace: &'a str,
    /// The Trigger.
    pub trigger: &'a str,
    /// Its App.
    pub app: &'a str,
    /// The Fn it calls.
    pub fn_name: &'a str,
    /// What serves of it; empty where nothing does yet.
    pub revision: &'a str,
    /// Where the Fn is invoked.
    pub url: &'a str,
    /// How long one attempt may take.
    pub timeout_ms: u64,
    /// How many attempts there may be; as the wire has it where the Fn does not say.
    pub attempts_max: Option<u32>,
    /// The nonce of this publication, where a ledger tells it from another; whoever publishes the tick again does so
    /// under another nonce.
    pub claimant: Option<&'a str>,
}

/// The id of a tick's call, a UUIDv8: the tick's Unix milliseconds, then a hash of Trigger and tick. Whoever fires that
/// tick, however often, gives it this id.
pub fn call_id(seed: &str, tick: Timestamp) -> CallId {
    let mut bytes = [0; 16];
    let (time, rest) = bytes.split_at_mut(TIME_BYTES);
    time.copy_from_slice(&unix_ms(tick).to_be_bytes()[8 - TIME_BYTES..]);
    rest.copy_from_slice(&hash(seed, tick)[..16 - TIME_BYTES]);
    CallId::from_uuid(Builder::from_custom_bytes(bytes).into_uuid())
}

/// Any number, always the same for Trigger and tick, independent of the id's.
pub(super) fn spread(seed: &str, tick: Timestamp) -> u64 {
    let bytes = hash(seed, tick);
    u64::from_be_bytes(bytes[24..].try_into().expect("8 of 32 bytes are 8 bytes"))
}

fn hash(seed: &str, tick: Timestamp) -> [u8; 32] {
    // A uid has no zero byte, so no two pairs read alike.
    Sha256::new()
        .chain_update(seed)
        .chain_update([0])
        .chain_update(tick.as_second().to_be_bytes())
        .finalize()
        .into()
}

/// What is put into the Fn's durable queue.
///
/// Names and URLs of Kubernetes are far below what a message may have.
pub fn call(occasion: Occasion<'_>, id: CallId, firing: Firing, now: Timestamp) -> Call {
    let Firing { tick, deadline } = firing;
    let Occasion {
        namespace: _,
        trigger: _,
        app,
        fn_name,
        revision,
        url,
        timeout_ms,
        attempts_max,
        claimant,
    } = occasion;
    let (deadline_ms, now_ms) = (unix_ms(deadline), unix_ms(now));
    Call {
        id,
        reply_to: None,
        deadline_ms,
        timeout_ms,
        // The broker would bury what expires without a word to the ledger.
        expiration_ms: None,
        timestamp_s: Some(now_ms / 1000),
        persistent: true,
        attempt: 1,
        attempts_max,
        claimant: claimant.map(str::to_owned),
        direct: None,
        spilled: None,
        intent: Intent::Invoke,
        method: Method::POST,
        url: url.to_owned(),
        app: app.to_owned(),
        fn_name: fn_name.to_owned(),
        revision: revision.to_owned(),
        operation: None,
        template: None,
        params: vec![],
        headers: cloud_event(occasion, id, tick),
        body: Bytes::new(),
    }
}

/// What the ledger is told of it.
pub fn queued(namespace: &str, call: &Call, now: Timestamp) -> CallEvent {
    let request = Some(Box::new(RecordedRequest::of(call)));
    CallEvent {
        user_id: None,
        id: call.id,
        namespace: namespace.to_owned(),
        app: call.app.clone(),
        fn_name: call.fn_name.clone(),
        at_ms: unix_ms(now),
        happened: Happened::Queued { source: Source::Schedule, request, retry_of: None },
    }
}

fn cloud_event(occasion: Occasion<'_>, id: CallId, tick: Timestamp) -> HeaderMap {
    let source = format!("/namespaces/{}/triggers/{}", occasion.namespace, occasion.trigger);
    let attributes = [
        ("ce-specversion", SPEC_VERSION.to_owned()),
        ("ce-id", id.to_string()),
        ("ce-source", source),
        ("ce-type", EVENT_TYPE.to_owned()),
        ("ce-time", tick.to_string()),
    ];
    let header = |(name, value): (&'static str, String)| {
        // Names of Kubernetes are plain ASCII; any other has no place in a header.
        Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
    };
    attributes.into_iter().filter_map(header).collect()
}

/// Before 1970 is 1970: no schedule is that old.
fn unix_ms(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn an_id_follows_from_trigger_and_tick() {
        let tick = at("2026-11-22T03:00:00Z");
        assert_eq!(call_id("uid", tick), call_id("uid", tick));
        assert_ne!(call_id("uid", tick), call_id("other", tick));
        assert_ne!(call_id("uid", tick), call_id("uid", at("2026-11-22T03:01:00Z")));
        // Written down: an id that changed with a release would fire twice.
        assert_eq!(call_id("uid", tick).to_string(), "01a20132-3f80-8350-a883-e32b7cf4ca62");
    }

    #[test]
    fn ids_are_uuids_of_version_8_that_sort_by_their_ticks() {
        let ticks =
            ["1970-01-01T00:00:00Z", "2026-11-22T03:00:00Z", "2026-11-22T03:01:00Z", "2100-01-01T00:00:00Z"];
        let ids = ticks.map(|tick| call_id("uid", at(tick)));
        assert!(ids.is_sorted());
        for id in ids {
            let uuid = id.uuid();
            assert_eq!((uuid.get_version_num(), uuid.get_variant()), (8, uuid::Variant::RFC4122));
        }
    }

    #[test]
    fn a_message_is_a_persistent_invocation_and_a_cloud_event() {
        let (tick, now) = (at("2026-11-22T03:00:00Z"), at("2026-11-22T03:00:01Z"));
        let firing = Firing { tick, deadline: at("2026-11-22T04:00:01Z") };
        let occasion = Occasion {
            namespace: "team-a",
            trigger: "nightly",
            app: "shop",
            fn_name: "report",
            revision: "report-0123abcd",
            url: "http://gateway/invoke/team-a/report",
            timeout_ms: 30_000,
            attempts_max: Some(2),
            claimant: Some("n1"),
        };
        let id = call_id("uid", tick);
        let sent = call(occasion, id, firing, now);
        let told = queued("team-a", &sent, now);
        assert_eq!((told.id, told.fn_name.as_str()), (id, "report"));
        let call = Call::from_envelope(sent.to_envelope().unwrap()).unwrap();
        assert_eq!(
            (call.id, call.intent, call.method, call.reply_to),
            (id, Intent::Invoke, Method::POST, None)
        );
        assert_eq!((call.persistent, call.expiration_ms, call.attempt), (true, None, 1));
        assert_eq!((call.attempts_max, call.claimant.as_deref()), (Some(2), Some("n1")));
        assert_eq!(call.deadline_ms, u64::try_from(firing.deadline.as_millisecond()).unwrap());
        let header = |name: &str| call.headers[name].to_str().unwrap();
        assert_eq!(header("ce-specversion"), "1.0");
        assert_eq!(header("ce-id"), id.to_string());
        assert_eq!(header("ce-source"), "/namespaces/team-a/triggers/nightly");
        assert_eq!(
            (header("ce-type"), header("ce-time")),
            ("dev.funcatron.schedule", "2026-11-22T03:00:00Z")
        );
        assert!(call.body.is_empty());
    }
}
