//! What the events of a call make of it, and who may run an attempt: pure, so that it can be proved without a database.
//!
//! Events come twice and in any order. A call has one terminal state: the first that came, which never changes.
//! Never performs I/O, never reads a clock.

use funcatron_broker::message::{
    CALLBACK_OF_HEADER, CallEvent, CallId, Claim, Ended, Happened, RecordedAnswer, RecordedRequest, Source,
    Verdict,
};

/// Where a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Accepted, and not begun; or an attempt failed and the next has not begun.
    Queued,
    /// A runner has it.
    Running,
    /// The function answered, and well.
    Success,
    /// It failed, and is not tried again.
    Error,
    /// It was not done in time, and is not tried again.
    Timeout,
    /// It was taken back before it began.
    Cancelled,
    /// It was given up on, and is among the dead letters.
    Dead,
}

impl Status {
    const ALL: [Self; 7] =
        [Self::Queued, Self::Running, Self::Success, Self::Error, Self::Timeout, Self::Cancelled, Self::Dead];

    /// As it stands in the database and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Success => "success",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Dead => "dead",
        }
    }

    /// Reads it back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether nothing follows.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// Whether a runner's word on an attempt made it.
    fn is_a_runners(self) -> bool {
        matches!(self, Self::Success | Self::Error | Self::Timeout)
    }
}

/// Whether a call's end is told to whom its Fn names. Later ones win over earlier ones, whatever the order of events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tells {
    /// Neither its `queued` nor a runner's word has come.
    #[default]
    Unknown,
    /// Nobody waits for it.
    Yes,
    /// Somebody waited for it; or it is a callback itself, and callbacks of callbacks would have no end.
    No,
}

impl Tells {
    /// What a call's `queued` says of it.
    fn of(source: Source, request: Option<&RecordedRequest>) -> Self {
        let is_callback = |request: &RecordedRequest| {
            request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(CALLBACK_OF_HEADER))
        };
        match (source, request) {
            (Source::Callback, _) => Self::No,
            // A callback that is repeated is still one.
            (_, Some(request)) if is_callback(request) => Self::No,
            (Source::Schedule | Source::Retry | Source::Event, _) => Self::Yes,
            (Source::Http | Source::Invoke, Some(request)) if request.age_max_ms.is_some() => Self::Yes,
            (Source::Http | Source::Invoke, Some(_)) => Self::No,
            (Source::Http | Source::Invoke, None) => Self::Unknown,
        }
    }
}

/// Which end of a call is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallbackKind {
    /// `onSuccess`.
    Success,
    /// `onFailure`.
    Failure,
}

/// What is known of a call, but for request, answer and log, which no decision needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallState {
    /// Its id.
    pub id: CallId,
    /// The App's namespace.
    pub namespace: String,
    /// The App.
    pub app: String,
    /// The Fn.
    pub fn_name: String,
    /// Where it stands.
    pub status: Status,
    /// Where it came from, once its `queued` has come.
    pub source: Option<Source>,
    /// The call that it repeats.
    pub retry_of: Option<CallId>,
    /// When it was accepted; the first that is known of it, until its `queued` has come.
    pub submitted_ms: u64,
    /// When its first attempt began.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub completed_ms: Option<u64>,
    /// When the last was heard of it.
    pub heard_ms: u64,
    /// The highest attempt that is known of.
    pub attempts: u32,
    /// The highest attempt that began …
    pub started_attempt: u32,
    /// … the highest that failed while another was to follow …
    pub failed_attempt: u32,
    /// … and the one whose answer is kept.
    pub answer_attempt: u32,
    /// The revision of its last attempt.
    pub revision: Option<String>,
    /// The runner of its last attempt.
    pub runner: Option<String>,
    /// Why it stands where it stands.
    pub reason: Option<String>,
    /// Whether its end is told to whom its Fn names.
    pub tells: Tells,
}

/// What an event made of a call, and what it brought along to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The call now.
    pub state: CallState,
    /// What was asked for.
    pub request: Option<Box<RecordedRequest>>,
    /// The answer that replaces the one kept; the inner `None` says that there is none any more.
    pub answer: Option<Option<Box<RecordedAnswer>>>,
    /// The log of an attempt.
    pub log: Option<(u32, String)>,
}

/// A runner's word on an attempt.
struct Word {
    at_ms: u64,
    attempt: u32,
    outcome: Ended,
    is_final: bool,
    reason: Option<String>,
}

/// What an event makes of a call. `None`: it says nothing about it, or speaks of another App's.
pub fn apply(known: Option<CallState>, event: CallEvent) -> Option<Applied> {
    let CallEvent { user_id, id, namespace, app, fn_name, at_ms, happened } = event;
    if matches!(happened, Happened::Ended { outcome: Ended::Duplicate, .. }) {
        return None;
    }
    let state = match known {
        Some(known) if known.namespace != namespace || known.app != app => return None,
        Some(known) => known,
        None => CallState::new(id, namespace, app, fn_name, at_ms),
    };
    let mut applied = Applied { state, request: None, answer: None, log: None };
    let state = &mut applied.state;
    state.heard_ms = state.heard_ms.max(at_ms);
    if user_id.is_some() {
        // Runners speak of what was in a durable queue alone: nobody waits, even where its `queued` was lost.
        state.tells = state.tells.max(Tells::Yes);
    }
    match happened {
        Happened::Queued { source, request, retry_of } => {
            state.tells = state.tells.max(Tells::of(source, request.as_deref()));
            applied.request = request;
            state.queue(at_ms, source, retry_of);
        }
        Happened::Started { attempt, revision, runner } => state.start(at_ms, attempt, revision, runner),
        Happened::Ended { attempt, revision, runner, outcome, is_final, reason, answer, log } => {
            if state.takes_answer(attempt) {
                state.answer_attempt = attempt;
                applied.answer = Some(answer);
            }
            applied.log = log.filter(|log| !log.is_empty()).map(|log| (attempt, log));
            state.attribute(attempt, revision, runner);
            state.end(Word { at_ms, attempt, outcome, is_final, reason });
        }
        Happened::Dead { reason } => state.finish(Status::Dead, at_ms, Some(reason)),
        Happened::Cancelled if state.status == Status::Queued => {
            state.finish(Status::Cancelled, at_ms, None);
        }
        Happened::Cancelled => {}
    }
    state.settle();
    Some(applied)
}

impl CallState {
    fn new(id: CallId, namespace: String, app: String, fn_name: String, at_ms: u64) -> Self {
        Self {
            id,
            namespace,
            app,
            fn_name,
            status: Status::Queued,
            source: None,
            retry_of: None,
            submitted_ms: at_ms,
            started_ms: None,
            completed_ms: None,
            heard_ms: at_ms,
            attempts: 0,
            started_attempt: 0,
            failed_attempt: 0,
            answer_attempt: 0,
            revision: None,
            runner: None,
            reason: None,
            tells: Tells::Unknown,
        }
    }

    /// The end that is to be told, if there is one. Who takes a call back knows it already.
    pub fn callback(&self) -> Option<CallbackKind> {
        match self.status {
            _ if self.tells != Tells::Yes => None,
            Status::Success => Some(CallbackKind::Success),
            Status::Error | Status::Timeout | Status::Dead => Some(CallbackKind::Failure),
            Status::Queued | Status::Running | Status::Cancelled => None,
        }
    }

    fn queue(&mut self, at_ms: u64, source: Source, retry_of: Option<CallId>) {
        self.submitted_ms = at_ms;
        self.source = Some(source);
        self.retry_of = retry_of;
    }

    fn start(&mut self, at_ms: u64, attempt: u32, revision: String, runner: String) {
        self.attribute(attempt, revision, runner);
        self.started_ms = Some(self.started_ms.map_or(at_ms, |known| known.min(at_ms)));
        self.started_attempt = self.started_attempt.max(attempt);
        self.guess_submitted(at_ms);
    }

    /// Until its `queued` has come, the earliest that is known of it.
    fn guess_submitted(&mut self, at_ms: u64) {
        if self.source.is_none() {
            self.submitted_ms = self.submitted_ms.min(at_ms);
        }
    }

    /// An attempt's revision and runner are the call's while no higher one is known.
    fn attribute(&mut self, attempt: u32, revision: String, runner: String) {
        if attempt >= self.attempts {
            self.attempts = attempt;
            self.revision = Some(revision);
            self.runner = Some(runner);
        }
    }

    /// The last attempt's answer is the call's; one that ended the call is not replaced.
    fn takes_answer(&self, attempt: u32) -> bool {
        attempt >= self.answer_attempt && !self.status.is_a_runners()
    }

    fn end(&mut self, word: Word) {
        let Word { at_ms, attempt, outcome, is_final, reason } = word;
        self.guess_submitted(at_ms);
        let status = match outcome {
            Ended::Success => Status::Success,
            // Nobody wants it: another attempt would be nobody's either.
            Ended::Cancelled => Status::Cancelled,
            Ended::Error | Ended::Timeout if !is_final => {
                if attempt >= self.failed_attempt && !self.status.is_terminal() {
                    self.reason = reason;
                }
                self.failed_attempt = self.failed_attempt.max(attempt);
                return;
            }
            Ended::Error => Status::Error,
            Ended::Timeout => Status::Timeout,
            Ended::Duplicate => return,
        };
        self.finish(status, at_ms, reason);
    }

    /// ▪ The first terminal state stays.
    fn finish(&mut self, status: Status, at_ms: u64, reason: Option<String>) {
        if !self.status.is_terminal() {
            self.status = status;
            self.completed_ms = Some(at_ms);
            self.reason = reason;
        }
    }

    fn settle(&mut self) {
        if !self.status.is_terminal() {
            let runs = self.started_attempt > self.failed_attempt;
            self.status = if runs { Status::Running } else { Status::Queued };
        }
    }
}

/// The publication that is the call: the first that was claimed, with the highest of its attempts that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimant {
    /// The attempt.
    pub attempt: u32,
    /// The publication's nonce.
    pub claimant: String,
}

/// Whether a publication's attempt is to be run; `Run` makes it the call, where none was.
///
/// Attempts of one publication have numbers that grow, so that what a lost runner had claimed is claimed again, and
/// what it asks afterwards is refused. Those of two publications cannot be compared: only one of them counts.
pub fn decide(recorded: Option<&Claimant>, status: Option<Status>, claim: &Claim) -> Verdict {
    if recorded.is_some_and(|known| known.claimant != claim.claimant || known.attempt > claim.attempt) {
        return Verdict::Duplicate;
    }
    match status {
        // Its runner was lost between the word that it is dead and the broker's.
        Some(Status::Dead) => Verdict::Dead,
        Some(status) if status.is_terminal() => Verdict::Duplicate,
        _ => Verdict::Run,
    }
}

#[cfg(test)]
mod tests;
