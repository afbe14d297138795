//! What the ledger is told of calls that nobody waits for, and how: before the broker's last word on each.
//! Never decides what becomes of a call.

use std::time::Duration;

use funcatron_broker::link::{Confirm, LinkError, Target};
use funcatron_broker::message::{CallEvent, Ended, Happened, Outcome, RecordedAnswer};
use funcatron_broker::names::LEDGER_KEY;
use tracing::{debug, warn};

use crate::attempted::Attempted;
use crate::call::Caller;
use crate::durable::{Attempt, Next, ended};
use crate::session::{Identity, Session, now_ms};
use funcatron_broker::backoff::Backoff;

/// A ledger's queue that is full takes events again once the ledger has caught up.
const FULL_FIRST: Duration = Duration::from_millis(100);
const FULL_LONGEST: Duration = Duration::from_secs(2);

impl Caller {
    /// An attempt begins. If the word is lost, the ledger learns as much from its end.
    pub(crate) async fn began(&self, attempt: &Attempt, session: &Session) {
        let (revision, runner) = self.whereabouts();
        let event = self.event(attempt, Happened::Started { attempt: attempt.number, revision, runner });
        let Ok(envelope) = event.into_envelope() else { return };
        let to = Target::exchange(&self.identity.replies, LEDGER_KEY);
        if let Err(error) = session.link.publish(to, envelope, false).await {
            debug!(%error, call = %attempt.id, "the ledger is not told of a start");
        }
    }

    /// An attempt has ended, and the call with it where nothing follows.
    pub(crate) fn over(&self, attempt: &Attempt, attempted: &Attempted, next: Next) -> Vec<CallEvent> {
        let (revision, runner) = self.whereabouts();
        let Attempted { outcome, headers, body, log } = attempted;
        let outcome = *outcome;
        let (answer, reason) = match outcome {
            Outcome::Answer(status) => (Some(Box::new(RecordedAnswer::of(status, headers, body))), None),
            _ => (None, Some(String::from_utf8_lossy(body).into_owned())),
        };
        let happened = Happened::Ended {
            attempt: attempt.number,
            revision,
            runner,
            outcome: ended(outcome),
            is_final: next == Next::Done,
            reason,
            answer,
            log: log.clone(),
        };
        let mut events = vec![self.event(attempt, happened)];
        if next == Next::Dead {
            events.push(self.gave_up(attempt, attempt.last_words(outcome)));
        }
        events
    }

    /// A call is not begun, since it was taken back.
    pub(crate) fn taken_back(&self, attempt: &Attempt) -> CallEvent {
        let (revision, runner) = self.whereabouts();
        let happened = Happened::Ended {
            attempt: attempt.number,
            revision,
            runner,
            outcome: Ended::Cancelled,
            is_final: true,
            reason: Some("it was taken back before it began".to_owned()),
            answer: None,
            log: None,
        };
        self.event(attempt, happened)
    }

    /// A call becomes a dead letter.
    pub(crate) fn gave_up(&self, attempt: &Attempt, reason: String) -> CallEvent {
        self.event(attempt, Happened::Dead { reason })
    }

    fn whereabouts(&self) -> (String, String) {
        (self.revision.as_str().to_owned(), self.identity.runner.clone())
    }

    fn event(&self, attempt: &Attempt, happened: Happened) -> CallEvent {
        let Identity { names, namespace, app, .. } = &*self.identity;
        CallEvent {
            user_id: Some(names.user().to_owned()),
            id: attempt.id,
            namespace: namespace.clone(),
            app: app.clone(),
            fn_name: attempt.fn_name.clone(),
            at_ms: now_ms(),
            happened,
        }
    }

    /// Comes back once the ledger's queue has the event. An error is the link's end.
    pub(crate) async fn record(&self, session: &Session, event: CallEvent) -> Result<(), LinkError> {
        let id = event.id;
        let envelope = match event.into_envelope() {
            Ok(envelope) => envelope,
            Err(error) => {
                warn!(%error, call = %id, "an event cannot be sent to the ledger");
                return Ok(());
            }
        };
        let to = Target::exchange(&self.identity.replies, LEDGER_KEY);
        let mut backoff = Backoff::new(FULL_FIRST, FULL_LONGEST);
        loop {
            // Where no ledger is installed the exchange drops it, which is as it should be.
            match session.link.publish_confirmed(to, envelope.clone(), false).await {
                Ok(Confirm::Acked | Confirm::Returned) => return Ok(()),
                Ok(Confirm::Nacked) => warn!(call = %id, "the ledger's queue is full; trying on"),
                Err(error) => warn!(%error, call = %id, "the ledger's queue takes no event; trying on"),
            }
            // Whatever happened to the connection that confirms, the delivery is this session's.
            if session.is_down() {
                return Err(LinkError::Closed("the session is over".into()));
            }
            tokio::time::sleep(backoff.after_failure(rand::random())).await;
        }
    }
}
