//! Bodies that no message carries: fetched from a gateway at a signed address, as the function takes them.
//!
//! Believes no byte that the digest does not cover: the last piece is passed on once all before it are known to be right,
//! so that a function never has a wrong body whole. Never logs an address: its signature is a capability.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::backoff::Backoff;
use funcatron_broker::message::{Outcome, SpilledBody};
use funcatron_crds::{Digest, Digester};
use http::uri::Scheme;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Empty;
use hyper::body::{Body, Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::attempted::Attempted;
use crate::call::{Caller, Job};
use crate::http_stream::body::BrokenOff;
use crate::session::now_ms;
use crate::settler::LastWord;

/// A gateway and a ledger look into a store before they answer, S3 perhaps.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// A gateway within the cluster takes a connection within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// While a function does not read, a gateway sends so much ahead.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// A gateway that is silent this long is asked whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// A ledger's restart is noticed at once …
const AGAIN_FIRST: Duration = Duration::from_millis(500);
/// … and one that is away is not asked all the time.
const AGAIN_LONGEST: Duration = Duration::from_secs(15);

/// Why a body cannot be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchBodyError {
    #[error("what its message says of its body makes no sense")]
    Nonsense,
    #[error("the object store with its body is away")]
    Away,
    #[error("its body is not in the object store: {0}")]
    Gone(StatusCode),
}

/// Fetches bodies.
#[derive(Debug, Clone)]
pub(crate) struct Bodies(Client<HttpConnector, Empty<Bytes>>);

impl Bodies {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .http2_only(true)
            .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(PING_INTERVAL);
        Self(builder.build(connector))
    }

    /// Whether it is not known what becomes of a fetch.
    async fn is_away(&self, body: &SpilledBody) -> bool {
        self.ask(Method::HEAD, body).await.err() == Some(FetchBodyError::Away)
    }

    /// Begins to fetch a body.
    pub(crate) async fn open(&self, body: &SpilledBody) -> Result<Arc<Fetching>, FetchBodyError> {
        let digest = Digest::parse(&body.digest).map_err(|_| FetchBodyError::Nonsense)?;
        let answer = self.ask(Method::GET, body).await?;
        Ok(Fetching::new(answer.into_body(), Expected::new(digest, body.size)))
    }

    async fn ask(&self, method: Method, body: &SpilledBody) -> Result<Response<Incoming>, FetchBodyError> {
        let address: Uri = body.at.parse().map_err(|_| FetchBodyError::Nonsense)?;
        if address.scheme() != Some(&Scheme::HTTP) {
            return Err(FetchBodyError::Nonsense);
        }
        let request = Request::builder().method(method).uri(address).body(Empty::new());
        let asking = self.0.request(request.map_err(|_| FetchBodyError::Nonsense)?);
        match timeout(OPEN_TIMEOUT, asking).await {
            Ok(Ok(answer)) => judge(answer.status()).map(|()| answer),
            Ok(Err(_)) | Err(_) => Err(FetchBodyError::Away),
        }
    }
}

fn judge(status: StatusCode) -> Result<(), FetchBodyError> {
    match status {
        StatusCode::OK => Ok(()),
        StatusCode::TOO_MANY_REQUESTS => Err(FetchBodyError::Away),
        status if status.is_server_error() => Err(FetchBodyError::Away),
        status => Err(FetchBodyError::Gone(status)),
    }
}

/// What a body must come to.
#[derive(Debug)]
struct Expected {
    digest: Digest,
    left: u64,
    digester: Digester,
}

/// Why a body is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("its body broke off on its way from the object store")]
    Short,
    #[error("what is in the object store is not its body")]
    Other,
}

impl Expected {
    fn new(digest: Digest, size: u64) -> Self {
        Self { digest, left: size, digester: Digester::default() }
    }

    /// Judges a piece before it is passed on.
    fn take(&mut self, data: &[u8]) -> Result<(), Wrong> {
        self.left = self.left.checked_sub(data.len() as u64).ok_or(Wrong::Other)?;
        self.digester.update(data);
        if self.left == 0 && std::mem::take(&mut self.digester).finish() != self.digest {
            return Err(Wrong::Other);
        }
        Ok(())
    }
}

/// A body on its way into a function, and what is known of it.
#[derive(Debug)]
pub(crate) struct Fetching {
    body: Mutex<(Incoming, Expected)>,
    size: u64,
    waiting: AtomicBool,
    wrong: Mutex<Option<Wrong>>,
}

impl Fetching {
    fn new(body: Incoming, expected: Expected) -> Arc<Self> {
        let (size, waiting, wrong) = (expected.left, AtomicBool::new(false), Mutex::new(None));
        Arc::new(Self { body: Mutex::new((body, expected)), size, waiting, wrong })
    }

    /// The next piece for the function.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let mut body = self.body.lock();
        let (body, expected) = &mut *body;
        if expected.left == 0 {
            return Poll::Ready(None);
        }
        let polled = Pin::new(body).poll_frame(cx);
        self.waiting.store(polled.is_pending(), Ordering::Relaxed);
        polled.map(|frame| {
            let judged = match frame {
                Some(Ok(frame)) => match frame.data_ref() {
                    Some(data) => expected.take(data).map(|()| frame),
                    None => Err(Wrong::Short),
                },
                Some(Err(_)) | None => Err(Wrong::Short),
            };
            Some(judged.map_err(|wrong| {
                *self.wrong.lock() = Some(wrong);
                BrokenOff
            }))
        })
    }

    /// How long the body is.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Why it broke off, if it did.
    pub(crate) fn wrong(&self) -> Option<Wrong> {
        *self.wrong.lock()
    }

    /// Whether the function has taken all that came so far.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Caller {
    /// Comes back with a delivery once it is known what becomes of fetching its body, however long the store is away;
    /// without a slot, as questions to the ledger wait. Once nothing is to wait any more, it is given back.
    pub(crate) async fn until_body(&self, job: Job, no_more: CancellationToken) -> Option<Job> {
        let Some((body, deadline_ms, session)) = job.to_fetch() else { return Some(job) };
        let waiting = async {
            let mut backoff = Backoff::new(AGAIN_FIRST, AGAIN_LONGEST);
            // Past its deadline it is not begun in any case.
            while self.bodies.is_away(body).await && now_ms() < deadline_ms {
                if backoff.failures() == 0 {
                    warn!("the object store with a call's body is away; asking on");
                }
                tokio::time::sleep(backoff.after_failure(rand::random())).await;
            }
        };
        let is_known = tokio::select! {
            biased;
            () = session.over() => return None,
            () = no_more.cancelled() => false,
            () = waiting => true,
        };
        if is_known {
            return Some(job);
        }
        self.settle(job.silently(LastWord::GiveBack)).await;
        None
    }

    /// Begins to fetch a body that is in the object store, within the attempt's time, and says what is left of that.
    pub(crate) async fn fetch(
        &self,
        spilled: Option<SpilledBody>,
        limit: Duration,
    ) -> Result<(Option<Arc<Fetching>>, Duration), Attempted> {
        let Some(spilled) = spilled else { return Ok((None, limit)) };
        let begun = Instant::now();
        match timeout(limit, self.bodies.open(&spilled)).await {
            Ok(Ok(fetching)) => Ok((Some(fetching), limit.saturating_sub(begun.elapsed()))),
            Ok(Err(error)) => Err(Attempted::not(Outcome::Failed, error.to_string())),
            Err(_) => Err(Attempted::not(Outcome::TimedOut, "its body did not come in time")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_piece_passes_only_where_all_are_right() {
        let expected = |digest| Expected::new(digest, 4);
        let mut right = expected(Digest::of(b"body"));
        assert_eq!((right.take(b"bo"), right.take(b""), right.take(b"dy")), (Ok(()), Ok(()), Ok(())));
        let mut other = expected(Digest::of(b"body"));
        assert_eq!((other.take(b"bo"), other.take(b"di")), (Ok(()), Err(Wrong::Other)));
        let mut long = expected(Digest::of(b"body"));
        assert_eq!(long.take(b"body!"), Err(Wrong::Other));
    }

    #[test]
    fn what_may_pass_is_waited_for_and_what_is_gone_is_not() {
        for status in [500, 502, 503, 429] {
            assert_eq!(judge(StatusCode::from_u16(status).unwrap()), Err(FetchBodyError::Away), "{status}");
        }
        for status in [StatusCode::NOT_FOUND, StatusCode::FORBIDDEN, StatusCode::NO_CONTENT] {
            assert_eq!(judge(status), Err(FetchBodyError::Gone(status)));
        }
        assert_eq!(judge(StatusCode::OK), Ok(()));
    }
}
