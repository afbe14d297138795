//! Events whose producers want to know: one reply each once nothing follows, through the App's own exchange.
#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value)]

mod kit;

use funcatron_broker::link::{ConsumeOptions, Consumer, Envelope, Event, HeaderValue, Target};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::names::{BindingKey, ExchangeName, QueueName};
use funcatron_broker::topology::{self, ExchangeKind, Item, Overflow, QueueKind, QueueSpec};

use kit::function::Function;
use kit::gateway::Gateway;
use kit::hosting::{Runner, dedicated_trying};
use kit::{FN, eventually, soon};

/// The key under which the producer has bound its queue.
const KEY: &str = "orders-service.7";
/// Attempts that the Fn allows an event; not as many as where it says nothing.
const ATTEMPTS: u32 = 3;

/// A Fn with a queue Trigger, and a producer with a queue for replies.
struct Stage {
    dir: tempfile::TempDir,
    broker: LocalBroker,
    gateway: Gateway,
    exchange: ExchangeName,
    durable: QueueName,
    dead: QueueName,
    replies: Consumer,
}

impl Stage {
    async fn new() -> Self {
        let broker = LocalBroker::new();
        let gateway = Gateway::new(&broker).await;
        let durable = gateway.declare_durable().await;
        let key = BindingKey::parse("#").unwrap();
        let trigger = topology::trigger(&gateway.names, FN, "orders", &key).unwrap();
        // The durable queue stands already, with a test's shorter retries.
        let own: Vec<_> = trigger.into_iter().filter(|item| !matches!(item, Item::Queue { .. })).collect();
        assert!(
            own.contains(&Item::Exchange { name: gateway.names.event_replies(), kind: ExchangeKind::Direct })
        );
        gateway.link.declare(&own).await.unwrap();
        let replies = Self::replies(&gateway).await;
        let exchange = gateway.names.event_exchange("orders").unwrap();
        let dead = gateway.names.dead_queue(FN).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), broker, gateway, exchange, durable, dead, replies }
    }

    async fn replies(gateway: &Gateway) -> Consumer {
        let queue = QueueName::parse("orders-service").unwrap();
        let spec = QueueSpec {
            kind: QueueKind::Classic,
            length_max: 10,
            bytes_max: None,
            overflow: Overflow::RejectPublish,
            attempts: None,
            keeps_trying: false,
        };
        let binding = Item::Binding {
            exchange: gateway.names.event_replies(),
            queue: queue.clone(),
            key: KEY.to_owned(),
        };
        gateway.link.declare(&[Item::Queue { name: queue.clone(), spec }, binding]).await.unwrap();
        let options = ConsumeOptions { prefetch: 0, exclusive: false, no_ack: true };
        gateway.link.consume(&queue, options).await.unwrap()
    }

    fn function(&self) -> Function {
        Function::start(&self.dir.path().join("f.sock"))
    }

    fn runner(&self) -> Runner {
        self.runner_trying(ATTEMPTS)
    }

    fn runner_trying(&self, attempts: u32) -> Runner {
        Runner::start(&self.broker, dedicated_trying(self.dir.path(), attempts))
    }

    async fn send(&self, body: &str, reply_to: Option<&str>) {
        let mut event = Envelope { body: body.to_owned().into(), ..Envelope::default() };
        event.properties.reply_to = reply_to.map(str::to_owned);
        event.properties.correlation_id = Some(format!("order {body}"));
        let to = Target::exchange(&self.exchange, "orders.created");
        self.gateway.link.publish_confirmed(to, event, true).await.unwrap();
    }

    async fn reply(&mut self) -> Envelope {
        let event = soon("a reply", self.replies.next()).await;
        let Some(Event::Delivery(delivery)) = event else { panic!("{event:?}") };
        assert_eq!(delivery.routing_key, KEY);
        assert_eq!(delivery.envelope.properties.user_id.as_deref(), Some(self.gateway.names.user()));
        delivery.envelope
    }

    /// Stops the runner, after which nothing more is said.
    async fn end(mut self, runner: Runner, dead: u32) {
        eventually("it is dead", async || self.gateway.state(&self.dead).await.ready == dead).await;
        runner.stop().await;
        assert_eq!(self.gateway.state(&self.durable).await.ready, 0);
        assert!(self.replies.try_next().is_none(), "one event is replied to once");
        assert!(self.gateway.has_no_more_replies());
    }
}

fn outcome(reply: &Envelope) -> (&str, i64, bool) {
    let Some(HeaderValue::Bool(has_failed)) = reply.headers.get("fn-failed") else { panic!("{reply:?}") };
    let (outcome, status) = (reply.headers.text("fn-outcome"), reply.headers.int("fn-status"));
    (outcome.unwrap(), status.unwrap(), *has_failed)
}

#[tokio::test]
async fn an_events_answer_goes_to_its_producer() {
    let mut stage = Stage::new().await;
    let (_function, runner) = (stage.function(), stage.runner());
    stage.send("created", Some(KEY)).await;
    let reply = stage.reply().await;
    assert_eq!(outcome(&reply), ("answer", 201, false));
    assert_eq!(reply.properties.correlation_id.as_deref(), Some("order created"));
    assert_eq!(reply.properties.content_type.as_deref(), Some("text/x"));
    assert_eq!(reply.headers.text("fn-headers"), Some("location: /orders/7\r\n\r\n"));
    assert_eq!(reply.body, "made");
    stage.end(runner, 0).await;
}

#[tokio::test]
async fn an_answer_that_is_a_cloud_event_reaches_the_producer_as_one() {
    let mut stage = Stage::new().await;
    let (_function, runner) = (stage.function(), stage.runner());
    stage.send("cloudevent", Some(KEY)).await;
    let reply = stage.reply().await;
    assert_eq!(outcome(&reply), ("answer", 200, false));
    assert_eq!(reply.headers.text("cloudEvents:type"), Some("mail sent"));
    assert_eq!(reply.headers.text("cloudEvents:source"), Some("/mail"));
    assert_eq!(reply.properties.content_type.as_deref(), Some("application/json"));
    assert_eq!(reply.headers.get("fn-headers"), None);
    stage.end(runner, 0).await;
}

#[tokio::test]
async fn a_failure_is_told_once_after_the_last_attempt() {
    let mut stage = Stage::new().await;
    let (function, runner) = (stage.function(), stage.runner());
    stage.send("fail", Some(KEY)).await;
    let reply = stage.reply().await;
    assert_eq!(function.times_seen("fail"), ATTEMPTS as usize);
    assert_eq!(outcome(&reply), ("failed", 502, true));
    assert_eq!(reply.properties.correlation_id.as_deref(), Some("order fail"));
    assert_eq!(reply.properties.content_type.as_deref(), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((&problem["status"], &problem["detail"]), (&502.into(), &"the function failed".into()));
    stage.end(runner, 1).await;
}

#[tokio::test]
async fn an_event_is_tried_as_often_as_its_fn_says() {
    for attempts in [1, 6] {
        let mut stage = Stage::new().await;
        let (function, runner) = (stage.function(), stage.runner_trying(attempts));
        stage.send("fail", Some(KEY)).await;
        assert_eq!(outcome(&stage.reply().await), ("failed", 502, true));
        assert_eq!(function.times_seen("fail"), attempts as usize);
        stage.end(runner, 1).await;
    }
}

#[tokio::test]
async fn a_refusal_is_the_functions_own_answer_and_says_that_it_failed() {
    let mut stage = Stage::new().await;
    let (function, runner) = (stage.function(), stage.runner());
    stage.send("refuse", Some(KEY)).await;
    let reply = stage.reply().await;
    assert_eq!(function.times_seen("refuse"), 1);
    assert_eq!(outcome(&reply), ("answer", 422, true));
    assert_eq!(reply.body, "no such order");
    stage.end(runner, 1).await;
}

#[tokio::test]
async fn an_event_whose_last_attempt_ended_with_its_runner_is_told_as_lost() {
    let mut stage = Stage::new().await;
    let function = stage.function();
    stage.send("hold", Some(KEY)).await;
    for _ in 0..ATTEMPTS {
        let runner = stage.runner();
        eventually("it runs", async || function.running() == 1).await;
        runner.kill().await;
        function.release();
        eventually("it has gone", async || function.running() == 0).await;
        function.hold();
    }
    let runner = stage.runner();
    assert_eq!(outcome(&stage.reply().await), ("runner-lost", 502, true));
    assert_eq!(function.times_seen("hold"), ATTEMPTS as usize);
    stage.end(runner, 1).await;
}

#[tokio::test]
async fn an_event_that_asks_for_no_reply_gets_none() {
    let stage = Stage::new().await;
    let (function, runner) = (stage.function(), stage.runner());
    stage.send("created", None).await;
    eventually("it has run", async || function.times_seen("created") == 1).await;
    stage.end(runner, 0).await;
}

#[tokio::test]
async fn a_producer_that_is_not_there_holds_nothing_up() {
    let mut stage = Stage::new().await;
    let (function, runner) = (stage.function(), stage.runner());
    stage.send("unheard", Some("nobody")).await;
    stage.send("created", Some(KEY)).await;
    assert_eq!(outcome(&stage.reply().await), ("answer", 201, false));
    assert_eq!(function.times_seen("unheard"), 1);
    stage.end(runner, 0).await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_carried_is_told_as_such() {
    let mut stage = Stage::new().await;
    let (_function, runner) = (stage.function(), stage.runner());
    stage.send("headers", Some(KEY)).await;
    let reply = stage.reply().await;
    assert_eq!(outcome(&reply), ("failed", 502, false));
    assert!(String::from_utf8_lossy(&reply.body).contains("cannot be carried"));
    stage.end(runner, 0).await;
}

#[tokio::test]
async fn an_app_without_an_exchange_for_replies_holds_nothing_up() {
    let stage = Stage::new().await;
    stage.gateway.link.delete_exchange(&stage.gateway.names.event_replies()).await.unwrap();
    let (function, runner) = (stage.function(), stage.runner());
    stage.send("first", Some(KEY)).await;
    stage.send("second", Some(KEY)).await;
    eventually("both have run", async || function.seen().len() == 2).await;
    stage.end(runner, 0).await;
}
