//! The bridge over RabbitMQ, from one virtual host into another, as users with the rights that they have on a cluster.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail it by panicking")]

mod kit;

use std::collections::BTreeSet;
use std::sync::Arc;

use funcatron_bridge::Dial;
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::{Connector, Consumer, HeaderValue, Link, fresh_suffix};
use funcatron_broker::message::BridgeState;
use funcatron_broker::names::{AppNames, Installation, Permissions, QueueName};
use serde_json::{Value, json};

use kit::{
    Bridge, FN, QUEUE, consume, eventually, fns_side, message, put, ready, report, take, users_queue,
    write_address,
};

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: cargo xtask test sets it"))
}

/// The management API, as far as these tests need it.
struct Management {
    client: reqwest::Client,
    url: String,
}

impl Management {
    fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::new();
        Self { client, url: env("FUNCATRON_TEST_MANAGEMENT").trim_end_matches('/').to_owned() }
    }

    async fn put(&self, path: &str, body: Value) {
        let request = self.client.put(format!("{}/api/{path}", self.url)).body(body.to_string());
        let answer = request.header("content-type", "application/json").send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
    }

    async fn delete(&self, path: &str) {
        let answer = self.client.delete(format!("{}/api/{path}", self.url)).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
    }

    async fn put_user(&self, user: &str, vhost: &str, permissions: &Permissions) {
        self.put(&format!("users/{user}"), json!({"password": "hunter2", "tags": ""})).await;
        let Permissions { configure, write, read } = permissions;
        let body = json!({"configure": configure, "write": write, "read": read});
        self.put(&format!("permissions/{vhost}/{user}"), body).await;
    }
}

/// Where two brokers meet: the user's is a virtual host of its own.
struct Stage {
    management: Management,
    dir: tempfile::TempDir,
    names: AppNames,
    their_user: String,
    vhost: String,
    /// The test's own links, as an administrator.
    here: Arc<dyn Link>,
    there: Arc<dyn Link>,
    durable: QueueName,
    reports: Consumer,
}

fn url(user: &str, password: &str, vhost: &str) -> String {
    let url = env("FUNCATRON_TEST_AMQP");
    let (_, host) = url.rsplit_once('@').unwrap();
    let (host, _) = host.split_once('/').unwrap();
    format!("amqp://{user}:{password}@{host}/{vhost}")
}

impl Stage {
    async fn new() -> Self {
        let management = Management::new();
        let fresh = fresh_suffix()[20..].to_owned();
        let names = Installation::parse(&format!("t{fresh}")).unwrap();
        let names = AppNames::new(&names, "team-a", "shop").unwrap();
        let (vhost, their_user) = (format!("theirs-{fresh}"), format!("reader-{fresh}"));
        management.put(&format!("vhosts/{vhost}"), json!({})).await;
        let reading = Permissions { configure: "^$".into(), write: "^$".into(), read: "^orders$".into() };
        management.put_user(&their_user, &vhost, &reading).await;
        management.put_user(names.user(), "%2F", &names.permissions()).await;
        let login = env("FUNCATRON_TEST_AMQP");
        let (user, password) =
            login.split_once("://").unwrap().1.rsplit_once('@').unwrap().0.split_once(':').unwrap();
        management
            .put(
                &format!("permissions/{vhost}/{user}"),
                json!({"configure": ".*", "write": ".*", "read": ".*"}),
            )
            .await;
        let here = AmqpConnector::new(&login, "test of a bridge").connect().await.unwrap();
        let there =
            AmqpConnector::new(url(user, password, &vhost), "test of a bridge").connect().await.unwrap();
        here.declare(&fns_side(&names, 100_000)).await.unwrap();
        let reports = consume(here.as_ref(), &names.installation().reports_queue(), 0).await;
        let durable = names.durable_queue(FN).unwrap();
        let dir = tempfile::tempdir().unwrap();
        Self { management, dir, names, their_user, vhost, here, there, durable, reports }
    }

    fn address(&self, password: &str, vhost: &str) {
        write_address(self.dir.path(), &url(&self.their_user, password, vhost));
    }

    fn bridge(&self) -> Bridge {
        let ours = AmqpConnector::new(url(self.names.user(), "hunter2", "%2f"), "bridge");
        let dial: Dial =
            Arc::new(|url: &str| -> Arc<dyn Connector> { Arc::new(AmqpConnector::new(url, "bridge there")) });
        Bridge::start(&self.names, self.dir.path(), 20, Arc::new(ours), dial)
    }

    async fn reported(&mut self, state: BridgeState, words: &str) {
        report(&mut self.reports, self.names.user(), state, words).await;
    }

    async fn left(&self) -> u32 {
        ready(self.there.as_ref(), &QueueName::parse(QUEUE).unwrap()).await
    }

    /// Closes every connection of a user, as a broker's restart does.
    async fn cut(&self, user: &str) {
        self.management.delete(&format!("connections/username/{user}")).await;
    }

    async fn clean(self) {
        let Self { management, names, their_user, vhost, here, there, durable, .. } = self;
        for queue in [durable, names.dead_queue(FN).unwrap(), names.installation().reports_queue()] {
            here.delete_queue(&queue, false).await.unwrap();
        }
        for exchange in [
            names.bridge_exchange(kit::TRIGGER).unwrap(),
            names.event_replies(),
            names.installation().reply_exchange(),
        ] {
            here.delete_exchange(&exchange).await.unwrap();
        }
        here.close().await;
        there.close().await;
        for user in [their_user.as_str(), names.user()] {
            management.delete(&format!("users/{user}")).await;
        }
        management.delete(&format!("vhosts/{vhost}")).await;
    }
}

#[tokio::test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn messages_of_another_broker_arrive_unchanged_and_none_is_lost_with_a_connection() {
    const MESSAGES: usize = 600;
    let mut stage = Stage::new().await;
    stage.there.declare(&[users_queue()]).await.unwrap();
    stage.address("hunter2", &stage.vhost);
    let mut first = message("first");
    first.properties.app_id = Some("shop".into());
    first.properties.priority = Some(4);
    first.headers.insert("at", HeaderValue::Timestamp(1_790_000_000));
    put(stage.there.as_ref(), first.clone()).await;
    let bridge = stage.bridge();
    stage.reported(BridgeState::Running, "").await;
    let mut consumer = consume(stage.here.as_ref(), &stage.durable, 100).await;
    let arrived = take(&mut consumer).await;
    assert_eq!(arrived.envelope, first);
    arrived.ack().await.unwrap();
    for n in 0..MESSAGES {
        put(stage.there.as_ref(), message(n.to_string())).await;
        if n == MESSAGES / 3 {
            stage.cut(&stage.their_user).await;
        }
        if n == MESSAGES / 2 {
            stage.cut(stage.names.user()).await;
        }
    }
    let mut got = BTreeSet::new();
    while got.len() < MESSAGES {
        let mut delivery = take(&mut consumer).await;
        got.insert(delivery.take_envelope().body);
        delivery.ack().await.unwrap();
    }
    bridge.stop().await;
    eventually("nothing is left", async || stage.left().await == 0).await;
    stage.clean().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn what_is_wrong_with_another_broker_is_told_until_it_is_mended() {
    let mut stage = Stage::new().await;
    stage.address("wrong-hunter2", &stage.vhost);
    let bridge = stage.bridge();
    stage.reported(BridgeState::Trouble, "refuses the user and password").await;
    stage.address("hunter2", "hunter2-is-no-vhost");
    stage.reported(BridgeState::Trouble, "no such virtual host").await;
    stage.address("hunter2", &stage.vhost);
    stage.reported(BridgeState::Trouble, "the queue is not there").await;
    stage.there.declare(&[users_queue()]).await.unwrap();
    stage.reported(BridgeState::Running, "").await;
    let nothing = Permissions { configure: "^$".into(), write: "^$".into(), read: "^$".into() };
    stage.management.put_user(&stage.their_user, &stage.vhost, &nothing).await;
    stage.cut(&stage.their_user).await;
    stage.reported(BridgeState::Trouble, "may not read the queue").await;
    bridge.stop().await;
    stage.clean().await;
}
