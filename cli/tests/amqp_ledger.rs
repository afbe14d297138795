//! `funcatron ledger` on a real RabbitMQ: a process that is killed while it takes events, and the next one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, as the tests themselves")]

mod amqp_kit;

use std::sync::Arc;

use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::{Confirm, Connector as _, Link, Target};
use funcatron_broker::message::{CallEvent, CallId, Happened, Source};
use funcatron_broker::names::Installation;
use funcatron_broker::topology;

use amqp_kit::{Ledger, clean, eventually, fresh_installation, get, url};

/// Several batches, so that a kill falls between two or into one.
const EVENTS: usize = 1_500;

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
    let installation = fresh_installation();
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
    runtime.block_on(clean(&*link, topology::ledger(&installation)));
}
