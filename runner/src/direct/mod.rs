//! Calls whose bodies may go past the broker: the request's from the gateway's stream into the function, a large or
//! endless answer over it to the gateway. With back-pressure all the way; never gathers a body.
//!
//! What is small, and whatever is no answer, still goes back as a reply message: `call` says it.

mod gateways;
mod outgoing;
mod tunnel;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::message::{AnswerHead, CallId, DIRECT_BYTES_MIN, LINE_BODY_BYTES_MAX, Offer, Outcome};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use tokio::time::Instant;
use tracing::debug;

use crate::attempted::{Attempted, KILL_GRACE, UNASKED, judge};
use crate::http_stream::answer::Answer;
use crate::http_stream::body::{Inflow, RequestBody};
use crate::http_stream::client::{Answering, Connection, ExchangeError, Exchanged, Keep};
use crate::instance::{Death, Exchange, Instance};
use crate::line::Line;

pub(crate) use gateways::Gateways;

use gateways::{DirectStream, Lease, OpenError};
use outgoing::{Gone, Sender};

/// What is said of a function that let its time pass.
const OUT_OF_TIME: &str = "the function did not answer in time";

/// The longest silence on a stream, in both directions together: the gateway's own bound, kept here for a client that
/// takes nothing.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// How long a slot is held while the gateway reads the end of an answer: its client reads it as it pleases.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// How long a stream may then go on by itself: the gateway ends it when its client stands still, and pings tell of a
/// gateway that is gone; this is for one that keeps neither word.
const TAIL_MAX: Duration = Duration::from_secs(3_600);

/// What became of a call that came with an offer.
pub(crate) enum Met {
    /// This is to be said in a reply. Where nobody waits for it any more, its gateway drops it.
    Reply(Attempted),
    /// The answer went over the stream.
    Settled,
}

/// One call with an offer, and where it runs.
pub(crate) struct DirectCall<'a> {
    pub(crate) gateways: &'a Arc<Gateways>,
    /// Where there is one, small bodies need no stream.
    pub(crate) line: Option<Line>,
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

impl Open {
    /// Says that the answer was all, and waits until the gateway has read that and ended its half. A function may
    /// answer before its request has ended: what is left of that is let go.
    async fn end(self) -> Receipt {
        let Self { sender, inflow, _lease } = self;
        if sender.end().await.is_err() {
            return Receipt::Lost;
        }
        inflow.drain().await;
        if inflow.broke_off() { Receipt::Missing } else { Receipt::Given }
    }
}

/// Whether a gateway has ended its half cleanly after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receipt {
    Given,
    Missing,
    /// Nor was the answer's end taken.
    Lost,
}

impl DirectCall<'_> {
    /// Runs it. What only streams need is boxed, so that a small call does not pay for its size.
    pub(crate) async fn run(mut self, connection: Connection, request: Request<Full<Bytes>>) -> Met {
        let mut request = request.map(RequestBody::from);
        if let Some(body) = self.fetch().await {
            self.offer.body = false;
            *request.body_mut() = Full::new(body).into();
        }
        let contract = self.instance.contract();
        let switches = contract.ask_to_switch(request.headers_mut(), self.offer.upgrade.as_deref());
        let mut stream = None;
        if self.offer.body || switches {
            let opened = match Box::pin(self.open()).await {
                Ok(opened) => opened,
                // Nothing ran.
                Err(error) => return Met::Reply(Attempted::not(Outcome::NotHere, error.to_string())),
            };
            // What a client sends after a switch is no body of its request.
            if self.offer.body {
                *request.body_mut() = RequestBody::Coming(Arc::clone(&opened.inflow));
            }
            stream = Some(opened);
        }
        let until = Instant::now() + self.limit + KILL_GRACE;
        let exchange = self.instance.exchange(connection, request, self.keep());
        match self.wait(exchange, stream.as_ref(), until).await {
            Ok(Ok(Exchanged::Switched(switched))) if switches => {
                Box::pin(self.tunnel(*switched, stream)).await
            }
            Ok(exchanged) => self.answered(exchanged, stream, until).await,
            Err(met) => met,
        }
    }

    /// What is small enough for another way than a stream.
    fn keep(&self) -> Keep {
        Keep::Small(if self.line.is_some() { LINE_BODY_BYTES_MAX as u64 } else { DIRECT_BYTES_MIN })
    }

    /// What an answer comes to that switches nothing.
    async fn answered(
        self,
        exchanged: Result<Exchanged, ExchangeError>,
        stream: Option<Open>,
        until: Instant,
    ) -> Met {
        let answer = match exchanged {
            // What was to be sent broke off: the function had nothing to answer.
            Err(ExchangeError::Broken(_)) if stream.as_ref().is_some_and(|open| open.inflow.broke_off()) => {
                return failed("the request's body broke off");
            }
            Ok(Exchanged::Coming(answering)) => {
                return Box::pin(self.answer(*answering, stream, until)).await;
            }
            Ok(Exchanged::Whole(response)) => Ok(self.instance.contract().read(response)),
            Ok(Exchanged::Switched(_)) => Ok(Answer::Nonsense(UNASKED)),
            Err(error) => Err(error),
        };
        Met::Reply(judge(self.instance, answer).await)
    }

    /// The request's body, where that is to be had on the line.
    async fn fetch(&self) -> Option<Bytes> {
        let line = self.line.as_ref().filter(|_| self.offer.body && self.offer.line)?;
        line.fetch(self.id, self.offer.token).await
    }

    async fn open(&self) -> Result<Open, OpenError> {
        let DirectStream { sender, body, lease } = self.gateways.open(self.id, &self.offer).await?;
        Ok(Open { sender, inflow: Inflow::new(body), _lease: lease })
    }

    /// Waits until the answer begins, or is not to be waited for.
    async fn wait(
        &self,
        mut exchange: Exchange,
        stream: Option<&Open>,
        until: Instant,
    ) -> Result<Result<Exchanged, ExchangeError>, Met> {
        tokio::select! {
            biased;
            exchanged = &mut exchange => Ok(exchanged),
            death = self.instance.died() => Err(Met::Reply(Attempted::died(death))),
            // Dropped with its connection, which tells the function. A gateway that has lost only the stream waits on.
            () = gone(stream) => Err(failed("the stream to the gateway broke off")),
            () = tokio::time::sleep_until(until) => {
                // A function that still waits for its request has nothing to answer for.
                if stream.is_none_or(|open| !open.inflow.is_waiting()) {
                    self.instance.overran(exchange);
                }
                Err(Met::Reply(Attempted::not(Outcome::TimedOut, OUT_OF_TIME)))
            }
        }
    }

    /// Sends an answer over the stream, which is opened if it is not open yet.
    async fn answer(self, mut answering: Answering, stream: Option<Open>, until: Instant) -> Met {
        let head = Response::from_parts(answering.take_head(), ());
        let (status, mut headers) = match self.instance.contract().read(head) {
            Answer::Answered { status, headers, body: () } => (status, headers),
            other => return Met::Reply(judge(self.instance, Ok(other.without_body())).await),
        };
        let stream = match stream {
            Some(stream) => stream,
            None => match self.open().await {
                Ok(opened) => opened,
                Err(error @ OpenError::Void) => return failed(error.to_string()),
                Err(error @ (OpenError::Unreachable(_) | OpenError::Refused(_))) => {
                    debug!(call = %self.id, %error, "an answer without a stream");
                    let body = self.read_whole(answering, until).await;
                    let answer = body.map(|body| Answer::Answered { status, headers, body });
                    return Met::Reply(match answer {
                        Ok(answer) => judge(self.instance, Ok(answer)).await,
                        Err(attempted) => attempted,
                    });
                }
            },
        };
        if let Some(length) = answering.length() {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        match (AnswerHead { status, headers }).to_bytes() {
            Ok(head) => self.send(head, answering, stream).await,
            Err(error) => failed(format!("the function's answer cannot be carried: {error}")),
        }
    }

    /// Reads an answer that is to go as a message, since there is no stream for it.
    async fn read_whole(&self, mut answering: Answering, until: Instant) -> Result<Bytes, Attempted> {
        let read = tokio::select! {
            biased;
            read = answering.read_whole() => read,
            death = self.instance.died() => return Err(Attempted::died(death)),
            // It may well be meant to have no end: the function is told by the end of its connection, and lives.
            () = tokio::time::sleep_until(until) => {
                return Err(Attempted::not(Outcome::TimedOut, OUT_OF_TIME));
            }
        };
        match read {
            Ok(body) => {
                answering.finish().await;
                Ok(body)
            }
            Err(error) => Err(judge(self.instance, Err(error)).await),
        }
    }

    async fn send(&self, head: Bytes, mut answering: Answering, stream: Open) -> Met {
        let Open { sender, inflow, .. } = &stream;
        let sent = tokio::select! {
            biased;
            sent = pump(head, &mut answering, sender, inflow) => sent,
            death = self.instance.died() => Err(PumpError::Died(death)),
            () = inflow.idle(IDLE_MAX) => Err(PumpError::Idle),
        };
        // The stream is dropped without a last word, and so broken off. The head may have been lost with it, and then
        // the gateway still waits.
        if let Err(error) = sent {
            debug!(call = %self.id, %error, "an answer broke off");
            let is_request_broken = inflow.broke_off();
            drop(stream);
            return match error {
                PumpError::Died(death) => Met::Reply(Attempted::died(death)),
                PumpError::Function(error) if !is_request_broken => {
                    Met::Reply(judge(self.instance, Err(error)).await)
                }
                error => failed(error.to_string()),
            };
        }
        // From here on the function plays no part, and its end breaks nothing off.
        answering.finish().await;
        self.see_off(stream).await
    }

    /// Stays with a stream until the gateway has read the answer, for as long as a slot is held for that.
    async fn see_off(&self, stream: Open) -> Met {
        let mut ending = Box::pin(stream.end());
        match tokio::time::timeout(DRAIN_MAX, &mut ending).await {
            // After a request's body that came over the stream a reset is no news: nobody wanted the rest of it.
            Ok(Receipt::Missing) if self.offer.body => Met::Settled,
            Ok(Receipt::Lost | Receipt::Missing) => failed("the answer broke off"),
            Ok(Receipt::Given) => Met::Settled,
            Err(_) => {
                debug!(call = %self.id, "the gateway goes on after the answer");
                // Let go now, the stream would take the end of the answer with it.
                tokio::spawn(tokio::time::timeout(TAIL_MAX, ending));
                Met::Settled
            }
        }
    }
}

fn failed(words: impl Into<Bytes>) -> Met {
    Met::Reply(Attempted::not(Outcome::Failed, words))
}

/// Why an answer did not go over its stream whole.
#[derive(Debug, thiserror::Error)]
enum PumpError {
    #[error("nobody takes it any more")]
    Gone,
    #[error("the function's process ended")]
    Died(Death),
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
