//! `cargo xtask faults`: builds the proof that no call is lost, and runs it on a cluster of this machine. Strikes
//! nothing itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::cache::Cache;
use crate::cluster;
use crate::release::{cargo, target};
use crate::run::{command, run, step};
use crate::stage::{self, Stage};
use crate::tools;

/// How it is run.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// What is drawn at random follows from it; drawn itself, and printed, where it is absent
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
}

/// Runs it, and says whether every fault was withstood.
pub(crate) fn faults(cache: &Cache, checkout: &Path, options: &Options) -> Result<bool> {
    if !tools::is_root() {
        bail!("faults kill processes of a cluster on this machine, which takes root");
    }
    stage::on(cache, checkout, |stage| {
        let withstood = program(stage, checkout, options)?.status()?.success();
        Ok((withstood, withstood))
    })
}

/// The built program, told where the cluster is.
pub(crate) fn program(stage: &Stage, checkout: &Path, options: &Options) -> Result<Command> {
    tools::require(&[tools::FOR_LEDGER])?;
    step("faults built", || {
        let package = ["build", "--locked", "--package", "faults"];
        run(command(cargo(), package).current_dir(checkout))
    })?;
    let Options { seed, json, short, only } = options;
    let mut program = command(target(checkout)?.join("debug/faults"), [] as [&str; 0]);
    program.args(seed.iter().flat_map(|seed| ["--seed".to_owned(), seed.to_string()]));
    program.args(only.iter().flat_map(|text| ["--only", text]));
    if let Some(file) = json {
        program.arg("--json").arg(file);
    }
    if *short {
        program.arg("--short");
    }
    stage.prepare(&mut program)?;
    program.env("FUNCATRON_CLUSTER_RUN", cluster::run_folder());
    program.env("FUNCATRON_NODE_ADDRESS", cluster::node_address());
    Ok(program)
}

impl Options {
    /// As a test has it: the short form of the kills, the same each time. What else there is takes ten minutes more.
    pub(crate) fn of_a_test() -> Self {
        Self { seed: Some(1), json: None, short: true, only: vec!["kill".to_owned()] }
    }
}
