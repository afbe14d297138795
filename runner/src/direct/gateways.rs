//! Connections to gateways, over which streams are opened. Opens no stream by itself, and never accepts one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use funcatron_broker::message::{CallId, DIRECT_PATH, FN_HAS_BODY, Offer};
use http::header::AUTHORIZATION;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use super::outgoing::{Outgoing, Sender, outgoing};

/// What a gateway may send ahead on one stream.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
/// Streams on one connection: as many as fit its window together, so that none that is slow keeps another waiting.
const STREAMS_MAX: usize = 8;
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * STREAMS_MAX as u32;
/// A large body comes in frames of this size, sixteen times the default: fewer reads, and less work for each byte.
const FRAME_BYTES_MAX: u32 = 256 << 10;
/// What waits to be written on one stream.
const SEND_BUFFER_BYTES: usize = 512 << 10;
/// Connections to one gateway: with their streams as many as a runner has slots.
const CONNECTIONS_MAX: usize = 128;
/// A gateway in the same cluster accepts within milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// It answers a token as fast; a busy one is given time.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that carried nothing for this long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// A gateway that is silent this long is asked whether it lives …
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// … and has this long to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a stream is not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The token is void: nobody waits for the call any more.
    #[error("nobody waits for this call any more")]
    Void,
    /// There is no way there.
    #[error("the runner cannot reach the gateway at {0}")]
    Unreachable(String),
    /// It does not take streams, or no further one.
    #[error("the gateway refused the stream with status {0}")]
    Refused(StatusCode),
}

/// A stream that a gateway has taken.
#[derive(Debug)]
pub(crate) struct DirectStream {
    /// Takes the answer.
    pub(crate) sender: Sender,
    /// The request's body.
    pub(crate) body: Incoming,
    /// Its place on its connection.
    pub(crate) lease: Lease,
}

/// Connections to all gateways that have called.
#[derive(Debug)]
pub(crate) struct Gateways {
    connections: Mutex<HashMap<String, Vec<Arc<Connection>>>>,
    ended: CancellationToken,
    _end: DropGuard,
}

#[derive(Debug)]
struct Connection {
    requests: http2::SendRequest<Outgoing>,
    streams: AtomicUsize,
    /// Streams so far, to tell an idle connection.
    opened: AtomicU64,
}

/// A stream's place on its connection; dropped, it is free.
#[derive(Debug)]
pub(crate) struct Lease(Arc<Connection>);

impl Lease {
    fn take(connection: &Arc<Connection>) -> Self {
        connection.streams.fetch_add(1, Ordering::Relaxed);
        connection.opened.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connection))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gateways {
    pub(crate) fn new() -> Arc<Self> {
        let ended = CancellationToken::new();
        Arc::new(Self { connections: Mutex::default(), _end: ended.clone().drop_guard(), ended })
    }

    /// Opens the stream that was offered with a call.
    pub(crate) async fn open(self: &Arc<Self>, id: CallId, offer: &Offer) -> Result<DirectStream, OpenError> {
        let unreachable = || OpenError::Unreachable(offer.at.clone());
        // One that was kept may have been closed a moment ago.
        let mut lost = false;
        if let Some(lease) = self.kept(&offer.at) {
            match ask(lease, id, offer).await {
                Ok(opened) => return opened,
                Err(NoAnswer) => lost = true,
            }
        }
        let lease = self.connect(&offer.at).await.ok_or_else(unreachable)?;
        match ask(lease, id, offer).await {
            // A token that was used up on the lost connection opens nothing twice, and its gateway still waits.
            Ok(Err(OpenError::Void)) if lost => Err(unreachable()),
            Ok(opened) => opened,
            Err(NoAnswer) => Err(unreachable()),
        }
    }

    fn kept(&self, at: &str) -> Option<Lease> {
        let connections = self.connections.lock();
        let has_room = |connection: &&Arc<Connection>| {
            connection.streams.load(Ordering::Relaxed) < STREAMS_MAX && !connection.requests.is_closed()
        };
        connections.get(at)?.iter().find(has_room).map(Lease::take)
    }

    async fn connect(self: &Arc<Self>, at: &str) -> Option<Lease> {
        if self.connections.lock().get(at).is_some_and(|known| known.len() >= CONNECTIONS_MAX) {
            return None;
        }
        let connecting = async {
            let stream = TcpStream::connect(at).await.ok()?;
            stream.set_nodelay(true).ok()?;
            builder().handshake(TokioIo::new(stream)).await.ok()
        };
        let (requests, driver) = timeout(CONNECT_TIMEOUT, connecting).await.ok()??;
        let connection =
            Arc::new(Connection { requests, streams: AtomicUsize::new(0), opened: AtomicU64::new(0) });
        let lease = Lease::take(&connection);
        self.connections.lock().entry(at.to_owned()).or_default().push(Arc::clone(&connection));
        let keeper = Keeper {
            gateways: Arc::downgrade(self),
            at: at.to_owned(),
            connection,
            ended: self.ended.clone(),
        };
        tokio::spawn(keeper.keep(driver));
        Some(lease)
    }

    /// Forgets a connection, if it is over or nothing was opened on it since `seen`; says whether.
    fn retire(&self, at: &str, connection: &Arc<Connection>, over: bool, seen: u64) -> bool {
        let mut connections = self.connections.lock();
        let busy = connection.streams.load(Ordering::Relaxed) > 0
            || connection.opened.load(Ordering::Relaxed) != seen;
        if busy && !over {
            return false;
        }
        if let Some(known) = connections.get_mut(at) {
            known.retain(|known| !Arc::ptr_eq(known, connection));
            if known.is_empty() {
                connections.remove(at);
            }
        }
        true
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Nothing came back.
struct NoAnswer;

async fn ask(lease: Lease, id: CallId, offer: &Offer) -> Result<Result<DirectStream, OpenError>, NoAnswer> {
    let (sender, body) = outgoing();
    let Offer { at, token, body: comes, line: _, upgrade: _ } = offer;
    let mut request = Request::post(format!("http://{at}{DIRECT_PATH}{id}"))
        .header(AUTHORIZATION, format!("Bearer {token}"));
    if !comes {
        request = request.header(FN_HAS_BODY, "true");
    }
    let request = request.body(body).map_err(|_| NoAnswer)?;
    let mut requests = lease.0.requests.clone();
    let asked = timeout(OPEN_TIMEOUT, requests.send_request(request)).await.map_err(|_| NoAnswer)?;
    let answer: Response<Incoming> = asked.map_err(|error| {
        debug!(%error, at, "a stream could not be opened");
        NoAnswer
    })?;
    Ok(match answer.status() {
        StatusCode::OK => Ok(DirectStream { sender, body: answer.into_body(), lease }),
        StatusCode::FORBIDDEN => Err(OpenError::Void),
        other => Err(OpenError::Refused(other)),
    })
}

/// Drives a connection until it ends or has been idle.
struct Keeper {
    gateways: Weak<Gateways>,
    at: String,
    connection: Arc<Connection>,
    ended: CancellationToken,
}

impl Keeper {
    async fn keep(self, driver: impl Future<Output = hyper::Result<()>>) {
        let mut driver = std::pin::pin!(driver);
        loop {
            let seen = self.connection.opened.load(Ordering::Relaxed);
            let over = tokio::select! {
                _ = driver.as_mut() => true,
                () = self.ended.cancelled() => return,
                () = tokio::time::sleep(IDLE) => false,
            };
            let retired = self
                .gateways
                .upgrade()
                .is_none_or(|gateways| gateways.retire(&self.at, &self.connection, over, seen));
            if retired {
                return;
            }
        }
    }
}
