//! One call's way: published to its revision's queue, waited for, published again where its word allows, given up at
//! its deadline. Never reads a request and never writes a response.

use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::link::{LinkError, Target};
use funcatron_broker::message::{DecodeError, Outcome, ReadHeadError, Reply};
use tokio::sync::oneshot;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;
use uuid::Uuid;

use crate::apps::{AppPart, RevisionPart};
use crate::body::ReadBodyError;
use crate::core::{Cancelled, Core, reason};
use crate::direct::{DirectAnswer, UploadOwner};
use crate::missing;
use crate::pending::Signal;
use crate::problem::Problem;
use crate::submission::Submission;
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
    /// An answer has begun on its stream.
    Direct(Box<Result<DirectAnswer, ReadHeadError>>),
    BodyLost(ReadBodyError),
}

/// An answer to give.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It came whole.
    Reply(Box<Reply>),
    /// It comes over a stream. With it what is left of the request's body, which may still be on its way.
    Direct(Box<DirectAnswer>, Option<UploadOwner>),
}

impl Answer {
    fn attempt(&self) -> u32 {
        match self {
            Self::Reply(reply) => reply.attempt,
            Self::Direct(answer, _) => answer.attempt,
        }
    }
}

/// How often a call has been tried, and whether it may have run.
struct Tries {
    attempt: u32,
    returns: u32,
    unpublished: u32,
    may_have_run: bool,
}

/// Dispatches a call until there is an answer to give. Dropped before that, it cancels the call.
pub(crate) async fn dispatch(core: &Arc<Core>, mut call: Submission) -> Result<Answer, Problem> {
    let id = call.id();
    let mut leaver = Leaver { core, id, app: Arc::clone(&call.app), published: false };
    let mut tries = Tries { attempt: 1, returns: 0, unpublished: 0, may_have_run: false };
    let answered = loop {
        let ended = match attempt(core, &mut call, &tries, &mut leaver.published).await {
            Ok(ended) => ended,
            Err(problem) => break Err(problem),
        };
        match after(core, ended, &mut tries, &mut call).await {
            Next::Answer(answer) => break Ok(answer),
            Next::GiveUp(problem) => break Err(problem),
            Next::Again => {}
        }
    };
    // An earlier attempt's answer leaves a later attempt behind that nobody waits for.
    leaver.published = matches!(&answered, Ok(answer) if answer.attempt() < tries.attempt);
    core.pending.remove(id);
    answered
}

enum Next {
    Answer(Answer),
    Again,
    GiveUp(Problem),
}

/// Decides what follows an attempt.
async fn after(core: &Core, ended: Ended, tries: &mut Tries, call: &mut Submission) -> Next {
    match ended {
        Ended::Reply(reply) => return after_reply(core, *reply, tries, call),
        Ended::Direct(answer) => return after_direct(*answer, call),
        Ended::BodyLost(error) => return Next::GiveUp(Problem::unread(&error)),
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
        Ended::LinkLost if !call.reclaim() => return Next::GiveUp(Problem::OutcomeUnknown),
        Ended::LinkLost | Ended::QueueGone => {}
    }
    again(core, tries, Problem::OutcomeUnknown)
}

fn after_direct(answer: Result<DirectAnswer, ReadHeadError>, call: &mut Submission) -> Next {
    match answer {
        Ok(answer) => Next::Answer(Answer::Direct(Box::new(answer), call.take_upload())),
        Err(error) => Next::GiveUp(nonsense(&error)),
    }
}

fn nonsense(error: &dyn std::error::Error) -> Problem {
    Problem::FunctionFailed(format!("the reply is nonsense: {error}"))
}

fn after_reply(core: &Core, reply: Result<Reply, DecodeError>, tries: &mut Tries, call: &Submission) -> Next {
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => return Next::GiveUp(nonsense(&error)),
    };
    Next::GiveUp(match reply.outcome {
        Outcome::Answer(_) => return Next::Answer(Answer::Reply(Box::new(reply))),
        Outcome::RunnerLost if call.reclaim() => return again(core, tries, Problem::RunnerLost),
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
    call: &mut Submission,
    tries: &Tries,
    published: &mut bool,
) -> Result<Ended, Problem> {
    let (app, revision) = current_revision(core, call, tries)?;
    let deadline = call.clock.deadline();
    let Some(session) = session(core, tries, deadline).await? else { return Ok(Ended::Deadline) };
    let id = call.id();
    let offered = call.offer(&core.config.direct_at);
    let envelope = match call.attempt(tries.attempt, &revision, &session) {
        Ok(envelope) => envelope,
        Err(error) => {
            debug!(%error, call = %id, "a call cannot be encoded");
            return Ok(Ended::Unsendable);
        }
    };
    let told = core.pending.insert(id, tries.attempt, session.epoch, &app.user, offered);
    // A link that went before the insertion has told its calls already, perhaps without this one.
    if !core.uplink.is_current(session.epoch) {
        core.pending.remove(id);
        return Ok(Ended::Unpublished);
    }
    *published = true;
    let publishing = session.link.publish(Target::queue(&revision.queue), envelope, true);
    if let Some(ended) = unpublished(timeout_at(deadline, publishing).await, id) {
        core.pending.remove(id);
        return Ok(ended);
    }
    let ended = wait(core, &app, &revision, told, call).await;
    // Once may be for a table that was about to change.
    if matches!(ended, Ended::Returned) && tries.returns > 0 {
        missing::tell(core, &app, &revision).await;
    }
    Ok(ended)
}

/// How an attempt ended that was not published, as far as is known.
fn unpublished(published: Result<Result<(), LinkError>, Elapsed>, id: Uuid) -> Option<Ended> {
    match published {
        Ok(Ok(())) => None,
        Err(_) => Some(Ended::Deadline),
        Ok(Err(LinkError::Unsendable(why))) => {
            debug!(why, call = %id, "a call cannot travel");
            Some(Ended::Unsendable)
        }
        Ok(Err(error)) => {
            debug!(%error, call = %id, "could not publish");
            Some(Ended::Unpublished)
        }
    }
}

/// A link to publish over: the one of the moment, or for a call that may have run the next one, none by its deadline.
async fn session(core: &Core, tries: &Tries, deadline: Instant) -> Result<Option<Arc<Session>>, Problem> {
    match core.uplink.current() {
        // What the broker does not take for now would hang until its deadline.
        Some(session) if !session.link.is_blocked() || tries.may_have_run => Ok(Some(session)),
        None if tries.may_have_run => Ok(timeout_at(deadline, core.uplink.wait()).await.ok()),
        Some(_) | None => Err(Problem::BrokerAway),
    }
}

/// The revision that serves the Fn now. Once the call may have run, the one it began with is as good as none.
fn current_revision(
    core: &Core,
    call: &Submission,
    tries: &Tries,
) -> Result<(Arc<AppPart>, Arc<RevisionPart>), Problem> {
    if tries.attempt == 1 && tries.returns == 0 {
        let revision = call.function.revision.clone().ok_or(Problem::NoRevision)?;
        return Ok((Arc::clone(&call.app), revision));
    }
    let app = core.tables.app(&call.app.namespace, &call.app.app).ok_or(Problem::NoApp)?;
    let revision = app.function(&call.function.name).and_then(|function| function.revision.clone());
    revision.map(|revision| (app, revision)).ok_or(Problem::NoRevision)
}

/// Waits for word of one attempt; after a while, with an eye on its queue.
async fn wait(
    core: &Arc<Core>,
    app: &Arc<AppPart>,
    revision: &Arc<RevisionPart>,
    mut told: oneshot::Receiver<Signal>,
    call: &Submission,
) -> Ended {
    let deadline = call.clock.deadline();
    let timer = sleep_until(deadline.min(Instant::now() + UNANSWERED));
    tokio::pin!(timer);
    tokio::select! {
        biased;
        signal = &mut told => return heard(signal),
        () = &mut timer => {}
    }
    let mut interest = Interest::join(core, app, revision);
    let gone = async {
        interest.gone().await;
        if !call.reclaim() {
            std::future::pending::<()>().await;
        }
    };
    timer.as_mut().reset(deadline);
    tokio::select! {
        biased;
        signal = &mut told => heard(signal),
        () = &mut timer => Ended::Deadline,
        // Deleting an empty queue leaves the calls alone that runners hold: only what may run twice is tried elsewhere.
        () = gone => Ended::QueueGone,
    }
}

fn heard(signal: Result<Signal, oneshot::error::RecvError>) -> Ended {
    match signal {
        Ok(Signal::Reply(reply)) => Ended::Reply(reply),
        Ok(Signal::Direct(answer)) => Ended::Direct(answer),
        Ok(Signal::BodyLost(error)) => Ended::BodyLost(error),
        Ok(Signal::Returned) => Ended::Returned,
        // An entry that is dropped untold was replaced, which its own call alone does.
        Ok(Signal::LinkLost) | Err(_) => Ended::LinkLost,
    }
}

/// Dropped while its call is out, it tells the App's runners that nobody waits.
struct Leaver<'a> {
    core: &'a Core,
    id: Uuid,
    app: Arc<AppPart>,
    published: bool,
}

impl Drop for Leaver<'_> {
    fn drop(&mut self) {
        if !self.published {
            return;
        }
        self.core.pending.remove(self.id);
        let cancelled = Cancelled { id: self.id, app: Arc::clone(&self.app) };
        if self.core.cancels.try_send(cancelled).is_err() {
            self.core.metrics.cancels_dropped.inc();
        }
    }
}
