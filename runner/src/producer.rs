//! The producer of an event that wants to know what became of it: told once nothing follows, before the broker's last
//! word on the event.
//!
//! Its reply goes through an exchange of the App, since runners may write to nothing else; the producer binds a queue
//! of its own there. Nobody's absence holds the event up: what nobody takes is counted and logged.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use funcatron_broker::link::{Confirm, Envelope, LinkError, Target};
use funcatron_broker::message::{EncodeError, EventReply};
use tracing::warn;

use crate::call::Caller;
use crate::session::Session;
use funcatron_broker::backoff::Backoff;

/// A full queue of a producer that reads takes a reply again within a moment.
const FULL_FIRST: Duration = Duration::from_millis(100);
const FULL_LONGEST: Duration = Duration::from_secs(2);
/// About four seconds in all: beyond it, a producer that does not read would hold this App's slots.
const FULL_TRIES_MAX: u32 = 5;

/// Replies that nobody took, in this process.
static UNDELIVERED: AtomicU64 = AtomicU64::new(0);

/// Who waits for what became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Producer {
    reply_to: String,
    correlation_id: Option<String>,
}

impl Producer {
    /// The one that an event names, if it does.
    pub(crate) fn of(event: &Envelope) -> Option<Self> {
        let properties = &event.properties;
        let reply_to = properties.reply_to.clone().filter(|key| !key.is_empty())?;
        let correlation_id = properties.correlation_id.clone().or_else(|| properties.message_id.clone());
        Some(Self { reply_to, correlation_id })
    }
}

impl Caller {
    /// Comes back once the producer's queue has the reply, or nobody takes it. An error is the link's end.
    pub(crate) async fn tell(
        &self,
        session: &Session,
        producer: Producer,
        told: impl FnOnce(Option<String>) -> EventReply,
    ) -> Result<(), LinkError> {
        let Producer { reply_to, correlation_id } = producer;
        let reply = told(correlation_id);
        let undelivered = match carried(&reply) {
            Ok(envelope) => self.send(session, &reply_to, envelope).await?,
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = undelivered {
            let total = UNDELIVERED.fetch_add(1, Ordering::Relaxed) + 1;
            warn!(reply_to, reason, total, "nobody takes the reply to an event");
        }
        Ok(())
    }

    /// Why nobody takes it, where so.
    async fn send(
        &self,
        session: &Session,
        reply_to: &str,
        envelope: Envelope,
    ) -> Result<Option<String>, LinkError> {
        let exchange = self.identity.names.event_replies();
        let to = Target::exchange(&exchange, reply_to);
        let mut backoff = Backoff::new(FULL_FIRST, FULL_LONGEST);
        let mut refused = 0;
        loop {
            match session.link.publish_confirmed(to, envelope.clone(), true).await {
                Ok(Confirm::Acked) => return Ok(None),
                Ok(Confirm::Returned) => return Ok(Some("no queue is bound under that key".into())),
                Ok(Confirm::Nacked) if refused + 1 >= FULL_TRIES_MAX => {
                    return Ok(Some("its queue is full".into()));
                }
                Ok(Confirm::Nacked) => refused += 1,
                Err(
                    error @ (LinkError::Missing { .. }
                    | LinkError::Refused { .. }
                    | LinkError::Mismatch { .. }
                    | LinkError::Unsendable(_)),
                ) => return Ok(Some(error.to_string())),
                Err(error) => warn!(%error, "the reply to an event is not confirmed; trying on"),
            }
            // Whatever happened to the connection that confirms, the delivery is this session's.
            if session.is_down() {
                return Err(LinkError::Closed("the session is over".into()));
            }
            tokio::time::sleep(backoff.after_failure(rand::random())).await;
        }
    }
}

/// An answer that cannot be carried is told as a failure to carry it: the event has run.
fn carried(reply: &EventReply) -> Result<Envelope, EncodeError> {
    reply
        .clone()
        .into_envelope()
        .or_else(|error| reply.clone().not_carried(&error.to_string()).into_envelope())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(correlation_id: Option<&str>) -> Envelope {
        let mut event = Envelope::default();
        event.properties.reply_to = Some("orders".to_owned());
        event.properties.message_id = Some("m".to_owned());
        event.properties.correlation_id = correlation_id.map(str::to_owned);
        event
    }

    #[test]
    fn an_event_without_a_place_for_replies_has_no_producer_that_waits() {
        assert_eq!(Producer::of(&Envelope::default()), None);
        let mut empty = event(None);
        empty.properties.reply_to = Some(String::new());
        assert_eq!(Producer::of(&empty), None);
    }

    #[test]
    fn a_reply_is_known_by_the_events_correlation_else_by_its_id() {
        let id = |event| Producer::of(&event).and_then(|producer| producer.correlation_id);
        assert_eq!(id(event(Some("c"))).as_deref(), Some("c"));
        assert_eq!(id(event(None)).as_deref(), Some("m"));
    }
}
