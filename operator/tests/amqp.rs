//! The operator on a real RabbitMQ, where a fake could only repeat what we believe of it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking, as the test itself does"
)]

#[allow(dead_code, unused_imports, reason = "each test binary uses its own part")]
mod fake;
#[path = "amqp/policies.rs"]
mod policies;

use std::sync::Arc;
use std::time::Duration;

use fake::api::Api;
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::{
    Connector as _, ConsumeOptions, Consumer, Delivery, Envelope, Event, Link, Target,
};
use funcatron_broker::message::Call;
use funcatron_broker::names::{AppNames, Installation, QueueName};
use funcatron_broker::topology;
use funcatron_operator::schedule::CALL_AGE_MAX;
use funcatron_operator::{BrokerAddress, OperatorConfig};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const APPS: &str = "funcatron.dev/v1alpha1/apps";
const FNS: &str = "funcatron.dev/v1alpha1/fns";
const TRIGGERS: &str = "funcatron.dev/v1alpha1/triggers";
/// The broker counts every 5 s, and the machine is busy.
const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(250);

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: cargo xtask test sets it"))
}

/// An installation of its own, so that tests and people share a broker.
fn names() -> AppNames {
    let id = uuid::Uuid::now_v7().simple().to_string();
    AppNames::new(&Installation::parse(&format!("t{}", &id[20..])).unwrap(), "team-a", "shop").unwrap()
}

fn config(names: &AppNames) -> OperatorConfig {
    let address = env("FUNCATRON_TEST_AMQP");
    let (_, address) = address.rsplit_once('@').unwrap();
    OperatorConfig {
        installation: names.installation().clone(),
        system_namespace: "funcatron".into(),
        image: "registry/funcatron:1".into(),
        host_images: [("python".to_owned(), "registry/python:1".to_owned())].into(),
        image_pull_policy: None,
        image_pull_secrets: vec![],
        gateway_internal_url: "http://gateway.funcatron.svc".into(),
        gateway_public_url: "http://gw.example.com".into(),
        management_url: env("FUNCATRON_TEST_MANAGEMENT"),
        ledger_url: None,
        runner_broker: BrokerAddress::parse(address).unwrap(),
        signing_key: funcatron_crds::SigningKey::new(&[7; 32]).unwrap(),
        lease_name: "operator".into(),
        identity: "me".into(),
        ops: ([127, 0, 0, 1], 0).into(),
        workers: 2,
        drain: Duration::from_secs(1),
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(POLL).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

/// What the broker has counted in a queue.
async fn counted(queue: &QueueName) -> Value {
    let url = format!("{}/api/queues/%2F/{queue}", env("FUNCATRON_TEST_MANAGEMENT").trim_end_matches('/'));
    reqwest::get(url).await.unwrap().json::<Value>().await.unwrap()["messages"].clone()
}

async fn next(consumer: &mut Consumer) -> Delivery {
    match tokio::time::timeout(PATIENCE, consumer.next()).await.unwrap() {
        Some(Event::Delivery(delivery)) => delivery,
        other => panic!("no delivery: {other:?}"),
    }
}

fn status(api: &Api) -> Value {
    api.get(TRIGGERS, "team-a", "nightly").unwrap_or_default()["status"].clone()
}

/// Forbids overlap, and has fired a minute ago, as far as its status tells.
fn fired_a_minute_ago(api: &Api) {
    let schedule = json!({"cron": "0 0 2 1 *", "concurrencyPolicy": "Forbid"});
    api.put(TRIGGERS, "team-a", "nightly", json!({"app": "shop", "fn": "report", "schedule": schedule}));
    let age = SignedDuration::try_from(CALL_AGE_MAX).unwrap();
    let deadline = Timestamp::now() + age - SignedDuration::from_mins(1);
    let last_call = json!({"id": "01a20132-3f80-8350-a883-e32b7cf4ca62", "deadline": deadline.to_string()});
    let place = (TRIGGERS.to_owned(), "team-a".to_owned(), "nightly".to_owned());
    api.set_status(&place, json!({"lastFired": "2025-01-02T00:00:00Z", "lastCall": last_call}));
}

async fn queue_with_a_call_that_runs(
    link: &Arc<dyn Link>,
    names: &AppNames,
) -> (QueueName, Consumer, Delivery) {
    let queue = names.durable_queue("report").unwrap();
    link.declare(&topology::durable(names, "report").unwrap()).await.unwrap();
    link.publish_confirmed(Target::queue(&queue), Envelope::default(), true).await.unwrap();
    let options = ConsumeOptions { prefetch: 1, exclusive: false, no_ack: false };
    let mut consumer = link.consume(&queue, options).await.unwrap();
    let held = next(&mut consumer).await;
    until("the broker has counted what is out", async || counted(&queue).await == 1).await;
    (queue, consumer, held)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn without_a_ledger_forbid_waits_until_nothing_is_in_the_queue_or_out_of_it() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (api, names) = (Api::start().await, names());
    let connector = Arc::new(AmqpConnector::new(env("FUNCATRON_TEST_AMQP"), "test of the operator"));
    let link = connector.connect().await.unwrap();
    let (queue, mut consumer, held) = queue_with_a_call_that_runs(&link, &names).await;
    api.put(APPS, "team-a", "shop", json!({}));
    api.put(FNS, "team-a", "report", json!({"app": "shop", "runtime": "python", "source": {"inline": "x"}}));
    fired_a_minute_ago(&api);

    let client = kube::Client::try_from(kube::Config::new(api.url.parse().unwrap())).unwrap();
    let shutdown = CancellationToken::new();
    let run = funcatron_operator::run(config(&names), client, connector, shutdown.clone());
    let operator = tokio::spawn(run);
    let waits = async || status(&api).to_string().contains("EarlierUnknown");
    until("it says that it cannot know", waits).await;
    held.ack().await.unwrap();
    let delivery = next(&mut consumer).await;
    let call = Call::from_envelope(delivery.envelope.clone()).unwrap();
    delivery.ack().await.unwrap();
    assert_eq!(call.headers["ce-source"], "/namespaces/team-a/triggers/nightly");
    until("it is written down", async || status(&api)["lastCall"]["id"] == call.id.to_string()).await;

    // The App's end takes its user and its queues from the broker.
    api.delete(APPS, "team-a", "shop");
    until("the App is gone", async || api.get(APPS, "team-a", "shop").is_none()).await;
    until("its queue is gone", async || link.inspect(&queue).await.unwrap().is_none()).await;
    shutdown.cancel();
    operator.await.unwrap().unwrap();
    policies::delete_policy(&format!("{}.retries", names.installation())).await;
    link.delete_queue(&names.installation().reports_queue(), false).await.unwrap();
    link.delete_exchange(&names.installation().reply_exchange()).await.unwrap();
}
