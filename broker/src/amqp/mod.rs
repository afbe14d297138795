//! Links over RabbitMQ, on lapin with its recovery switched off.
//!
//! One connection carries declarations, consumers and unconfirmed publishes; a second, opened at first
//! need, carries confirmed publishes, since one slow quorum queue throttles a whole connection. Every
//! consumer and every kind of act has a channel of its own, so that a channel error hits who caused it.
//! Never reconnects: that is `supervise`'s.

mod confirms;
mod consumer;
mod convert;
mod errors;
mod link;
mod outbox;
mod tags;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};

use crate::link::{ConnectError, Connector, Link};
pub(crate) use consumer::{AmqpConsumer, AmqpSettle};

/// TCP, TLS and login together; lapin has no timeout of its own on this path.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A frozen peer is noticed after two of these, so that its calls return in time.
const HEARTBEAT_S: u16 = 5;
/// RabbitMQ's own frame size: what a message's properties and headers must fit into.
const FRAME_BYTES_MAX: u32 = 131_072;

/// Connects to RabbitMQ.
#[derive(Clone)]
pub struct AmqpConnector {
    address: Result<AMQPUri, String>,
    name: String,
}

impl std::fmt::Debug for AmqpConnector {
    /// Without the address, which holds a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AmqpConnector").field("name", &self.name).finish_non_exhaustive()
    }
}

impl AmqpConnector {
    /// `url` is `amqp[s]://user:password@host:port/vhost`, where `%2f` is the vhost `/`; one that
    /// cannot be read fails at `connect`. `name` is shown in the broker's list of connections.
    pub fn new(url: impl AsRef<str>, name: impl Into<String>) -> Self {
        let address = url.as_ref().parse::<AMQPUri>().map(|mut address| {
            address.query.heartbeat = Some(HEARTBEAT_S);
            address.query.frame_max = Some(FRAME_BYTES_MAX);
            address
        });
        Self { address, name: name.into() }
    }

    /// The user that the address names, as the broker knows it; why not, where the address cannot be read.
    pub fn user(&self) -> Result<&str, ConnectError> {
        let address = self.address.as_ref().map_err(|why| ConnectError::Address(why.clone()))?;
        Ok(&address.authority.userinfo.username)
    }

    /// Opens a bare connection.
    async fn open(&self, purpose: &str) -> Result<Connection, ConnectError> {
        let address = self.address.clone().map_err(ConnectError::Address)?;
        let name = format!("{}{purpose}", self.name);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        match tokio::time::timeout(CONNECT_TIMEOUT, Connection::connect_uri(address, properties)).await {
            Ok(opened) => opened.map_err(|error| errors::connect(&error)),
            Err(_) => Err(ConnectError::TimedOut(CONNECT_TIMEOUT)),
        }
    }
}

#[async_trait]
impl Connector for AmqpConnector {
    async fn connect(&self) -> Result<Arc<dyn Link>, ConnectError> {
        let connection = self.open("").await?;
        Ok(link::AmqpLink::new(connection, self.clone()))
    }
}
