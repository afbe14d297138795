//! Instructions that one call takes in a gateway, from the bytes of its request to those of its answer, over the broker
//! within the process and one thread. Counted by `cargo xtask counts`, which compares them with the commit that a change
//! stands on.
//!
//! The client and the runner stand in the same process and do as little as they can, since they are counted too.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "what gungraun's macros write is public"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::envelope::Envelope;
use funcatron_broker::link::{Connector, ConsumeOptions, Consumer, Event, Link, Target};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{Outcome, Reply};
use funcatron_broker::names::{AppNames, Installation};
use funcatron_broker::topology;
use funcatron_crds::address::SigningKey;
use funcatron_crds::{Digest, RevisionName};
use funcatron_gateway::{Gateway, GatewayConfig, HostPolicy, Limits, MemoryBundles, TableStore};
use funcatron_routing::app_table::{AppBounds, AppTable, AsyncPolicy, FnEntry, RevisionEntry};
use funcatron_routing::{
    Backend, CallPolicy, ExplicitRule, PathMatch, PathMatchType, RouteMatch, RouteSource, RouteTable, Rules,
    compile,
};
use gungraun::{library_benchmark, library_benchmark_group, main};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// Calls that are counted, one after another.
const CALLS: usize = 100;
/// Calls before those, so that nothing is counted that is done once.
const CALLS_BEFORE: usize = 20;
/// Far longer than the start takes, even with every instruction counted.
const START_MAX: Duration = Duration::from_secs(60);
const HOST: &str = "shop.example.com";
const REVISION: &str = "page-00000001";
/// The end of every answer, by which the client knows it.
const BODY: &[u8] = b"{\"answer\": \"the end of it\"}";

const GET: &str = "GET /page/7?full=true HTTP/1.1\r\nhost: shop.example.com\r\naccept: */*\r\n\
    user-agent: curl/8.17.0\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
const POST: &str = "POST /page/7 HTTP/1.1\r\nhost: shop.example.com\r\naccept: application/json\r\n\
    content-type: application/json\r\nuser-agent: curl/8.17.0\r\ncontent-length: 31\r\n\r\n{\"order\": 7, \"amount\": 1234567}";

/// A gateway that serves, a runner that answers, and a client that is connected.
struct Site {
    runtime: Runtime,
    client: TcpStream,
    request: &'static str,
    answer: Vec<u8>,
}

impl Site {
    fn calls(&mut self, count: usize) {
        let Self { runtime, client, request, answer } = self;
        runtime.block_on(async {
            for _ in 0..count {
                call(client, request, answer).await;
            }
        });
    }
}

/// One call; nothing but a 200 is counted for one.
async fn call(client: &mut TcpStream, request: &str, answer: &mut Vec<u8>) {
    client.write_all(request.as_bytes()).await.expect("the gateway reads");
    answer.clear();
    while !answer.ends_with(BODY) {
        let read = client.read_buf(answer).await.expect("the gateway answers");
        assert!(read > 0 && answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(answer));
    }
}

fn names() -> AppNames {
    let installation = Installation::parse("inst").expect("a name");
    AppNames::new(&installation, "team-a", "shop").expect("names")
}

fn config() -> GatewayConfig {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    GatewayConfig {
        public: any,
        internal: any,
        ops: any,
        gateway_hostname: "gateway.example.com".to_owned(),
        internal_base: String::new(),
        direct_at: String::new(),
        ledger_url: None,
        signing_key: SigningKey::new(&[7; 32]).expect("long enough"),
        serve_by_host: HostPolicy::Strict,
        limits: Limits::default(),
    }
}

fn app() -> AppTable {
    let mut table = AppTable::new("team-a", "shop", AppBounds::with_body(1 << 20));
    let revision = RevisionEntry {
        name: RevisionName::parse(REVISION).expect("a name"),
        runtime: Some("python".to_owned()),
        run: Digest::of(b"run"),
        code: Some(Digest::of(b"code")),
        concurrency: 1,
        durable: false,
    };
    let entry = FnEntry { revision: Some(revision), timeout_ms: 30_000, detached: AsyncPolicy::default() };
    table.fns.insert("page".to_owned(), entry);
    table
}

fn route() -> RouteTable {
    let path = PathMatch { kind: PathMatchType::PathPrefix, value: "/page".to_owned() };
    let rule = ExplicitRule {
        matches: vec![RouteMatch { path: Some(path), method: None, headers: Vec::new() }],
        backends: vec![Backend { fn_name: "page".to_owned(), weight: 1 }],
        call: CallPolicy::default(),
    };
    compile(&RouteSource {
        namespace: "team-a",
        name: "site",
        app: "shop",
        hostnames: &[HOST.to_owned()],
        base_path: None,
        created_ms: 1,
        uid: "u",
        rules: Rules::Explicit(&[rule]),
    })
    .expect("the rule is right")
}

/// Starts all, and comes back once calls are answered.
fn site(request: &'static str) -> Site {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let started = async { tokio::time::timeout(START_MAX, start()).await.expect("the gateway starts") };
    let client = runtime.block_on(started);
    let mut site = Site { runtime, client, request, answer: Vec::new() };
    site.calls(CALLS_BEFORE);
    site
}

async fn start() -> TcpStream {
    let (broker, config) = (LocalBroker::new(), config());
    let tables = Arc::new(TableStore::new(names().installation(), config.own_host()));
    tables.put_app("team-a", "shop", Some(app())).expect("a table");
    tables.put_route("team-a", "site", Some(route())).expect("a table");
    tables.mark_synced();
    let link = broker.connect().await.expect("a link");
    let calls = consume(&*link).await;
    tokio::spawn(run(link, calls));
    let gateway = Gateway::bind(config).await.expect("free ports");
    let (public, ops) = (gateway.public_addr(), gateway.ops_addr());
    tokio::spawn(gateway.serve(
        Arc::new(broker),
        tables,
        Arc::new(MemoryBundles::default()),
        CancellationToken::new(),
    ));
    while !is_ready(ops).await {}
    let client = TcpStream::connect(public).await.expect("the gateway listens");
    client.set_nodelay(true).expect("an option of TCP");
    client
}

async fn is_ready(ops: SocketAddr) -> bool {
    let mut client = TcpStream::connect(ops).await.expect("the gateway listens");
    let request = b"GET /readyz HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n";
    client.write_all(request).await.expect("the gateway reads");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("the gateway answers");
    answer.starts_with(b"HTTP/1.1 200")
}

async fn consume(link: &dyn Link) -> Consumer {
    let queue = names().revision_queue(REVISION).expect("a name");
    link.declare(&topology::app(&names())).await.expect("declared");
    link.declare(&topology::revision(&names(), REVISION).expect("a name")).await.expect("declared");
    let options = ConsumeOptions { prefetch: 1, exclusive: false, no_ack: false };
    link.consume(&queue, options).await.expect("consumed")
}

/// Answers each call at once.
async fn run(link: Arc<dyn Link>, mut calls: Consumer) {
    let user = names().user().to_owned();
    let exchange = names().installation().reply_exchange();
    while let Some(Event::Delivery(delivery)) = calls.next().await {
        let to = delivery.envelope.properties.reply_to.clone().expect("somebody waits");
        let reply = answer(&delivery.envelope, &user);
        link.publish(Target::exchange(&exchange, &to), reply, false).await.expect("published");
        delivery.ack().await.expect("acknowledged");
    }
}

fn answer(call: &Envelope, user: &str) -> Envelope {
    let id = call.properties.message_id.as_deref().and_then(|id| id.parse().ok()).expect("a call has an id");
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let reply = Reply {
        id,
        user_id: Some(user.to_owned()),
        attempt: 1,
        outcome: Outcome::Answer(StatusCode::OK),
        headers,
        body: Bytes::from_static(BODY),
    };
    reply.into_envelope().expect("it is small")
}

#[library_benchmark(setup = site)]
#[bench::get(GET)]
#[bench::post(POST)]
fn dispatch(mut site: Site) -> Site {
    site.calls(CALLS);
    site
}

library_benchmark_group!(name = gateway, benchmarks = [dispatch]);
main!(library_benchmark_groups = gateway);
