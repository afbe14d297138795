//! A callback to a Fn: a call in that one's durable queue, confirmed, under an id that follows from the call whose end it
//! tells. Told again, it is the same call.
//!
//! Its `queued` is written before it is published, so that it is known for a callback before a runner can speak of it.

use funcatron_broker::envelope::Envelope;
use funcatron_broker::link::{Confirm, Link, LinkError, Target};
use funcatron_broker::message::{
    AGE_DEFAULT_MS, Call as Message, CallEvent, CallId, DurableQueue, Ended, Happened, Intent,
    RecordedRequest, Source, fresh_claimant,
};
use funcatron_broker::names::{AppNames, QueueName};
use funcatron_broker::topology;
use http::Method;
use tracing::{debug, info, warn};

use super::event::{Notice, callback_id};
use super::pace::Attempted;
use crate::clock::now_ms;
use crate::core::Core;
use crate::store::{CallbackStatus, DueCallback, Entry, KnownFn, Settled, StoreError};

/// Calls a Fn of the App whose call has ended.
pub(super) async fn publish(core: &Core, due: &DueCallback, fn_name: &str, notice: &Notice) -> Attempted {
    match publish_call(core, due, fn_name, notice).await {
        Ok(attempted) => attempted,
        Err(failure) => {
            warn!(failure = &failure as &dyn std::error::Error, call = %due.call, "could not record a callback");
            Attempted::Postponed("the ledger's database does not answer".to_owned())
        }
    }
}

async fn publish_call(
    core: &Core,
    due: &DueCallback,
    fn_name: &str,
    notice: &Notice,
) -> Result<Attempted, StoreError> {
    let Some(link) = core.link() else {
        return Ok(Attempted::Postponed("the message broker is away".to_owned()));
    };
    let names = AppNames::new(&core.installation, &due.namespace, &due.app);
    let queue =
        names.and_then(|names| Ok((names.durable_queue(fn_name)?, topology::durable(&names, fn_name)?)));
    let Ok((queue, items)) = queue else {
        return Ok(Attempted::Never(format!("{fn_name:?} is no name of a Fn")));
    };
    let Some(known) = core.store.known_fn(&due.namespace, &due.app, fn_name).await? else {
        return Ok(again(format!("there is no Fn {fn_name} in its App")));
    };
    let call = call(&due.app, fn_name, known, notice, now_ms());
    let Ok(envelope) = call.to_envelope() else {
        return Ok(Attempted::Never("it is more than a message may hold".to_owned()));
    };
    core.store.apply(&[Entry::Call(queued(due, &call))]).await?;
    let place = Place { core, link: &*link, due, fn_name, queue: &queue };
    Ok(match place.send(envelope.clone()).await {
        Err(NotTaken::NoQueue) => match place.make(&items).await {
            Ok(()) => place.send(envelope).await.map_or_else(NotTaken::attempted, |()| Attempted::Taken),
            Err(not_taken) => not_taken.attempted(),
        },
        sent => sent.map_or_else(NotTaken::attempted, |()| Attempted::Taken),
    })
}

fn again(error: String) -> Attempted {
    Attempted::Again { error, retry_after: None }
}

/// Why a queue did not take a call.
enum NotTaken {
    NoQueue,
    Full,
    Broker(LinkError),
}

impl NotTaken {
    fn attempted(self) -> Attempted {
        match self {
            Self::NoQueue => again("its Fn's queue could not be made".to_owned()),
            Self::Full => again("its Fn's queue takes no more".to_owned()),
            Self::Broker(error) => {
                debug!(%error, "a callback was not confirmed");
                Attempted::Postponed("the message broker did not confirm it".to_owned())
            }
        }
    }
}

/// From whom and to where.
struct Place<'a> {
    core: &'a Core,
    link: &'a dyn Link,
    due: &'a DueCallback,
    fn_name: &'a str,
    queue: &'a QueueName,
}

impl Place<'_> {
    async fn send(&self, envelope: Envelope) -> Result<(), NotTaken> {
        match self.link.publish_confirmed(Target::queue(self.queue), envelope, true).await {
            Ok(Confirm::Acked) => Ok(()),
            Ok(Confirm::Nacked) => Err(NotTaken::Full),
            Ok(Confirm::Returned) => Err(NotTaken::NoQueue),
            Err(error) => Err(NotTaken::Broker(error)),
        }
    }

    /// Makes a Fn's durable queue at its first need. The operator, who is told, looks after it from then on.
    async fn make(&self, items: &[topology::Item]) -> Result<(), NotTaken> {
        self.link.declare(items).await.map_err(NotTaken::Broker)?;
        info!(queue = %self.queue, "made a durable queue");
        let made = DurableQueue {
            namespace: self.due.namespace.clone(),
            app: self.due.app.clone(),
            fn_name: self.fn_name.to_owned(),
        };
        let reports = self.core.installation.reports_queue();
        let Ok(envelope) = made.into_envelope() else { return Ok(()) };
        // What is lost here the operator's next look at the broker finds.
        if let Err(error) = self.link.publish(Target::queue(&reports), envelope, false).await {
            debug!(%error, "the operator is not told of a durable queue");
        }
        Ok(())
    }
}

fn call(app: &str, fn_name: &str, known: KnownFn, notice: &Notice, now_ms: u64) -> Message {
    let KnownFn { url, timeout_ms, attempts_max, age_max_ms } = known;
    let (headers, body) = notice.to_request();
    Message {
        id: notice.id,
        reply_to: None,
        deadline_ms: now_ms.saturating_add(age_max_ms.unwrap_or(AGE_DEFAULT_MS)),
        timeout_ms,
        expiration_ms: None,
        timestamp_s: Some(now_ms / 1000),
        persistent: true,
        attempt: 1,
        attempts_max,
        // One that was taken unseen is published again under its id.
        claimant: Some(fresh_claimant()),
        direct: None,
        spilled: None,
        intent: Intent::Invoke,
        method: Method::POST,
        url,
        app: app.to_owned(),
        fn_name: fn_name.to_owned(),
        // Whichever is current when it runs.
        revision: String::new(),
        operation: None,
        template: None,
        params: Vec::new(),
        headers,
        body: body.into(),
    }
}

fn queued(due: &DueCallback, call: &Message) -> CallEvent {
    let request = Some(Box::new(RecordedRequest::of(call)));
    let happened = Happened::Queued { source: Source::Callback, request, retry_of: None };
    event(due, call.id, &call.fn_name, happened)
}

fn event(due: &DueCallback, id: CallId, fn_name: &str, happened: Happened) -> CallEvent {
    CallEvent {
        user_id: None,
        id,
        namespace: due.namespace.clone(),
        app: due.app.clone(),
        fn_name: fn_name.to_owned(),
        at_ms: now_ms(),
        happened,
    }
}

/// A callback that was given up on ends the call that it would have been.
pub(super) async fn give_up(
    core: &Core,
    due: &DueCallback,
    fn_name: &str,
    settled: &Settled,
) -> Result<(), StoreError> {
    let id = callback_id(due.call, due.kind);
    if settled.status == CallbackStatus::Waiting || core.store.call_by_id(id).await?.is_none() {
        return Ok(());
    }
    let happened = Happened::Ended {
        attempt: 1,
        revision: String::new(),
        runner: String::new(),
        outcome: Ended::Error,
        is_final: true,
        reason: settled.error.clone(),
        answer: None,
        log: None,
    };
    core.store.apply(&[Entry::Call(event(due, id, fn_name, happened))]).await?;
    Ok(())
}
