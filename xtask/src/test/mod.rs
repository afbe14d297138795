//! `cargo xtask test`: the stages in turn, none hidden by another's failure, and the account at the end.

mod chart;
mod cluster;
mod count;
mod faults;
mod stages;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::count::{Count, Dialect};
use crate::cache::Cache;
use crate::{golang, roots, tools};

/// What every stage may use.
struct Bench<'a> {
    cache: &'a Cache,
    checkout: &'a Path,
}

/// How a stage ended.
enum Outcome {
    Passed,
    /// Why, beyond tests that failed.
    Failed(String),
    /// What this machine lacks.
    NotRun(String),
}

struct Report {
    stage: &'static str,
    count: Count,
    outcome: Outcome,
    took: Duration,
}

type Stage = fn(&Bench<'_>, &mut Count) -> Result<Outcome>;

/// In the order of how soon they tell something.
const STAGES: [(&str, Stage); 6] = [
    ("unit", stages::unit),
    ("hosts", stages::hosts),
    ("broker", stages::broker),
    ("chart", chart::stage),
    ("cluster", cluster::stage),
    ("faults", faults::stage),
];
/// What `--unit` runs.
pub(crate) const UNIT: [&str; 2] = ["unit", "hosts"];
/// Those that wait for the Go programs.
const WITH_GO: [&str; 3] = ["chart", "cluster", "faults"];
/// Those that run on a cluster of this machine.
const WITH_CLUSTER: [&str; 2] = ["cluster", "faults"];

/// Runs the stages of these names, or all, and says whether they passed.
pub(crate) fn run(cache: &Cache, checkout: &Path, only: &[&str]) -> Result<bool> {
    if let Some(unknown) = only.iter().find(|name| !STAGES.iter().any(|(stage, _)| stage == *name)) {
        bail!("no stage {unknown}; there are {}", STAGES.map(|(stage, _)| stage).join(", "));
    }
    let mut asked = STAGES.to_vec();
    asked.retain(|(stage, _)| only.is_empty() || only.contains(stage));
    let bench = Bench { cache, checkout };
    let needs = |stages: &[&str]| asked.iter().any(|(stage, _)| stages.contains(stage));
    // What takes long and holds nothing up at first is made beside the first stages; whatever fails there
    // fails again, with its words, in the stage that needs it.
    let reports = std::thread::scope(|scope| {
        if needs(&WITH_GO) {
            scope.spawn(|| golang::programs(cache, checkout));
        }
        if needs(&WITH_CLUSTER) && tools::is_root() {
            scope.spawn(|| roots_ahead(cache));
        }
        run_stages(&bench, &asked)
    });
    Ok(account(&reports))
}

fn roots_ahead(cache: &Cache) -> Result<()> {
    tools::require(&[tools::FOR_ROOTS, tools::FOR_IMAGES, tools::FOR_CLUSTER])?;
    roots::ALL.iter().try_for_each(|root| root.tar(cache).map(|_| ()))
}

fn run_stages(bench: &Bench<'_>, stages: &[(&'static str, Stage)]) -> Vec<Report> {
    let mut reports: Vec<Report> = Vec::new();
    for (name, stage) in stages {
        println!("\n==> {name}");
        let started = Instant::now();
        let mut count = Count::default();
        let outcome = stage(bench, &mut count).unwrap_or_else(|why| Outcome::Failed(format!("{why:#}")));
        if let Outcome::Failed(why) = &outcome {
            println!("==> {name} failed: {why}");
        }
        reports.push(Report { stage: name, count, outcome, took: started.elapsed() });
    }
    reports.extend(unaccounted(&reports));
    reports
}

/// Tests that the unit stage ignores are those that the broker stage runs, and no others.
fn unaccounted(reports: &[Report]) -> Option<Report> {
    let find = |stage| reports.iter().find(|report| report.stage == stage);
    let (unit, broker) = (find("unit")?, find("broker")?);
    let ran = broker.count.passed + broker.count.failed;
    let both_ran = [unit, broker].iter().all(|report| matches!(report.outcome, Outcome::Passed));
    (both_ran && ran != unit.count.ignored).then(|| Report {
        stage: "ignored",
        count: Count { failed: 1, ..Count::default() },
        outcome: Outcome::Failed(format!(
            "{} tests are marked #[ignore], but the broker stage ran {ran}",
            unit.count.ignored
        )),
        took: Duration::ZERO,
    })
}

/// Prints the table and, last, the sum; says whether all passed.
fn account(reports: &[Report]) -> bool {
    println!("\n{:<10} {:>8} {:>8} {:>8} {:>9}", "stage", "seconds", "passed", "failed", "");
    let mut sum = Count::default();
    let mut all_passed = true;
    for Report { stage, count, outcome, took } in reports {
        let mut count = *count;
        let word = match outcome {
            Outcome::Passed if count.failed == 0 => "passed",
            Outcome::NotRun(_) => "not run",
            Outcome::Passed | Outcome::Failed(_) => "FAILED",
        };
        if word == "FAILED" {
            all_passed = false;
            // A stage that broke before its tests did is a failure too.
            count.failed = count.failed.max(1);
        }
        sum += count;
        println!("{stage:<10} {:>8.1} {:>8} {:>8} {word:>9}", took.as_secs_f64(), count.passed, count.failed);
    }
    for Report { stage, outcome, .. } in reports {
        match outcome {
            Outcome::Failed(why) => println!("{stage} failed: {why}"),
            Outcome::NotRun(why) => println!("{stage} not run: {why}"),
            Outcome::Passed => {}
        }
    }
    println!("{} passed, {} failed", sum.passed, sum.failed);
    all_passed
}

/// Runs a test program, shows what it prints and counts its tests. Whether it passed is in the
/// outcome; an error means that it could not be run.
fn counted(test: &mut Command, dialect: Dialect, count: &mut Count) -> Result<Outcome> {
    let program = test.get_program().to_string_lossy().into_owned();
    let mut child = test
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let stdout = child.stdout.take().context("a test program has no output")?;
    let before = count.failed;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.with_context(|| format!("read what {program} prints"))?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        *count += dialect.count(&line);
    }
    let status = child.wait().with_context(|| format!("wait for {program}"))?;
    Ok(match status.success() {
        true => Outcome::Passed,
        false if count.failed > before => Outcome::Failed(format!("{} tests failed", count.failed - before)),
        false => Outcome::Failed(format!("{program} ended with {status}")),
    })
}

impl Outcome {
    /// The first that did not pass speaks for both.
    fn and(self, next: Self) -> Self {
        match self {
            Self::Passed => next,
            failed @ (Self::Failed(_) | Self::NotRun(_)) => failed,
        }
    }
}
