//! One listener: accepts connections, bounds how many and how slow they may be, serves HTTP/1.1 and h2c on each, and
//! drains. Never knows what is served.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::config::Limits;
use crate::handover::Handover;
use crate::patient::Patient;
use crate::response::ResponseBody;

/// Streams at once in one HTTP/2 connection; browsers and proxies expect at least 100.
const STREAMS_MAX: u32 = 256;
/// hyper's buffer of one HTTP/1.1 connection: twice the head that is taken, so that the answer to one a little too
/// large is ours rather than hyper's bare 431.
const BUFFER_FACTOR: usize = 2;
/// What HTTP/2 flow control lets a client send ahead on one stream, and on one connection: bounds what is buffered
/// before a body counts.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// A large body comes in frames of this size, sixteen times the default: fewer reads, and less work for each byte.
const FRAME_BYTES_MAX: u32 = 256 << 10;
/// An HTTP/2 client that is silent this long is asked whether it lives …
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// … and has this long to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// With what HTTP/2 begins, as far as no method of HTTP/1.1 does (RFC 9113, 3.4).
const PREFACE: &[u8; 3] = b"PRI";
/// A client that has sent less of that sends the rest in this time, or is waited for again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// After a failed accept (no file descriptor left, most often) others get time to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests; cloned into each connection.
pub(crate) trait Handler: Clone + Send + Sync + 'static {
    /// The answer to one request. Dropped when the client leaves.
    fn handle(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> impl Future<Output = Response<ResponseBody>> + Send;
}

/// When a listener stops, and who waits for its connections.
#[derive(Clone)]
pub(crate) struct Lifetime {
    /// Accept no more; connections end after the answer under way.
    pub(crate) drain: CancellationToken,
    /// Connections end now.
    pub(crate) abort: CancellationToken,
    pub(crate) connections: TaskTracker,
}

/// Accepts until the drain begins.
pub(crate) async fn accept<H: Handler>(
    listener: TcpListener,
    limits: Arc<Limits>,
    handler: H,
    lifetime: Lifetime,
) {
    let servers = Arc::new(Servers::new(&limits));
    let places = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        let place = tokio::select! {
            () = lifetime.drain.cancelled() => return,
            // Beyond the bound, clients wait in the kernel's bounded backlog. The semaphore is never closed.
            Ok(place) = Arc::clone(&places).acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = lifetime.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (servers, limits, handler) = (Arc::clone(&servers), Arc::clone(&limits), handler.clone());
        let (drain, abort) = (lifetime.drain.clone(), lifetime.abort.clone());
        lifetime.connections.spawn(async move {
            let connection = Connection { stream, peer, servers: &servers, limits: &limits, handler };
            connection.serve(drain, abort).await;
            drop(place);
        });
    }
}

/// One for each version of HTTP. To let hyper-util tell them apart would cost each connection of HTTP/1.1 a second buffer,
/// for as long as it lives.
struct Servers {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

impl Servers {
    fn new(limits: &Limits) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_buf_size((limits.head_bytes_max * BUFFER_FACTOR).max(8 << 10));
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(limits.head_bytes_max).unwrap_or(u32::MAX))
            .max_frame_size(FRAME_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        Self { http1, http2 }
    }
}

/// By the first bytes of a connection, which it leaves there; none, where they do not come.
async fn version(stream: &TcpStream) -> Option<Version> {
    stream.set_nodelay(true).ok()?;
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await.ok().filter(|seen| *seen > 0)?;
        if !PREFACE.starts_with(&first[..seen]) {
            return Some(Version::Http1);
        }
        if seen == PREFACE.len() {
            return Some(Version::Http2);
        }
        // Hardly ever: what is there stays there, so nobody tells when more has come.
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

struct Connection<'a, H> {
    stream: TcpStream,
    peer: SocketAddr,
    servers: &'a Servers,
    limits: &'a Limits,
    handler: H,
}

impl<H: Handler> Connection<'_, H> {
    async fn serve(self, drain: CancellationToken, abort: CancellationToken) {
        let Self { stream, peer, servers, limits, handler } = self;
        let version = tokio::select! {
            // A request that came as the drain began is answered.
            biased;
            version = timeout(limits.head_timeout, version(&stream)) => version,
            () = drain.cancelled() => return,
            () = abort.cancelled() => return,
        };
        let Ok(Some(version)) = version else { return };
        let (begun, switched) = (AtomicBool::new(false), Switched::default());
        let service = service_fn(|request: Request<Incoming>| {
            begun.store(true, Ordering::Relaxed);
            // Boxed, it goes with its call: hyper keeps a service's future for as long as the connection.
            Box::pin(answer(handler.clone(), request, peer, Arc::clone(&switched)))
        });
        let io = TokioIo::new(Patient::new(stream, limits.write_timeout));
        let life = Life { begun: &begun, first_request: limits.head_timeout, drain: &drain, abort: &abort };
        // On the heap, where each version takes what it needs.
        let ended = match version {
            Version::Http1 => {
                let connection = servers.http1.serve_connection(io, service).with_upgrades();
                life.of(Box::pin(connection), http1::UpgradeableConnection::graceful_shutdown).await
            }
            Version::Http2 => {
                let connection = servers.http2.serve_connection(io, service);
                life.of(Box::pin(connection), http2::Connection::graceful_shutdown).await
            }
        };
        match ended {
            Some(Ok(())) => {}
            Some(Err(error)) => debug!(%error, %peer, "connection ended early"),
            None => return,
        }
        // Boxed, since hardly any connection gets here and each would pay for its size.
        abort.run_until_cancelled(Box::pin(go_on(&switched, &drain))).await;
    }
}

/// What ends a connection besides its client.
struct Life<'a> {
    /// Whether a request has come.
    begun: &'a AtomicBool,
    /// When the first one must have come: hyper bounds the wait for each head of HTTP/1.1, but none of HTTP/2.
    first_request: Duration,
    drain: &'a CancellationToken,
    abort: &'a CancellationToken,
}

impl Life<'_> {
    /// Serves a connection to its end; none, where it was to end at once.
    async fn of<C: Future<Output = hyper::Result<()>>>(
        &self,
        mut connection: Pin<Box<C>>,
        leave: impl Fn(Pin<&mut C>),
    ) -> Option<hyper::Result<()>> {
        let mut first_request = std::pin::pin!(tokio::time::sleep(self.first_request));
        let (mut waiting, mut draining) = (true, false);
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => return Some(ended),
                () = self.drain.cancelled(), if !draining => {
                    draining = true;
                    leave(connection.as_mut());
                }
                () = self.abort.cancelled() => return None,
                () = &mut first_request, if waiting => {
                    waiting = false;
                    if !self.begun.load(Ordering::Relaxed) {
                        return None;
                    }
                }
            }
        }
    }
}

/// Answers one request; keeps what its connection is to be handed over to.
async fn answer<H: Handler>(
    handler: H,
    mut request: Request<Incoming>,
    peer: SocketAddr,
    switched: Switched,
) -> Result<Response<ResponseBody>, Infallible> {
    let upgrade = hyper::upgrade::on(&mut request);
    let mut response = handler.handle(request, peer).await;
    if let Some(handover) = response.body_mut().take_handover() {
        *switched.lock() = Some((handover, upgrade));
    }
    Ok(response)
}

/// What a connection is handed over to when HTTP is over on it.
type Switched = Arc<Mutex<Option<(Box<Handover>, OnUpgrade)>>>;

/// Carries a connection on that has switched protocols; it keeps its place among the connections.
async fn go_on(switched: &Switched, drain: &CancellationToken) {
    let taken = switched.lock().take();
    let Some((handover, upgrade)) = taken else { return };
    match upgrade.await {
        Ok(client) => handover.run(TokioIo::new(client), drain).await,
        Err(error) => debug!(%error, "a client left as its connection switched"),
    }
}
