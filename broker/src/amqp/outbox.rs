//! Unconfirmed publishing on one channel that is opened again when an error closed it.
//!
//! A publish is queued in lapin and not waited for, until so much is unwritten that the socket is
//! evidently slower than its writers: from there on each publish waits for its own bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use lapin::options::BasicPublishOptions;
use lapin::{Channel, Connection};
use parking_lot::RwLock;

use crate::amqp::{convert, errors};
use crate::link::{Envelope, LinkError, Target};

/// lapin's queue of frames has no bound: this much may be in it before publishers wait.
const UNWRITTEN_BYTES_MAX: usize = 1024 * 1024;
/// What a publish weighs beside body and headers, lest empty ones weigh nothing.
const PUBLISH_BYTES: usize = 256;

pub(super) struct Outbox {
    connection: Arc<Connection>,
    /// Shared by `Arc`: a clone of lapin's own channel is a dozen of them.
    channel: RwLock<Option<Arc<Channel>>>,
    opening: tokio::sync::Mutex<()>,
    unwritten: AtomicUsize,
}

impl Outbox {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        let (channel, opening) = (RwLock::new(None), tokio::sync::Mutex::new(()));
        Self { connection, channel, opening, unwritten: AtomicUsize::new(0) }
    }

    /// Publishes; an error tells of this message or, where an earlier one closed the channel, that this
    /// one was not sent: it may be published again, on a new channel.
    pub(super) async fn publish(
        &self,
        to: Target<'_>,
        message: Envelope,
        mandatory: bool,
    ) -> Result<(), LinkError> {
        let channel = self.channel(to.key).await?;
        let weight = PUBLISH_BYTES + message.body.len();
        let (properties, body) = convert::outgoing(message);
        let exchange = to.exchange.map(AsRef::as_ref).unwrap_or_default();
        let options = BasicPublishOptions { mandatory, immediate: false };
        let sent = channel.basic_publish(exchange.into(), to.key.into(), options, &body, properties);
        let mut sent = std::pin::pin!(sent);
        // The first poll queues the frames, in order; what follows is only waiting.
        let outcome = match futures::poll!(&mut sent) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending if self.unwritten.fetch_add(weight, Ordering::Relaxed) < UNWRITTEN_BYTES_MAX => {
                return Ok(());
            }
            Poll::Pending => {
                let outcome = sent.await;
                // Frames are written in order: with this one, all before it are out.
                self.unwritten.store(0, Ordering::Relaxed);
                outcome
            }
        };
        outcome.map(drop).map_err(|error| errors::act(to.key, &error))
    }

    /// The channel, opened at first need; a dead one is put away and told of once.
    async fn channel(&self, name: &str) -> Result<Arc<Channel>, LinkError> {
        if let Some(channel) = self.channel.read().as_ref().filter(|channel| is_open(channel)) {
            return Ok(Arc::clone(channel));
        }
        let _alone = self.opening.lock().await;
        let known = self.channel.read().clone();
        match known {
            Some(channel) if is_open(&channel) => return Ok(channel),
            Some(_) if self.connection.status().connected() => {
                *self.channel.write() = None;
                let reason = "an earlier message closed it; this one was not sent".to_owned();
                return Err(LinkError::Channel { name: name.to_owned(), reason });
            }
            _ => {}
        }
        let opened = self.connection.create_channel().await.map_err(|error| errors::act(name, &error))?;
        let opened = Arc::new(opened);
        self.unwritten.store(0, Ordering::Relaxed);
        *self.channel.write() = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// Messages that came back, if the channel is open.
    pub(super) async fn returned(&self) -> Vec<lapin::message::BasicReturnMessage> {
        let channel = self.channel.read().clone();
        match channel {
            // Without confirms there is nothing to wait for: this only fetches.
            Some(channel) => channel.wait_for_confirms().await.unwrap_or_default(),
            None => Vec::new(),
        }
    }
}

fn is_open(channel: &Channel) -> bool {
    channel.status().connected()
}
