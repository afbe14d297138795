//! One delivery from its arrival to its settlement: read, run, replied to, acknowledged. In that order, always.
//!
//! Never decides when a delivery starts: that is the slots'.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::link::Delivery;
use funcatron_broker::message::{
    Call, CallEvent, CallId, EventReply, Outcome, Reply, ReportEvent, SpilledBody, is_ours,
};
use funcatron_crds::RevisionName;
use http::{HeaderMap, Request};
use http_body_util::Full;
use tracing::warn;

use crate::admission::{Admission, Start, admit};
use crate::attempted::{Attempted, attempt};
use crate::cancelled::Cancelled;
use crate::direct::{DirectCall, Gateways, Met};
use crate::durable::{Attempt, EventTerms, Next};
use crate::http_stream::body::RequestBody;
use crate::http_stream::client::{Connection, Keep};
use crate::http_stream::contract::{Contract, Through};
use crate::instance::{Breakage, Instance};
use crate::line::Lines;
use crate::log;
use crate::producer::Producer;
use crate::session::{Identity, News, Session, now_ms};
use crate::settler::{Last, LastWord};
use crate::slots::Lane;
use crate::spilled::Bodies;
use crate::work::{Asker, Work};

/// A delivery that is to run.
#[derive(Debug)]
pub(crate) struct Job {
    lane: Lane,
    work: Work,
    /// Of a call that nobody waits for.
    attempt: Option<Attempt>,
    unsettled: Unsettled,
}

/// One attempt that is to be made.
struct One {
    lane: Lane,
    work: Work,
    /// The call whose log is to be told.
    logged: Option<CallId>,
    limit: Duration,
}

/// A delivery to be settled, and over what.
#[derive(Debug)]
struct Unsettled {
    delivery: Delivery,
    session: Arc<Session>,
}

/// What is to be told and done about a delivery that does not run, or has run.
#[derive(Debug)]
pub(crate) struct Settlement {
    unsettled: Unsettled,
    asker: Option<Asker>,
    /// Of an event, told once nothing follows.
    producer: Option<Producer>,
    result: Outcome,
    headers: HeaderMap,
    body: Bytes,
    last_word: LastWord,
    /// What the ledger is told before the broker's last word is said.
    news: Vec<CallEvent>,
}

/// What becomes of a delivery when it comes.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one lives at a time; a box would cost each call an allocation"
)]
pub(crate) enum Taken {
    /// It is to run.
    Run(Job),
    /// It is not: this is to be said.
    Settle(Box<Settlement>),
}

/// Reads a delivery. ▪ A sync call that was out before never runs: it may have run, and whoever asked decides.
pub(crate) fn take(lane: Lane, mut delivery: Delivery, session: Arc<Session>, events: EventTerms) -> Taken {
    let envelope = delivery.take_envelope();
    let redelivered = delivery.redelivered;
    let unsettled = Unsettled { delivery, session };
    if lane == Lane::Durable && !is_ours(&envelope) {
        if events.is_exhausted(delivered(&unsettled.delivery)) {
            let words = "its last attempt ended with its runner";
            let lost = Settlement::refused(unsettled, None, Outcome::RunnerLost, words, LastWord::DeadLetter);
            return Taken::Settle(Box::new(Settlement { producer: Producer::of(&envelope), ..lost }));
        }
        return Taken::Run(Job { lane, work: Work::Event(Box::new(envelope)), attempt: None, unsettled });
    }
    let call = match Call::from_envelope(envelope) {
        Ok(call) => call,
        Err(unread) => {
            warn!(reason = %unread.reason, "message is no call");
            let asker = unread.id.zip(unread.reply_to);
            let attempt = unread.attempt;
            let asker = asker.map(|(id, reply_to)| Asker { id, attempt, reply_to, line: None });
            let last_word = if lane == Lane::Durable { LastWord::DeadLetter } else { LastWord::Ack };
            let refused =
                Settlement::refused(unsettled, asker, Outcome::BadWire, unread.reason.to_string(), last_word);
            return Taken::Settle(Box::new(refused));
        }
    };
    if lane == Lane::Sync && redelivered {
        let (asker, words) = (Asker::of(&call), "the runner that had this call was lost");
        let lost = Settlement::refused(unsettled, asker, Outcome::RunnerLost, words, LastWord::Ack);
        return Taken::Settle(Box::new(lost));
    }
    let attempt = (lane == Lane::Durable).then(|| Attempt::of(&call, delivered(&unsettled.delivery)));
    Taken::Run(Job { lane, work: Work::Call(Box::new(call)), attempt, unsettled })
}

/// How often a delivery was out before, where its queue counts.
fn delivered(delivery: &Delivery) -> u32 {
    delivery.delivery_count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0)
}

impl Settlement {
    fn refused(
        unsettled: Unsettled,
        asker: Option<Asker>,
        result: Outcome,
        words: impl Into<Bytes>,
        last_word: LastWord,
    ) -> Self {
        Self {
            unsettled,
            asker,
            producer: None,
            result,
            headers: HeaderMap::new(),
            body: words.into(),
            last_word,
            news: Vec::new(),
        }
    }

    /// Nobody is told but the broker.
    fn silent(unsettled: Unsettled, last_word: LastWord) -> Self {
        Self::refused(unsettled, None, Outcome::Expired, Bytes::new(), last_word)
    }
}

impl Job {
    /// The kind of queue that it came from.
    pub(crate) const fn lane(&self) -> Lane {
        self.lane
    }

    /// The attempt to ask for before it is begun, the publication that asks, and where the word comes.
    pub(crate) fn to_claim(&self) -> Option<(&Attempt, &str, &Arc<Session>)> {
        let Work::Call(call) = &self.work else { return None };
        Some((self.attempt.as_ref()?, call.claimant.as_deref()?, &self.unsettled.session))
    }

    /// The body that is to be fetched, until when, and with whose session the delivery ends.
    pub(crate) fn to_fetch(&self) -> Option<(&SpilledBody, u64, &Arc<Session>)> {
        let Work::Call(call) = &self.work else { return None };
        Some((call.spilled.as_ref()?, call.deadline_ms, &self.unsettled.session))
    }

    /// Whether somebody else is asked before it may wait for a slot.
    pub(crate) fn asks_first(&self) -> bool {
        self.to_claim().is_some() || self.to_fetch().is_some()
    }

    /// What is done with a delivery of which nobody is told but the broker.
    pub(crate) fn silently(self, last_word: LastWord) -> Settlement {
        Settlement::silent(self.unsettled, last_word)
    }

    /// What is said of a delivery in hand when its revision will not come up here.
    pub(crate) fn give_up(self, news: &News) -> Box<Settlement> {
        let Self { lane, work, attempt: _, unsettled } = self;
        let asker = work.asker();
        let (outcome, words) = match news.event {
            ReportEvent::KeyMissing => (Outcome::NotHere, "the function's configuration is incomplete"),
            _ => (Outcome::Failed, "the function could not be started"),
        };
        let last_word = if lane == Lane::Durable { LastWord::TryAgain } else { LastWord::Ack };
        Box::new(Settlement::refused(unsettled, asker, outcome, words, last_word))
    }
}

/// Runs deliveries of one revision.
#[derive(Debug)]
pub(crate) struct Caller {
    pub identity: Arc<Identity>,
    pub cancelled: Arc<Cancelled>,
    pub revision: RevisionName,
    pub gateways: Arc<Gateways>,
    pub lines: Arc<Lines>,
    pub bodies: Bodies,
    pub events: EventTerms,
}

impl Caller {
    /// Runs a delivery and settles it. Comes back with it where nothing was sent: it is to start elsewhere.
    pub(crate) async fn run(&self, job: Job, instance: &Instance) -> Option<Job> {
        // Its broker has given it to another by now.
        if job.unsettled.session.is_down() {
            return None;
        }
        let (job, limit) = match self.screen(job) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                Box::pin(self.settle(*refusal)).await;
                return None;
            }
        };
        let connection = match instance.connect().await {
            Ok(connection) => connection,
            Err(error) => {
                instance.condemn(Breakage::Broken(error.to_string()));
                return Some(job);
            }
        };
        let Job { lane, work, attempt: number, unsettled } = job;
        if let Some(number) = &number {
            Box::pin(self.began(number, &unsettled.session)).await;
        }
        let producer = work.producer();
        let logged = number.as_ref().map(|number| number.id).filter(|_| instance.tells_logs());
        let one = One { lane, work, logged, limit };
        let (asker, attempted) = self.call(instance, connection, one, &unsettled.delivery).await;
        let next = match (&number, lane) {
            (Some(number), _) => number.next(attempted.outcome),
            (None, Lane::Durable) => self.events.next(attempted.outcome, delivered(&unsettled.delivery)),
            (None, Lane::Sync) => Next::Done,
        };
        let news = number.map(|number| self.over(&number, &attempted, next)).unwrap_or_default();
        let (last_word, Attempted { outcome: result, headers, body, log: _ }) = (next.into(), attempted);
        self.settle(Settlement { unsettled, asker, producer, result, headers, body, last_word, news }).await;
        None
    }

    /// Calls the function. Without an asker, nobody waits for what became of it any more.
    async fn call(
        &self,
        instance: &Instance,
        connection: Connection,
        one: One,
        delivery: &Delivery,
    ) -> (Option<Asker>, Attempted) {
        let One { lane, mut work, logged, limit } = one;
        let (offered, spilled) = (work.take_offer(lane), work.take_spilled());
        let line = offered.as_ref().and_then(|(id, offer)| self.lines.to(*id, offer));
        let (asker, mut request) = Self::request_of(instance.contract(), work, delivery, limit);
        let asker = asker.map(|asker| Asker { line, ..asker });
        let Some((id, offer)) = offered else {
            if logged.is_some() {
                log::ask(request.headers_mut());
            }
            let mut request = request.map(RequestBody::from);
            let (fetching, limit) = match Box::pin(self.fetch(spilled, limit)).await {
                Ok(fetched) => fetched,
                Err(attempted) => return (asker, attempted),
            };
            if let Some(fetching) = &fetching {
                *request.body_mut() = RequestBody::Fetched(Arc::clone(fetching));
            }
            let exchange = instance.exchange(connection, request, Keep::Whole);
            return (asker, attempt(instance, exchange, limit, logged, fetching.as_deref()).await);
        };
        let gateways = &self.gateways;
        let line = asker.as_ref().and_then(|asker| asker.line.clone());
        match (DirectCall { gateways, line, instance, id, offer, limit }).run(connection, request).await {
            Met::Reply(attempted) => (asker, attempted),
            Met::Settled => (None, Attempted::not(Outcome::Expired, Bytes::new())),
        }
    }

    /// How long a delivery may run, or what is said instead; nothing, where nobody listens any more.
    pub(crate) fn screen(&self, job: Job) -> Result<(Job, Duration), Box<Settlement>> {
        let Job { lane, work, attempt, unsettled } = job;
        let start = match &work {
            Work::Call(call) if self.cancelled.take(call.id) => {
                let news = attempt.iter().map(|attempt| self.taken_back(attempt)).collect();
                return Err(Box::new(Settlement { news, ..Settlement::silent(unsettled, LastWord::Ack) }));
            }
            Work::Call(call) => Start {
                lane,
                attempt: call.attempt,
                deadline_ms: call.deadline_ms,
                timeout_ms: call.timeout_ms,
            },
            Work::Event(_) => Start { lane, attempt: 1, deadline_ms: 0, timeout_ms: self.events.timeout_ms },
        };
        if let Some(attempt) = &attempt
            && let Some(why) = attempt.given_up(start.deadline_ms, now_ms())
        {
            let news = vec![self.gave_up(attempt, why.to_string())];
            return Err(Box::new(Settlement { news, ..Settlement::silent(unsettled, LastWord::DeadLetter) }));
        }
        match admit(start, now_ms()) {
            Admission::Run(limit) => Ok((Job { lane, work, attempt, unsettled }, limit)),
            Admission::Refuse(outcome) => {
                let asker = work.asker();
                let words = "the call came too late to be started";
                Err(Box::new(Settlement::refused(unsettled, asker, outcome, words, LastWord::Ack)))
            }
        }
    }

    fn request_of(
        contract: Contract,
        work: Work,
        delivery: &Delivery,
        limit: Duration,
    ) -> (Option<Asker>, Request<Full<Bytes>>) {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let deadline_ms = now_ms().saturating_add(limit_ms);
        let returned = delivered(delivery);
        match work {
            Work::Call(call) => {
                let asker = Asker::of(&call);
                let attempt = call.attempt.saturating_add(returned);
                (asker, contract.of_call(*call, attempt, deadline_ms))
            }
            Work::Event(event) => {
                let attempt = returned.saturating_add(1);
                let Delivery { exchange, routing_key, .. } = delivery;
                (None, contract.of_event(*event, Through { exchange, routing_key }, attempt, deadline_ms))
            }
        }
    }

    /// Replies, then gives the broker its last word. What most calls do not need is boxed, so that none pays for its size.
    pub(crate) async fn settle(&self, settlement: Settlement) {
        let Settlement { unsettled, asker, producer, result, headers, body, last_word, news } = settlement;
        let Unsettled { delivery, session } = unsettled;
        if session.is_down() {
            return;
        }
        for event in news {
            if Box::pin(self.record(&session, event)).await.is_err() {
                // The link is down, and the delivery comes again.
                return;
            }
        }
        if let Some(producer) = producer.filter(|_| last_word != LastWord::TryAgain) {
            let told = |correlation_id| EventReply {
                user_id: self.identity.names.user().to_owned(),
                correlation_id,
                outcome: result,
                has_failed: last_word == LastWord::DeadLetter,
                headers: headers.clone(),
                body: body.clone(),
            };
            if Box::pin(self.tell(&session, producer, told)).await.is_err() {
                return;
            }
        }
        let mut by = None;
        let reply = asker.map(|Asker { id, attempt, reply_to, line }| {
            by = line;
            let user_id = Some(self.identity.names.user().to_owned());
            (reply_to, Reply { id, user_id, attempt, outcome: result, headers, body })
        });
        let last = Box::new(Last { delivery, word: last_word, reply });
        session.settler.settle(last, by).await;
    }
}
