//! One call's way: published to its revision's queue, waited for, published again where its word allows, given up at
//! its deadline. Never reads a request and never writes a response.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::envelope::Envelope;
use funcatron_broker::link::{LinkError, Target};
use funcatron_broker::message::{CallId, CallRef, DecodeError, Intent, Outcome, Reply};
use http::{HeaderMap, Method};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;
use uuid::Uuid;

use crate::apps::{AppPart, FnPart, RevisionPart};
use crate::core::{Cancelled, Core, reason};
use crate::pending::Signal;
use crate::problem::Problem;
use crate::uplink::Session;
use crate::wake::{Interest, UNANSWERED};

/// Attempts of an idempotent call: a poison call must not walk through all runners.
const ATTEMPTS_MAX: u32 = 3;
/// Times that a returned call is dispatched again by the tables of the moment.
const RETURNS_MAX: u32 = 3;
/// Times that a call may find its link or channel gone before it was sent.
const UNPUBLISHED_MAX: u32 = 3;
/// A returned call waits this long for tables that know better.
const RETURN_PAUSE: Duration = Duration::from_millis(100);

/// A Fn to call, and what is known of the rule that led to it.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) app: Arc<AppPart>,
    pub(crate) function: Arc<FnPart>,
    pub(crate) intent: Intent,
    /// Instead of the Fn's.
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) operation: Option<String>,
    pub(crate) template: Option<String>,
    pub(crate) params: Vec<(String, String)>,
}

/// A call that has been read whole.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) id: Uuid,
    pub(crate) to: Destination,
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) clock: Clock,
}

/// A call's time, counted from its submission.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) submitted: Instant,
    pub(crate) submitted_unix_ms: u64,
    pub(crate) timeout: Duration,
}

impl Clock {
    fn deadline(&self) -> Instant {
        self.submitted + self.timeout
    }

    fn timeout_ms(&self) -> u64 {
        u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX)
    }

    fn left_ms(&self) -> u64 {
        let left = self.deadline().saturating_duration_since(Instant::now());
        u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
    }
}

/// How one attempt ended.
enum Ended {
    Reply(Box<Result<Reply, DecodeError>>),
    /// No queue took it.
    Returned,
    /// The link went before it was used.
    Unpublished,
    /// The link went after it was used.
    LinkLost,
    /// Its queue is gone; it may be running.
    QueueGone,
    Deadline,
    Unsendable,
}

/// How often a call has been tried, and whether it may have run.
struct Tries {
    attempt: u32,
    returns: u32,
    unpublished: u32,
    may_have_run: bool,
}

/// Dispatches a call until there is an answer to give. Dropped before that, it cancels the call.
pub(crate) async fn dispatch(core: &Arc<Core>, call: Submission) -> Result<Reply, Problem> {
    let idempotent = is_idempotent(&call.method);
    let mut leaver = Leaver { core, id: call.id, app: &call.to.app, published: false };
    let mut tries = Tries { attempt: 1, returns: 0, unpublished: 0, may_have_run: false };
    let answered = loop {
        let ended = match attempt(core, &call, &tries, &mut leaver.published).await {
            Ok(ended) => ended,
            Err(problem) => break Err(problem),
        };
        match after(core, ended, &mut tries, idempotent).await {
            Next::Answer(reply) => break Ok(*reply),
            Next::GiveUp(problem) => break Err(problem),
            Next::Again => {}
        }
    };
    // An earlier attempt's answer leaves a later attempt behind that nobody waits for.
    leaver.published = matches!(&answered, Ok(reply) if reply.attempt < tries.attempt);
    core.pending.remove(call.id);
    answered
}

/// By their meaning (RFC 9110, 9.2.2); a Route may say otherwise later.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE].contains(method)
}

enum Next {
    Answer(Box<Reply>),
    Again,
    GiveUp(Problem),
}

/// Decides what follows an attempt.
async fn after(core: &Core, ended: Ended, tries: &mut Tries, idempotent: bool) -> Next {
    match ended {
        Ended::Reply(reply) => return after_reply(core, *reply, tries, idempotent),
        Ended::Deadline => return Next::GiveUp(Problem::DeadlinePassed),
        Ended::Unsendable => return Next::GiveUp(Problem::HeadTooLarge),
        Ended::Unpublished if tries.unpublished < UNPUBLISHED_MAX => {
            tries.unpublished += 1;
            return Next::Again;
        }
        Ended::Unpublished if tries.may_have_run => return Next::GiveUp(Problem::OutcomeUnknown),
        Ended::Unpublished => return Next::GiveUp(Problem::BrokerAway),
        Ended::Returned if tries.returns == RETURNS_MAX => return Next::GiveUp(Problem::Unroutable),
        Ended::Returned => {
            tries.returns += 1;
            pause(core).await;
            return Next::Again;
        }
        Ended::LinkLost if !idempotent => return Next::GiveUp(Problem::OutcomeUnknown),
        Ended::LinkLost | Ended::QueueGone => {}
    }
    again(core, tries, Problem::OutcomeUnknown)
}

fn after_reply(core: &Core, reply: Result<Reply, DecodeError>, tries: &mut Tries, idempotent: bool) -> Next {
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => {
            return Next::GiveUp(Problem::FunctionFailed(format!("the reply is nonsense: {error}")));
        }
    };
    Next::GiveUp(match reply.outcome {
        Outcome::Answer(_) => return Next::Answer(Box::new(reply)),
        Outcome::RunnerLost if idempotent => return again(core, tries, Problem::RunnerLost),
        Outcome::RunnerLost => Problem::RunnerLost,
        Outcome::Failed => Problem::FunctionFailed(reason(&reply.body, "the function failed")),
        Outcome::TimedOut => Problem::DeadlinePassed,
        Outcome::NotHere => Problem::NotHosted(reason(&reply.body, "the runner cannot host this revision")),
        Outcome::Expired => Problem::NotStarted,
        Outcome::BadWire => Problem::BadWire(reason(&reply.body, "the runner does not speak this version")),
    })
}

/// Another attempt, if one is left.
fn again(core: &Core, tries: &mut Tries, otherwise: Problem) -> Next {
    tries.may_have_run = true;
    if tries.attempt == ATTEMPTS_MAX {
        return Next::GiveUp(otherwise);
    }
    tries.attempt += 1;
    core.metrics.attempts_again.inc();
    Next::Again
}

/// Until a table changes, and not long.
async fn pause(core: &Core) {
    let mut changes = core.tables.changes();
    let _ = tokio::time::timeout(RETURN_PAUSE, changes.changed()).await;
}

/// One attempt by the tables and over the link of the moment.
async fn attempt(
    core: &Arc<Core>,
    call: &Submission,
    tries: &Tries,
    published: &mut bool,
) -> Result<Ended, Problem> {
    let (app, revision) = current_revision(core, &call.to, tries)?;
    let deadline = call.clock.deadline();
    let session = match core.uplink.current() {
        Some(session) => session,
        None if !tries.may_have_run => return Err(Problem::BrokerAway),
        None => match timeout_at(deadline, core.uplink.wait()).await {
            Ok(session) => session,
            Err(_) => return Ok(Ended::Deadline),
        },
    };
    let Some(envelope) = message(call, &revision, &session, tries.attempt) else {
        return Ok(Ended::Unsendable);
    };
    let told = core.pending.insert(call.id, tries.attempt, session.epoch, &app.user);
    // A link that went before the insertion has told its calls already, perhaps without this one.
    if !core.uplink.is_current(session.epoch) {
        core.pending.remove(call.id);
        return Ok(Ended::Unpublished);
    }
    *published = true;
    match timeout_at(deadline, session.link.publish(Target::queue(&revision.queue), envelope, true)).await {
        Ok(Ok(())) => {}
        Err(_) => return Ok(Ended::Deadline),
        Ok(Err(LinkError::Unsendable(why))) => {
            debug!(why, call = %call.id, "a call cannot travel");
            return Ok(Ended::Unsendable);
        }
        Ok(Err(error)) => {
            debug!(%error, call = %call.id, "could not publish");
            core.pending.remove(call.id);
            return Ok(Ended::Unpublished);
        }
    }
    Ok(wait(core, &app, &revision, told, deadline, is_idempotent(&call.method)).await)
}

/// The revision that serves the Fn now. Once the call may have run, the one it began with is as good as none.
fn current_revision(
    core: &Core,
    to: &Destination,
    tries: &Tries,
) -> Result<(Arc<AppPart>, Arc<RevisionPart>), Problem> {
    if tries.attempt == 1 && tries.returns == 0 {
        let revision = to.function.revision.clone().ok_or(Problem::NoRevision)?;
        return Ok((Arc::clone(&to.app), revision));
    }
    let app = core.tables.app(&to.app.namespace, &to.app.app).ok_or(Problem::NoApp)?;
    let revision = app.function(&to.function.name).and_then(|function| function.revision.clone());
    revision.map(|revision| (app, revision)).ok_or(Problem::NoRevision)
}

fn message(call: &Submission, revision: &RevisionPart, session: &Session, attempt: u32) -> Option<Envelope> {
    let Submission { id, to, method, url, headers, body, clock } = call;
    let message = CallRef {
        id: CallId::from_uuid(*id),
        reply_to: Some(&session.reply_to),
        deadline_ms: clock.submitted_unix_ms.saturating_add(clock.timeout_ms()),
        timeout_ms: clock.timeout_ms(),
        expiration_ms: Some(clock.left_ms()),
        timestamp_s: Some(clock.submitted_unix_ms / 1000),
        persistent: false,
        attempt,
        intent: to.intent,
        method,
        url,
        app: &to.app.app,
        fn_name: &to.function.name,
        revision: revision.entry.name.as_str(),
        operation: to.operation.as_deref(),
        template: to.template.as_deref(),
        params: &to.params,
        headers,
        body,
    };
    let encoded = message.to_envelope();
    encoded.inspect_err(|error| debug!(%error, call = %id, "a call cannot be encoded")).ok()
}

/// Waits for word of one attempt; after a while, with an eye on its queue.
async fn wait(
    core: &Arc<Core>,
    app: &Arc<AppPart>,
    revision: &Arc<RevisionPart>,
    mut told: oneshot::Receiver<Signal>,
    deadline: Instant,
    idempotent: bool,
) -> Ended {
    let timer = sleep_until(deadline.min(Instant::now() + UNANSWERED));
    tokio::pin!(timer);
    tokio::select! {
        biased;
        signal = &mut told => return heard(signal),
        () = &mut timer => {}
    }
    let mut interest = Interest::join(core, app, revision);
    timer.as_mut().reset(deadline);
    tokio::select! {
        biased;
        signal = &mut told => heard(signal),
        () = &mut timer => Ended::Deadline,
        // Deleting an empty queue leaves the calls alone that runners hold: only what may run twice is tried elsewhere.
        () = interest.gone(), if idempotent => Ended::QueueGone,
    }
}

fn heard(signal: Result<Signal, oneshot::error::RecvError>) -> Ended {
    match signal {
        Ok(Signal::Reply(reply)) => Ended::Reply(reply),
        Ok(Signal::Returned) => Ended::Returned,
        // An entry that is dropped untold was replaced, which its own call alone does.
        Ok(Signal::LinkLost) | Err(_) => Ended::LinkLost,
    }
}

/// Dropped while its call is out, it tells the App's runners that nobody waits.
struct Leaver<'a> {
    core: &'a Core,
    id: Uuid,
    app: &'a Arc<AppPart>,
    published: bool,
}

impl Drop for Leaver<'_> {
    fn drop(&mut self) {
        if !self.published {
            return;
        }
        self.core.pending.remove(self.id);
        let cancelled = Cancelled { id: self.id, app: Arc::clone(self.app) };
        if self.core.cancels.try_send(cancelled).is_err() {
            self.core.metrics.cancels_dropped.inc();
        }
    }
}
