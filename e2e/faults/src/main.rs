//! The proof that no call is lost: kills and freezes each part of a real cluster under load, and counts.
//!
//! `cargo xtask faults` builds the cluster and the images and runs it. It is the client and never a part of the
//! product: what it knows of calls comes from answers, from the function's own word and from the ledger's API.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to the person who called it")]

mod call;
mod counter;
mod database;
mod fault;
mod ledger;
mod load;
mod processes;
mod product;
mod report;
mod round;
mod schedule;
mod strike;
mod tally;

use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use tokio::runtime::Builder;

use crate::counter::Counter;
use crate::database::Database;
use crate::product::Product;
use crate::report::Line;
use crate::round::Stage;
use crate::schedule::{FULL, Round, SHORT, plan};

#[derive(Debug, Parser)]
#[command(about = "Kill and freeze each part of a cluster under load, and count what is lost")]
struct Arguments {
    /// What is drawn at random follows from it; drawn itself where it is absent
    #[arg(long)]
    seed: Option<u64>,
    /// Also write one JSON object a line to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer calls, the same faults and rules
    #[arg(long)]
    short: bool,
    /// Only rounds whose name holds this text; may be given more than once
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// The cluster's run directory
    #[arg(long, env = "FUNCATRON_CLUSTER_RUN")]
    run: PathBuf,
    /// The node's address, at which pods reach this process
    #[arg(long, env = "FUNCATRON_NODE_ADDRESS")]
    node: IpAddr,
}

fn main() -> ExitCode {
    match prove(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says whether every round was withstood.
fn prove(arguments: &Arguments) -> Result<bool> {
    let seed = arguments.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    let rounds = rounds(seed, arguments)?;
    println!("seed {seed}, {} rounds", rounds.len());
    let began = Instant::now();
    let mut stage = set(arguments)?;
    let played = play_all(&mut stage, &rounds, arguments);
    let Stage { product, database, runtime, .. } = stage;
    let removed = product.remove();
    drop(database);
    runtime.shutdown_background();
    let (lines, not_played) = played?;
    println!("\n{}\nseed {seed}, {:.0} s", report::table(&lines), began.elapsed().as_secs_f64());
    println!("{}", report::sum(&lines, not_played));
    removed?;
    Ok(not_played == 0 && lines.iter().all(|(_, figures)| figures.is_withstood()))
}

/// Those that were asked for and that this machine can play.
fn rounds(seed: u64, arguments: &Arguments) -> Result<Vec<Round>> {
    let mut rounds = plan(seed, if arguments.short { SHORT } else { FULL });
    if Database::programs().is_none() {
        println!("without PostgreSQL on this machine, a database beside the ledger is not struck");
        rounds.retain(|round| !round.needs_database());
    }
    let only = &arguments.only;
    rounds.retain(|round| only.is_empty() || only.iter().any(|text| round.name.contains(text.as_str())));
    if rounds.is_empty() {
        bail!("no round has a name with {only:?}");
    }
    Ok(rounds)
}

fn set(arguments: &Arguments) -> Result<Stage> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("start a runtime")?;
    let file = arguments.run.join("faults-runs");
    let counter = runtime.block_on(Counter::start(arguments.node, &file))?;
    let product = Product::install(&arguments.run, counter.address)?;
    let api_server = arguments.run.join("bin/kube-apiserver");
    // The first number is 1: a body or a query without one is read as 0 nowhere.
    let numbers = Arc::new(1.into());
    Ok(Stage { runtime, counter, product, numbers, api_server, database: None })
}

/// The lines of the rounds that were played, and how many were not.
fn play_all(stage: &mut Stage, rounds: &[Round], arguments: &Arguments) -> Result<(Vec<Line>, usize)> {
    let mut json = arguments.json.as_ref().map(File::create).transpose().context("create the JSON file")?;
    let (mut lines, mut not_played) = (Vec::new(), 0);
    for round in rounds {
        let began = Instant::now();
        let played = ready(stage, round, arguments).and_then(|()| stage.play(round));
        let seconds = began.elapsed().as_secs_f64();
        match played {
            Ok(figures) => {
                let line = report::json(&round.name, &figures);
                println!("{line} ({seconds:.0} s)");
                figures.notes.iter().for_each(|note| println!("  {note}"));
                if let Some(json) = &mut json {
                    writeln!(json, "{line}").context("write the JSON file")?;
                }
                lines.push((round.name.clone(), figures));
            }
            Err(why) => {
                println!("{}: could not be played ({seconds:.0} s): {why:#}", round.name);
                not_played += 1;
            }
        }
    }
    Ok((lines, not_played))
}

/// Until the first round that strikes it, the ledger keeps its calls in SQLite, as the chart has it.
fn ready(stage: &mut Stage, round: &Round, arguments: &Arguments) -> Result<()> {
    if !round.needs_database() || stage.database.is_some() {
        return Ok(());
    }
    let programs = Database::programs().context("this machine has no PostgreSQL")?;
    let database = Database::start(&programs, arguments.node)?;
    stage.product.use_database(&database.url())?;
    stage.database = Some(database);
    Ok(())
}
