//! Runs the works in turn: the baseline, the product, the baseline, the product …, on one machine in one run.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::cpu::Process;
use crate::flood;
use crate::lanes::{Measured, Order, Way};
use crate::page;
use crate::parts::Part;
use crate::report::{self, Costs, Pair, Row, Times};
use crate::setup::{self, Setup};
use crate::transfer::{Direction, transfer};
use crate::works::{Baseline, Target, WORKS, Work};

/// An odd number, so that one pair is the median.
const ROUNDS: usize = 3;
/// Before each, so that caches and connections are as they are in use.
const WARM_UP_MS: u64 = 700;
/// A body that streams.
const STREAM_BYTES: u64 = 1 << 30;
/// What warms the way of streams up.
const STREAM_WARM_UP_BYTES: u64 = 16 << 20;
/// What shows that the way is open …
const FIRST_BYTES: u64 = 64 << 10;
/// … how often that is tried, and for how long.
const TRY_INTERVAL: Duration = Duration::from_millis(100);
const START_DEADLINE: Duration = Duration::from_secs(20);
/// Clients that stay connected, and functions that a gateway knows.
const IDLE_CONNECTIONS: usize = 10_000;
const IDLE_FNS: usize = 1_000;

/// What a person asked for.
pub(crate) struct Wanted {
    pub(crate) json: Option<PathBuf>,
    pub(crate) page: Option<PathBuf>,
    /// Only works whose names hold this text.
    pub(crate) only: String,
}

impl Wanted {
    fn includes(&self, work: &str) -> bool {
        work.contains(&self.only)
    }
}

/// Runs the works, prints the tables, and writes JSON and page where they are wanted.
pub(crate) async fn drive(amqp: &str, management: &str, wanted: &Wanted) -> Result<()> {
    let began = Instant::now();
    println!("load average at the start: {}", load_average());
    let setup = Setup::make(amqp, management).await?;
    let measured = run_all(amqp, &setup, wanted).await;
    // What was made goes away even where a work failed, whose error tells more.
    let taken_down = setup.take_down().await;
    let mut rows = measured?;
    taken_down?;
    if wanted.includes(flood::NAME) {
        rows.push(flood::measure(amqp, management).await?);
    }
    print!("{}", report::tables(&rows));
    println!("load average at the end: {}; {:.0} s in all", load_average(), began.elapsed().as_secs_f64());
    for (file, text) in [(&wanted.json, report::json(&rows)), (&wanted.page, page::page(&rows))] {
        if let Some(file) = file {
            fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
        }
    }
    Ok(())
}

async fn run_all(amqp: &str, setup: &Setup<'_>, wanted: &Wanted) -> Result<Vec<Row>> {
    let mut rows = run_works(amqp, setup, wanted).await?;
    rows.extend(run_streams(amqp, setup, wanted).await?);
    rows.extend(run_idle(amqp, setup, wanted).await?);
    Ok(rows)
}

async fn run_works(amqp: &str, setup: &Setup<'_>, wanted: &Wanted) -> Result<Vec<Row>> {
    let folder = Folder::make("calls")?;
    let works: Vec<Work> = WORKS.into_iter().filter(|work| wanted.includes(work.name)).collect();
    if works.is_empty() {
        return Ok(Vec::new());
    }
    let mut parts = Parts::start(amqp, setup, &folder).await?;
    let mut rows = Vec::new();
    for work in works {
        let mut pairs = Vec::new();
        for round in 1..=ROUNDS {
            let raw = parts.measure_baseline(work).await?;
            let ours = parts.measure_product(work.order, setup).await?;
            let pair = Pair { raw, ours };
            println!("{}, round {round} of {ROUNDS}: {}", work.name, report::progress(work, &pair));
            pairs.push(pair);
        }
        rows.extend(report::median(work, pairs).into_iter().flat_map(|pair| report::rows(work, pair)));
    }
    Ok(rows)
}

/// All processes of a run; those whose turn it is not are idle.
struct Parts {
    broker: Option<Process>,
    raw_server: Part,
    raw_client: Part,
    raw_confirms: Part,
    gateway: Part,
    function: Part,
    runner: Part,
    load: Part,
}

impl Parts {
    async fn start(amqp: &str, setup: &Setup<'_>, folder: &Folder) -> Result<Self> {
        let broker = Process::listening_on(setup::port(amqp)?);
        if broker.is_none() {
            println!("the broker's CPU time cannot be read: it runs elsewhere, or this user may not see it");
        }
        let raw_server = Part::start("raw-server", amqp, &[]).await?;
        let raw_client = Part::start("raw-client", amqp, &[("--queue", &raw_server.greeting)]).await?;
        let raw_confirms = Part::start("raw-confirms", amqp, &[]).await?;
        let function = Part::start("function", "", &[("--folder", folder.text()?)]).await?;
        let (gateway, runner) = product(amqp, setup, folder).await?;
        let load = Part::start("load", "", &[("--to", &gateway.greeting)]).await?;
        Ok(Self { broker, raw_server, raw_client, raw_confirms, gateway, function, runner, load })
    }

    async fn measure_baseline(&mut self, work: Work) -> Result<(Measured, Costs)> {
        self.baseline(work.baseline).measure(warm_up(work.order)).await?;
        let before = self.baseline_times(work.baseline)?;
        let measured = self.baseline(work.baseline).measure(work.order).await?;
        Ok((measured, Costs::of(before, self.baseline_times(work.baseline)?, measured.calls)))
    }

    const fn baseline(&mut self, baseline: Baseline) -> &mut Part {
        match baseline {
            Baseline::Rpc => &mut self.raw_client,
            Baseline::Confirms => &mut self.raw_confirms,
        }
    }

    async fn measure_product(&mut self, order: Order, setup: &Setup<'_>) -> Result<(Measured, Costs)> {
        self.load.measure(warm_up(order)).await?;
        if order.way == Way::Async {
            // What nobody takes would be refused in the end.
            setup.empty().await?;
        }
        let before = self.product_times()?;
        let measured = self.load.measure(order).await?;
        Ok((measured, Costs::of(before, self.product_times()?, measured.calls)))
    }

    fn baseline_times(&self, baseline: Baseline) -> Result<Times> {
        let broker = self.broker.map(Process::cpu).transpose()?;
        Ok(match baseline {
            Baseline::Rpc => vec![
                ("client", Some(self.raw_client.cpu()?)),
                ("broker", broker),
                ("server", Some(self.raw_server.cpu()?)),
            ],
            Baseline::Confirms => vec![("client", Some(self.raw_confirms.cpu()?)), ("broker", broker)],
        })
    }

    fn product_times(&self) -> Result<Times> {
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

const fn warm_up(order: Order) -> Order {
    Order { lasting_ms: WARM_UP_MS, ..order }
}

/// A gateway and a runner whose function listens in the folder.
async fn product(amqp: &str, setup: &Setup<'_>, folder: &Folder) -> Result<(Part, Part)> {
    let installation = ("--installation", setup.installation.as_str());
    let gateway = Part::start("gateway", amqp, &[installation]).await?;
    let options = [installation, ("--folder", folder.text()?)];
    let runner = Part::start("runner", &setup.runner_url, &options).await?;
    Ok((gateway, runner))
}

/// A large body each way, past a plain proxy and through the product.
async fn run_streams(amqp: &str, setup: &Setup<'_>, wanted: &Wanted) -> Result<Vec<Row>> {
    let ways = [("1 GiB up", Direction::Up), ("1 GiB down", Direction::Down)];
    if !ways.iter().any(|(name, _)| wanted.includes(name)) {
        return Ok(Vec::new());
    }
    let folder = Folder::make("streams")?;
    let _function = Part::start("streaming", "", &[("--folder", folder.text()?)]).await?;
    let proxy = Part::start("proxy", "", &[("--folder", folder.text()?)]).await?;
    let (gateway, _runner) = product(amqp, setup, &folder).await?;
    let (proxy, gateway) = (proxy.greeting.parse()?, gateway.greeting.parse()?);
    answers(gateway).await?;
    let mut rows = Vec::new();
    for (name, direction) in ways {
        let mut rounds = Vec::new();
        for round in 1..=ROUNDS {
            let mut rate = [0.0; 2];
            for (rate, to) in rate.iter_mut().zip([proxy, gateway]) {
                transfer(to, direction, STREAM_WARM_UP_BYTES).await?;
                let took = transfer(to, direction, STREAM_BYTES).await.context(name)?;
                *rate = (STREAM_BYTES >> 20) as f64 / took.as_secs_f64();
            }
            let [baseline, ours] = rate;
            println!("{name}, round {round} of {ROUNDS}: baseline {baseline:.0}, product {ours:.0} MiB/s");
            rounds.push((baseline, ours));
        }
        rounds.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
        let (baseline, ours) = rounds[ROUNDS / 2];
        let target = Target::RatioAtLeast(0.7);
        let work = format!("{name}, against a plain proxy");
        rows.push(Row { work, unit: "MiB/s", baseline: Some(baseline), ours, target, costs: None });
    }
    Ok(rows)
}

/// Until a first body passes: gateway and runner have reached the broker then.
async fn answers(gateway: SocketAddr) -> Result<()> {
    let passes = async {
        while transfer(gateway, Direction::Up, FIRST_BYTES).await.is_err() {
            tokio::time::sleep(TRY_INTERVAL).await;
        }
    };
    tokio::time::timeout(START_DEADLINE, passes).await.context("no body passed in time")
}

/// What a gateway holds in memory for those who stay connected.
async fn run_idle(amqp: &str, setup: &Setup<'_>, wanted: &Wanted) -> Result<Vec<Row>> {
    let work = format!("{IDLE_CONNECTIONS} idle connections, {IDLE_FNS} Fns, gateway's memory");
    if !wanted.includes(&work) {
        return Ok(Vec::new());
    }
    let fns = IDLE_FNS.to_string();
    let options = [("--installation", setup.installation.as_str()), ("--fns", &fns)];
    let gateway = Part::start("gateway", amqp, &options).await?;
    let connections = IDLE_CONNECTIONS.to_string();
    let _idle =
        Part::start("idle", "", &[("--to", &gateway.greeting), ("--connections", &connections)]).await?;
    let ours = gateway.process().resident()? as f64 / 1e6;
    Ok(vec![Row { work, unit: "MB", baseline: None, ours, target: Target::AtMost(150.0), costs: None }])
}

/// A folder for a function's socket; gone once it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn make(what: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("funcatron-bench-{}-{what}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    fn text(&self) -> Result<&str> {
        Path::to_str(&self.0).context("the temporary folder's path is no text")
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
