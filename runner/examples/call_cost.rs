//! What one call costs a runner: CPU microseconds of its thread, on a broker within the process.
//!
//! Runner, function and gateway have a thread each; the kernel says what the runner's took.
//! `cargo run --release -p funcatron-runner --example call_cost -- [CALLS] [IN_FLIGHT]`

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use funcatron_broker::link::{Connector, ConsumeOptions, Consumer, Event, Link, Target, fresh_suffix};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{Call, CallId, Intent, Outcome, Reply};
use funcatron_broker::names::{AppNames, Installation};
use funcatron_broker::topology;
use funcatron_runner::{Mode, RunnerConfig, run};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

const REVISION: &str = "echo-0123abcd";
const BODY_BYTES: usize = 100;
/// Calls before the measured ones: connections open and caches fill.
const WARM_UP: usize = 2_000;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), AnyError> {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>());
    let calls = args.next().transpose()?.unwrap_or(50_000);
    let in_flight = args.next().transpose()?.unwrap_or(64);
    let dir = std::env::temp_dir().join(format!("call-cost-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let socket = dir.join("f.sock");
    let broker = LocalBroker::new();
    let function_socket = socket.clone();
    std::thread::spawn(move || on_one_thread(serve_function(function_socket)));

    on_one_thread(async move {
        let mut gateway = Gateway::new(&broker).await?;
        let shutdown = CancellationToken::new();
        let (thread, runner) = start_runner(broker, &dir, socket, in_flight, shutdown.clone())?;
        gateway.ask(WARM_UP, in_flight).await?;
        let (cpu_before, began) = (cpu_time(thread)?, Instant::now());
        gateway.ask(calls, in_flight).await?;
        let (took, cpu) = (began.elapsed(), cpu_time(thread)?.saturating_sub(cpu_before));
        report(calls, in_flight, took, cpu);
        shutdown.cancel();
        let _ = runner.join();
        Ok(std::fs::remove_dir_all(&dir)?)
    })
}

#[expect(clippy::print_stdout, reason = "its output is what an example is for")]
fn report(calls: usize, in_flight: usize, took: Duration, cpu: Duration) {
    let each_us = cpu.as_secs_f64() * 1e6 / calls as f64;
    let rate = calls as f64 / took.as_secs_f64();
    println!(
        "{calls} calls, {in_flight} in flight: {rate:.0} calls/s, {each_us:.1} us of the runner's CPU a call"
    );
}

fn on_one_thread(work: impl Future<Output = Result<(), AnyError>>) -> Result<(), AnyError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn start_runner(
    broker: LocalBroker,
    dir: &Path,
    socket: PathBuf,
    concurrency: usize,
    shutdown: CancellationToken,
) -> Result<(u64, std::thread::JoinHandle<()>), AnyError> {
    let config = RunnerConfig {
        installation: Installation::parse("bench")?,
        namespace: "team".into(),
        app: "shop".into(),
        runner_name: "runner".into(),
        mode: Mode::Dedicated {
            fn_name: "echo".into(),
            revision: REVISION.into(),
            socket,
            concurrency: u32::try_from(concurrency)?,
            timeout_ms: 30_000,
            durable: false,
        },
        ready_file: dir.join("ready"),
        drain: Duration::from_secs(5),
    };
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        // The link's target names this thread, as gettid(2) does.
        let own = std::fs::read_link("/proc/thread-self").ok();
        let id = own.and_then(|path| path.file_name()?.to_str()?.parse::<u64>().ok());
        let _ = tell.send(id);
        let _ = on_one_thread(async { Ok(run(config, Arc::new(broker), shutdown).await?) });
    });
    let id = told.recv()?.ok_or("no thread id")?;
    Ok((id, thread))
}

/// What the kernel says a thread of this process has run.
fn cpu_time(thread: u64) -> Result<Duration, AnyError> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"))?;
    let nanoseconds = text.split(' ').next().ok_or("no schedstat")?.parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}

async fn serve_function(socket: PathBuf) -> Result<(), AnyError> {
    let listener = UnixListener::bind(socket)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(echo));
        tokio::spawn(connection);
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut answer = Response::new(Full::new(body));
    answer.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
    answer.headers_mut().insert("fn-http-status", HeaderValue::from_static("200"));
    Ok(answer)
}

struct Gateway {
    link: Arc<dyn Link>,
    names: AppNames,
    reply_to: String,
    replies: Consumer,
}

impl Gateway {
    async fn new(broker: &LocalBroker) -> Result<Self, AnyError> {
        let names = AppNames::new(&Installation::parse("bench")?, "team", "shop")?;
        let (queue, own) = topology::gateway(names.installation(), &fresh_suffix())?;
        let link = broker.connect().await?;
        let app = topology::app(&names);
        for items in
            [topology::installation(names.installation()), own, app, topology::revision(&names, REVISION)?]
        {
            link.declare(&items).await?;
        }
        let options = ConsumeOptions { prefetch: 0, exclusive: true, no_ack: true };
        let replies = link.consume(&queue, options).await?;
        Ok(Self { link, names, reply_to: queue.to_string(), replies })
    }

    async fn ask(&mut self, calls: usize, in_flight: usize) -> Result<(), AnyError> {
        let (mut sent, mut answered) = (0, 0);
        while answered < calls {
            while sent < calls && sent - answered < in_flight {
                self.send().await?;
                sent += 1;
            }
            let Some(Event::Delivery(delivery)) = self.replies.next().await else {
                return Err("no reply".into());
            };
            let reply = Reply::from_envelope(delivery.envelope)?;
            if !matches!(reply.outcome, Outcome::Answer(_)) {
                return Err(format!("{reply:?}").into());
            }
            answered += 1;
        }
        Ok(())
    }

    async fn send(&self) -> Result<(), AnyError> {
        let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("text/plain"));
        headers.insert("host", HeaderValue::from_static("shop.example"));
        headers.insert("accept", HeaderValue::from_static("*/*"));
        headers.insert("user-agent", HeaderValue::from_static("bench"));
        let call = Call {
            id: CallId::fresh(),
            reply_to: Some(self.reply_to.clone()),
            deadline_ms: now_ms + 30_000,
            timeout_ms: 30_000,
            expiration_ms: Some(30_000),
            timestamp_s: Some(now_ms / 1000),
            persistent: false,
            attempt: 1,
            intent: Intent::HttpRequest,
            method: Method::POST,
            url: "http://shop.example/echo".into(),
            app: "shop".into(),
            fn_name: "echo".into(),
            revision: REVISION.into(),
            operation: None,
            template: None,
            params: vec![],
            headers,
            body: Bytes::from_static(&[b'x'; BODY_BYTES]),
        };
        let queue = self.names.revision_queue(REVISION)?;
        Ok(self.link.publish(Target::queue(&queue), call.into_envelope()?, false).await?)
    }
}
