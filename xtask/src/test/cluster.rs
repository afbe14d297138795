//! The end-to-end stage: release binary, images, a cluster, and the tests of package `e2e`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::count::{Count, Dialect};
use super::{Bench, Outcome, counted};
use crate::images::Builder;
use crate::release::{binary, cargo};
use crate::run::{command, path_with};
use crate::{cluster, golang, stage, tools};

/// A registry that both this machine and the user's cluster reach.
const REGISTRY: &str = "FUNCATRON_IMAGE_REGISTRY";

pub(super) fn stage(bench: &Bench<'_>, count: &mut Count) -> Result<Outcome> {
    match (std::env::var_os("KUBECONFIG"), std::env::var(REGISTRY)) {
        (Some(kubeconfig), Ok(registry)) => on_yours(bench, &PathBuf::from(kubeconfig), &registry, count),
        (Some(_), Err(_)) => Ok(Outcome::NotRun(format!(
            "KUBECONFIG names your cluster, and {REGISTRY} must name a registry that it can pull from"
        ))),
        (None, _) if tools::is_root() => on_built(bench, count),
        (None, _) => Ok(Outcome::NotRun(
            "takes root for a cluster on this machine, or KUBECONFIG set to one".to_owned(),
        )),
    }
}

fn on_yours(bench: &Bench<'_>, kubeconfig: &Path, registry: &str, count: &mut Count) -> Result<Outcome> {
    println!("  using the cluster of KUBECONFIG={}", kubeconfig.display());
    tools::require(&[tools::FOR_IMAGES, tools::FOR_ROOTS])?;
    let programs = golang::programs(bench.cache, bench.checkout)?;
    let builder = Builder::new(bench.cache, bench.checkout, &programs)?;
    let (images, tag) = builder.for_product(&binary(bench.checkout)?)?;
    builder.push(&images, registry)?;
    let mut tests = tests(bench, &programs, &tag)?;
    tests.env("KUBECONFIG", kubeconfig).env(REGISTRY, registry).env("FUNCATRON_TEST_CLUSTER", "yours");
    println!(
        "  not run on your cluster: what reads the API server's audit log, and what kills processes in pods"
    );
    counted(&mut tests, Dialect::Cargo, count)
}

fn on_built(bench: &Bench<'_>, count: &mut Count) -> Result<Outcome> {
    stage::on(bench.cache, bench.checkout, |stage| {
        let mut tests = tests(bench, &stage.cluster.programs, &stage.tag)?;
        stage.prepare(&mut tests)?;
        tests.env("FUNCATRON_AUDIT_LOG", cluster::audit_log());
        let outcome = counted(&mut tests, Dialect::Cargo, count)?;
        Ok((matches!(outcome, Outcome::Passed), outcome))
    })
}

/// One at a time: they share a cluster, and some of them kill parts of it.
fn tests(bench: &Bench<'_>, programs: &Path, tag: &str) -> Result<Command> {
    let arguments = ["test", "--package", "e2e", "--locked", "--no-fail-fast", "--", "--test-threads=1"];
    let mut tests = command(cargo(), arguments);
    tests.current_dir(bench.checkout).env("PATH", path_with(programs)?).env("FUNCATRON_IMAGE_TAG", tag);
    Ok(tests)
}
