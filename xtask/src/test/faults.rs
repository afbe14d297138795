//! The faults stage: the kills of `cargo xtask faults`, in the short form. Each counts as a test.

use anyhow::Result;

use super::count::{Count, Dialect};
use super::{Bench, Outcome, counted};
use crate::faults::{Options, program};
use crate::{stage, tools};

pub(super) fn stage(bench: &Bench<'_>, count: &mut Count) -> Result<Outcome> {
    if std::env::var_os("KUBECONFIG").is_some() {
        let why = "processes of your cluster cannot be killed from here; without KUBECONFIG it builds one";
        return Ok(Outcome::NotRun(why.to_owned()));
    }
    if !tools::is_root() {
        return Ok(Outcome::NotRun("takes root for a cluster on this machine".to_owned()));
    }
    stage::on(bench.cache, bench.checkout, |stage| {
        let mut faults = program(stage, bench.checkout, &Options::of_a_test())?;
        let outcome = counted(&mut faults, Dialect::Faults, count)?;
        Ok((matches!(outcome, Outcome::Passed), outcome))
    })
}
