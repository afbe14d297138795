//! A broker within the process, for `dev` and for tests: the same rules as RabbitMQ's, without users.
//!
//! Everything happens under one lock in `state`; here it is dressed as links, consumers and
//! deliveries. Nothing survives the process, and no permission is checked: there is nobody else in it.

mod link;
mod queue;
mod state;
mod topic;

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::link::{ConnectError, Connector, Delivery, Event, Link, LinkError, Settle};
use crate::policy::Policy;
use link::LocalLink;
use state::State;

/// A broker within the process; clones are the same broker.
#[derive(Clone, Default)]
pub struct LocalBroker(pub(crate) Arc<Mutex<State>>);

impl std::fmt::Debug for LocalBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalBroker").finish_non_exhaustive()
    }
}

impl LocalBroker {
    /// An empty broker.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes by these policies and no others, for queues that stand as for those to come.
    pub fn set_policies(&self, policies: Vec<Policy>) {
        self.0.lock().set_policies(policies);
    }

    /// Takes every link down, as a broker's restart would.
    pub fn drop_links(&self, reason: &str) {
        let links = self.0.lock().take_links();
        for link in links {
            link.shut(reason);
        }
    }
}

#[async_trait]
impl Connector for LocalBroker {
    async fn connect(&self) -> Result<Arc<dyn Link>, ConnectError> {
        Ok(Arc::new(LocalLink::open(&self.0)))
    }
}

/// What a consumer is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConsumerRef {
    pub(crate) queue: String,
    pub(crate) id: u64,
}

/// Goes with the last of a consumer and its deliveries; takes back what is unsettled then.
struct ConsumerLife {
    state: Arc<Mutex<State>>,
    at: ConsumerRef,
}

impl Drop for ConsumerLife {
    fn drop(&mut self) {
        state::requeue_consumer(&self.state, &self.at);
    }
}

/// A message on its way from the state to a consumer.
pub(crate) struct Handed {
    pub(crate) tag: Option<u64>,
    pub(crate) message: queue::Message,
}

/// What the state tells a consumer.
pub(crate) enum Told {
    Message(Box<Handed>),
    Cancelled,
}

pub(crate) struct LocalConsumer {
    life: Arc<ConsumerLife>,
    link: Arc<link::Shut>,
    told: mpsc::UnboundedReceiver<Told>,
    over: bool,
}

impl std::fmt::Debug for LocalConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalConsumer").field("at", &self.life.at).finish_non_exhaustive()
    }
}

impl LocalConsumer {
    pub(crate) async fn next(&mut self) -> Option<Event> {
        if self.over {
            return None;
        }
        match self.told.recv().await.filter(|_| self.link.reason().is_none()) {
            // (What waited here while the link went down is with someone else by now.)
            Some(Told::Message(handed)) => Some(Event::Delivery(self.delivery(*handed))),
            Some(Told::Cancelled) => {
                self.over = true;
                Some(Event::CancelledByServer)
            }
            None => {
                self.over = true;
                None
            }
        }
    }

    fn delivery(&self, handed: Handed) -> Delivery {
        let Handed { tag, message } = handed;
        let settle = match tag {
            Some(tag) => Settle::Local(LocalSettle { life: Arc::clone(&self.life), tag }),
            None => {
                state::release(&self.life.state, &self.life.at);
                Settle::None
            }
        };
        Delivery {
            envelope: message.envelope,
            redelivered: message.redelivered,
            delivery_count: message.delivery_count,
            exchange: message.exchange,
            routing_key: message.key,
            settle,
        }
    }

    pub(crate) fn cancel(&mut self) {
        self.life.state.lock().cancel_consumer(&self.life.at);
    }

    pub(crate) fn failure(&self) -> Option<LinkError> {
        self.link.reason().map(LinkError::Closed)
    }
}

impl Drop for LocalConsumer {
    fn drop(&mut self) {
        self.cancel();
    }
}

pub(crate) struct LocalSettle {
    life: Arc<ConsumerLife>,
    tag: u64,
}

impl std::fmt::Debug for LocalSettle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalSettle").field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl LocalSettle {
    pub(crate) fn ack(self) -> Result<(), LinkError> {
        self.settled(state::ack(&self.life.state, &self.life.at, self.tag))
    }

    pub(crate) fn reject(self, requeue: bool) -> Result<(), LinkError> {
        self.settled(state::reject(&self.life.state, &self.life.at, self.tag, requeue))
    }

    pub(crate) fn give_back(self) -> Result<(), LinkError> {
        self.settled(state::give_back(&self.life.state, &self.life.at, self.tag))
    }

    fn settled(&self, known: bool) -> Result<(), LinkError> {
        if known {
            return Ok(());
        }
        Err(LinkError::Closed(format!("the delivery of {} went back with its link", self.life.at.queue)))
    }
}
