//! One queue: what is ready, what is out with whom, and who consumes.
//!
//! Knows no other queue and no clock of its own: what dies or must wait is handed back to the state.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::envelope::Envelope;
use crate::local::{Handed, Told};
use crate::policy::{Kept, Rule};
use crate::topology::{Overflow, QueueKind, QueueSpec};

/// Deliveries that may wait in a consumer that settles none; more wait in the queue, which is bounded.
const UNSETTLED_BUFFER: usize = 1_024;

/// A message in a queue.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Its place: a requeued message goes back to where it was.
    pub(crate) place: u64,
    pub(crate) envelope: Envelope,
    pub(crate) exchange: String,
    pub(crate) key: String,
    pub(crate) redelivered: bool,
    pub(crate) delivery_count: Option<i64>,
    pub(crate) expires: Option<Instant>,
}

pub(crate) struct ConsumerEntry {
    pub(crate) id: u64,
    pub(crate) link: u64,
    pub(crate) told: mpsc::UnboundedSender<Told>,
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) credit: usize,
    pub(crate) out: usize,
}

pub(crate) struct Queue {
    pub(crate) spec: QueueSpec,
    /// The link that alone may see it.
    pub(crate) owner: Option<u64>,
    /// What its policy says.
    rule: Option<Rule>,
    ready: VecDeque<Message>,
    consumers: Vec<ConsumerEntry>,
    /// What is out unsettled, by tag, with the consumer that has it.
    out: BTreeMap<u64, (u64, Message)>,
    next_tag: u64,
    next_consumer: usize,
}

/// What a rejected message becomes.
pub(crate) enum Fate {
    /// Nothing: the queue has it again, or it is gone.
    Settled,
    /// Ready again after a wait.
    Waits(Duration, Box<Message>),
    /// Dead: to this queue, for this reason.
    Dead(String, &'static str, Box<Message>),
}

impl Queue {
    pub(crate) fn new(spec: QueueSpec, owner: Option<u64>) -> Self {
        let (ready, consumers, out) = (VecDeque::new(), Vec::new(), BTreeMap::new());
        Self { spec, owner, rule: None, ready, consumers, out, next_tag: 1, next_consumer: 0 }
    }

    /// Goes by another policy from now on; what is then too much goes at once.
    pub(crate) fn obey(&mut self, rule: Option<Rule>) {
        self.rule = rule;
        let excess = self.ready.len().saturating_sub(self.length_max());
        if self.spec.overflow == Overflow::DropHead {
            self.ready.drain(..excess);
        }
    }

    fn kept(&self) -> Option<Kept> {
        match self.rule {
            Some(Rule::DeadLetters(kept)) => Some(kept),
            Some(Rule::Retries(_)) | None => None,
        }
    }

    /// Of an argument and a policy the lower counts.
    fn length_max(&self) -> usize {
        self.kept().map_or(self.spec.length_max, |kept| kept.length_max.min(self.spec.length_max)) as usize
    }

    /// Of a message's own life and what its queue grants, the shorter.
    fn expires(&self, message: &Message) -> Option<Instant> {
        let granted = self.kept().and_then(|kept| Instant::now().checked_add(kept.age_max?));
        [message.expires, granted].into_iter().flatten().min()
    }

    fn is_full(&self, next: &Message) -> bool {
        let bytes =
            || self.ready.iter().chain([next]).map(|message| message.envelope.body.len() as u64).sum::<u64>();
        self.ready.len() >= self.length_max() || self.spec.bytes_max.is_some_and(|max| bytes() > max)
    }

    /// Takes a new message; false when it is full and refuses.
    pub(crate) fn push(&mut self, message: Message) -> bool {
        self.drop_expired();
        if self.is_full(&message) {
            match self.spec.overflow {
                Overflow::RejectPublish => return false,
                Overflow::DropHead => drop(self.ready.pop_front()),
            }
        }
        let counts = self.spec.kind == QueueKind::Quorum;
        let expires = self.expires(&message);
        self.ready.push_back(Message { delivery_count: counts.then_some(0), expires, ..message });
        self.pump();
        true
    }

    /// Puts a message back where it was.
    pub(crate) fn put_back(&mut self, message: Message) {
        let at = self.ready.partition_point(|other| other.place < message.place);
        self.ready.insert(at, message);
    }

    pub(crate) fn add_consumer(&mut self, mut entry: ConsumerEntry) {
        if entry.no_ack || entry.credit == 0 {
            entry.credit = if entry.no_ack { UNSETTLED_BUFFER } else { usize::MAX };
        }
        self.consumers.push(entry);
        self.pump();
    }

    /// Hands out what is ready to who has room, in turn.
    pub(crate) fn pump(&mut self) {
        self.drop_expired();
        while !self.ready.is_empty() {
            let Some(at) = self.with_room() else { return };
            let Some(message) = self.ready.pop_front() else { return };
            self.next_consumer = at + 1;
            self.hand(at, message);
        }
    }

    fn with_room(&self) -> Option<usize> {
        let count = self.consumers.len();
        let turn = (0..count).map(|n| (self.next_consumer + n) % count);
        turn.into_iter().find(|at| self.consumers[*at].out < self.consumers[*at].credit)
    }

    fn hand(&mut self, at: usize, message: Message) {
        let consumer = &mut self.consumers[at];
        consumer.out += 1;
        let tag = if consumer.no_ack {
            None
        } else {
            let tag = self.next_tag;
            self.next_tag += 1;
            self.out.insert(tag, (consumer.id, message.clone()));
            Some(tag)
        };
        // A consumer that is dropped takes itself out, and what it had goes back then.
        let _ = consumer.told.send(Told::Message(Box::new(Handed { tag, message })));
    }

    /// A message expires at the head alone, as RabbitMQ has it.
    fn drop_expired(&mut self) {
        let now = Instant::now();
        while self.ready.front().is_some_and(|message| message.expires.is_some_and(|at| at <= now)) {
            self.ready.pop_front();
        }
    }

    /// A consumer that settles nothing has taken one delivery out of its buffer.
    pub(crate) fn release(&mut self, consumer: u64) {
        if let Some(entry) = self.consumers.iter_mut().find(|entry| entry.id == consumer) {
            entry.out = entry.out.saturating_sub(1);
        }
        self.pump();
    }

    /// Takes a message that is out; `None` when it went back already.
    fn take_out(&mut self, tag: u64) -> Option<Message> {
        let (consumer, message) = self.out.remove(&tag)?;
        if let Some(entry) = self.consumers.iter_mut().find(|entry| entry.id == consumer) {
            entry.out = entry.out.saturating_sub(1);
        }
        Some(message)
    }

    pub(crate) fn ack(&mut self, tag: u64) -> bool {
        let known = self.take_out(tag).is_some();
        self.pump();
        known
    }

    /// `None` when the message went back already.
    pub(crate) fn reject(&mut self, tag: u64, requeue: bool) -> Option<Fate> {
        let message = self.take_out(tag)?;
        let fate = if requeue { self.failed(message) } else { self.refused(message) };
        self.pump();
        Some(fate)
    }

    /// Puts back what was not begun, which counts as no attempt; false when it went back already.
    pub(crate) fn give_back(&mut self, tag: u64) -> bool {
        let Some(message) = self.take_out(tag) else { return false };
        self.put_back(Message { redelivered: true, ..message });
        self.pump();
        true
    }

    fn failed(&mut self, mut message: Message) -> Fate {
        message.redelivered = true;
        let Some(attempts) = &self.spec.attempts else {
            self.put_back(message);
            return Fate::Settled;
        };
        let failed = message.delivery_count.unwrap_or(0) + 1;
        message.delivery_count = Some(failed);
        if failed > i64::from(attempts.delivery_limit) {
            return Fate::Dead(attempts.dead_letter.to_string(), "delivery_limit", Box::new(message));
        }
        let Some(Rule::Retries(waits)) = self.rule else {
            self.put_back(message);
            return Fate::Settled;
        };
        let wait = waits.after(u32::try_from(failed).unwrap_or(u32::MAX));
        Fate::Waits(wait, Box::new(message))
    }

    fn refused(&mut self, message: Message) -> Fate {
        match &self.spec.attempts {
            Some(attempts) => Fate::Dead(attempts.dead_letter.to_string(), "rejected", Box::new(message)),
            None => Fate::Settled,
        }
    }

    /// Takes a consumer out; its unsettled deliveries stay out.
    pub(crate) fn remove_consumer(&mut self, consumer: u64) {
        self.consumers.retain(|entry| entry.id != consumer);
        self.pump();
    }

    /// Takes back what a consumer has out: as RabbitMQ counts, each an attempt that failed.
    pub(crate) fn requeue_consumer(&mut self, consumer: u64) -> Vec<Fate> {
        let mut back = Vec::new();
        self.out.retain(|_, (owner, message)| {
            let stays = *owner != consumer;
            if !stays {
                back.push(message.clone());
            }
            stays
        });
        let fates = back.into_iter().map(|message| self.failed(message)).collect();
        self.pump();
        fates
    }

    /// Takes a link's consumers out and takes back what they have out.
    pub(crate) fn drop_link(&mut self, link: u64) -> Vec<Fate> {
        let theirs: Vec<u64> =
            self.consumers.iter().filter(|entry| entry.link == link).map(|entry| entry.id).collect();
        self.consumers.retain(|entry| entry.link != link);
        theirs.into_iter().flat_map(|consumer| self.requeue_consumer(consumer)).collect()
    }

    pub(crate) fn is_exclusively_consumed(&self) -> bool {
        self.consumers.iter().any(|entry| entry.exclusive)
    }

    pub(crate) fn consumers(&self) -> usize {
        self.consumers.len()
    }

    /// How many are ready, the expired ones gone.
    pub(crate) fn ready(&mut self) -> usize {
        self.drop_expired();
        self.ready.len()
    }

    /// Tells every consumer that the queue is gone.
    pub(crate) fn cancel_all(&mut self) {
        for consumer in self.consumers.drain(..) {
            let _ = consumer.told.send(Told::Cancelled);
        }
    }
}
