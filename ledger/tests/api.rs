//! The API and what stands behind it, over the broker within this process and SQLite in memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a rule that breaks is to stop its test")]

mod kit;

use std::sync::Arc;

use bytes::Bytes;
use funcatron_broker::envelope::{Envelope, HeaderValue as Amqp};
use funcatron_broker::link::{Confirm, Target};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{
    AppEvent, Call, CallEvent, CallId, Cancel, Claim, Claimed, Ended, Happened, Intent, Record,
    RecordedAnswer, RecordedRequest, Verdict,
};
use funcatron_broker::names::{Installation, LEDGER_KEY};
use funcatron_broker::topology;
use funcatron_ledger::LedgerConfig;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use kit::{Ground, Running, begin, ended, event, eventually, queued, started, take};

const APP: &str = "/v1/namespaces/team-a/apps/shop";

struct Fixture {
    broker: LocalBroker,
    ground: Ground,
    ledger: Running,
}

impl Fixture {
    async fn new() -> Self {
        let broker = LocalBroker::default();
        let ground = Ground::new(&broker).await;
        let ledger = start(&broker, ground.installation.clone()).await;
        Self { broker, ground, ledger }
    }

    /// A call that stands so, and the path to it.
    async fn call(&self, events: impl IntoIterator<Item = Happened>, status: &str) -> (CallId, String) {
        let id = CallId::fresh();
        for happened in events {
            self.ground.tell(event(id, happened)).await;
        }
        self.ledger.until(id, status).await;
        (id, format!("{APP}/calls/{id}"))
    }

    async fn repeatable(&self, call: &Call) -> (CallId, String) {
        let queued = queued(call.id, Some(RecordedRequest::of(call)));
        self.ground.tell(queued).await;
        self.ground.tell(ended(call.id, 1, Ended::Error)).await;
        self.ledger.until(call.id, "error").await;
        (call.id, format!("{APP}/calls/{}", call.id))
    }
}

async fn start(broker: &LocalBroker, installation: Installation) -> Running {
    Running::start(Arc::new(broker.clone()), LedgerConfig::in_memory(installation)).await
}

fn call() -> Call {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/plain"));
    headers.insert("authorization", HeaderValue::from_static("Bearer topsecret"));
    Call {
        id: CallId::fresh(),
        reply_to: None,
        deadline_ms: 1_790_000_060_000,
        timeout_ms: 5_000,
        expiration_ms: None,
        timestamp_s: Some(1_790_000_000),
        persistent: true,
        attempt: 1,
        attempts_max: Some(7),
        claimant: None,
        direct: None,
        spilled: None,
        intent: Intent::HttpRequest,
        method: Method::POST,
        url: "http://shop.example.com/mail/7".into(),
        app: "shop".into(),
        fn_name: "mail".into(),
        revision: "mail-1a2b3c4d".into(),
        operation: Some("sendMail".into()),
        template: Some("/mail/{id}".into()),
        params: vec![("id".into(), "7".into())],
        headers,
        body: Bytes::from_static(b"hello"),
    }
}

/// How long it may wait, in seconds.
fn age_s(call: &Call) -> u64 {
    call.deadline_ms / 1000 - call.timestamp_s.unwrap()
}

fn of(event: CallEvent) -> Happened {
    event.happened
}

fn with_answer(outcome: Ended, body: &Bytes) -> Happened {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/x-own"));
    headers.insert("set-cookie", HeaderValue::from_static("session=topsecret"));
    headers.insert("connection", HeaderValue::from_static("close"));
    let kept = RecordedAnswer::of(StatusCode::IM_A_TEAPOT, &headers, body);
    let Happened::Ended { attempt, revision, runner, is_final, reason, log, .. } =
        of(ended(CallId::fresh(), 1, outcome))
    else {
        unreachable!()
    };
    Happened::Ended {
        attempt,
        revision,
        runner,
        outcome,
        is_final,
        reason,
        answer: Some(Box::new(kept)),
        log,
    }
}

#[tokio::test]
async fn a_call_is_found_by_its_id_by_its_number_and_without_its_app() {
    let fixture = Fixture::new().await;
    let request = RecordedRequest::of(&call());
    let id = CallId::fresh();
    fixture.ground.tell(queued(id, Some(request))).await;
    fixture.ground.tell(started(id, 1)).await;
    fixture.ledger.until(id, "running").await;
    let by_id = fixture.ledger.get(&format!("{APP}/calls/{id}")).await;
    assert_eq!((by_id.status, by_id.header("fn-call-id")), (200, Some(&*id.to_string())));
    let document = by_id.json();
    assert_eq!(
        (&document["number"], &document["source"], &document["fn"]),
        (&1.into(), &"http".into(), &"mail".into())
    );
    assert_eq!(document["submitted"], "2026-09-21T14:13:20Z");
    assert_eq!(document["request"]["body"], "aGVsbG8=");
    assert!(!by_id.text().contains("topsecret"), "credentials are redacted");
    for path in [format!("{APP}/calls/1"), format!("/calls/{id}")] {
        assert_eq!(fixture.ledger.get(&path).await.json(), document, "{path}");
    }
}

#[tokio::test]
async fn an_unknown_app_an_unknown_call_and_what_is_not_allowed_are_told_apart() {
    let fixture = Fixture::new().await;
    let (id, path) = fixture.call([of(queued(CallId::fresh(), None))], "queued").await;
    assert_eq!(fixture.ledger.get(&path).await.status, 200);
    let unknown = CallId::fresh();
    let cases = [
        // Where both are unknown, the App is told.
        (format!("/v1/namespaces/team-a/apps/other/calls/{unknown}"), 404, "no-app"),
        (format!("/v1/namespaces/team-a/apps/other/calls/{id}"), 404, "no-app"),
        ("/v1/namespaces/team-a/apps/other/calls".into(), 404, "no-app"),
        (format!("{APP}/calls/{unknown}"), 404, "no-call"),
        (format!("{APP}/calls/2/log"), 404, "no-call"),
        (format!("{APP}/calls/what/result"), 404, "no-call"),
        (format!("/calls/{unknown}"), 404, "no-call"),
        // Who may not look is not told what is there.
        (format!("/v1/namespaces/closed/apps/other/calls/{id}"), 403, "not-allowed"),
        ("/v1/namespaces/closed/apps/other/calls".into(), 403, "not-allowed"),
        (format!("{APP}/calls/{id}/more"), 404, "no-route"),
        (format!("{APP}/calls/{id}/cancel"), 405, "method-not-allowed"),
    ];
    for (path, status, kind) in cases {
        assert_eq!(fixture.ledger.get(&path).await.problem(), (status, kind.to_owned()), "{path}");
    }
    let closed = format!("/v1/namespaces/closed/apps/other/calls/{id}/cancel");
    assert_eq!(fixture.ledger.post(&closed).await.problem(), (403, "not-allowed".into()));
}

#[tokio::test]
async fn a_call_of_a_closed_namespace_is_not_shown_by_its_id_either() {
    let fixture = Fixture::new().await;
    let (open, closed) = (CallId::fresh(), CallId::fresh());
    fixture.ground.tell(CallEvent { namespace: "closed".into(), ..queued(closed, None) }).await;
    fixture.ground.tell(queued(open, None)).await;
    fixture.ledger.until(open, "queued").await;
    for rest in ["", "/result", "/log"] {
        let answer = fixture.ledger.get(&format!("/calls/{closed}{rest}")).await;
        assert_eq!(answer.problem(), (403, "not-allowed".into()));
    }
}

#[tokio::test]
async fn an_app_is_known_once_the_operator_has_named_it() {
    let fixture = Fixture::new().await;
    let word = AppEvent {
        user_id: None,
        namespace: "team-a".into(),
        app: "shop".into(),
        at_ms: 1,
        retention_ms: None,
        record: Record::All,
        deleted: false,
    };
    let queue = fixture.ground.installation.ledger_queue();
    let envelope = word.into_envelope().unwrap();
    fixture.ground.link.publish(Target::queue(&queue), envelope, true).await.unwrap();
    eventually("it is known", async || fixture.ledger.get(&format!("{APP}/calls")).await.status == 200).await;
    let list = fixture.ledger.get(&format!("{APP}/calls")).await.json();
    assert_eq!(list, serde_json::json!({"calls": []}));
}

#[tokio::test]
async fn a_list_goes_on_at_its_next_and_keeps_its_filters() {
    let fixture = Fixture::new().await;
    let ids: Vec<CallId> = (0..5).map(|_| CallId::fresh()).collect();
    for id in &ids {
        fixture.ground.tell(queued(*id, None)).await;
        fixture.ground.tell(CallEvent { fn_name: "bill".into(), ..queued(CallId::fresh(), None) }).await;
    }
    eventually("all ten are there", async || {
        fixture.ledger.get(&format!("{APP}/calls/10")).await.status == 200
    })
    .await;
    let mut next = Some(format!("{APP}/calls?fn=mail&status=queued&limit=2"));
    let (mut seen, mut pages) = (Vec::new(), 0);
    while let Some(path) = next {
        let page = fixture.ledger.get(&path).await.json();
        let calls = page["calls"].as_array().unwrap();
        seen.extend(calls.iter().map(|call| call["id"].as_str().unwrap().to_owned()));
        next = page["next"].as_str().map(str::to_owned);
        pages += 1;
    }
    let expected: Vec<String> = ids.iter().rev().map(ToString::to_string).collect();
    assert_eq!((seen, pages), (expected, 3));
    for odd in ["limit=0", "status=done", "cursor=x", "colour=red", "from=soon"] {
        let answer = fixture.ledger.get(&format!("{APP}/calls?{odd}")).await;
        assert_eq!(answer.problem(), (400, "bad-request".into()), "{odd}");
        let name = odd.split('=').next().unwrap();
        assert!(answer.json()["message"].as_str().unwrap().contains(name), "{answer:?}");
    }
}

#[tokio::test]
async fn a_result_is_the_functions_own_answer() {
    let fixture = Fixture::new().await;
    let tea = Bytes::from_static(b"tea");
    let mut failed = with_answer(Ended::Error, &tea);
    let Happened::Ended { is_final, .. } = &mut failed else { unreachable!() };
    *is_final = false;
    let ends = [
        (vec![with_answer(Ended::Success, &tea)], "success"),
        (vec![with_answer(Ended::Error, &tea)], "error"),
        (vec![with_answer(Ended::Timeout, &tea)], "timeout"),
        // Its last attempt's own word is worth more than that there were enough of them.
        (vec![failed, Happened::Dead { reason: "four times".into() }], "dead"),
    ];
    for (events, status) in ends {
        let (id, path) = fixture.call(events, status).await;
        for path in [format!("{path}/result"), format!("/calls/{id}/result")] {
            let answer = fixture.ledger.get(&path).await;
            assert_eq!((answer.status, answer.text().as_str()), (418, "tea"));
            assert_eq!(answer.header("content-type"), Some("text/x-own"));
            assert_eq!(answer.header("fn-call-status"), Some(status));
            assert_eq!(answer.header("fn-call-id"), Some(&*id.to_string()));
            assert_eq!(answer.header("set-cookie"), None, "what was redacted is not passed off as a value");
        }
    }
}

#[tokio::test]
async fn a_call_without_a_result_says_why() {
    let fixture = Fixture::new().await;
    let id = CallId::fresh;
    let waits = fixture.call([of(queued(id(), None))], "queued").await;
    let runs = fixture.call([of(started(id(), 1))], "running").await;
    for (_, path) in [&waits, &runs] {
        let answer = fixture.ledger.get(&format!("{path}/result")).await;
        assert_eq!((answer.status, answer.header("retry-after")), (202, Some("1")));
        assert_eq!(answer.header("fn-call-status"), answer.json()["status"].as_str());
    }
    let large = Bytes::from(vec![b'x'; 64 * 1024 + 1]);
    let cases = [
        (of(ended(id(), 1, Ended::Error)), "error", (502, "function-failed"), "its reason"),
        (of(ended(id(), 1, Ended::Timeout)), "timeout", (504, "deadline-passed"), "its reason"),
        (of(ended(id(), 1, Ended::Success)), "success", (502, "result-not-kept"), "no answer"),
        (Happened::Dead { reason: "four times".into() }, "dead", (502, "dead"), "four times"),
        (of(ended(id(), 1, Ended::Cancelled)), "cancelled", (410, "cancelled"), "cancelled"),
        (with_answer(Ended::Success, &large), "success", (502, "result-not-kept"), "65537 bytes"),
    ];
    for (happened, status, (code, kind), words) in cases {
        let (_, path) = fixture.call([happened], status).await;
        let answer = fixture.ledger.get(&format!("{path}/result")).await;
        assert_eq!(answer.problem(), (code, kind.to_owned()));
        assert_eq!(answer.header("fn-call-status"), Some(status));
        assert!(answer.json()["message"].as_str().unwrap().contains(words), "{answer:?}");
    }
}

#[tokio::test]
async fn logs_of_failed_attempts_are_shown_too() {
    let fixture = Fixture::new().await;
    let id = CallId::fresh();
    let Happened::Ended { attempt, revision, runner, outcome, reason, answer, log, .. } =
        of(ended(id, 1, Ended::Error))
    else {
        unreachable!()
    };
    let failed = Happened::Ended { attempt, revision, runner, outcome, is_final: false, reason, answer, log };
    let (_, once) = fixture.call([of(ended(id, 1, Ended::Error))], "error").await;
    let answer = fixture.ledger.get(&format!("{once}/log")).await;
    assert_eq!(
        (answer.text().as_str(), answer.header("content-type")),
        ("log of 1", Some("text/plain; charset=utf-8"))
    );
    let (_, twice) = fixture.call([failed, of(ended(id, 2, Ended::Success))], "success").await;
    let text = fixture.ledger.get(&format!("{twice}/log")).await.text();
    assert_eq!(text, "==> attempt 1\nlog of 1\n==> attempt 2\nlog of 2\n");
    let (_, none) = fixture.call([of(queued(id, None))], "queued").await;
    assert_eq!(fixture.ledger.get(&format!("{none}/log")).await.text(), "");
}

#[tokio::test]
async fn a_cancelled_call_is_marked_and_its_runners_are_told() {
    let fixture = Fixture::new().await;
    let (runner, items) = topology::runner(&fixture.ground.names, "x7").unwrap();
    fixture.ground.link.declare(&items).await.unwrap();
    let mut cancels = fixture.ground.consume(&runner).await;
    let (id, path) = fixture.call([of(queued(CallId::fresh(), None))], "queued").await;
    for _ in 0..2 {
        // Twice is once.
        let answer = fixture.ledger.post(&format!("{path}/cancel")).await;
        assert_eq!((answer.status, &answer.json()["status"]), (200, &"cancelled".into()));
        let told = take(&mut cancels).await;
        assert_eq!(Cancel::from_envelope(&told.envelope).unwrap().id, id);
    }
    // A runner that took it meanwhile says so too late.
    fixture.ground.tell(ended(id, 1, Ended::Success)).await;
    let (_, running) = fixture.call([of(started(id, 1))], "running").await;
    assert_eq!(fixture.ledger.get(&path).await.json()["status"], "cancelled");
    let answer = fixture.ledger.post(&format!("{running}/cancel")).await;
    assert_eq!(answer.problem(), (409, "running".into()));
    let (_, over) = fixture.call([of(ended(id, 1, Ended::Success))], "success").await;
    assert_eq!(fixture.ledger.post(&format!("{over}/cancel")).await.problem(), (409, "ended".into()));
}

#[tokio::test]
async fn a_retried_call_is_a_new_one_with_the_same_request() {
    let fixture = Fixture::new().await;
    let (queue, _) = fixture.ground.durable().await;
    let original = call();
    let (before, path) = fixture.repeatable(&original).await;
    let answer = fixture.ledger.post(&format!("{path}/retry")).await;
    assert_eq!(answer.status, 202);
    let document = answer.json();
    assert_eq!(document["retryOf"], before.to_string());
    let id: CallId = document["id"].as_str().unwrap().parse().unwrap();
    assert_ne!(id, before);
    let record = fixture.ledger.get(answer.header("location").unwrap()).await.json();
    assert_eq!((&record["status"], &record["source"]), (&"queued".into(), &"retry".into()));
    assert_eq!(record["retryOf"], before.to_string());
    let message = take(&mut fixture.ground.consume(&queue).await).await;
    let sent = Call::from_envelope(message.envelope.clone()).unwrap();
    let claimant = sent.claimant.clone();
    assert!(claimant.is_some(), "its runner asks before it runs it");
    let Call { deadline_ms, timestamp_s, .. } = sent;
    let mut expected = Call { id, deadline_ms, timestamp_s, claimant, ..original };
    expected.headers.remove("authorization");
    assert_eq!(sent, expected, "without the credentials, which were not kept");
    assert_eq!(age_s(&sent), 60, "it may wait as long as the first one");
    message.ack().await.unwrap();
    assert_eq!(fixture.ledger.get(&path).await.json()["status"], "error", "the first stays what it is");
}

#[tokio::test]
async fn what_cannot_be_retried_says_why() {
    let fixture = Fixture::new().await;
    let (_, path) = fixture.repeatable(&call()).await;
    let retry = async |path: &str| fixture.ledger.post(&format!("{path}/retry")).await.problem();
    assert_eq!(retry(&path).await, (404, "no-durable-queue".into()));
    fixture.ground.durable().await;
    let (_, waits) = fixture.call([of(queued(CallId::fresh(), None))], "queued").await;
    assert_eq!(retry(&waits).await, (409, "not-ended".into()));
    let (_, unknown) = fixture.call([of(ended(CallId::fresh(), 1, Ended::Error))], "error").await;
    assert_eq!(retry(&unknown).await, (409, "not-repeatable".into()));
    let large = Call { body: Bytes::from(vec![0; 64 * 1024 + 1]), ..call() };
    let (_, truncated) = fixture.repeatable(&large).await;
    assert_eq!(retry(&truncated).await, (409, "not-repeatable".into()));
}

#[tokio::test]
async fn dead_letters_go_back_into_their_queue_as_new_calls() {
    let fixture = Fixture::new().await;
    let redrive = format!("{APP}/fns/mail/dead-letters/redrive");
    let (first, second) = (Call { claimant: Some("first".into()), ..call() }, call());
    fixture.ground.tell(queued(first.id, Some(RecordedRequest::of(&first)))).await;
    fixture.ledger.until(first.id, "queued").await;
    assert_eq!(fixture.ledger.post(&redrive).await.problem(), (404, "no-durable-queue".into()));
    let (queue, dead) = fixture.ground.durable().await;
    let foreign = Envelope { body: Bytes::from_static(b"an event"), ..Envelope::default() };
    let mut consumer = fixture.ground.consume(&queue).await;
    for message in [first.to_envelope().unwrap(), second.to_envelope().unwrap(), foreign] {
        let confirm = fixture.ground.link.publish_confirmed(Target::queue(&queue), message, true).await;
        assert_eq!(confirm.unwrap(), Confirm::Acked);
        take(&mut consumer).await.reject(false).await.unwrap();
    }
    eventually("three are dead", async || {
        fixture.ground.link.inspect(&dead).await.unwrap().is_some_and(|state| state.ready == 3)
    })
    .await;
    let answer = fixture.ledger.post(&format!("{redrive}?limit=1")).await;
    assert_eq!((answer.status, answer.json()), (200, serde_json::json!({"moved": 1})));
    let again = Call::from_envelope(take(&mut consumer).await.envelope).unwrap();
    assert_eq!((&again.body, again.attempt, &again.headers), (&first.body, 1, &first.headers));
    assert_eq!((again.attempts_max, age_s(&again)), (Some(7), 60), "it may what the first one might");
    assert!(again.deadline_ms > first.deadline_ms, "from now on");
    assert!(again.claimant.is_some_and(|claimant| first.claimant != Some(claimant)), "a new publication");
    let record = fixture.ledger.get(&format!("{APP}/calls/{}", again.id)).await.json();
    assert_eq!((&record["status"], &record["retryOf"]), (&"queued".into(), &first.id.to_string().into()));
    let before = fixture.ledger.get(&format!("{APP}/calls/{}", first.id)).await.json();
    assert_eq!(before["status"], "dead", "it ended, although nobody had said so");
    assert_eq!(fixture.ledger.post(&redrive).await.json(), serde_json::json!({"moved": 2}));
    drop(take(&mut consumer).await);
    let event = take(&mut consumer).await.envelope;
    assert_eq!((&event.body[..], event.headers.get("x-death")), (&b"an event"[..], None::<&Amqp>));
    assert_eq!(fixture.ledger.post(&redrive).await.json(), serde_json::json!({"moved": 0}));
    assert_eq!(
        fixture.ledger.post(&format!("{redrive}?limit=1001")).await.problem(),
        (400, "bad-request".into())
    );
}

#[tokio::test]
async fn a_redrive_goes_on_when_whoever_asked_for_it_leaves() {
    const DEAD: u32 = 300;
    let fixture = Fixture::new().await;
    fixture.call([of(queued(CallId::fresh(), None))], "queued").await;
    let (queue, dead) = fixture.ground.durable().await;
    let link = &fixture.ground.link;
    for _ in 0..DEAD {
        link.publish(Target::queue(&dead), call().to_envelope().unwrap(), true).await.unwrap();
    }
    let ready = async |queue| link.inspect(queue).await.unwrap().map_or(0, |state| state.ready);
    eventually("all are dead", async || ready(&dead).await == DEAD).await;
    let asking = begin(fixture.ledger.api, &format!("{APP}/fns/mail/dead-letters/redrive?limit=1000")).await;
    eventually("it has begun", async || ready(&queue).await > 0).await;
    drop(asking);
    assert!(ready(&queue).await < DEAD, "whoever asked has left in the midst of it");
    eventually("all are back", async || ready(&queue).await == DEAD && ready(&dead).await == 0).await;
    eventually("each is told once", async || {
        fixture.ledger.metric("funcatron_ledger_calls_redriven_total").await == f64::from(DEAD)
    })
    .await;
}

#[tokio::test]
async fn a_runner_hears_whether_an_attempt_is_its_to_run() {
    let fixture = Fixture::new().await;
    let ground = &fixture.ground;
    let (own, items) = topology::runner(&ground.names, "x7").unwrap();
    ground.link.declare(&items).await.unwrap();
    let mut words = ground.consume(&own).await;
    let id = CallId::fresh();
    let claim = |claimant: &str, user: &str| Claim {
        user_id: Some(user.to_owned()),
        id,
        reply_to: own.to_string(),
        namespace: "team-a".into(),
        app: "shop".into(),
        fn_name: "mail".into(),
        attempt: 1,
        claimant: claimant.into(),
    };
    let exchange = ground.installation.reply_exchange();
    let asked = [claim("a", ground.names.user()), claim("x", "somebody"), claim("b", ground.names.user())];
    for claim in asked {
        let envelope = claim.into_envelope().unwrap();
        ground.link.publish(Target::exchange(&exchange, LEDGER_KEY), envelope, false).await.unwrap();
    }
    for (claimant, verdict) in [("a", Verdict::Run), ("b", Verdict::Duplicate)] {
        let word = Claimed::from_envelope(&take(&mut words).await.envelope).unwrap();
        assert_eq!(word, Claimed { id, attempt: 1, claimant: claimant.into(), verdict });
    }
    assert!(fixture.ledger.metric("funcatron_ledger_events_total{fate=\"forged\"}").await > 0.0);
}

#[tokio::test]
async fn a_runner_cannot_speak_for_another_app_or_for_the_platform() {
    let fixture = Fixture::new().await;
    let ground = &fixture.ground;
    let (id, path) = fixture.call([of(queued(CallId::fresh(), None))], "queued").await;
    let user = |name: &str| Some(format!("{}.team-a.{name}", ground.installation));
    let forged = [
        ended(id, 1, Ended::Error),
        CallEvent { user_id: user("other"), ..ended(id, 1, Ended::Error) },
        CallEvent { user_id: user("other"), app: "other".into(), ..ended(id, 1, Ended::Error) },
        CallEvent { user_id: user("shop"), ..event(id, Happened::Cancelled) },
    ];
    for event in forged {
        ground.report(&*ground.link, event).await;
    }
    // What comes behind them shows that they were read.
    let honest = CallId::fresh();
    ground.report(&*ground.link, CallEvent { user_id: user("shop"), ..started(honest, 1) }).await;
    fixture.ledger.until(honest, "running").await;
    assert_eq!(fixture.ledger.get(&path).await.json()["status"], "queued");
    for (fate, count) in [("forged", 2.0), ("foreign", 1.0), ("not_a_runners", 1.0)] {
        let name = format!("funcatron_ledger_events_total{{fate=\"{fate}\"}}");
        assert_eq!(fixture.ledger.metric(&name).await, count, "{fate}");
    }
}

#[tokio::test]
async fn what_is_told_while_the_ledger_or_its_link_is_down_is_there_afterwards() {
    let Fixture { broker, ground, ledger } = Fixture::new().await;
    ledger.stop().await;
    let before = CallId::fresh();
    ground.tell(queued(before, None)).await;
    let ledger = start(&broker, ground.installation.clone()).await;
    ledger.until(before, "queued").await;
    broker.drop_links("gone for a test");
    let ground =
        Ground { link: funcatron_broker::link::Connector::connect(&broker).await.unwrap(), ..ground };
    let after = CallId::fresh();
    ground.tell(queued(after, None)).await;
    ledger.until(after, "queued").await;
    ledger.stop().await;
}

#[tokio::test]
async fn a_message_that_cannot_be_read_holds_up_nothing() {
    let fixture = Fixture::new().await;
    let queue = fixture.ground.installation.ledger_queue();
    let id = CallId::fresh();
    let mut odd = queued(id, None).into_envelope().unwrap();
    odd.body = Bytes::from_static(b"{");
    for envelope in [odd, Envelope::default()] {
        fixture.ground.link.publish(Target::queue(&queue), envelope, true).await.unwrap();
    }
    fixture.ground.tell(queued(id, None)).await;
    fixture.ledger.until(id, "queued").await;
    assert_eq!(fixture.ledger.metric("funcatron_ledger_events_total{fate=\"unreadable\"}").await, 2.0);
    eventually("all are settled", async || {
        fixture.ground.link.inspect(&queue).await.unwrap().is_some_and(|state| state.ready == 0)
    })
    .await;
}
