//! What a policy says, of a queue that stands as of one to come.

use std::time::{Duration, Instant};

use funcatron_broker::link::Consumer;
use funcatron_broker::names::QueueName;
use funcatron_broker::policy::{Kept, Policy, Waits};

use super::ground::{Ground, Kit, soon, take};
use super::settling::durable;

/// Far above what a broker needs to hand a message out again that is to wait for nothing.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Timers of two processes on one machine agree within this.
const EARLY_MAX: Duration = Duration::from_millis(50);
/// Long enough to be seen, and short enough to wait for.
const AGE: Duration = Duration::from_millis(1_500);

/// Fails an attempt, and says how long it then waited for the next.
async fn failed(consumer: &mut Consumer) -> Duration {
    let attempt = take(consumer).await;
    let begun = Instant::now();
    attempt.reject(true).await.unwrap();
    let again = take(consumer).await;
    let waited = begun.elapsed();
    again.ack().await.unwrap();
    waited
}

pub(super) fn of_mail(ground: &Ground, min_ms: u64, max_ms: u64) -> Policy {
    Policy::retries(&ground.app, "mail", Waits { min_ms, max_ms }).unwrap()
}

/// Has a policy for the dead letters, which stand below another bound of their queue's own.
async fn keep(ground: &Ground, kept: Kept) {
    ground.put_policy(Policy::dead_letters(&ground.app, "mail", kept).unwrap().unwrap()).await;
}

pub(crate) async fn a_failed_attempt_waits_as_its_queues_policy_says(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    ground.put_policy(of_mail(&ground, 300, 400)).await;
    let (queue, _dead) = durable(&ground).await;
    ground.publish(&queue, "later").await;
    let mut consumer = ground.consume(&queue, 1).await;
    let mut attempt = take(&mut consumer).await;
    for wait_ms in [300, 400, 400] {
        let begun = Instant::now();
        attempt.reject(true).await.unwrap();
        attempt = take(&mut consumer).await;
        assert!(begun.elapsed() + EARLY_MAX >= Duration::from_millis(wait_ms), "{:?}", begun.elapsed());
    }
    attempt.ack().await.unwrap();
    ground.clean().await;
}

pub(crate) async fn without_a_policy_the_next_attempt_follows_at_once(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let (queue, _dead) = durable(&ground).await;
    ground.publish(&queue, "now").await;
    let waited = failed(&mut ground.consume(&queue, 1).await).await;
    assert!(waited < AT_ONCE, "{waited:?}");
    ground.clean().await;
}

pub(crate) async fn a_queues_own_policy_counts_before_that_of_all(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    ground.put_policy(Policy::of_all(&ground.installation)).await;
    let (queue, _dead) = durable(&ground).await;
    ground.publish(&queue, "one").await;
    let mut consumer = ground.consume(&queue, 1).await;
    let waited = failed(&mut consumer).await;
    assert!(waited + EARLY_MAX >= Duration::from_secs(1), "{waited:?}");
    ground.put_policy(of_mail(&ground, 10, 10)).await;
    // A queue that stands hears of it a moment later.
    soon("the queue goes by its own policy", async || {
        ground.publish(&queue, "two").await;
        failed(&mut consumer).await < Duration::from_millis(500)
    })
    .await;
    ground.clean().await;
}

pub(crate) async fn of_a_queues_and_its_policys_bound_the_lower_counts(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    let (_queue, dead) = durable(&ground).await;
    for body in ["1", "2", "3", "4", "5"] {
        ground.publish(&dead, body).await;
    }
    ground.until_ready(&dead, 5).await;
    // What stands already is cut too, the oldest first.
    keep(&ground, Kept { length_max: 2, age_max: None }).await;
    ground.until_ready(&dead, 2).await;
    ground.publish(&dead, "6").await;
    ground.until_ready(&dead, 2).await;
    assert_eq!(bodies(&ground, &dead, 2).await, ["5", "6"]);
    // Its queue's own is 100.
    keep(&ground, Kept { length_max: 9_999, age_max: None }).await;
    soon("the queue's own bound counts", async || {
        for _ in 0..110 {
            ground.publish(&dead, "x").await;
        }
        ground.link.inspect(&dead).await.unwrap().is_some_and(|state| state.ready == 100)
    })
    .await;
    ground.clean().await;
}

pub(crate) async fn a_dead_letter_goes_at_the_age_that_its_policy_grants(kit: Box<dyn Kit>) {
    let ground = Ground::new(kit).await;
    keep(&ground, Kept { length_max: 100, age_max: Some(AGE) }).await;
    let (queue, dead) = durable(&ground).await;
    ground.publish(&queue, "nonsense").await;
    take(&mut ground.consume(&queue, 1).await).await.reject(false).await.unwrap();
    ground.until_ready(&dead, 1).await;
    ground.until_ready(&dead, 0).await;
    ground.clean().await;
}

async fn bodies(ground: &Ground, queue: &QueueName, count: usize) -> Vec<String> {
    let mut consumer = ground.consume(queue, 10).await;
    let mut bodies = Vec::new();
    for _ in 0..count {
        let delivery = take(&mut consumer).await;
        bodies.push(String::from_utf8_lossy(&delivery.envelope.body).into_owned());
        delivery.ack().await.unwrap();
    }
    bodies
}
