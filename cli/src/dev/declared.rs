//! What this `dev` has declared on the broker, so that it can take it away again: a broker of the user's own must not
//! fill up with what nobody uses.

use std::collections::BTreeMap;

use funcatron_broker::link::{Deleted, Link, LinkError};
use funcatron_broker::names::{ExchangeName, QueueName};
use funcatron_broker::topology::{ExchangeKind, Item, QueueKind};
use tracing::{debug, warn};

/// Queues and exchanges that stand because of us.
#[derive(Default)]
pub(crate) struct Declared {
    queues: BTreeMap<QueueName, QueueKind>,
    exchanges: BTreeMap<ExchangeName, ExchangeKind>,
}

impl Declared {
    /// Declares and remembers.
    pub(crate) async fn declare(&mut self, link: &dyn Link, items: &[Item]) -> Result<(), LinkError> {
        for item in items {
            match item {
                Item::Queue { name, spec } => drop(self.queues.insert(name.clone(), spec.kind)),
                Item::Exchange { name, kind } => drop(self.exchanges.insert(name.clone(), *kind)),
                Item::Binding { .. } => {}
            }
        }
        link.declare(items).await
    }

    /// Deletes a revision's queue, unless calls wait in it; whether it is gone.
    pub(crate) async fn delete_drained(
        &mut self,
        link: &dyn Link,
        queue: &QueueName,
    ) -> Result<bool, LinkError> {
        let gone = link.delete_queue(queue, true).await? != Deleted::NotEmpty;
        if gone {
            self.queues.remove(queue);
        }
        Ok(gone)
    }

    /// Deletes everything but messages that belong to people: a durable queue that holds any stays, and with it the
    /// exchanges that fill it.
    pub(crate) async fn take_away(self, link: &dyn Link) {
        let mut events_stay = false;
        for (queue, kind) in self.queues {
            match take_queue_away(link, &queue, kind).await {
                Ok(gone) => events_stay |= !gone,
                Err(error) => warn!(%queue, %error, "queue stays on the broker"),
            }
        }
        for (exchange, kind) in self.exchanges {
            if kind == ExchangeKind::Topic && events_stay {
                continue;
            }
            if let Err(error) = link.delete_exchange(&exchange).await {
                warn!(%exchange, %error, "exchange stays on the broker");
            }
        }
    }
}

async fn take_queue_away(link: &dyn Link, queue: &QueueName, kind: QueueKind) -> Result<bool, LinkError> {
    if kind == QueueKind::Quorum {
        // RabbitMQ refuses if-empty for quorum queues.
        if let Some(state) = link.inspect(queue).await?.filter(|state| state.ready > 0) {
            debug!(%queue, messages = state.ready, "durable queue keeps its messages");
            return Ok(false);
        }
    }
    link.delete_queue(queue, false).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use funcatron_broker::link::{Connector as _, Envelope, Properties, Target};
    use funcatron_broker::local::LocalBroker;
    use funcatron_broker::names::{AppNames, BindingKey, Installation};
    use funcatron_broker::topology;

    use super::*;

    #[tokio::test]
    async fn all_goes_but_events_that_nobody_has_taken() {
        let names = AppNames::new(&Installation::parse("dev").unwrap(), "default", "shop").unwrap();
        let link = LocalBroker::new().connect().await.unwrap();
        let mut declared = Declared::default();
        let key = BindingKey::parse("#").unwrap();
        for items in [
            topology::installation(names.installation()),
            topology::app(&names),
            topology::revision(&names, "a-00000001").unwrap(),
            topology::trigger(&names, "kept", "payments", &key).unwrap(),
        ] {
            declared.declare(&*link, &items).await.unwrap();
        }
        let events = names.durable_queue("kept").unwrap();
        let event =
            Envelope { properties: Properties::default(), headers: Default::default(), body: Bytes::new() };
        link.publish_confirmed(Target::queue(&events), event, true).await.unwrap();

        declared.take_away(&*link).await;
        assert_eq!(link.inspect(&events).await.unwrap().unwrap().ready, 1);
        for gone in [names.revision_queue("a-00000001").unwrap(), names.dead_queue("kept").unwrap()] {
            assert_eq!(link.inspect(&gone).await.unwrap(), None, "{gone}");
        }
        assert_eq!(link.delete_exchange(&names.cancel_exchange()).await.unwrap(), Deleted::Missing);
        let exchange = names.event_exchange("payments").unwrap();
        assert_eq!(link.delete_exchange(&exchange).await.unwrap(), Deleted::Deleted);
    }
}
