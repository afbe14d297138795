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
        attempts_max: None,
        claimant: None,
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
        direct: Some(offer(false)),
        spilled: None,
        body: Bytes::from_static(b"body"),
    }
}

fn offer(body: bool) -> Offer {
    Offer {
        at: "[fd00::7]:8081".to_owned(),
        token: Token::parse("AAECAwQFBgcICQoLDA0ODw").unwrap(),
        body,
        line: false,
        upgrade: None,
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
    let envelope = call().to_envelope().unwrap();
    let Properties { kind, message_id, content_type, expiration_ms, user_id, .. } = &envelope.properties;
    assert_eq!(kind.as_deref(), Some("call"));
    assert_eq!(message_id.as_deref(), Some("01890a5d-ac96-774b-bcce-b302099a8057"));
    assert_eq!(content_type.as_deref(), Some("text/plain"));
    assert_eq!((*expiration_ms, user_id.as_deref()), (Some(30_000), None));
    let headers = &envelope.headers;
    assert_eq!((headers.len(), headers.int("fn-wire")), (2, Some(1)), "the content type is said once");
    let head: serde_json::Value = serde_json::from_str(headers.text("fn-call").unwrap()).unwrap();
    let expected = serde_json::json!({
        "deadline": 1_790_000_030_000_u64, "timeout": 30_000, "attempt": 1, "intent": "httprequest",
        "method": "POST", "url": "http://shop.example.com/v1/orders/7?x=1",
        "app": "shop", "fn": "orders", "revision": "orders-1a2b3c4d",
        "operation": "getOrder", "template": "/orders/{id}", "params": {"id": "7"},
        "direct": {"at": "[fd00::7]:8081", "token": "AAECAwQFBgcICQoLDA0ODw"},
    });
    assert_eq!(head, expected);
    assert_eq!(envelope.body, "body", "the HTTP body, untouched");
}

/// A call with something in its head replaced; `null` takes it out.
fn with(member: &str, value: serde_json::Value) -> Envelope {
    let mut envelope = call().to_envelope().unwrap();
    let mut head: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(envelope.headers.text("fn-call").unwrap()).unwrap();
    match value {
        serde_json::Value::Null => head.remove(member),
        value => head.insert(member.to_owned(), value),
    };
    envelope.headers.insert("fn-call", serde_json::to_string(&head).unwrap());
    envelope
}

#[test]
fn a_publication_that_is_to_be_claimed_says_by_what() {
    let sent = Call { claimant: Some("n1".to_owned()), ..call() };
    let envelope = sent.to_envelope().unwrap();
    let head: serde_json::Value = serde_json::from_str(envelope.headers.text("fn-call").unwrap()).unwrap();
    assert_eq!(head["claim"], "n1");
    assert_eq!(Call::from_envelope(envelope).unwrap(), sent);
    for odd in [String::new(), "x".repeat(65)] {
        let reason = Call::from_envelope(with("claim", odd.into())).unwrap_err().reason;
        assert!(reason.to_string().contains("1 to 64 bytes"), "{reason}");
    }
    assert!(!(0..9).any(|_| fresh_claimant() == fresh_claimant()));
}

#[test]
fn http_headers_stand_as_field_lines_and_bytes_survive() {
    let mut sent = call();
    sent.headers.append("x-a", HttpValue::from_static("1"));
    sent.headers.append("x-a", HttpValue::from_static("2"));
    let envelope = sent.to_envelope().unwrap();
    assert_eq!(envelope.headers.text("fn-headers"), Some("x-a: 1\r\nx-a: 2\r\n\r\n"));
    sent.headers.append("x-b", HttpValue::from_bytes(b"\xff\xfe").unwrap());
    let envelope = sent.to_envelope().unwrap();
    assert!(matches!(envelope.headers.get("fn-headers"), Some(HeaderValue::Bytes(_))));
    assert_eq!(Call::from_envelope(envelope).unwrap(), sent);
}

#[test]
fn a_content_type_that_fits_no_property_is_a_header() {
    let mut sent = call();
    let long = format!("text/plain; x={}", "y".repeat(300));
    sent.headers.insert(CONTENT_TYPE, HttpValue::try_from(&long).unwrap());
    let envelope = sent.to_envelope().unwrap();
    assert_eq!(envelope.properties.content_type, None);
    let lines = format!("content-type: {long}\r\n\r\n");
    assert_eq!(envelope.headers.text("fn-headers"), Some(lines.as_str()));
    assert_eq!(Call::from_envelope(envelope).unwrap(), sent);
}

#[test]
fn what_is_missing_is_named() {
    for member in ["deadline", "timeout", "attempt", "intent", "method", "url", "app", "fn", "revision"] {
        let reason = Call::from_envelope(with(member, serde_json::Value::Null)).unwrap_err().reason;
        assert!(reason.to_string().contains(&format!("missing field `{member}`")), "{reason}");
    }
    for name in ["fn-wire", "fn-call"] {
        let mut envelope = call().to_envelope().unwrap();
        envelope.headers.remove(name).unwrap();
        assert_eq!(Call::from_envelope(envelope).unwrap_err().reason, DecodeError::Missing(name));
    }
    for name in ["fn-wire", "fn-attempt", "fn-outcome", "fn-status"] {
        let mut envelope = reply().into_envelope().unwrap();
        envelope.headers.remove(name).unwrap();
        assert_eq!(Reply::from_envelope(envelope).unwrap_err(), DecodeError::Missing(name));
    }
    let mut envelope = call().to_envelope().unwrap();
    envelope.properties.message_id = None;
    assert_eq!(Call::from_envelope(envelope).unwrap_err().reason, DecodeError::Missing("message-id"));
    let mut envelope = reply().into_envelope().unwrap();
    envelope.properties.kind = None;
    assert_eq!(Reply::from_envelope(envelope).unwrap_err(), DecodeError::Missing("type"));
}

#[test]
fn what_has_another_type_is_named() {
    for name in ["fn-wire", "fn-call", "fn-headers"] {
        let mut broken = call().to_envelope().unwrap();
        broken.headers.insert(name, HeaderValue::Bool(true));
        let reason = Call::from_envelope(broken).unwrap_err().reason;
        assert!(
            matches!(&reason, DecodeError::Type { name: named, found: "a boolean", .. } if named == name),
            "{name}: {reason:?}"
        );
    }
    for member in ["deadline", "url", "params", "operation"] {
        let reason = Call::from_envelope(with(member, true.into())).unwrap_err().reason;
        assert!(reason.to_string().starts_with("fn-call is not valid: invalid type"), "{reason}");
    }
}

#[test]
fn a_senseless_value_is_named() {
    let cases: [(&str, serde_json::Value); 6] = [
        ("deadline", (-1).into()),
        ("timeout", i64::MIN.into()),
        ("attempt", 0.into()),
        ("attempt", i64::MAX.into()),
        ("intent", "steal".into()),
        ("method", "GET /".into()),
    ];
    for (member, value) in cases {
        let reason = Call::from_envelope(with(member, value)).unwrap_err().reason;
        assert!(matches!(&reason, DecodeError::Value { name, .. } if name == "fn-call"), "{reason:?}");
    }
    let unended = ["x: v", "x: v\r\n", "x", "x: a\r\n\r\ny: b\r\n\r\n", "\r\n\r\n"];
    for lines in unended.into_iter().chain([": v\r\n\r\n", "a b: v\r\n\r\n", "x: a\0\r\n\r\n", "x\r\n\r\n"]) {
        let mut envelope = call().to_envelope().unwrap();
        envelope.headers.insert("fn-headers", lines);
        let reason = Call::from_envelope(envelope).unwrap_err().reason;
        assert!(
            matches!(&reason, DecodeError::Value { name, .. } if name == "fn-headers"),
            "{lines:?}: {reason:?}"
        );
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
    let mut envelope = with("attempt", 3.into());
    envelope.headers.insert("fn-wire", 4);
    let refused = Call::from_envelope(envelope).unwrap_err();
    assert_eq!(refused.reason, DecodeError::Wire(4));
    assert_eq!(refused.id, Some(call().id));
    assert_eq!((refused.reply_to.as_deref(), refused.attempt), (Some("inst.gw.x7"), 3));
}

#[test]
fn a_call_whose_body_is_elsewhere_is_of_a_version_that_old_runners_refuse() {
    for (body, version) in [(false, 1), (true, 2)] {
        let offer =
            Offer { at: "10.0.0.1:8081".to_owned(), token: Token::fresh(), body, line: body, upgrade: None };
        let call = Call { direct: Some(offer), ..call() };
        let envelope = call.to_envelope().unwrap();
        assert_eq!(envelope.headers.int("fn-wire"), Some(version));
        assert_eq!(Call::from_envelope(envelope).unwrap(), call);
    }
    let mut envelope = reply().into_envelope().unwrap();
    envelope.headers.insert("fn-wire", 2);
    assert_eq!(Reply::from_envelope(envelope).unwrap_err(), DecodeError::Wire(2));
}

#[test]
fn a_call_whose_body_is_in_the_object_store_is_of_a_version_of_its_own() {
    let spilled = SpilledBody {
        digest: format!("sha256:{}", "0".repeat(64)),
        size: 41_943_040,
        at: "http://gateway/objects/team-a/shop/1?expires=1&signature=00".to_owned(),
    };
    let call = Call { spilled: Some(spilled.clone()), body: Bytes::new(), ..call() };
    let mut envelope = call.to_envelope().unwrap();
    assert_eq!((envelope.headers.int("fn-wire"), envelope.body.len()), (Some(3), 0));
    let head: serde_json::Value = serde_json::from_str(envelope.headers.text("fn-call").unwrap()).unwrap();
    assert_eq!(
        (&head["body"]["size"], &head["body"]["digest"]),
        (&41_943_040.into(), &spilled.digest.into())
    );
    assert_eq!(Call::from_envelope(envelope.clone()).unwrap(), call);
    // A function must not be called with the empty body of the message.
    let without = Call { spilled: None, ..call }.to_envelope().unwrap();
    envelope.headers.insert("fn-call", without.headers.text("fn-call").unwrap());
    let refused = Call::from_envelope(envelope).unwrap_err();
    assert_eq!(refused.reason.to_string(), "fn-call is not valid: body is missing");
}

#[test]
fn an_offer_to_switch_is_one_that_old_runners_overlook() {
    let call =
        Call { direct: Some(Offer { upgrade: Some("websocket".to_owned()), ..offer(false) }), ..call() };
    let envelope = call.to_envelope().unwrap();
    assert_eq!(envelope.headers.int("fn-wire"), Some(1));
    let head: serde_json::Value = serde_json::from_str(envelope.headers.text("fn-call").unwrap()).unwrap();
    assert_eq!(head["direct"]["upgrade"], "websocket");
    assert_eq!(Call::from_envelope(envelope).unwrap(), call);
}

#[test]
fn a_newer_minor_version_may_add_headers_and_members() {
    let mut envelope = with("new", "v".into());
    envelope.headers.insert("fn-new", HeaderValue::Void);
    envelope.headers.insert("x-death", HeaderValue::List(Vec::new()));
    assert_eq!(Call::from_envelope(envelope).unwrap(), call());
}

#[test]
fn too_much_is_refused_on_both_sides() {
    let mut envelope = call().to_envelope().unwrap();
    for n in 0..300 {
        envelope.headers.insert(format!("x-{n}"), "v");
    }
    assert!(matches!(Call::from_envelope(envelope).unwrap_err().reason, DecodeError::TooMany(_)));
    let mut envelope = reply().into_envelope().unwrap();
    envelope.headers.insert("fn-headers", format!("{}\r\n", "x: v\r\n".repeat(257)));
    assert!(matches!(Reply::from_envelope(envelope), Err(DecodeError::TooMany(257))));
    let params: serde_json::Map<_, _> = (0..257).map(|n| (n.to_string(), "v".into())).collect();
    let reason = Call::from_envelope(with("params", params.into())).unwrap_err().reason;
    assert_eq!(reason, DecodeError::TooMany(257));

    let mut many = call();
    for n in 0..300 {
        many.headers.insert(HeaderName::try_from(format!("x-{n}")).unwrap(), HttpValue::from_static("v"));
    }
    assert!(matches!(many.to_envelope(), Err(EncodeError::TooMany(_))));
    let mut large = reply();
    large.headers.insert("x-large", HttpValue::try_from("v".repeat(100_000)).unwrap());
    assert!(matches!(large.into_envelope(), Err(EncodeError::TooLarge(_))));
    let mut long = call();
    long.reply_to = Some("x".repeat(256));
    assert!(matches!(long.to_envelope(), Err(EncodeError::Long { .. })));
}

#[test]
fn a_record_that_makes_no_sense_still_names_its_call() {
    let Packed { together, alone } = pack("inst.team-a.shop", vec![reply(), reply()]);
    assert!(alone.is_empty());
    let mut message = together.into_iter().next().unwrap();
    assert_eq!((message.properties.kind.as_deref(), message.headers.len()), (Some("replies"), 1));
    let mut body = message.body.to_vec();
    // Behind length, id and attempt stands the status.
    body[24..26].copy_from_slice(&99_u16.to_be_bytes());
    message.body = body.into();
    let got = Reply::read_all(message);
    let refused = got[0].as_ref().unwrap_err();
    assert_eq!((refused.id, refused.attempt), (Some(reply().id), Some(2)));
    assert_eq!(refused.user_id, reply().user_id);
    assert_eq!(got[1].as_ref().unwrap(), &reply());
}

#[test]
fn a_message_of_replies_has_a_bound() {
    let small = Reply { body: vec![b'x'; 1_000].into(), ..reply() };
    let Packed { together, .. } = pack("inst.team-a.shop", vec![small; 200]);
    assert_eq!(together.len(), 4);
    let mut message = together.into_iter().next().unwrap();
    message.body = [message.body.clone(), message.body.clone()].concat().into();
    let got = Reply::read_all(message);
    assert!(matches!(got.as_slice(), [Err(Unread { id: None, .. })]), "{}", got.len());
}

#[test]
fn a_large_reply_travels_by_itself() {
    let large = Reply { body: vec![b'x'; 17_000].into(), ..reply() };
    let Packed { alone, together } = pack("inst.team-a.shop", vec![reply(), large.clone()]);
    assert_eq!((alone, together.len()), (vec![large, reply()], 0), "and one has no company");
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
    // White space around a value is no part of it (RFC 9110, 5.5).
    proptest::collection::vec(prop_oneof![32_u8..=126, 128_u8..=255, Just(9_u8)], 0..40)
        .prop_map(|bytes| HttpValue::from_bytes(bytes.trim_ascii()).unwrap())
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
        (persistent, attempt, attempts_max) in (any::<bool>(), 1..=u32::MAX, any::<Option<u32>>()),
        claimant in proptest::option::of("[0-9a-f]{1,64}"),
        intent in prop_oneof![Just(Intent::HttpRequest), Just(Intent::Invoke)],
        method in "[A-Z]{1,10}",
        (url, app, fn_name, revision) in (".{0,80}", ".{0,40}", ".{0,40}", ".{0,40}"),
        (operation, template) in (any::<Option<String>>(), any::<Option<String>>()),
        params in proptest::collection::btree_map("[a-z]{1,20}", ".{0,40}", 0..5),
        headers in http_headers(),
        direct in any::<Option<bool>>(),
        spilled in proptest::option::of(("[0-9a-f]{64}", any::<u64>(), ".{0,80}")),
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) -> Call {
        Call {
            id: CallId::from_uuid(uuid::Uuid::from_u128(id)),
            reply_to, deadline_ms, timeout_ms, expiration_ms, timestamp_s, persistent, attempt, attempts_max, claimant,
            intent,
            method: Method::from_bytes(method.as_bytes()).unwrap(),
            url, app, fn_name, revision, operation, template,
            params: params.into_iter().collect(),
            headers,
            direct: direct.map(offer),
            spilled: spilled.map(|(digest, size, at)| SpilledBody { digest, size, at }),
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
            "fn-wire", "fn-call", "fn-headers", "fn-attempt", "fn-outcome", "fn-status",
        ]).prop_map(str::to_owned),
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
        prop_assert_eq!(Call::from_envelope(sent.to_envelope().unwrap()).unwrap(), sent);
    }

    #[test]
    fn an_answer_comes_back_as_it_went(
        status in 200_u16..=599, headers in http_headers(), attempt in 1..=u32::MAX, body in ".{0,80}",
    ) {
        let outcome = Outcome::Answer(StatusCode::from_u16(status).unwrap());
        let sent = Reply { outcome, headers, attempt, body: body.into(), ..reply() };
        prop_assert_eq!(Reply::from_envelope(sent.clone().into_envelope().unwrap()).unwrap(), sent);
    }

    #[test]
    fn replies_come_back_together_as_they_went(
        sent in proptest::collection::vec((http_headers(), 1..=u32::MAX, any::<bool>(), 0_usize..18_000), 0..8),
    ) {
        let replies: Vec<Reply> = sent.into_iter().enumerate().map(|(n, (headers, attempt, failed, size))| {
            let outcome = if failed { Outcome::Failed } else { reply().outcome };
            let id = CallId::from_uuid(uuid::Uuid::from_u128(n as u128));
            Reply { id, headers, attempt, outcome, body: vec![b'x'; size].into(), ..reply() }
        }).collect();
        let Packed { alone, together } = pack("inst.team-a.shop", replies.clone());
        prop_assert!(together.iter().all(|message| message.body.len() <= 64 * 1024));
        let messages = alone.into_iter().map(|reply| reply.into_envelope().unwrap()).chain(together);
        let mut got: Vec<Reply> =
            messages.flat_map(Reply::read_all).collect::<Result<_, _>>().unwrap();
        got.sort_by_key(|reply| reply.id);
        prop_assert_eq!(got, replies);
    }

    /// A record's parts, cut and overwritten: no panic, and those before it are read.
    #[test]
    fn a_hostile_record_hurts_no_other(
        at in 0_usize..400, value in any::<u8>(), cut in proptest::option::of(0_usize..400),
    ) {
        let Packed { together, .. } = pack("inst.team-a.shop", vec![reply(), reply(), reply()]);
        let mut message = together.into_iter().next().unwrap();
        let mut body = message.body.to_vec();
        let third = body.len() / 3;
        if let Some(byte) = body.get_mut(third + at) {
            *byte = value;
        }
        body.truncate(cut.map_or(body.len(), |cut| (third + cut).min(body.len())));
        message.body = body.into();
        let got = Reply::read_all(message);
        prop_assert_eq!(got[0].as_ref().unwrap(), &reply());
    }

    /// Whatever is overwritten with whatever: an error or a message, and never a panic.
    #[test]
    fn a_hostile_envelope_never_panics(
        hostile in proptest::collection::vec(any_header(), 0..8),
        content_type in any_property(),
        id in any_property(),
        kind in proptest::sample::select(vec!["call", "reply", "replies", "wake", "report", "cancel"]),
        body in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut envelope = call().to_envelope().unwrap();
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
        let _ = Reply::read_all(envelope.clone());
        if let Ok(call) = Call::from_envelope(envelope) {
            // What was understood can be passed on, unless it is too much.
            let _ = call.to_envelope();
        }
    }
}

#[test]
fn headers_are_equal_in_any_order() {
    let one: Headers = [("a".to_owned(), 1.into()), ("b".to_owned(), 2.into())].into_iter().collect();
    let other: Headers = [("b".to_owned(), 2.into()), ("a".to_owned(), 1.into())].into_iter().collect();
    assert_eq!(one, other);
}
