//! Reads request bodies and keeps count of the bytes that all bodies hold. Never reads beyond a limit or a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

/// Below this an answer is not worth counting: as many small ones as calls may be in flight fit in memory.
const COUNTED_ANSWER_BYTES_MIN: usize = 16 << 10;

/// The broker takes messages of 16 MiB, headers included: what is larger goes past it or is refused.
pub const MESSAGE_BODY_BYTES_MAX: u64 = 15 << 20;

/// Bytes that bodies hold, and how many they may.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicU64,
    max: u64,
}

impl Budget {
    pub(crate) fn new(max: u64) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), max })
    }

    /// Bytes held now.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> bool {
        if self.used.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.max {
            return true;
        }
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        false
    }
}

/// A share of the budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Share {
    pub(crate) fn none(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    fn grow(&mut self, bytes: u64) -> bool {
        let taken = self.budget.take(bytes);
        if taken {
            self.bytes += bytes;
        }
        taken
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// Why a body was not read.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub(crate) enum ReadBodyError {
    #[error("the body is longer than {0} bytes")]
    TooLarge(u64),
    #[error("the body did not arrive in time")]
    TooSlow,
    #[error("the bodies in flight hold as many bytes as they may")]
    NoRoom,
    #[error("the body broke off or is malformed")]
    Broken,
}

/// How long a body may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyTimes {
    pub(crate) idle: Duration,
    pub(crate) whole: Duration,
}

/// A body, or its beginning, and what that holds of the budget.
pub(crate) enum Filled {
    /// All of it.
    Whole(Bytes, Share),
    /// More than was wanted, and more may come.
    More(Bytes, Share),
}

/// Reads a body to its end: at most `limit` bytes, within its times and the budget. A length declared beyond the limit
/// is refused before a byte is read.
pub(crate) async fn read<B>(
    mut body: B,
    limit: u64,
    budget: &Arc<Budget>,
    times: BodyTimes,
) -> Result<(Bytes, Share), ReadBodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.size_hint().lower() > limit {
        return Err(ReadBodyError::TooLarge(limit));
    }
    match fill(&mut body, limit, budget, times).await? {
        Filled::Whole(body, share) => Ok((body, share)),
        Filled::More(..) => Err(ReadBodyError::TooLarge(limit)),
    }
}

/// Reads a body to its end, or until more than `enough` of it is here; within its times and the budget.
pub(crate) async fn fill<B>(
    body: &mut B,
    enough: u64,
    budget: &Arc<Budget>,
    times: BodyTimes,
) -> Result<Filled, ReadBodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut share = Share::none(budget);
    let started = Instant::now();
    let mut read = Gathered::default();
    while !body.is_end_stream() {
        let until = (Instant::now() + times.idle).min(started + times.whole);
        let frame = match timeout_at(until, body.frame()).await {
            Err(_) => return Err(ReadBodyError::TooSlow),
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(ReadBodyError::Broken),
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers do not travel: a function is called with the body and the headers before it.
        let Ok(data) = frame.into_data() else { continue };
        if !share.grow(data.len() as u64) {
            return Err(ReadBodyError::NoRoom);
        }
        read.push(data);
        if read.len() > enough {
            return Ok(Filled::More(read.finish(), share));
        }
    }
    Ok(Filled::Whole(read.finish(), share))
}

/// A body in one piece is kept as it came; only the second piece makes a copy.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    all: BytesMut,
}

impl Gathered {
    fn len(&self) -> u64 {
        (self.first.len() + self.all.len()) as u64
    }

    fn push(&mut self, data: Bytes) {
        if self.first.is_empty() && self.all.is_empty() {
            self.first = data;
            return;
        }
        let first = std::mem::take(&mut self.first);
        self.all.extend_from_slice(&first);
        self.all.extend_from_slice(&data);
    }

    fn finish(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

/// An answer's bytes that count until the last of them has been written. An answer that exceeds the budget is kept
/// all the same, since it is here already; the next request's body is what finds no room.
pub(crate) fn counted(body: Bytes, budget: &Arc<Budget>) -> Bytes {
    if body.len() < COUNTED_ANSWER_BYTES_MIN {
        return body;
    }
    let bytes = body.len() as u64;
    budget.used.fetch_add(bytes, Ordering::Relaxed);
    Bytes::from_owner(CountedAnswer { body, _share: Share { budget: Arc::clone(budget), bytes } })
}

struct CountedAnswer {
    body: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for CountedAnswer {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    const TIMES: BodyTimes = BodyTimes { idle: Duration::from_secs(5), whole: Duration::from_secs(10) };

    fn pieces(pieces: &[&'static str]) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let frames: Vec<_> =
            pieces.iter().map(|p| Ok(Frame::data(Bytes::from_static(p.as_bytes())))).collect();
        StreamBody::new(stream::iter(frames))
    }

    #[tokio::test]
    async fn pieces_are_joined_and_counted_until_dropped() {
        let budget = Budget::new(100);
        let (bytes, share) = read(pieces(&["ab", "", "cd", "e"]), 5, &budget, TIMES).await.unwrap();
        assert_eq!((&bytes[..], budget.used()), (&b"abcde"[..], 5));
        drop(share);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn one_byte_beyond_the_limit_is_refused_and_nothing_stays_counted() {
        let budget = Budget::new(100);
        let result = read(pieces(&["ab", "cd"]), 3, &budget, TIMES).await.map(|_| ());
        assert_eq!((result, budget.used()), (Err(ReadBodyError::TooLarge(3)), 0));
        let declared = Full::new(Bytes::from_static(b"abcd"));
        assert_eq!(read(declared, 3, &budget, TIMES).await.map(|_| ()), Err(ReadBodyError::TooLarge(3)));
    }

    #[tokio::test]
    async fn a_body_beyond_the_budget_finds_no_room() {
        let budget = Budget::new(3);
        let result = read(pieces(&["ab", "cd"]), 10, &budget, TIMES).await.map(|_| ());
        assert_eq!((result, budget.used()), (Err(ReadBodyError::NoRoom), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_or_stalls_is_given_up() {
        let budget = Budget::new(1 << 20);
        let stalled = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let started = Instant::now();
        assert_eq!(read(stalled, 10, &budget, TIMES).await.map(|_| ()), Err(ReadBodyError::TooSlow));
        assert_eq!(started.elapsed().as_secs(), 5);
        let drip = Box::pin(stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x"))), ()))
        }));
        let started = Instant::now();
        assert_eq!(
            read(StreamBody::new(drip), 1000, &budget, TIMES).await.map(|_| ()),
            Err(ReadBodyError::TooSlow)
        );
        assert_eq!((started.elapsed().as_secs(), budget.used()), (10, 0));
    }

    #[test]
    fn a_big_answer_counts_until_its_last_clone_is_gone() {
        let budget = Budget::new(1 << 20);
        let answer = counted(Bytes::from(vec![0; 20 << 10]), &budget);
        let rest = answer.slice(10..);
        drop(answer);
        assert_eq!(budget.used(), 20 << 10);
        drop(rest);
        assert_eq!(budget.used(), 0);
        assert_eq!(counted(Bytes::from_static(b"small"), &budget).len(), 5);
        assert_eq!(budget.used(), 0);
    }
}
