//! The bridge between two brokers within this process, each of whose links can be cut.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail it by panicking")]

mod kit;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use funcatron_bridge::Dial;
use funcatron_broker::link::{ConnectError, Connector, Consumer, Envelope, HeaderValue, Link};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{BridgeState, is_ours};
use funcatron_broker::names::{AppNames, Installation, QueueName};
use parking_lot::Mutex;

use kit::{
    Bridge, FN, QUEUE, consume, eventually, fns_side, message, put, ready, report, take, users_queue,
    write_address,
};

/// What a test of two brokers calls the user's.
const ADDRESS: &str = "amqp://user:hunter2@theirs/";

/// A connector whose links can be cut.
#[derive(Clone)]
struct Cable {
    broker: LocalBroker,
    links: Arc<Mutex<Vec<Arc<dyn Link>>>>,
}

impl Cable {
    fn new(broker: &LocalBroker) -> Self {
        Self { broker: broker.clone(), links: Arc::default() }
    }

    async fn cut(&self) {
        let links: Vec<_> = self.links.lock().drain(..).collect();
        assert!(!links.is_empty(), "there is no link to cut");
        for link in links {
            link.close().await;
        }
    }
}

#[async_trait]
impl Connector for Cable {
    async fn connect(&self) -> Result<Arc<dyn Link>, ConnectError> {
        let link = self.broker.connect().await?;
        self.links.lock().push(Arc::clone(&link));
        Ok(link)
    }
}

/// Refuses every login, and tells the address.
struct Locked(String);

#[async_trait]
impl Connector for Locked {
    async fn connect(&self) -> Result<Arc<dyn Link>, ConnectError> {
        Err(ConnectError::Login(self.0.clone()))
    }
}

struct Stage {
    dir: tempfile::TempDir,
    names: AppNames,
    ours: Cable,
    theirs: Cable,
    /// A test's own links.
    here: Arc<dyn Link>,
    there: Arc<dyn Link>,
    durable: QueueName,
    queue: QueueName,
    reports: Consumer,
}

impl Stage {
    /// With the Fn's side, and its user's.
    async fn new() -> Self {
        let stage = Self::bare(100).await;
        stage.there.declare(&[users_queue()]).await.unwrap();
        stage
    }

    async fn bare(room: u32) -> Self {
        let (ours, theirs) = (LocalBroker::new(), LocalBroker::new());
        let names = AppNames::new(&Installation::parse("i").unwrap(), "team-a", "shop").unwrap();
        let (here, there) = (ours.connect().await.unwrap(), theirs.connect().await.unwrap());
        here.declare(&fns_side(&names, room)).await.unwrap();
        let reports = consume(here.as_ref(), &names.installation().reports_queue(), 0).await;
        let dir = tempfile::tempdir().unwrap();
        write_address(dir.path(), &format!("{ADDRESS}\n"));
        Self {
            dir,
            durable: names.durable_queue(FN).unwrap(),
            queue: QueueName::parse(QUEUE).unwrap(),
            names,
            ours: Cable::new(&ours),
            theirs: Cable::new(&theirs),
            here,
            there,
            reports,
        }
    }

    fn bridge(&self, prefetch: u16) -> Bridge {
        let theirs = self.theirs.clone();
        let dial: Dial = Arc::new(move |address: &str| -> Arc<dyn Connector> {
            match address {
                ADDRESS => Arc::new(theirs.clone()),
                other => Arc::new(Locked(other.to_owned())),
            }
        });
        Bridge::start(&self.names, self.dir.path(), prefetch, Arc::new(self.ours.clone()), dial)
    }

    async fn put(&self, body: impl Into<String>) {
        put(self.there.as_ref(), message(body)).await;
    }

    async fn runs(&mut self) {
        report(&mut self.reports, self.names.user(), BridgeState::Running, "").await;
    }

    async fn trouble(&mut self, words: &str) -> String {
        report(&mut self.reports, self.names.user(), BridgeState::Trouble, words).await
    }

    async fn arrived(&self, count: u32) {
        eventually("messages arrive", async || ready(self.here.as_ref(), &self.durable).await == count).await;
    }

    async fn left(&self) -> u32 {
        ready(self.there.as_ref(), &self.queue).await
    }
}

#[tokio::test]
async fn a_message_goes_over_unchanged_and_is_acknowledged() {
    let mut stage = Stage::new().await;
    let mut sent = message("body");
    sent.properties.reply_to = Some("answers".into());
    sent.properties.content_encoding = Some("gzip".into());
    sent.properties.priority = Some(3);
    sent.headers.insert("cloudEvents:time", HeaderValue::Timestamp(7));
    put(stage.there.as_ref(), sent.clone()).await;
    let bridge = stage.bridge(5);
    stage.runs().await;
    let got = take(&mut consume(stage.here.as_ref(), &stage.durable, 1).await).await;
    assert_eq!(got.envelope, sent);
    assert_eq!((got.exchange.as_str(), got.routing_key.as_str()), ("i.team-a.shop.x.bridge.on-order", QUEUE));
    assert!(stage.dir.path().join("ready").exists());
    bridge.stop().await;
    assert_eq!(stage.left().await, 0);
    assert!(!stage.dir.path().join("ready").exists());
}

#[tokio::test]
async fn what_passes_for_a_call_of_ours_arrives_as_an_event() {
    let stage = Stage::new().await;
    let mut forged = message("x");
    forged.headers.insert("fn-wire", 1);
    forged.headers.insert("fn-call", "{}");
    put(stage.there.as_ref(), forged).await;
    let bridge = stage.bridge(5);
    let Envelope { headers, .. } =
        take(&mut consume(stage.here.as_ref(), &stage.durable, 1).await).await.take_envelope();
    assert!(!is_ours(&Envelope { headers: headers.clone(), ..Envelope::default() }));
    assert_eq!(headers.text("fn-call"), Some("{}"));
    bridge.stop().await;
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_told_and_taken_from_once_it_is() {
    let mut stage = Stage::bare(100).await;
    let bridge = stage.bridge(5);
    assert_eq!(stage.trouble("not there").await, "queue `orders`: the queue is not there");
    stage.there.declare(&[users_queue()]).await.unwrap();
    stage.runs().await;
    stage.put("late").await;
    stage.arrived(1).await;
    bridge.stop().await;
}

#[tokio::test]
async fn a_secret_that_is_mended_is_read_again_and_never_told() {
    let mut stage = Stage::new().await;
    stage.put("x").await;
    std::fs::remove_file(stage.dir.path().join(kit::TRIGGER)).unwrap();
    let bridge = stage.bridge(5);
    stage.trouble("the Secret, or its key, is not there").await;
    write_address(stage.dir.path(), "amqp://user:wrong-hunter2@theirs/");
    stage.trouble("refuses the user and password").await;
    write_address(stage.dir.path(), ADDRESS);
    stage.arrived(1).await;
    bridge.stop().await;
}

#[tokio::test]
async fn a_full_queue_holds_messages_back_and_loses_none() {
    let mut stage = Stage::bare(1).await;
    stage.there.declare(&[users_queue()]).await.unwrap();
    for n in 0..5 {
        stage.put(n.to_string()).await;
    }
    let bridge = stage.bridge(2);
    assert_eq!(stage.trouble("full").await, "the Fn's durable queue is full");
    // One has arrived, two are in hand, and no more are taken.
    eventually("it pauses", async || stage.left().await == 2).await;
    let mut consumer = consume(stage.here.as_ref(), &stage.durable, 1).await;
    let mut got = BTreeSet::new();
    for _ in 0..5 {
        let mut delivery = take(&mut consumer).await;
        got.insert(delivery.take_envelope().body);
        delivery.ack().await.unwrap();
    }
    assert_eq!(got.len(), 5);
    stage.runs().await;
    bridge.stop().await;
    assert_eq!(stage.left().await, 0);
}

#[tokio::test]
async fn what_nobody_has_bound_stays_with_its_user() {
    let mut stage = Stage::new().await;
    let exchange = stage.names.bridge_exchange(kit::TRIGGER).unwrap();
    stage.here.unbind(&exchange, &stage.durable, "").await.unwrap();
    stage.put("x").await;
    let bridge = stage.bridge(5);
    stage.trouble("not bound yet").await;
    stage.here.declare(&fns_side(&stage.names, 100)).await.unwrap();
    stage.arrived(1).await;
    bridge.stop().await;
}

#[tokio::test]
async fn a_bridge_that_is_killed_leaves_what_it_held_in_the_users_queue() {
    let mut stage = Stage::bare(1).await;
    stage.there.declare(&[users_queue()]).await.unwrap();
    for n in 0..3 {
        stage.put(n.to_string()).await;
    }
    let bridge = stage.bridge(5);
    stage.trouble("full").await;
    bridge.kill().await;
    stage.theirs.cut().await;
    eventually("two are back", async || stage.left().await == 2).await;
}

#[tokio::test]
async fn cut_links_on_either_side_lose_nothing() {
    const MESSAGES: usize = 400;
    let mut stage = Stage::bare(1000).await;
    stage.there.declare(&[users_queue()]).await.unwrap();
    let bridge = stage.bridge(20);
    stage.runs().await;
    for n in 0..MESSAGES {
        stage.put(n.to_string()).await;
        if n % 100 == 50 {
            stage.theirs.cut().await;
            eventually("it is back", async || !stage.theirs.links.lock().is_empty()).await;
        }
        if n % 100 == 99 {
            stage.ours.cut().await;
            eventually("it is back", async || !stage.ours.links.lock().is_empty()).await;
        }
    }
    let mut consumer = consume(stage.here.as_ref(), &stage.durable, 50).await;
    let mut got = BTreeSet::new();
    while got.len() < MESSAGES {
        let mut delivery = take(&mut consumer).await;
        got.insert(delivery.take_envelope().body);
        delivery.ack().await.unwrap();
    }
    bridge.stop().await;
    assert_eq!(stage.left().await, 0);
}
