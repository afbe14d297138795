//! One link to the broker within the process.
//!
//! Holds no message: everything is the state's.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::link::{
    Confirm, ConsumeOptions, Consumer, ConsumerKind, Deleted, Envelope, Link, LinkError, QueueState,
    RETURNS_MAX, Returned, Target, check_sendable,
};
use crate::local::state::{self, Published, State};
use crate::local::{ConsumerLife, LocalConsumer};
use crate::names::{ExchangeName, QueueName};
use crate::topology::Item;

/// Whether a link is down, and its way down.
pub(crate) struct Shut {
    id: u64,
    state: Arc<Mutex<State>>,
    reason: OnceLock<String>,
    down: watch::Sender<bool>,
}

impl Shut {
    pub(crate) fn reason(&self) -> Option<String> {
        self.reason.get().cloned()
    }

    /// Takes the link down; the first reason stays.
    pub(crate) fn shut(&self, reason: &str) {
        if self.reason.set(reason.to_owned()).is_ok() {
            state::drop_link(&self.state, self.id);
            self.down.send_replace(true);
        }
    }
}

pub(crate) struct LocalLink {
    shut: Arc<Shut>,
    returned: mpsc::Sender<Returned>,
    returns: Mutex<Option<mpsc::Receiver<Returned>>>,
}

impl LocalLink {
    pub(crate) fn open(state: &Arc<Mutex<State>>) -> Self {
        let (returned, returns) = mpsc::channel(RETURNS_MAX);
        let mut locked = state.lock();
        let (id, state) = (locked.fresh_id(), Arc::clone(state));
        let shut = Arc::new(Shut { id, state, reason: OnceLock::new(), down: watch::Sender::new(false) });
        locked.add_link(id, &shut);
        drop(locked);
        Self { shut, returned, returns: Mutex::new(Some(returns)) }
    }

    /// The state, if the link is up.
    fn state(&self) -> Result<parking_lot::MutexGuard<'_, State>, LinkError> {
        match self.shut.reason() {
            Some(reason) => Err(LinkError::Closed(reason)),
            None => Ok(self.shut.state.lock()),
        }
    }

    fn send(&self, to: Target<'_>, message: Envelope, mandatory: bool) -> Result<Published, LinkError> {
        check_sendable(to, &message)?;
        self.state()?.publish(to, message, mandatory)
    }
}

impl Drop for LocalLink {
    fn drop(&mut self) {
        self.shut.shut("dropped");
    }
}

#[async_trait]
impl Link for LocalLink {
    async fn declare(&self, items: &[Item]) -> Result<(), LinkError> {
        items.iter().try_for_each(|item| self.state()?.declare(self.shut.id, item))
    }

    async fn publish(&self, to: Target<'_>, message: Envelope, mandatory: bool) -> Result<(), LinkError> {
        match self.send(to, message, mandatory)? {
            Published::Took(_) => {}
            Published::Returned(returned) => {
                // Nobody may have taken the receiver, and then nobody wants to know.
                if self.returns.lock().is_none() {
                    let _ = self.returned.send(*returned).await;
                }
            }
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), LinkError> {
        // A publish is in its queue, or has come back, before it returns.
        self.state().map(drop)
    }

    async fn publish_confirmed(
        &self,
        to: Target<'_>,
        message: Envelope,
        mandatory: bool,
    ) -> Result<Confirm, LinkError> {
        match self.send(to, message, mandatory)? {
            Published::Took(confirm) => Ok(confirm),
            Published::Returned(_) => Ok(Confirm::Returned),
        }
    }

    async fn consume(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Consumer, LinkError> {
        let (tell, told) = mpsc::unbounded_channel();
        let at = self.state()?.consume(self.shut.id, queue.as_str(), options, tell)?;
        let life = Arc::new(ConsumerLife { state: Arc::clone(&self.shut.state), at });
        let link = Arc::clone(&self.shut);
        Ok(Consumer(ConsumerKind::Local(LocalConsumer { life, link, told, over: false })))
    }

    async fn inspect(&self, queue: &QueueName) -> Result<Option<QueueState>, LinkError> {
        self.state()?.inspect(self.shut.id, queue.as_str())
    }

    async fn delete_queue(&self, queue: &QueueName, if_empty: bool) -> Result<Deleted, LinkError> {
        self.state()?.delete_queue(self.shut.id, queue.as_str(), if_empty)
    }

    async fn has_exchange(&self, exchange: &ExchangeName) -> Result<bool, LinkError> {
        Ok(self.state()?.has_exchange(exchange.as_str()))
    }

    async fn delete_exchange(&self, exchange: &ExchangeName) -> Result<Deleted, LinkError> {
        Ok(self.state()?.delete_exchange(exchange.as_str()))
    }

    async fn unbind(&self, exchange: &ExchangeName, queue: &QueueName, key: &str) -> Result<(), LinkError> {
        self.state()?.unbind(exchange.as_str(), queue.as_str(), key);
        Ok(())
    }

    fn take_returns(&self) -> Option<mpsc::Receiver<Returned>> {
        self.returns.lock().take()
    }

    fn is_blocked(&self) -> bool {
        false
    }

    async fn closed(&self) -> String {
        let mut down = self.shut.down.subscribe();
        // The sender lives in `self.shut`, so the wait ends by the link going down alone.
        let _ = down.wait_for(|down| *down).await;
        self.shut.reason().unwrap_or_default()
    }

    async fn close(&self) {
        self.shut.shut("closed by its user");
    }
}
