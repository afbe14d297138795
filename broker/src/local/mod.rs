//! A broker within the process.

use std::sync::Arc;

use async_trait::async_trait;

use crate::link::{ConnectError, Connector, Event, Link, LinkError};

/// A broker within the process; clones are the same broker.
#[derive(Clone, Debug, Default)]
pub struct LocalBroker;

impl LocalBroker {
    /// An empty broker.
    pub fn new() -> Self {
        Self
    }
}

#[async_trait]
impl Connector for LocalBroker {
    async fn connect(&self) -> Result<Arc<dyn Link>, ConnectError> {
        Err(ConnectError::Unreachable(String::new()))
    }
}

#[derive(Debug)]
pub(crate) struct LocalConsumer;
impl LocalConsumer {
    pub(crate) async fn next(&mut self) -> Option<Event> {
        None
    }
    pub(crate) fn cancel(&mut self) {}
    pub(crate) fn failure(&self) -> Option<LinkError> {
        None
    }
}
#[derive(Debug)]
pub(crate) struct LocalSettle;
impl LocalSettle {
    pub(crate) fn ack(self) -> Result<(), LinkError> {
        Ok(())
    }
    pub(crate) fn reject(self, _requeue: bool) -> Result<(), LinkError> {
        Ok(())
    }
}
