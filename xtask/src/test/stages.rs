//! The stages that need no cluster: Rust's unit tests, the hosts' own, and those against RabbitMQ and PostgreSQL.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::count::{Count, Dialect};
use super::{Bench, Outcome, counted};
use crate::release::cargo;
use crate::run::{command, run, step};
use crate::{broker, python, roots, tools};

const AMQP: &str = "FUNCATRON_TEST_AMQP";
/// A root filesystem of RabbitMQ, for tests that start, freeze and kill one of their own.
const RABBITMQ: &str = "FUNCATRON_TEST_RABBITMQ";
/// The package of those tests.
const OWN_BROKER: &str = "trouble";

pub(super) fn unit(bench: &Bench<'_>, count: &mut Count) -> Result<Outcome> {
    let arguments = ["test", "--workspace", "--exclude", "e2e", "--locked", "--no-fail-fast"];
    counted(command(cargo(), arguments).current_dir(bench.checkout), Dialect::Cargo, count)
}

/// Tests in files `tests/amqp*.rs`, which the unit stage ignores by name.
pub(super) fn broker(bench: &Bench<'_>, count: &mut Count) -> Result<Outcome> {
    let given = std::env::var_os(AMQP).is_some();
    if !given && !tools::is_root() {
        return Ok(Outcome::NotRun(format!("takes root for a broker under chroot, or {AMQP} set to one")));
    }
    tools::require(&[tools::FOR_LEDGER])?;
    let mut tests = command(cargo(), ["test", "--workspace", "--exclude", "e2e"]);
    tests.current_dir(bench.checkout);
    if tools::is_root() {
        tools::require(&[tools::FOR_ROOTS])?;
        tests.env(RABBITMQ, roots::RABBITMQ.folder(bench.cache)?);
    } else {
        tests.args(["--exclude", OWN_BROKER]);
    }
    tests.args(["--locked", "--no-fail-fast", "--test", "amqp*", "--", "--ignored"]);
    if given {
        println!("  using the broker that {AMQP} names");
        let outcome = counted(&mut tests, Dialect::Cargo, count)?;
        let why = format!("the tests of package {OWN_BROKER}: they take root for a broker of their own");
        return Ok(outcome.and(if tools::is_root() { Outcome::Passed } else { Outcome::NotRun(why) }));
    }
    let ran_before = broker::is_running();
    let broker = broker::up(bench.cache, bench.checkout)?;
    tests.env(AMQP, broker.amqp).env("FUNCATRON_TEST_MANAGEMENT", broker.management);
    let outcome = counted(&mut tests, Dialect::Cargo, count);
    if !ran_before {
        broker::down()?;
    }
    outcome
}

pub(super) fn hosts(bench: &Bench<'_>, count: &mut Count) -> Result<Outcome> {
    let folder = bench.checkout.join("runner/hosts");
    println!("python");
    let python = counted(&mut pytest(bench, &folder.join("python"))?, Dialect::Pytest, count)?;
    println!("node");
    let node = counted(&mut node(&folder.join("node"))?, Dialect::Node, count)?;
    Ok(python.and(node))
}

fn pytest(bench: &Bench<'_>, host: &Path) -> Result<Command> {
    let python = python::environment(bench.cache, Some(&host.join("pyproject.toml")))?;
    let mut pytest = command(python, ["-m", "pytest"]);
    // The checkout stays as it is.
    pytest.current_dir(host).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(pytest)
}

fn node(host: &Path) -> Result<Command> {
    if host.join("package-lock.json").exists() && !host.join("node_modules").exists() {
        step("npm ci", || run(command("npm", ["ci", "--no-audit", "--no-fund"]).current_dir(host)))?;
    }
    let mut node = command("node", ["--test", "--test-reporter=spec"]);
    node.current_dir(host);
    Ok(node)
}
