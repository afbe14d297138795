//! The clients of the two Apps: each calls for a time, says what it found, and fails at an answer that must not be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::FLOOD;
use super::site::Tenant;
use crate::cpu::Process;
use crate::{greet, one_thread};

/// Between two calls of the steady client: enough for a p99 of ten calls' standing, and far from what fills a machine.
const STEADY_INTERVAL: Duration = Duration::from_millis(5);
/// The part of a core that the flooding client may take: one to so many.
const CORE_PARTS: u32 = 4;
/// How often it looks whether it has taken more.
const LOOK: Duration = Duration::from_millis(2);
/// The gateway answers 503 until gateway and runners have reached the broker.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How often that is tried.
const TRY_INTERVAL: Duration = Duration::from_millis(50);

type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// What the steady client found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Steady {
    pub(super) answered: usize,
    pub(super) p99_ms: f64,
}

/// What the flooding client found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Flooded {
    pub(super) answered: u64,
    /// With 429.
    pub(super) refused: u64,
    /// CPU time in its time.
    pub(super) cpu_share: f64,
}

/// An answer that may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Good,
    Refused,
    Away,
}

/// Calls at a steady rate. Its App is far below its limits: only good answers may be.
pub(super) fn steady(to: SocketAddr, lasting: Duration) -> Result<()> {
    let found = one_thread()?.block_on(async {
        let client: HttpClient = Client::builder(TokioExecutor::new()).build_http();
        first_answer(&client, to, Tenant::Beside).await?;
        let (mut turn, mut calls, began) = (interval(STEADY_INTERVAL), JoinSet::new(), Instant::now());
        // A call that is sent late is no call in less time.
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while began.elapsed() < lasting {
            let due = turn.tick().await;
            let client = client.clone();
            calls.spawn(async move {
                let answer = call(&client, to, Tenant::Beside).await?;
                ensure!(answer == Answer::Good, "the App beside the flood was answered {answer:?}");
                Ok(due.elapsed())
            });
        }
        let mut times = calls.join_all().await.into_iter().collect::<Result<Vec<Duration>>>()?;
        times.sort_unstable();
        let p99 = times.get(times.len() * 99 / 100).context("no call was made")?;
        Ok::<_, anyhow::Error>(Steady { answered: times.len(), p99_ms: p99.as_secs_f64() * 1000.0 })
    });
    greet(&serde_json::to_string(&found?)?)
}

/// Calls with as many at once as the flood has, each again as soon as it is answered, and pauses to keep within its
/// part of a core.
pub(super) fn flood(to: SocketAddr, lasting: Duration) -> Result<()> {
    let found = one_thread()?.block_on(async {
        let client: HttpClient = Client::builder(TokioExecutor::new()).build_http();
        first_answer(&client, to, Tenant::Flooding).await?;
        let (began, me) = (Instant::now(), Process(std::process::id()));
        let before = me.cpu()?;
        let pausing = tokio::spawn(keep_within(me, before, began));
        let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let mut lanes = JoinSet::new();
        for _ in 0..FLOOD {
            lanes.spawn(lane(client.clone(), to, Arc::clone(&counts), began + lasting));
        }
        lanes.join_all().await.into_iter().collect::<Result<()>>()?;
        let cpu_share = (me.cpu()? - before).as_secs_f64() / began.elapsed().as_secs_f64();
        pausing.abort();
        let [answered, refused] = [0, 1].map(|at: usize| counts[at].load(Ordering::Relaxed));
        Ok::<_, anyhow::Error>(Flooded { answered, refused, cpu_share })
    });
    greet(&serde_json::to_string(&found?)?)
}

async fn lane(client: HttpClient, to: SocketAddr, counts: Arc<[AtomicU64; 2]>, until: Instant) -> Result<()> {
    let [answered, refused] = &*counts;
    while Instant::now() < until {
        match call(&client, to, Tenant::Flooding).await? {
            Answer::Good => answered.fetch_add(1, Ordering::Relaxed),
            Answer::Refused => refused.fetch_add(1, Ordering::Relaxed),
            Answer::Away => bail!("the App that floods was answered 503"),
        };
    }
    Ok(())
}

/// Stops this process, which has one thread, whenever it has run more than its part: as a quota of the kernel's would,
/// which not every machine lets one set.
async fn keep_within(me: Process, before: Duration, began: Instant) -> Result<()> {
    loop {
        tokio::time::sleep(LOOK).await;
        let taken = me.cpu()?.saturating_sub(before) * CORE_PARTS;
        std::thread::sleep(taken.saturating_sub(began.elapsed()));
    }
}

async fn first_answer(client: &HttpClient, to: SocketAddr, tenant: Tenant) -> Result<()> {
    let began = Instant::now();
    while call(client, to, tenant).await? != Answer::Good {
        ensure!(began.elapsed() < START_DEADLINE, "no call was answered in time");
        tokio::time::sleep(TRY_INTERVAL).await;
    }
    Ok(())
}

async fn call(client: &HttpClient, to: SocketAddr, tenant: Tenant) -> Result<Answer> {
    let request = Request::post(format!("http://{to}/{}", tenant.name())).body(Full::default())?;
    let answer = client.request(request).await.context("call")?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.context("read an answer")?.to_bytes();
    match head.status {
        StatusCode::OK if body == tenant.name() => Ok(Answer::Good),
        StatusCode::TOO_MANY_REQUESTS => {
            ensure!(head.headers.contains_key("retry-after"), "a 429 says nothing of when to try again");
            Ok(Answer::Refused)
        }
        StatusCode::SERVICE_UNAVAILABLE => Ok(Answer::Away),
        status => bail!("{} was answered {status}: {}", tenant.name(), String::from_utf8_lossy(&body)),
    }
}
