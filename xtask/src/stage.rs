//! What runs on a cluster of this machine: the cluster, the product's images on its node, and the environment that
//! whoever uses them is told by. A cluster that ran before stays, one that did not goes.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::cluster::{self, Cluster};
use crate::images::Builder;
use crate::release::{binary, target};
use crate::run::{command, path_with, run};

/// A cluster with the product's images.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    /// Of the images' content.
    pub(crate) tag: String,
}

impl Stage {
    /// Tells a program where it is.
    pub(crate) fn prepare(&self, program: &mut Command) -> Result<()> {
        program
            .env("PATH", path_with(&self.cluster.programs)?)
            .env("KUBECONFIG", &self.cluster.kubeconfig)
            .env("FUNCATRON_IMAGE_TAG", &self.tag)
            .env("FUNCATRON_IMAGE_REGISTRY", "localhost")
            .env("FUNCATRON_TEST_CLUSTER", "built")
            .env("NO_PROXY", cluster::no_proxy());
        Ok(())
    }
}

/// Makes the stage and lets `act` use it, which says whether all went well beside what it says; the logs of
/// components and pods are kept where it did not.
pub(crate) fn on<T>(
    cache: &Cache,
    checkout: &Path,
    act: impl FnOnce(&Stage) -> Result<(bool, T)>,
) -> Result<T> {
    let ran_before = cluster::is_running();
    let binary = binary(checkout)?;
    let cluster = cluster::up(cache, checkout)?;
    let builder = Builder::new(cache, checkout, &cluster.programs)?;
    let (images, tag) = builder.for_product(&binary)?;
    cluster::import(&images)?;
    let acted = act(&Stage { cluster, tag });
    if !matches!(acted, Ok((true, _))) {
        keep_logs(&target(checkout)?.join("cluster-logs"))?;
    }
    if !ran_before {
        cluster::down()?;
    }
    acted.map(|(_, said)| said)
}

/// What pods and components said goes with the cluster unless it is kept.
fn keep_logs(folder: &Path) -> Result<()> {
    crate::cache::remove(folder)?;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    for logs in cluster::logs() {
        run(command("cp", ["--recursive"]).arg(logs).arg(folder))?;
    }
    println!("  the logs of components and pods are kept in {}", folder.display());
    Ok(())
}
