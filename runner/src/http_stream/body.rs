//! What a function is sent as its request's body: what came in the message, or what still comes over a stream or out of
//! the object store.
//! Never buffers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::spilled::Fetching;

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
    Coming(Arc<Inflow>),
    /// Likewise, out of the object store.
    Fetched(Arc<Fetching>),
}

impl From<Full<Bytes>> for RequestBody {
    fn from(body: Full<Bytes>) -> Self {
        Self::Whole(body)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            Self::Whole(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(|no| match no {})))
            }
            Self::Coming(inflow) => inflow.poll(cx),
            Self::Fetched(fetching) => fetching.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            // Asked for again and again, since a break is told from an end there.
            Self::Coming(_) | Self::Fetched(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Coming(inflow) => inflow.body.lock().size_hint(),
            Self::Fetched(fetching) => SizeHint::with_exact(fetching.size()),
        }
    }
}

/// What a gateway sends on a stream, and what is known of the stream's movement. Outlives the function's connection: a
/// stream that is let go before the gateway has ended its half takes the end of the answer with it.
#[derive(Debug)]
pub(crate) struct Inflow {
    body: Mutex<Incoming>,
    since: Instant,
    moved_ms: AtomicU64,
    waiting: AtomicBool,
    broken: AtomicBool,
}

impl Inflow {
    pub(crate) fn new(body: Incoming) -> Arc<Self> {
        let (moved_ms, waiting, broken) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { body: Mutex::new(body), since: Instant::now(), moved_ms, waiting, broken })
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let mut body = self.body.lock();
        let polled = Pin::new(&mut *body).poll_frame(cx);
        self.waiting.store(polled.is_pending(), Ordering::Relaxed);
        polled.map(|frame| match frame {
            Some(Ok(frame)) => {
                self.moved();
                Some(Ok(frame))
            }
            // hyper takes a reset without an error for an end, which it is not.
            None if body.is_end_stream() => None,
            None | Some(Err(_)) => {
                self.broken.store(true, Ordering::Relaxed);
                Some(Err(BrokenOff))
            }
        })
    }

    /// The next piece; `None` at its end.
    pub(crate) async fn next(&self) -> Option<Result<Bytes, BrokenOff>> {
        loop {
            match std::future::poll_fn(|cx| self.poll(cx)).await? {
                Err(error) => return Some(Err(error)),
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
            }
        }
    }

    /// Lets go what still comes, until the gateway has ended its half.
    pub(crate) async fn drain(&self) {
        while let Some(Ok(_)) = self.next().await {}
    }

    /// Something moved, in either direction.
    pub(crate) fn moved(&self) {
        let since = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(since, Ordering::Relaxed);
    }

    /// Whether the function has taken all that came so far, and the gateway is to send more.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
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
