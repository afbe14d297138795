//! A ledger under test, those who tell it things, and those who ask.

#![allow(dead_code, reason = "each test file takes what it needs")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::link::{
    Confirm, Connector, ConsumeOptions, Consumer, Delivery, Event, Link, Target, fresh_suffix,
};
use funcatron_broker::message::{CallEvent, CallId, Ended, Happened, RecordedRequest, Source};
use funcatron_broker::names::{AppNames, Installation, LEDGER_KEY, QueueName};
use funcatron_broker::topology::{self, Item};
use funcatron_ledger::{Access, Act, Decision, Ledger, LedgerConfig};
use http::request::Parts;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nobody may do anything in the namespace `closed`.
struct Closed;

impl Access for Closed {
    fn decide(&self, _request: &Parts, namespace: &str, _act: Act) -> Decision {
        if namespace == "closed" { Decision::NotAllowed } else { Decision::Allowed }
    }
}

/// A ledger that serves.
pub(crate) struct Running {
    pub(crate) api: SocketAddr,
    pub(crate) ops: SocketAddr,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn start(connector: Arc<dyn Connector>, config: LedgerConfig) -> Self {
        let running = Self::begin(connector, config).await;
        running.ready().await;
        running
    }

    /// Serves, and is perhaps not ready.
    pub(crate) async fn begin(connector: Arc<dyn Connector>, config: LedgerConfig) -> Self {
        let ledger = Ledger::bind(LedgerConfig { access: Arc::new(Closed), ..config }).await.unwrap();
        let (api, ops, shutdown) = (ledger.api_addr(), ledger.ops_addr(), CancellationToken::new());
        let served = tokio::spawn(ledger.serve(connector, shutdown.clone()));
        Self { api, ops, shutdown, served }
    }

    pub(crate) async fn ready(&self) {
        eventually("it is ready", async || send(self.ops, "GET", "/readyz").await.status == 200).await;
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.served).await.expect("it stops").unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.api, "GET", path).await
    }

    pub(crate) async fn post(&self, path: &str) -> Answer {
        send(self.api, "POST", path).await
    }

    /// Waits until a call stands so.
    pub(crate) async fn until(&self, id: CallId, status: &str) {
        eventually(&format!("{id} is {status}"), async || {
            let answer = self.get(&format!("/calls/{id}")).await;
            answer.status == 200 && answer.json()["status"] == status
        })
        .await;
    }

    /// The value of a metric; 0 while it has none.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = send(self.ops, "GET", "/metrics").await.text();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The status, and the last part of a problem's type.
    pub(crate) fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let document = self.json();
        assert_eq!(document["status"], self.status);
        assert!(document["message"].is_string() && document["message"] == document["detail"]);
        let kind = document["type"].as_str().unwrap();
        (self.status, kind.strip_prefix("https://funcatron.dev/problems/").unwrap().to_owned())
    }
}

/// A POST whose sender may leave before it is answered.
pub(crate) async fn begin(to: SocketAddr, path: &str) -> TcpStream {
    ask(to, "POST", path).await
}

async fn ask(to: SocketAddr, method: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: ledger\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// One request on a connection of its own.
pub(crate) async fn send(to: SocketAddr, method: &str, path: &str) -> Answer {
    let mut stream = ask(to, method, path).await;
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an answer").unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    Answer { status, headers, body: Bytes::copy_from_slice(&bytes[end + 4..]) }
}

pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

/// An installation of its own on a broker, and what was declared there.
pub(crate) struct Ground {
    pub(crate) installation: Installation,
    pub(crate) names: AppNames,
    pub(crate) link: Arc<dyn Link>,
}

impl Ground {
    pub(crate) async fn new(connector: &dyn Connector) -> Self {
        let suffix = fresh_suffix();
        let installation = Installation::parse(&format!("t{}", &suffix[suffix.len() - 12..])).unwrap();
        let names = AppNames::new(&installation, "team-a", "shop").unwrap();
        let link = connector.connect().await.unwrap();
        link.declare(&topology::installation(&installation)).await.unwrap();
        link.declare(&topology::ledger(&installation)).await.unwrap();
        link.declare(&topology::app(&names)).await.unwrap();
        Self { installation, names, link }
    }

    /// The Fn's durable queue and dead letters.
    pub(crate) async fn durable(&self) -> (QueueName, QueueName) {
        self.link.declare(&topology::durable(&self.names, "mail").unwrap()).await.unwrap();
        (self.names.durable_queue("mail").unwrap(), self.names.dead_queue("mail").unwrap())
    }

    /// As the platform does: into the queue itself, confirmed.
    pub(crate) async fn tell(&self, event: CallEvent) {
        let (queue, envelope) = (self.installation.ledger_queue(), event.into_envelope().unwrap());
        let confirm = self.link.publish_confirmed(Target::queue(&queue), envelope, true).await;
        assert_eq!(confirm.unwrap(), Confirm::Acked);
    }

    /// As a runner does: through the reply exchange.
    pub(crate) async fn report(&self, link: &dyn Link, event: CallEvent) {
        let exchange = self.installation.reply_exchange();
        let to = Target::exchange(&exchange, LEDGER_KEY);
        assert_eq!(
            link.publish_confirmed(to, event.into_envelope().unwrap(), true).await.unwrap(),
            Confirm::Acked
        );
    }

    pub(crate) async fn consume(&self, queue: &QueueName) -> Consumer {
        let options = ConsumeOptions { prefetch: 10, exclusive: false, no_ack: false };
        self.link.consume(queue, options).await.unwrap()
    }

    /// Leaves nothing behind on a broker that others use too.
    pub(crate) async fn clean(self) {
        let all = [
            topology::installation(&self.installation),
            topology::ledger(&self.installation),
            topology::app(&self.names),
            topology::durable(&self.names, "mail").unwrap(),
        ];
        for item in all.concat() {
            match item {
                Item::Queue { name, .. } => drop(self.link.delete_queue(&name, false).await.unwrap()),
                Item::Exchange { name, .. } => drop(self.link.delete_exchange(&name).await.unwrap()),
                Item::Binding { .. } => {}
            }
        }
        self.link.close().await;
    }
}

/// The next delivery.
pub(crate) async fn take(consumer: &mut Consumer) -> Delivery {
    match tokio::time::timeout(PATIENCE, consumer.next()).await.expect("a delivery in time") {
        Some(Event::Delivery(delivery)) => delivery,
        other => panic!("expected a delivery, got {other:?}"),
    }
}

pub(crate) fn event(id: CallId, happened: Happened) -> CallEvent {
    CallEvent {
        user_id: None,
        id,
        namespace: "team-a".into(),
        app: "shop".into(),
        fn_name: "mail".into(),
        at_ms: 1_790_000_000_000,
        happened,
    }
}

pub(crate) fn queued(id: CallId, request: Option<RecordedRequest>) -> CallEvent {
    event(id, Happened::Queued { source: Source::Http, request: request.map(Box::new), retry_of: None })
}

pub(crate) fn started(id: CallId, attempt: u32) -> CallEvent {
    event(id, Happened::Started { attempt, revision: "mail-1".into(), runner: "runner-1".into() })
}

/// A final end without an answer.
pub(crate) fn ended(id: CallId, attempt: u32, outcome: Ended) -> CallEvent {
    event(
        id,
        Happened::Ended {
            attempt,
            revision: "mail-1".into(),
            runner: "runner-1".into(),
            outcome,
            is_final: true,
            reason: Some("its reason".into()),
            answer: None,
            log: Some(format!("log of {attempt}")),
        },
    )
}
