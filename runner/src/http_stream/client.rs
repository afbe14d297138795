//! HTTP/1.1 to a function on pooled keep-alive connections.
//!
//! A connection is driven by the call that uses it, never by a task of its own: a call costs no switch between
//! tasks. Owns no timeout: whoever drops an exchange closes its connection.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode, response};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

use super::body::RequestBody;
use super::endpoint::Stream;
use super::socket::ConnectError;
use super::switched::Switched;
use crate::config::Endpoint;

/// The broker takes messages of 16 MiB: an answer beyond this could not be sent with its headers.
pub(crate) const ANSWER_BODY_BYTES_MAX: usize = 15 * 1024 * 1024;
/// Bounds an answer's head: 64 KiB of headers, since a reply's travel in one AMQP frame of 128 KiB, and beside them the
/// 16 KiB of a log as base64.
const ANSWER_HEAD_BYTES_MAX: usize = 96 * 1024;
/// Function servers close idle connections after 5 s (Node) or 2 s (some frameworks). A call sent on a connection
/// just being closed could not be told from one that was run, so a connection idle for this long is not used again.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// How long an answer without a length may take to show that it is small: far more than a function that has its answer
/// takes to write it, and no time that a reader of a stream would see.
const SMALL_WAIT: Duration = Duration::from_millis(2);
/// Events are to be passed on as they are written, the first as well (the HTML standard's server-sent events).
const EVENT_STREAM: &str = "text/event-stream";

/// Why an exchange gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The connection broke or carried what is not HTTP.
    #[error("the function broke off its answer")]
    Broken(#[source] hyper::Error),
    /// The body passed [`ANSWER_BODY_BYTES_MAX`].
    #[error("the function's answer is larger than {ANSWER_BODY_BYTES_MAX} bytes")]
    TooLarge,
}

/// Connections to one function process.
#[derive(Debug)]
pub(crate) struct Pool {
    endpoint: Endpoint,
    idle_max: usize,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// One connection, for one request at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    driver: Driver,
    /// Whether the driver is not to be polled any more.
    ended: bool,
}

type Driver = Pin<Box<http1::Connection<TokioIo<Stream>, RequestBody>>>;

/// How much of an answer is read before it is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// All of it: there is no other way than a message.
    Whole,
    /// What has at most so many bytes; anything else as it comes.
    Small(u64),
}

/// A function's answer.
#[derive(Debug)]
pub(crate) enum Exchanged {
    /// It is here.
    Whole(Response<Bytes>),
    /// It has begun.
    Coming(Box<Answering>),
    /// There is none: the connection speaks another protocol from here on.
    Switched(Box<Switched>),
}

impl Pool {
    /// Keeps up to `idle_max` connections to `endpoint`.
    pub(crate) fn new(endpoint: Endpoint, idle_max: usize) -> Arc<Self> {
        Arc::new(Self { endpoint, idle_max, idle: Mutex::new(Vec::new()) })
    }

    /// Whom they lead to.
    pub(crate) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A connection to send one request on. Where this fails, nothing was sent.
    pub(crate) async fn connect(&self) -> Result<Connection, ConnectError> {
        match self.take_idle().await {
            Some(connection) => Ok(connection),
            None => Connection::open(&self.endpoint).await,
        }
    }

    /// Sends `request` and reads the answer, or as much of it as is to be kept.
    pub(crate) async fn exchange(
        self: Arc<Self>,
        mut connection: Connection,
        request: Request<RequestBody>,
        keep: Keep,
    ) -> Result<Exchanged, ExchangeError> {
        let (head, mut body) = connection.send(request).await?.into_parts();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Exchanged::Switched(Box::new(Switched { head, connection })));
        }
        let whole = match keep {
            Keep::Small(most) => connection.read_small(most, &head.headers, &mut body).await?,
            Keep::Whole => Read::Ended(connection.read_whole(Gathered::default(), &mut body).await?),
        };
        let (pool, head) = match whole {
            Read::Begun(first) => {
                let answering = Answering { pool: self, connection, head: Some(head), first, body };
                return Ok(Exchanged::Coming(Box::new(answering)));
            }
            Read::Ended(whole) => (self, Response::from_parts(head, whole)),
        };
        pool.take_back(connection).await;
        Ok(Exchanged::Whole(head))
    }

    async fn take_back(&self, mut connection: Connection) {
        if connection.is_reusable().await {
            self.keep(connection);
        }
    }

    /// The connection used last, if it is fresh and the function has not closed it.
    async fn take_idle(&self) -> Option<Connection> {
        loop {
            let Idle { mut connection, since } = self.idle.lock().pop()?;
            if since.elapsed() < IDLE_MAX && connection.is_reusable().await {
                return Some(connection);
            }
        }
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() < self.idle_max {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }
}

impl Connection {
    async fn open(endpoint: &Endpoint) -> Result<Self, ConnectError> {
        let stream = endpoint.connect().await?;
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(ANSWER_HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Handshake)?;
        Ok(Self { sender, driver: Box::pin(driver), ended: false })
    }

    /// Whether another request may be sent: one poll of the driver sees a close or stray bytes.
    async fn is_reusable(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let open = std::future::poll_fn(|cx| Poll::Ready(self.driver.as_mut().poll(cx).is_pending())).await;
        self.ended = !open;
        open && self.sender.is_ready()
    }

    async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, ExchangeError> {
        let Self { sender, driver, ended } = self;
        drive(driver, ended, sender.send_request(request)).await.map_err(ExchangeError::Broken)
    }

    /// The connection itself, once HTTP is over on it, and what came behind the last head.
    pub(super) async fn into_stream(self) -> Result<(Stream, Bytes), ExchangeError> {
        let Self { sender, mut driver, ended } = self;
        if !ended {
            driver.as_mut().await.map_err(ExchangeError::Broken)?;
        }
        drop(sender);
        let http1::Parts { io, read_buf, .. } = Pin::into_inner(driver).into_parts();
        Ok((io.into_inner(), read_buf))
    }

    /// The next piece of a body; `None` at its end.
    async fn piece(&mut self, body: &mut Incoming) -> Option<Result<Bytes, ExchangeError>> {
        loop {
            match drive(&mut self.driver, &mut self.ended, body.frame()).await? {
                Err(error) => return Some(Err(ExchangeError::Broken(error))),
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
            }
        }
    }

    /// Reads what a message carries, after what was read already.
    async fn read_whole(&mut self, mut read: Gathered, body: &mut Incoming) -> Result<Bytes, ExchangeError> {
        if read.len() as u64 + body.size_hint().lower() > ANSWER_BODY_BYTES_MAX as u64 {
            return Err(ExchangeError::TooLarge);
        }
        while let Some(data) = self.piece(body).await {
            read.push(data?);
            if read.len() > ANSWER_BODY_BYTES_MAX {
                return Err(ExchangeError::TooLarge);
            }
        }
        Ok(read.finish())
    }

    /// Reads a body that is small. One of unknown length is given a moment to show that it is: some function libraries
    /// never say a length.
    async fn read_small(
        &mut self,
        most: u64,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<Read, ExchangeError> {
        match body.size_hint().exact() {
            Some(length) if length <= most => {
                return Ok(Read::Ended(self.read_whole(Gathered::default(), body).await?));
            }
            Some(_) => return Ok(Read::Begun(Bytes::new())),
            None if is_event_stream(headers) => return Ok(Read::Begun(Bytes::new())),
            None => {}
        }
        let (mut read, until) = (Gathered::default(), tokio::time::Instant::now() + SMALL_WAIT);
        while read.len() as u64 <= most {
            match tokio::time::timeout_at(until, self.piece(body)).await {
                Err(_) => break,
                Ok(None) => return Ok(Read::Ended(read.finish())),
                Ok(Some(data)) => read.push(data?),
            }
        }
        Ok(Read::Begun(read.finish()))
    }
}

/// As much of a body as was read.
enum Read {
    /// All of it.
    Ended(Bytes),
    /// More comes.
    Begun(Bytes),
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let named = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    named.is_some_and(|text| {
        text.get(..EVENT_STREAM.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(EVENT_STREAM))
    })
}

/// An answer that has begun. Dropped before its end, it closes the function's connection.
#[derive(Debug)]
pub(crate) struct Answering {
    pool: Arc<Pool>,
    connection: Connection,
    head: Option<response::Parts>,
    /// What was read already.
    first: Bytes,
    body: Incoming,
}

impl Answering {
    /// Its status and headers, once.
    pub(crate) fn take_head(&mut self) -> response::Parts {
        self.head.take().unwrap_or_else(|| Response::new(()).into_parts().0)
    }

    /// The length of its body, where the function said it.
    pub(crate) fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next piece; `None` at its end.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, ExchangeError>> {
        if !self.first.is_empty() {
            return Some(Ok(std::mem::take(&mut self.first)));
        }
        self.connection.piece(&mut self.body).await
    }

    /// All of its body, if a message carries it.
    pub(crate) async fn read_whole(&mut self) -> Result<Bytes, ExchangeError> {
        let first = Gathered { first: std::mem::take(&mut self.first), all: BytesMut::new() };
        self.connection.read_whole(first, &mut self.body).await
    }

    /// Waits for something else while the connection goes on: its request may not have been sent whole.
    pub(crate) async fn drive<F: Future>(&mut self, other: F) -> F::Output {
        drive(&mut self.connection.driver, &mut self.connection.ended, other).await
    }

    /// Keeps the connection for another call, if it may be used again.
    pub(crate) async fn finish(self) {
        self.pool.take_back(self.connection).await;
    }
}

async fn drive<F: Future>(driver: &mut Driver, ended: &mut bool, other: F) -> F::Output {
    let mut other = pin!(other);
    std::future::poll_fn(|cx| poll_both(cx, driver.as_mut(), ended, other.as_mut())).await
}

/// Polls the call, then the connection under it. A connection that has ended is polled no more: what it had read
/// is still answered, and otherwise the call sees the error.
fn poll_both<D, C>(
    cx: &mut Context<'_>,
    driver: Pin<&mut D>,
    ended: &mut bool,
    call: Pin<&mut C>,
) -> Poll<C::Output>
where
    D: Future,
    C: Future,
{
    if !*ended && driver.poll(cx).is_ready() {
        *ended = true;
    }
    call.poll(cx)
}

/// Most answers are one piece, which is passed on as it came.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    all: BytesMut,
}

impl Gathered {
    fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    fn push(&mut self, data: Bytes) {
        if self.first.is_empty() && self.all.is_empty() {
            self.first = data;
            return;
        }
        self.all.extend_from_slice(&std::mem::take(&mut self.first));
        self.all.extend_from_slice(&data);
    }

    fn finish(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}
