use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::message::{Intent, is_ours};

fn id() -> CallId {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap()
}

fn event(happened: Happened) -> CallEvent {
    CallEvent {
        user_id: Some("inst.team-a.shop".to_owned()),
        id: id(),
        namespace: "team-a".to_owned(),
        app: "shop".to_owned(),
        fn_name: "mail".to_owned(),
        at_ms: 1_790_000_000_000,
        happened,
    }
}

fn request() -> RecordedRequest {
    RecordedRequest {
        method: "POST".to_owned(),
        url: "http://shop.example.com/mail?x=1".to_owned(),
        headers: vec![("content-type".to_owned(), "text/plain".to_owned())],
        body: RecordedBody::of(&Bytes::from_static(b"hello")),
        cut: false,
        intent: Intent::HttpRequest,
        timeout: 30_000,
        attempts_max: Some(3),
        age_max_ms: Some(60_000),
        revision: Some("mail-1a2b3c4d".to_owned()),
        operation: None,
        template: Some("/mail/{to}".to_owned()),
        params: BTreeMap::from([("to".to_owned(), "me".to_owned())]),
    }
}

fn ended(answer: RecordedAnswer, log: String) -> Happened {
    Happened::Ended {
        attempt: 2,
        revision: "mail-1a2b3c4d".to_owned(),
        runner: "shop-python-x7".to_owned(),
        outcome: Ended::Error,
        is_final: false,
        reason: Some("it broke".to_owned()),
        answer: Some(Box::new(answer)),
        log: Some(log),
    }
}

fn answer(body: &Bytes) -> RecordedAnswer {
    RecordedAnswer::of(StatusCode::INTERNAL_SERVER_ERROR, &HeaderMap::new(), body)
}

fn body_of(envelope: &Envelope) -> Value {
    serde_json::from_slice(&envelope.body).unwrap()
}

#[test]
fn every_event_comes_back() {
    let (revision, runner) = ("mail-1a2b3c4d".to_owned(), "shop-python-x7".to_owned());
    let all = [
        Happened::Queued { source: Source::Http, request: Some(Box::new(request())), retry_of: Some(id()) },
        Happened::Queued { source: Source::Schedule, request: None, retry_of: None },
        Happened::Started { attempt: 1, revision, runner },
        ended(answer(&Bytes::from_static(b"oops")), "Traceback".to_owned()),
        Happened::Dead { reason: "tried four times".to_owned() },
        Happened::Cancelled,
    ];
    for happened in all {
        let sent = event(happened);
        let envelope = sent.clone().into_envelope().unwrap();
        assert!(is_ours(&envelope) && envelope.properties.persistent);
        assert_eq!(LedgerMessage::from_envelope(&envelope), Ok(LedgerMessage::Call(sent)));
    }
}

#[test]
fn an_event_stands_on_the_wire_as_documented() {
    let happened =
        Happened::Queued { source: Source::Http, request: Some(Box::new(request())), retry_of: None };
    let envelope = event(happened).into_envelope().unwrap();
    assert_eq!(envelope.properties.kind.as_deref(), Some("call-event"));
    assert_eq!(envelope.properties.message_id.as_deref(), Some("01890a5d-ac96-774b-bcce-b302099a8057"));
    assert_eq!(envelope.properties.user_id.as_deref(), Some("inst.team-a.shop"));
    let expected = json!({
        "kind": "queued", "namespace": "team-a", "app": "shop", "fn": "mail", "at": 1_790_000_000_000_u64,
        "source": "http",
        "request": {
            "method": "POST", "url": "http://shop.example.com/mail?x=1",
            "headers": [["content-type", "text/plain"]],
            "body": "aGVsbG8=", "bodyBytes": 5, "truncated": false, "cut": false,
            "intent": "httprequest", "timeout": 30_000, "maxAttempts": 3, "maxAge": 60_000,
            "revision": "mail-1a2b3c4d",
            "template": "/mail/{to}", "params": {"to": "me"},
        },
    });
    assert_eq!(body_of(&envelope), expected);
    let envelope = event(ended(answer(&Bytes::new()), "log".to_owned())).into_envelope().unwrap();
    let body = body_of(&envelope);
    assert_eq!(
        (&body["outcome"], &body["final"], &body["attempt"]),
        (&json!("error"), &json!(false), &json!(2))
    );
    assert_eq!(body["answer"]["status"], 500);
}

#[test]
fn what_is_long_is_cut_and_says_so() {
    let large = Bytes::from(vec![0_u8; BODY_BYTES_KEPT + 1]);
    // The worst that JSON makes of text: six bytes for one.
    let log = format!("first{}", "\u{1}".repeat(LOG_BYTES_KEPT));
    let mut answer = answer(&large);
    answer.headers = (0..300).map(|n| (format!("x-{n}"), "\"".repeat(1024))).collect();
    let envelope = event(ended(answer, log)).into_envelope().unwrap();
    assert!(envelope.body.len() <= EVENT_BYTES_MAX);
    let read = CallEvent::from_envelope(&envelope).unwrap();
    let Happened::Ended { answer: Some(answer), log: Some(log), .. } = read.happened else { panic!("ended") };
    assert_eq!((answer.body.bytes.len(), answer.body.body_bytes), (BODY_BYTES_KEPT, 64 * 1024 + 1));
    assert!(answer.body.truncated && answer.cut && answer.headers.len() < 20);
    assert!(!log.contains("first") && log.len() == LOG_BYTES_KEPT);
    let mut long = request();
    long.url = "\u{1}".repeat(100_000);
    long.params = (0..10_000).map(|n| (n.to_string(), "v".to_owned())).collect();
    let queued = Happened::Queued { source: Source::Http, request: Some(Box::new(long)), retry_of: None };
    let envelope = event(queued).into_envelope().unwrap();
    let read = CallEvent::from_envelope(&envelope).unwrap();
    let Happened::Queued { request: Some(request), .. } = read.happened else { panic!("queued") };
    assert!(request.cut && request.params.is_empty() && request.url.len() == 8 * 1024);
}

#[test]
fn a_recorded_request_knows_the_attempts_and_the_age_of_its_call() {
    let call = |submitted_ms: u64, age_ms: u64, waits: bool| crate::message::Call {
        id: id(),
        reply_to: waits.then(|| "inst.gw.x".to_owned()),
        deadline_ms: submitted_ms.saturating_add(age_ms),
        timeout_ms: 1_000,
        expiration_ms: None,
        timestamp_s: Some(submitted_ms / 1000),
        persistent: !waits,
        attempt: 1,
        attempts_max: Some(7),
        claimant: None,
        direct: None,
        spilled: None,
        intent: Intent::Invoke,
        method: http::Method::POST,
        url: "http://shop.example.com/mail".to_owned(),
        app: "shop".to_owned(),
        fn_name: "mail".to_owned(),
        revision: "mail-1".to_owned(),
        operation: None,
        template: None,
        params: Vec::new(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
    };
    let of = |submitted_ms, age_ms, waits| {
        let request = RecordedRequest::of(&call(submitted_ms, age_ms, waits));
        assert_eq!(request.attempts_max, Some(7));
        request.age_max_ms
    };
    for submitted_ms in [1_790_000_000_000, 1_790_000_000_999] {
        assert_eq!(of(submitted_ms, 60_000, false), Some(60_000));
        assert_eq!(of(submitted_ms, 60_000, true), None, "a timeout is no age");
    }
    assert_eq!(of(1_790_000_000_000, 0, false), None);
    assert_eq!(of(0, u64::MAX, false), Some(168 * 3_600_000));
}

#[test]
fn what_a_foreign_sender_did_not_cut_is_cut_on_arrival() {
    let envelope = event(ended(answer(&Bytes::new()), String::new())).into_envelope().unwrap();
    let mut body = body_of(&envelope);
    body["log"] = json!("x".repeat(LOG_BYTES_KEPT + 1));
    body["answer"]["headers"] = json!([["X-Session-Token", "t"], ["Cookie", "c"], ["x-plain", "p"]]);
    let envelope = Envelope { body: serde_json::to_vec(&body).unwrap().into(), ..envelope };
    let read = CallEvent::from_envelope(&envelope).unwrap();
    let Happened::Ended { answer: Some(answer), log: Some(log), .. } = read.happened else { panic!("ended") };
    assert_eq!(log.len(), LOG_BYTES_KEPT);
    let values: Vec<&str> = answer.headers.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["[redacted]", "[redacted]", "p"]);
}

#[test]
fn credentials_are_redacted_by_the_names_of_their_headers() {
    let secret = [
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
        "x-csrf-token",
        "client-secret-hash",
        "x-password",
    ];
    let mut headers = HeaderMap::new();
    for name in secret.into_iter().chain(["content-type", "x-request-id"]) {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static("value"));
    }
    let answer = RecordedAnswer::of(StatusCode::OK, &headers, &Bytes::new());
    for (name, value) in &answer.headers {
        let expected = if secret.contains(&name.as_str()) { "[redacted]" } else { "value" };
        assert_eq!(value, expected, "{name}");
    }
}

#[test]
fn a_hostile_event_is_an_error() {
    let envelope = event(ended(answer(&Bytes::new()), String::new())).into_envelope().unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = body_of(&envelope);
        change(&mut body);
        CallEvent::from_envelope(&Envelope {
            body: serde_json::to_vec(&body).unwrap().into(),
            ..envelope.clone()
        })
        .unwrap_err()
        .to_string()
    };
    assert!(with(&|body| body["attempt"] = json!(0)).contains("attempt"));
    assert!(with(&|body| body["runner"] = json!("r".repeat(256))).contains("runner"));
    assert!(with(&|body| body["answer"]["status"] = json!(1)).contains("status"));
    assert!(with(&|body| body["answer"]["body"] = json!("§")).contains("body"));
    assert!(with(&|body| body["kind"] = json!("eaten")).contains("eaten"));
    let mut nameless = envelope.clone();
    nameless.properties.message_id = None;
    assert_eq!(CallEvent::from_envelope(&nameless), Err(DecodeError::Missing("message-id")));
    let large = Envelope { body: vec![b' '; EVENT_BYTES_MAX + 1].into(), ..envelope.clone() };
    assert!(CallEvent::from_envelope(&large).is_err());
}

#[test]
fn no_attempt_is_beyond_what_a_durable_queue_delivers() {
    let started = |attempt| {
        let (revision, runner) = ("mail-1".to_owned(), "x".to_owned());
        event(Happened::Started { attempt, revision, runner }).into_envelope().unwrap()
    };
    let ended = |attempt| {
        let mut happened = ended(answer(&Bytes::new()), String::new());
        let Happened::Ended { attempt: of, .. } = &mut happened else { unreachable!() };
        *of = attempt;
        event(happened).into_envelope().unwrap()
    };
    let claimed = |attempt| Claim { attempt, ..claim() }.into_envelope().unwrap();
    for attempt in [1, 101] {
        for envelope in [started(attempt), ended(attempt), claimed(attempt)] {
            assert!(LedgerMessage::from_envelope(&envelope).is_ok(), "{attempt}");
        }
    }
    for attempt in [0, 102, u32::MAX] {
        for envelope in [started(attempt), ended(attempt), claimed(attempt)] {
            let why = LedgerMessage::from_envelope(&envelope).unwrap_err().to_string();
            assert!(why.contains("attempt") && why.contains("1 to 101"), "{why}");
        }
    }
}

#[test]
fn an_apps_word_comes_back() {
    let app = AppEvent {
        user_id: None,
        namespace: "team-a".to_owned(),
        app: "shop".to_owned(),
        at_ms: 7,
        retention_ms: Some(1_000),
        record: Record::All,
        deleted: false,
    };
    let envelope = app.clone().into_envelope().unwrap();
    assert_eq!(envelope.properties.kind.as_deref(), Some("app-event"));
    let expected = json!({
        "namespace": "team-a", "app": "shop", "at": 7, "retention": 1_000, "record": "All", "deleted": false,
    });
    assert_eq!(body_of(&envelope), expected);
    assert_eq!(LedgerMessage::from_envelope(&envelope), Ok(LedgerMessage::App(app)));
}

#[test]
fn a_fns_word_comes_back() {
    let word = FnEvent {
        user_id: None,
        namespace: "team-a".to_owned(),
        app: "shop".to_owned(),
        fn_name: "mail".to_owned(),
        at_ms: 7,
        url: "http://gateway/invoke/team-a/mail".to_owned(),
        timeout_ms: 30_000,
        attempts_max: Some(5),
        age_max_ms: None,
        on_success: Some(CallbackTarget::Fn("thank".to_owned())),
        on_failure: Some(CallbackTarget::Url("https://example.com/failed".to_owned())),
        deleted: false,
    };
    let envelope = word.clone().into_envelope().unwrap();
    assert_eq!(envelope.properties.kind.as_deref(), Some("fn-event"));
    let expected = json!({
        "namespace": "team-a", "app": "shop", "fn": "mail", "at": 7, "url": "http://gateway/invoke/team-a/mail",
        "timeout": 30_000, "maxAttempts": 5, "onSuccess": {"fn": "thank"},
        "onFailure": {"url": "https://example.com/failed"}, "deleted": false,
    });
    assert_eq!(body_of(&envelope), expected);
    assert_eq!(LedgerMessage::from_envelope(&envelope), Ok(LedgerMessage::Fn(word)));
}

fn claim() -> Claim {
    Claim {
        user_id: Some("inst.team-a.shop".to_owned()),
        id: id(),
        reply_to: "inst.team-a.shop.r.x7".to_owned(),
        namespace: "team-a".to_owned(),
        app: "shop".to_owned(),
        fn_name: "mail".to_owned(),
        attempt: 1,
        claimant: "n1".to_owned(),
    }
}

#[test]
fn a_claim_and_the_word_on_it_come_back() {
    let claim = claim();
    let envelope = claim.clone().into_envelope().unwrap();
    assert_eq!(LedgerMessage::from_envelope(&envelope), Ok(LedgerMessage::Claim(claim.clone())));
    for claimant in [String::new(), "x".repeat(65)] {
        let odd = Claim { claimant, ..claim.clone() }.into_envelope().unwrap();
        assert!(Claim::from_envelope(&odd).unwrap_err().to_string().contains("claimant"));
    }
    for verdict in [Verdict::Run, Verdict::Duplicate, Verdict::Dead] {
        let word = Claimed { id: id(), attempt: 1, claimant: "n1".to_owned(), verdict };
        let envelope = word.clone().into_envelope().unwrap();
        assert_eq!(envelope.properties.kind.as_deref(), Some("claimed"));
        assert_eq!(Claimed::from_envelope(&envelope), Ok(word));
    }
}
