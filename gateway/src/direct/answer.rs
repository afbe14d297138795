//! An answer that comes over a stream: its head, then a body that the client takes as it pleases.
//! Never buffers more of it than what came with the head.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::message::{AnswerHead, AnswerHeadReader, ReadHeadError};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::core::Place;
use crate::direct::receipt::Receipt;
use crate::direct::stream::Stream;
use crate::direct::tunnel::Switch;
use crate::direct::upload::UploadOwner;

/// A runner that has sent the last byte of an answer says within milliseconds that it was the last.
const END_WAIT: Duration = Duration::from_secs(5);

/// The status of an answer after which the stream belongs to another protocol.
const SWITCHING: StatusCode = StatusCode::SWITCHING_PROTOCOLS;

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
    /// Where the stream has switched protocols: its other half.
    pub(crate) switch: Option<Switch>,
}

/// The body of such an answer, as its client takes it.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    coming: Shared,
    /// Tells the watch.
    _dropped: DropGuard,
}

/// Nothing, once the watch has ended it.
type Shared = Arc<Mutex<Option<Coming>>>;

/// An answer on its way. Holds what must not end before it does.
#[derive(Debug)]
struct Coming {
    /// What came with the head.
    first: Bytes,
    rest: Incoming,
    /// Bytes still to come, where that is known.
    left: Option<u64>,
    stream: Arc<Stream>,
    /// Nothing where the request's body comes over the stream: then that is the gateway's half.
    receipt: Option<Receipt>,
    held: Option<Held>,
    /// Who waits for the runner; nobody, while the client takes nothing.
    waker: Option<Waker>,
}

/// Whatever of its call ends with the answer.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) _place: Place,
    /// When the answer is whole, what is left of the request's body is not wanted any more.
    pub(crate) upload: Option<UploadOwner>,
}

/// Ends an answer on which nothing moves. Apart from its body, since nobody asks that for more while the client takes
/// nothing, and a client of HTTP/2 may take nothing for ever.
#[derive(Debug)]
pub(crate) struct Watch {
    coming: Shared,
    stream: Arc<Stream>,
    dropped: CancellationToken,
}

/// Reads the head; `None` where the stream ends before it: what became of the call comes as a reply then.
pub(crate) async fn read(
    attempt: u32,
    mut body: Incoming,
    stream: Arc<Stream>,
    mut receipt: Option<Receipt>,
    may_switch: bool,
) -> Option<Result<(DirectAnswer, Watch), ReadHeadError>> {
    let mut reader = AnswerHeadReader::default();
    loop {
        let Ok(piece) = body.frame().await?.ok()?.into_data() else { continue };
        stream.moved();
        match reader.push(&piece) {
            Ok(None) => {}
            Err(error) => return Some(Err(error)),
            Ok(Some((AnswerHead { status, .. }, _))) if status == SWITCHING && !may_switch => {
                return Some(Err(ReadHeadError::Unasked));
            }
            Ok(Some((AnswerHead { status, headers }, first))) => {
                let switches = status == SWITCHING;
                let switched = receipt.take_if(|_| switches);
                let left = length(&headers).filter(|_| !switches);
                let switch = switched.map(|receipt| Switch { receipt, stream: Arc::clone(&stream) });
                let watched = Arc::clone(&stream);
                let coming =
                    Coming { first, rest: body, left, stream: watched, receipt, held: None, waker: None };
                let (body, watch) = AnswerBody::watched(coming, stream);
                return Some(Ok((DirectAnswer { attempt, status, headers, body, switch }, watch)));
            }
        }
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl AnswerBody {
    fn watched(coming: Coming, stream: Arc<Stream>) -> (Self, Watch) {
        let (coming, dropped) = (Arc::new(Mutex::new(Some(coming))), CancellationToken::new());
        let body = Self { coming: Arc::clone(&coming), _dropped: dropped.clone().drop_guard() };
        (body, Watch { coming, stream, dropped })
    }

    /// Keeps something for as long as it comes.
    pub(crate) fn hold(&mut self, held: Held) {
        if let Some(coming) = self.coming.lock().as_mut() {
            coming.held = Some(held);
        }
    }

    /// Its length, where that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.coming.lock().as_ref().and_then(|coming| coming.left)
    }
}

impl Watch {
    /// Watches until the answer is over.
    pub(crate) async fn run(self, idle_max: Duration) {
        let Self { coming, stream, dropped } = self;
        let idle = dropped.run_until_cancelled(stream.idle(idle_max)).await.is_some();
        let ended = coming.lock().take();
        let Some(mut ended) = ended else { return };
        if idle {
            stream.leave();
            let waker = ended.waker.take();
            drop(ended);
            // It finds nothing any more, which is an error.
            if let Some(waker) = waker {
                waker.wake();
            }
        } else if ended.left == Some(0) {
            // hyper does not ask for the end of a body whose length it knows.
            let _ = timeout(END_WAIT, ended.read_end()).await;
        }
    }
}

impl Coming {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, AnswerError>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.first))));
        }
        loop {
            return match ready!(Pin::new(&mut self.rest).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Poll::Ready(Some(Ok(data))),
                    Err(_) => continue,
                },
                Some(Err(_)) => Poll::Ready(Some(Err(AnswerError::BrokenOff))),
                // hyper takes a reset without an error for an end, which it is not.
                None if !self.rest.is_end_stream() => Poll::Ready(Some(Err(AnswerError::BrokenOff))),
                None => Poll::Ready(None),
            };
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), AnswerError> {
        self.stream.moved();
        let Some(left) = &mut self.left else { return Ok(()) };
        *left = left.checked_sub(bytes as u64).ok_or(AnswerError::Length)?;
        Ok(())
    }

    /// The next piece; at the end, says that it has been read.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, AnswerError>>> {
        let polled = self.poll_piece(cx);
        if polled.is_pending() {
            self.waker = Some(cx.waker().clone());
        }
        polled.map(|piece| match piece {
            None if self.left.is_some_and(|left| left > 0) => Some(Err(AnswerError::Length)),
            None => {
                if let Some(receipt) = self.receipt.take() {
                    receipt.give();
                }
                None
            }
            Some(Err(error)) => Some(Err(error)),
            Some(Ok(data)) => Some(self.count(data.len()).map(|()| data)),
        })
    }

    /// Reads the end of an answer whose bytes have all been taken. Its call is over.
    async fn read_end(mut self) {
        let upload = self.held.take().and_then(|Held { _place, upload }| upload);
        while let Some(Ok(_)) = std::future::poll_fn(|cx| self.poll(cx)).await {}
        // Let go before, it would reset the stream, and the runner would not know why.
        drop(upload);
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let mut coming = self.coming.lock();
        let Some(coming) = coming.as_mut() else { return Poll::Ready(Some(Err(AnswerError::Idle))) };
        coming.poll(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        self.length().map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
