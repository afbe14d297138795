//! Runs the works in turn: raw RPC, the product, raw RPC, the product …, on one machine in one run.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::cpu::Process;
use crate::lanes::Measured;
use crate::parts::Part;
use crate::report::{self, Costs, Pair, Value, Work};
use crate::setup::{self, Setup};

/// An odd number, so that one pair is the median; with both works these take about 70 s.
const ROUNDS: usize = 3;
/// How long each measurement lasts.
const LASTING: Duration = Duration::from_secs(5);
/// Before each, so that caches and connections are as they are in use.
const WARM_UP: Duration = Duration::from_millis(700);

const WORKS: [Work; 2] = [
    Work { name: "100 B, 64 in flight, throughput", unit: "calls/s", in_flight: 64, value: Value::PerSecond },
    Work { name: "100 B, 1 in flight, p50 added", unit: "ms", in_flight: 1, value: Value::P50 },
];

/// Runs all works, prints the tables, and writes the JSON where it is wanted.
pub(crate) async fn drive(amqp: &str, management: &str, json: Option<&Path>) -> Result<()> {
    let began = Instant::now();
    println!("load average at the start: {}", load_average());
    let setup = Setup::make(amqp, management).await?;
    let measured = run_works(amqp, &setup).await;
    // What was made goes away even where a work failed, whose error tells more.
    let taken_down = setup.take_down().await;
    let medians = measured?;
    taken_down?;
    print!("{}", report::tables(&medians));
    println!("load average at the end: {}; {:.0} s in all", load_average(), began.elapsed().as_secs_f64());
    if let Some(file) = json {
        fs::write(file, report::json(&medians)).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

async fn run_works(amqp: &str, setup: &Setup<'_>) -> Result<Vec<(Work, Pair)>> {
    let folder = Folder::make()?;
    let mut parts = Parts::start(amqp, setup, &folder.0).await?;
    let mut medians = Vec::new();
    for work in WORKS {
        let mut pairs = Vec::new();
        for round in 1..=ROUNDS {
            let raw = parts.measure_raw(work.in_flight).await?;
            let ours = parts.measure_product(work.in_flight).await?;
            let pair = Pair { raw, ours };
            println!("{}, round {round} of {ROUNDS}: {}", work.name, report::progress(work, &pair));
            pairs.push(pair);
        }
        medians.extend(report::median(work, pairs).map(|pair| (work, pair)));
    }
    Ok(medians)
}

/// All processes of a run; those whose turn it is not are idle.
struct Parts {
    broker: Option<Process>,
    raw_server: Part,
    raw_client: Part,
    gateway: Part,
    function: Part,
    runner: Part,
    load: Part,
}

impl Parts {
    async fn start(amqp: &str, setup: &Setup<'_>, folder: &Path) -> Result<Self> {
        let broker = Process::listening_on(setup::port(amqp)?);
        if broker.is_none() {
            println!("the broker's CPU time cannot be read: it runs elsewhere, or this user may not see it");
        }
        let installation = setup.installation.as_str();
        let folder = folder.to_str().context("the temporary folder's path is no text")?;
        let raw_server = Part::start("raw-server", amqp, &[]).await?;
        let raw_client = Part::start("raw-client", amqp, &[("--queue", &raw_server.greeting)]).await?;
        let gateway = Part::start("gateway", amqp, &[("--installation", installation)]).await?;
        let function = Part::start("function", "", &[("--folder", folder)]).await?;
        let options = [("--installation", installation), ("--folder", folder)];
        let runner = Part::start("runner", &setup.runner_url, &options).await?;
        let load = Part::start("load", "", &[("--to", &gateway.greeting)]).await?;
        Ok(Self { broker, raw_server, raw_client, gateway, function, runner, load })
    }

    async fn measure_raw(&mut self, in_flight: usize) -> Result<(Measured, Costs)> {
        self.raw_client.measure(in_flight, WARM_UP).await?;
        let before = self.raw_times()?;
        let measured = self.raw_client.measure(in_flight, LASTING).await?;
        Ok((measured, Costs::of(before, self.raw_times()?, measured.calls)))
    }

    async fn measure_product(&mut self, in_flight: usize) -> Result<(Measured, Costs)> {
        self.load.measure(in_flight, WARM_UP).await?;
        let before = self.product_times()?;
        let measured = self.load.measure(in_flight, LASTING).await?;
        Ok((measured, Costs::of(before, self.product_times()?, measured.calls)))
    }

    fn raw_times(&self) -> Result<Vec<(&'static str, Option<Duration>)>> {
        let broker = self.broker.map(Process::cpu).transpose()?;
        Ok(vec![
            ("client", Some(self.raw_client.cpu()?)),
            ("broker", broker),
            ("server", Some(self.raw_server.cpu()?)),
        ])
    }

    fn product_times(&self) -> Result<Vec<(&'static str, Option<Duration>)>> {
        let broker = self.broker.map(Process::cpu).transpose()?;
        Ok(vec![
            ("load", Some(self.load.cpu()?)),
            ("gateway", Some(self.gateway.cpu()?)),
            ("broker", broker),
            ("runner", Some(self.runner.cpu()?)),
            ("function", Some(self.function.cpu()?)),
        ])
    }
}

/// A folder for the function's socket; gone once it is dropped.
struct Folder(std::path::PathBuf);

impl Folder {
    fn make() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("funcatron-bench-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that stays in the temporary one does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Over one, five and fifteen minutes: what else runs on this machine takes from both sides.
fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
