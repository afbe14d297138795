//! Plain RPC on lapin, as its own documentation would have it: the baseline.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::Caller;

type Pending = Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>;

/// A requester and an echo consumer, a connection each.
pub(crate) struct RawRpc {
    channel: Channel,
    queue: String,
    reply_queue: String,
    pending: Pending,
    _connections: [Connection; 2],
}

impl RawRpc {
    pub(crate) async fn start(url: &str) -> Self {
        let ours = Connection::connect(url, ConnectionProperties::default()).await.expect("connect");
        let theirs = Connection::connect(url, ConnectionProperties::default()).await.expect("connect");
        let channel = ours.create_channel().await.expect("a channel");
        let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let reply_queue = channel
            .queue_declare("".into(), options, FieldTable::default())
            .await
            .expect("the reply queue")
            .name()
            .to_string();
        let server = theirs.create_channel().await.expect("a channel");
        let queue = server
            .queue_declare(
                "".into(),
                QueueDeclareOptions { durable: true, auto_delete: true, ..Default::default() },
                FieldTable::default(),
            )
            .await
            .expect("the call queue")
            .name()
            .to_string();
        tokio::spawn(serve(server, queue.clone()));
        let pending = Pending::default();
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let replies = channel
            .basic_consume(reply_queue.as_str().into(), "".into(), options, FieldTable::default())
            .await
            .expect("replies");
        tokio::spawn(receive(replies, Arc::clone(&pending)));
        Self { channel, queue, reply_queue, pending, _connections: [ours, theirs] }
    }
}

async fn serve(channel: Channel, queue: String) {
    channel.basic_qos(64, BasicQosOptions::default()).await.expect("prefetch");
    let mut calls = channel
        .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await
        .expect("calls");
    while let Some(call) = calls.next().await {
        let call = call.expect("a call");
        let channel = channel.clone();
        tokio::spawn(async move {
            let to = call.properties.reply_to().clone().expect("reply-to");
            let id = call.properties.correlation_id().clone().expect("an id");
            let properties = BasicProperties::default().with_correlation_id(id);
            let options = BasicPublishOptions::default();
            channel.basic_publish("".into(), to, options, &call.data, properties).await.expect("reply");
            call.ack(BasicAckOptions::default()).await.expect("ack");
        });
    }
}

async fn receive(mut replies: lapin::Consumer, pending: Pending) {
    while let Some(Ok(reply)) = replies.next().await {
        let id = reply.properties.correlation_id().as_ref().expect("an id").to_string();
        if let Some(waiting) = pending.lock().remove(&id) {
            let _ = waiting.send(());
        }
    }
}

impl Caller for RawRpc {
    async fn call(&self, n: u64) {
        let id = n.to_string();
        let (answer, answered) = oneshot::channel();
        self.pending.lock().insert(id.clone(), answer);
        let properties = BasicProperties::default()
            .with_correlation_id(id.into())
            .with_reply_to(self.reply_queue.as_str().into());
        self.channel
            .basic_publish(
                "".into(),
                self.queue.as_str().into(),
                BasicPublishOptions::default(),
                &[b'x'; 100],
                properties,
            )
            .await
            .expect("publish");
        answered.await.expect("an answer");
    }
}
