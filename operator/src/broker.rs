//! The operator's link to the broker: the current one, and what was declared on it. Never reconnects: `supervise`
//! does, and puts each new link here.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::link::{Confirm, Deleted, Envelope, Link, LinkError, QueueState, Target};
use funcatron_broker::names::{ExchangeName, QueueName};
use funcatron_broker::topology::Item;
use parking_lot::Mutex;

use crate::policies::version::BrokerVersion;

/// A quorum queue confirms within milliseconds; one that has not by then has lost its majority.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);

/// A broker act that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerError {
    /// There is no link.
    #[error("the broker does not answer")]
    Down,
    /// The link said no, or went down meanwhile.
    #[error("the broker refused")]
    Link(#[from] LinkError),
    /// The queue takes no more, or its node failed.
    #[error("queue {0} takes no more messages")]
    NotTaken(String),
    /// The queue is gone.
    #[error("queue {0} is not there; it is being made again")]
    Returned(String),
}

impl BrokerError {
    /// Whether waiting for the link is all there is to do.
    pub(crate) fn is_down(&self) -> bool {
        matches!(self, Self::Down | Self::Link(LinkError::Closed(_) | LinkError::TimedOut { .. }))
    }

    /// What the broker itself objects to, for a status.
    pub(crate) fn refusal(&self) -> Option<String> {
        match self {
            Self::Link(error) if !self.is_down() => Some(error.to_string()),
            Self::NotTaken(_) | Self::Returned(_) => Some(self.to_string()),
            Self::Link(_) | Self::Down => None,
        }
    }
}

#[derive(Default)]
struct Bound {
    link: Option<Arc<dyn Link>>,
    /// Items that stand, as far as this link knows: declared once, not at each reconcile.
    declared: HashSet<String>,
    /// What the broker said of itself since.
    version: Option<BrokerVersion>,
}

/// The current link, or none.
#[derive(Default)]
pub(crate) struct Broker {
    bound: Mutex<Bound>,
}

impl Broker {
    /// Takes a new link; nothing counts as declared on it.
    pub(crate) fn bind(&self, link: Arc<dyn Link>) {
        *self.bound.lock() = Bound { link: Some(link), ..Bound::default() };
    }

    /// The link is down.
    pub(crate) fn unbind(&self) {
        *self.bound.lock() = Bound::default();
    }

    /// Declares everything again at its next use: someone may have deleted it by hand.
    pub(crate) fn doubt(&self) {
        self.bound.lock().declared.clear();
    }

    /// Keeps what the broker said of itself. Whether that is news.
    pub(crate) fn learn(&self, version: BrokerVersion) -> bool {
        let before = self.bound.lock().version.replace(version.clone());
        before != Some(version)
    }

    /// What the broker said of itself.
    pub(crate) fn version(&self) -> Option<BrokerVersion> {
        self.bound.lock().version.clone()
    }

    /// Whether there is a link.
    pub(crate) fn is_up(&self) -> bool {
        self.bound.lock().link.is_some()
    }

    /// Makes things stand that were not yet made on this link.
    pub(crate) async fn ensure(&self, items: Vec<Item>) -> Result<(), BrokerError> {
        let link = self.link()?;
        let missing: Vec<Item> = {
            let bound = self.bound.lock();
            items.into_iter().filter(|item| !bound.declared.contains(&identity(item))).collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        link.declare(&missing).await?;
        self.bound.lock().declared.extend(missing.iter().map(identity));
        Ok(())
    }

    /// A look at a queue.
    pub(crate) async fn inspect(&self, queue: &QueueName) -> Result<Option<QueueState>, BrokerError> {
        Ok(self.link()?.inspect(queue).await?)
    }

    /// Puts a message into a queue; lost with its link, so only for what is repeated.
    pub(crate) async fn publish(&self, queue: &QueueName, message: Envelope) -> Result<(), BrokerError> {
        Ok(self.link()?.publish(Target::queue(queue), message, false).await?)
    }

    /// Puts a message into a queue, and waits until the broker has it for good.
    pub(crate) async fn publish_confirmed(
        &self,
        queue: &QueueName,
        message: Envelope,
    ) -> Result<(), BrokerError> {
        let link = self.link()?;
        let sent = link.publish_confirmed(Target::queue(queue), message, true);
        let late = |_| LinkError::TimedOut { name: queue.to_string() };
        match tokio::time::timeout(CONFIRM_TIMEOUT, sent).await.map_err(late)?? {
            Confirm::Acked => Ok(()),
            Confirm::Nacked => Err(BrokerError::NotTaken(queue.to_string())),
            Confirm::Returned => {
                self.doubt();
                Err(BrokerError::Returned(queue.to_string()))
            }
        }
    }

    /// Deletes a queue unless calls are ready in it.
    pub(crate) async fn delete_queue_if_empty(&self, queue: &QueueName) -> Result<Deleted, BrokerError> {
        let link = self.link()?;
        let deleted = link.delete_queue(queue, true).await?;
        let about = format!("{:?}", queue.as_str());
        self.bound.lock().declared.retain(|item| !item.contains(&about));
        Ok(deleted)
    }

    /// Takes a binding away.
    pub(crate) async fn unbind_queue(
        &self,
        exchange: &ExchangeName,
        queue: &QueueName,
        key: &str,
    ) -> Result<(), BrokerError> {
        let link = self.link()?;
        link.unbind(exchange, queue, key).await?;
        let item = Item::Binding { exchange: exchange.clone(), queue: queue.clone(), key: key.to_owned() };
        self.bound.lock().declared.remove(&identity(&item));
        Ok(())
    }

    fn link(&self) -> Result<Arc<dyn Link>, BrokerError> {
        self.bound.lock().link.clone().ok_or(BrokerError::Down)
    }
}

/// Items are compared whole, by their debug form: they carry no secret, and are not hashable.
fn identity(item: &Item) -> String {
    format!("{item:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_broker::link::Connector as _;
    use funcatron_broker::local::LocalBroker;
    use funcatron_broker::names::{AppNames, Installation};
    use funcatron_broker::topology;

    fn names() -> AppNames {
        AppNames::new(&Installation::parse("i").unwrap(), "team-a", "shop").unwrap()
    }

    #[tokio::test]
    async fn without_a_link_everything_is_down() {
        let broker = Broker::default();
        let error = broker.ensure(topology::app(&names())).await.unwrap_err();
        assert!(error.is_down() && !broker.is_up());
    }

    #[tokio::test]
    async fn a_confirmed_publish_to_a_queue_that_is_gone_says_so_and_has_it_made_again() {
        let broker = Broker::default();
        broker.bind(LocalBroker::new().connect().await.unwrap());
        let queue = names().durable_queue("report").unwrap();
        let sent = broker.publish_confirmed(&queue, Envelope::default()).await;
        assert!(matches!(sent, Err(BrokerError::Returned(_))), "{sent:?}");
        broker.ensure(topology::durable(&names(), "report").unwrap()).await.unwrap();
        broker.publish_confirmed(&queue, Envelope::default()).await.unwrap();
        assert_eq!(broker.inspect(&queue).await.unwrap().unwrap().ready, 1);
    }

    #[tokio::test]
    async fn a_queue_deleted_by_us_is_declared_again_when_needed() {
        let broker = Broker::default();
        broker.bind(LocalBroker::new().connect().await.unwrap());
        let items = || topology::revision(&names(), "hello-0123abcd").unwrap();
        let queue = names().revision_queue("hello-0123abcd").unwrap();
        broker.ensure(items()).await.unwrap();
        assert_eq!(broker.delete_queue_if_empty(&queue).await.unwrap(), Deleted::Deleted);
        assert_eq!(broker.inspect(&queue).await.unwrap(), None);
        broker.ensure(items()).await.unwrap();
        assert!(broker.inspect(&queue).await.unwrap().is_some());
    }
}
