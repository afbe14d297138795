//! The ledger over RabbitMQ: a database that goes away and comes back, senders that the broker checks, dead letters of
//! a quorum queue.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a rule that breaks is to stop its test")]

mod kit;
mod postgres;

use std::sync::Arc;

use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::{Confirm, Connector as _, Target};
use funcatron_broker::message::{Call, CallEvent, CallId, CallbackTarget, Ended, FnEvent, Intent, Source};
use funcatron_broker::names::LEDGER_KEY;
use funcatron_ledger::LedgerConfig;
use funcatron_ledger::store::DatabaseAddress;
use http::{HeaderMap, Method};
use kit::{Ground, Running, ended, eventually, queued, send, started, take};

/// More than the ledger holds unsettled, so that most wait in their queue.
const EVENTS: usize = 600;

fn connector() -> AmqpConnector {
    let url = std::env::var("FUNCATRON_TEST_AMQP");
    AmqpConnector::new(url.expect("FUNCATRON_TEST_AMQP is not set: cargo xtask test sets it"), "test ledger")
}

/// The login that the broker checks `user-id` against.
fn user() -> String {
    connector().user().unwrap().to_owned()
}

async fn start(ground: &Ground, database: DatabaseAddress) -> Running {
    let installation = ground.installation.clone().shared_by(user());
    let config = LedgerConfig { database, ..LedgerConfig::in_memory(installation) };
    Running::start(Arc::new(connector()), config).await
}

#[tokio::test]
#[ignore = "needs RabbitMQ and PostgreSQL: cargo xtask test runs it"]
async fn events_that_come_while_the_database_is_down_are_there_afterwards() {
    let server = postgres::Server::start();
    let ground = Ground::new(&connector()).await;
    let ledger = start(&ground, server.database().await).await;
    let first = CallId::fresh();
    ground.tell(queued(first, None)).await;
    ledger.until(first, "queued").await;
    server.stop();
    let ids: Vec<CallId> = (0..EVENTS).map(|_| CallId::fresh()).collect();
    for id in &ids {
        ground.tell(queued(*id, None)).await;
    }
    eventually("the outage is noticed", async || {
        ledger.metric("funcatron_ledger_database_up").await == 0.0
            && ledger.metric("funcatron_ledger_database_failures_total").await > 1.0
    })
    .await;
    let answer = ledger.get(&format!("/calls/{first}")).await;
    assert_eq!((answer.problem(), answer.header("retry-after")), ((503, "database-away".into()), Some("1")));
    assert_eq!(send(ledger.ops, "GET", "/readyz").await.status, 200, "it goes on answering");
    server.resume();
    for id in &ids {
        ledger.until(*id, "queued").await;
    }
    let last = ledger.get(&format!("/calls/{}", ids[EVENTS - 1])).await.json();
    assert_eq!(last["number"], EVENTS + 1, "each is there once");
    ledger.stop().await;
    ground.clean().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ and PostgreSQL: cargo xtask test runs it"]
async fn a_ledger_that_ends_while_its_database_is_down_leaves_its_events_in_their_queue() {
    let server = postgres::Server::start();
    let database = server.database().await;
    let ground = Ground::new(&connector()).await;
    let ledger = start(&ground, database.clone()).await;
    server.stop();
    let ids: Vec<CallId> = (0..20).map(|_| CallId::fresh()).collect();
    for id in &ids {
        ground.tell(queued(*id, None)).await;
    }
    eventually("the ledger holds them", async || {
        let state = ground.link.inspect(&ground.installation.ledger_queue()).await.unwrap().unwrap();
        state.ready == 0 && ledger.metric("funcatron_ledger_database_failures_total").await > 0.0
    })
    .await;
    ledger.stop().await;
    server.resume();
    let ledger = start(&ground, database).await;
    for id in &ids {
        ledger.until(*id, "queued").await;
    }
    ledger.stop().await;
    ground.clean().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ and PostgreSQL: cargo xtask test runs it"]
async fn a_ledger_whose_database_is_not_there_yet_waits_for_it() {
    let server = postgres::Server::start();
    let database = server.database().await;
    let ground = Ground::new(&connector()).await;
    server.stop();
    let id = CallId::fresh();
    ground.tell(queued(id, None)).await;
    let installation = ground.installation.clone().shared_by(user());
    let config = LedgerConfig { database, ..LedgerConfig::in_memory(installation) };
    let ledger = Running::begin(Arc::new(connector()), config).await;
    let why_not = send(ledger.ops, "GET", "/readyz").await;
    assert_eq!((why_not.status, why_not.text().as_str()), (503, "database not seen yet\n"));
    server.resume();
    ledger.ready().await;
    ledger.until(id, "queued").await;
    ledger.stop().await;
    ground.clean().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn a_runners_word_counts_where_the_broker_has_checked_it() {
    let ground = Ground::new(&connector()).await;
    let ledger = start(&ground, DatabaseAddress::in_memory()).await;
    let (checked, nobodys) = (CallId::fresh(), CallId::fresh());
    ground.report(&*ground.link, started(nobodys, 1)).await;
    ground.report(&*ground.link, CallEvent { user_id: Some(user()), ..started(checked, 1) }).await;
    ledger.until(checked, "running").await;
    assert_eq!(ledger.get(&format!("/calls/{nobodys}")).await.problem(), (404, "no-call".into()));
    // A lie closes the channel, and does not get through.
    let exchange = ground.installation.reply_exchange();
    let lie = CallEvent { user_id: Some("somebody".into()), ..ended(checked, 1, Ended::Success) };
    let envelope = lie.into_envelope().unwrap();
    let refused =
        ground.link.publish_confirmed(Target::exchange(&exchange, LEDGER_KEY), envelope, true).await;
    assert!(refused.is_err(), "{refused:?}");
    ledger.stop().await;
    ground.clean().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ: cargo xtask test runs it"]
async fn a_dead_letter_of_a_quorum_queue_goes_back_and_lives() {
    let ground = Ground::new(&connector()).await;
    let ledger = start(&ground, DatabaseAddress::in_memory()).await;
    let (queue, dead) = ground.durable().await;
    let call = call();
    ground.tell(queued(call.id, None)).await;
    ledger.until(call.id, "queued").await;
    let message = call.to_envelope().unwrap();
    ground.link.publish_confirmed(Target::queue(&queue), message, true).await.unwrap();
    let mut consumer = ground.consume(&queue).await;
    take(&mut consumer).await.reject(false).await.unwrap();
    eventually("it is dead", async || {
        ground.link.inspect(&dead).await.unwrap().is_some_and(|state| state.ready == 1)
    })
    .await;
    let answer = ledger.post("/v1/namespaces/team-a/apps/shop/fns/mail/dead-letters/redrive").await;
    assert_eq!(answer.json(), serde_json::json!({"moved": 1}));
    let again = take(&mut consumer).await;
    assert!(again.envelope.headers.get("x-death").is_none());
    let revived = Call::from_envelope(again.envelope.clone()).unwrap();
    assert_eq!((&revived.body, revived.method), (&call.body, call.method));
    again.ack().await.unwrap();
    let record = ledger.get(&format!("/calls/{}", revived.id)).await.json();
    assert_eq!(record["source"], serde_json::to_value(Source::Retry).unwrap());
    eventually("nothing is left", async || {
        ground.link.inspect(&dead).await.unwrap().is_some_and(|state| state.ready == 0)
    })
    .await;
    ledger.stop().await;
    ground.clean().await;
}

fn call() -> Call {
    Call {
        id: CallId::fresh(),
        reply_to: None,
        deadline_ms: 1_790_000_030_000,
        timeout_ms: 5_000,
        expiration_ms: None,
        timestamp_s: None,
        persistent: true,
        attempt: 1,
        attempts_max: None,
        claimant: None,
        direct: None,
        spilled: None,
        intent: Intent::Invoke,
        method: Method::POST,
        url: "http://shop.example.com/mail".into(),
        app: "shop".into(),
        fn_name: "mail".into(),
        revision: "mail-1a2b3c4d".into(),
        operation: None,
        template: None,
        params: Vec::new(),
        headers: HeaderMap::new(),
        body: "hello".into(),
    }
}

#[tokio::test]
#[ignore = "needs RabbitMQ and PostgreSQL: cargo xtask test runs it"]
async fn an_end_that_a_runner_tells_calls_a_fn_back_once_in_a_queue_that_is_made_for_it() {
    let server = postgres::shared();
    let database = postgres::database(server.as_deref()).await;
    let ground = Ground::new(&connector()).await;
    let ledger = start(&ground, database).await;
    let word = FnEvent {
        user_id: None,
        namespace: "team-a".into(),
        app: "shop".into(),
        fn_name: "mail".into(),
        at_ms: 1,
        url: "http://gateway/invoke/team-a/mail".into(),
        timeout_ms: 5_000,
        attempts_max: None,
        age_max_ms: None,
        // Itself: it would go on for ever if a callback's end were told.
        on_success: Some(CallbackTarget::Fn("mail".into())),
        on_failure: None,
        deleted: false,
    };
    let queue = ground.installation.ledger_queue();
    let sent =
        ground.link.publish_confirmed(Target::queue(&queue), word.into_envelope().unwrap(), true).await;
    assert_eq!(sent.unwrap(), Confirm::Acked);
    let link = connector().connect().await.unwrap();
    let says = |event: CallEvent| CallEvent { user_id: Some(user()), ..event };
    let id = CallId::fresh();
    for _ in 0..2 {
        // Its `queued` was lost, and its end comes twice.
        ground.report(&*link, says(ended(id, 1, Ended::Success))).await;
    }
    let path = format!("/calls/{id}");
    eventually("it is told", async || {
        ledger.get(&path).await.json()["callbacks"][0]["status"] == "delivered"
    })
    .await;
    let mut calls = ground.consume(&ground.names.durable_queue("mail").unwrap()).await;
    let delivery = take(&mut calls).await;
    let call = Call::from_envelope(delivery.envelope.clone()).unwrap();
    assert_eq!(call.headers["ce-subject"], id.to_string());
    ground.report(&*link, says(ended(call.id, 1, Ended::Success))).await;
    ledger.until(call.id, "success").await;
    delivery.ack().await.unwrap();
    assert!(ledger.get(&format!("/calls/{}", call.id)).await.json().get("callbacks").is_none());
    let left = ground.link.inspect(&ground.names.durable_queue("mail").unwrap()).await.unwrap();
    assert_eq!(left.unwrap().ready, 0, "it was called once");
    link.close().await;
    ledger.stop().await;
    ground.clean().await;
}
