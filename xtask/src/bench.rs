//! `cargo xtask bench`: builds the benchmark and runs it against a RabbitMQ on this machine. Measures nothing itself.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::broker;
use crate::cache::Cache;
use crate::release::{cargo, target};
use crate::run::{command, run, step};

/// What to leave behind, and what to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Also write one JSON object a line to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write a page with plots to this file
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Measure only the works whose names hold this text
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Prints ratios, and writes what is wanted. A broker that it started stays up for the next run.
pub(crate) fn bench(cache: &Cache, checkout: &Path, options: &Options) -> Result<()> {
    let program = program(checkout)?;
    let broker = broker::up(cache, checkout)?;
    let mut bench = command(program, ["drive"]);
    bench.env("FUNCATRON_BENCH_AMQP", &broker.amqp).env("FUNCATRON_BENCH_MANAGEMENT", &broker.management);
    for (option, file) in [("--json", &options.json), ("--page", &options.page)] {
        if let Some(file) = file {
            bench.arg(option).arg(file);
        }
    }
    if let Some(only) = &options.only {
        bench.arg("--only").arg(only);
    }
    run(&mut bench)
}

fn program(checkout: &Path) -> Result<PathBuf> {
    step("release build of the benchmark", || {
        let package = ["build", "--release", "--locked", "--package", "bench"];
        run(command(cargo(), package).current_dir(checkout))
    })?;
    Ok(target(checkout)?.join("release/bench"))
}
