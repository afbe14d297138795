//! `funcatron ledger` on a real RabbitMQ: a process that is killed while it takes events, and the next one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, as the tests themselves")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::{Confirm, Connector as _, Link, Target, fresh_suffix};
use funcatron_broker::message::{CallEvent, CallId, Happened, Source};
use funcatron_broker::names::Installation;
use funcatron_broker::topology::{self, Item};

/// Whatever is waited for comes within this, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);
/// Several batches, so that a kill falls between two or into one.
const EVENTS: usize = 1_500;

fn url() -> String {
    std::env::var("FUNCATRON_TEST_AMQP")
        .expect("FUNCATRON_TEST_AMQP is not set: cargo xtask test runs this with a RabbitMQ")
}

/// The process, killed when dropped.
struct Ledger {
    child: Child,
    api: String,
    ops: String,
}

impl Ledger {
    fn start(installation: &Installation, folder: &Path) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (api, ops) = (free(), free());
        let child = Command::new(env!("CARGO_BIN_EXE_funcatron"))
            .args(["ledger", "--installation", installation.as_str(), "--pod", "test"])
            .args(["--database", &format!("sqlite://{}/ledger.db", folder.display())])
            .args(["--api", &api, "--ops", &ops])
            .env("FUNCATRON_AMQP_URL", url())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let ledger = Self { child, api, ops };
        eventually("it is ready", || get(&ledger.ops, "/readyz").is_some_and(|(status, _)| status == 200));
        ledger
    }

    /// The number of the newest call; 0 while there is none.
    fn newest(&self) -> u64 {
        let list = get(&self.api, "/v1/namespaces/team-a/apps/shop/calls?limit=1");
        let Some((200, body)) = list else { return 0 };
        let list: serde_json::Value = serde_json::from_str(&body).unwrap();
        list["calls"][0]["number"].as_u64().unwrap_or(0)
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body; `None` while nobody answers.
fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: ledger\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn queued(id: CallId) -> CallEvent {
    CallEvent {
        user_id: None,
        id,
        namespace: "team-a".into(),
        app: "shop".into(),
        fn_name: "mail".into(),
        at_ms: 1_790_000_000_000,
        happened: Happened::Queued { source: Source::Http, request: None, retry_of: None },
    }
}

async fn publish(link: &Arc<dyn Link>, installation: &Installation, ids: &[CallId]) {
    let queue = installation.ledger_queue();
    for id in ids {
        let envelope = queued(*id).into_envelope().unwrap();
        let confirm = link.publish_confirmed(Target::queue(&queue), envelope, true).await;
        assert_eq!(confirm.unwrap(), Confirm::Acked);
    }
}

#[test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
fn a_ledger_that_is_killed_loses_no_event_and_keeps_none_twice() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let suffix = fresh_suffix();
    let installation = Installation::parse(&format!("t{}", &suffix[suffix.len() - 12..])).unwrap();
    let link = runtime.block_on(AmqpConnector::new(url(), "test of ledger").connect()).unwrap();
    runtime.block_on(link.declare(&topology::ledger(&installation))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<CallId> = (0..EVENTS).map(|_| CallId::fresh()).collect();
    let publishing = {
        let (link, installation, ids) = (Arc::clone(&link), installation.clone(), ids.clone());
        runtime.spawn(async move { publish(&link, &installation, &ids).await })
    };
    for killed in 1..=3 {
        let ledger = Ledger::start(&installation, folder.path());
        let before = ledger.newest();
        eventually("it takes events", || ledger.newest() > before || before == EVENTS as u64);
        println!("kill {killed} after call {}", ledger.newest());
        ledger.kill();
    }
    let ledger = Ledger::start(&installation, folder.path());
    runtime.block_on(publishing).unwrap();
    for id in &ids {
        eventually("each call is there", || {
            get(&ledger.api, &format!("/calls/{id}")).is_some_and(|(s, _)| s == 200)
        });
    }
    assert_eq!(ledger.newest(), EVENTS as u64, "each is there once, without a gap in their numbers");
    drop(ledger);
    runtime.block_on(clean(&link, &installation));
}

async fn clean(link: &Arc<dyn Link>, installation: &Installation) {
    for item in topology::ledger(installation) {
        match item {
            Item::Queue { name, .. } => drop(link.delete_queue(&name, false).await.unwrap()),
            Item::Exchange { name, .. } => drop(link.delete_exchange(&name).await.unwrap()),
            Item::Binding { .. } => {}
        }
    }
    link.close().await;
}
