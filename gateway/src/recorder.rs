//! What the ledger is told of calls: of those that somebody waits for, where their App wants them kept.
//! Never holds up a call: what finds no room is dropped and counted.

use std::sync::Arc;

use bytes::Bytes;
use funcatron_broker::link::{Confirm, Link, Target};
use funcatron_broker::message::{CallEvent, Ended, Happened, RecordedAnswer, RecordedBody};
use http::{HeaderMap, StatusCode};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::core::{Core, unix_ms};
use crate::problem::Problem;

/// Calls whose events wait for the link; each holds its request and its answer, of 64 KiB at most each.
pub(crate) const WAITING_MAX: usize = 1_000;

/// Both events of one call.
type Told = [CallEvent; 2];

/// One call's record, told when it ends, however it ends: so a gateway that dies leaves no call that never ends.
pub(crate) struct Recording {
    core: Arc<Core>,
    queued: Option<CallEvent>,
}

impl Recording {
    /// Begins with what was asked for.
    pub(crate) fn begin(core: &Arc<Core>, queued: CallEvent) -> Self {
        Self { core: Arc::clone(core), queued: Some(queued) }
    }

    /// The function answered.
    pub(crate) fn answered(self, status: StatusCode, headers: &HeaderMap, body: &Bytes) {
        self.with(status, RecordedAnswer::of(status, headers, body));
    }

    /// The function's answer has begun: its body, which may have no end, is not kept.
    pub(crate) fn began(self, status: StatusCode, headers: &HeaderMap, length: Option<u64>) {
        let body = RecordedBody::unkept(length);
        let answer = RecordedAnswer { body, ..RecordedAnswer::of(status, headers, &Bytes::new()) };
        self.with(status, answer);
    }

    fn with(mut self, status: StatusCode, answer: RecordedAnswer) {
        let outcome = if status.as_u16() < 400 { Ended::Success } else { Ended::Error };
        self.end(outcome, None, Some(Box::new(answer)));
    }

    /// There was no answer to give.
    pub(crate) fn failed(mut self, problem: &Problem) {
        let outcome =
            if problem.status() == StatusCode::GATEWAY_TIMEOUT { Ended::Timeout } else { Ended::Error };
        self.end(outcome, Some(problem.detail()), None);
    }

    fn end(&mut self, outcome: Ended, reason: Option<String>, answer: Option<Box<RecordedAnswer>>) {
        let Some(queued) = self.queued.take() else { return };
        let happened = Happened::Ended {
            attempt: 1,
            revision: String::new(),
            runner: String::new(),
            outcome,
            is_final: true,
            reason,
            answer,
            log: None,
        };
        let ended = CallEvent { at_ms: unix_ms(), happened, ..queued.clone() };
        if self.core.records.try_send([queued, ended]).is_err() {
            self.core.metrics.records_dropped.inc();
        }
    }
}

/// Its client left.
impl Drop for Recording {
    fn drop(&mut self) {
        self.end(Ended::Cancelled, Some("its client left".to_owned()), None);
    }
}

/// Tells the ledger until `stop`, and what then waits.
pub(crate) async fn run(core: Arc<Core>, mut told: mpsc::Receiver<Told>, stop: CancellationToken) {
    while let Some(Some(events)) = stop.run_until_cancelled(told.recv()).await {
        tell_both(&core, events).await;
    }
    while let Ok(events) = told.try_recv() {
        tell_both(&core, events).await;
    }
}

async fn tell_both(core: &Core, events: Told) {
    for event in events {
        let Some(session) = core.uplink.current() else {
            core.metrics.records_dropped.inc();
            return;
        };
        tell(core, &*session.link, event).await;
    }
}

/// Tells the ledger of one event. Confirmed, on the connection for that: a quorum queue must not hold up the calls' own.
/// What it does not take is counted; the call itself is not touched by that.
pub(crate) async fn tell(core: &Core, link: &dyn Link, event: CallEvent) {
    let id = event.id;
    let envelope = match event.into_envelope() {
        Ok(envelope) => envelope,
        Err(error) => return warn!(%error, call = %id, "an event cannot be sent to the ledger"),
    };
    let queue = core.tables.installation().ledger_queue();
    match link.publish_confirmed(Target::queue(&queue), envelope, false).await {
        Ok(Confirm::Acked) => {}
        refused => {
            warn!(?refused, call = %id, "the ledger was not told");
            core.metrics.records_dropped.inc();
        }
    }
}
