//! Plain publishing on lapin into a quorum queue, each message confirmed: the baseline of calls that nobody waits for.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

use crate::lanes::{Lane, measure};
use crate::{greet, obey, threads};

/// AMQP's delivery mode of what survives a restart.
const PERSISTENT: u8 = 2;

/// Publishes as the driver says.
pub(crate) fn client(url: &str) -> Result<()> {
    let threads = threads()?;
    let publisher = Arc::new(threads.block_on(Publisher::start(url))?);
    greet("raw confirms")?;
    let obeyed = obey(|order| {
        // What is there already would count for the broker's work of another round.
        threads.block_on(publisher.empty())?;
        let lanes = (0..order.in_flight).map(|_| ConfirmLane(Arc::clone(&publisher), order.body())).collect();
        threads.block_on(measure(lanes, order.lasting()))
    });
    threads.block_on(publisher.remove())?;
    obeyed
}

struct Publisher {
    channel: Channel,
    queue: String,
    _connection: Connection,
}

impl Publisher {
    async fn start(url: &str) -> Result<Self> {
        let connection =
            Connection::connect(url, ConnectionProperties::default()).await.context("connect")?;
        let channel = connection.create_channel().await.context("open a channel")?;
        let queue = format!("bench-confirms-{}", std::process::id());
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(queue.as_str().into(), options, arguments).await.context("declare a queue")?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.context("ask for confirms")?;
        Ok(Self { channel, queue, _connection: connection })
    }

    async fn publish(&self, body: &[u8]) -> Result<()> {
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let (queue, options) = (self.queue.as_str().into(), BasicPublishOptions::default());
        let sent = self.channel.basic_publish("".into(), queue, options, body, properties).await;
        let confirmed = sent.context("publish")?.await.context("wait for the confirm")?;
        ensure!(matches!(confirmed, Confirmation::Ack(None)), "the broker said {confirmed:?}");
        Ok(())
    }

    async fn empty(&self) -> Result<()> {
        let purged = self.channel.queue_purge(self.queue.as_str().into(), QueuePurgeOptions::default()).await;
        purged.map(drop).context("empty the queue")
    }

    async fn remove(&self) -> Result<()> {
        let deleted =
            self.channel.queue_delete(self.queue.as_str().into(), QueueDeleteOptions::default()).await;
        deleted.map(drop).context("delete the queue")
    }
}

struct ConfirmLane(Arc<Publisher>, Bytes);

impl Lane for ConfirmLane {
    async fn call(&mut self) -> Result<()> {
        self.0.publish(&self.1).await
    }
}
