//! A gateway's and an operator's side of the broker.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use funcatron_broker::link::{
    Confirm, Connector, ConsumeOptions, Consumer, Envelope, Event, Link, QueueState, Target, fresh_suffix,
};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{Call, CallId, Cancel, Intent, Outcome, Reply, Report, ReportEvent, Wake};
use funcatron_broker::names::{AppNames, Installation, QueueName};
use funcatron_broker::topology;
use http::{HeaderMap, Method};

use super::{APP, FN, INSTALLATION, NAMESPACE, REVISION, soon};

pub struct Gateway {
    pub link: Arc<dyn Link>,
    pub names: AppNames,
    pub revision: String,
    reply_queue: QueueName,
    replies: Consumer,
    reports: Consumer,
    peeked: Option<Report>,
    /// Of a message with several.
    unread: VecDeque<Reply>,
    early: HashMap<CallId, Reply>,
}

pub fn names() -> AppNames {
    AppNames::new(&Installation::parse(INSTALLATION).unwrap(), NAMESPACE, APP).unwrap()
}

pub fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

const ALL: ConsumeOptions = ConsumeOptions { prefetch: 0, exclusive: false, no_ack: true };

impl Gateway {
    /// Declares what operator and gateway declare for one App with one revision of one Fn.
    pub async fn new(broker: &LocalBroker) -> Self {
        Self::for_revision(broker, REVISION).await
    }

    pub async fn for_revision(broker: &LocalBroker, revision: &str) -> Self {
        let link = broker.connect().await.unwrap();
        let names = names();
        let (reply_queue, own) = topology::gateway(names.installation(), &fresh_suffix()).unwrap();
        for items in [
            topology::installation(names.installation()),
            own,
            topology::app(&names),
            topology::revision(&names, revision).unwrap(),
            topology::wake(&names, "python").unwrap(),
        ] {
            link.declare(&items).await.unwrap();
        }
        let replies = link.consume(&reply_queue, ALL).await.unwrap();
        let reports = link.consume(&names.installation().reports_queue(), ALL).await.unwrap();
        Self {
            link,
            names,
            revision: revision.to_owned(),
            reply_queue,
            replies,
            reports,
            peeked: None,
            unread: VecDeque::new(),
            early: HashMap::new(),
        }
    }

    pub fn queue(&self) -> QueueName {
        self.names.revision_queue(&self.revision).unwrap()
    }

    pub fn call(&self, body: &str) -> Call {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "text/plain".parse().unwrap());
        headers.insert("x-client", "curl".parse().unwrap());
        Call {
            id: CallId::fresh(),
            reply_to: Some(self.reply_queue.to_string()),
            deadline_ms: now_ms() + 30_000,
            timeout_ms: 30_000,
            expiration_ms: Some(30_000),
            timestamp_s: None,
            persistent: false,
            attempt: 1,
            attempts_max: None,
            claimant: None,
            intent: Intent::HttpRequest,
            method: Method::GET,
            url: "http://shop.example/hello".into(),
            app: APP.into(),
            fn_name: FN.into(),
            revision: self.revision.clone(),
            operation: None,
            template: None,
            params: vec![],
            headers,
            direct: None,
            spilled: None,
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    /// A call whose timeout ends soon.
    pub fn short_call(&self, body: &str, timeout_ms: u64) -> Call {
        Call { deadline_ms: now_ms() + timeout_ms, timeout_ms, ..self.call(body) }
    }

    pub async fn send(&self, call: Call) -> CallId {
        let id = call.id;
        self.send_envelope(&self.queue(), call.to_envelope().unwrap()).await;
        id
    }

    pub async fn send_envelope(&self, queue: &QueueName, envelope: Envelope) {
        let sent = self.link.publish_confirmed(Target::queue(queue), envelope, true).await.unwrap();
        assert_eq!(sent, Confirm::Acked);
    }

    /// The reply to one call; others are kept for when they are asked for.
    pub async fn reply(&mut self, id: CallId) -> Reply {
        while !self.early.contains_key(&id) {
            let reply = self.next_reply().await;
            let before = self.early.insert(reply.id, reply);
            assert!(before.is_none(), "a call was answered twice: {before:?}");
        }
        self.early.remove(&id).unwrap()
    }

    pub async fn next_reply(&mut self) -> Reply {
        while self.unread.is_empty() {
            let event = soon("a reply", self.replies.next()).await;
            let Some(Event::Delivery(delivery)) = event else { panic!("{event:?}") };
            self.unread.extend(Reply::read_all(delivery.envelope).into_iter().map(Result::unwrap));
        }
        let reply = self.unread.pop_front().unwrap();
        assert_eq!(reply.user_id.as_deref(), Some(self.names.user()));
        reply
    }

    /// Whether no reply has come that was not asked for.
    pub fn has_no_more_replies(&mut self) -> bool {
        self.early.is_empty() && self.unread.is_empty() && self.replies.try_next().is_none()
    }

    /// Sends a call with that body and waits for its reply.
    pub async fn ask(&mut self, body: &str) -> Reply {
        let id = self.send(self.call(body)).await;
        self.reply(id).await
    }

    pub async fn cancel(&self, id: CallId) {
        let exchange = self.names.cancel_exchange();
        let to = Target::exchange(&exchange, "");
        self.link.publish(to, Cancel { id }.into_envelope(), false).await.unwrap();
    }

    pub async fn wake(&self, wake: Wake) {
        let queue = self.names.wake_queue("python").unwrap();
        self.send_envelope(&queue, wake.into_envelope(30_000).unwrap()).await;
    }

    pub async fn next_report(&mut self) -> Report {
        if let Some(report) = self.peeked.take() {
            return report;
        }
        let event = soon("a report", self.reports.next()).await;
        self.read_report(event)
    }

    /// Whether a report has come.
    pub fn has_report(&mut self) -> bool {
        if self.peeked.is_none()
            && let Some(event) = self.reports.try_next()
        {
            self.peeked = Some(self.read_report(Some(event)));
        }
        self.peeked.is_some()
    }

    fn read_report(&self, event: Option<Event>) -> Report {
        let Some(Event::Delivery(delivery)) = event else { panic!("{event:?}") };
        let report = Report::from_envelope(&delivery.envelope).unwrap();
        assert_eq!(report.user_id.as_deref(), Some(self.names.user()));
        report
    }

    /// The next report of that kind; repeated `loaded` ones are passed over.
    pub async fn report(&mut self, event: ReportEvent) -> Report {
        loop {
            let report = self.next_report().await;
            if report.event == event {
                return report;
            }
            assert_eq!(report.event, ReportEvent::Loaded, "{report:?}");
        }
    }

    pub async fn state(&self, queue: &QueueName) -> QueueState {
        self.link.inspect(queue).await.unwrap().expect("the queue is there")
    }

    /// Declares the Fn's durable queue; without a policy a failed call is tried again at once.
    pub async fn declare_durable(&self) -> QueueName {
        self.link.declare(&topology::durable(&self.names, FN).unwrap()).await.unwrap();
        self.names.durable_queue(FN).unwrap()
    }
}

/// What an answer says.
pub fn answered(reply: &Reply) -> (u16, &str) {
    let Outcome::Answer(status) = reply.outcome else { panic!("no answer: {reply:?}") };
    (status.as_u16(), std::str::from_utf8(&reply.body).unwrap())
}
