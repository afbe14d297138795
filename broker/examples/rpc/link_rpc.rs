//! The product's way: typed calls and replies over `Link`, on the product's own queues.

use std::collections::HashMap;
use std::sync::Arc;

use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::Connector as _;
use funcatron_broker::link::{ConsumeOptions, Consumer, Delivery, Event, Link, Target, fresh_suffix};
use funcatron_broker::message::{Call, CallId, Intent, Outcome, Reply};
use funcatron_broker::names::{AppNames, ExchangeName, Installation, QueueName};
use funcatron_broker::topology;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::Caller;

type Pending = Arc<Mutex<HashMap<CallId, oneshot::Sender<Reply>>>>;

/// A gateway's half, with a runner's half on another link.
pub(crate) struct LinkRpc {
    link: Arc<dyn Link>,
    queue: QueueName,
    reply_queue: QueueName,
    pending: Pending,
}

impl LinkRpc {
    pub(crate) async fn start(url: &str) -> Self {
        let suffix = fresh_suffix();
        let id = format!("b{}", &suffix[suffix.len() - 12..]);
        let installation = Installation::parse(&id).expect("an id");
        let app = AppNames::new(&installation, "bench", "rpc").expect("names");
        let ours = AmqpConnector::new(url, "bench caller").connect().await.expect("connect");
        let theirs = AmqpConnector::new(url, "bench runner").connect().await.expect("connect");
        ours.declare(&topology::installation(&installation)).await.expect("declare");
        ours.declare(&topology::revision(&app, "echo-1").expect("names")).await.expect("declare");
        let (reply_queue, items) = topology::gateway(&installation, &suffix).expect("names");
        ours.declare(&items).await.expect("declare");
        let queue = app.revision_queue("echo-1").expect("names");
        let options = ConsumeOptions { prefetch: 64, exclusive: false, no_ack: false };
        let calls = theirs.consume(&queue, options).await.expect("calls");
        tokio::spawn(serve(theirs, calls, installation.reply_exchange()));
        let options = ConsumeOptions { prefetch: 0, exclusive: true, no_ack: true };
        let replies = ours.consume(&reply_queue, options).await.expect("replies");
        let pending = Pending::default();
        tokio::spawn(receive(replies, Arc::clone(&pending)));
        Self { link: ours, queue, reply_queue, pending }
    }
}

async fn serve(link: Arc<dyn Link>, mut calls: Consumer, exchange: ExchangeName) {
    while let Some(Event::Delivery(delivery)) = calls.next().await {
        tokio::spawn(answer(Arc::clone(&link), delivery, exchange.clone()));
    }
}

async fn answer(link: Arc<dyn Link>, mut delivery: Delivery, exchange: ExchangeName) {
    let call = Call::from_envelope(delivery.take_envelope()).expect("a call");
    let to = call.reply_to.expect("reply-to");
    let outcome = Outcome::Answer(http::StatusCode::OK);
    let (id, attempt) = (call.id, call.attempt);
    let headers = http::HeaderMap::new();
    let reply = Reply { id, user_id: None, attempt, outcome, headers, body: call.body };
    let envelope = reply.into_envelope().expect("a reply");
    link.publish(Target::exchange(&exchange, &to), envelope, false).await.expect("reply");
    delivery.ack().await.expect("ack");
}

async fn receive(mut replies: Consumer, pending: Pending) {
    while let Some(Event::Delivery(delivery)) = replies.next().await {
        let reply = Reply::from_envelope(delivery.envelope).expect("a reply");
        if let Some(waiting) = pending.lock().remove(&reply.id) {
            let _ = waiting.send(reply);
        }
    }
}

impl Caller for LinkRpc {
    async fn call(&self, _n: u64) {
        let id = CallId::fresh();
        let (answer, answered) = oneshot::channel();
        self.pending.lock().insert(id, answer);
        let call = Call {
            id,
            reply_to: Some(self.reply_queue.to_string()),
            deadline_ms: 1_900_000_000_000,
            timeout_ms: 30_000,
            expiration_ms: Some(30_000),
            timestamp_s: Some(1_900_000_000),
            persistent: false,
            attempt: 1,
            intent: Intent::HttpRequest,
            method: http::Method::POST,
            url: "http://shop.example.com/v1/orders".to_owned(),
            app: "rpc".to_owned(),
            fn_name: "echo".to_owned(),
            revision: "echo-1".to_owned(),
            operation: None,
            template: None,
            params: Vec::new(),
            headers: http::HeaderMap::new(),
            body: bytes::Bytes::from_static(&[b'x'; 100]),
        };
        let envelope = call.into_envelope().expect("a call");
        self.link.publish(Target::queue(&self.queue), envelope, true).await.expect("publish");
        answered.await.expect("an answer");
    }
}
