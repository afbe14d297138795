//! Whom a Fn calls back: told to the ledger once for each change, and that it is gone.

#![allow(clippy::panic, reason = "helpers of a test fail it by panicking, as the test itself does")]

use funcatron_broker::link::Consumer;
use funcatron_broker::message::{CallbackTarget, FnEvent, LedgerMessage};

use super::*;

/// The next word on a Fn.
async fn next_word(told: &mut Consumer) -> FnEvent {
    let next = tokio::time::timeout(PATIENCE, async {
        while let Some(Event::Delivery(delivery)) = told.next().await {
            if let Ok(LedgerMessage::Fn(word)) = LedgerMessage::from_envelope(&delivery.envelope) {
                return word;
            }
        }
        panic!("the link has ended");
    });
    next.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_is_told_whom_a_fn_calls_back_when_it_changes_and_when_it_goes() {
    let mut world = World::new().await;
    world.ledger_url = Some("http://127.0.0.1:9".into());
    let link = world.broker.connect().await.unwrap();
    link.declare(&topology::ledger(&installation())).await.unwrap();
    let options = ConsumeOptions { prefetch: 0, exclusive: false, no_ack: true };
    let mut told = link.consume(&installation().ledger_queue(), options).await.unwrap();
    world.api.put(APPS, "team-a", "shop", json!({}));
    world.api.put(FNS, "team-a", "mail", python("def handler(c, d): return 1"));
    let operator = world.start();

    let first = next_word(&mut told).await;
    assert_eq!((&*first.namespace, &*first.app, &*first.fn_name), ("team-a", "shop", "mail"));
    assert_eq!(first.url, "http://gateway.funcatron.svc/invoke/team-a/mail");
    assert_eq!((&first.on_success, first.deleted), (&None, false));

    let mut spec = python("def handler(c, d): return 1");
    spec["async"] = json!({"onSuccess": {"fn": "thank"}});
    world.api.put(FNS, "team-a", "mail", spec);
    // What was reconciled in between was told nothing new.
    let changed = next_word(&mut told).await;
    assert_eq!(changed.on_success, Some(CallbackTarget::Fn("thank".into())));
    assert!(changed.at_ms >= first.at_ms);

    world.api.delete(FNS, "team-a", "mail");
    let gone = next_word(&mut told).await;
    assert_eq!((gone.deleted, gone.on_success), (true, changed.on_success), "its last calls are still told");
    operator.stop().await;
}
