//! Back-pressure: one App's flood beside another's steady load, over one gateway, with a runner for each App.
//!
//! The flood has three times as many calls at once as its App's limit, from a client that holds itself to a quarter of
//! a core. What is measured is the other App's p99, quiet and flooded. Each part is a process of its own.

mod clients;
mod site;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use serde::de::DeserializeOwned;

use crate::parts::Part;
use crate::report::Row;
use crate::works::Target;
use clients::{Flooded, Steady};
use site::{Site, Tenant};

/// Calls at once that the flooding App may have.
const LIMIT: u32 = 32;
/// Calls at once that its client has.
const FLOOD: u32 = 3 * LIMIT;
/// An odd number, so that one round is the median.
const ROUNDS: usize = 3;
/// How long each load lasts.
const LASTING: Duration = Duration::from_secs(5);
/// Before them, so that connections and caches are as they are in use.
const WARM_UP: Duration = Duration::from_secs(1);
/// The work; its baseline is the same App's p99 without a flood.
pub(crate) const NAME: &str = "p99 of an App beside another's flood";

/// What a process of this lane is told.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Which part it is
    #[arg(long)]
    role: Role,
    /// RabbitMQ's management API
    #[arg(long, env = "FUNCATRON_BENCH_MANAGEMENT", hide_env_values = true)]
    management: Option<String>,
    #[arg(long)]
    installation: Option<String>,
    #[arg(long)]
    tenant: Option<Tenant>,
    /// A folder for a function's socket
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The gateway
    #[arg(long)]
    to: Option<SocketAddr>,
    #[arg(long)]
    lasting_ms: Option<u64>,
}

/// The parts.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Check the answers of a short flood, and measure nothing
    Check,
    /// The gateway
    Gateway,
    /// One App's runner, with its function
    Runner,
    /// The client of the App that floods
    Flood,
    /// The client of the other
    Steady,
}

/// Runs one part.
pub(crate) fn run(amqp: &str, arguments: Arguments) -> Result<()> {
    let Arguments { role, management, installation, tenant, folder, to, lasting_ms } = arguments;
    let lasting = || lasting_ms.map(Duration::from_millis).context("--lasting-ms");
    match role {
        Role::Check => crate::threads()?.block_on(check(amqp, &management.context("--management")?)),
        Role::Gateway => site::gateway(amqp, &installation.context("--installation")?),
        Role::Runner => site::runner(
            amqp,
            &installation.context("--installation")?,
            tenant.context("--tenant")?,
            &folder.context("--folder")?,
        ),
        Role::Flood => clients::flood(to.context("--to")?, lasting()?),
        Role::Steady => clients::steady(to.context("--to")?, lasting()?),
    }
}

/// What the other App's client and the flooding one found in a round.
struct Round {
    quiet: Steady,
    beside: Steady,
    flooded: Flooded,
}

impl Round {
    fn ratio(&self) -> f64 {
        self.beside.p99_ms / self.quiet.p99_ms
    }
}

/// Measures in rounds, and gives the round whose ratio is the median.
pub(crate) async fn measure(amqp: &str, management: &str) -> Result<Row> {
    let site = Site::make(amqp, management).await?;
    let measured = rounds(&site).await;
    site.take_down().await?;
    let mut rounds = measured?;
    rounds.sort_by(|one, other| one.ratio().total_cmp(&other.ratio()));
    let median = rounds.get(ROUNDS / 2).context("no round was measured")?;
    let Flooded { answered, refused, cpu_share } = median.flooded;
    println!(
        "flood: of {FLOOD} calls at once for an App that may have {LIMIT}, from a client that pauses itself to keep \
         within a quarter of a core ({cpu_share:.2}), {answered} calls were answered and {refused} refused"
    );
    Ok(Row {
        work: NAME.to_owned(),
        unit: "ms",
        baseline: Some(median.quiet.p99_ms),
        ours: median.beside.p99_ms,
        target: Target::RatioAtMost(2.0),
        costs: None,
    })
}

async fn rounds(site: &Site) -> Result<Vec<Round>> {
    let parts = Parts::start(site).await?;
    let _: (Steady, Flooded) =
        tokio::try_join!(parts.client("steady", WARM_UP), parts.client("flood", WARM_UP))?;
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        let quiet = parts.client("steady", LASTING).await?;
        let (beside, flooded) =
            tokio::try_join!(parts.client("steady", LASTING), parts.client("flood", LASTING))?;
        let round = Round { quiet, beside, flooded };
        println!("flood, round {number} of {ROUNDS}: p99 {:.2} times the quiet one", round.ratio());
        rounds.push(round);
    }
    Ok(rounds)
}

/// Fails unless the flood is held to its limit, each refusal says so as it must, and the other App notices none of it.
async fn check(amqp: &str, management: &str) -> Result<()> {
    let site = Site::make(amqp, management).await?;
    let checked = async {
        let parts = Parts::start(&site).await?;
        tokio::try_join!(parts.client("steady", WARM_UP), parts.client("flood", WARM_UP))
    };
    let checked = checked.await;
    site.take_down().await?;
    // Their clients have failed at any other answer.
    let (Steady { answered: beside, .. }, Flooded { answered, refused, .. }) = checked?;
    println!("beside it {beside} calls were answered; of the flood {answered} were, and {refused} refused");
    ensure!(beside > 0 && answered > 0, "nothing was answered");
    ensure!(refused > 0, "nothing was refused");
    Ok(())
}

/// The product's processes.
struct Parts {
    gateway: Part,
    _runners: [Part; 2],
}

impl Parts {
    async fn start(site: &Site) -> Result<Self> {
        let installation = ("--installation", site.installation.as_str());
        let gateway = Part::start("flood", &site.url, &[("--role", "gateway"), installation]).await?;
        let folder = site.folder.path().to_str().context("the temporary folder's path is no text")?;
        let runner = async |tenant: Tenant| {
            let options =
                [("--role", "runner"), installation, ("--tenant", tenant.name()), ("--folder", folder)];
            Part::start("flood", &site.runner_url(tenant), &options).await
        };
        let runners = [runner(Tenant::Flooding).await?, runner(Tenant::Beside).await?];
        Ok(Self { gateway, _runners: runners })
    }

    /// Runs a client to its end; its greeting is what it found.
    async fn client<T: DeserializeOwned>(&self, role: &str, lasting: Duration) -> Result<T> {
        let lasting_ms = lasting.as_millis().to_string();
        let options = [("--role", role), ("--to", &self.gateway.greeting), ("--lasting-ms", &lasting_ms)];
        let ended = Part::start("flood", "", &options).await.with_context(|| format!("the {role} client"))?;
        serde_json::from_str(&ended.greeting).with_context(|| format!("read what the {role} client found"))
    }
}
