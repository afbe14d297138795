//! Confirmed publishing, on a connection of its own that is opened at first need.
//!
//! Each message has its channel to itself until the broker's word is here. That bounds what is in
//! flight, and lets a returned message be nobody else's: on a shared channel lapin hands a return to
//! whichever confirm completes next.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Connection};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::amqp::{AmqpConnector, convert, errors};
use crate::link::{Confirm, Envelope, LinkError, Target};

/// Messages in flight: quorum queues batch their writes well before this many.
const LANES: usize = 64;
/// A quorum queue without its majority confirms nothing; by then its publisher has an answer due.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Confirms {
    connector: AmqpConnector,
    connection: tokio::sync::Mutex<Option<Arc<Connection>>>,
    idle: Mutex<Vec<Channel>>,
    lanes: Semaphore,
}

impl Confirms {
    pub(super) fn new(connector: AmqpConnector) -> Self {
        let (connection, idle) = (tokio::sync::Mutex::new(None), Mutex::new(Vec::new()));
        Self { connector, connection, idle, lanes: Semaphore::new(LANES) }
    }

    pub(super) async fn publish(
        &self,
        to: Target<'_>,
        message: Envelope,
        mandatory: bool,
    ) -> Result<Confirm, LinkError> {
        let name = to.exchange.map_or(to.key, AsRef::as_ref);
        let timed = tokio::time::timeout(CONFIRM_TIMEOUT, self.publish_alone(name, to, message, mandatory));
        match timed.await {
            // Its connection is not the link: the next publish has another.
            Ok(Err(LinkError::Closed(reason))) => Err(LinkError::Channel { name: name.to_owned(), reason }),
            Ok(published) => published,
            Err(_) => Err(LinkError::TimedOut { name: name.to_owned() }),
        }
    }

    async fn publish_alone(
        &self,
        name: &str,
        to: Target<'_>,
        message: Envelope,
        mandatory: bool,
    ) -> Result<Confirm, LinkError> {
        let _lane = self.lanes.acquire().await.expect("the semaphore is never closed");
        // Out of the list while in use: a publish that is dropped half-way takes its channel with it.
        let channel = self.channel(name).await?;
        let (properties, body) = convert::outgoing(message);
        let exchange = to.exchange.map(AsRef::as_ref).unwrap_or_default();
        let options = BasicPublishOptions { mandatory, immediate: false };
        let told = |error: lapin::Error| errors::act(name, &error);
        let sent = channel.basic_publish(exchange.into(), to.key.into(), options, &body, properties);
        let confirmation = sent.await.map_err(told)?.await.map_err(told)?;
        self.idle.lock().push(channel);
        Ok(match confirmation {
            Confirmation::Ack(Some(_)) => Confirm::Returned,
            Confirmation::Ack(None) => Confirm::Acked,
            Confirmation::Nack(_) | Confirmation::NotRequested => Confirm::Nacked,
        })
    }

    async fn channel(&self, name: &str) -> Result<Channel, LinkError> {
        let idle = || self.idle.lock().pop();
        while let Some(channel) = idle() {
            if channel.status().connected() {
                return Ok(channel);
            }
        }
        let told = |error: lapin::Error| errors::act(name, &error);
        let channel = self.connection(name).await?.create_channel().await.map_err(told)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(told)?;
        Ok(channel)
    }

    /// Whether the broker takes nothing more over it for now. While it is being opened nothing is known of that.
    pub(super) fn is_blocked(&self) -> bool {
        let held = self.connection.try_lock();
        held.is_ok_and(|held| held.as_ref().is_some_and(|connection| connection.status().blocked()))
    }

    async fn connection(&self, name: &str) -> Result<Arc<Connection>, LinkError> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = held.as_ref().filter(|connection| connection.status().connected()) {
            return Ok(Arc::clone(connection));
        }
        let opened = self.connector.open(" (confirmed)").await.map_err(|error| LinkError::Channel {
            name: name.to_owned(),
            reason: format!("no connection for confirmed publishing: {error}"),
        })?;
        let opened = Arc::new(opened);
        *held = Some(Arc::clone(&opened));
        Ok(opened)
    }

    pub(super) async fn close(&self) {
        self.idle.lock().clear();
        if let Some(connection) = self.connection.lock().await.take() {
            // It may be down already, which is what is wanted.
            let _ = connection.close(200, "OK".into()).await;
        }
    }
}
