//! How many calls a gateway passes on, and what each costs it: `throughput [--amqp URL] [IN_FLIGHT] [SECONDS]`.
//!
//! Load, gateway and an echoing runner have threads of their own in this process, whose CPU time the kernel counts apart.
//! The broker within the process works on the threads of whoever uses it, so its share is in the gateway's figure.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement prints, and stops where it cannot go on"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::{Connector, ConsumeOptions, Event, Target};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{Call, Outcome, Reply};
use funcatron_broker::names::{AppNames, Installation};
use funcatron_broker::topology;
use funcatron_crds::address::SigningKey;
use funcatron_crds::{Digest, RevisionName};
use funcatron_gateway::{Gateway, GatewayConfig, HostPolicy, Limits, MemoryBundles, TableStore};
use funcatron_routing::app_table::{AppTable, FnEntry, RevisionEntry};
use funcatron_routing::{Backend, ExplicitRule, RouteSource, Rules, compile};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

const REVISION: &str = "echo-00000001";
const BODY: [u8; 100] = [b'x'; 100];
/// The kernel counts CPU time in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

fn runtime(name: &'static str, threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build().unwrap()
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let amqp = arguments.iter().position(|argument| argument == "--amqp").map(|at| {
        arguments.remove(at);
        arguments.remove(at)
    });
    let number = |at: usize, otherwise| arguments.get(at).map_or(otherwise, |text| text.parse().unwrap());
    let (in_flight, seconds) = (number(0, 64), number(1, 5) as u64);
    let local = LocalBroker::new();
    let connect = |name: &str| -> Arc<dyn Connector> {
        match &amqp {
            Some(url) => Arc::new(AmqpConnector::new(url, name)),
            None => Arc::new(local.clone()),
        }
    };

    let (gateways, runners, loads) = (runtime("gateway", 2), runtime("runner", 1), runtime("load", 2));
    runners.block_on(start_runner(connect("runner")));
    let public = gateways.block_on(start_gateway(connect("gateway")));
    loads.block_on(load(public, in_flight, Duration::from_secs(1)));
    let before = cpu();
    let (calls, latencies) = loads.block_on(load(public, in_flight, Duration::from_secs(seconds)));
    let after = cpu();
    let per_call = |name: &str| (after(name) - before(name)).as_micros() as f64 / calls as f64;
    println!(
        "{calls} calls, {:.0}/s, p50 {:?}, p99 {:?}; CPU per call: gateway {:.1} µs, runner {:.1} µs, load {:.1} µs",
        calls as f64 / seconds as f64,
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
        per_call("gateway"),
        per_call("runner"),
        per_call("load"),
    );
    std::process::exit(0);
}

/// CPU time so far of all threads of a name.
fn cpu() -> impl Fn(&str) -> Duration {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task").unwrap() {
        let stat = std::fs::read_to_string(entry.unwrap().path().join("stat")).unwrap_or_default();
        let Some((head, rest)) = stat.rsplit_once(')') else { continue };
        let name = head.split_once('(').map_or("", |(_, name)| name).to_owned();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks: u32 = [11, 12].iter().map(|at| fields[*at].parse::<u32>().unwrap()).sum();
        threads.push((name, TICK * ticks));
    }
    move |wanted| threads.iter().filter(|(name, _)| name == wanted).map(|(_, time)| *time).sum()
}

fn installation() -> Installation {
    Installation::parse("bench").unwrap()
}

fn names() -> AppNames {
    AppNames::new(&installation(), "bench", "bench").unwrap()
}

async fn start_runner(connector: Arc<dyn Connector>) {
    let link = connector.connect().await.unwrap();
    link.declare(&topology::installation(&installation())).await.unwrap();
    link.declare(&topology::app(&names())).await.unwrap();
    link.declare(&topology::revision(&names(), REVISION).unwrap()).await.unwrap();
    let queue = names().revision_queue(REVISION).unwrap();
    let options = ConsumeOptions { prefetch: 256, exclusive: false, no_ack: false };
    let mut calls = link.consume(&queue, options).await.unwrap();
    tokio::spawn(async move {
        let exchange = installation().reply_exchange();
        while let Some(Event::Delivery(delivery)) = calls.next().await {
            let call = Call::from_envelope(delivery.envelope.clone()).unwrap();
            let reply = Reply {
                id: call.id,
                user_id: None,
                attempt: call.attempt,
                outcome: Outcome::Answer(StatusCode::OK),
                headers: HeaderMap::new(),
                body: call.body,
            };
            let mut envelope = reply.into_envelope().unwrap();
            envelope.properties.user_id = Some(names().user().to_owned());
            let to = call.reply_to.unwrap();
            link.publish(Target::exchange(&exchange, &to), envelope, false).await.unwrap();
            delivery.ack().await.unwrap();
        }
    });
}

async fn start_gateway(connector: Arc<dyn Connector>) -> SocketAddr {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = GatewayConfig {
        public: any,
        internal: any,
        ops: any,
        gateway_hostname: String::new(),
        internal_base: String::new(),
        signing_key: SigningKey::new(&[1; 32]).unwrap(),
        serve_by_host: HostPolicy::Dev,
        limits: Limits::default(),
    };
    let tables = Arc::new(TableStore::new(&installation(), config.own_host()));
    let mut app = AppTable::new("bench", "bench", 1 << 20);
    let revision = RevisionEntry {
        name: RevisionName::parse(REVISION).unwrap(),
        runtime: None,
        run: Digest::of(b""),
        code: None,
        concurrency: 256,
        durable: false,
    };
    app.fns.insert("echo".into(), FnEntry { revision: Some(revision), timeout_ms: 30_000 });
    tables.put_app("bench", "bench", Some(app)).unwrap();
    let backends = vec![Backend { fn_name: "echo".into(), weight: 1 }];
    let rules = [ExplicitRule { matches: Vec::new(), backends, timeout_ms: None }];
    let route = compile(&RouteSource {
        namespace: "bench",
        name: "echo",
        app: "bench",
        hostnames: &[],
        base_path: None,
        created_ms: 0,
        uid: "u",
        rules: Rules::Explicit(&rules),
    });
    tables.put_route("bench", "echo", Some(route.unwrap())).unwrap();
    tables.mark_synced();
    let gateway = Gateway::bind(config).await.unwrap();
    let public = gateway.public_addr();
    let bundles = Arc::new(MemoryBundles::default());
    tokio::spawn(gateway.serve(connector, tables, bundles, CancellationToken::new()));
    public
}

/// Each connection has one call out at a time.
async fn load(to: SocketAddr, connections: usize, long: Duration) -> (usize, Vec<Duration>) {
    let until = Instant::now() + long;
    let tasks: Vec<_> = (0..connections).map(|_| tokio::spawn(calls(to, until))).collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    latencies.sort_unstable();
    (latencies.len(), latencies)
}

async fn calls(to: SocketAddr, until: Instant) -> Vec<Duration> {
    let stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut latencies = Vec::new();
    while Instant::now() < until {
        let request = Request::post("/echo").header("host", "localhost").header("accept", "*/*");
        let request = request.body(Full::new(Bytes::from_static(&BODY))).unwrap();
        let started = Instant::now();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        // Only before the link is up is anything else an answer.
        if status == StatusCode::OK {
            assert_eq!(body.len(), BODY.len());
            latencies.push(started.elapsed());
        }
    }
    latencies
}
