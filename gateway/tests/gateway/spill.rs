//! Bodies that no message carries: put into the object store before their call is accepted, handed out to whoever has
//! their address, and taken away again where the call is not accepted.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use funcatron_broker::link::Connector as _;
use funcatron_broker::message::{Call, CallEvent, Happened};
use funcatron_broker::topology::{self, Item};
use funcatron_crds::{Digest, ObjectAct, ObjectOf, SigningKey};
use funcatron_gateway::{GatewayConfig, HostPolicy, Limits};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::detached::listen;
use crate::support::*;

/// Half of what the App takes.
const IN_MESSAGE: u64 = 500;

/// A ledger with an object store, played: it keeps what is signed, or answers as it is told.
#[derive(Default)]
struct Played {
    kept: Mutex<HashMap<String, Bytes>>,
    says: AtomicU16,
}

struct Ledger {
    played: Arc<Played>,
    url: String,
    _server: JoinSet<()>,
}

impl Ledger {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (played, mut server) = (Arc::new(Played::default()), JoinSet::new());
        let answers = Arc::clone(&played);
        server.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let played = Arc::clone(&answers);
                let service = service_fn(move |request| answer(Arc::clone(&played), request));
                served.spawn(async move {
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { played, url, _server: server }
    }

    async fn fixture(&self) -> Fixture {
        Fixture::of(GatewayConfig { ledger_url: Some(self.url.clone()), ..settings() }).await
    }

    fn count(&self) -> usize {
        self.played.kept.lock().len()
    }
}

fn settings() -> GatewayConfig {
    config(HostPolicy::Strict, Limits { message_body_bytes_max: IN_MESSAGE, ..Limits::default() })
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

async fn answer(
    played: Arc<Played>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let respond = |status: StatusCode, body: Bytes| {
        Ok(Response::builder().status(status).body(Full::new(body)).unwrap())
    };
    if let Ok(status) = StatusCode::from_u16(played.says.load(Ordering::SeqCst)) {
        return respond(status, Bytes::new());
    }
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let parts: Vec<&str> = path.strip_prefix("/objects/").unwrap().split('/').collect();
    let of = ObjectOf { namespace: parts[0], app: parts[1], call: parts[2] };
    let (expires, signature) = head.uri.query().unwrap().split_once("&signature=").unwrap();
    let expires_s = expires.strip_prefix("expires=").unwrap().parse().unwrap();
    let act = match head.method {
        Method::PUT => ObjectAct::Put,
        Method::DELETE => ObjectAct::Delete,
        _ => ObjectAct::Get,
    };
    key().verify_object(act, of, expires_s, signature, now_s()).unwrap();
    match act {
        ObjectAct::Put => {
            let Ok(body) = body.collect().await else {
                return respond(StatusCode::BAD_REQUEST, Bytes::new());
            };
            played.kept.lock().insert(path, body.to_bytes());
            respond(StatusCode::CREATED, Bytes::new())
        }
        ObjectAct::Delete => {
            played.kept.lock().remove(&path);
            respond(StatusCode::NO_CONTENT, Bytes::new())
        }
        ObjectAct::Get => match played.kept.lock().get(&path).cloned() {
            Some(body) => respond(StatusCode::OK, body),
            None => respond(StatusCode::NOT_FOUND, Bytes::new()),
        },
    }
}

/// In chunks, so that its length is not known before it ends; the client may leave before that.
async fn send_chunks(fixture: &Fixture, chunks: &[&[u8]], ends: bool) -> TcpStream {
    let mut stream = TcpStream::connect(fixture.public).await.unwrap();
    let head = format!(
        "POST /later HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for chunk in chunks {
        stream
            .write_all(&[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat())
            .await
            .unwrap();
    }
    if ends {
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    }
    stream
}

async fn status(mut stream: TcpStream) -> String {
    let mut text = String::new();
    soon(stream.read_to_string(&mut text)).await.unwrap();
    text.split(' ').nth(1).unwrap().to_owned()
}

async fn next_call(fixture: &Fixture) -> Call {
    let mut durable = listen(fixture, &names().durable_queue("page").unwrap()).await;
    Call::from_envelope(durable.next().await.0).unwrap()
}

/// Asks the gateway at an address of an object.
async fn fetch(fixture: &Fixture, method: Method, url: &str) -> Answer {
    let path = url.strip_prefix(&format!("http://{}", fixture.internal)).unwrap();
    send(fixture.internal, method, "gateway", path, &[], "").await
}

#[tokio::test]
async fn a_body_beyond_a_message_is_in_the_object_store_before_its_call_is_accepted() {
    let ledger = Ledger::start().await;
    let fixture = ledger.fixture().await;
    assert_eq!(send(fixture.public, Method::POST, HOST, "/later", &[], vec![7; 500]).await.status, 202);
    let call = next_call(&fixture).await;
    assert_eq!((call.body.len(), call.spilled), (500, None), "a message carries it");
    let body: Vec<u8> = (0..=255).cycle().take(1000).collect();
    let answer = send(fixture.public, Method::POST, HOST, "/later", &[], body.clone()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let id = answer.headers["fn-call-id"].to_str().unwrap();
    let path = format!("/objects/team-a/shop/{id}");
    assert_eq!(ledger.played.kept.lock().get(&path).unwrap(), &body);
    let call = next_call(&fixture).await;
    let spilled = call.spilled.unwrap();
    assert_eq!((call.body.len(), spilled.size, spilled.digest), (0, 1000, Digest::of(&body).to_string()));
    let fetched = fetch(&fixture, Method::GET, &spilled.at).await;
    assert_eq!((fetched.status, &fetched.body[..]), (200, &body[..]));
    let mut told = listen(&fixture, &installation().ledger_queue()).await;
    told.next().await;
    let event = CallEvent::from_envelope(&told.next().await.0).unwrap();
    let Happened::Queued { request: Some(request), .. } = event.happened else { panic!("{event:?}") };
    let recorded = request.body;
    assert_eq!((recorded.body_bytes, recorded.truncated, &recorded.bytes[..]), (1000, true, &body[..]));
    assert_eq!(recorded.digest, Some(Digest::of(&body).to_string()));
}

#[tokio::test]
async fn a_length_that_is_not_said_is_found_out_within_what_a_message_carries() {
    let ledger = Ledger::start().await;
    let fixture = ledger.fixture().await;
    let (one, two) = ([1; 400], [2; 400]);
    assert_eq!(status(send_chunks(&fixture, &[&one], true).await).await, "202");
    assert_eq!(ledger.count(), 0);
    assert_eq!(status(send_chunks(&fixture, &[&one, &two], true).await).await, "202");
    let kept = ledger.played.kept.lock().values().next().unwrap().clone();
    assert_eq!(kept, [one, two].concat());
    assert_eq!(status(send_chunks(&fixture, &[&one, &two, &one], true).await).await, "413");
    // A client that leaves has not ended its body.
    drop(send_chunks(&fixture, &[&one, &two], false).await);
    assert_eq!(status(send_chunks(&fixture, &[&one, &two], true).await).await, "202");
    assert_eq!(ledger.count(), 2, "and nothing else was accepted or kept");
}

#[tokio::test]
async fn a_store_that_is_away_or_full_is_503_and_no_call() {
    let ledger = Ledger::start().await;
    let fixture = ledger.fixture().await;
    let post =
        async |fixture: &Fixture| send(fixture.public, Method::POST, HOST, "/later", &[], vec![7; 501]).await;
    for (says, problem) in [(503, "objects-away"), (500, "objects-away"), (507, "objects-full")] {
        ledger.played.says.store(says, Ordering::SeqCst);
        let answer = post(&fixture).await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, problem), "{says}");
    }
    // Nobody listens there.
    let alone = Fixture::of(settings()).await;
    assert_eq!(post(&alone).await.problem(), "objects-away");
    for fixture in [&fixture, &alone] {
        let link = fixture.broker.local.connect().await.unwrap();
        assert_eq!(link.inspect(&names().durable_queue("page").unwrap()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn without_a_ledger_a_message_is_all_there_is() {
    let fixture = Fixture::of(GatewayConfig { ledger_url: None, ..settings() }).await;
    let answer = send(fixture.public, Method::POST, HOST, "/later", &[], vec![7; 501]).await;
    assert_eq!((answer.status, answer.problem().as_str()), (413, "body-too-large"));
    assert!(answer.text().contains("a ledger with an object store"), "{}", answer.text());
    let answer = send(fixture.public, Method::POST, HOST, "/later", &[], vec![7; 1001]).await;
    assert!(answer.text().contains("this App takes bodies of at most 1000 bytes"), "{}", answer.text());
}

#[tokio::test]
async fn the_body_of_a_call_that_is_not_accepted_is_taken_away() {
    let ledger = Ledger::start().await;
    let fixture = ledger.fixture().await;
    let link = fixture.broker.local.connect().await.unwrap();
    let mut items = topology::durable(&names(), "page").unwrap();
    for item in &mut items {
        if let Item::Queue { spec, .. } = item {
            spec.length_max = 1;
        }
    }
    link.declare(&items).await.unwrap();
    let post = async || send(fixture.public, Method::POST, HOST, "/later", &[], vec![7; 501]).await;
    assert_eq!(post().await.status, 202);
    assert_eq!(post().await.problem(), "queue-full");
    eventually(async || ledger.count() == 1).await;
}

#[tokio::test]
async fn an_object_is_handed_out_by_its_own_address_until_that_expires() {
    let ledger = Ledger::start().await;
    let fixture = ledger.fixture().await;
    assert_eq!(send(fixture.public, Method::POST, HOST, "/later", &[], vec![7; 501]).await.status, 202);
    let call = next_call(&fixture).await;
    let (id, at) = (call.id.to_string(), call.spilled.unwrap().at);
    let (base, of) =
        (format!("http://{}", fixture.internal), ObjectOf { namespace: "team-a", app: "shop", call: &id });
    let expired = key().object_url(ObjectAct::Get, &base, of, now_s() - 1);
    let forged = SigningKey::new(&[8; 32]).unwrap().object_url(ObjectAct::Get, &base, of, now_s() + 60);
    let to_put = key().object_url(ObjectAct::Put, &base, of, now_s() + 60);
    for url in [expired, forged, to_put, at.replace("/shop/", "/new/")] {
        let answer = fetch(&fixture, Method::GET, &url).await;
        assert_eq!((answer.status, answer.problem().as_str()), (403, "forbidden"), "{url}");
    }
    assert_eq!(fetch(&fixture, Method::HEAD, &at).await.status, 200);
    assert_eq!(fetch(&fixture, Method::PUT, &at).await.status, 405);
    let public = send(fixture.public, Method::GET, HOST, at.strip_prefix(&base).unwrap(), &[], "").await;
    assert_eq!(public.problem(), "no-route", "for the cluster's inside only");
    ledger.played.kept.lock().clear();
    assert_eq!(fetch(&fixture, Method::GET, &at).await.problem(), "no-object");
    ledger.played.says.store(503, Ordering::SeqCst);
    assert_eq!(fetch(&fixture, Method::GET, &at).await.problem(), "objects-away");
}
