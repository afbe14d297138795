//! WebSockets from a client through a gateway, a runner and the broker within the process to a real server, and back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail as its tests do")]

#[path = "../../runner/tests/kit/server.rs"]
#[allow(dead_code, unreachable_pub, reason = "the runner's tests use the rest of it")]
mod server;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::link::{Connector, Link};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::names::{AppNames, Installation};
use funcatron_broker::topology;
use funcatron_crds::{Digest, RevisionName, SigningKey};
use funcatron_gateway::{Gateway, GatewayConfig, HostPolicy, Limits, MemoryBundles, TableStore};
use funcatron_routing::app_table::{AppBounds, AppTable, AsyncPolicy, FnEntry, RevisionEntry};
use funcatron_routing::{
    Backend, CallPolicy, ExplicitRule, PathMatch, PathMatchType, RouteMatch, RouteSource, RouteTable, Rules,
    compile,
};
use funcatron_runner::{Endpoint, Mode, RunnerConfig};
use server::Server;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};

const HOST: &str = "shop.example.com";
const REVISION: &str = "chat-00000001";
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fails the test if it takes too long.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// All parts between a client and a server.
struct Stage {
    public: SocketAddr,
    server: Server,
    _ends: DropGuard,
    _dir: TempDir,
}

fn installation() -> Installation {
    Installation::parse("test").unwrap()
}

fn table() -> AppTable {
    let mut table = AppTable::new("team-a", "shop", AppBounds::with_body(1000));
    let revision = RevisionEntry {
        name: RevisionName::parse(REVISION).unwrap(),
        runtime: None,
        run: Digest::of(b"run"),
        code: None,
        concurrency: 4,
        durable: false,
    };
    let detached = AsyncPolicy::default();
    table.fns.insert("chat".into(), FnEntry { revision: Some(revision), timeout_ms: 10_000, detached });
    table
}

fn site() -> RouteTable {
    let path = PathMatch { kind: PathMatchType::PathPrefix, value: "/".to_owned() };
    let rule = ExplicitRule {
        matches: vec![RouteMatch { path: Some(path), method: None, headers: Vec::new() }],
        backends: vec![Backend { fn_name: "chat".to_owned(), weight: 1 }],
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
    .unwrap()
}

async fn declare(broker: &LocalBroker) -> Arc<dyn Link> {
    let link = broker.connect().await.unwrap();
    let names = AppNames::new(&installation(), "team-a", "shop").unwrap();
    for items in [
        topology::installation(names.installation()),
        topology::app(&names),
        topology::revision(&names, REVISION).unwrap(),
    ] {
        link.declare(&items).await.unwrap();
    }
    link
}

fn gateway_config() -> GatewayConfig {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    GatewayConfig {
        public: any,
        internal: any,
        ops: any,
        gateway_hostname: "gateway.example.com".into(),
        internal_base: String::new(),
        direct_at: String::new(),
        ledger_url: None,
        signing_key: SigningKey::new(&[7; 32]).unwrap(),
        serve_by_host: HostPolicy::Strict,
        limits: Limits { drain_timeout: Duration::ZERO, ..Limits::default() },
    }
}

fn runner_config(dir: &TempDir, port: u16) -> RunnerConfig {
    RunnerConfig {
        installation: installation(),
        namespace: "team-a".into(),
        app: "shop".into(),
        runner_name: "runner-1".into(),
        mode: Mode::Dedicated {
            fn_name: "chat".into(),
            revision: REVISION.into(),
            endpoint: Endpoint::Http(port),
            concurrency: 4,
            timeout_ms: 10_000,
            attempts_max: funcatron_crds::DEFAULT_ATTEMPTS,
            durable: false,
        },
        ready_file: dir.path().join("ready"),
        drain: Duration::ZERO,
    }
}

async fn stage() -> Stage {
    let (broker, server, dir) = (LocalBroker::new(), Server::start().await, tempfile::tempdir().unwrap());
    let _link = declare(&broker).await;
    let config = gateway_config();
    let tables = Arc::new(TableStore::new(&installation(), config.own_host()));
    tables.put_app("team-a", "shop", Some(table())).unwrap();
    tables.put_route("team-a", "site", Some(site())).unwrap();
    tables.mark_synced();
    let gateway = Gateway::bind(config).await.unwrap();
    let (public, stop) = (gateway.public_addr(), CancellationToken::new());
    let bundles = Arc::new(MemoryBundles::default());
    tokio::spawn(gateway.serve(Arc::new(broker.clone()), tables, bundles, stop.clone()));
    let config = runner_config(&dir, server.port);
    tokio::spawn(funcatron_runner::run(config, Arc::new(broker), stop.clone()));
    let stage = Stage { public, server, _ends: stop.drop_guard(), _dir: dir };
    soon("the gateway has its broker", async {
        while !stage.ask("/status/200", "").await.1.starts_with("HTTP/1.1 200") {}
    })
    .await;
    stage
}

impl Stage {
    /// Sends a request; says what the answer begins with.
    async fn ask(&self, path: &str, headers: &str) -> (TcpStream, String) {
        let mut client = TcpStream::connect(self.public).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n{headers}\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon("an answer", client.read_u8()).await.unwrap());
        }
        (client, String::from_utf8(head).unwrap())
    }

    /// A WebSocket.
    async fn connect(&self, path: &str) -> TcpStream {
        let headers = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let (client, head) = self.ask(path, headers).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        client
    }
}

/// A client's frame (RFC 6455, section 5): whole, and masked.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![0x80 | opcode, 0x80 | 127];
    frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A server's frame: its first byte and its payload.
async fn read_frame(client: &mut (impl AsyncReadExt + Unpin)) -> (u8, Vec<u8>) {
    let (first, short) = (client.read_u8().await.unwrap(), client.read_u8().await.unwrap());
    let length = match short {
        127 => client.read_u64().await.unwrap(),
        126 => u64::from(client.read_u16().await.unwrap()),
        short => u64::from(short),
    };
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    client.read_exact(&mut payload).await.unwrap();
    (first, payload)
}

#[tokio::test]
async fn ten_mebibytes_of_frames_pass_each_way_unchanged() {
    const FRAMES: usize = 10;
    let mut stage = stage().await;
    let (mut reading, mut writing) = stage.connect("/ws/frames").await.into_split();
    let payload =
        |n: usize| (0..1 << 20).map(|at| u8::try_from((at * 7 + n) % 251).unwrap()).collect::<Vec<_>>();
    let sending = async {
        for n in 0..FRAMES {
            writing.write_all(&frame(2, &payload(n))).await.unwrap();
        }
        writing.write_all(&frame(8, &[3, 232])).await.unwrap();
    };
    let receiving = async {
        for n in 0..FRAMES {
            let (first, echoed) = read_frame(&mut reading).await;
            assert!(first == 0x82 && echoed == payload(n), "frame {n}");
        }
        assert_eq!(read_frame(&mut reading).await, (0x88, vec![3, 232]));
        assert_eq!(reading.read(&mut [0]).await.unwrap(), 0, "the server has ended");
    };
    soon("all frames", async { tokio::join!(sending, receiving) }).await;
    drop((reading, writing));
    stage.server.says("closed /ws/frames").await;
}

#[tokio::test]
async fn an_end_is_told_to_the_other_side_alone() {
    let mut stage = stage().await;
    let mut client = stage.connect("/ws/raw").await;
    client.write_all(b"words").await.unwrap();
    client.shutdown().await.unwrap();
    let mut all = String::new();
    soon("the rest", client.read_to_string(&mut all)).await.unwrap();
    assert_eq!(all, "wordsthat was all");
    let mut client = stage.connect("/ws/bye").await;
    let mut all = String::new();
    soon("the server's end", client.read_to_string(&mut all)).await.unwrap();
    assert_eq!(all, "bye");
    client.write_all(&[7; 100_000]).await.unwrap();
    drop(client);
    stage.server.says("read 100000").await;
}

#[tokio::test]
async fn a_client_that_is_gone_is_gone_for_the_server() {
    let mut stage = stage().await;
    let mut client = stage.connect("/ws/mute").await;
    soon("a word", client.read_exact(&mut [0; 4])).await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    stage.server.says("closed /ws/mute").await;
    // One that ends in order, and takes nothing more, is noticed at the server's next word.
    let mut client = stage.connect("/ws/mute").await;
    soon("a word", client.read_exact(&mut [0; 4])).await.unwrap();
    drop(client);
    stage.server.says("closed /ws/mute").await;
}

#[tokio::test]
async fn a_server_that_is_gone_is_gone_for_the_client() {
    let stage = stage().await;
    let mut clients = [stage.connect("/ws/raw").await, stage.connect("/ws/frames").await];
    let Stage { server, _ends, .. } = stage;
    server.kill().await;
    for client in &mut clients {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = soon("the end", client.read_to_end(&mut rest)).await;
        assert!(rest.is_empty());
    }
}
