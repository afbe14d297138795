//! Puts dead letters back into the queue that gave them up: published and confirmed first, taken away after.
//!
//! A call of ours comes back under a new id, which follows from its old one. A ledger that is killed between the two
//! steps may publish the same id again, as another publication: one of the two is run, as its runners ask for it.

use std::time::Duration;

use funcatron_broker::envelope::{Envelope, Headers};
use funcatron_broker::link::{Confirm, ConsumeOptions, Consumer, Delivery, Event, Link, LinkError, Target};
use funcatron_broker::message::{
    Call as Message, CallEvent, CallId, Happened, RecordedRequest, fresh_claimant, is_ours,
};
use funcatron_broker::names::{AppNames, QueueName};
use tracing::debug;

use crate::clock::now_ms;
use crate::core::Core;
use crate::objects::{ObjectError, ObjectName};
use crate::repeat;
use crate::store::Room;

/// A quorum queue hands out what it counted as ready well within this.
const NEXT_TIMEOUT: Duration = Duration::from_secs(5);
/// What RabbitMQ writes on a dead letter; it would be told of another death twice.
const DEATH_HEADERS: [&str; 3] = ["x-death", "x-first-death-", "x-last-death-"];
/// The random end of a UUIDv7 (RFC 9562, section 5.7), within which a new id follows from an old one.
const RANDOM_BITS: u128 = (1 << 62) - 1;

/// Why dead letters stay where they are.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RedriveError {
    #[error("the function has no durable queue")]
    NoQueue,
    #[error("the function's queue takes no more")]
    Full,
    #[error("the broker failed")]
    Broker(#[from] LinkError),
    #[error("the broker handed out none of the dead letters that it counts")]
    Stalled,
    #[error("a body could not be given to the call that follows")]
    Body(#[from] ObjectError),
    #[error("it ended before its time")]
    CutShort,
}

/// Moves up to `limit` dead letters of a Fn; says how many. What was moved before an error stays moved. Is to be run to
/// its end, since a call is in both queues between the two steps.
pub(crate) async fn run(
    core: &Core,
    link: &dyn Link,
    namespace: &str,
    app: &str,
    fn_name: &str,
    limit: u32,
) -> Result<u32, RedriveError> {
    let names = AppNames::new(&core.installation, namespace, app).map_err(|_| RedriveError::NoQueue)?;
    let dead = names.dead_queue(fn_name).map_err(|_| RedriveError::NoQueue)?;
    let queue = names.durable_queue(fn_name).map_err(|_| RedriveError::NoQueue)?;
    let ready = link.inspect(&dead).await?.ok_or(RedriveError::NoQueue)?.ready;
    let options = ConsumeOptions { prefetch: 1, exclusive: false, no_ack: false };
    let mut consumer = link.consume(&dead, options).await?;
    let place = Place { core, link, namespace, app, fn_name, queue: &queue };
    let moved = place.move_all(&mut consumer, ready.min(limit)).await;
    consumer.cancel().await;
    moved
}

/// A dead letter as it goes back.
struct Revived {
    envelope: Envelope,
    /// What is to be recorded of it.
    events: Vec<CallEvent>,
    /// The body that goes with the dead letter.
    body_of: Option<ObjectName>,
}

impl Revived {
    fn unchanged(envelope: Envelope) -> Self {
        Self { envelope, events: Vec::new(), body_of: None }
    }
}

/// From whom and to where.
struct Place<'a> {
    core: &'a Core,
    link: &'a dyn Link,
    namespace: &'a str,
    app: &'a str,
    fn_name: &'a str,
    queue: &'a QueueName,
}

impl Place<'_> {
    async fn move_all(&self, consumer: &mut Consumer, count: u32) -> Result<u32, RedriveError> {
        for moved in 0..count {
            let next = tokio::time::timeout(NEXT_TIMEOUT, consumer.next()).await;
            let delivery = match next {
                Ok(Some(Event::Delivery(delivery))) => delivery,
                // Somebody else took the rest.
                Err(_) if moved > 0 => return Ok(moved),
                Err(_) => return Err(RedriveError::Stalled),
                Ok(_) => return Err(RedriveError::NoQueue),
            };
            self.move_one(delivery).await?;
            self.core.metrics.redriven.inc();
        }
        Ok(count)
    }

    async fn move_one(&self, mut delivery: Delivery) -> Result<(), RedriveError> {
        let Revived { envelope, events, body_of } = match self.revive(delivery.take_envelope()).await {
            Ok(revived) => revived,
            Err(error) => {
                delivery.reject(true).await?;
                return Err(error.into());
            }
        };
        match self.link.publish_confirmed(Target::queue(self.queue), envelope, true).await {
            Ok(Confirm::Acked) => {}
            Ok(refused) => {
                delivery.reject(true).await?;
                let full = refused == Confirm::Nacked;
                return Err(if full { RedriveError::Full } else { RedriveError::NoQueue });
            }
            Err(error) => {
                // It may have been sent; the next redrive makes the same call of it.
                delivery.reject(true).await?;
                return Err(error.into());
            }
        }
        if !events.is_empty() {
            repeat::record(self.core, self.link, events).await;
        }
        delivery.ack().await?;
        if let (Some(objects), Some(name)) = (&self.core.objects, body_of)
            && let Err(error) = objects.delete(&name).await
        {
            debug!(%error, call = %name.id(), "the sweep takes away the body of a call that was redriven");
        }
        Ok(())
    }

    /// A call of ours as a new one, with what is to be recorded of it; anything else as it was.
    async fn revive(&self, mut envelope: Envelope) -> Result<Revived, ObjectError> {
        envelope.headers = without_deaths(envelope.headers);
        if !is_ours(&envelope) {
            return Ok(Revived::unchanged(envelope));
        }
        let Ok(mut call) = Message::from_envelope(envelope.clone()) else {
            return Ok(Revived::unchanged(envelope));
        };
        let (before, now_ms) = (call.id, now_ms());
        call.id = following(before);
        (call.attempt, call.expiration_ms, call.persistent) = (1, None, true);
        // The old one is that of the publication that died.
        call.claimant = Some(fresh_claimant());
        // Before its times become new ones, since its age follows from them.
        let request = RecordedRequest::of(&call);
        call.deadline_ms = repeat::deadline_ms(&request, now_ms);
        call.timestamp_s = Some(now_ms / 1000);
        let body_of = self.carry_body(&mut call, before).await?;
        // It is among the dead letters, whether or not anybody had said so.
        let died = Happened::Dead { reason: "it was put back into its queue".to_owned() };
        let events = vec![self.event(before, died), self.event(call.id, repeat::queued(before, request))];
        // It was read from a message within the same bounds.
        let Ok(revived) = call.to_envelope() else { return Ok(Revived::unchanged(envelope)) };
        Ok(Revived { envelope: revived, events, body_of })
    }

    /// Has a body that is in the object store stand under the new id as well. Where there is none, its runner tells.
    async fn carry_body(
        &self,
        call: &mut Message,
        before: CallId,
    ) -> Result<Option<ObjectName>, ObjectError> {
        let (Some(objects), Some(spilled)) = (&self.core.objects, &call.spilled) else { return Ok(None) };
        let name = |id| ObjectName::new(&self.core.installation, self.namespace, self.app, id);
        let Some((from, to)) = name(before).zip(name(call.id)) else { return Ok(None) };
        // The one it was goes a moment later.
        objects.copy(&from, &to, Room::ANY).await?;
        let (digest, size) = (spilled.digest.clone(), spilled.size);
        call.spilled = Some(objects.spilled(&to, digest, size, call.deadline_ms));
        Ok(Some(from))
    }

    fn event(&self, id: CallId, happened: Happened) -> CallEvent {
        CallEvent {
            user_id: None,
            id,
            namespace: self.namespace.to_owned(),
            app: self.app.to_owned(),
            fn_name: self.fn_name.to_owned(),
            at_ms: now_ms(),
            happened,
        }
    }
}

fn without_deaths(headers: Headers) -> Headers {
    let is_death = |name: &str| DEATH_HEADERS.iter().any(|death| name.starts_with(death));
    headers.into_iter().filter(|(name, _)| !is_death(name)).collect()
}

/// The id that follows: its random part counted up by one, so that it is as unlikely to be met as a fresh one.
fn following(id: CallId) -> CallId {
    let bits = id.uuid().as_u128();
    let random = (bits & RANDOM_BITS).wrapping_add(1) & RANDOM_BITS;
    CallId::from_uuid(uuid::Uuid::from_u128((bits & !RANDOM_BITS) | random))
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_broker::envelope::HeaderValue;

    #[test]
    fn an_id_that_follows_is_a_v7_of_the_same_time() {
        for text in ["01890a5d-ac96-774b-bcce-b302099a8057", "01890a5d-ac96-774b-bfff-ffffffffffff"] {
            let id: CallId = text.parse().unwrap();
            let next = following(id);
            assert_ne!(next, id);
            assert_eq!(next, following(id), "a redrive that is repeated makes the same call");
            assert_eq!(next.uuid().get_version_num(), 7);
            assert_eq!(next.uuid().get_variant(), id.uuid().get_variant());
            assert_eq!(next.uuid().as_u128() >> 62, id.uuid().as_u128() >> 62);
        }
    }

    #[test]
    fn what_the_broker_wrote_on_a_dead_letter_is_taken_off() {
        let names = ["x-death", "x-first-death-queue", "x-last-death-reason", "x-own", "fn-wire"];
        let headers = names.map(|name| (name.to_owned(), HeaderValue::Void)).into_iter().collect();
        let left = without_deaths(headers);
        assert_eq!(left.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["x-own", "fn-wire"]);
    }
}
