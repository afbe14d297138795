//! The release binary, as users and images get it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::run::{command, output, run, step};

/// Builds `funcatron` and says where it lies.
pub(crate) fn binary(checkout: &Path) -> Result<PathBuf> {
    step("release binary", || {
        let package = ["build", "--release", "--locked", "--package", "funcatron"];
        run(command(cargo(), package).current_dir(checkout))
    })?;
    Ok(target(checkout)?.join("release/funcatron"))
}

/// The cargo that runs this xtask, or else the one on the PATH.
pub(crate) fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Where cargo builds to, which the environment or a configuration may have moved.
pub(crate) fn target(checkout: &Path) -> Result<PathBuf> {
    let arguments = ["metadata", "--no-deps", "--locked", "--format-version=1"];
    let metadata = output(command(cargo(), arguments).current_dir(checkout))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("parse cargo's metadata")?;
    let target = metadata.get("target_directory").and_then(|target| target.as_str());
    Ok(target.context("cargo's metadata names no target directory")?.into())
}
