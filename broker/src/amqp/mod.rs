//! Links over RabbitMQ.

use std::sync::Arc;

use async_trait::async_trait;

use crate::link::{ConnectError, Connector, Event, Link, LinkError};

/// Connects to RabbitMQ.
#[derive(Clone)]
pub struct AmqpConnector {
    url: String,
    name: String,
}

impl AmqpConnector {
    /// `url` is `amqp[s]://user:password@host:port/vhost`; `name` is shown in the broker's lists.
    pub fn new(url: impl Into<String>, name: impl Into<String>) -> Self {
        Self { url: url.into(), name: name.into() }
    }
}

#[async_trait]
impl Connector for AmqpConnector {
    async fn connect(&self) -> Result<Arc<dyn Link>, ConnectError> {
        Err(ConnectError::Unreachable(format!("{} {}", self.url, self.name)))
    }
}

#[derive(Debug)]
pub(crate) struct AmqpConsumer;
impl AmqpConsumer {
    pub(crate) async fn next(&mut self) -> Option<Event> {
        None
    }
    pub(crate) async fn cancel(&mut self) {}
    pub(crate) fn failure(&self) -> Option<LinkError> {
        None
    }
}
#[derive(Debug)]
pub(crate) struct AmqpSettle;
impl AmqpSettle {
    pub(crate) async fn ack(self) -> Result<(), LinkError> {
        Ok(())
    }
    pub(crate) async fn reject(self, _requeue: bool) -> Result<(), LinkError> {
        Ok(())
    }
}
