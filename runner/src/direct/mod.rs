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
use crate::http_stream::body::{Inflow, RequestBody};
use crate::http_stream::client::{Answering, Connection, ExchangeError, Exchanged, Keep};
use crate::instance::{Breakage, Exchange, Instance};

pub(crate) use gateways::Gateways;

use gateways::{DirectStream, Lease, OpenError};
use outgoing::{Gone, Sender};

/// The longest silence on a stream, in both directions together: the gateway's own bound, kept here for a client that
/// takes nothing.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// How long a gateway may take the rest of an answer: its client reads it as it pleases, and a slot is not held for that.
const DRAIN_MAX: Duration = Duration::from_secs(30);

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

/// A stream that is open.
struct Open {
    sender: Sender,
    inflow: Arc<Inflow>,
    _lease: Lease,
}

impl DirectCall<'_> {
    /// Runs it.
    pub(crate) async fn run(self, connection: Connection, request: Request<Full<Bytes>>) -> Met {
        let mut request = request.map(RequestBody::from);
        let mut stream = None;
        if self.offer.body {
            let opened = match self.open().await {
                Ok(opened) => opened,
                Err(met) => return met,
            };
            *request.body_mut() = RequestBody::Coming(Arc::clone(&opened.inflow));
            stream = Some(opened);
        }
        let exchange = self.instance.exchange(connection, request, Keep::Small);
        let exchanged = match self.wait(exchange, stream.as_ref()).await {
            Ok(exchanged) => exchanged,
            Err(met) => return met,
        };
        match exchanged {
            // What was to be sent broke off: the function had nothing to answer.
            Err(ExchangeError::Broken(_)) if stream.as_ref().is_some_and(|open| open.inflow.broke_off()) => {
                Met::Settled
            }
            Err(error) => Met::Reply(judge(self.instance, Err(error)).await),
            Ok(Exchanged::Whole(response)) => {
                Met::Reply(judge(self.instance, Ok(answer::read(response))).await)
            }
            Ok(Exchanged::Coming(answering)) => self.answer(*answering, stream).await,
        }
    }

    async fn open(&self) -> Result<Open, Met> {
        match self.gateways.open(self.id, &self.offer).await {
            Ok(DirectStream { sender, body, lease }) => {
                Ok(Open { sender, inflow: Inflow::new(body), _lease: lease })
            }
            Err(OpenError::Void) => Err(Met::Settled),
            Err(error @ (OpenError::Unreachable(_) | OpenError::Refused(_))) => {
                Err(Met::Reply(Attempted::not(Outcome::Failed, error.to_string())))
            }
        }
    }

    /// Waits until the answer begins, or is not to be waited for.
    async fn wait(
        &self,
        mut exchange: Exchange,
        stream: Option<&Open>,
    ) -> Result<Result<Exchanged, ExchangeError>, Met> {
        tokio::select! {
            biased;
            exchanged = &mut exchange => Ok(exchanged),
            death = self.instance.died() => Err(Met::Reply(Attempted::died(death))),
            // Dropped with its connection, which tells the function.
            () = gone(stream) => Err(Met::Settled),
            () = tokio::time::sleep(self.limit + KILL_GRACE) => {
                // A function that still waits for its request has nothing to answer for.
                if stream.is_none_or(|open| open.inflow.has_ended()) {
                    self.instance.condemn(Breakage::Hung(exchange));
                }
                Err(Met::Reply(Attempted::not(Outcome::TimedOut, "the function did not answer in time")))
            }
        }
    }

    /// Sends an answer over the stream, which is opened if it is not open yet.
    async fn answer(self, mut answering: Answering, stream: Option<Open>) -> Met {
        let head = Response::from_parts(answering.take_head(), ());
        let (status, mut headers) = match answer::read(head) {
            Answer::Answered { status, headers, body: () } => (status, headers),
            other => return Met::Reply(judge(self.instance, Ok(other.without_body())).await),
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
            None => match self.open().await {
                Ok(opened) => opened,
                Err(met) => return met,
            },
        };
        self.send(head, answering, stream).await;
        Met::Settled
    }

    async fn send(&self, head: Bytes, mut answering: Answering, stream: Open) {
        let Open { sender, inflow, _lease } = stream;
        let sent = tokio::select! {
            biased;
            sent = pump(head, &mut answering, &sender, &inflow) => sent,
            _ = self.instance.died() => Err(PumpError::Died),
            () = inflow.idle(IDLE_MAX) => Err(PumpError::Idle),
        };
        match sent {
            Ok(()) => {
                sender.end().await;
                answering.finish().await;
                // A function may answer before its request has ended; the gateway then ends what nobody reads.
                if tokio::time::timeout(DRAIN_MAX, inflow.drain()).await.is_err() {
                    debug!(call = %self.id, "the gateway goes on after the answer");
                }
            }
            // The stream is dropped without a last word, and so broken off.
            Err(error) => {
                debug!(call = %self.id, %error, "an answer broke off");
                if let PumpError::Function(error) = error
                    && !inflow.broke_off()
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
    inflow: &Inflow,
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
        inflow.moved();
    }
}

async fn gone(stream: Option<&Open>) {
    match stream {
        Some(stream) => stream.sender.gone().await,
        None => std::future::pending().await,
    }
}
