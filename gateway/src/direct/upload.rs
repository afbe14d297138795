//! A request's body on its way past the broker: pulled from the client as the runner takes it, bounded by the App's
//! limit. Never buffers, and is lent to one stream at a time.
//!
//! Invariant: once a byte has been taken, no other stream gets the body, so its call cannot run again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Version;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use thiserror::Error;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use uuid::Uuid;

use crate::body::ReadBodyError;
use crate::direct::stream::Stream;
use crate::pending::{Pending, Signal};

/// Why a body ends before its end.
#[derive(Debug, Error)]
pub(crate) enum UploadError {
    #[error("the call is over")]
    Over,
    #[error(transparent)]
    Read(#[from] ReadBodyError),
}

/// A request's body, and how far it has been taken.
#[derive(Debug)]
pub(crate) struct Upload {
    state: Mutex<State>,
    limit: u64,
    /// As the client declared it.
    length: Option<u64>,
    /// HTTP/2 may end a body with a reset that hyper takes for an end.
    resets: bool,
}

#[derive(Debug)]
struct State {
    body: Option<Incoming>,
    taken: u64,
    /// Attempts before this one get it no more.
    attempt_min: u32,
    /// Of the stream that has it.
    lease: CancellationToken,
}

/// The call whose body it is: dropped, nothing more of it leaves.
#[derive(Debug)]
pub(crate) struct UploadOwner(Arc<Upload>);

impl UploadOwner {
    /// Takes a body in; a length declared beyond the limit is refused before a byte is read.
    pub(crate) fn new(body: Incoming, version: Version, limit: u64) -> Result<Self, ReadBodyError> {
        let hint = body.size_hint();
        if hint.lower() > limit {
            return Err(ReadBodyError::TooLarge(limit));
        }
        let state = State { body: Some(body), taken: 0, attempt_min: 1, lease: CancellationToken::new() };
        let resets = version == Version::HTTP_2;
        Ok(Self(Arc::new(Upload { state: Mutex::new(state), limit, length: hint.exact(), resets })))
    }

    /// As the client declared it.
    pub(crate) fn length(&self) -> Option<u64> {
        self.0.length
    }

    /// For those who may hand it to a stream.
    pub(crate) fn share(&self) -> Arc<Upload> {
        Arc::clone(&self.0)
    }

    /// Takes it back from an attempt and from those before, unless a byte of it has left; says whether.
    pub(crate) fn reclaim(&self, attempt: u32) -> bool {
        let mut state = self.0.state.lock();
        if state.taken > 0 {
            return false;
        }
        state.lease.cancel();
        state.attempt_min = attempt.saturating_add(1);
        true
    }
}

impl Drop for UploadOwner {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.body = None;
        state.lease.cancel();
    }
}

impl Upload {
    /// Gives the body to an attempt's stream, and takes it from an earlier one; `None` once it was begun, or taken back
    /// from that attempt.
    pub(crate) fn lend(
        self: &Arc<Self>,
        (id, attempt): (Uuid, u32),
        pending: &Arc<Pending>,
        stream: Arc<Stream>,
    ) -> Option<UploadBody> {
        let mut state = self.state.lock();
        if state.taken > 0 || state.body.is_none() || attempt < state.attempt_min {
            return None;
        }
        state.lease.cancel();
        state.lease = CancellationToken::new();
        let lease = state.lease.clone();
        let over = Box::pin(lease.clone().cancelled_owned());
        Some(UploadBody { upload: Arc::clone(self), lease, over, id, pending: Arc::clone(pending), stream })
    }

    fn poll(&self, lease: &CancellationToken, cx: &mut Context<'_>) -> Poll<Taken> {
        let mut state = self.state.lock();
        let State { body: Some(body), taken, .. } = &mut *state else {
            return Poll::Ready(Err(UploadError::Over));
        };
        // Cancelled under this lock alone: of two streams only one gets the first byte.
        if lease.is_cancelled() {
            return Poll::Ready(Err(UploadError::Over));
        }
        Poll::Ready(loop {
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                None if self.resets && !body.is_end_stream() => break Err(ReadBodyError::Broken.into()),
                None => break Ok(None),
                Some(Err(_)) => break Err(ReadBodyError::Broken.into()),
                Some(Ok(frame)) => {
                    // Trailers do not travel, as they do not in a message.
                    let Ok(data) = frame.into_data() else { continue };
                    *taken += data.len() as u64;
                    if *taken > self.limit {
                        break Err(ReadBodyError::TooLarge(self.limit).into());
                    }
                    break Ok(Some(data));
                }
            }
        })
    }
}

type Taken = Result<Option<Bytes>, UploadError>;

/// The body as one stream has it.
pub(crate) struct UploadBody {
    upload: Arc<Upload>,
    lease: CancellationToken,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    id: Uuid,
    pending: Arc<Pending>,
    stream: Arc<Stream>,
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        if self.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(UploadError::Over)));
        }
        let taken = ready!(self.upload.poll(&self.lease, cx));
        self.stream.moved();
        if let Err(UploadError::Read(error)) = &taken {
            self.pending.tell(self.id, Signal::BodyLost(error.clone()));
        }
        Poll::Ready(taken.transpose().map(|data| data.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        self.upload.length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
