//! `cargo xtask bench`: builds the benchmark and runs it against a RabbitMQ on this machine. Measures nothing itself.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::broker;
use crate::cache::Cache;
use crate::release::{cargo, target};
use crate::run::{command, run, step};

/// Prints ratios, and with `json` writes one object a line. A broker that it started stays up for the next run.
pub(crate) fn bench(cache: &Cache, checkout: &Path, json: Option<&Path>) -> Result<()> {
    let program = program(checkout)?;
    let broker = broker::up(cache, checkout)?;
    let mut bench = command(program, ["drive"]);
    bench.env("FUNCATRON_BENCH_AMQP", &broker.amqp).env("FUNCATRON_BENCH_MANAGEMENT", &broker.management);
    if let Some(file) = json {
        bench.arg("--json").arg(file);
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
