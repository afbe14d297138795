//! What the rules stand on: a carrier, names of their own, and waiting with a deadline.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use funcatron_broker::link::{
    Confirm, Connector, ConsumeOptions, Consumer, Delivery, Envelope, Event, Link, Properties, Target,
    fresh_suffix,
};
use funcatron_broker::names::{AppNames, Installation, QueueName};
use funcatron_broker::policy::Policy;
use funcatron_broker::topology::{self, Item};

/// Nothing here takes longer on a healthy broker, however busy its machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// A carrier under test.
#[async_trait]
pub(crate) trait Kit: Send + Sync {
    fn connector(&self) -> &dyn Connector;
    /// Takes every link of this kit down, as a broken network would.
    async fn cut(&self);
    /// Has the broker go by one more policy.
    async fn put_policy(&self, policy: &Policy);
    /// Takes a policy away.
    async fn delete_policy(&self, policy: &Policy);
}

/// One rule's own part of a broker.
pub(crate) struct Ground {
    pub(crate) kit: Box<dyn Kit>,
    pub(crate) link: Arc<dyn Link>,
    pub(crate) installation: Installation,
    pub(crate) app: AppNames,
    declared: parking_lot::Mutex<Vec<Item>>,
    policies: parking_lot::Mutex<Vec<Policy>>,
}

impl Ground {
    pub(crate) async fn new(kit: Box<dyn Kit>) -> Self {
        let suffix = fresh_suffix();
        let installation = Installation::parse(&format!("t{}", &suffix[suffix.len() - 12..])).unwrap();
        let app = AppNames::new(&installation, "team-a", "shop").unwrap();
        let link = kit.connector().connect().await.unwrap();
        let (declared, policies) = Default::default();
        Self { kit, link, installation, app, declared, policies }
    }

    /// Has the broker go by one more policy.
    pub(crate) async fn put_policy(&self, policy: Policy) {
        self.kit.put_policy(&policy).await;
        self.policies.lock().push(policy);
    }

    /// Another link.
    pub(crate) async fn other(&self) -> Arc<dyn Link> {
        self.kit.connector().connect().await.unwrap()
    }

    pub(crate) async fn declare(&self, items: Vec<Item>) {
        self.link.declare(&items).await.unwrap();
        self.declared.lock().extend(items);
    }

    /// A revision's queue.
    pub(crate) async fn calls(&self) -> QueueName {
        self.declare(topology::revision(&self.app, "orders-1").unwrap()).await;
        self.app.revision_queue("orders-1").unwrap()
    }

    pub(crate) async fn consume(&self, queue: &QueueName, prefetch: u16) -> Consumer {
        consume(&self.link, queue, prefetch).await
    }

    pub(crate) async fn publish(&self, queue: &QueueName, body: &str) {
        // Confirmed, so that whatever comes next finds it there.
        let confirm = self.link.publish_confirmed(Target::queue(queue), envelope(body), true).await;
        assert_eq!(confirm.unwrap(), Confirm::Acked);
    }

    /// Waits until a queue has so many ready.
    pub(crate) async fn until_ready(&self, queue: &QueueName, ready: u32) {
        soon(&format!("{ready} ready in {queue}"), async || {
            self.link.inspect(queue).await.unwrap().is_some_and(|state| state.ready == ready)
        })
        .await;
    }

    /// Leaves nothing behind on a broker that others use too.
    pub(crate) async fn clean(self) {
        let link = self.other().await;
        for item in self.declared.into_inner() {
            match item {
                Item::Queue { name, .. } => drop(link.delete_queue(&name, false).await),
                Item::Exchange { name, .. } => drop(link.delete_exchange(&name).await),
                Item::Binding { .. } => {}
            }
        }
        for policy in self.policies.into_inner() {
            self.kit.delete_policy(&policy).await;
        }
        link.close().await;
        self.link.close().await;
    }
}

pub(crate) async fn consume(link: &Arc<dyn Link>, queue: &QueueName, prefetch: u16) -> Consumer {
    let options = ConsumeOptions { prefetch, exclusive: false, no_ack: false };
    link.consume(queue, options).await.unwrap()
}

pub(crate) fn envelope(body: &str) -> Envelope {
    let properties = Properties { kind: Some("test".to_owned()), ..Properties::default() };
    Envelope { properties, body: body.to_owned().into(), ..Envelope::default() }
}

/// The next delivery.
pub(crate) async fn take(consumer: &mut Consumer) -> Delivery {
    match next(consumer).await {
        Some(Event::Delivery(delivery)) => delivery,
        other => panic!("expected a delivery, got {other:?}, failure {:?}", consumer.failure()),
    }
}

/// The next event, or the end.
pub(crate) async fn next(consumer: &mut Consumer) -> Option<Event> {
    tokio::time::timeout(DEADLINE, consumer.next()).await.expect("no event in time")
}

/// Waits for a condition.
pub(crate) async fn soon(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

/// Waits for a future.
pub(crate) async fn within<T>(what: &str, waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}
