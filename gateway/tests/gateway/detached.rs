//! Calls that nobody waits for: accepted once they are confirmed, told to the ledger, refused otherwise.

use std::sync::Arc;

use funcatron_broker::envelope::Envelope;
use funcatron_broker::link::{Connector as _, ConsumeOptions, Consumer, Event, Link};
use funcatron_broker::message::{
    Call, CallEvent, DurableQueue, Ended, Happened, Outcome, Source, Wake, WakeKind,
};
use funcatron_broker::names::QueueName;
use funcatron_broker::topology::{self, Item};
use http::{Method, StatusCode};

use crate::support::*;

const OK: Outcome = Outcome::Answer(StatusCode::OK);

/// Takes what comes into a queue. Its link lives as long as it does.
pub(crate) struct Listener {
    _link: Arc<dyn Link>,
    consumer: Consumer,
}

pub(crate) async fn listen(fixture: &Fixture, queue: &QueueName) -> Listener {
    let link = fixture.broker.local.connect().await.unwrap();
    let options = ConsumeOptions { prefetch: 0, exclusive: false, no_ack: true };
    Listener { consumer: link.consume(queue, options).await.unwrap(), _link: link }
}

impl Listener {
    pub(crate) async fn next(&mut self) -> (Envelope, String) {
        match soon(self.consumer.next()).await {
            Some(Event::Delivery(delivery)) => (delivery.envelope, delivery.exchange),
            other => panic!("no message but {other:?}"),
        }
    }
}

async fn ready(link: &dyn Link, queue: &QueueName) -> Option<u32> {
    link.inspect(queue).await.unwrap().map(|state| state.ready)
}

#[tokio::test]
async fn a_call_is_accepted_once_it_stands_in_the_durable_queue() {
    let fixture = Fixture::start().await;
    let headers = [("prefer", "respond-async"), ("x-client", "curl")];
    let answer = send(fixture.public, Method::POST, HOST, "/page", &headers, "later").await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.headers["preference-applied"], "respond-async");
    let id = answer.headers["fn-call-id"].to_str().unwrap();
    let location = answer.headers["location"].to_str().unwrap();
    assert_eq!(location, format!("http://{}/calls/{id}", fixture.internal));
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body, serde_json::json!({"id": id, "status": "queued", "location": location}));

    let mut durable = listen(&fixture, &names().durable_queue("page").unwrap()).await;
    let (message, _) = durable.next().await;
    assert!(message.properties.persistent && message.properties.expiration_ms.is_none());
    let call = Call::from_envelope(message).unwrap();
    assert_eq!((call.id.to_string().as_str(), &call.body[..]), (id, &b"later"[..]));
    assert_eq!(
        (call.reply_to, call.timeout_ms, call.headers["x-client"].to_str().unwrap()),
        (None, 30_000, "curl")
    );
    let age_ms = call.deadline_ms - call.timestamp_s.unwrap() * 1000;
    assert!((6 * 3_600_000..6 * 3_600_000 + 1000).contains(&age_ms), "{age_ms}");
}

#[tokio::test]
async fn a_route_and_fns_header_make_a_call_async_without_being_asked_nicely() {
    let fixture = Fixture::start().await;
    for (path, headers) in [("/later", &[][..]), ("/page", &[("fn-invoke-type", "detached")])] {
        let answer = send(fixture.public, Method::POST, HOST, path, headers, "").await;
        assert_eq!(answer.status, 202, "{path}");
        assert!(!answer.headers.contains_key("preference-applied"));
    }
    let answer = send(
        fixture.internal,
        Method::POST,
        "inside",
        "/invoke/team-a/new",
        &[("prefer", "respond-async")],
        "",
    );
    assert_eq!(answer.await.status, 202, "what runs later may wait for its first revision");
}

#[tokio::test]
async fn a_trigger_that_says_async_is_answered_at_once() {
    let fixture = Fixture::start().await;
    let answer = send(fixture.public, Method::POST, OWN_HOST, "/t/team-a/shop/hook/later/7", &[], "{}");
    assert_eq!(answer.await.status, 202);
    let mut durable = listen(&fixture, &names().durable_queue("page").unwrap()).await;
    let call = Call::from_envelope(durable.next().await.0).unwrap();
    assert_eq!((call.reply_to.as_deref(), &call.body[..]), (None, &b"{}"[..]));
}

#[tokio::test]
async fn the_ledger_is_told_what_was_asked_without_credentials() {
    let fixture = Fixture::start().await;
    let headers = [("prefer", "respond-async"), ("authorization", "Bearer secret"), ("accept", "text/csv")];
    let answer = send(fixture.public, Method::PUT, HOST, "/page/7?x=1", &headers, "body").await;
    let mut ledger = listen(&fixture, &installation().ledger_queue()).await;
    let (message, exchange) = ledger.next().await;
    assert_eq!(exchange, "", "the default exchange is the platform's alone");
    let event = CallEvent::from_envelope(&message).unwrap();
    assert_eq!(event.id.to_string(), answer.headers["fn-call-id"].to_str().unwrap());
    assert_eq!(
        (event.namespace.as_str(), event.app.as_str(), event.fn_name.as_str()),
        ("team-a", "shop", "page")
    );
    let Happened::Queued { source: Source::Http, request: Some(request), retry_of: None } = event.happened
    else {
        panic!("{event:?}")
    };
    assert_eq!(
        (request.method.as_str(), request.url.as_str()),
        ("PUT", "http://shop.example.com/page/7?x=1")
    );
    let header =
        |name: &str| request.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!((header("accept"), header("authorization")), (Some("text/csv"), Some("[redacted]")));
    assert_eq!(request.body.bytes, "body");
}

#[tokio::test]
async fn a_durable_queue_is_made_at_its_first_need_and_the_operator_told() {
    let fixture = Fixture::start().await;
    let link = fixture.broker.local.connect().await.unwrap();
    link.declare(&topology::installation(&installation())).await.unwrap();
    link.declare(&topology::wake(&names(), "python").unwrap()).await.unwrap();
    let durable = names().durable_queue("page").unwrap();
    assert_eq!(ready(&*link, &durable).await, None);
    for count in 1..=2 {
        assert_eq!(fixture.post("/later", "").await.status, 202);
        assert_eq!(ready(&*link, &durable).await, Some(count));
    }
    let mut reports = listen(&fixture, &installation().reports_queue()).await;
    let (message, exchange) = reports.next().await;
    assert!(DurableQueue::is(&message) && exchange.is_empty());
    assert_eq!(DurableQueue::from_envelope(&message).unwrap().fn_name, "page");
    assert!(reports.consumer.try_next().is_none(), "once is enough");
    let mut wakes = listen(&fixture, &names().wake_queue("python").unwrap()).await;
    let wake = Wake::from_envelope(&wakes.next().await.0).unwrap();
    assert_eq!((wake.kind, wake.durable_queue), (WakeKind::Load, Some(durable.to_string())));
}

#[tokio::test]
async fn what_the_broker_does_not_take_is_503_and_no_call() {
    let fixture = Fixture::start().await;
    let link = fixture.broker.local.connect().await.unwrap();
    let mut items = topology::durable(&names(), "page").unwrap();
    for item in &mut items {
        if let Item::Queue { spec, .. } = item {
            spec.length_max = 1;
        }
    }
    link.declare(&items).await.unwrap();
    assert_eq!(fixture.post("/later", "").await.status, 202);
    let full = fixture.post("/later", "").await;
    assert_eq!((full.status, full.problem().as_str()), (503, "queue-full"));
    assert_eq!(full.headers["retry-after"], "1");
    let mut ledger = listen(&fixture, &installation().ledger_queue()).await;
    let told = CallEvent::from_envelope(&ledger.next().await.0).unwrap();
    assert_ne!(told.id.to_string(), full.headers["fn-call-id"].to_str().unwrap());
    assert!(ledger.consumer.try_next().is_none(), "what was not taken is no call");

    fixture.broker.leave();
    eventually(async || fixture.post("/later", "").await.problem() == "broker-away").await;
    fixture.broker.come_back();
    eventually(async || fixture.post("/later", "").await.problem() == "queue-full").await;
}

#[tokio::test]
async fn calls_that_somebody_waits_for_are_told_where_their_app_wants_them_kept() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let mut ledger = listen(&fixture, &installation().ledger_queue()).await;
    let (unkept, _) = tokio::join!(fixture.post("/page", "unkept"), runner.serve(OK, "one"));
    assert_eq!(unkept.status, 200);
    let mut table = app("00000001");
    table.bounds.records_all = true;
    fixture.tables.put_app("team-a", "shop", Some(table)).unwrap();
    for (outcome, expected) in
        [(OK, Ended::Success), (Outcome::Failed, Ended::Error), (Outcome::TimedOut, Ended::Timeout)]
    {
        let (answer, _) = tokio::join!(fixture.post("/page", "asked"), runner.serve(outcome, "said"));
        let queued = CallEvent::from_envelope(&ledger.next().await.0).unwrap();
        let ended = CallEvent::from_envelope(&ledger.next().await.0).unwrap();
        let id = answer.headers["fn-call-id"].to_str().unwrap();
        assert_eq!((queued.id.to_string().as_str(), ended.id), (id, queued.id));
        let Happened::Queued { request: Some(request), .. } = queued.happened else { panic!("{queued:?}") };
        let Happened::Ended { outcome, is_final: true, answer, .. } = ended.happened else {
            panic!("{ended:?}")
        };
        assert_eq!((&request.body.bytes[..], outcome), (&b"asked"[..], expected));
        assert_eq!(answer.is_some(), expected == Ended::Success);
    }
}
