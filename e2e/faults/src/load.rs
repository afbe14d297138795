//! Steady calls over HTTP/1.1, as clients with a pool of connections make them. Each call has a number of its own, and
//! each starts at its time, whatever became of the ones before.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::call::{End, Flaw, Kind, Record, judge};
use crate::schedule::Rates;

/// The hostname of the App under load.
pub(crate) const HOSTNAME: &str = "faults.example.com";
/// Longer than the function's timeout and a frozen gateway together: a call that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(90);
/// A GET whose connection broke, and any call that found none, is sent again this long: a container that died twice
/// waits 10 s before it is started, and its Service knows a moment later.
const AGAIN_FOR: Duration = Duration::from_secs(30);
/// Between two tries: the dead gateway's address leaves its Service meanwhile.
const AGAIN_PAUSE: Duration = Duration::from_millis(100);
/// A live peer on this machine accepts at once, even while it is frozen.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Shorter than the gateway keeps idle connections, so that it is the client who closes them.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// All that a frozen gateway can gather in its time at these rates, twice.
const OPEN_MAX: usize = 8_192;

type Pool = Client<HttpConnector, Full<Bytes>>;

/// A pool of connections.
pub(crate) fn pool() -> Pool {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .build(connector)
}

/// Calls that are being sent.
pub(crate) struct Load {
    shared: Arc<Shared>,
    handle: Handle,
    stop: CancellationToken,
    calls: TaskTracker,
}

struct Shared {
    began: Instant,
    gateway: SocketAddr,
    pool: Pool,
    /// Numbers go on over all rounds, so that no call is taken for one of an earlier round.
    numbers: Arc<AtomicU64>,
    open: Semaphore,
    accepted: AtomicUsize,
    goal: usize,
    records: Mutex<Vec<Record>>,
}

impl Load {
    /// Begins; ends sending detached calls once so many were accepted, and the others when told to.
    pub(crate) fn start(
        handle: &Handle,
        gateway: SocketAddr,
        numbers: &Arc<AtomicU64>,
        rates: Rates,
        goal: usize,
    ) -> Self {
        let shared = Arc::new(Shared {
            began: Instant::now(),
            gateway,
            pool: pool(),
            numbers: Arc::clone(numbers),
            open: Semaphore::new(OPEN_MAX),
            accepted: AtomicUsize::new(0),
            goal,
            records: Mutex::default(),
        });
        let (stop, calls) = (CancellationToken::new(), TaskTracker::new());
        let Rates { get, post, detached } = rates;
        for (kind, rate) in [(Kind::Get, get), (Kind::Post, post), (Kind::Detached, detached)] {
            let pacing = pace(Arc::clone(&shared), kind, rate, calls.clone());
            let stop = stop.clone();
            calls.spawn_on(async move { stop.run_until_cancelled(pacing).await }, handle);
        }
        Self { shared, handle: handle.clone(), stop, calls }
    }

    /// A moment as its records count time.
    pub(crate) fn time_of(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.shared.began)
    }

    /// Whether as many detached calls were accepted as were asked for.
    pub(crate) fn reached(&self) -> Result<()> {
        let (accepted, goal) = (self.shared.accepted.load(Ordering::Relaxed), self.shared.goal);
        ensure!(accepted >= goal, "{accepted} of {goal} calls accepted");
        Ok(())
    }

    /// Whether a call was answered that was sent since then.
    pub(crate) fn answered_since(&self, since: Duration) -> Result<()> {
        let records = self.shared.records.lock();
        let good = records.iter().any(|record| record.end == End::Good && record.sent >= since);
        ensure!(good, "no call was answered since {since:?}");
        Ok(())
    }

    /// Sends no more and waits for what is open, whose patience is bounded.
    pub(crate) fn finish(self) -> Vec<Record> {
        self.stop.cancel();
        self.calls.close();
        self.handle.block_on(self.calls.wait());
        std::mem::take(&mut *self.shared.records.lock())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn pace(shared: Arc<Shared>, kind: Kind, rate: u32, calls: TaskTracker) {
    if rate == 0 {
        return;
    }
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        if kind == Kind::Detached && shared.accepted.load(Ordering::Relaxed) >= shared.goal {
            return;
        }
        calls.spawn(Arc::clone(&shared).call(kind));
    }
}

impl Shared {
    async fn call(self: Arc<Self>, kind: Kind) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let sent = self.began.elapsed();
        let (tries, end) = match self.open.try_acquire() {
            Ok(_place) => self.until_answered(kind, number).await,
            Err(_) => (0, End::Flawed(Flaw::Silent, format!("{OPEN_MAX} calls are open"))),
        };
        if matches!(end, End::Accepted(_)) {
            self.accepted.fetch_add(1, Ordering::Relaxed);
        }
        let record = Record { number, kind, sent, done: self.began.elapsed(), tries, end };
        self.records.lock().push(record);
    }

    /// As HTTP client libraries do: what never left is sent again, and so is a GET whose connection broke.
    async fn until_answered(&self, kind: Kind, number: u64) -> (u32, End) {
        let (began, mut tries) = (Instant::now(), 0);
        loop {
            tries += 1;
            let left = PATIENCE.saturating_sub(began.elapsed());
            let failure = match timeout(left, self.once(kind, number)).await {
                Err(_) => return (tries, End::Flawed(Flaw::Silent, format!("nothing within {PATIENCE:?}"))),
                Ok(Ok(end)) => return (tries, end),
                Ok(Err(failure)) => failure,
            };
            if !(failure.is_unsent || kind == Kind::Get) || began.elapsed() > AGAIN_FOR {
                return (tries, End::Flawed(Flaw::Broken, failure.words));
            }
            tokio::time::sleep(AGAIN_PAUSE).await;
        }
    }

    async fn once(&self, kind: Kind, number: u64) -> Result<End, Failure> {
        let response = self
            .pool
            .request(self.request(kind, number))
            .await
            .map_err(|error| Failure { is_unsent: error.is_connect(), words: chain(&error) })?;
        let (head, body) = response.into_parts();
        let body =
            body.collect().await.map_err(|error| Failure { is_unsent: false, words: chain(&error) })?;
        let id = head.headers.get("fn-call-id").and_then(|id| id.to_str().ok());
        Ok(judge(kind, number, head.status, id, &String::from_utf8_lossy(&body.to_bytes())))
    }

    fn request(&self, kind: Kind, number: u64) -> Request<Full<Bytes>> {
        let body = if kind == Kind::Get { Bytes::new() } else { Bytes::from(number.to_string()) };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = if kind == Kind::Get { Method::GET } else { Method::POST };
        *request.uri_mut() = uri(self.gateway, &format!("/?n={number}"));
        let headers = request.headers_mut();
        headers.insert(HOST, http::HeaderValue::from_static(HOSTNAME));
        if kind == Kind::Detached {
            headers.insert("prefer", http::HeaderValue::from_static("respond-async"));
        }
        request
    }
}

/// An address as a URI.
pub(crate) fn uri(address: SocketAddr, path: &str) -> Uri {
    format!("http://{address}{path}").parse().expect("an address and a path of ours make a URI")
}

/// A request without an answer.
struct Failure {
    /// There was no connection to send it on.
    is_unsent: bool,
    words: String,
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words = format!("{words}: {error}");
        source = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Hangs up on the first so many requests, and answers the others with their number.
    async fn gateway(hang_ups: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for served in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let read = stream.read(&mut head).await.unwrap();
                if served < hang_ups {
                    continue;
                }
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let number = head.split_once("n=").unwrap().1.split(' ').next().unwrap().to_owned();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{number}",
                    number.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        address
    }

    async fn ends(kind: Kind, hang_ups: usize) -> (u32, End) {
        let shared = Shared {
            began: Instant::now(),
            gateway: gateway(hang_ups).await,
            pool: pool(),
            numbers: Arc::default(),
            open: Semaphore::new(1),
            accepted: AtomicUsize::new(0),
            goal: 0,
            records: Mutex::default(),
        };
        shared.until_answered(kind, 42).await
    }

    #[tokio::test]
    async fn a_get_whose_connection_broke_is_sent_again_and_a_post_is_not() {
        assert_eq!(ends(Kind::Get, 2).await, (3, End::Good));
        let (tries, end) = ends(Kind::Post, 1).await;
        assert!(tries == 1 && matches!(end, End::Flawed(Flaw::Broken, _)), "{tries} {end:?}");
        assert_eq!(ends(Kind::Post, 0).await, (1, End::Good));
    }
}
