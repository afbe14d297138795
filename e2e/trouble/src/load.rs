//! A small steady load that no trouble slows down: GETs, which may run again, and POSTs, which must not, each with a
//! number of its own. Never judges an answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::until;

/// The Fn's timeout: shorter than most troubles, so that their calls meet their deadlines.
pub const TIMEOUT: Duration = Duration::from_secs(4);
/// What an answer may take beyond it on a machine that does other work.
pub const SLACK: Duration = Duration::from_secs(1);
/// Between two calls: GET and POST in turn.
const INTERVAL: Duration = Duration::from_millis(50);
/// Good calls in a row that show that all is well.
const STEADY_CALLS: usize = 20;
/// Calls are long well by then, or something is broken.
const STEADY_DEADLINE: Duration = Duration::from_secs(30);

/// Whether a call may run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Idempotent.
    Get,
    /// To be run once at most.
    Post,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The function's answer.
    Good,
    /// A 200 that is not the function's answer to this call.
    Wrong,
    /// Another status, with the last part of its problem's type, and whether it says when to try again.
    Problem {
        /// The status.
        status: u16,
        /// The problem's name.
        name: String,
        /// Whether `Retry-After` is there.
        retry_after: bool,
    },
    /// The connection to the gateway broke.
    Broken(String),
    /// No answer within timeout and slack.
    Silent,
}

/// A call that has ended.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its number.
    pub number: u64,
    /// What it was.
    pub kind: Kind,
    /// When it was sent.
    pub sent: Instant,
    /// When its end was there.
    pub ended: Instant,
    /// How it ended.
    pub end: End,
}

/// A client of one gateway.
#[derive(Debug, Clone)]
pub struct Caller {
    to: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    numbers: Arc<AtomicU64>,
}

impl Caller {
    /// A client of the gateway there.
    pub fn new(to: SocketAddr) -> Self {
        Self { to, client: Client::builder(TokioExecutor::new()).build_http(), numbers: Arc::default() }
    }

    /// One call, to its end.
    pub async fn call(&self, kind: Kind) -> Call {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let sent = Instant::now();
        let end = match timeout(TIMEOUT + SLACK, self.ask(kind, number)).await {
            Ok(Ok(end)) => end,
            Ok(Err(error)) => End::Broken(format!("{error:#}")),
            Err(_) => End::Silent,
        };
        Call { number, kind, sent, ended: Instant::now(), end }
    }

    async fn ask(&self, kind: Kind, number: u64) -> Result<End> {
        let method = if kind == Kind::Post { Method::POST } else { Method::GET };
        let uri = format!("http://{}/calls/of/{number}", self.to);
        let request = Request::builder().method(method).uri(uri).body(Full::default())?;
        self.send(request, number).await
    }

    /// One call that is to wait in the Fn's durable queue, to its end or the broker's word on it.
    pub async fn call_detached(&self) -> Result<End> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let request = Request::post(format!("http://{}/calls/of/{number}", self.to));
        let request = request.header("prefer", "respond-async").body(Full::default())?;
        timeout(SLACK, self.send(request, number)).await.unwrap_or(Ok(End::Silent))
    }

    async fn send(&self, request: Request<Full<Bytes>>, number: u64) -> Result<End> {
        let answer = self.client.request(request).await?;
        let (status, retry_after) = (answer.status(), answer.headers().contains_key("retry-after"));
        let body = answer.into_body().collect().await?.to_bytes();
        Ok(match status {
            StatusCode::OK if body == number.to_string() => End::Good,
            StatusCode::OK => End::Wrong,
            status => End::Problem { status: status.as_u16(), name: problem(&body), retry_after },
        })
    }
}

/// The last part of a problem's type; of what is no problem, its text.
fn problem(body: &[u8]) -> String {
    let document: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let name = document.as_ref().and_then(|document| document["type"].as_str()?.rsplit('/').next());
    name.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned)
}

/// Calls at a steady rate until it is stopped.
#[derive(Debug)]
pub struct Load {
    calls: Arc<Mutex<Vec<Call>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Load {
    /// Begins, and returns once all is well.
    pub async fn begin(caller: &Caller) -> Result<Self> {
        let load = Self { calls: Arc::default(), stop: CancellationToken::new(), tasks: TaskTracker::new() };
        load.tasks.spawn(send(
            caller.clone(),
            Arc::clone(&load.calls),
            load.stop.clone(),
            load.tasks.clone(),
        ));
        load.steady(Instant::now()).await.context("the load begins")?;
        // What was answered before gateway and runner had found their broker is nobody's matter.
        load.calls.lock().clear();
        Ok(load)
    }

    /// The first good call among those sent since then; no later than `deadline` after it.
    pub async fn first_good(&self, since: Instant, deadline: Duration) -> Result<Call> {
        let waiting = (since + deadline).saturating_duration_since(Instant::now());
        let found = until("a good call", waiting + SLACK, async || {
            let mut good = self.ended_since(since);
            good.retain(|call| call.end == End::Good);
            good.into_iter().min_by_key(|call| call.ended).context("there is none")
        });
        let first = found.await?;
        let took = first.ended - since;
        ensure!(
            took <= deadline,
            "the first success came {took:?} after the trouble, not within {deadline:?}"
        );
        Ok(first)
    }

    /// Waits until calls that were sent since then are good, many in a row.
    pub async fn steady(&self, since: Instant) -> Result<()> {
        until("the load is steady", STEADY_DEADLINE, async || {
            let calls = self.ended_since(since);
            let row = calls.iter().rev().take_while(|call| call.end == End::Good).count();
            ensure!(row >= STEADY_CALLS, "{row} good calls in a row, after {:?}", last_bad(&calls));
            Ok(())
        })
        .await
    }

    /// Waits until so many calls of each kind that were sent since then had that problem.
    pub async fn problems(&self, since: Instant, name: &str, each: usize) -> Result<()> {
        until(format!("{each} of each kind are answered {name}"), STEADY_DEADLINE, async || {
            let calls = self.ended_since(since);
            for kind in [Kind::Get, Kind::Post] {
                let of_kind = calls.iter().filter(|call| call.kind == kind);
                let found = of_kind.filter(|call| is_problem(call, name)).count();
                ensure!(found >= each, "{found} of {kind:?}, the last bad one {:?}", last_bad(&calls));
            }
            Ok(())
        })
        .await
    }

    /// Ends; returns all calls, in the order in which they ended.
    pub async fn end(self) -> Vec<Call> {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        std::mem::take(&mut *self.calls.lock())
    }

    fn ended_since(&self, since: Instant) -> Vec<Call> {
        self.calls.lock().iter().filter(|call| call.sent >= since).cloned().collect()
    }
}

fn last_bad(calls: &[Call]) -> Option<&End> {
    calls.iter().rev().map(|call| &call.end).find(|end| **end != End::Good)
}

fn is_problem(call: &Call, wanted: &str) -> bool {
    matches!(&call.end, End::Problem { name, .. } if name == wanted)
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn send(caller: Caller, calls: Arc<Mutex<Vec<Call>>>, stop: CancellationToken, tasks: TaskTracker) {
    let mut turn = interval(INTERVAL);
    // A machine that was busy sends none twice as fast.
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for kind in [Kind::Get, Kind::Post].into_iter().cycle() {
        if stop.run_until_cancelled(turn.tick()).await.is_none() {
            return;
        }
        let (caller, calls) = (caller.clone(), Arc::clone(&calls));
        tasks.spawn(async move {
            let call = caller.call(kind).await;
            calls.lock().push(call);
        });
    }
}
