//! How fast a call crosses the broker and its reply comes back: raw lapin against `Link`, in turn.
//!
//! `cargo run --release -p funcatron-broker --example rpc -- [amqp-url] [seconds]`
//! prints a line per way and number of calls in flight. Both ends run in this process.

mod link_rpc;
mod raw_rpc;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a caller does once: one call, and its reply.
pub(crate) trait Caller: Send + Sync + 'static {
    /// Calls and waits for the reply.
    fn call(&self, n: u64) -> impl Future<Output = ()> + Send;
}

/// Calls a second, and the median of a call's time.
struct Measured {
    per_second: f64,
    p50: Duration,
}

async fn measure<C: Caller>(caller: Arc<C>, in_flight: usize, lasting: Duration) -> Measured {
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let tasks: Vec<_> = (0..in_flight)
        .map(|_| {
            let (caller, next) = (Arc::clone(&caller), Arc::clone(&next));
            tokio::spawn(async move {
                let mut times = Vec::new();
                while start.elapsed() < lasting {
                    let began = Instant::now();
                    caller.call(next.fetch_add(1, Ordering::Relaxed)).await;
                    times.push(began.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("a caller does not panic"));
    }
    let per_second = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort_unstable();
    Measured { per_second, p50: times[times.len() / 2] }
}

#[allow(clippy::print_stdout, reason = "a benchmark prints")]
fn print(way: &str, in_flight: usize, measured: &Measured) {
    let Measured { per_second, p50 } = measured;
    println!("{way:<5} {in_flight:>3} in flight: {per_second:>8.0} calls/s, p50 {p50:?}");
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().or_else(|| std::env::var("FUNCATRON_TEST_AMQP").ok());
    let url = url.unwrap_or_else(|| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned());
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let lasting = Duration::from_secs(seconds);
    let raw = Arc::new(raw_rpc::RawRpc::start(&url).await);
    let link = Arc::new(link_rpc::LinkRpc::start(&url).await);
    for in_flight in [1, 64] {
        for _ in 0..3 {
            print("raw", in_flight, &measure(Arc::clone(&raw), in_flight, lasting).await);
            print("link", in_flight, &measure(Arc::clone(&link), in_flight, lasting).await);
        }
    }
}
