//! One consumer on a channel of its own, and the settling of its deliveries.
//!
//! Never runs anything: a delivery that is not asked for waits in lapin, bounded by the prefetch.

use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _};
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicNackOptions, BasicRejectOptions};
use lapin::types::ShortString;
use parking_lot::Mutex;

use crate::amqp::tags::{Ack, Tags};
use crate::amqp::{convert, errors};
use crate::link::{ConsumeOptions, Delivery, Event, HeaderValue, LinkError, Settle};

/// Where quorum queues say how often a message failed.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// What a consumer and its deliveries share: the channel closes with the last of them.
struct Shared {
    channel: Channel,
    queue: String,
    prefetch: u16,
    tags: Mutex<Tags>,
}

pub(crate) struct AmqpConsumer {
    shared: Arc<Shared>,
    stream: lapin::Consumer,
    tag: ShortString,
    no_ack: bool,
    cancelled: bool,
    over: bool,
    failure: Option<LinkError>,
}

impl std::fmt::Debug for AmqpConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AmqpConsumer").field("queue", &self.shared.queue).finish_non_exhaustive()
    }
}

impl AmqpConsumer {
    pub(super) fn new(
        channel: Channel,
        queue: String,
        stream: lapin::Consumer,
        options: ConsumeOptions,
    ) -> Self {
        let ConsumeOptions { prefetch, no_ack, .. } = options;
        let tag = stream.tag();
        let shared = Arc::new(Shared { channel, queue, prefetch, tags: Mutex::default() });
        Self { shared, stream, tag, no_ack, cancelled: false, over: false, failure: None }
    }

    pub(crate) async fn next(&mut self) -> Option<Event> {
        while !self.over {
            match self.stream.next().await {
                // What waited here while the channel went down is with someone else by now.
                Some(Ok(delivery)) if !self.no_ack && !delivery.acker.usable() => {}
                Some(Ok(delivery)) => return Some(Event::Delivery(self.delivery(delivery))),
                Some(Err(error)) => self.failure = Some(errors::act(&self.shared.queue, &error)),
                None => return self.ended(),
            }
        }
        None
    }

    /// The stream ends alike for a cancel of ours, of the broker's, and for a channel that is down.
    fn ended(&mut self) -> Option<Event> {
        self.over = true;
        if self.failure.is_none() && !self.shared.channel.status().connected() {
            self.failure = Some(LinkError::Closed("the connection is down".to_owned()));
        }
        (self.failure.is_none() && !self.cancelled).then_some(Event::CancelledByServer)
    }

    fn delivery(&self, delivery: lapin::message::Delivery) -> Delivery {
        let mut envelope = convert::incoming(&delivery.properties, delivery.data);
        let delivery_count = match envelope.headers.remove(DELIVERY_COUNT) {
            Some(HeaderValue::Int(count)) => Some(count),
            _ => None,
        };
        let settle = if self.no_ack {
            Settle::None
        } else {
            self.shared.tags.lock().take(delivery.delivery_tag);
            Settle::Amqp(AmqpSettle { shared: Arc::clone(&self.shared), tag: delivery.delivery_tag })
        };
        Delivery {
            envelope,
            redelivered: delivery.redelivered,
            delivery_count,
            exchange: delivery.exchange.into(),
            routing_key: delivery.routing_key.into(),
            settle,
        }
    }

    pub(crate) async fn cancel(&mut self) {
        if self.cancelled || self.over {
            return;
        }
        self.cancelled = true;
        let tag = self.tag.clone();
        // A channel that is down already delivers nothing more either.
        let _ = self.shared.channel.basic_cancel(tag, BasicCancelOptions::default()).await;
    }

    pub(crate) fn failure(&self) -> Option<LinkError> {
        self.failure.clone()
    }
}

pub(crate) struct AmqpSettle {
    shared: Arc<Shared>,
    tag: u64,
}

impl std::fmt::Debug for AmqpSettle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AmqpSettle").field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl AmqpSettle {
    /// Acknowledges all of these, of whatever consumers, in as few words as can be.
    pub(crate) fn ack_all(mut all: Vec<Self>) -> Result<(), LinkError> {
        let channel_of = |settle: &Self| Arc::as_ptr(&settle.shared).addr();
        all.sort_unstable_by_key(channel_of);
        let mut outcome = Ok(());
        for of_one in all.chunk_by(|one, other| channel_of(one) == channel_of(other)) {
            let [first, ..] = of_one else { continue };
            let Shared { channel, queue, tags, .. } = &*first.shared;
            // Held until the words are queued: another's may only follow them.
            let mut tags = tags.lock();
            for Ack { tag, multiple } in tags.ack(of_one.iter().map(|settle| settle.tag).collect()) {
                outcome = outcome.and(queued(channel.basic_ack(tag, BasicAckOptions { multiple }), queue));
            }
        }
        outcome
    }

    pub(crate) fn leaves_room(&self) -> bool {
        let prefetch = usize::from(self.shared.prefetch);
        prefetch == 0 || self.shared.tags.lock().out() <= prefetch / 2
    }

    pub(crate) fn reject(self, requeue: bool) -> Result<(), LinkError> {
        let Shared { channel, queue, tags, .. } = &*self.shared;
        let mut tags = tags.lock();
        tags.settle(self.tag);
        queued(channel.basic_reject(self.tag, BasicRejectOptions { requeue }), queue)
    }

    /// From RabbitMQ 4.3, `basic.nack` alone counts toward no limit.
    pub(crate) fn give_back(self) -> Result<(), LinkError> {
        let Shared { channel, queue, tags, .. } = &*self.shared;
        let mut tags = tags.lock();
        tags.settle(self.tag);
        let options = BasicNackOptions { multiple: false, requeue: true };
        queued(channel.basic_nack(self.tag, options), queue)
    }
}

/// Queues a frame and does not wait until it is written: the prefetch bounds how many there can be.
fn queued(act: impl Future<Output = lapin::Result<()>>, queue: &str) -> Result<(), LinkError> {
    act.now_or_never().map_or(Ok(()), |outcome| outcome.map_err(|error| errors::act(queue, &error)))
}
