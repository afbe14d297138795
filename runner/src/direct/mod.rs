//! Calls whose bodies may go past the broker: the request's from the gateway's stream into the function, a large or
//! endless answer over it to the gateway. With back-pressure all the way; never gathers a body.
//!
//! What is small, and whatever is no answer, still goes back as a reply message: `call` says it.

mod gateways;
mod outgoing;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::message::{AnswerHead, CallId, Offer, Outcome};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use tracing::debug;

use crate::call::{Attempted, KILL_GRACE, judge};
use crate::http_stream::answer::{self, Answer};
use crate::http_stream::body::{Activity, RequestBody};
use crate::http_stream::client::{Answering, Connection, ExchangeError, Exchanged, Keep};
use crate::instance::{Breakage, Exchange, Instance};

pub(crate) use gateways::Gateways;

use gateways::{DirectStream, Lease, OpenError};
use outgoing::{Gone, Sender};

/// The longest silence on a stream, in both directions together: the gateway's own bound, kept here for a client that
/// takes nothing.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// What became of a call that came with an offer.
pub(crate) enum Met {
    /// This is to be said in a reply.
    Reply(Attempted),
    /// There is nobody to tell: the answer went over the stream, or nobody waits any more.
    Settled,
}

/// One call with an offer, and where it runs.
pub(crate) struct DirectCall<'a> {
    pub(crate) gateways: &'a Arc<Gateways>,
    pub(crate) instance: &'a Instance,
    pub(crate) id: CallId,
    pub(crate) offer: Offer,
    pub(crate) limit: Duration,
}

/// A stream once its body has gone to the function.
struct Open {
    sender: Sender,
    _lease: Lease,
}

impl DirectCall<'_> {
    /// Runs it.
    pub(crate) async fn run(self, connection: Connection, request: Request<Full<Bytes>>) -> Met {
        let (activity, mut request) = (Arc::new(Activity::default()), request.map(RequestBody::from));
        let mut stream = None;
        if self.offer.body {
            let DirectStream { sender, body, lease } = match self.gateways.open(self.id, &self.offer).await {
                Ok(opened) => opened,
                Err(error) => return unopened(&error),
            };
            *request.body_mut() = RequestBody::coming(body, Arc::clone(&activity));
            stream = Some(Open { sender, _lease: lease });
        }
        let exchange = self.instance.exchange(connection, request, Keep::Small);
        let exchanged = match self.wait(exchange, stream.as_ref(), &activity).await {
            Ok(exchanged) => exchanged,
            Err(met) => return met,
        };
        match exchanged {
            // What was to be sent broke off: the function had nothing to answer.
            Err(ExchangeError::Broken(_)) if activity.broke_off() => Met::Settled,
            Err(error) => Met::Reply(judge(self.instance, Err(error))),
            Ok(Exchanged::Whole(response)) => Met::Reply(judge(self.instance, Ok(answer::read(response)))),
            Ok(Exchanged::Coming(answering)) => self.answer(*answering, stream, &activity).await,
        }
    }

    /// Waits until the answer begins, or is not to be waited for.
    async fn wait(
        &self,
        mut exchange: Exchange,
        stream: Option<&Open>,
        activity: &Activity,
    ) -> Result<Result<Exchanged, ExchangeError>, Met> {
        tokio::select! {
            biased;
            exchanged = &mut exchange => Ok(exchanged),
            () = self.instance.died() => {
                Err(Met::Reply(Attempted::not(Outcome::Failed, "the function's process ended")))
            }
            // Dropped with its connection, which tells the function.
            () = gone(stream) => Err(Met::Settled),
            () = tokio::time::sleep(self.limit + KILL_GRACE) => {
                // A function that still waits for its request has nothing to answer for.
                if stream.is_none() || activity.has_ended() {
                    self.instance.condemn(Breakage::Hung(exchange));
                }
                Err(Met::Reply(Attempted::not(Outcome::TimedOut, "the function did not answer in time")))
            }
        }
    }

    /// Sends an answer over the stream, which is opened if it is not open yet.
    async fn answer(self, mut answering: Answering, stream: Option<Open>, activity: &Activity) -> Met {
        let head = Response::from_parts(answering.take_head(), ());
        let (status, mut headers) = match answer::read(head) {
            Answer::Answered { status, headers, body: () } => (status, headers),
            other => return Met::Reply(judge(self.instance, Ok(other.without_body()))),
        };
        if let Some(length) = answering.length() {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        let head = match (AnswerHead { status, headers }).to_bytes() {
            Ok(head) => head,
            Err(error) => {
                let words = format!("the function's answer cannot be carried: {error}");
                return Met::Reply(Attempted::not(Outcome::Failed, words));
            }
        };
        let stream = match stream {
            Some(stream) => stream,
            None => match self.gateways.open(self.id, &self.offer).await {
                Ok(DirectStream { sender, body: _, lease }) => Open { sender, _lease: lease },
                Err(error) => return unopened(&error),
            },
        };
        self.send(head, answering, stream, activity).await;
        Met::Settled
    }

    async fn send(&self, head: Bytes, mut answering: Answering, stream: Open, activity: &Activity) {
        let sent = tokio::select! {
            biased;
            sent = pump(head, &mut answering, &stream.sender, activity) => sent,
            () = self.instance.died() => Err(PumpError::Died),
            () = activity.idle(IDLE_MAX) => Err(PumpError::Idle),
        };
        match sent {
            Ok(()) => {
                stream.sender.end().await;
                answering.finish().await;
            }
            // The stream is dropped without a last word, and so broken off.
            Err(error) => {
                debug!(call = %self.id, %error, "an answer broke off");
                if let PumpError::Function(error) = error
                    && !activity.broke_off()
                {
                    self.instance.condemn(Breakage::Broken(error.to_string()));
                }
            }
        }
    }
}

/// Why an answer did not go over its stream whole.
#[derive(Debug, thiserror::Error)]
enum PumpError {
    #[error("nobody takes it any more")]
    Gone,
    #[error("the function's process ended")]
    Died,
    #[error("nothing moved for too long")]
    Idle,
    #[error(transparent)]
    Function(ExchangeError),
}

impl From<Gone> for PumpError {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// Sends piece after piece, each once there is room for it.
async fn pump(
    head: Bytes,
    answering: &mut Answering,
    sender: &Sender,
    activity: &Activity,
) -> Result<(), PumpError> {
    sender.send(head).await?;
    loop {
        let piece = tokio::select! {
            biased;
            () = sender.gone() => return Err(PumpError::Gone),
            piece = answering.next() => piece,
        };
        let Some(piece) = piece else { return Ok(()) };
        let piece = piece.map_err(PumpError::Function)?;
        // The request may go on while the answer waits for room.
        answering.drive(sender.send(piece)).await?;
        activity.moved();
    }
}

async fn gone(stream: Option<&Open>) {
    match stream {
        Some(stream) => stream.sender.gone().await,
        None => std::future::pending().await,
    }
}

fn unopened(error: &OpenError) -> Met {
    match error {
        OpenError::Void => Met::Settled,
        OpenError::Unreachable(_) | OpenError::Refused(_) => {
            Met::Reply(Attempted::not(Outcome::Failed, error.to_string()))
        }
    }
}
