//! Publishing, consuming, settling.

use funcatron_broker::link::{
    ConsumeOptions, Delivery, Envelope, HeaderValue, Headers, LinkError, Properties, Target,
};
use funcatron_broker::names::QueueName;
use funcatron_broker::topology::{self, Attempts, Item, Overflow, QueueKind, QueueSpec};

use super::ground::{Ground, Kit, consume, envelope, next, take, within};
use super::policies::of_mail;

pub(crate) async fn what_is_published_arrives_unchanged(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    let mut headers = Headers::default();
    headers.insert("text", "tête");
    headers.insert("bytes", HeaderValue::Bytes(vec![0, 255, 128].into()));
    headers.insert("int", i64::MIN);
    headers.insert("bool", HeaderValue::Bool(true));
    headers.insert("float", HeaderValue::Float(0.5));
    headers.insert("timestamp", HeaderValue::Timestamp(1_790_000_000));
    headers.insert("decimal", HeaderValue::Decimal { scale: 2, value: 1999 });
    headers.insert("void", HeaderValue::Void);
    headers.insert("list", HeaderValue::List(vec!["a".into(), 2.into()]));
    headers.insert("table", HeaderValue::Table([("k".to_owned(), "v".into())].into_iter().collect()));
    let properties = Properties {
        kind: Some("call".to_owned()),
        message_id: Some("m".to_owned()),
        correlation_id: Some("c".to_owned()),
        reply_to: Some("r".to_owned()),
        content_type: Some("text/plain; charset=utf-8".to_owned()),
        content_encoding: Some("identity".to_owned()),
        app_id: Some("shop".to_owned()),
        user_id: None,
        expiration_ms: Some(60_000),
        timestamp_s: Some(1_790_000_000),
        priority: Some(7),
        persistent: true,
    };
    // Larger than one AMQP frame.
    let body = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect::<Vec<u8>>();
    let sent = Envelope { properties, headers, body: body.into() };
    ground.link.publish(Target::queue(&queue), sent.clone(), true).await.unwrap();
    let got = take(&mut ground.consume(&queue, 1).await).await;
    assert_eq!(got.envelope, sent);
    assert_eq!((got.exchange.as_str(), got.routing_key.as_str()), ("", queue.as_str()));
    assert!(!got.redelivered);
    assert_eq!(got.delivery_count, None);
    ground.clean().await;
}

pub(crate) async fn an_acked_message_is_gone(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    ground.publish(&queue, "one").await;
    ground.publish(&queue, "two").await;
    let other = ground.other().await;
    let mut consumer = consume(&other, &queue, 1).await;
    take(&mut consumer).await.ack().await.unwrap();
    drop(take(&mut consumer).await);
    other.close().await;
    let again = take(&mut ground.consume(&queue, 10).await).await;
    assert_eq!(again.envelope.body, "two");
    ground.until_ready(&queue, 0).await;
    ground.clean().await;
}

pub(crate) async fn what_is_acked_together_is_gone_and_nothing_else(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    for body in ["1", "2", "3", "4", "5", "6"] {
        ground.publish(&queue, body).await;
    }
    let other = ground.other().await;
    let mut consumer = consume(&other, &queue, 10).await;
    let (mut done, mut left) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let delivery = take(&mut consumer).await;
        match &*delivery.envelope.body {
            b"3" => delivery.reject(false).await.unwrap(),
            b"4" | b"6" => left.push(delivery),
            _ => done.push(delivery),
        }
    }
    Delivery::ack_all(done).await.unwrap();
    other.close().await;
    let mut consumer = ground.consume(&queue, 10).await;
    let mut again = [take(&mut consumer).await.envelope.body, take(&mut consumer).await.envelope.body];
    again.sort();
    assert_eq!(again, ["4", "6"]);
    ground.until_ready(&queue, 0).await;
    ground.clean().await;
}

pub(crate) async fn what_was_published_leaves_before_its_link_closes(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    let other = ground.other().await;
    for _ in 0..500 {
        other.publish(Target::queue(&queue), envelope("x"), false).await.unwrap();
    }
    other.close().await;
    ground.until_ready(&queue, 500).await;
    ground.clean().await;
}

pub(crate) async fn a_flush_ends_and_says_whether_the_link_is_up(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    let other = ground.other().await;
    within("a flush of nothing", other.flush()).await.unwrap();
    for sent in 1..=3 {
        other.publish(Target::queue(&queue), envelope("x"), false).await.unwrap();
        within("a flush", other.flush()).await.unwrap();
        ground.until_ready(&queue, sent).await;
    }
    other.close().await;
    assert!(matches!(within("a flush", other.flush()).await, Err(LinkError::Closed(_))));
    ground.clean().await;
}

pub(crate) async fn what_is_to_be_tried_for_ever_comes_back_each_time(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    ground.declare(topology::ledger(&ground.installation)).await;
    let queue = ground.installation.ledger_queue();
    ground.publish(&queue, "event").await;
    let mut consumer = ground.consume(&queue, 1).await;
    // RabbitMQ's own limit, where a queue names none, is 20.
    for _ in 0..25 {
        take(&mut consumer).await.reject(true).await.unwrap();
    }
    take(&mut consumer).await.ack().await.unwrap();
    ground.until_ready(&queue, 0).await;
    ground.clean().await;
}

pub(crate) async fn prefetch_bounds_what_is_out(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    for n in 0..10 {
        ground.publish(&queue, &n.to_string()).await;
    }
    let mut consumer = ground.consume(&queue, 3).await;
    let mut out = Vec::new();
    for _ in 0..3 {
        out.push(take(&mut consumer).await);
    }
    ground.until_ready(&queue, 7).await;
    assert!(consumer.try_next().is_none());
    // Settled in any order, each settled one makes room for one.
    out.remove(1).ack().await.unwrap();
    assert_eq!(take(&mut consumer).await.envelope.body, "3");
    ground.until_ready(&queue, 6).await;
    assert!(consumer.try_next().is_none());
    ground.clean().await;
}

pub(crate) async fn consumers_share_a_queue(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    let mut first = ground.consume(&queue, 1).await;
    let mut second = ground.consume(&queue, 1).await;
    ground.publish(&queue, "one").await;
    ground.publish(&queue, "two").await;
    let mut bodies = [take(&mut first).await.envelope.body, take(&mut second).await.envelope.body];
    bodies.sort();
    assert_eq!(bodies, ["one", "two"]);
    ground.clean().await;
}

pub(crate) async fn no_ack_settles_by_sending(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    let options = ConsumeOptions { prefetch: 0, exclusive: false, no_ack: true };
    let mut consumer = ground.link.consume(&queue, options).await.unwrap();
    for n in 0..3_000 {
        let message = envelope(&n.to_string());
        ground.link.publish(Target::queue(&queue), message, false).await.unwrap();
    }
    for n in 0..3_000 {
        assert_eq!(take(&mut consumer).await.envelope.body, n.to_string());
    }
    drop(consumer);
    ground.until_ready(&queue, 0).await;
    ground.clean().await;
}

/// A durable queue of few attempts, with its dead letters. Without a policy it tries again at once.
pub(crate) async fn durable(ground: &Ground) -> (QueueName, QueueName) {
    let (queue, dead) = (ground.app.durable_queue("mail").unwrap(), ground.app.dead_queue("mail").unwrap());
    let spec = |attempts, overflow| QueueSpec {
        kind: QueueKind::Quorum,
        length_max: 100,
        bytes_max: None,
        overflow,
        attempts,
        keeps_trying: false,
    };
    let attempts = Attempts { delivery_limit: 3, dead_letter: dead.clone() };
    let dead_spec = spec(None, Overflow::DropHead);
    let queue_spec = spec(Some(attempts), Overflow::RejectPublish);
    ground
        .declare(vec![
            Item::Queue { name: dead.clone(), spec: dead_spec },
            Item::Queue { name: queue.clone(), spec: queue_spec },
        ])
        .await;
    (queue, dead)
}

pub(crate) async fn a_rejected_message_is_tried_to_the_limit_then_dead_lettered(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let (queue, dead) = durable(&ground).await;
    ground.publish(&queue, "poison").await;
    let mut consumer = ground.consume(&queue, 1).await;
    let mut counts = Vec::new();
    for attempt in 1..=4 {
        let delivery = take(&mut consumer).await;
        assert_eq!(delivery.redelivered, attempt > 1, "attempt {attempt}");
        counts.push(delivery.delivery_count);
        delivery.reject(true).await.unwrap();
    }
    assert_eq!(counts[1..], [Some(1), Some(2), Some(3)]);
    assert!(matches!(counts[0], None | Some(0)));
    let buried = take(&mut ground.consume(&dead, 1).await).await;
    assert_eq!(buried.envelope.body, "poison");
    assert_eq!(buried.envelope.headers.text("x-first-death-queue"), Some(queue.as_str()));
    assert_eq!(buried.envelope.headers.text("x-first-death-reason"), Some("delivery_limit"));
    ground.clean().await;
}

pub(crate) async fn a_refused_message_is_dead_lettered_at_once(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let (queue, dead) = durable(&ground).await;
    ground.publish(&queue, "nonsense").await;
    let mut consumer = ground.consume(&queue, 1).await;
    take(&mut consumer).await.reject(false).await.unwrap();
    let buried = take(&mut ground.consume(&dead, 1).await).await;
    assert_eq!(buried.envelope.body, "nonsense");
    assert_eq!(buried.envelope.headers.text("x-first-death-reason"), Some("rejected"));
    ground.clean().await;
}

pub(crate) async fn what_is_given_back_counts_as_no_attempt(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    // A wait after it would be longer than anything is waited for.
    ground.put_policy(of_mail(&ground, 3_600_000, 3_600_000)).await;
    let (queue, _dead) = durable(&ground).await;
    ground.publish(&queue, "unbegun").await;
    let mut consumer = ground.consume(&queue, 1).await;
    // Twice what the queue allows.
    for _ in 0..6 {
        let delivery = take(&mut consumer).await;
        assert!(matches!(delivery.delivery_count, None | Some(0)), "{:?}", delivery.delivery_count);
        delivery.give_back().await.unwrap();
    }
    let delivery = take(&mut consumer).await;
    assert_eq!(delivery.envelope.body, "unbegun");
    delivery.ack().await.unwrap();
    ground.clean().await;
}

pub(crate) async fn an_attempt_that_ends_with_its_link_counts(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let (queue, dead) = durable(&ground).await;
    ground.publish(&queue, "deadly").await;
    let mut counts = Vec::new();
    for _ in 1..=4 {
        let link = ground.other().await;
        let delivery = take(&mut consume(&link, &queue, 1).await).await;
        counts.push(delivery.delivery_count.unwrap_or(0));
        link.close().await;
    }
    assert_eq!(counts, [0, 1, 2, 3]);
    let buried = take(&mut ground.consume(&dead, 1).await).await;
    assert_eq!(buried.envelope.body, "deadly");
    ground.clean().await;
}

pub(crate) async fn a_closed_link_gives_back_what_was_out(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    ground.publish(&queue, "one").await;
    let other = ground.other().await;
    let mut theirs = consume(&other, &queue, 1).await;
    let held = take(&mut theirs).await;
    let mut ours = ground.consume(&queue, 1).await;
    other.close().await;
    let again = take(&mut ours).await;
    assert_eq!(again.envelope.body, "one");
    assert!(again.redelivered);
    assert!(held.ack().await.is_err(), "what went back cannot be settled");
    assert!(next(&mut theirs).await.is_none());
    assert!(theirs.failure().is_some());
    ground.clean().await;
}

pub(crate) async fn a_cut_link_gives_back_what_was_out(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    ground.publish(&queue, "one").await;
    let mut consumer = ground.consume(&queue, 1).await;
    let _held = take(&mut consumer).await;
    ground.kit.cut().await;
    assert!(next(&mut consumer).await.is_none());
    let other = ground.other().await;
    assert!(take(&mut consume(&other, &queue, 1).await).await.redelivered);
    ground.clean().await;
}

pub(crate) async fn what_is_dropped_unsettled_goes_back_with_its_consumer(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    ground.publish(&queue, "one").await;
    ground.publish(&queue, "two").await;
    let mut consumer = ground.consume(&queue, 2).await;
    let kept = take(&mut consumer).await;
    drop(take(&mut consumer).await);
    drop(consumer);
    // A delivery outlives its consumer, and keeps the others out with it.
    assert_eq!(kept.envelope.body, "one");
    kept.ack().await.unwrap();
    let again = take(&mut ground.consume(&queue, 1).await).await;
    assert_eq!(again.envelope.body, "two");
    assert!(again.redelivered);
    ground.clean().await;
}

pub(crate) async fn a_cancelled_consumer_ends_after_what_was_under_way(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    let mut consumer = ground.consume(&queue, 5).await;
    ground.publish(&queue, "one").await;
    ground.publish(&queue, "two").await;
    let first = take(&mut consumer).await;
    ground.until_ready(&queue, 0).await;
    consumer.cancel().await;
    assert_eq!(take(&mut consumer).await.envelope.body, "two");
    assert!(next(&mut consumer).await.is_none());
    assert_eq!(consumer.failure(), None);
    first.ack().await.unwrap();
    ground.publish(&queue, "three").await;
    ground.until_ready(&queue, 1).await;
    ground.clean().await;
}

pub(crate) async fn an_expired_message_is_not_delivered(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let queue = ground.calls().await;
    let mut short = envelope("late");
    short.properties.expiration_ms = Some(30);
    ground.link.publish_confirmed(Target::queue(&queue), short, false).await.unwrap();
    ground.until_ready(&queue, 0).await;
    let mut long = envelope("in time");
    long.properties.expiration_ms = Some(u64::MAX);
    ground.link.publish(Target::queue(&queue), long, false).await.unwrap();
    assert_eq!(take(&mut ground.consume(&queue, 1).await).await.envelope.body, "in time");
    ground.clean().await;
}

pub(crate) async fn a_dead_letter_does_not_expire(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let (queue, dead) = durable(&ground).await;
    let mut message = envelope("poison");
    message.properties.expiration_ms = Some(60_000);
    ground.link.publish(Target::queue(&queue), message, false).await.unwrap();
    take(&mut ground.consume(&queue, 1).await).await.reject(false).await.unwrap();
    let buried = take(&mut ground.consume(&dead, 1).await).await;
    assert_eq!(buried.envelope.properties.expiration_ms, None);
    ground.clean().await;
}
