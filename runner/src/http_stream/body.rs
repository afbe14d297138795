//! What a function is sent as its request's body: what came in the message, or what still comes over a stream.
//! Never buffers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

/// The gateway broke the body off.
#[derive(Debug, thiserror::Error)]
#[error("the request's body broke off")]
pub(crate) struct BrokenOff;

/// A request's body.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// All of it is here.
    Whole(Full<Bytes>),
    /// It comes as the function takes it.
    Coming(Box<Incoming>, Arc<Activity>),
}

impl From<Full<Bytes>> for RequestBody {
    fn from(body: Full<Bytes>) -> Self {
        Self::Whole(body)
    }
}

impl RequestBody {
    /// A body that comes over a stream; `activity` is told of it.
    pub(crate) fn coming(body: Incoming, activity: Arc<Activity>) -> Self {
        Self::Coming(Box::new(body), activity)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let (body, activity) = match self.get_mut() {
            Self::Whole(body) => {
                return Pin::new(body)
                    .poll_frame(cx)
                    .map(|frame| frame.map(|frame| frame.map_err(|no| match no {})));
            }
            Self::Coming(body, activity) => (&mut **body, activity),
        };
        Pin::new(&mut *body).poll_frame(cx).map(|frame| match frame {
            Some(Ok(frame)) => {
                activity.moved();
                Some(Ok(frame))
            }
            // hyper takes a reset without an error for an end, which it is not.
            None if body.is_end_stream() => {
                activity.ended.store(true, Ordering::Relaxed);
                None
            }
            None | Some(Err(_)) => {
                activity.broken.store(true, Ordering::Relaxed);
                Some(Err(BrokenOff))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            // Polled to its end, so that its end is noted.
            Self::Coming(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Coming(body, _) => body.size_hint(),
        }
    }
}

/// What is known of a stream's movement.
#[derive(Debug)]
pub(crate) struct Activity {
    since: Instant,
    moved_ms: AtomicU64,
    ended: AtomicBool,
    broken: AtomicBool,
}

impl Default for Activity {
    fn default() -> Self {
        let (moved_ms, ended, broken) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        Self { since: Instant::now(), moved_ms, ended, broken }
    }
}

impl Activity {
    /// Something moved, in either direction.
    pub(crate) fn moved(&self) {
        let since = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(since, Ordering::Relaxed);
    }

    /// Whether the request's body has gone to the function whole.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Whether it broke off.
    pub(crate) fn broke_off(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Resolves once nothing has moved for so long, counted from now at first.
    pub(crate) async fn idle(&self, longest: Duration) {
        self.moved();
        loop {
            let until = self.since + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed)) + longest;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}
