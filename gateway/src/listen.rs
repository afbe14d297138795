//! One listener: accepts connections, bounds how many and how slow they may be, serves HTTP/1.1 and h2c on each, and
//! drains. Never knows what is served.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
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
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// A large body comes in frames of this size: four times the default, a quarter of the work.
const FRAME_BYTES_MAX: u32 = 64 << 10;
/// An HTTP/2 client that is silent this long is asked whether it lives …
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// … and has this long to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
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
    let server = Arc::new(server(&limits));
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
        let (server, limits, handler) = (Arc::clone(&server), Arc::clone(&limits), handler.clone());
        let (drain, abort) = (lifetime.drain.clone(), lifetime.abort.clone());
        lifetime.connections.spawn(async move {
            let connection = Connection { stream, peer, server: &server, limits: &limits, handler };
            connection.serve(drain, abort).await;
            drop(place);
        });
    }
}

fn server(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size((limits.head_bytes_max * BUFFER_FACTOR).max(8 << 10));
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(limits.head_bytes_max).unwrap_or(u32::MAX))
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    server
}

struct Connection<'a, H> {
    stream: TcpStream,
    peer: SocketAddr,
    server: &'a auto::Builder<TokioExecutor>,
    limits: &'a Limits,
    handler: H,
}

impl<H: Handler> Connection<'_, H> {
    async fn serve(self, drain: CancellationToken, abort: CancellationToken) {
        let Self { stream, peer, server, limits, handler } = self;
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "connection gone at once");
            return;
        }
        let (begun, switched) = (AtomicBool::new(false), Switched::default());
        let service = service_fn(|request: Request<Incoming>| {
            begun.store(true, Ordering::Relaxed);
            // Boxed, it goes with its call: hyper keeps a service's future for as long as the connection.
            Box::pin(answer(handler.clone(), request, peer, Arc::clone(&switched)))
        });
        let io = TokioIo::new(Patient::new(stream, limits.write_timeout));
        // On the heap, since a future that holds it beside what it was made of is twice as large.
        let mut connection = Box::pin(server.serve_connection_with_upgrades(io, service));
        // hyper bounds the wait for each head, but not the wait for the bytes that tell HTTP/1.1 from HTTP/2.
        let first_request = tokio::time::sleep(limits.head_timeout);
        tokio::pin!(first_request);
        let (mut waiting, mut draining) = (true, false);
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        debug!(%error, %peer, "connection ended early");
                    }
                    break;
                }
                () = drain.cancelled(), if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = abort.cancelled() => return,
                () = &mut first_request, if waiting => {
                    waiting = false;
                    if !begun.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        }
        // Boxed, since hardly any connection gets here and each would pay for its size.
        abort.run_until_cancelled(Box::pin(go_on(&switched, &drain))).await;
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
