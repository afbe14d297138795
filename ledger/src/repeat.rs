//! Calls that run again: a retry of one that has ended, and what a dead letter becomes. Each is a new call with an id of
//! its own, since a terminal state never changes.
//!
//! Never repeats what was not kept whole.

use bytes::Bytes;
use funcatron_broker::link::{Confirm, Link, LinkError, Target};
use funcatron_broker::message::{
    AGE_DEFAULT_MS, Call as Message, CallEvent, CallId, Cancel, Happened, RecordedBody, RecordedRequest,
    Source, SpilledBody, fresh_claimant, is_redacted,
};
use funcatron_broker::names::AppNames;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tracing::{debug, warn};

use crate::clock::now_ms;
use crate::core::Core;
use crate::objects::{ObjectError, ObjectName};
use crate::state::Status;
use crate::store::{Call, Entry};

/// For a call whose timeout was not kept: a Fn's own default.
const TIMEOUT_MS: u64 = 30_000;

/// Why a call does not run again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RepeatError {
    #[error("it has not ended")]
    NotEnded,
    #[error("{0}")]
    NotKept(&'static str),
    #[error("its function has no durable queue")]
    NoQueue,
    #[error("its function's queue takes no more")]
    Full,
    #[error("its body could not be given to the call that repeats it")]
    Body(#[from] ObjectError),
    #[error("it could not be published")]
    Publish(#[source] LinkError),
}

/// Publishes a call again and says under which id.
pub(crate) async fn again(core: &Core, link: &dyn Link, call: Call) -> Result<CallId, RepeatError> {
    let (before, state) = (call.state.id, call.state.clone());
    let id = CallId::fresh();
    let mut message = message(id, call, now_ms())?;
    let body_of = carry_body(core, &mut message, before, &state.namespace).await?;
    let request = RecordedRequest::of(&message);
    let names = AppNames::new(&core.installation, &state.namespace, &state.app);
    let queue = names.and_then(|names| names.durable_queue(&state.fn_name));
    let queue = queue.map_err(|_| RepeatError::NoQueue)?;
    let envelope = message.to_envelope();
    let envelope =
        envelope.map_err(|_| RepeatError::NotKept("its headers are more than a message may have"))?;
    let refused = match link.publish_confirmed(Target::queue(&queue), envelope, true).await {
        Ok(Confirm::Acked) => None,
        Ok(Confirm::Nacked) => Some(RepeatError::Full),
        Ok(Confirm::Returned) => Some(RepeatError::NoQueue),
        // It may have been sent, and then it needs its body.
        Err(error) => return Err(RepeatError::Publish(error)),
    };
    if let Some(refused) = refused {
        drop_body(core, body_of).await;
        return Err(refused);
    }
    let event = CallEvent {
        user_id: None,
        id,
        namespace: state.namespace,
        app: state.app,
        fn_name: state.fn_name,
        at_ms: now_ms(),
        happened: queued(before, request),
    };
    record(core, link, vec![event]).await;
    Ok(id)
}

/// Gives a body that is in the object store to the call that repeats its own.
async fn carry_body(
    core: &Core,
    message: &mut Message,
    before: CallId,
    namespace: &str,
) -> Result<Option<ObjectName>, RepeatError> {
    let Some(SpilledBody { digest, size, at: _ }) = message.spilled.take() else { return Ok(None) };
    let gone = RepeatError::NotKept("its body is no longer kept");
    let Some(objects) = &core.objects else { return Err(gone) };
    let name = |id| ObjectName::new(&core.installation, namespace, &message.app, id);
    let Some((from, to)) = name(before).zip(name(message.id)) else { return Err(gone) };
    if !objects.copy(&from, &to, objects.room()).await? {
        return Err(gone);
    }
    message.spilled = Some(objects.spilled(&to, digest, size, message.deadline_ms));
    Ok(Some(to))
}

/// The body of a call that was not published.
async fn drop_body(core: &Core, name: Option<ObjectName>) {
    let (Some(objects), Some(name)) = (&core.objects, name) else { return };
    if let Err(error) = objects.delete(&name).await {
        debug!(%error, call = %name.id(), "the sweep takes away the body of a call that was not repeated");
    }
}

/// What the ledger keeps of a repeated call.
pub(crate) fn queued(before: CallId, request: RecordedRequest) -> Happened {
    Happened::Queued { source: Source::Retry, request: Some(Box::new(request)), retry_of: Some(before) }
}

/// Writes what was accepted, so that whoever asks next finds it; through the queue where the database is away.
pub(crate) async fn record(core: &Core, link: &dyn Link, events: Vec<CallEvent>) {
    let entries: Vec<Entry> = events.iter().cloned().map(Entry::Call).collect();
    if core.store.apply(&entries).await.is_ok() {
        return;
    }
    let queue = core.installation.ledger_queue();
    for event in events {
        let id = event.id;
        let Ok(envelope) = event.into_envelope() else { continue };
        let published = link.publish_confirmed(Target::queue(&queue), envelope, true).await;
        if !matches!(published, Ok(Confirm::Acked)) {
            // Its runner's events still make it a record, without its request.
            warn!(call = %id, ?published, "a repeated call is not recorded");
        }
    }
}

/// Tells the App's runners that nobody wants a call.
pub(crate) async fn tell_runners(core: &Core, link: &dyn Link, id: CallId, namespace: &str, app: &str) {
    let Ok(names) = AppNames::new(&core.installation, namespace, app) else { return };
    let (exchange, envelope) = (names.cancel_exchange(), Cancel { id }.into_envelope());
    // Without runners, or without the App, nobody is there to hear it; a claim would be told `duplicate`.
    if let Err(error) = link.publish_confirmed(Target::exchange(&exchange, ""), envelope, false).await {
        debug!(%error, call = %id, "no runner was told of a cancelled call");
    }
}

/// What was asked for, if all of it was kept and it may be asked again.
fn whole_request(
    kept: Option<RecordedRequest>,
    status: Status,
    is_trimmed: bool,
) -> Result<RecordedRequest, RepeatError> {
    if !status.is_terminal() {
        return Err(RepeatError::NotEnded);
    }
    let request = match kept {
        Some(request) => request,
        None if is_trimmed => {
            return Err(RepeatError::NotKept("its request had to make room for newer calls"));
        }
        None => return Err(RepeatError::NotKept("its request was not kept")),
    };
    if request.body.truncated && request.body.digest.is_none() {
        return Err(RepeatError::NotKept("its body was longer than what is kept"));
    }
    if request.cut {
        return Err(RepeatError::NotKept("its headers or its URL were longer than what is kept"));
    }
    Ok(request)
}

/// The call as a gateway would send it to its Fn's durable queue; a body in the object store is yet to be given to it.
fn message(id: CallId, call: Call, now_ms: u64) -> Result<Message, RepeatError> {
    let request = whole_request(call.request, call.state.status, call.is_trimmed)?;
    let method = Method::from_bytes(request.method.as_bytes());
    let timeout_ms = if request.timeout == 0 { TIMEOUT_MS } else { request.timeout };
    let deadline_ms = deadline_ms(&request, now_ms);
    let RecordedBody { bytes, body_bytes, digest, .. } = request.body;
    let spilled = digest.map(|digest| SpilledBody { digest, size: body_bytes, at: String::new() });
    let body = if spilled.is_some() { Bytes::new() } else { bytes };
    Ok(Message {
        id,
        reply_to: None,
        deadline_ms,
        timeout_ms,
        expiration_ms: None,
        timestamp_s: Some(now_ms / 1000),
        persistent: true,
        attempt: 1,
        attempts_max: request.attempts_max,
        claimant: Some(fresh_claimant()),
        direct: None,
        spilled,
        intent: request.intent,
        method: method.map_err(|_| RepeatError::NotKept("its method is not an HTTP method"))?,
        url: request.url,
        app: call.state.app,
        fn_name: call.state.fn_name,
        revision: request.revision.or(call.state.revision).unwrap_or_default(),
        operation: request.operation,
        template: request.template,
        params: request.params.into_iter().collect(),
        headers: headers(request.headers),
        body,
    })
}

/// A repeated call may wait as long as the first one might.
pub(crate) fn deadline_ms(request: &RecordedRequest, now_ms: u64) -> u64 {
    now_ms.saturating_add(request.age_max_ms.unwrap_or(AGE_DEFAULT_MS))
}

/// Credentials were not kept: the call goes without them.
fn headers(kept: Vec<(String, String)>) -> HeaderMap {
    let plain = kept.into_iter().filter(|(_, value)| !is_redacted(value.as_bytes()));
    plain
        .filter_map(|(name, value)| {
            Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
        })
        .fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        })
}
