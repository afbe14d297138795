//! HTTP/1.1 over a function's Unix socket on pooled keep-alive connections.
//!
//! A connection is driven by the call that uses it, never by a task of its own: a call costs no switch between
//! tasks. Owns no timeout: whoever drops an exchange closes its connection.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::UnixStream;

use super::socket::{ConnectError, connect};

/// The broker takes messages of 16 MiB: an answer beyond this could not be sent with its headers.
pub(crate) const ANSWER_BODY_BYTES_MAX: usize = 15 * 1024 * 1024;
/// Bounds an answer's head: the reply's headers travel in one AMQP frame of 128 KiB.
const ANSWER_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Function servers close idle connections after 5 s (Node) or 2 s (some frameworks). A call sent on a connection
/// just being closed could not be told from one that was run, so a connection idle for this long is not used again.
const IDLE_MAX: Duration = Duration::from_secs(1);

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
    socket: PathBuf,
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
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Pin<Box<http1::Connection<TokioIo<UnixStream>, Full<Bytes>>>>,
}

impl Pool {
    /// Keeps up to `idle_max` connections to `socket`.
    pub(crate) fn new(socket: &Path, idle_max: usize) -> Arc<Self> {
        Arc::new(Self { socket: socket.to_path_buf(), idle_max, idle: Mutex::new(Vec::new()) })
    }

    /// A connection to send one request on. Where this fails, nothing was sent.
    pub(crate) async fn connect(&self) -> Result<Connection, ConnectError> {
        match self.take_idle().await {
            Some(connection) => Ok(connection),
            None => Connection::open(&self.socket).await,
        }
    }

    /// Sends `request` and reads the whole answer.
    pub(crate) async fn exchange(
        &self,
        mut connection: Connection,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, ExchangeError> {
        let answer = connection.exchange(request).await?;
        if connection.is_reusable().await {
            self.keep(connection);
        }
        Ok(answer)
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
    async fn open(socket: &Path) -> Result<Self, ConnectError> {
        let stream = connect(socket).await?;
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(ANSWER_HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Handshake)?;
        Ok(Self { sender, driver: Box::pin(driver) })
    }

    /// Whether another request may be sent: one poll of the driver sees a close or stray bytes.
    async fn is_reusable(&mut self) -> bool {
        let open = std::future::poll_fn(|cx| Poll::Ready(self.driver.as_mut().poll(cx).is_pending())).await;
        open && self.sender.is_ready()
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, ExchangeError> {
        let Self { sender, driver } = self;
        let call = async move {
            let (head, body) =
                sender.send_request(request).await.map_err(ExchangeError::Broken)?.into_parts();
            Ok(Response::from_parts(head, read_body(body).await?))
        };
        let mut call = pin!(call);
        let mut driven = true;
        std::future::poll_fn(|cx| poll_both(cx, driver.as_mut(), &mut driven, call.as_mut())).await
    }
}

/// Polls the call, then the connection under it. A connection that has ended is polled no more: what it had read
/// is still answered, and otherwise the call sees the error.
fn poll_both<D, C>(
    cx: &mut Context<'_>,
    driver: Pin<&mut D>,
    driven: &mut bool,
    call: Pin<&mut C>,
) -> Poll<C::Output>
where
    D: Future,
    C: Future,
{
    if *driven && driver.poll(cx).is_ready() {
        *driven = false;
    }
    call.poll(cx)
}

async fn read_body(mut body: Incoming) -> Result<Bytes, ExchangeError> {
    if body.size_hint().lower() > ANSWER_BODY_BYTES_MAX as u64 {
        return Err(ExchangeError::TooLarge);
    }
    let mut whole = Bytes::new();
    let mut parts = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ExchangeError::Broken)?.into_data() else { continue };
        if whole.len() + parts.len() + data.len() > ANSWER_BODY_BYTES_MAX {
            return Err(ExchangeError::TooLarge);
        }
        // Most answers are one piece, which is passed on as it came.
        if whole.is_empty() && parts.is_empty() {
            whole = data;
        } else {
            parts.extend_from_slice(&std::mem::take(&mut whole));
            parts.extend_from_slice(&data);
        }
    }
    Ok(if parts.is_empty() { whole } else { parts.freeze() })
}
