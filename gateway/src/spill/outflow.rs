//! A body on its way from a client into the object store: counted, bounded and digested as it goes. Never buffers.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use funcatron_broker::message::BODY_BYTES_KEPT;
use funcatron_crds::{Digest, Digester};
use http::Version;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use crate::body::{BodyTimes, MESSAGE_BODY_BYTES_MAX, ReadBodyError};

/// How far a body has come, for whoever waits for it.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<Mutex<Passed>>);

#[derive(Debug)]
struct Passed {
    bytes: u64,
    digester: Digester,
    first: BytesMut,
    moved: Instant,
    ended: Option<Result<(), ReadBodyError>>,
}

impl Progress {
    /// Why it did not come whole, if it did not.
    pub(super) fn broken(&self) -> Option<ReadBodyError> {
        self.0.lock().ended.clone()?.err()
    }

    /// Its digest, its length and its first bytes, once all of it has passed.
    pub(super) fn whole(&self) -> Option<(Digest, u64, Bytes)> {
        let passed = self.0.lock();
        passed.ended.as_ref()?.as_ref().ok()?;
        let first = Bytes::copy_from_slice(&passed.first);
        Some((passed.digester.clone().finish(), passed.bytes, first))
    }

    /// Resolves once nothing has passed for so long.
    pub(super) async fn stalled(&self, longest: Duration) {
        loop {
            let until = self.0.lock().moved + longest;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// The body as it goes into the store.
pub(super) struct Outflow {
    passed: Arc<Mutex<Passed>>,
    /// What was read before it was known that it goes there.
    first: Bytes,
    body: Incoming,
    /// HTTP/2 may end a body with a reset that hyper takes for an end.
    resets: bool,
    limit: u64,
    length: Option<u64>,
    times: BodyTimes,
    started: Instant,
    /// Runs while the client is waited for.
    timer: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl Outflow {
    /// A body of which `first` was read already.
    pub(super) fn new(
        first: Bytes,
        body: Incoming,
        version: Version,
        limit: u64,
        times: BodyTimes,
    ) -> (Self, Progress) {
        let now = Instant::now();
        let (digester, head) = (Digester::default(), BytesMut::new());
        let passed = Passed { bytes: 0, digester, first: head, moved: now, ended: None };
        let passed = Arc::new(Mutex::new(passed));
        let progress = Progress(Arc::clone(&passed));
        let length = body.size_hint().exact().map(|rest| rest + first.len() as u64);
        let outflow = Self {
            passed,
            first,
            body,
            resets: version == Version::HTTP_2,
            limit,
            length,
            times,
            started: now,
            timer: Box::pin(tokio::time::sleep(times.idle)),
            is_waiting: false,
        };
        (outflow, progress)
    }

    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ReadBodyError>> {
        if !self.first.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.first))));
        }
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return self.poll_patience(cx).map(|()| Err(ReadBodyError::TooSlow)),
                Poll::Ready(None) if self.resets && !self.body.is_end_stream() => {
                    return Poll::Ready(Err(ReadBodyError::Broken));
                }
                Poll::Ready(None) => return Poll::Ready(Ok(None)),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(ReadBodyError::Broken)),
                Poll::Ready(Some(Ok(frame))) => {
                    self.is_waiting = false;
                    // Trailers do not travel, as they do not in a message.
                    let Ok(data) = frame.into_data() else { continue };
                    return Poll::Ready(Ok(Some(data)));
                }
            }
        }
    }

    /// For each message's worth of it a body may take as long as one that goes in a message.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_waiting {
            self.is_waiting = true;
            let shares = self.passed.lock().bytes / MESSAGE_BODY_BYTES_MAX + 1;
            let whole = self.times.whole.saturating_mul(u32::try_from(shares).unwrap_or(u32::MAX));
            let until = (Instant::now() + self.times.idle).min(self.started + whole);
            self.timer.as_mut().reset(until);
        }
        self.timer.as_mut().poll(cx)
    }
}

impl Body for Outflow {
    type Data = Bytes;
    type Error = ReadBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReadBodyError>>> {
        let this = self.get_mut();
        this.poll_client(cx).map(|polled| {
            let mut passed = this.passed.lock();
            let polled = polled.and_then(|data| passed.take(data, this.limit));
            match &polled {
                // Whoever was told a length asks for no end.
                Ok(Some(_)) if Some(passed.bytes) == this.length => passed.ended = Some(Ok(())),
                Ok(Some(_)) => {}
                Ok(None) => passed.ended = Some(Ok(())),
                Err(error) => passed.ended = Some(Err(error.clone())),
            }
            polled.transpose().map(|data| data.map(Frame::data))
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

impl Passed {
    /// Counts a piece, and lets it pass.
    fn take(&mut self, data: Option<Bytes>, limit: u64) -> Result<Option<Bytes>, ReadBodyError> {
        self.moved = Instant::now();
        let Some(data) = data else { return Ok(None) };
        self.bytes += data.len() as u64;
        if self.bytes > limit {
            return Err(ReadBodyError::TooLarge(limit));
        }
        self.digester.update(&data);
        let room = BODY_BYTES_KEPT.saturating_sub(self.first.len()).min(data.len());
        self.first.extend_from_slice(&data[..room]);
        Ok(Some(data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed() -> Passed {
        Passed {
            bytes: 0,
            digester: Digester::default(),
            first: BytesMut::new(),
            moved: Instant::now(),
            ended: None,
        }
    }

    #[tokio::test]
    async fn what_passes_is_counted_digested_and_its_beginning_kept() {
        let mut passed = passed();
        let (one, two) = (Bytes::from(vec![1; BODY_BYTES_KEPT - 1]), Bytes::from(vec![2; 9]));
        for piece in [&one, &Bytes::new(), &two] {
            assert_eq!(passed.take(Some(piece.clone()), u64::MAX), Ok(Some(piece.clone())));
        }
        let progress = Progress(Arc::new(Mutex::new(passed)));
        assert_eq!(progress.whole(), None, "it has not ended");
        progress.0.lock().ended = Some(Ok(()));
        let (digest, bytes, first) = progress.whole().unwrap();
        assert_eq!((digest, bytes), (Digest::of(&[&one[..], &two].concat()), BODY_BYTES_KEPT as u64 + 8));
        assert_eq!((first.len(), first[BODY_BYTES_KEPT - 1]), (BODY_BYTES_KEPT, 2));
        progress.0.lock().ended = Some(Err(ReadBodyError::Broken));
        assert_eq!((progress.whole(), progress.broken()), (None, Some(ReadBodyError::Broken)));
    }

    #[tokio::test]
    async fn one_byte_beyond_the_limit_does_not_pass() {
        let mut passed = passed();
        assert!(passed.take(Some(Bytes::from_static(b"ab")), 3).is_ok());
        let more = passed.take(Some(Bytes::from_static(b"cd")), 3);
        assert_eq!(more, Err(ReadBodyError::TooLarge(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_move_is_noticed() {
        let progress = Progress(Arc::new(Mutex::new(passed())));
        let begun = Instant::now();
        progress.stalled(Duration::from_secs(30)).await;
        assert_eq!(begun.elapsed().as_secs(), 30);
    }
}
