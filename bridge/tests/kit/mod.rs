//! What the bridge's tests stand on: a user's queue, an App's Fn, a bridge between them, polled waits.

// Each test binary uses its own part of this.
#![allow(dead_code, unreachable_pub)]

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use funcatron_bridge::{BridgeConfig, BridgeError, Dial, run};
use funcatron_broker::link::{
    Confirm, Connector, ConsumeOptions, Consumer, Delivery, Envelope, Event, Link, Target,
};
use funcatron_broker::message::{BridgeReport, BridgeState};
use funcatron_broker::names::{AppNames, QueueName};
use funcatron_broker::topology::{self, Item, Overflow, QueueKind, QueueSpec};
use funcatron_crds::BridgedQueue;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub const FN: &str = "mail";
pub const TRIGGER: &str = "on-order";
pub const QUEUE: &str = "orders";

/// The longest that any test waits for what must come: machines under load are slow.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Waits for something that must come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// A plain queue as a user declares one.
pub fn users_queue() -> Item {
    let spec = QueueSpec {
        kind: QueueKind::Classic,
        length_max: 100_000,
        bytes_max: None,
        overflow: Overflow::RejectPublish,
        attempts: None,
        keeps_trying: false,
    };
    Item::Queue { name: QueueName::parse(QUEUE).unwrap(), spec }
}

/// The Fn's side of the platform's broker, as the operator declares it; room for so many messages.
pub fn fns_side(names: &AppNames, length_max: u32) -> Vec<Item> {
    let mut items = topology::installation(names.installation());
    items.extend(topology::bridge(names, FN, TRIGGER).unwrap());
    for item in &mut items {
        if let Item::Queue { name, spec } = item
            && name == &names.durable_queue(FN).unwrap()
        {
            spec.length_max = length_max;
        }
    }
    items
}

/// Puts a message into the user's queue.
pub async fn put(link: &dyn Link, message: Envelope) {
    let queue = QueueName::parse(QUEUE).unwrap();
    let sent = link.publish_confirmed(Target::queue(&queue), message, true).await.unwrap();
    assert_eq!(sent, Confirm::Acked);
}

pub fn message(body: impl Into<String>) -> Envelope {
    let mut message = Envelope { body: body.into().into(), ..Envelope::default() };
    message.properties.persistent = true;
    message
}

pub async fn consume(link: &dyn Link, queue: &QueueName, prefetch: u16) -> Consumer {
    let options = ConsumeOptions { prefetch, exclusive: false, no_ack: false };
    link.consume(queue, options).await.unwrap()
}

pub async fn take(consumer: &mut Consumer) -> Delivery {
    let event = soon("a message", consumer.next()).await;
    let Some(Event::Delivery(delivery)) = event else { panic!("{event:?}") };
    delivery
}

pub async fn ready(link: &dyn Link, queue: &QueueName) -> u32 {
    link.inspect(queue).await.unwrap().expect("the queue is there").ready
}

/// Waits for a report in that state whose reason holds these words, and gives the reason. Reports are repeated.
pub async fn report(reports: &mut Consumer, user: &str, state: BridgeState, words: &str) -> String {
    loop {
        let delivery = take(reports).await;
        let report = BridgeReport::from_envelope(&delivery.envelope).unwrap();
        delivery.ack().await.unwrap();
        assert_eq!(report.user_id.as_deref(), Some(user));
        assert_eq!((report.trigger.as_str(), report.configured.as_str()), (TRIGGER, "c1"));
        let reason = report.reason.unwrap_or_default();
        assert!(!reason.contains("hunter2"), "{reason}");
        if report.state == state && reason.contains(words) {
            return reason;
        }
    }
}

/// A bridge, and its end.
pub struct Bridge {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), BridgeError>>,
}

impl Bridge {
    /// Whose broker is written in `dir`.
    pub fn start(names: &AppNames, dir: &Path, prefetch: u16, ours: Arc<dyn Connector>, dial: Dial) -> Self {
        let queue =
            BridgedQueue { trigger: TRIGGER.into(), queue: QUEUE.into(), prefetch, configured: "c1".into() };
        let config = BridgeConfig {
            names: names.clone(),
            namespace: "team-a".into(),
            app: "shop".into(),
            pod: "bridge-1".into(),
            queues: vec![queue],
            broker_dir: dir.to_owned(),
            ready_file: dir.join("ready"),
            drain: Duration::from_secs(20),
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(config, ours, dial, shutdown.clone()));
        Self { shutdown, task }
    }

    /// Tells it to stop, and waits until it has.
    pub async fn stop(self) {
        self.shutdown.cancel();
        soon("the bridge's end", self.task).await.unwrap().unwrap();
    }

    /// Ends it as kill -9 does, but for its connections.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Says where the user's broker is.
pub fn write_address(dir: &Path, address: &str) {
    std::fs::write(dir.join(TRIGGER), address).unwrap();
}
