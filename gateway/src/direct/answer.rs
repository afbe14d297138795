//! An answer that comes over a stream: its head, then a body that the client takes as it pleases.
//! Never buffers more of it than what came with the head.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::message::{AnswerHead, AnswerHeadReader, ReadHeadError};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;
use tokio::time::{Instant, Sleep};

use crate::core::Place;
use crate::direct::stream::Stream;
use crate::direct::upload::UploadOwner;

/// Why an answer ends before its end; its client's connection then breaks off too.
#[derive(Debug, Error)]
pub(crate) enum AnswerError {
    #[error("the runner broke off its answer")]
    BrokenOff,
    #[error("the answer has another length than it says")]
    Length,
    #[error("nothing moved for too long")]
    Idle,
}

/// An answer whose body still comes.
#[derive(Debug)]
pub(crate) struct DirectAnswer {
    pub(crate) attempt: u32,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: AnswerBody,
}

/// The body of such an answer. Holds what must not end before it does.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    /// What came with the head.
    first: Bytes,
    rest: Incoming,
    /// Bytes still to come, where that is known.
    left: Option<u64>,
    stream: Arc<Stream>,
    idle_max: Duration,
    idle: Pin<Box<Sleep>>,
    /// Whether `idle` runs: while the client takes nothing, nobody waits here.
    waiting: bool,
    held: Option<Held>,
}

/// Whatever of its call ends with the answer.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) _place: Place,
    /// When the answer is whole, what is left of the request's body is not wanted any more.
    pub(crate) _upload: Option<UploadOwner>,
}

/// Reads the head; `None` where the stream ends before it: what became of the call comes as a reply then.
pub(crate) async fn read(
    attempt: u32,
    mut body: Incoming,
    stream: Arc<Stream>,
    idle_max: Duration,
) -> Option<Result<DirectAnswer, ReadHeadError>> {
    let mut reader = AnswerHeadReader::default();
    loop {
        let Ok(piece) = body.frame().await?.ok()?.into_data() else { continue };
        stream.moved();
        match reader.push(&piece) {
            Ok(None) => {}
            Err(error) => return Some(Err(error)),
            Ok(Some((AnswerHead { status, headers }, first))) => {
                let left = length(&headers);
                let idle = Box::pin(tokio::time::sleep(idle_max));
                let body = AnswerBody {
                    first,
                    rest: body,
                    left,
                    stream,
                    idle_max,
                    idle,
                    waiting: false,
                    held: None,
                };
                return Some(Ok(DirectAnswer { attempt, status, headers, body }));
            }
        }
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl AnswerBody {
    /// Keeps something for as long as it comes.
    pub(crate) fn hold(&mut self, held: Held) {
        self.held = Some(held);
    }

    /// Its length, where that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.left
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, AnswerError>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.first))));
        }
        loop {
            return match Pin::new(&mut self.rest).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => Poll::Ready(Some(Ok(data))),
                    Err(_) => continue,
                },
                Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(AnswerError::BrokenOff))),
                // hyper takes a reset without an error for an end, which it is not.
                Poll::Ready(None) if !self.rest.is_end_stream() => {
                    Poll::Ready(Some(Err(AnswerError::BrokenOff)))
                }
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Pending => self.poll_idle(cx).map(|()| Some(Err(AnswerError::Idle))),
            };
        }
    }

    /// Ready once nothing has moved in either direction for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !std::mem::replace(&mut self.waiting, true) {
            self.idle.as_mut().reset(Instant::now() + self.idle_max);
        }
        while self.idle.as_mut().poll(cx).is_ready() {
            let until = self.stream.last_moved() + self.idle_max;
            if until <= Instant::now() {
                return Poll::Ready(());
            }
            self.idle.as_mut().reset(until);
        }
        Poll::Pending
    }

    fn count(&mut self, bytes: usize) -> Result<(), AnswerError> {
        self.waiting = false;
        self.stream.moved();
        let Some(left) = &mut self.left else { return Ok(()) };
        *left = left.checked_sub(bytes as u64).ok_or(AnswerError::Length)?;
        Ok(())
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        self.poll_piece(cx).map(|piece| match piece {
            None if self.left.is_some_and(|left| left > 0) => Some(Err(AnswerError::Length)),
            None => None,
            Some(Err(error)) => Some(Err(error)),
            Some(Ok(data)) => Some(self.count(data.len()).map(|()| Frame::data(data))),
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
