//! Unconfirmed publishing on one channel that is opened again when an error closed it.
//!
//! Messages are gathered while whoever is ready to publish does so, and handed to lapin's thread together: it
//! writes them at once, and is woken once. Nobody waits for that, until so much is unwritten that the socket is
//! evidently slower than its writers: from there on each publish waits for those before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use bytes::Bytes;
use futures::future::BoxFuture;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Connection};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tracing::warn;

use crate::amqp::link::{ANSWER_TIMEOUT, CLOSE_TIMEOUT};
use crate::amqp::{convert, errors};
use crate::link::{Envelope, LinkError, Target};

/// lapin's queue of frames has no bound: this much may be unwritten before publishers wait.
const UNWRITTEN_BYTES_MAX: usize = 1024 * 1024;
/// What a publish weighs beside its body, lest empty ones weigh nothing.
const PUBLISH_BYTES: usize = 256;

/// Gathers and sends; ends what it runs once it is dropped.
pub(super) struct Outbox {
    shared: Arc<Shared>,
    down: watch::Receiver<Option<String>>,
    sending: AbortHandle,
}

struct Shared {
    connection: Arc<Connection>,
    /// By `Arc`: a clone of lapin's own channel is a dozen of them.
    channel: RwLock<Option<Arc<Channel>>>,
    waiting: Mutex<Waiting>,
    /// Something waits.
    work: Notify,
    /// Somebody wants to know when it is written.
    asked: AtomicBool,
    /// How many messages were written, or could not be.
    written: watch::Sender<u64>,
}

/// What was published and is not with lapin yet.
#[derive(Default)]
struct Waiting {
    messages: Vec<Outgoing>,
    /// All that were ever published.
    published: u64,
    /// What is not known to be written, those with lapin included.
    unwritten_bytes: usize,
}

impl Waiting {
    /// Says whether it is the first that waits.
    fn put(&mut self, message: Outgoing) -> bool {
        self.published += 1;
        self.unwritten_bytes += message.weight();
        self.messages.push(message);
        self.messages.len() == 1
    }

    fn take(&mut self) -> Taken {
        let Self { published, unwritten_bytes, .. } = *self;
        let messages = std::mem::take(&mut self.messages);
        Taken { messages, published, unwritten_bytes, crowded: self.is_crowded() }
    }

    const fn is_crowded(&self) -> bool {
        self.unwritten_bytes > UNWRITTEN_BYTES_MAX
    }
}

/// What is to be handed over at once, and how much is written once it is.
struct Taken {
    messages: Vec<Outgoing>,
    published: u64,
    unwritten_bytes: usize,
    crowded: bool,
}

struct Outgoing {
    exchange: ShortString,
    key: ShortString,
    mandatory: bool,
    properties: BasicProperties,
    body: Bytes,
}

impl Outbox {
    /// `down` tells why the connection ended, once it has.
    pub(super) fn new(connection: Arc<Connection>, down: watch::Receiver<Option<String>>) -> Self {
        let shared = Arc::new(Shared {
            connection,
            channel: RwLock::new(None),
            waiting: Mutex::default(),
            work: Notify::new(),
            asked: AtomicBool::new(false),
            written: watch::Sender::new(0),
        });
        let sending = tokio::spawn(send_for_ever(Arc::clone(&shared))).abort_handle();
        Self { shared, down, sending }
    }

    /// Publishes, in order. `Ok` says that it is on its way.
    pub(super) async fn publish(
        &self,
        to: Target<'_>,
        message: Envelope,
        mandatory: bool,
    ) -> Result<(), LinkError> {
        let (properties, body) = convert::outgoing(message);
        let exchange = to.exchange.map(AsRef::as_ref).unwrap_or_default().into();
        let outgoing = Outgoing { exchange, key: to.key.into(), mandatory, properties, body };
        self.up()?;
        // Whoever gives up here leaves nothing behind.
        if self.shared.waiting.lock().is_crowded() {
            self.flush().await?;
        }
        if self.shared.waiting.lock().put(outgoing) {
            self.shared.work.notify_one();
        }
        Ok(())
    }

    /// Waits until all that was published is with the operating system.
    pub(super) async fn flush(&self) -> Result<(), LinkError> {
        let published = self.shared.waiting.lock().published;
        let mut written = self.shared.written.subscribe();
        if *written.borrow_and_update() >= published {
            return self.up();
        }
        self.shared.asked.store(true, Ordering::Relaxed);
        self.shared.work.notify_one();
        let mut down = self.down.clone();
        // Neither sender is gone before its news is told.
        tokio::select! {
            _ = written.wait_for(|written| *written >= published) => self.up(),
            _ = down.wait_for(Option::is_some) => Err(closed()),
        }
    }

    fn up(&self) -> Result<(), LinkError> {
        match self.shared.connection.status().connected() {
            true => Ok(()),
            false => Err(closed()),
        }
    }

    /// Messages that came back, if the channel is open.
    pub(super) async fn returned(&self) -> Vec<lapin::message::BasicReturnMessage> {
        let channel = self.shared.channel.read().clone();
        match channel {
            // Without confirms there is nothing to wait for: this only fetches.
            Some(channel) => channel.wait_for_confirms().await.unwrap_or_default(),
            None => Vec::new(),
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.sending.abort();
    }
}

fn closed() -> LinkError {
    LinkError::Closed("the connection is down".to_owned())
}

/// A publish that lapin has, until its bytes are written.
type Sent = BoxFuture<'static, lapin::Result<()>>;

async fn send_for_ever(shared: Arc<Shared>) {
    let mut last: Option<Sent> = None;
    loop {
        shared.work.notified().await;
        // Whoever is ready to publish does so first.
        tokio::task::yield_now().await;
        let asked = shared.asked.swap(false, Ordering::Relaxed);
        let Taken { messages, published, unwritten_bytes, crowded } = shared.waiting.lock().take();
        if !messages.is_empty() {
            last = shared.hand_over(messages).await;
        }
        if asked || crowded {
            // Frames are written in order: with the last, all before it are out.
            if let Some(sent) = last.take() {
                told(sent.await);
            }
            shared.waiting.lock().unwritten_bytes -= unwritten_bytes;
            shared.written.send_replace(published);
        }
    }
}

impl Shared {
    /// Queues messages in lapin, in order; what comes back is done when the last is written.
    async fn hand_over(&self, mut messages: Vec<Outgoing>) -> Option<Sent> {
        let last = messages.pop()?;
        let mut channel = self.channel().await?;
        // The first poll queues a message's frames; what follows is only waiting.
        for message in messages {
            if !channel.status().connected() {
                channel = self.channel().await?;
            }
            let mut sent = std::pin::pin!(message.send(Arc::clone(&channel)));
            // One that is refused closes the channel, and the last has the same error.
            let _ = futures::poll!(&mut sent);
        }
        let mut sent: Sent = Box::pin(last.send(channel));
        match futures::poll!(&mut sent) {
            Poll::Pending => Some(sent),
            Poll::Ready(sent) => {
                told(sent);
                None
            }
        }
    }

    /// The channel, opened at first need and after an error. Without one the connection is of no use: it is taken
    /// down, and whoever waits for answers over it learns so.
    async fn channel(&self) -> Option<Arc<Channel>> {
        if let Some(channel) = self.channel.read().as_ref().filter(|channel| channel.status().connected()) {
            return Some(Arc::clone(channel));
        }
        match timeout(ANSWER_TIMEOUT, self.connection.create_channel()).await {
            Ok(Ok(channel)) => {
                let channel = Arc::new(channel);
                *self.channel.write() = Some(Arc::clone(&channel));
                return Some(channel);
            }
            Ok(Err(error)) => warn!(reason = errors::text(&error), "no channel to publish on"),
            Err(_) => warn!("no channel to publish on in time"),
        }
        // It may be down already, which is what is wanted.
        let _ = timeout(CLOSE_TIMEOUT, self.connection.close(504, "no channel to publish on".into())).await;
        None
    }
}

impl Outgoing {
    fn weight(&self) -> usize {
        PUBLISH_BYTES + self.body.len()
    }

    async fn send(self, channel: Arc<Channel>) -> lapin::Result<()> {
        let Self { exchange, key, mandatory, properties, body } = self;
        let options = BasicPublishOptions { mandatory, immediate: false };
        channel.basic_publish(exchange, key, options, &body, properties).await.map(drop)
    }
}

fn told(sent: lapin::Result<()>) {
    if let Err(error) = sent {
        warn!(reason = errors::text(&error), "messages were not sent");
    }
}
