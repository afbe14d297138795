//! The readiness probe of runner pods, which accept no connection that could be asked.

use std::path::PathBuf;

use clap::Args;

/// Succeed if this pod's runner is ready (a probe's command)
#[derive(Args, Debug)]
pub(crate) struct ReadyArgs {
    /// The file that a runner keeps while it is ready
    #[arg(long, default_value = super::runner::READY_FILE)]
    file: PathBuf,
}

pub(crate) fn run(args: &ReadyArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.file.exists(), "the runner is not ready: {} is not there", args.file.display());
    Ok(())
}
