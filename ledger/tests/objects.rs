//! Bodies that no message carries: who may write, read and delete them, how long they are kept, and how they come back
//! with a call that is redriven or retried. Over a folder, the broker within this process and SQLite in memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a rule that breaks is to stop its test")]

mod kit;

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use funcatron_broker::link::{Confirm, Target};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{Call, CallId, Ended, Happened, Intent, RecordedRequest, SpilledBody};
use funcatron_crds::{Digest, ObjectAct, ObjectOf, SigningKey};
use funcatron_ledger::{LedgerConfig, ObjectsAddress, ObjectsConfig};
use http::{HeaderMap, Method};
use kit::{Ground, Running, ended, event, eventually, queued, take};
use tokio::io::AsyncWriteExt as _;

const APP: &str = "/v1/namespaces/team-a/apps/shop";
/// Several parts, the last of them begun.
const SIZE: usize = (20 << 20) + 7;
/// For one of them in each of two Apps, and not for two in one.
const BYTES_MAX: u64 = 60 << 20;

fn key() -> SigningKey {
    SigningKey::new(&[7; 32]).unwrap()
}

fn body() -> Bytes {
    static BODY: LazyLock<Bytes> =
        LazyLock::new(|| (0..SIZE).map(|at| u8::try_from(at % 251).unwrap()).collect());
    BODY.clone()
}

fn digest() -> String {
    static DIGEST: LazyLock<String> = LazyLock::new(|| Digest::of(&body()).to_string());
    DIGEST.clone()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

struct Fixture {
    ground: Ground,
    ledger: Running,
    folder: tempfile::TempDir,
    http: reqwest::Client,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(BYTES_MAX).await
    }

    async fn with(bytes_max: u64) -> Self {
        let broker = LocalBroker::default();
        let (ground, folder) = (Ground::new(&broker).await, tempfile::tempdir().unwrap());
        let objects = ObjectsConfig {
            store: ObjectsAddress::parse(&format!("file://{}/objects", folder.path().display())).unwrap(),
            bytes_max,
            gateway_base: "http://gateway".into(),
            key: key(),
        };
        let config =
            LedgerConfig { objects: Some(objects), ..LedgerConfig::in_memory(ground.installation.clone()) };
        let ledger = Running::start(Arc::new(broker), config).await;
        Self { ground, ledger, folder, http: reqwest::Client::new() }
    }

    fn url(&self, act: ObjectAct, app: &str, id: CallId) -> String {
        let (base, call) = (format!("http://{}", self.ledger.api), id.to_string());
        let of = ObjectOf { namespace: "team-a", app, call: &call };
        key().object_url(act, &base, of, now_s() + 60)
    }

    async fn put(&self, app: &str, id: CallId, body: Bytes) -> u16 {
        let url = self.url(ObjectAct::Put, app, id);
        self.http.put(url).body(body).send().await.unwrap().status().as_u16()
    }

    async fn ask(&self, method: Method, url: &str) -> u16 {
        self.http.request(method, url).send().await.unwrap().status().as_u16()
    }

    fn file(&self, app: &str, id: CallId) -> PathBuf {
        self.folder.path().join(format!("objects/team-a/{app}/{id}"))
    }

    /// What lies in the store, whole or not.
    fn files(&self) -> usize {
        fn count(folder: &std::path::Path) -> usize {
            let entries = std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap);
            entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
        }
        count(self.folder.path())
    }

    /// A call whose body is there, and what the ledger was told of it.
    async fn spilled(&self) -> Call {
        let call = call();
        assert_eq!(self.put("shop", call.id, body()).await, 201);
        self.ground.tell(queued(call.id, Some(RecordedRequest::of(&call)))).await;
        self.ledger.until(call.id, "queued").await;
        call
    }

    /// What a call that came into the queue finds where it is to fetch its body.
    async fn fetched(&self, call: &Call) -> Bytes {
        let SpilledBody { digest: named, size, at } = call.spilled.clone().unwrap();
        assert_eq!((named, size), (digest(), SIZE as u64));
        let rest = at.strip_prefix("http://gateway").unwrap();
        let answer = self.http.get(format!("http://{}{rest}", self.ledger.api)).send().await.unwrap();
        assert_eq!(answer.content_length(), Some(SIZE as u64));
        answer.bytes().await.unwrap()
    }
}

fn call() -> Call {
    let digest = digest();
    Call {
        id: CallId::fresh(),
        reply_to: None,
        deadline_ms: now_s() * 1000 + 60_000,
        timeout_ms: 5_000,
        expiration_ms: None,
        timestamp_s: Some(now_s()),
        persistent: true,
        attempt: 1,
        attempts_max: Some(7),
        claimant: None,
        direct: None,
        spilled: Some(SpilledBody { digest, size: SIZE as u64, at: "http://gateway/objects/old".into() }),
        intent: Intent::HttpRequest,
        method: Method::POST,
        url: "http://shop.example.com/mail/7".into(),
        app: "shop".into(),
        fn_name: "mail".into(),
        revision: "mail-1a2b3c4d".into(),
        operation: None,
        template: None,
        params: Vec::new(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
    }
}

#[tokio::test]
async fn a_body_is_written_read_and_taken_away_by_signed_addresses_alone() {
    let fixture = Fixture::new().await;
    let id = CallId::fresh();
    let (put, get) = (fixture.url(ObjectAct::Put, "shop", id), fixture.url(ObjectAct::Get, "shop", id));
    assert_eq!(fixture.ask(Method::GET, &get).await, 404);
    assert_eq!(fixture.put("shop", id, body()).await, 201);
    assert_eq!(std::fs::read(fixture.file("shop", id)).unwrap(), body());
    let answer = fixture.http.get(&get).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.content_length()), (200, Some(SIZE as u64)));
    assert_eq!(answer.bytes().await.unwrap(), body());
    assert_eq!(fixture.ask(Method::HEAD, &get).await, 200);
    let call = id.to_string();
    let of = ObjectOf { namespace: "team-a", app: "shop", call: &call };
    let base = format!("http://{}", fixture.ledger.api);
    let expired = key().object_url(ObjectAct::Get, &base, of, now_s() - 1);
    let forged = SigningKey::new(&[8; 32]).unwrap().object_url(ObjectAct::Get, &base, of, now_s() + 60);
    let unsigned = get.split('?').next().unwrap();
    let others = get.replace("/shop/", "/site/");
    for url in [expired.as_str(), &forged, unsigned, &put, &others] {
        assert_eq!(fixture.ask(Method::GET, url).await, 403, "{url}");
    }
    for method in [Method::PUT, Method::DELETE] {
        assert_eq!(fixture.ask(method.clone(), &get).await, 403, "{method}: an address opens one thing");
    }
    assert_eq!(fixture.ask(Method::DELETE, &fixture.url(ObjectAct::Delete, "shop", id)).await, 204);
    assert_eq!((fixture.ask(Method::GET, &get).await, fixture.files()), (404, 0));
}

#[tokio::test]
async fn no_name_leads_out_of_its_app() {
    let fixture = Fixture::new().await;
    let id = CallId::fresh().to_string();
    let base = format!("http://{}", fixture.ledger.api);
    // Even whoever has the key reaches nothing but calls of Apps.
    for (namespace, app, call) in [
        ("..", "..", "x"),
        ("%2e%2e", "shop", id.as_str()),
        ("team-a", "%2e%2e%2fsite", &id),
        ("team-a", "shop", "..%2f..%2fledger.db"),
        ("team-a", "shop", "%2fetc%2fpasswd"),
        ("team-a", "Shop", &id),
    ] {
        let of = ObjectOf { namespace, app, call };
        let url = key().object_url(ObjectAct::Put, &base, of, now_s() + 60);
        // By hand, since a client would tidy the path up.
        let path = url.strip_prefix(&base).unwrap();
        let answer = kit::send(fixture.ledger.api, "PUT", path).await;
        assert_eq!(answer.status, 404, "{path}");
    }
    assert_eq!(fixture.files(), 0);
}

#[tokio::test]
async fn what_breaks_off_or_finds_no_room_leaves_nothing() {
    let fixture = Fixture::new().await;
    let id = CallId::fresh();
    let url = fixture.url(ObjectAct::Put, "shop", id);
    let path = url.strip_prefix(&format!("http://{}", fixture.ledger.api)).unwrap();
    let mut stream = tokio::net::TcpStream::connect(fixture.ledger.api).await.unwrap();
    let head = format!("PUT {path} HTTP/1.1\r\nhost: ledger\r\ncontent-length: {SIZE}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body()[..SIZE - 1]).await.unwrap();
    eventually("it is being written", async || fixture.files() == 1).await;
    drop(stream);
    eventually("nothing is left of it", async || fixture.files() == 0).await;
    // Its room is free again, and there is not more than that.
    let (first, second, other) = (CallId::fresh(), CallId::fresh(), CallId::fresh());
    eventually("there is room", async || fixture.put("shop", first, body()).await == 201).await;
    assert_eq!(fixture.put("shop", second, body()).await, 507);
    assert!(!fixture.file("shop", second).exists());
    assert_eq!(fixture.put("site", other, body()).await, 201, "another App has room of its own");
    // A length that nobody declared is found out.
    let pieces =
        futures::stream::iter((0..SIZE / 7).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b"1234567"))));
    let url = fixture.url(ObjectAct::Put, "shop", second);
    let answer = fixture.http.put(url).body(reqwest::Body::wrap_stream(pieces)).send().await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 507));
    eventually("nothing is left of it", async || fixture.files() == 2).await;
}

#[tokio::test]
async fn a_body_goes_with_the_end_of_its_call_and_stays_with_a_dead_letter() {
    let fixture = Fixture::with(2 * BYTES_MAX).await;
    let done = fixture.spilled().await;
    fixture.ground.tell(ended(done.id, 1, Ended::Success)).await;
    eventually("it is gone", async || !fixture.file("shop", done.id).exists()).await;
    let dead = fixture.spilled().await;
    fixture.ground.tell(event(dead.id, Happened::Dead { reason: "its last attempt failed".into() })).await;
    eventually("it is counted", async || {
        fixture.ledger.metric("funcatron_ledger_objects_collected_total").await >= 1.0
    })
    .await;
    fixture.ledger.until(dead.id, "dead").await;
    assert!(fixture.file("shop", dead.id).exists());
}

#[tokio::test]
async fn a_dead_letter_goes_back_with_its_body() {
    let fixture = Fixture::new().await;
    let (queue, dead) = fixture.ground.durable().await;
    let before = fixture.spilled().await;
    let mut consumer = fixture.ground.consume(&queue).await;
    let message = before.to_envelope().unwrap();
    let confirm = fixture.ground.link.publish_confirmed(Target::queue(&dead), message, true).await;
    assert_eq!(confirm.unwrap(), Confirm::Acked);
    let redriven = fixture.ledger.post(&format!("{APP}/fns/mail/dead-letters/redrive")).await;
    assert_eq!((redriven.status, redriven.json()), (200, serde_json::json!({"moved": 1})));
    let again = Call::from_envelope(take(&mut consumer).await.envelope).unwrap();
    assert_ne!(again.id, before.id);
    assert_eq!(fixture.fetched(&again).await, body());
    assert!(!fixture.file("shop", before.id).exists(), "there is one of it");
    fixture.ledger.until(again.id, "queued").await;
    fixture.ground.tell(ended(again.id, 1, Ended::Success)).await;
    eventually("it goes with the new call", async || fixture.files() == 0).await;
}

#[tokio::test]
async fn a_retried_call_has_the_body_of_the_first_for_as_long_as_that_is_kept() {
    let fixture = Fixture::with(2 * BYTES_MAX).await;
    let (queue, _) = fixture.ground.durable().await;
    let before = fixture.spilled().await;
    fixture.ground.tell(event(before.id, Happened::Dead { reason: "its last attempt failed".into() })).await;
    fixture.ledger.until(before.id, "dead").await;
    let retry = format!("{APP}/calls/{}/retry", before.id);
    assert_eq!(fixture.ledger.post(&retry).await.status, 202);
    let mut consumer = fixture.ground.consume(&queue).await;
    let delivery = take(&mut consumer).await;
    let again = Call::from_envelope(delivery.envelope.clone()).unwrap();
    assert_eq!((again.body.len(), again.spilled.is_some()), (0, true));
    assert_eq!(fixture.fetched(&again).await, body());
    assert!(fixture.file("shop", before.id).exists(), "it may be retried again");
    for id in [before.id, again.id] {
        let url = fixture.url(ObjectAct::Delete, "shop", id);
        assert_eq!(fixture.ask(Method::DELETE, &url).await, 204);
    }
    assert_eq!(fixture.ledger.post(&retry).await.problem(), (409, "not-repeatable".into()));
}
