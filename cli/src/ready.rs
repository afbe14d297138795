//! The readiness probe of runner and bridge pods, which accept no connection that could be asked.

use std::path::PathBuf;

use clap::Args;

/// Succeed if this pod's runner or bridge is ready (a probe's command)
#[derive(Args, Debug)]
pub(crate) struct ReadyArgs {
    /// The file that is kept while it is ready
    #[arg(long, default_value = super::runner::READY_FILE)]
    file: PathBuf,
}

pub(crate) fn run(args: &ReadyArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.file.exists(), "not ready: {} is not there", args.file.display());
    Ok(())
}
