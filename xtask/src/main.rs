//! `cargo xtask`: the project's own chores, from a broker for tests to a whole cluster. Prints for
//! people and knows nothing that the product needs to run.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "xtask talks to the person who called it")]

mod bench;
mod broker;
mod cache;
mod cluster;
mod counts;
mod faults;
mod golang;
mod images;
mod overlay;
mod processes;
mod python;
mod release;
mod roots;
mod run;
mod stage;
mod test;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::cache::Cache;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Chores of this project")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// A Kubernetes of one node on this machine, as the tests use it
    #[command(subcommand)]
    Cluster(Switch),
    /// Build the project's images, and give them to the cluster if one runs
    Images {
        /// Only these, under their fixed tags
        names: Vec<String>,
    },
    /// Run every test that this machine can run, and say what it cannot
    Test {
        /// Only what needs neither broker nor cluster
        #[arg(long)]
        unit: bool,
        /// Only this stage: unit, hosts, broker, chart, cluster or faults; may be given more than once
        #[arg(long, value_name = "STAGE", conflicts_with = "unit")]
        only: Vec<String>,
    },
    /// Measure the product against raw RPC over the same RabbitMQ, on this machine
    Bench(bench::Options),
    /// Count the instructions of finding a route, the codec and dispatch, and compare them with the commit before
    Counts(counts::Options),
    /// Kill and freeze each part of the product under load, and count what is lost
    Faults(faults::Options),
    /// A RabbitMQ on this machine's loopback, as the tests use it
    #[command(subcommand)]
    Broker(Switch),
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Switch {
    /// Start it, if it does not run, and print how it is reached
    Up,
    /// End it and remove all that it left
    Down,
}

fn main() -> ExitCode {
    match do_chore() {
        Ok(true) => ExitCode::SUCCESS,
        // Tests that failed have said so, and their count is the last line.
        Ok(false) => ExitCode::FAILURE,
        // A trace of this program's calls tells its caller nothing.
        Err(why) => {
            eprintln!("error: {why:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says whether what was asked for went well.
fn do_chore() -> Result<bool> {
    let cache = Cache::open()?;
    let checkout = checkout()?;
    match Arguments::parse().chore {
        Chore::Test { unit: true, .. } => return test::run(&cache, &checkout, &test::UNIT),
        Chore::Test { only, .. } => {
            let only: Vec<&str> = only.iter().map(String::as_str).collect();
            return test::run(&cache, &checkout, &only);
        }
        Chore::Cluster(Switch::Up) => {
            let cluster = cluster::up(&cache, &checkout)?;
            println!("export KUBECONFIG={}", cluster.kubeconfig.display());
            println!("export PATH={}:$PATH", cluster.programs.display());
        }
        Chore::Cluster(Switch::Down) => cluster::down()?,
        Chore::Images { names } => images(&cache, &checkout, &names)?,
        Chore::Bench(options) => bench::bench(&cache, &checkout, &options)?,
        Chore::Counts(options) => return counts::counts(&cache, &checkout, &options),
        Chore::Faults(options) => return faults::faults(&cache, &checkout, &options),
        Chore::Broker(Switch::Up) => broker::up(&cache, &checkout)?.print(),
        Chore::Broker(Switch::Down) => broker::down()?,
    }
    Ok(true)
}

fn images(cache: &Cache, checkout: &Path, names: &[String]) -> Result<()> {
    tools::require(&[tools::FOR_IMAGES, tools::FOR_ROOTS])?;
    let programs = golang::programs(cache, checkout)?;
    let builder = images::Builder::new(cache, checkout, &programs)?;
    let (images, tag) = if names.is_empty() {
        builder.for_product(&release::binary(checkout)?)?
    } else {
        (names.iter().map(|name| builder.one(name)).collect::<Result<_>>()?, images::FIXED_TAG.to_owned())
    };
    if cluster::is_running() {
        cluster::import(&images)?;
    }
    for image in images {
        println!("{} {}", image.name, image.archive.display());
    }
    println!("export FUNCATRON_IMAGE_TAG={tag}");
    Ok(())
}

/// The checkout that this xtask was built from.
fn checkout() -> Result<PathBuf> {
    let parent = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    Ok(parent.context("xtask's folder has no parent")?.to_owned())
}
