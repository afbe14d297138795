//! Ends of calls are told: to a Fn of the App through its queue, to anybody else over HTTP, over the broker within this
//! process and SQLite.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a rule that breaks is to stop its test")]

mod kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use funcatron_broker::link::{Confirm, Target};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{
    CALLBACK_OF_HEADER, Call, CallEvent, CallId, CallbackTarget, DurableQueue, Ended, FnEvent, Happened,
    Intent, RecordedAnswer, RecordedRequest, Source,
};
use funcatron_broker::topology::{self, Item};
use funcatron_ledger::store::DatabaseAddress;
use funcatron_ledger::{AllowList, CallbackConfig, LedgerConfig, Pace};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use kit::{Ground, Running, ended, event, eventually, send, started, take};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const APP: &str = "/v1/namespaces/team-a/apps/shop";
/// Retries at once, and patience with nobody.
const PACE: Pace = Pace {
    attempts_max: 3,
    wait_first: Duration::from_millis(5),
    wait_factor: 1,
    answer_timeout: Duration::from_secs(20),
    look_interval: Duration::from_millis(5),
};

/// A ledger that may call this machine, and nothing else that is not public.
fn config(ground: &Ground, pace: Pace, allow: &[&str]) -> LedgerConfig {
    let config = LedgerConfig::in_memory(ground.installation.clone());
    let allow = AllowList::parse(allow.iter().copied()).unwrap();
    LedgerConfig { callbacks: CallbackConfig { allow, pace, ..config.callbacks.clone() }, ..config }
}

struct Fixture {
    ground: Ground,
    ledger: Running,
}

impl Fixture {
    async fn new(pace: Pace, allow: &[&str]) -> Self {
        let broker = LocalBroker::default();
        let ground = Ground::new(&broker).await;
        let ledger = Running::start(Arc::new(broker.clone()), config(&ground, pace, allow)).await;
        Self { ground, ledger }
    }

    /// What the ledger says of the only callback of a call, once it is told so far.
    async fn until(&self, id: CallId, status: &str) -> Value {
        until(&self.ledger, id, status).await
    }
}

async fn until(ledger: &Running, id: CallId, status: &str) -> Value {
    let mut callback = Value::Null;
    eventually(&format!("the callback of {id} is {status}"), async || {
        callback = ledger.get(&format!("{APP}/calls/{id}")).await.json()["callbacks"][0].clone();
        callback["status"] == status
    })
    .await;
    callback
}

/// A Fn's word, as the operator sends it.
async fn name(ground: &Ground, app: &str, fn_name: &str, tells: [Option<CallbackTarget>; 2]) {
    let [on_success, on_failure] = tells;
    let word = FnEvent {
        user_id: None,
        namespace: "team-a".into(),
        app: app.into(),
        fn_name: fn_name.into(),
        at_ms: 1,
        url: format!("http://gateway/invoke/team-a/{fn_name}"),
        timeout_ms: 7_000,
        attempts_max: Some(9),
        age_max_ms: Some(60_000),
        on_success,
        on_failure,
        deleted: false,
    };
    let queue = ground.installation.ledger_queue();
    let sent =
        ground.link.publish_confirmed(Target::queue(&queue), word.into_envelope().unwrap(), true).await;
    assert_eq!(sent.unwrap(), Confirm::Acked);
}

fn url(text: impl Into<String>) -> Option<CallbackTarget> {
    Some(CallbackTarget::Url(text.into()))
}

/// A call that nobody waits for has run.
async fn run(ground: &Ground, app: &str, outcome: Ended) -> CallId {
    let id = CallId::fresh();
    let request = RecordedRequest {
        method: "POST".into(),
        url: "http://shop.example.com/mail".into(),
        headers: vec![("x-own".into(), "asked".into())],
        body: Default::default(),
        cut: false,
        intent: Intent::HttpRequest,
        timeout: 5_000,
        attempts_max: None,
        age_max_ms: Some(60_000),
        revision: None,
        operation: None,
        template: None,
        params: Default::default(),
    };
    let queued = Happened::Queued { source: Source::Http, request: Some(Box::new(request)), retry_of: None };
    let mut end = ended(id, 1, outcome);
    if let Happened::Ended { answer, .. } = &mut end.happened {
        let mut headers = HeaderMap::new();
        headers.insert("set-cookie", HeaderValue::from_static("session=topsecret"));
        *answer = Some(Box::new(RecordedAnswer::of(StatusCode::OK, &headers, &Bytes::from_static(b"done"))));
    }
    for event in [event(id, queued), started(id, 1), end] {
        ground.tell(CallEvent { app: app.into(), ..event }).await;
    }
    id
}

/// What a receiver got.
struct Got {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// Answers each request as it is told, and hands out what came.
async fn receiver(
    listener: TcpListener,
    answer: impl Fn(usize) -> Response<axum::body::Body> + Clone + Send + Sync + 'static,
) -> mpsc::UnboundedReceiver<Got> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let count = Arc::new(AtomicUsize::new(0));
    let router = Router::new().fallback(move |request: Request| {
        let (sender, count, answer) = (sender.clone(), Arc::clone(&count), answer.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let path = parts.uri.to_string();
            sender.send(Got { path, headers: parts.headers, body }).unwrap();
            answer(count.fetch_add(1, Ordering::Relaxed))
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    receiver
}

fn says(status: u16) -> Response<axum::body::Body> {
    Response::builder().status(status).body(axum::body::Body::empty()).unwrap()
}

async fn listener(address: &str) -> (TcpListener, u16) {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn next(got: &mut mpsc::UnboundedReceiver<Got>) -> Got {
    tokio::time::timeout(Duration::from_secs(30), got.recv()).await.expect("a request in time").unwrap()
}

#[tokio::test]
async fn whoever_is_told_can_check_who_tells_and_is_told_the_end() {
    let fixture = Fixture::new(PACE, &["127.0.0.1"]).await;
    let (listener, port) = listener("127.0.0.1").await;
    let mut got = receiver(listener, |_| says(204)).await;
    let target = url(format!("http://127.0.0.1:{port}/hook?key=topsecret"));
    name(&fixture.ground, "shop", "mail", [target, None]).await;
    let id = run(&fixture.ground, "shop", Ended::Success).await;
    let Got { path, headers, body } = next(&mut got).await;
    assert_eq!(path, "/hook?key=topsecret");
    assert_eq!(headers["content-type"], "application/cloudevents+json");

    let key = send(fixture.ledger.api, "GET", "/v1/callback-key").await.json()["key"].clone();
    let key = STANDARD.decode(key.as_str().unwrap().strip_prefix("whpk_").unwrap()).unwrap();
    let text = |name: &str| headers[name].to_str().unwrap().to_owned();
    let (told_id, sent_s) = (text("webhook-id"), text("webhook-timestamp"));
    let signature = STANDARD.decode(text("webhook-signature").strip_prefix("v1a,").unwrap()).unwrap();
    let signed = [format!("{told_id}.{sent_s}.").as_bytes(), &body].concat();
    UnparsedPublicKey::new(&ED25519, key).verify(&signed, &signature).unwrap();
    let now_s = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(now_s.abs_diff(sent_s.parse().unwrap()) < 60, "{sent_s}");

    let event: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&event["specversion"], &event["type"]),
        (&"1.0".into(), &"dev.funcatron.call.succeeded".into())
    );
    assert_eq!(event["source"], "/namespaces/team-a/apps/shop/fns/mail");
    assert_eq!((event["id"].as_str(), event["subject"].as_str()), (Some(&*told_id), Some(&*id.to_string())));
    let data = &event["data"];
    assert_eq!(
        (&data["id"], &data["status"], &data["number"]),
        (&event["subject"], &"success".into(), &1.into())
    );
    assert_eq!((&data["answer"]["status"], &data["answer"]["body"]), (&200.into(), &"ZG9uZQ==".into()));
    assert!(data.get("request").is_none() && data.get("callbacks").is_none());
    assert!(!String::from_utf8_lossy(&body).contains("topsecret"), "credentials are redacted");

    let callback = fixture.until(id, "delivered").await;
    assert_eq!((&callback["kind"], &callback["attempts"]), (&"onSuccess".into(), &1.into()));
    assert_eq!(
        callback["target"],
        format!("http://127.0.0.1:{port}/hook"),
        "without what may be a credential"
    );
    assert_eq!(fixture.ledger.metric("funcatron_ledger_callbacks_total{fate=\"delivered\"}").await, 1.0);
}

#[tokio::test]
async fn a_fn_is_called_under_an_id_that_follows_and_tells_nobody_in_turn() {
    let fixture = Fixture::new(PACE, &["127.0.0.1"]).await;
    let ground = &fixture.ground;
    let mut reports = ground.consume(&ground.installation.reports_queue()).await;
    name(ground, "shop", "mail", [None, Some(CallbackTarget::Fn("mend".into()))]).await;
    // It would call itself for ever.
    let itself = || Some(CallbackTarget::Fn("mend".into()));
    name(ground, "shop", "mend", [itself(), itself()]).await;
    let id = run(ground, "shop", Ended::Error).await;

    let made = DurableQueue::from_envelope(&take(&mut reports).await.envelope).unwrap();
    assert_eq!((&*made.namespace, &*made.app, &*made.fn_name), ("team-a", "shop", "mend"));
    let mut calls = ground.consume(&ground.names.durable_queue("mend").unwrap()).await;
    let delivery = take(&mut calls).await;
    let call = Call::from_envelope(delivery.envelope.clone()).unwrap();
    assert_eq!(
        (call.intent, &*call.fn_name, call.timeout_ms, call.attempts_max),
        (Intent::Invoke, "mend", 7_000, Some(9))
    );
    assert_eq!(call.deadline_ms / 1000 - call.timestamp_s.unwrap(), 60);
    let header = |name: &str| call.headers[name].to_str().unwrap().to_owned();
    assert_eq!(header("ce-type"), "dev.funcatron.call.failed");
    assert_eq!((header("ce-id"), header("ce-subject")), (call.id.to_string(), id.to_string()));
    assert_eq!(header(CALLBACK_OF_HEADER), id.to_string());
    let document: Value = serde_json::from_slice(&call.body).unwrap();
    assert_eq!((&document["id"], &document["status"]), (&id.to_string().into(), &"error".into()));
    assert_eq!(fixture.until(id, "delivered").await["target"], "mend");

    ground.tell(CallEvent { fn_name: "mend".into(), ..ended(call.id, 1, Ended::Success) }).await;
    fixture.ledger.until(call.id, "success").await;
    let told = fixture.ledger.get(&format!("{APP}/calls/{}", call.id)).await.json();
    assert_eq!((&told["source"], told.get("callbacks")), (&"callback".into(), None));
}

#[tokio::test]
async fn a_callback_to_a_fn_that_is_not_there_says_so_and_fails() {
    let fixture = Fixture::new(PACE, &[]).await;
    name(&fixture.ground, "shop", "mail", [Some(CallbackTarget::Fn("nobody".into())), None]).await;
    let id = run(&fixture.ground, "shop", Ended::Success).await;
    let callback = fixture.until(id, "failed").await;
    assert_eq!(
        (&callback["attempts"], &callback["lastError"]),
        (&3.into(), &"there is no Fn nobody in its App".into())
    );
}

#[tokio::test]
async fn what_one_ledger_left_the_next_delivers() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("sqlite://{}/ledger.db", folder.path().display());
    let broker = LocalBroker::default();
    let ground = Ground::new(&broker).await;
    let start = async || {
        let config = config(&ground, Pace { attempts_max: u32::MAX, ..PACE }, &["127.0.0.1"]);
        let config = LedgerConfig { database: DatabaseAddress::parse(&address).unwrap(), ..config };
        Running::start(Arc::new(broker.clone()), config).await
    };
    let (closed, port) = listener("127.0.0.1").await;
    drop(closed);
    name(&ground, "shop", "mail", [url(format!("http://127.0.0.1:{port}/")), None]).await;
    let first = start().await;
    let id = run(&ground, "shop", Ended::Success).await;
    let waiting = until(&first, id, "waiting").await;
    assert_eq!(waiting["kind"], "onSuccess");
    first.stop().await;
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    // It is away, late and full before it takes it.
    let mut got = receiver(listener, |count| says([503, 429, 200][count.min(2)])).await;
    let second = start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(next(&mut got).await.headers["webhook-id"].clone());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "however often it is told, it is one");
    until(&second, id, "delivered").await;
    assert!(got.try_recv().is_err(), "what was taken is not told again");
}

#[tokio::test]
async fn what_will_never_be_taken_is_given_up_at_once() {
    let fixture = Fixture::new(PACE, &["127.0.0.1"]).await;
    let (listener, port) = listener("127.0.0.1").await;
    let mut got = receiver(listener, |_| says(410)).await;
    name(&fixture.ground, "shop", "mail", [url(format!("http://127.0.0.1:{port}/")), None]).await;
    let id = run(&fixture.ground, "shop", Ended::Success).await;
    let callback = fixture.until(id, "failed").await;
    assert_eq!((&callback["attempts"], &callback["lastError"]), (&1.into(), &"it answered 410".into()));
    next(&mut got).await;
    assert!(got.try_recv().is_err());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let fixture = Fixture::new(PACE, &["127.0.0.1"]).await;
    let (inside, inside_port) = listener("127.0.0.2").await;
    let mut inside = receiver(inside, |_| says(200)).await;
    let (outside, port) = listener("127.0.0.1").await;
    let location = format!("http://127.0.0.2:{inside_port}/latest/meta-data");
    let redirect = move |_| {
        let answer = Response::builder().status(307).header("location", location.clone());
        answer.body(axum::body::Body::empty()).unwrap()
    };
    let mut outside = receiver(outside, redirect).await;
    name(&fixture.ground, "shop", "mail", [url(format!("http://127.0.0.1:{port}/")), None]).await;
    let id = run(&fixture.ground, "shop", Ended::Success).await;
    let callback = fixture.until(id, "failed").await;
    assert_eq!(callback["lastError"], "it answered 307, and no redirect is followed");
    for _ in 0..3 {
        assert_eq!(next(&mut outside).await.path, "/");
    }
    assert!(inside.try_recv().is_err(), "nobody came from outside");
}

#[tokio::test]
async fn neither_an_address_nor_a_name_leads_inside() {
    let fixture = Fixture::new(PACE, &["127.0.0.1"]).await;
    // `localhost` resolves to an address that nobody allowed for names of others, and to one that was.
    let (inside, port) = listener("127.0.0.2").await;
    let refused = [
        format!("https://127.0.0.2:{port}/"),
        format!("https://[::ffff:127.0.0.2]:{port}/"),
        format!("https://2130706434:{port}/"),
        "https://169.254.169.254/latest/meta-data".into(),
        format!("http://localhost:{port}/"),
    ];
    for target in refused {
        name(&fixture.ground, "shop", "mail", [url(&target), None]).await;
        let id = run(&fixture.ground, "shop", Ended::Success).await;
        let callback = fixture.until(id, "failed").await;
        assert_eq!(callback["attempts"], 1, "{target}");
        assert!(callback["lastError"].as_str().unwrap().contains("this platform allows"), "{target}");
    }
    let none_came = tokio::time::timeout(Duration::ZERO, inside.accept()).await;
    assert!(none_came.is_err(), "nobody came");
}

#[tokio::test]
async fn a_name_that_resolves_inside_is_not_connected_to() {
    let fixture = Fixture::new(PACE, &[]).await;
    let (inside, port) = listener("127.0.0.1").await;
    name(&fixture.ground, "shop", "mail", [url(format!("https://localhost:{port}/")), None]).await;
    let id = run(&fixture.ground, "shop", Ended::Success).await;
    let callback = fixture.until(id, "failed").await;
    let why = "its host has no public address, and is not among those that this platform allows";
    assert_eq!((&callback["attempts"], &callback["lastError"]), (&1.into(), &why.into()));
    assert!(tokio::time::timeout(Duration::ZERO, inside.accept()).await.is_err(), "nobody came");
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_given_up() {
    let pace = Pace { attempts_max: 1, answer_timeout: Duration::from_millis(200), ..PACE };
    let fixture = Fixture::new(pace, &["127.0.0.1"]).await;
    // The kernel takes the connection, and nobody answers.
    let (_silent, port) = listener("127.0.0.1").await;
    name(&fixture.ground, "shop", "mail", [url(format!("http://127.0.0.1:{port}/")), None]).await;
    let id = run(&fixture.ground, "shop", Ended::Success).await;
    assert_eq!(fixture.until(id, "failed").await["lastError"], "it did not answer within 200ms");
}

#[tokio::test]
async fn a_slow_receiver_holds_up_its_own_app_alone_and_is_asked_by_few_at_once() {
    let fixture = Fixture::new(PACE, &["127.0.0.1"]).await;
    let ground = &fixture.ground;
    let (slow, slow_port) = listener("127.0.0.1").await;
    let (quick, quick_port) = listener("127.0.0.1").await;
    let mut got = receiver(quick, |_| says(200)).await;
    name(ground, "shop", "mail", [url(format!("http://127.0.0.1:{slow_port}/")), None]).await;
    name(ground, "other", "mail", [url(format!("http://127.0.0.1:{quick_port}/")), None]).await;
    for _ in 0..9 {
        run(ground, "shop", Ended::Success).await;
    }
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(tokio::time::timeout(Duration::from_secs(30), slow.accept()).await.unwrap().unwrap());
    }
    // Several looks go by while these are told.
    for _ in 0..9 {
        run(ground, "other", Ended::Success).await;
        next(&mut got).await;
    }
    assert!(tokio::time::timeout(Duration::ZERO, slow.accept()).await.is_err(), "four at once");
    eventually("those of one App wait", async || {
        fixture.ledger.metric("funcatron_ledger_callbacks_waiting").await == 9.0
    })
    .await;
    drop(held);
}

#[tokio::test]
async fn the_queue_that_is_made_is_a_fns_durable_queue() {
    let fixture = Fixture::new(PACE, &[]).await;
    let ground = &fixture.ground;
    name(ground, "shop", "mail", [Some(CallbackTarget::Fn("thank".into())), None]).await;
    name(ground, "shop", "thank", [None, None]).await;
    let id = run(ground, "shop", Ended::Success).await;
    fixture.until(id, "delivered").await;
    for item in topology::durable(&ground.names, "thank").unwrap() {
        let Item::Queue { name, .. } = item else { continue };
        assert!(ground.link.inspect(&name).await.unwrap().is_some(), "{name}");
    }
}
