//! The operator's policies on a real RabbitMQ: a failed call's waits follow its Fn, and what was deleted by hand stands
//! again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fake::api::Api;
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::{Connector as _, ConsumeOptions, Envelope, Link, Target};
use funcatron_broker::names::AppNames;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{APPS, FNS, config, env, fake, names, next, until};

/// Timers of two processes on one machine agree within this.
const EARLY_MAX: Duration = Duration::from_millis(50);

/// Asks the management API; what is not there is null.
async fn ask(method: reqwest::Method, path: &str) -> Value {
    let url = format!("{}/api/{path}", env("FUNCATRON_TEST_MANAGEMENT").trim_end_matches('/'));
    let answer = reqwest::Client::new().request(method, url).send().await.unwrap();
    answer.json().await.unwrap_or_default()
}

async fn policy(name: &str) -> Value {
    ask(reqwest::Method::GET, &format!("policies/%2F/{name}")).await["definition"].clone()
}

pub(crate) async fn delete_policy(name: &str) {
    ask(reqwest::Method::DELETE, &format!("policies/%2F/{name}")).await;
}

struct Running {
    shutdown: CancellationToken,
    ended: JoinHandle<Result<(), funcatron_operator::OperatorError>>,
}

impl Running {
    fn start(api: &Api, names: &AppNames, connector: &Arc<AmqpConnector>) -> Self {
        let client = kube::Client::try_from(kube::Config::new(api.url.parse().unwrap())).unwrap();
        let (shutdown, connector) = (CancellationToken::new(), Arc::clone(connector));
        let run = funcatron_operator::run(config(names), client, connector, shutdown.clone());
        Self { ended: tokio::spawn(run), shutdown }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.ended.await.unwrap().unwrap();
    }
}

fn waits(min_ms: u64) -> Value {
    json!({"delayed-retry-type": "failed", "delayed-retry-min": min_ms, "delayed-retry-max": 60_000})
}

fn put_fn(api: &Api, detached: &Value) {
    let spec =
        json!({"app": "shop", "runtime": "python", "source": {"inline": "x"}, "async": detached.clone()});
    api.put(FNS, "team-a", "report", spec);
}

/// How long the first failed attempts at a call wait for the next.
async fn waited(link: &Arc<dyn Link>, names: &AppNames, attempts: usize) -> Vec<Duration> {
    let queue = names.durable_queue("report").unwrap();
    link.publish_confirmed(Target::queue(&queue), Envelope::default(), true).await.unwrap();
    let options = ConsumeOptions { prefetch: 1, exclusive: false, no_ack: false };
    let mut consumer = link.consume(&queue, options).await.unwrap();
    let (mut attempt, mut waits) = (next(&mut consumer).await, Vec::new());
    for _ in 0..attempts {
        let begun = Instant::now();
        attempt.reject(true).await.unwrap();
        attempt = next(&mut consumer).await;
        waits.push(begun.elapsed());
    }
    attempt.ack().await.unwrap();
    waits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn waits_follow_a_fn_and_policies_deleted_by_hand_stand_again() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (api, names) = (Api::start().await, names());
    let connector = Arc::new(AmqpConnector::new(env("FUNCATRON_TEST_AMQP"), "test of the operator"));
    let link = connector.connect().await.unwrap();
    let (all, own, dead) = (
        format!("{}.retries", names.installation()),
        names.durable_queue("report").unwrap().to_string(),
        names.dead_queue("report").unwrap().to_string(),
    );
    api.put(APPS, "team-a", "shop", json!({}));
    let kept = json!({"max-length": 5, "message-ttl": 3_600_000});
    put_fn(&api, &json!({"retry": {"backoff": "1500ms"}, "deadLetter": {"maxLength": 5, "maxAge": "1h"}}));
    let operator = Running::start(&api, &names, &connector);
    let queue = names.durable_queue("report").unwrap();
    until("its queue stands", async || link.inspect(&queue).await.unwrap().is_some()).await;
    let all_stand = async || {
        [policy(&all).await, policy(&own).await, policy(&dead).await]
            == [waits(1_000), waits(1_500), kept.clone()]
    };
    until("its policies stand", all_stand).await;
    let waits_ms = [1_500, 3_000].map(Duration::from_millis);
    for (waited, wait) in waited(&link, &names, 2).await.into_iter().zip(waits_ms) {
        assert!(waited + EARLY_MAX >= wait, "{waited:?} instead of {wait:?}");
    }

    operator.stop().await;
    for name in [&all, &own, &dead] {
        delete_policy(name).await;
    }
    let operator = Running::start(&api, &names, &connector);
    until("what was deleted by hand stands again", all_stand).await;
    api.delete(APPS, "team-a", "shop");
    let gone = async || policy(&own).await.is_null() && policy(&dead).await.is_null();
    until("the App's policies go with it", gone).await;
    operator.stop().await;
    delete_policy(&all).await;
    link.delete_queue(&names.installation().reports_queue(), false).await.unwrap();
    link.delete_exchange(&names.installation().reply_exchange()).await.unwrap();
}
