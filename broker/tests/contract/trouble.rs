//! What goes wrong, and who is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use funcatron_broker::link::{ConsumeOptions, Deleted, Event, HeaderValue, LinkError, Target};
use funcatron_broker::supervise;
use tokio_util::sync::CancellationToken;

use super::ground::{Ground, Kit, consume, envelope, soon, take, within};

pub(crate) async fn what_is_missing_is_named(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let gone = ground.app.revision_queue("gone-1").unwrap();
    let options = ConsumeOptions { prefetch: 1, exclusive: false, no_ack: false };
    let refused = ground.link.consume(&gone, options).await.unwrap_err();
    assert!(matches!(&refused, LinkError::Missing { name, .. } if name == gone.as_str()), "{refused:?}");
    let exchange = ground.app.event_exchange("gone").unwrap();
    let to = Target::exchange(&exchange, "key");
    let refused = ground.link.publish_confirmed(to, envelope("m"), false).await.unwrap_err();
    assert!(matches!(&refused, LinkError::Missing { name, .. } if name == exchange.as_str()), "{refused:?}");
    assert_eq!(ground.link.delete_queue(&gone, false).await.unwrap(), Deleted::Missing);
    assert_eq!(ground.link.delete_exchange(&exchange).await.unwrap(), Deleted::Missing);
    ground.clean().await;
}

pub(crate) async fn an_exchange_that_is_gone_does_not_hurt_calls(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    let mut consumer = ground.consume(&queue, 1).await;
    let exchange = ground.app.cancel_exchange();
    // A carrier may say so or not: over AMQP it is heard of later, if at all.
    let _ = ground.link.publish(Target::exchange(&exchange, ""), envelope("m"), false).await;
    ground.link.flush().await.unwrap();
    ground.publish(&queue, "call").await;
    take(&mut consumer).await.ack().await.unwrap();
    // And once it is there, it is reached on the same link.
    ground.declare(funcatron_broker::topology::app(&ground.app)).await;
    let (own, items) = funcatron_broker::topology::runner(&ground.app, "one").unwrap();
    ground.link.declare(&items).await.unwrap();
    soon("published again", async || {
        let _ = ground.link.publish(Target::exchange(&exchange, ""), envelope("m"), false).await;
        ground.link.inspect(&own).await.unwrap().unwrap().ready > 0
    })
    .await;
    let mut cancels = ground.consume(&own, 1).await;
    assert_eq!(take(&mut cancels).await.envelope.body, "m");
    ground.clean().await;
}

pub(crate) async fn what_cannot_travel_is_refused_before_it_is_sent(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    let long = "x".repeat(256);
    let mut cases = vec![envelope("m"); 3];
    cases[0].properties.reply_to = Some(long.clone());
    cases[1].headers.insert(long.clone(), "v");
    cases[2].headers.insert("big", HeaderValue::Text("x".repeat(100 * 1024)));
    for message in cases {
        let refused = ground.link.publish(Target::queue(&queue), message.clone(), false).await;
        assert!(matches!(refused, Err(LinkError::Unsendable(_))), "{refused:?}");
        let refused = ground.link.publish_confirmed(Target::queue(&queue), message, false).await;
        assert!(matches!(refused, Err(LinkError::Unsendable(_))), "{refused:?}");
    }
    let to = Target { exchange: None, key: &long };
    assert!(matches!(ground.link.publish(to, envelope("m"), false).await, Err(LinkError::Unsendable(_))));
    // The largest headers that are allowed do travel.
    let mut big = envelope("m");
    for n in 0..90 {
        big.headers.insert(format!("h{n}"), HeaderValue::Text("x".repeat(1_000)));
    }
    ground.link.publish(Target::queue(&queue), big.clone(), false).await.unwrap();
    assert_eq!(take(&mut ground.consume(&queue, 1).await).await.envelope, big);
    ground.clean().await;
}

pub(crate) async fn a_closed_link_says_so(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    let other = ground.other().await;
    let waiting = tokio::spawn({
        let other = Arc::clone(&other);
        async move { other.closed().await }
    });
    ground.kit.cut().await;
    assert!(!within("closed", waiting).await.unwrap().is_empty());
    soon("publishing fails", async || {
        other.publish(Target::queue(&queue), envelope("m"), false).await.is_err()
    })
    .await;
    let refused = other.publish(Target::queue(&queue), envelope("m"), false).await;
    assert!(matches!(refused, Err(LinkError::Closed(_))), "{refused:?}");
    assert!(matches!(other.inspect(&queue).await, Err(LinkError::Closed(_))));
    within("closing what is closed", other.close()).await;
    ground.clean().await;
}

pub(crate) async fn supervise_runs_the_session_again_on_a_new_link(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    let (shutdown, sessions, served) =
        (CancellationToken::new(), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let supervised = supervise(ground.kit.connector(), shutdown.clone(), |link| {
        let (queue, sessions, served) = (queue.clone(), Arc::clone(&sessions), Arc::clone(&served));
        async move {
            sessions.fetch_add(1, Ordering::SeqCst);
            let mut consumer = consume(&link, &queue, 1).await;
            while let Some(Event::Delivery(delivery)) = consumer.next().await {
                delivery.ack().await.unwrap();
                served.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let driving = async {
        for round in 1..=3 {
            let other = ground.other().await;
            other.publish(Target::queue(&queue), envelope("m"), false).await.unwrap();
            soon("served", async || served.load(Ordering::SeqCst) >= round).await;
            ground.kit.cut().await;
        }
        soon("a fourth session", async || sessions.load(Ordering::SeqCst) == 4).await;
        shutdown.cancel();
        // This session does not watch the token: only its link's end ends it.
        ground.kit.cut().await;
    };
    within("supervise", async { tokio::join!(supervised, driving) }).await;
    ground.clean().await;
}

pub(crate) async fn supervise_stops_when_told(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let shutdown = CancellationToken::new();
    let drained = Arc::new(AtomicU32::new(0));
    let supervised = supervise(ground.kit.connector(), shutdown.clone(), |link| {
        let (shutdown, drained) = (shutdown.clone(), Arc::clone(&drained));
        async move {
            shutdown.cancelled().await;
            // The link is still there to drain over.
            let gone = funcatron_broker::names::QueueName::parse("gone").unwrap();
            assert_eq!(link.inspect(&gone).await.unwrap(), None);
            drained.fetch_add(1, Ordering::SeqCst);
        }
    });
    let telling = async {
        tokio::task::yield_now().await;
        shutdown.cancel();
    };
    within("supervise", async { tokio::join!(supervised, telling) }).await;
    assert!(drained.load(Ordering::SeqCst) <= 1);
    ground.clean().await;
}
