//! Plain RPC on lapin, as its own documentation would have it: the baseline.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::sync::oneshot;

use crate::lanes::{Lane, measure};
use crate::{end_with_driver, greet, obey, threads};

/// Calls that the server takes at once; as many as are in flight.
const PREFETCH: u16 = 64;

type Pending = Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>>;

/// Calls as the driver says.
pub(crate) fn client(url: &str, queue: &str) -> Result<()> {
    let threads = threads()?;
    let client = threads.block_on(Client::start(url, queue))?;
    threads.block_on(RawLane(Arc::clone(&client), Bytes::new()).call())?;
    greet("raw client")?;
    obey(|order| {
        let body = order.body();
        let lanes = (0..order.in_flight).map(|_| RawLane(Arc::clone(&client), body.clone())).collect();
        threads.block_on(measure(lanes, order.lasting()))
    })
}

struct Client {
    channel: Channel,
    queue: String,
    reply_queue: String,
    pending: Pending,
    calls: AtomicU64,
    _connection: Connection,
}

impl Client {
    async fn start(url: &str, queue: &str) -> Result<Arc<Self>> {
        let connection =
            Connection::connect(url, ConnectionProperties::default()).await.context("connect")?;
        let channel = connection.create_channel().await.context("open a channel")?;
        let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let declared = channel.queue_declare("".into(), options, FieldTable::default()).await;
        let reply_queue = declared.context("declare the reply queue")?.name().to_string();
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let replies = channel
            .basic_consume(reply_queue.as_str().into(), "".into(), options, FieldTable::default())
            .await;
        let pending = Pending::default();
        tokio::spawn(receive(replies.context("consume replies")?, Arc::clone(&pending)));
        let (queue, calls) = (queue.to_owned(), AtomicU64::new(0));
        Ok(Arc::new(Self { channel, queue, reply_queue, pending, calls, _connection: connection }))
    }

    async fn call(&self, body: &[u8]) -> Result<()> {
        let id = self.calls.fetch_add(1, Ordering::Relaxed).to_string();
        let (answer, answered) = oneshot::channel();
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), answer);
        let properties = BasicProperties::default()
            .with_correlation_id(id.into())
            .with_reply_to(self.reply_queue.as_str().into());
        let (queue, options) = (self.queue.as_str(), BasicPublishOptions::default());
        let sent = self.channel.basic_publish("".into(), queue.into(), options, body, properties).await;
        sent.context("publish a call")?;
        let answer = answered.await.context("the reply queue is gone")?;
        ensure!(answer == body, "raw RPC answered with {} bytes", answer.len());
        Ok(())
    }
}

async fn receive(mut replies: lapin::Consumer, pending: Pending) {
    while let Some(Ok(reply)) = replies.next().await {
        let Some(id) = reply.properties.correlation_id() else { continue };
        let waiting = pending.lock().unwrap_or_else(PoisonError::into_inner).remove(id.as_str());
        if let Some(waiting) = waiting {
            // A lane that was dropped waits for nothing.
            let _ = waiting.send(reply.data);
        }
    }
}

struct RawLane(Arc<Client>, Bytes);

impl Lane for RawLane {
    async fn call(&mut self) -> Result<()> {
        self.0.call(&self.1).await
    }
}

/// Echoes until the driver ends.
pub(crate) fn server(url: &str) -> Result<()> {
    end_with_driver();
    threads()?.block_on(async {
        let connection =
            Connection::connect(url, ConnectionProperties::default()).await.context("connect")?;
        let channel = connection.create_channel().await.context("open a channel")?;
        let options = QueueDeclareOptions { durable: true, auto_delete: true, ..Default::default() };
        let declared = channel.queue_declare("".into(), options, FieldTable::default()).await;
        let queue = declared.context("declare the call queue")?.name().to_string();
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.context("set the prefetch")?;
        let (name, options) = (queue.as_str().into(), BasicConsumeOptions::default());
        let calls = channel.basic_consume(name, "".into(), options, FieldTable::default()).await;
        let mut calls = calls.context("consume calls")?;
        greet(&queue)?;
        while let Some(call) = calls.next().await {
            tokio::spawn(echo(channel.clone(), call.context("take a call")?));
        }
        Ok(())
    })
}

async fn echo(channel: Channel, call: lapin::message::Delivery) -> Result<()> {
    let to = call.properties.reply_to().clone().context("a call without reply-to")?;
    let id = call.properties.correlation_id().clone().context("a call without an id")?;
    let properties = BasicProperties::default().with_correlation_id(id);
    let options = BasicPublishOptions::default();
    channel.basic_publish("".into(), to, options, &call.data, properties).await.context("reply")?;
    call.ack(BasicAckOptions::default()).await.context("acknowledge")?;
    Ok(())
}
