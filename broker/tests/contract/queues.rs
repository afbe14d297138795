//! Queues: their bounds, their deletion, who may see them.

use funcatron_broker::link::{Confirm, ConsumeOptions, Deleted, Event, LinkError, Target};
use funcatron_broker::topology::{self, Item, Overflow, QueueKind, QueueSpec};

use super::ground::{Ground, Kit, consume, envelope, next, soon, take};

async fn small(ground: &Ground, overflow: Overflow) -> funcatron_broker::names::QueueName {
    let name = ground.app.revision_queue("small-1").unwrap();
    let spec = QueueSpec {
        kind: QueueKind::Classic,
        length_max: 2,
        bytes_max: None,
        overflow,
        attempts: None,
        keeps_trying: false,
    };
    ground.declare(vec![Item::Queue { name: name.clone(), spec }]).await;
    name
}

pub(crate) async fn a_full_queue_refuses_a_confirmed_publish(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = small(&ground, Overflow::RejectPublish).await;
    let mut confirms = Vec::new();
    for n in 0..3 {
        let to = Target::queue(&queue);
        confirms.push(ground.link.publish_confirmed(to, envelope(&n.to_string()), true).await.unwrap());
    }
    assert_eq!(confirms, [Confirm::Acked, Confirm::Acked, Confirm::Nacked]);
    assert_eq!(take(&mut ground.consume(&queue, 1).await).await.envelope.body, "0");
    ground.clean().await;
}

pub(crate) async fn a_full_queue_drops_its_head_where_it_says_so(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = small(&ground, Overflow::DropHead).await;
    for n in 0..3 {
        let to = Target::queue(&queue);
        let confirm = ground.link.publish_confirmed(to, envelope(&n.to_string()), false).await.unwrap();
        assert_eq!(confirm, Confirm::Acked);
    }
    assert_eq!(take(&mut ground.consume(&queue, 1).await).await.envelope.body, "1");
    ground.clean().await;
}

pub(crate) async fn inspect_counts_ready_and_consumers(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    for n in 0..3 {
        ground.publish(&queue, &n.to_string()).await;
    }
    ground.until_ready(&queue, 3).await;
    let mut consumer = ground.consume(&queue, 1).await;
    let _out = take(&mut consumer).await;
    soon("two ready, one consumer", async || {
        let state = ground.link.inspect(&queue).await.unwrap().unwrap();
        (state.ready, state.consumers) == (2, 1)
    })
    .await;
    let other = ground.app.revision_queue("other-1").unwrap();
    assert_eq!(ground.link.inspect(&other).await.unwrap(), None);
    assert!(ground.link.inspect(&queue).await.unwrap().is_some(), "a look in vain hurts nobody");
    ground.clean().await;
}

pub(crate) async fn deleting_if_empty_counts_ready_messages_only(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    ground.publish(&queue, "one").await;
    ground.until_ready(&queue, 1).await;
    assert_eq!(ground.link.delete_queue(&queue, true).await.unwrap(), Deleted::NotEmpty);
    let mut consumer = ground.consume(&queue, 1).await;
    let held = take(&mut consumer).await;
    soon("nothing ready", async || {
        ground.link.delete_queue(&queue, true).await.unwrap() != Deleted::NotEmpty
    })
    .await;
    assert_eq!(ground.link.delete_queue(&queue, true).await.unwrap(), Deleted::Missing);
    // What was out may still be finished, and its settling hurts nobody.
    let _ = held.ack().await;
    assert!(matches!(next(&mut consumer).await, Some(Event::CancelledByServer)));
    let again = ground.calls().await;
    ground.publish(&again, "two").await;
    assert_eq!(take(&mut ground.consume(&again, 1).await).await.envelope.body, "two");
    ground.clean().await;
}

pub(crate) async fn deleting_a_queue_cancels_its_consumers(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    let mut consumer = ground.consume(&queue, 1).await;
    let mut other = ground.consume(&queue, 1).await;
    let operator = ground.other().await;
    assert_eq!(operator.delete_queue(&queue, false).await.unwrap(), Deleted::Deleted);
    for consumer in [&mut consumer, &mut other] {
        assert!(matches!(next(consumer).await, Some(Event::CancelledByServer)));
        assert!(next(consumer).await.is_none());
        assert_eq!(consumer.failure(), None);
    }
    operator.close().await;
    ground.clean().await;
}

pub(crate) async fn an_exclusive_queue_is_one_links_and_goes_with_it(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    ground.declare(topology::installation(&ground.installation)).await;
    let (queue, items) = topology::gateway(&ground.installation, "one").unwrap();
    let gateway = ground.other().await;
    gateway.declare(&items).await.unwrap();
    let options = ConsumeOptions { prefetch: 0, exclusive: true, no_ack: true };
    let refused = ground.link.consume(&queue, options).await.unwrap_err();
    assert!(matches!(&refused, LinkError::Locked { name, .. } if name == queue.as_str()), "{refused:?}");
    assert!(gateway.inspect(&queue).await.unwrap().is_some());
    gateway.close().await;
    soon("the queue is gone", async || matches!(ground.link.inspect(&queue).await, Ok(None))).await;
    ground.clean().await;
}

pub(crate) async fn an_exclusive_consumer_is_alone(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    let options = ConsumeOptions { prefetch: 1, exclusive: true, no_ack: false };
    let mut alone = ground.link.consume(&queue, options).await.unwrap();
    let other = ground.other().await;
    let refused = other.consume(&queue, options).await.unwrap_err();
    assert!(matches!(refused, LinkError::Locked { .. }), "{refused:?}");
    alone.cancel().await;
    soon("it may be consumed again", async || other.consume(&queue, options).await.is_ok()).await;
    other.close().await;
    ground.clean().await;
}

pub(crate) async fn declaring_twice_is_fine_and_otherwise_an_error(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    ground.declare(topology::app(&ground.app)).await;
    let everything = [
        topology::installation(&ground.installation),
        topology::durable(&ground.app, "mail").unwrap(),
        topology::wake(&ground.app, "python").unwrap(),
        topology::trigger(&ground.app, "mail", "payments", &"paid.#".parse_key()).unwrap(),
    ];
    for items in everything.iter().chain(&everything) {
        ground.declare(items.clone()).await;
    }
    let queue = ground.calls().await;
    let mut consumer = ground.consume(&queue, 1).await;
    let spec = QueueSpec {
        kind: QueueKind::Classic,
        length_max: 3,
        bytes_max: None,
        overflow: Overflow::DropHead,
        attempts: None,
        keeps_trying: false,
    };
    let refused = ground.link.declare(&[Item::Queue { name: queue.clone(), spec }]).await.unwrap_err();
    assert!(matches!(&refused, LinkError::Mismatch { name, .. } if name == queue.as_str()), "{refused:?}");
    // Nobody else on this link is hurt.
    ground.publish(&queue, "still here").await;
    assert_eq!(take(&mut consumer).await.envelope.body, "still here");
    assert!(consume(&ground.link, &queue, 1).await.failure().is_none());
    ground.clean().await;
}

trait ParseKey {
    fn parse_key(&self) -> funcatron_broker::names::BindingKey;
}

impl ParseKey for str {
    fn parse_key(&self) -> funcatron_broker::names::BindingKey {
        funcatron_broker::names::BindingKey::parse(self).unwrap()
    }
}
