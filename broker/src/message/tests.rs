use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue as HttpValue};
use http::{Method, StatusCode};
use proptest::prelude::*;

use super::*;
use crate::envelope::{HeaderValue, Headers, Properties};

fn call() -> Call {
    Call {
        id: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
        reply_to: Some("inst.gw.x7".to_owned()),
        deadline_ms: 1_790_000_030_000,
        timeout_ms: 30_000,
        expiration_ms: Some(30_000),
        timestamp_s: Some(1_790_000_000),
        persistent: false,
        attempt: 1,
        intent: Intent::HttpRequest,
        method: Method::POST,
        url: "http://shop.example.com/v1/orders/7?x=1".to_owned(),
        app: "shop".to_owned(),
        fn_name: "orders".to_owned(),
        revision: "orders-1a2b3c4d".to_owned(),
        operation: Some("getOrder".to_owned()),
        template: Some("/orders/{id}".to_owned()),
        params: vec![("id".to_owned(), "7".to_owned())],
        headers: HeaderMap::from_iter([(CONTENT_TYPE, HttpValue::from_static("text/plain"))]),
        body: Bytes::from_static(b"body"),
    }
}

fn reply() -> Reply {
    Reply {
        id: call().id,
        user_id: Some("inst.team-a.shop".to_owned()),
        attempt: 2,
        outcome: Outcome::Answer(StatusCode::CREATED),
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"done"),
    }
}

#[test]
fn a_call_stands_on_the_wire_as_documented() {
    let envelope = call().into_envelope().unwrap();
    let Properties { kind, message_id, content_type, expiration_ms, user_id, .. } = &envelope.properties;
    assert_eq!(kind.as_deref(), Some("call"));
    assert_eq!(message_id.as_deref(), Some("01890a5d-ac96-774b-bcce-b302099a8057"));
    assert_eq!(content_type.as_deref(), Some("text/plain"));
    assert_eq!((*expiration_ms, user_id.as_deref()), (Some(30_000), None));
    let headers = &envelope.headers;
    for (name, number) in
        [("fn-wire", 1), ("fn-deadline", 1_790_000_030_000), ("fn-timeout", 30_000), ("fn-attempt", 1)]
    {
        assert_eq!(headers.int(name), Some(number), "{name}");
    }
    for (name, text) in [
        ("fn-intent", "httprequest"),
        ("fn-method", "POST"),
        ("fn-url", "http://shop.example.com/v1/orders/7?x=1"),
        ("fn-app", "shop"),
        ("fn-name", "orders"),
        ("fn-revision", "orders-1a2b3c4d"),
        ("fn-operation", "getOrder"),
        ("fn-template", "/orders/{id}"),
    ] {
        assert_eq!(headers.text(name), Some(text), "{name}");
    }
    assert!(headers.get("http:content-type").is_none(), "once is enough");
    assert_eq!(envelope.body, "body", "the HTTP body, untouched");
}

#[test]
fn repeated_http_headers_are_a_list_and_bytes_survive() {
    let mut sent = call();
    sent.headers.append("x-a", HttpValue::from_static("1"));
    sent.headers.append("x-a", HttpValue::from_static("2"));
    sent.headers.append("x-b", HttpValue::from_bytes(b"\xff\xfe").unwrap());
    let envelope = sent.clone().into_envelope().unwrap();
    assert_eq!(envelope.headers.get("http:x-a"), Some(&HeaderValue::List(vec!["1".into(), "2".into()])));
    assert_eq!(Call::from_envelope(envelope).unwrap(), sent);
}

#[test]
fn a_content_type_that_fits_no_property_is_a_header() {
    let mut sent = call();
    let long = format!("text/plain; x={}", "y".repeat(300));
    sent.headers.insert(CONTENT_TYPE, HttpValue::try_from(&long).unwrap());
    let envelope = sent.clone().into_envelope().unwrap();
    assert_eq!(envelope.properties.content_type, None);
    assert_eq!(envelope.headers.text("http:content-type"), Some(long.as_str()));
    assert_eq!(Call::from_envelope(envelope).unwrap(), sent);
}

#[test]
fn what_is_missing_is_named() {
    for name in [
        "fn-wire",
        "fn-deadline",
        "fn-timeout",
        "fn-attempt",
        "fn-intent",
        "fn-method",
        "fn-url",
        "fn-app",
        "fn-name",
        "fn-revision",
    ] {
        let mut envelope = call().into_envelope().unwrap();
        envelope.headers.remove(name).unwrap();
        assert_eq!(Call::from_envelope(envelope).unwrap_err().reason, DecodeError::Missing(name));
    }
    for name in ["fn-wire", "fn-attempt", "fn-outcome", "fn-status"] {
        let mut envelope = reply().into_envelope().unwrap();
        envelope.headers.remove(name).unwrap();
        assert_eq!(Reply::from_envelope(envelope).unwrap_err(), DecodeError::Missing(name));
    }
    let mut envelope = call().into_envelope().unwrap();
    envelope.properties.message_id = None;
    assert_eq!(Call::from_envelope(envelope).unwrap_err().reason, DecodeError::Missing("message-id"));
    let mut envelope = reply().into_envelope().unwrap();
    envelope.properties.kind = None;
    assert_eq!(Reply::from_envelope(envelope).unwrap_err(), DecodeError::Missing("type"));
}

#[test]
fn what_has_another_type_is_named() {
    let envelope = call().into_envelope().unwrap();
    let names: Vec<String> = envelope.headers.iter().map(|(name, _)| name.to_owned()).collect();
    for name in names {
        let mut broken = envelope.clone();
        broken.headers.insert(name.clone(), HeaderValue::Bool(true));
        let reason = Call::from_envelope(broken).unwrap_err().reason;
        assert!(
            matches!(&reason, DecodeError::Type { name: named, found: "a boolean", .. } if *named == name),
            "{name}: {reason:?}"
        );
    }
}

#[test]
fn a_senseless_value_is_named() {
    let cases: [(&str, HeaderValue); 12] = [
        ("fn-deadline", (-1).into()),
        ("fn-timeout", i64::MIN.into()),
        ("fn-attempt", 0.into()),
        ("fn-attempt", i64::MAX.into()),
        ("fn-intent", "steal".into()),
        ("fn-method", "GET /".into()),
        ("http:x", "a\r\nb".into()),
        ("http:X-Upper", "v".into()),
        ("http:", "v".into()),
        ("http:a b", "v".into()),
        ("http:x", HeaderValue::List(vec!["a".into(), "\0".into()])),
        ("http:x", HeaderValue::Bytes(Bytes::from_static(b"\n"))),
    ];
    for (name, value) in cases {
        let mut envelope = call().into_envelope().unwrap();
        envelope.headers.insert(name, value);
        let reason = Call::from_envelope(envelope).unwrap_err().reason;
        assert!(matches!(&reason, DecodeError::Value { name: named, .. } if named == name), "{reason:?}");
    }
    for status in [-1, 0, 101, 199, 600, 65_536 + 200] {
        let mut envelope = reply().into_envelope().unwrap();
        envelope.headers.insert("fn-status", status);
        let error = Reply::from_envelope(envelope).unwrap_err();
        assert!(matches!(error, DecodeError::Value { .. }), "{status}");
    }
}

#[test]
fn an_unknown_major_version_can_be_answered() {
    let mut envelope = call().into_envelope().unwrap();
    envelope.headers.insert("fn-wire", 2);
    envelope.headers.insert("fn-attempt", 3);
    let refused = Call::from_envelope(envelope).unwrap_err();
    assert_eq!(refused.reason, DecodeError::Wire(2));
    assert_eq!(refused.id, Some(call().id));
    assert_eq!((refused.reply_to.as_deref(), refused.attempt), (Some("inst.gw.x7"), 3));
}

#[test]
fn a_newer_minor_version_may_add_headers() {
    let mut envelope = call().into_envelope().unwrap();
    envelope.headers.insert("fn-new", HeaderValue::Void);
    envelope.headers.insert("x-death", HeaderValue::List(Vec::new()));
    assert_eq!(Call::from_envelope(envelope).unwrap(), call());
}

#[test]
fn too_much_is_refused_on_both_sides() {
    let mut envelope = call().into_envelope().unwrap();
    for n in 0..300 {
        envelope.headers.insert(format!("http:x-{n}"), "v");
    }
    assert!(matches!(Call::from_envelope(envelope).unwrap_err().reason, DecodeError::TooMany(_)));
    let mut envelope = reply().into_envelope().unwrap();
    envelope.headers.insert("http:x", HeaderValue::List(vec!["v".into(); 257]));
    assert!(matches!(Reply::from_envelope(envelope), Err(DecodeError::TooMany(257))));

    let mut many = call();
    for n in 0..300 {
        many.headers.insert(HeaderName::try_from(format!("x-{n}")).unwrap(), HttpValue::from_static("v"));
    }
    assert!(matches!(many.into_envelope(), Err(EncodeError::TooMany(_))));
    let mut large = reply();
    large.headers.insert("x-large", HttpValue::try_from("v".repeat(100_000)).unwrap());
    assert!(matches!(large.into_envelope(), Err(EncodeError::TooLarge(_))));
    let mut long = call();
    long.headers.insert(HeaderName::try_from("x".repeat(255)).unwrap(), HttpValue::from_static("v"));
    assert!(matches!(long.into_envelope(), Err(EncodeError::Long { .. })));
    let mut long = call();
    long.reply_to = Some("x".repeat(256));
    assert!(matches!(long.into_envelope(), Err(EncodeError::Long { .. })));
}

#[test]
fn every_outcome_comes_back() {
    for outcome in [
        Outcome::Failed,
        Outcome::TimedOut,
        Outcome::RunnerLost,
        Outcome::NotHere,
        Outcome::Expired,
        Outcome::BadWire,
    ] {
        let sent = Reply::without_answer(call().id, "inst.team-a.shop", 1, outcome, "why");
        assert_eq!(Reply::from_envelope(sent.clone().into_envelope().unwrap()).unwrap(), sent);
    }
}

fn wake() -> Wake {
    Wake {
        kind: WakeKind::Call,
        namespace: "team-a".to_owned(),
        app: "shop".to_owned(),
        fn_name: "orders".to_owned(),
        revision: "orders-1a2b3c4d".to_owned(),
        run: "sha256:00".to_owned(),
        run_url: "http://gateway/bundles/x".to_owned(),
        code: None,
        code_url: None,
        queue: "inst.team-a.shop.rev.orders-1a2b3c4d".to_owned(),
        durable_queue: None,
    }
}

fn report() -> Report {
    Report {
        user_id: Some("inst.team-a.shop".to_owned()),
        event: ReportEvent::KeyMissing,
        namespace: "team-a".to_owned(),
        app: "shop".to_owned(),
        fn_name: "orders".to_owned(),
        revision: "orders-1a2b3c4d".to_owned(),
        runner: "shop-python-runners-x".to_owned(),
        reason: Some("Secret db has no key url".to_owned()),
        log: None,
    }
}

#[test]
fn notes_come_back_and_stand_on_the_wire_as_documented() {
    let envelope = wake().into_envelope(250).unwrap();
    assert_eq!(envelope.properties.expiration_ms, Some(250));
    let json: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&envelope.body).unwrap();
    let members: Vec<&str> = json.keys().map(String::as_str).collect();
    assert_eq!(members, ["app", "fn", "kind", "namespace", "queue", "revision", "run", "runUrl"]);
    assert_eq!(Wake::from_envelope(&envelope).unwrap(), wake());

    let envelope = report().into_envelope().unwrap();
    assert_eq!(envelope.properties.user_id.as_deref(), Some("inst.team-a.shop"));
    let json: serde_json::Value = serde_json::from_slice(&envelope.body).unwrap();
    assert_eq!(json["event"], "keyMissing");
    assert!(json.get("userId").is_none(), "only the broker's word counts");
    assert_eq!(Report::from_envelope(&envelope).unwrap(), report());

    let cancel = Cancel { id: call().id };
    assert_eq!(Cancel::from_envelope(&cancel.into_envelope()).unwrap(), cancel);
}

#[test]
fn a_report_keeps_the_end_of_a_long_log() {
    let mut long = report();
    long.log = Some(format!("{}ééé the end", "é".repeat(2_000)));
    let got = Report::from_envelope(&long.into_envelope().unwrap()).unwrap();
    let log = got.log.unwrap();
    assert!(log.len() <= 1_024 && log.ends_with("the end"), "{}", log.len());
}

#[test]
fn a_hostile_note_is_an_error() {
    for body in ["", "null", "[]", r#"{"event":"loaded"}"#, r#"{"event":"conquered"}"#, "\u{0}"] {
        let mut envelope = report().into_envelope().unwrap();
        envelope.body = Bytes::from_static(body.as_bytes());
        assert!(matches!(Report::from_envelope(&envelope), Err(DecodeError::Body(_))), "{body}");
    }
    let mut envelope = report().into_envelope().unwrap();
    envelope.body = Bytes::from(vec![b' '; JSON_BYTES_MAX + 1]);
    assert!(matches!(Report::from_envelope(&envelope), Err(DecodeError::Body(_))));
    let wake = wake().into_envelope(1).unwrap();
    assert!(matches!(Report::from_envelope(&wake), Err(DecodeError::Kind { expected: "report", .. })));
    assert!(!is_ours(&Envelope::default()));
}

fn header_name() -> impl Strategy<Value = HeaderName> {
    "[a-z][a-z0-9-]{0,30}".prop_map(|name| HeaderName::try_from(name).unwrap())
}

fn http_value() -> impl Strategy<Value = HttpValue> {
    proptest::collection::vec(prop_oneof![32_u8..=126, 128_u8..=255, Just(9_u8)], 0..40)
        .prop_map(|bytes| HttpValue::from_bytes(&bytes).unwrap())
}

fn http_headers() -> impl Strategy<Value = HeaderMap> {
    let name = prop_oneof![4 => header_name(), 1 => Just(CONTENT_TYPE)];
    proptest::collection::vec((name, http_value()), 0..20).prop_map(|pairs| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        headers
    })
}

prop_compose! {
    fn any_call()(
        id in any::<u128>(),
        reply_to in proptest::option::of("[a-z.]{1,255}"),
        (deadline_ms, timeout_ms) in (0..i64::MAX as u64, 0..i64::MAX as u64),
        (expiration_ms, timestamp_s) in (any::<Option<u64>>(), any::<Option<u64>>()),
        (persistent, attempt) in (any::<bool>(), 1..=u32::MAX),
        intent in prop_oneof![Just(Intent::HttpRequest), Just(Intent::Invoke)],
        method in "[A-Z]{1,10}",
        (url, app, fn_name, revision) in (".{0,80}", ".{0,40}", ".{0,40}", ".{0,40}"),
        (operation, template) in (any::<Option<String>>(), any::<Option<String>>()),
        params in proptest::collection::btree_map("[a-z]{1,20}", ".{0,40}", 0..5),
        headers in http_headers(),
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) -> Call {
        Call {
            id: CallId::from_uuid(uuid::Uuid::from_u128(id)),
            reply_to, deadline_ms, timeout_ms, expiration_ms, timestamp_s, persistent, attempt, intent,
            method: Method::from_bytes(method.as_bytes()).unwrap(),
            url, app, fn_name, revision, operation, template,
            params: params.into_iter().collect(),
            headers,
            body: body.into(),
        }
    }
}

fn any_value() -> impl Strategy<Value = HeaderValue> {
    let leaf = prop_oneof![
        any::<String>().prop_map(HeaderValue::Text),
        any::<i64>().prop_map(HeaderValue::Int),
        any::<bool>().prop_map(HeaderValue::Bool),
        any::<f64>().prop_map(HeaderValue::Float),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| HeaderValue::Bytes(bytes.into())),
        Just(HeaderValue::Void),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(HeaderValue::List),
            proptest::collection::vec((any::<String>(), inner), 0..4)
                .prop_map(|pairs| HeaderValue::Table(pairs.into_iter().collect())),
        ]
    })
}

fn any_header() -> impl Strategy<Value = (String, HeaderValue)> {
    let name = prop_oneof![
        3 => proptest::sample::select(vec![
            "fn-wire", "fn-deadline", "fn-timeout", "fn-attempt", "fn-intent", "fn-method", "fn-url",
            "fn-app", "fn-name", "fn-revision", "fn-operation", "fn-template", "fn-params", "fn-outcome",
            "fn-status",
        ]).prop_map(str::to_owned),
        1 => any::<String>().prop_map(|name| format!("http:{name}")),
        1 => any::<String>(),
    ];
    (name, any_value())
}

fn any_property() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(prop_oneof![
        any::<String>(),
        Just("01890a5d-ac96-774b-bcce-b302099a8057".to_owned())
    ])
}

proptest! {
    #[test]
    fn a_call_comes_back_as_it_went(sent in any_call()) {
        prop_assert_eq!(Call::from_envelope(sent.clone().into_envelope().unwrap()).unwrap(), sent);
    }

    #[test]
    fn an_answer_comes_back_as_it_went(
        status in 200_u16..=599, headers in http_headers(), attempt in 1..=u32::MAX, body in ".{0,80}",
    ) {
        let outcome = Outcome::Answer(StatusCode::from_u16(status).unwrap());
        let sent = Reply { outcome, headers, attempt, body: body.into(), ..reply() };
        prop_assert_eq!(Reply::from_envelope(sent.clone().into_envelope().unwrap()).unwrap(), sent);
    }

    /// Whatever is overwritten with whatever: an error or a message, and never a panic.
    #[test]
    fn a_hostile_envelope_never_panics(
        hostile in proptest::collection::vec(any_header(), 0..8),
        content_type in any_property(),
        id in any_property(),
        kind in proptest::sample::select(vec!["call", "reply", "wake", "report", "cancel"]),
        body in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut envelope = call().into_envelope().unwrap();
        for (name, value) in hostile {
            envelope.headers.insert(name, value);
        }
        envelope.properties.kind = Some(kind.to_owned());
        envelope.properties.content_type = content_type;
        envelope.properties.message_id = id.clone();
        envelope.properties.correlation_id = id;
        envelope.body = body.into();
        let _ = Wake::from_envelope(&envelope);
        let _ = Report::from_envelope(&envelope);
        let _ = Cancel::from_envelope(&envelope);
        let _ = Reply::from_envelope(envelope.clone());
        if let Ok(call) = Call::from_envelope(envelope) {
            // What was understood can be passed on, unless it is too much.
            let _ = call.into_envelope();
        }
    }
}

#[test]
fn headers_are_equal_in_any_order() {
    let one: Headers = [("a".to_owned(), 1.into()), ("b".to_owned(), 2.into())].into_iter().collect();
    let other: Headers = [("b".to_owned(), 2.into()), ("a".to_owned(), 1.into())].into_iter().collect();
    assert_eq!(one, other);
}
