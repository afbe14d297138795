//! A gateway under test, its clients, and runners to play.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use funcatron_broker::link::{
    ConnectError, Connector, ConsumeOptions, Consumer, Delivery, Event, Link, Target,
};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{Call, Outcome, Reply};
use funcatron_broker::names::{AppNames, Installation};
use funcatron_broker::topology;
use funcatron_crds::address::SigningKey;
use funcatron_crds::{Digest, Direct, RevisionName};
use funcatron_gateway::{Gateway, GatewayConfig, HostPolicy, Limits, MemoryBundles, TableStore};
use funcatron_routing::app_table::{
    AppBounds, AppTable, AsyncPolicy, FnEntry, HttpTriggerEntry, RevisionEntry,
};
use funcatron_routing::{
    Backend, CallPolicy, ExplicitRule, PathMatch, PathMatchType, RouteMatch, RouteSource, RouteTable, Rules,
    compile,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const OWN_HOST: &str = "gateway.example.com";
pub(crate) const HOST: &str = "shop.example.com";

pub(crate) fn installation() -> Installation {
    Installation::parse("test").unwrap()
}

pub(crate) fn names() -> AppNames {
    AppNames::new(&installation(), "team-a", "shop").unwrap()
}

pub(crate) fn key() -> SigningKey {
    SigningKey::new(&[7; 32]).unwrap()
}

pub(crate) fn revision(hash: &str) -> String {
    format!("page-{hash}")
}

/// Fails the test if it takes too long.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("happens soon")
}

/// Looks again and again until a condition holds.
pub(crate) async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    soon(async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A broker that can be away.
#[derive(Clone, Default)]
pub(crate) struct Broker {
    pub(crate) local: LocalBroker,
    away: Arc<AtomicBool>,
}

impl Broker {
    pub(crate) fn leave(&self) {
        self.away.store(true, Ordering::SeqCst);
        self.local.drop_links("gone for a test");
    }

    pub(crate) fn come_back(&self) {
        self.away.store(false, Ordering::SeqCst);
    }
}

#[async_trait]
impl Connector for Broker {
    async fn connect(&self) -> Result<Arc<dyn Link>, ConnectError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(ConnectError::Unreachable("away for a test".into()));
        }
        self.local.connect().await
    }
}

/// A gateway that serves.
pub(crate) struct Fixture {
    pub(crate) broker: Broker,
    pub(crate) tables: Arc<TableStore>,
    pub(crate) bundles: Arc<MemoryBundles>,
    pub(crate) public: SocketAddr,
    pub(crate) internal: SocketAddr,
    pub(crate) ops: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) served: JoinHandle<()>,
}

pub(crate) fn config(policy: HostPolicy, limits: Limits) -> GatewayConfig {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    GatewayConfig {
        public: any,
        internal: any,
        ops: any,
        gateway_hostname: if policy == HostPolicy::Dev { String::new() } else { OWN_HOST.into() },
        internal_base: String::new(),
        direct_at: String::new(),
        ledger_url: Some("http://127.0.0.1:9".into()),
        signing_key: key(),
        serve_by_host: policy,
        limits,
    }
}

impl Fixture {
    /// Starts a gateway with `shop` in its tables, which `page-00000001` serves, and waits until it is ready.
    pub(crate) async fn start() -> Self {
        Self::with(HostPolicy::Strict, Limits::default()).await
    }

    pub(crate) async fn with(policy: HostPolicy, limits: Limits) -> Self {
        Self::of(config(policy, limits)).await
    }

    pub(crate) async fn of(config: GatewayConfig) -> Self {
        let fixture = Self::bound(config).await;
        fixture.tables.mark_synced();
        let ops = fixture.ops;
        eventually(async || get(ops, "ops", "/readyz").await.status == 200).await;
        fixture
    }

    pub(crate) async fn unready(policy: HostPolicy, limits: Limits) -> Self {
        Self::bound(config(policy, limits)).await
    }

    async fn bound(config: GatewayConfig) -> Self {
        let broker = Broker::default();
        let tables = Arc::new(TableStore::new(&installation(), config.own_host()));
        tables.put_app("team-a", "shop", Some(app("00000001"))).unwrap();
        tables.put_route("team-a", "site", Some(site())).unwrap();
        let gateway = Gateway::bind(config).await.unwrap();
        let (public, internal, ops) = (gateway.public_addr(), gateway.internal_addr(), gateway.ops_addr());
        let (bundles, shutdown) = (Arc::new(MemoryBundles::default()), CancellationToken::new());
        let connector = Arc::new(broker.clone());
        let serving = gateway.serve(connector, Arc::clone(&tables), bundles.clone(), shutdown.clone());
        let served = tokio::spawn(serving);
        Self { broker, tables, bundles, public, internal, ops, shutdown, served }
    }

    /// A runner of the revision with that hash, its queue declared.
    pub(crate) async fn runner(&self, hash: &str) -> Runner {
        Runner::start(&self.broker.local, &revision(hash)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        get(self.public, HOST, path).await
    }

    pub(crate) async fn post(&self, path: &str, body: &'static str) -> Answer {
        send(self.public, Method::POST, HOST, path, &[], body).await
    }

    /// The value of a metric; 0 while it has none.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = get(self.ops, "ops", "/metrics").await.text();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }
}

/// The table of `team-a/shop`: `page`, whose revision has that hash, and `new`, which has none yet.
pub(crate) fn app(hash: &str) -> AppTable {
    let mut table = AppTable::new("team-a", "shop", AppBounds::with_body(1000));
    let entry = RevisionEntry {
        name: RevisionName::parse(&revision(hash)).unwrap(),
        runtime: Some("python".into()),
        run: Digest::of(b"run"),
        code: Some(Digest::of(b"code")),
        concurrency: 1,
        durable: false,
    };
    table.fns.insert(
        "page".into(),
        FnEntry { revision: Some(entry), timeout_ms: 30_000, detached: AsyncPolicy::default() },
    );
    table.fns.insert(
        "new".into(),
        FnEntry { revision: None, timeout_ms: 30_000, detached: AsyncPolicy::default() },
    );
    let hook = |source: &str, is_async| HttpTriggerEntry {
        name: source.trim_start_matches('/').into(),
        source: source.into(),
        fn_name: "page".into(),
        is_async,
    };
    table.triggers.extend([hook("/hook", false), hook("/hook/later", true)]);
    table
}

pub(crate) fn rule(method: Option<&str>, path: &str, fn_name: &str, timeout_ms: Option<u64>) -> ExplicitRule {
    let path = PathMatch { kind: PathMatchType::PathPrefix, value: path.to_owned() };
    let matches =
        vec![RouteMatch { path: Some(path), method: method.map(str::to_owned), headers: Vec::new() }];
    ExplicitRule {
        matches,
        backends: vec![Backend { fn_name: fn_name.to_owned(), weight: 1 }],
        call: CallPolicy { timeout_ms, ..CallPolicy::default() },
    }
}

pub(crate) fn route(app: &str, name: &str, hostnames: &[String], rules: &[ExplicitRule]) -> RouteTable {
    compile(&RouteSource {
        namespace: "team-a",
        name,
        app,
        hostnames,
        base_path: None,
        created_ms: 1,
        uid: "u",
        rules: Rules::Explicit(rules),
    })
    .unwrap()
}

/// The Route `site` on `shop.example.com`.
fn site() -> RouteTable {
    let rules = [
        rule(None, "/page", "page", None),
        rule(None, "/brief", "page", Some(300)),
        rule(None, "/new", "new", None),
        rule(None, "/missing", "missing", None),
        rule(Some("PUT"), "/put", "page", None),
        ExplicitRule {
            call: CallPolicy { idempotent: Some(true), ..CallPolicy::default() },
            ..rule(None, "/again", "page", None)
        },
        ExplicitRule {
            call: CallPolicy { is_async: true, ..CallPolicy::default() },
            ..rule(None, "/later", "page", None)
        },
        direct("/kept", Direct::Never),
        direct("/always", Direct::Always),
    ];
    route("shop", "site", &[HOST.to_owned()], &rules)
}

/// All below a path, its bodies past the broker or not.
fn direct(path: &str, direct: Direct) -> ExplicitRule {
    let call = CallPolicy { direct: Some(direct), ..CallPolicy::default() };
    ExplicitRule { call, ..rule(None, path, "page", None) }
}

/// A runner that a test plays.
pub(crate) struct Runner {
    pub(crate) link: Arc<dyn Link>,
    pub(crate) calls: Consumer,
}

impl Runner {
    pub(crate) async fn start(broker: &LocalBroker, revision: &str) -> Self {
        let link = broker.connect().await.unwrap();
        link.declare(&topology::app(&names())).await.unwrap();
        link.declare(&topology::revision(&names(), revision).unwrap()).await.unwrap();
        let options = ConsumeOptions { prefetch: 100, exclusive: false, no_ack: false };
        let calls = link.consume(&names().revision_queue(revision).unwrap(), options).await.unwrap();
        Self { link, calls }
    }

    /// The next call.
    pub(crate) async fn take(&mut self) -> (Call, Delivery) {
        match soon(self.calls.next()).await {
            Some(Event::Delivery(delivery)) => {
                (Call::from_envelope(delivery.envelope.clone()).unwrap(), delivery)
            }
            other => panic!("no call but {other:?}"),
        }
    }

    pub(crate) async fn reply(&self, call: &Call, reply: Reply) {
        reply_over(&*self.link, call, reply).await;
    }

    /// Takes one call and answers it so.
    pub(crate) async fn serve(&mut self, outcome: Outcome, body: &'static str) -> Call {
        let (call, delivery) = self.take().await;
        self.reply(&call, reply(&call, outcome, body)).await;
        delivery.ack().await.unwrap();
        call
    }

    /// Answers every call with its own body, and its revision in `x-revision`.
    pub(crate) fn echo(mut self) -> JoinHandle<()> {
        tokio::spawn(async move {
            while let Some(Event::Delivery(delivery)) = self.calls.next().await {
                let call = Call::from_envelope(delivery.envelope.clone()).unwrap();
                let mut answer = reply(&call, Outcome::Answer(StatusCode::OK), "");
                answer.body = call.body.clone();
                answer.headers.insert("x-revision", call.revision.parse().unwrap());
                reply_over(&*self.link, &call, answer).await;
                delivery.ack().await.unwrap();
            }
        })
    }
}

pub(crate) fn reply(call: &Call, outcome: Outcome, body: &'static str) -> Reply {
    let user_id = Some(names().user().to_owned());
    let (headers, body) = (HeaderMap::new(), Bytes::from_static(body.as_bytes()));
    Reply { id: call.id, user_id, attempt: call.attempt, outcome, headers, body }
}

async fn reply_over(link: &dyn Link, call: &Call, reply: Reply) {
    let exchange = installation().reply_exchange();
    let to = Target::exchange(&exchange, call.reply_to.as_deref().unwrap());
    link.publish(to, reply.into_envelope().unwrap(), false).await.unwrap();
}

/// What a client got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    /// Checks that this is a problem document as every one must be; says of which type.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        let document: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(document["status"], self.status);
        assert!(document["message"].is_string() && document["detail"].is_string(), "{document}");
        let id = self.headers["fn-call-id"].to_str().unwrap();
        assert_eq!(document["instance"], format!("urn:uuid:{id}"));
        let waits = self.headers.contains_key("retry-after");
        assert_eq!(waits, [429, 503].contains(&self.status), "{self:?}");
        document["type"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
    }
}

pub(crate) async fn collected<E: std::fmt::Debug>(
    response: Response<impl hyper::body::Body<Data = Bytes, Error = E>>,
) -> Answer {
    let (parts, body) = response.into_parts();
    let body = soon(body.collect()).await.unwrap().to_bytes();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

pub(crate) async fn get(to: SocketAddr, host: &str, path: &str) -> Answer {
    send(to, Method::GET, host, path, &[], "").await
}

pub(crate) async fn send(
    to: SocketAddr,
    method: Method,
    host: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).unwrap();
    let answer = collected(soon(sender.send_request(request)).await.unwrap()).await;
    connection.abort();
    answer
}

/// One HTTP/2 connection.
pub(crate) async fn h2(to: SocketAddr) -> http2::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(to).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}
