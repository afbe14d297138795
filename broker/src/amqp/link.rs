//! One connection as a link: which act goes over which channel.
//!
//! Publishes to the default exchange and to named ones have a channel each: a named exchange that is
//! gone closes its channel, and calls to queues must not suffer for it. Declarations and looks share
//! one channel that is opened again after an error.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lapin::options::{
    BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::amqp::confirms::Confirms;
use crate::amqp::consumer::AmqpConsumer;
use crate::amqp::outbox::Outbox;
use crate::amqp::{AmqpConnector, convert, errors, watch as watching};
use crate::link::{
    Confirm, ConsumeOptions, Consumer, ConsumerKind, Deleted, Envelope, Link, LinkError, QueueState,
    RETURNS_MAX, Returned, Target, check_sendable,
};
use crate::names::{ExchangeName, QueueName};
use crate::topology::{ExchangeKind, Item, QueueKind, QueueSpec};

/// A quorum queue is declared in well under a second; a broker that takes longer is in trouble.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A frozen broker must not hold up a shutdown, whose half is for what is still to be written.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct AmqpLink {
    me: Weak<Self>,
    connection: Arc<Connection>,
    /// To queues, through the default exchange.
    straight: Outbox,
    /// Through named exchanges.
    through: Outbox,
    asking: tokio::sync::Mutex<Option<Channel>>,
    confirms: Confirms,
    down: watch::Receiver<Option<String>>,
    opened: Instant,
    watches_returns: AtomicBool,
    last_mandatory_ms: AtomicU64,
    returned: mpsc::Sender<Returned>,
    returns: Mutex<Option<mpsc::Receiver<Returned>>>,
}

impl AmqpLink {
    pub(super) fn new(connection: Connection, connector: AmqpConnector) -> Arc<Self> {
        let (tell_down, down) = watch::channel(None);
        watching::connection(&connection, tell_down);
        let connection = Arc::new(connection);
        let (returned, returns) = mpsc::channel(RETURNS_MAX);
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            straight: Outbox::new(Arc::clone(&connection), down.clone()),
            through: Outbox::new(Arc::clone(&connection), down.clone()),
            asking: tokio::sync::Mutex::new(None),
            confirms: Confirms::new(connector),
            down,
            opened: Instant::now(),
            watches_returns: AtomicBool::new(false),
            last_mandatory_ms: AtomicU64::new(0),
            returned,
            returns: Mutex::new(Some(returns)),
            connection,
        })
    }

    /// Fetches what came back; empty where nobody wants to know.
    pub(super) async fn returned(&self) -> Vec<lapin::message::BasicReturnMessage> {
        let mut all = self.straight.returned().await;
        all.append(&mut self.through.returned().await);
        let wanted = self.returns.lock().is_none();
        if wanted { all } else { Vec::new() }
    }

    pub(super) fn expects_returns(&self) -> bool {
        let last = Duration::from_millis(self.last_mandatory_ms.load(Ordering::Relaxed));
        self.opened.elapsed().saturating_sub(last) < watching::RETURNS_DUE
    }

    fn note_mandatory(&self) {
        let now_ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_mandatory_ms.store(now_ms, Ordering::Relaxed);
        if !self.watches_returns.swap(true, Ordering::Relaxed) {
            tokio::spawn(watching::returns(self.me.clone(), self.returned.clone()));
        }
    }

    /// Asks the broker something on the shared channel, which does not outlive an error.
    async fn ask<T>(
        &self,
        name: &str,
        act: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
    ) -> Result<T, LinkError> {
        let mut held = self.asking.lock().await;
        let channel = match held.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => self.open_channel(name).await?,
        };
        let answer = in_time(name, act(&channel)).await?;
        *held = Some(channel);
        Ok(answer)
    }

    async fn open_channel(&self, name: &str) -> Result<Channel, LinkError> {
        in_time(name, self.connection.create_channel()).await
    }

    async fn declare_one(&self, item: &Item) -> Result<(), LinkError> {
        match item {
            Item::Queue { name, spec } => self.declare_queue(name, spec).await,
            Item::Exchange { name, kind } => {
                let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
                let (exchange, kind) = (name.as_str(), exchange_kind(*kind));
                self.ask(exchange, async |channel: &Channel| {
                    channel.exchange_declare(exchange.into(), kind, options, FieldTable::default()).await
                })
                .await
            }
            Item::Binding { exchange, queue, key } => {
                let (queue, exchange) = (queue.as_str(), exchange.as_str());
                self.ask(queue, async |channel: &Channel| {
                    let options = QueueBindOptions::default();
                    let arguments = FieldTable::default();
                    channel
                        .queue_bind(queue.into(), exchange.into(), key.as_str().into(), options, arguments)
                        .await
                })
                .await
            }
        }
    }

    async fn declare_queue(&self, name: &QueueName, spec: &QueueSpec) -> Result<(), LinkError> {
        let exclusive = spec.kind == QueueKind::Exclusive;
        let options = QueueDeclareOptions { durable: !exclusive, exclusive, ..Default::default() };
        self.ask(name.as_str(), async |channel: &Channel| {
            channel.queue_declare(name.as_str().into(), options, convert::arguments(spec)).await
        })
        .await
        .map(drop)
    }
}

fn exchange_kind(kind: ExchangeKind) -> lapin::ExchangeKind {
    match kind {
        ExchangeKind::Direct => lapin::ExchangeKind::Direct,
        ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
        ExchangeKind::Topic => lapin::ExchangeKind::Topic,
    }
}

async fn in_time<T>(name: &str, act: impl Future<Output = lapin::Result<T>>) -> Result<T, LinkError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, act).await {
        Ok(answer) => answer.map_err(|error| errors::act(name, &error)),
        Err(_) => Err(LinkError::TimedOut { name: name.to_owned() }),
    }
}

#[async_trait]
impl Link for AmqpLink {
    async fn declare(&self, items: &[Item]) -> Result<(), LinkError> {
        for item in items {
            self.declare_one(item).await?;
        }
        Ok(())
    }

    async fn publish(&self, to: Target<'_>, message: Envelope, mandatory: bool) -> Result<(), LinkError> {
        check_sendable(to, &message)?;
        if mandatory {
            self.note_mandatory();
        }
        let outbox = if to.exchange.is_none() { &self.straight } else { &self.through };
        outbox.publish(to, message, mandatory).await
    }

    async fn flush(&self) -> Result<(), LinkError> {
        self.straight.flush().await?;
        self.through.flush().await
    }

    async fn publish_confirmed(
        &self,
        to: Target<'_>,
        message: Envelope,
        mandatory: bool,
    ) -> Result<Confirm, LinkError> {
        check_sendable(to, &message)?;
        self.confirms.publish(to, message, mandatory).await
    }

    async fn consume(&self, queue: &QueueName, asked: ConsumeOptions) -> Result<Consumer, LinkError> {
        let ConsumeOptions { prefetch, exclusive, no_ack } = asked;
        let name = queue.as_str();
        let channel = self.open_channel(name).await?;
        let started = async {
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions { no_ack, exclusive, ..Default::default() };
            channel.basic_consume(name.into(), "".into(), options, FieldTable::default()).await
        };
        let stream = in_time(name, started).await?;
        let consumer = AmqpConsumer::new(channel, name.to_owned(), stream, asked);
        Ok(Consumer(ConsumerKind::Amqp(consumer)))
    }

    async fn inspect(&self, queue: &QueueName) -> Result<Option<QueueState>, LinkError> {
        let name = queue.as_str();
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let seen = self.ask(name, async |channel: &Channel| {
            channel.queue_declare(name.into(), options, FieldTable::default()).await
        });
        match seen.await {
            Ok(seen) => {
                Ok(Some(QueueState { ready: seen.message_count(), consumers: seen.consumer_count() }))
            }
            Err(LinkError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn delete_queue(&self, queue: &QueueName, if_empty: bool) -> Result<Deleted, LinkError> {
        // The broker says the same of a queue it deleted and of one that was not there.
        if self.inspect(queue).await?.is_none() {
            return Ok(Deleted::Missing);
        }
        let name = queue.as_str();
        let options = QueueDeleteOptions { if_empty, ..Default::default() };
        let deleted =
            self.ask(name, async |channel: &Channel| channel.queue_delete(name.into(), options).await);
        match deleted.await {
            Ok(_) => Ok(Deleted::Deleted),
            Err(LinkError::Mismatch { .. }) if if_empty => Ok(Deleted::NotEmpty),
            Err(LinkError::Missing { .. }) => Ok(Deleted::Missing),
            Err(error) => Err(error),
        }
    }

    async fn has_exchange(&self, exchange: &ExchangeName) -> Result<bool, LinkError> {
        let name = exchange.as_str();
        let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
        let seen = self.ask(name, async |channel: &Channel| {
            // Of what is declared passively the broker compares nothing but the name.
            let kind = lapin::ExchangeKind::Direct;
            channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await
        });
        match seen.await {
            Ok(()) => Ok(true),
            Err(LinkError::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn delete_exchange(&self, exchange: &ExchangeName) -> Result<Deleted, LinkError> {
        if !self.has_exchange(exchange).await? {
            return Ok(Deleted::Missing);
        }
        let name = exchange.as_str();
        let deleted = self.ask(name, async |channel: &Channel| {
            channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await
        });
        match deleted.await {
            Ok(()) => Ok(Deleted::Deleted),
            Err(LinkError::Missing { .. }) => Ok(Deleted::Missing),
            Err(error) => Err(error),
        }
    }

    async fn unbind(&self, exchange: &ExchangeName, queue: &QueueName, key: &str) -> Result<(), LinkError> {
        let (name, exchange) = (queue.as_str(), exchange.as_str());
        let unbound = self.ask(name, async |channel: &Channel| {
            channel.queue_unbind(name.into(), exchange.into(), key.into(), FieldTable::default()).await
        });
        match unbound.await {
            Err(LinkError::Missing { .. }) => Ok(()),
            other => other,
        }
    }

    fn take_returns(&self) -> Option<mpsc::Receiver<Returned>> {
        self.returns.lock().take()
    }

    fn is_blocked(&self) -> bool {
        self.connection.status().blocked() || self.confirms.is_blocked()
    }

    async fn closed(&self) -> String {
        let mut down = self.down.clone();
        match down.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the connection is down".to_owned(),
        }
    }

    async fn close(&self) {
        let closing = async {
            // Closing overtakes what is still to be written; an error says that the link is down already.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT / 2, self.flush()).await;
            self.confirms.close().await;
            // It may be down already, which is what is wanted.
            let _ = self.connection.close(200, "OK".into()).await;
        };
        // Whoever does not answer now is dropped with the last channel.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }
}
