//! The broker's whole state behind one lock: queues, exchanges, links.
//!
//! No lock is held over an await, and nothing here waits but the timer of a delayed retry.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::envelope::Envelope;
use crate::link::{Confirm, ConsumeOptions, Deleted, LinkError, QueueState, Returned, Target};
use crate::local::link::Shut;
use crate::local::queue::{ConsumerEntry, Fate, Message, Queue};
use crate::local::{ConsumerRef, Told, topic};
use crate::policy::{Policy, Rule};
use crate::topology::{ExchangeKind, Item, QueueKind};

#[derive(Default)]
pub(crate) struct State {
    queues: HashMap<String, Queue>,
    exchanges: HashMap<String, Exchange>,
    links: HashMap<u64, Weak<Shut>>,
    policies: Vec<Policy>,
    next_id: u64,
}

struct Exchange {
    kind: ExchangeKind,
    /// Queue and key; each pair once.
    bindings: Vec<(String, String)>,
}

/// Where a publish went.
pub(crate) enum Published {
    Took(Confirm),
    Returned(Box<Returned>),
}

impl State {
    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn add_link(&mut self, id: u64, link: &Arc<Shut>) {
        self.links.insert(id, Arc::downgrade(link));
    }

    pub(crate) fn take_links(&mut self) -> Vec<Arc<Shut>> {
        self.links.drain().filter_map(|(_, link)| link.upgrade()).collect()
    }

    /// Whatever was said before counts no more.
    pub(crate) fn set_policies(&mut self, policies: Vec<Policy>) {
        self.policies = policies;
        for (name, queue) in &mut self.queues {
            queue.obey(rule(&self.policies, name, queue.spec.kind));
        }
    }

    pub(crate) fn declare(&mut self, link: u64, item: &Item) -> Result<(), LinkError> {
        match item {
            Item::Queue { name, spec } => {
                if let Some(queue) = self.queues.get(name.as_str()) {
                    own(queue, name.as_str(), link)?;
                    return same(name.as_str(), queue.spec == *spec);
                }
                let owner = (spec.kind == QueueKind::Exclusive).then_some(link);
                let mut queue = Queue::new(spec.clone(), owner);
                queue.obey(rule(&self.policies, name.as_str(), spec.kind));
                self.queues.insert(name.to_string(), queue);
            }
            Item::Exchange { name, kind } => {
                if let Some(exchange) = self.exchanges.get(name.as_str()) {
                    return same(name.as_str(), exchange.kind == *kind);
                }
                self.exchanges.insert(name.to_string(), Exchange { kind: *kind, bindings: Vec::new() });
            }
            Item::Binding { exchange, queue, key } => {
                let bound = self.queues.get(queue.as_str()).ok_or_else(|| missing(queue.as_str()))?;
                own(bound, queue.as_str(), link)?;
                let found = self.exchanges.get_mut(exchange.as_str());
                let exchange = found.ok_or_else(|| missing(exchange.as_str()))?;
                let binding = (queue.to_string(), key.clone());
                if !exchange.bindings.contains(&binding) {
                    exchange.bindings.push(binding);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn publish(
        &mut self,
        to: Target<'_>,
        envelope: Envelope,
        mandatory: bool,
    ) -> Result<Published, LinkError> {
        let queues = self.route(to)?;
        let exchange = to.exchange.map(ToString::to_string).unwrap_or_default();
        let key = to.key.to_owned();
        if queues.is_empty() && mandatory {
            return Ok(Published::Returned(Box::new(Returned { envelope, exchange, key })));
        }
        let mut confirm = Confirm::Acked;
        for name in queues {
            let message = self.message(envelope.clone(), exchange.clone(), key.clone());
            if !self.queues.get_mut(&name).is_some_and(|queue| queue.push(message)) {
                confirm = Confirm::Nacked;
            }
        }
        Ok(Published::Took(confirm))
    }

    fn message(&mut self, envelope: Envelope, exchange: String, key: String) -> Message {
        // One that lies beyond the clock's range never comes.
        let lives = envelope.properties.expiration_ms.map(Duration::from_millis);
        let expires = lives.and_then(|lives| Instant::now().checked_add(lives));
        let place = self.fresh_id();
        Message { place, envelope, exchange, key, redelivered: false, delivery_count: None, expires }
    }

    fn route(&self, to: Target<'_>) -> Result<Vec<String>, LinkError> {
        let Some(name) = to.exchange else {
            return Ok(self.queues.contains_key(to.key).then(|| to.key.to_owned()).into_iter().collect());
        };
        let exchange = self.exchanges.get(name.as_str()).ok_or_else(|| missing(name.as_str()))?;
        let mut queues: Vec<String> = exchange
            .bindings
            .iter()
            .filter(|(_, key)| match exchange.kind {
                ExchangeKind::Direct => key == to.key,
                ExchangeKind::Fanout => true,
                ExchangeKind::Topic => topic::matches(key, to.key),
            })
            .map(|(queue, _)| queue.clone())
            .collect();
        queues.sort();
        queues.dedup();
        Ok(queues)
    }

    pub(crate) fn consume(
        &mut self,
        link: u64,
        name: &str,
        options: ConsumeOptions,
        told: tokio::sync::mpsc::UnboundedSender<Told>,
    ) -> Result<ConsumerRef, LinkError> {
        let id = self.fresh_id();
        let queue = self.queues.get_mut(name).ok_or_else(|| missing(name))?;
        own(queue, name, link)?;
        let taken = queue.is_exclusively_consumed() || (options.exclusive && queue.consumers() > 0);
        if taken {
            return Err(locked(name, "it has a consumer that is to be alone"));
        }
        let ConsumeOptions { prefetch, exclusive, no_ack } = options;
        let credit = usize::from(prefetch);
        queue.add_consumer(ConsumerEntry { id, link, told, no_ack, exclusive, credit, out: 0 });
        Ok(ConsumerRef { queue: name.to_owned(), id })
    }

    pub(crate) fn cancel_consumer(&mut self, at: &ConsumerRef) {
        if let Some(queue) = self.queues.get_mut(&at.queue) {
            queue.remove_consumer(at.id);
        }
    }

    pub(crate) fn inspect(&mut self, link: u64, name: &str) -> Result<Option<QueueState>, LinkError> {
        let Some(queue) = self.queues.get_mut(name) else { return Ok(None) };
        own(queue, name, link)?;
        let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Some(QueueState { ready: narrow(queue.ready()), consumers: narrow(queue.consumers()) }))
    }

    pub(crate) fn delete_queue(
        &mut self,
        link: u64,
        name: &str,
        if_empty: bool,
    ) -> Result<Deleted, LinkError> {
        let Some(queue) = self.queues.get_mut(name) else { return Ok(Deleted::Missing) };
        own(queue, name, link)?;
        if if_empty && queue.ready() > 0 {
            return Ok(Deleted::NotEmpty);
        }
        self.drop_queue(name);
        Ok(Deleted::Deleted)
    }

    fn drop_queue(&mut self, name: &str) {
        if let Some(mut queue) = self.queues.remove(name) {
            queue.cancel_all();
        }
        for exchange in self.exchanges.values_mut() {
            exchange.bindings.retain(|(queue, _)| queue != name);
        }
    }

    pub(crate) fn has_exchange(&self, name: &str) -> bool {
        self.exchanges.contains_key(name)
    }

    pub(crate) fn delete_exchange(&mut self, name: &str) -> Deleted {
        match self.exchanges.remove(name) {
            Some(_) => Deleted::Deleted,
            None => Deleted::Missing,
        }
    }

    pub(crate) fn unbind(&mut self, exchange: &str, queue: &str, key: &str) {
        if let Some(exchange) = self.exchanges.get_mut(exchange) {
            exchange.bindings.retain(|(bound, at)| bound != queue || at != key);
        }
    }

    /// A link is down: what it alone could see is gone, and what it had out meets its fate, by queue.
    fn drop_link(&mut self, link: u64) -> Vec<(String, Vec<Fate>)> {
        self.links.remove(&link);
        let its: Vec<String> = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.owner == Some(link))
            .map(|(name, _)| name.clone())
            .collect();
        for name in its {
            self.drop_queue(&name);
        }
        self.queues.iter_mut().map(|(name, queue)| (name.clone(), queue.drop_link(link))).collect()
    }

    fn bury(&mut self, dead: &str, reason: &str, died_in: &str, message: Message) {
        let Message { mut envelope, .. } = message;
        // As RabbitMQ does: a dead letter must not expire in the queue of the dead.
        envelope.properties.expiration_ms = None;
        envelope.headers.insert("x-first-death-queue", died_in);
        envelope.headers.insert("x-first-death-reason", reason);
        let buried = self.message(envelope, String::new(), dead.to_owned());
        if let Some(queue) = self.queues.get_mut(dead) {
            queue.push(buried);
        }
    }
}

pub(crate) fn ack(state: &Mutex<State>, at: &ConsumerRef, tag: u64) -> bool {
    state.lock().queues.get_mut(&at.queue).is_some_and(|queue| queue.ack(tag))
}

/// False when the message went back already.
pub(crate) fn give_back(state: &Mutex<State>, at: &ConsumerRef, tag: u64) -> bool {
    state.lock().queues.get_mut(&at.queue).is_some_and(|queue| queue.give_back(tag))
}

/// False when the message went back already.
pub(crate) fn reject(state: &Arc<Mutex<State>>, at: &ConsumerRef, tag: u64, requeue: bool) -> bool {
    let fate = state.lock().queues.get_mut(&at.queue).and_then(|queue| queue.reject(tag, requeue));
    let known = fate.is_some();
    meet(state, &at.queue, fate);
    known
}

/// A link is down.
pub(crate) fn drop_link(state: &Arc<Mutex<State>>, link: u64) {
    let fates = state.lock().drop_link(link);
    for (queue, fates) in fates {
        meet(state, &queue, fates);
    }
}

fn meet(state: &Arc<Mutex<State>>, queue: &str, fates: impl IntoIterator<Item = Fate>) {
    for fate in fates {
        match fate {
            Fate::Settled => {}
            Fate::Dead(dead, reason, message) => state.lock().bury(&dead, reason, queue, *message),
            Fate::Waits(wait, message) => {
                retry_later(Arc::downgrade(state), queue.to_owned(), wait, *message);
            }
        }
    }
}

/// Each waiting message is one of a bounded queue, so these tasks are bounded with it.
fn retry_later(state: Weak<Mutex<State>>, queue: String, wait: Duration, message: Message) {
    // Whoever drops a consumer outside a runtime ends with everything else.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(async move {
        tokio::time::sleep(wait).await;
        let Some(state) = state.upgrade() else { return };
        let mut state = state.lock();
        if let Some(queue) = state.queues.get_mut(&queue) {
            queue.put_back(message);
            queue.pump();
        }
    });
}

pub(crate) fn release(state: &Mutex<State>, at: &ConsumerRef) {
    if let Some(queue) = state.lock().queues.get_mut(&at.queue) {
        queue.release(at.id);
    }
}

pub(crate) fn requeue_consumer(state: &Arc<Mutex<State>>, at: &ConsumerRef) {
    let fates = state.lock().queues.get_mut(&at.queue).map(|queue| queue.requeue_consumer(at.id));
    meet(state, &at.queue, fates.into_iter().flatten());
}

/// What counts for a queue: of the policies that are for it, the one of the highest priority.
fn rule(policies: &[Policy], queue: &str, kind: QueueKind) -> Option<Rule> {
    let fitting = policies.iter().filter(|policy| kind == QueueKind::Quorum && policy.is_for(queue));
    fitting.max_by_key(|policy| policy.priority()).map(Policy::rule)
}

fn own(queue: &Queue, name: &str, link: u64) -> Result<(), LinkError> {
    match queue.owner {
        Some(owner) if owner != link => Err(locked(name, "it is another link's")),
        _ => Ok(()),
    }
}

fn same(name: &str, same: bool) -> Result<(), LinkError> {
    if same {
        return Ok(());
    }
    let reason = "properties differ from those it was declared with".to_owned();
    Err(LinkError::Mismatch { name: name.to_owned(), reason })
}

fn missing(name: &str) -> LinkError {
    LinkError::Missing { name: name.to_owned(), reason: "not declared".to_owned() }
}

fn locked(name: &str, reason: &str) -> LinkError {
    LinkError::Locked { name: name.to_owned(), reason: reason.to_owned() }
}
