//! Calls whose body is in the object store: fetched as the function takes it, checked before it ends, waited for without a
//! slot while the store is away.
#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value)]

mod kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::link::{ConsumeOptions, Consumer, Event};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{Call, CallEvent, CallId, Ended, Happened, Outcome, SpilledBody};
use funcatron_broker::names::QueueName;
use funcatron_broker::topology;
use funcatron_crds::Digest;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use kit::function::Function;
use kit::gateway::Gateway;
use kit::hosting::{Runner, dedicated_durable};
use kit::streams::{PlayedFunction, rest};
use kit::{FN, eventually, soon};

/// What a played gateway answers.
#[derive(Default)]
struct Played {
    status: AtomicU16,
    body: Mutex<Bytes>,
    asked: AtomicUsize,
}

struct Stage {
    dir: tempfile::TempDir,
    broker: LocalBroker,
    gateway: Gateway,
    durable: QueueName,
    events: Consumer,
    store: Arc<Played>,
    at: String,
    _server: JoinSet<()>,
}

async fn answer(
    played: Arc<Played>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, http::Error> {
    played.asked.fetch_add(1, Ordering::SeqCst);
    assert_eq!(
        request.uri().path_and_query().unwrap().as_str(),
        "/objects/team/shop/1?expires=1&signature=00"
    );
    let body = if request.method() == Method::HEAD { Bytes::new() } else { played.body.lock().clone() };
    Response::builder().status(played.status.load(Ordering::SeqCst)).body(Full::new(body))
}

impl Stage {
    async fn new(status: u16, body: impl Into<Bytes>) -> Self {
        let broker = LocalBroker::new();
        let gateway = Gateway::new(&broker).await;
        gateway.link.declare(&topology::ledger(gateway.names.installation())).await.unwrap();
        let options = ConsumeOptions { prefetch: 0, exclusive: false, no_ack: true };
        let queue = gateway.names.installation().ledger_queue();
        let events = gateway.link.consume(&queue, options).await.unwrap();
        let durable = gateway.declare_durable().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at =
            format!("http://{}/objects/team/shop/1?expires=1&signature=00", listener.local_addr().unwrap());
        let store = Arc::new(Played { status: AtomicU16::new(status), ..Played::default() });
        *store.body.lock() = body.into();
        let (played, mut server) = (Arc::clone(&store), JoinSet::new());
        server.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let played = Arc::clone(&played);
                let service = service_fn(move |request| answer(Arc::clone(&played), request));
                served.spawn(async move {
                    let io = TokioIo::new(stream);
                    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
                });
            }
        });
        Self {
            dir: tempfile::tempdir().unwrap(),
            broker,
            gateway,
            durable,
            events,
            store,
            at,
            _server: server,
        }
    }

    fn runner(&self) -> Runner {
        Runner::start(&self.broker, dedicated_durable(self.dir.path(), 1, true))
    }

    fn function(&self) -> PlayedFunction {
        PlayedFunction::start(&self.dir.path().join("f.sock"))
    }

    /// A call whose body is to be that.
    async fn send(&self, expected: &[u8], attempts_max: u32) -> CallId {
        let mut call: Call = self.gateway.call("");
        (call.reply_to, call.expiration_ms, call.persistent) = (None, None, true);
        call.attempts_max = Some(attempts_max);
        call.body = Bytes::new();
        let (digest, size) = (Digest::of(expected).to_string(), expected.len() as u64);
        call.spilled = Some(SpilledBody { digest, size, at: self.at.clone() });
        self.gateway.send_envelope(&self.durable, call.to_envelope().unwrap()).await;
        call.id
    }

    async fn event(&mut self) -> Happened {
        let event = soon("an event", self.events.next()).await;
        let Some(Event::Delivery(delivery)) = event else { panic!("{event:?}") };
        CallEvent::from_envelope(&delivery.envelope).unwrap().happened
    }

    /// The next attempt's end, and what is said of it.
    async fn over(&mut self) -> (Ended, String) {
        loop {
            if let Happened::Ended { outcome, reason, .. } = self.event().await {
                return (outcome, reason.unwrap_or_default());
            }
        }
    }
}

/// Several windows of a stream.
fn large() -> Vec<u8> {
    (0..6_000_000u32).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[tokio::test]
async fn a_function_gets_the_body_with_its_length_as_it_is_in_the_store() {
    let body = large();
    let mut stage = Stage::new(200, body.clone()).await;
    let (mut function, runner) = (stage.function(), stage.runner());
    stage.send(&body, 1).await;
    let mut call = function.called().await;
    assert_eq!(call.head.headers["content-length"], body.len().to_string());
    assert_eq!(rest(&mut call.body).await.unwrap(), body);
    drop(call.answer(200, &[]));
    assert_eq!(stage.over().await.0, Ended::Success);
    runner.stop().await;
    assert_eq!(stage.gateway.state(&stage.durable).await.ready, 0);
}

#[tokio::test]
async fn a_wrong_body_never_ends_well_and_its_function_is_not_to_blame() {
    let expected = large();
    let mut wrong = expected.clone();
    wrong[4_000_000] ^= 1;
    for (kept, words) in [
        (wrong, "is not its body"),
        (expected[..expected.len() - 1].to_vec(), "broke off"),
        ([&expected[..], b"!"].concat(), "is not its body"),
    ] {
        let mut stage = Stage::new(200, kept).await;
        let (mut function, runner) = (stage.function(), stage.runner());
        stage.send(&expected, 1).await;
        let mut call = function.called().await;
        assert!(rest(&mut call.body).await.is_err(), "{words}");
        let (outcome, reason) = stage.over().await;
        assert!(outcome == Ended::Error && reason.contains(words), "{reason}");
        assert!(matches!(stage.event().await, Happened::Dead { .. }));
        // The process that it ran in serves on.
        *stage.store.body.lock() = expected.clone().into();
        stage.send(&expected, 1).await;
        let mut call = function.called().await;
        assert_eq!(rest(&mut call.body).await.unwrap().len(), expected.len());
        drop(call.answer(200, &[]));
        assert_eq!(stage.over().await.0, Ended::Success);
        runner.stop().await;
    }
}

#[tokio::test]
async fn a_body_that_is_not_there_fails_its_attempts_and_reaches_no_function() {
    let mut stage = Stage::new(404, "").await;
    let (mut function, runner) = (stage.function(), stage.runner());
    stage.send(b"body", 2).await;
    for _ in 1..=2 {
        let (outcome, reason) = stage.over().await;
        assert!(outcome == Ended::Error && reason.contains("not in the object store: 404"), "{reason}");
    }
    assert!(matches!(stage.event().await, Happened::Dead { .. }));
    let dead = stage.gateway.names.dead_queue(FN).unwrap();
    eventually("it is dead", async || stage.gateway.state(&dead).await.ready == 1).await;
    assert!(function.is_idle());
    runner.stop().await;
}

#[tokio::test]
async fn while_the_store_is_away_nothing_is_begun_and_no_slot_is_held() {
    let mut stage = Stage::new(503, "body").await;
    let (function, runner) = (Function::start(&stage.dir.path().join("f.sock")), stage.runner());
    let id = stage.send(b"body", 1).await;
    eventually("it asks again", async || stage.store.asked.load(Ordering::SeqCst) >= 2).await;
    // The one slot is free for whoever waits.
    assert!(matches!(stage.gateway.ask("sync").await.outcome, Outcome::Answer(_)));
    assert_eq!(function.times_seen("body"), 0);
    stage.store.status.store(200, Ordering::SeqCst);
    let event = stage.event().await;
    assert!(matches!(event, Happened::Started { attempt: 1, .. }), "no attempt was lost on {id}: {event:?}");
    assert_eq!(stage.over().await.0, Ended::Success);
    assert_eq!(function.times_seen("body"), 1);
    runner.stop().await;
}

#[tokio::test]
async fn a_runner_that_drains_gives_back_what_it_waits_for() {
    let stage = Stage::new(503, "body").await;
    let (_function, runner) = (Function::start(&stage.dir.path().join("f.sock")), stage.runner());
    stage.send(b"body", 1).await;
    eventually("it asks", async || stage.store.asked.load(Ordering::SeqCst) >= 1).await;
    tokio::time::timeout(Duration::from_secs(10), runner.stop()).await.expect("it waits for nothing");
    assert_eq!(stage.gateway.state(&stage.durable).await.ready, 1);
}
