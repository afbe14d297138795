//! Where messages go.

use funcatron_broker::link::{Confirm, ConsumeOptions, Deleted, Target};
use funcatron_broker::names::BindingKey;
use funcatron_broker::topology;

use super::ground::{Ground, Kit, envelope, take, within};

pub(crate) async fn a_mandatory_message_comes_back(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let mut returns = ground.link.take_returns().unwrap();
    assert!(ground.link.take_returns().is_none(), "once");
    let gone = ground.app.revision_queue("gone-1").unwrap();
    ground.link.publish(Target::queue(&gone), envelope("unwanted"), false).await.unwrap();
    for n in 0..5 {
        let message = envelope(&n.to_string());
        ground.link.publish(Target::queue(&gone), message, true).await.unwrap();
    }
    for n in 0..5 {
        let returned = within("a return", returns.recv()).await.unwrap();
        assert_eq!(returned.envelope.body, n.to_string());
        assert_eq!((returned.exchange.as_str(), returned.key.as_str()), ("", gone.as_str()));
    }
    ground.clean().await;
}

pub(crate) async fn a_mandatory_confirmed_message_is_returned_to_its_own_publisher(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let here = ground.calls().await;
    let gone = ground.app.revision_queue("gone-1").unwrap();
    let publishes = (0..100).map(|n| {
        let (here, gone, link) = (here.clone(), gone.clone(), &ground.link);
        async move {
            let queue = if n % 3 == 0 { gone } else { here };
            (n, link.publish_confirmed(Target::queue(&queue), envelope("m"), true).await.unwrap())
        }
    });
    for (n, confirm) in futures::future::join_all(publishes).await {
        let expected = if n % 3 == 0 { Confirm::Returned } else { Confirm::Acked };
        assert_eq!(confirm, expected, "publish {n}");
    }
    let vanished = ground.link.publish_confirmed(Target::queue(&gone), envelope("m"), false).await;
    assert_eq!(vanished.unwrap(), Confirm::Acked);
    ground.clean().await;
}

pub(crate) async fn a_topic_binding_takes_what_matches(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let key = BindingKey::parse("paid.#").unwrap();
    ground.declare(topology::trigger(&ground.app, "mail", "payments", &key).unwrap()).await;
    let exchange = ground.app.event_exchange("payments").unwrap();
    let queue = ground.app.durable_queue("mail").unwrap();
    for key in ["paid", "refunded.eu", "paid.eu.de", "unpaid.eu"] {
        let to = Target::exchange(&exchange, key);
        assert_eq!(ground.link.publish_confirmed(to, envelope(key), false).await.unwrap(), Confirm::Acked);
    }
    let mut consumer = ground.consume(&queue, 10).await;
    for key in ["paid", "paid.eu.de"] {
        let delivery = take(&mut consumer).await;
        assert_eq!(delivery.envelope.body, key);
        assert_eq!((delivery.exchange.as_str(), delivery.routing_key.as_str()), (exchange.as_str(), key));
        delivery.ack().await.unwrap();
    }
    ground.until_ready(&queue, 0).await;
    assert!(consumer.try_next().is_none());
    ground.clean().await;
}

pub(crate) async fn a_fanout_reaches_every_queue(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    ground.declare(topology::app(&ground.app)).await;
    let options = ConsumeOptions { prefetch: 0, exclusive: true, no_ack: true };
    let mut consumers = Vec::new();
    for suffix in ["one", "two"] {
        let (queue, items) = topology::runner(&ground.app, suffix).unwrap();
        ground.link.declare(&items).await.unwrap();
        consumers.push(ground.link.consume(&queue, options).await.unwrap());
    }
    let exchange = ground.app.cancel_exchange();
    ground.link.publish(Target::exchange(&exchange, ""), envelope("stop"), false).await.unwrap();
    for consumer in &mut consumers {
        assert_eq!(take(consumer).await.envelope.body, "stop");
    }
    ground.clean().await;
}

pub(crate) async fn a_reply_reaches_its_own_queue(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    ground.declare(topology::installation(&ground.installation)).await;
    let exchange = ground.installation.reply_exchange();
    let options = ConsumeOptions { prefetch: 0, exclusive: true, no_ack: true };
    let mut consumers = Vec::new();
    for suffix in ["one", "two"] {
        let (queue, items) = topology::gateway(&ground.installation, suffix).unwrap();
        ground.link.declare(&items).await.unwrap();
        let consumer = ground.link.consume(&queue, options).await.unwrap();
        consumers.push((queue, consumer));
    }
    for (queue, _) in &consumers {
        let to = Target::exchange(&exchange, queue.as_str());
        ground.link.publish(to, envelope(queue.as_str()), false).await.unwrap();
    }
    for (queue, consumer) in &mut consumers {
        assert_eq!(take(consumer).await.envelope.body, queue.as_str());
    }
    ground.clean().await;
}

pub(crate) async fn an_unbound_queue_gets_no_more(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let key = BindingKey::parse("paid.#").unwrap();
    ground.declare(topology::trigger(&ground.app, "mail", "payments", &key).unwrap()).await;
    let exchange = ground.app.event_exchange("payments").unwrap();
    let queue = ground.app.durable_queue("mail").unwrap();
    for _ in 0..2 {
        ground.link.unbind(&exchange, &queue, "paid.#").await.unwrap();
    }
    let to = Target::exchange(&exchange, "paid.eu");
    assert_eq!(ground.link.publish_confirmed(to, envelope("m"), true).await.unwrap(), Confirm::Returned);
    ground.clean().await;
}

pub(crate) async fn an_exchange_is_seen_while_it_stands(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let exchange = ground.app.cancel_exchange();
    assert!(!ground.link.has_exchange(&exchange).await.unwrap());
    // Of whatever kind it is.
    ground.declare(topology::app(&ground.app)).await;
    assert!(ground.link.has_exchange(&exchange).await.unwrap());
    assert_eq!(ground.link.delete_exchange(&exchange).await.unwrap(), Deleted::Deleted);
    assert!(!ground.link.has_exchange(&exchange).await.unwrap());
    ground.clean().await;
}
