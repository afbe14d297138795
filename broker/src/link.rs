//! What a carrier of messages can do: one connection's life, never longer.
//!
//! A `Link` never reconnects and never declares again by itself; `supervise` does the first and its
//! session the second. Both carriers keep the rules written here, and one test suite holds them to it.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

pub use crate::envelope::{Envelope, HeaderValue, Headers, Properties};
use crate::names::{ExchangeName, NAME_BYTES_MAX, QueueName};
use crate::topology::Item;

/// Returned messages that wait for whoever took the receiver; beyond it the broker's returns wait.
pub const RETURNS_MAX: usize = 4_096;
/// Headers of a message, at most; a function's answer with more is no answer.
pub const HEADERS_MAX: usize = 256;
/// Properties and headers share one AMQP frame of 128 KiB; the rest of it is for names and framing.
pub const HEADER_BYTES_MAX: usize = 96 * 1024;
/// RabbitMQ's default `max_message_size`.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why something on a link failed. A failed act leaves the link up unless the error is `Closed`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The link is down, and stays so.
    #[error("the link is closed: {0}")]
    Closed(String),
    /// What is named stands already, otherwise (AMQP 406).
    #[error("{name} stands with other properties: {reason}")]
    Mismatch {
        /// The queue, exchange or binding.
        name: String,
        /// The broker's words.
        reason: String,
    },
    /// What is named is not there (AMQP 404).
    #[error("{name} is not there: {reason}")]
    Missing {
        /// The queue or exchange.
        name: String,
        /// The broker's words.
        reason: String,
    },
    /// This user may not (AMQP 403).
    #[error("access to {name} is refused: {reason}")]
    Refused {
        /// The queue or exchange.
        name: String,
        /// The broker's words.
        reason: String,
    },
    /// It is another connection's own, or another consumer's (AMQP 405, 403).
    #[error("{name} is another's alone: {reason}")]
    Locked {
        /// The queue.
        name: String,
        /// The broker's words.
        reason: String,
    },
    /// The message cannot travel.
    #[error("the message cannot travel: {0}")]
    Unsendable(String),
    /// The broker answered within no reasonable time.
    #[error("no answer of the broker about {name} in time")]
    TimedOut {
        /// What it was asked about.
        name: String,
    },
    /// The channel in use was closed, by this act or by an earlier one on it.
    #[error("channel closed at {name}: {reason}")]
    Channel {
        /// What the act was about.
        name: String,
        /// The broker's words.
        reason: String,
    },
}

/// Why there is no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The address makes no sense. It holds a password, and is therefore not shown.
    #[error("the broker's address cannot be read: {0}")]
    Address(String),
    /// The broker refused these credentials.
    #[error("the broker refused the login: {0}")]
    Login(String),
    /// Nobody answered.
    #[error("the broker cannot be reached: {0}")]
    Unreachable(String),
    /// Nobody answered in time.
    #[error("the broker did not answer within {0:?}")]
    TimedOut(std::time::Duration),
}

/// Where a message is published to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// The exchange; `None` is the default one, which routes to the queue named by the key.
    pub exchange: Option<&'a ExchangeName>,
    /// The routing key, at most 255 bytes.
    pub key: &'a str,
}

impl<'a> Target<'a> {
    /// Straight into a queue.
    pub fn queue(queue: &'a QueueName) -> Self {
        Self { exchange: None, key: queue.as_str() }
    }

    /// Through an exchange.
    pub fn exchange(exchange: &'a ExchangeName, key: &'a str) -> Self {
        Self { exchange: Some(exchange), key }
    }
}

/// What became of a confirmed publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirm {
    /// The broker has it. (Without `mandatory` this says nothing about whether a queue took it.)
    Acked,
    /// The broker refused it: the queue is full, or its node failed.
    Nacked,
    /// It was mandatory and no queue takes it.
    Returned,
}

/// How to consume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumeOptions {
    /// How many deliveries may be out unsettled; 0 is no bound. Meaningless with `no_ack`.
    pub prefetch: u16,
    /// Nobody else may consume from the queue meanwhile.
    pub exclusive: bool,
    /// Deliveries are settled by being sent.
    pub no_ack: bool,
}

/// What a look at a queue shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueState {
    /// Messages that wait for a consumer; those out unsettled do not count.
    pub ready: u32,
    /// Its consumers.
    pub consumers: u32,
}

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone; its consumers get `Event::CancelledByServer`.
    Deleted,
    /// It was to be empty, and messages are ready in it: it stands.
    NotEmpty,
    /// It was not there.
    Missing,
}

/// A mandatory publish that no queue took.
#[derive(Debug, Clone, PartialEq)]
pub struct Returned {
    /// The message as it was published.
    pub envelope: Envelope,
    /// The exchange it was published to; empty for the default one.
    pub exchange: String,
    /// The routing key it was published with.
    pub key: String,
}

/// One connection to a broker.
#[async_trait]
pub trait Link: Send + Sync {
    /// Makes things stand, in order; idempotent. Stops at the first that cannot.
    async fn declare(&self, items: &[Item]) -> Result<(), LinkError>;

    /// Sends a message and waits for no word of the broker: `Ok` says that it is on its way, after all that were
    /// published before it to the same exchange. An error says that it was not and will not be sent. One that the broker
    /// refuses is dropped, perhaps with those right behind it, and nobody is told: what matters is confirmed or answered.
    ///
    /// A mandatory message that no queue takes comes back through `take_returns`.
    async fn publish(&self, to: Target<'_>, message: Envelope, mandatory: bool) -> Result<(), LinkError>;

    /// Waits until what was published so far has left this process, whose death it then survives.
    async fn flush(&self) -> Result<(), LinkError>;

    /// Sends a message and waits for the broker's word.
    async fn publish_confirmed(
        &self,
        to: Target<'_>,
        message: Envelope,
        mandatory: bool,
    ) -> Result<Confirm, LinkError>;

    /// Starts a consumer, on a channel of its own.
    async fn consume(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Consumer, LinkError>;

    /// Looks at a queue; `None` when it is not there.
    async fn inspect(&self, queue: &QueueName) -> Result<Option<QueueState>, LinkError>;

    /// Deletes a queue. With `if_empty` it stands while messages are ready; those out unsettled do not
    /// count. (RabbitMQ refuses `if_empty` on quorum queues and closes the connection for asking.)
    async fn delete_queue(&self, queue: &QueueName, if_empty: bool) -> Result<Deleted, LinkError>;

    /// Whether an exchange stands.
    async fn has_exchange(&self, exchange: &ExchangeName) -> Result<bool, LinkError>;

    /// Deletes an exchange; `Missing` when it was not there.
    async fn delete_exchange(&self, exchange: &ExchangeName) -> Result<Deleted, LinkError>;

    /// Takes a binding away; fine when it was not there.
    async fn unbind(&self, exchange: &ExchangeName, queue: &QueueName, key: &str) -> Result<(), LinkError>;

    /// The receiver of mandatory messages that no queue took; once. Untaken, they are dropped.
    fn take_returns(&self) -> Option<mpsc::Receiver<Returned>>;

    /// Whether the broker takes no messages for now, short of memory or disk: what is published waits here.
    fn is_blocked(&self) -> bool;

    /// Waits until the link is down and says why.
    async fn closed(&self) -> String;

    /// Takes the link down, once what was published has left; what is unsettled goes back to its queues.
    async fn close(&self);
}

/// Makes links.
#[async_trait]
pub trait Connector: Send + Sync {
    /// Makes one attempt at one link, within a bounded time.
    async fn connect(&self) -> Result<Arc<dyn Link>, ConnectError>;
}

/// What a consumer sees.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly every event is a delivery, and a box would be one more per call"
)]
pub enum Event {
    /// A message.
    Delivery(Delivery),
    /// The queue is gone. What is out may still be settled; nothing more comes.
    CancelledByServer,
}

/// A consumer. Dropping it cancels it; deliveries still out may be settled afterwards, and those that
/// are dropped unsettled go back to the queue with the last of them.
#[derive(Debug)]
pub struct Consumer(pub(crate) ConsumerKind);

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "consumers are few, and stay where they are")]
pub(crate) enum ConsumerKind {
    Amqp(crate::amqp::AmqpConsumer),
    Local(crate::local::LocalConsumer),
}

impl Consumer {
    /// The next event; `None` once it is over: cancelled, or its link or channel is down.
    /// Cancel-safe: a dropped call loses no message.
    pub async fn next(&mut self) -> Option<Event> {
        match &mut self.0 {
            ConsumerKind::Amqp(consumer) => consumer.next().await,
            ConsumerKind::Local(consumer) => consumer.next().await,
        }
    }

    /// An event that is here already, without waiting.
    pub fn try_next(&mut self) -> Option<Event> {
        use futures::FutureExt as _;
        self.next().now_or_never().flatten()
    }

    /// Stops deliveries; ones already under way still come out of `next`, then `None`.
    pub async fn cancel(&mut self) {
        match &mut self.0 {
            ConsumerKind::Amqp(consumer) => consumer.cancel().await,
            ConsumerKind::Local(consumer) => consumer.cancel(),
        }
    }

    /// Why it is over, where that was neither `cancel` nor the queue's deletion.
    pub fn failure(&self) -> Option<LinkError> {
        match &self.0 {
            ConsumerKind::Amqp(consumer) => consumer.failure(),
            ConsumerKind::Local(consumer) => consumer.failure(),
        }
    }
}

/// A message to settle. Dropped unsettled it stays out, until the link closes or its consumer and all
/// of that consumer's deliveries are dropped.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub envelope: Envelope,
    /// Whether it was out before: it may have been worked on.
    pub redelivered: bool,
    /// How often it was out before, where the queue counts (quorum queues).
    pub delivery_count: Option<i64>,
    /// The exchange it was published to; empty for the default one.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    pub(crate) settle: Settle,
}

#[derive(Debug)]
pub(crate) enum Settle {
    /// Settled by being sent.
    None,
    Amqp(crate::amqp::AmqpSettle),
    Local(crate::local::LocalSettle),
}

impl Delivery {
    /// Done with: the broker forgets it. `Ok` says that the word is on its way.
    pub async fn ack(self) -> Result<(), LinkError> {
        Self::ack_all([self]).await
    }

    /// Done with all of these: as `ack`, in fewer words.
    pub async fn ack_all(all: impl IntoIterator<Item = Self>) -> Result<(), LinkError> {
        let (mut over_amqp, mut outcome) = (Vec::new(), Ok(()));
        for delivery in all {
            match delivery.settle {
                Settle::None => {}
                Settle::Amqp(settle) => over_amqp.push(settle),
                Settle::Local(settle) => outcome = outcome.and(settle.ack()),
            }
        }
        outcome.and(crate::amqp::AmqpSettle::ack_all(over_amqp))
    }

    /// Whether its consumer is sent more without it being settled, since at most half its prefetch is out: then an
    /// acknowledgement can wait for others without holding anything up.
    pub fn leaves_room(&self) -> bool {
        match &self.settle {
            Settle::None => true,
            Settle::Amqp(settle) => settle.leaves_room(),
            Settle::Local(_) => false,
        }
    }

    /// Not done. With `requeue` it is tried again (which counts toward a quorum queue's delivery
    /// limit), without it is dead-lettered where the queue says so, else dropped.
    pub async fn reject(self, requeue: bool) -> Result<(), LinkError> {
        match self.settle {
            Settle::None => Ok(()),
            Settle::Amqp(settle) => settle.reject(requeue),
            Settle::Local(settle) => settle.reject(requeue),
        }
    }

    /// Not begun: another may have it at once, and it counts as no attempt.
    pub async fn give_back(self) -> Result<(), LinkError> {
        match self.settle {
            Settle::None => Ok(()),
            Settle::Amqp(settle) => settle.give_back(),
            Settle::Local(settle) => settle.give_back(),
        }
    }

    /// Takes the message out, so that it can be worked on while the rest is kept for settling.
    pub fn take_envelope(&mut self) -> Envelope {
        std::mem::take(&mut self.envelope)
    }
}

/// Refuses what no carrier can carry, before it is queued: headers fit one frame, bodies the broker.
pub(crate) fn check_sendable(to: Target<'_>, message: &Envelope) -> Result<(), LinkError> {
    let long = |what: &str| Err(LinkError::Unsendable(format!("{what} is longer than 255 bytes")));
    if to.key.len() > NAME_BYTES_MAX {
        return long("routing key");
    }
    if message.properties.texts().into_iter().flatten().any(|text| text.len() > NAME_BYTES_MAX) {
        return long("a property");
    }
    if !message.headers.names_fit(NAME_BYTES_MAX) {
        return long("a header's name");
    }
    let (headers, body) = (message.header_bytes(), message.body.len());
    if headers > HEADER_BYTES_MAX {
        let text = format!("headers of {headers} bytes, and {HEADER_BYTES_MAX} are allowed");
        return Err(LinkError::Unsendable(text));
    }
    if body > BODY_BYTES_MAX {
        let text = format!("body of {body} bytes, and {BODY_BYTES_MAX} are allowed");
        return Err(LinkError::Unsendable(text));
    }
    Ok(())
}

/// A fresh part for the name of an exclusive queue.
pub fn fresh_suffix() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}
