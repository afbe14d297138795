//! Calls in flight: as many lanes as there are calls at once, each with one call after another.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How to call, as the driver tells a part on one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) in_flight: usize,
    /// What a call carries, there and back.
    pub(crate) bytes: usize,
    pub(crate) way: Way,
    pub(crate) lasting_ms: u64,
}

/// The way of the product's calls; raw RPC knows one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// As the product chooses by itself.
    Auto,
    /// All in messages.
    Messages,
    /// Past the broker, where there is a body.
    Direct,
    /// Nobody waits for them.
    Async,
}

impl Way {
    /// Where the product's Route has it.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Auto => "/auto",
            Self::Messages => "/messages",
            Self::Direct => "/direct",
            Self::Async => "/async",
        }
    }
}

impl Order {
    pub(crate) fn lasting(self) -> Duration {
        Duration::from_millis(self.lasting_ms)
    }

    pub(crate) fn body(self) -> Bytes {
        Bytes::from(vec![b'x'; self.bytes])
    }
}

/// One call after another.
pub(crate) trait Lane: Send + 'static {
    /// Calls and waits for the right answer; any other is an error.
    fn call(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// What all lanes together did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) calls: usize,
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Calls on every lane for that long.
pub(crate) async fn measure<L: Lane>(lanes: Vec<L>, lasting: Duration) -> Result<Measured> {
    let began = Instant::now();
    let tasks: Vec<_> = lanes.into_iter().map(|lane| tokio::spawn(calls(lane, began + lasting))).collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.context("a lane panicked")??);
    }
    Ok(sum_up(times, began.elapsed()))
}

async fn calls<L: Lane>(mut lane: L, until: Instant) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut began = Instant::now();
    while began < until {
        lane.call().await?;
        let ended = Instant::now();
        times.push(ended - began);
        began = ended;
    }
    Ok(times)
}

fn sum_up(mut times: Vec<Duration>, took: Duration) -> Measured {
    times.sort_unstable();
    let at = |hundredths: usize| times.get(times.len() * hundredths / 100).map_or(f64::NAN, millis);
    Measured {
        calls: times.len(),
        per_second: times.len() as f64 / took.as_secs_f64(),
        p50_ms: at(50),
        p99_ms: at(99),
    }
}

fn millis(time: &Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let Measured { calls, per_second, p50_ms, p99_ms } = sum_up(times, Duration::from_secs(2));
        assert_eq!((calls, per_second, p50_ms, p99_ms), (200, 100.0, 101.0, 199.0));
    }
}
