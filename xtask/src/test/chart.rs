//! The chart without a cluster: Helm's own lint, and what it renders against what it rendered before.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::count::{Count, Dialect};
use super::{Bench, Outcome, counted};
use crate::golang;
use crate::run::{command, output};

/// Set to have the golden files written anew.
const UPDATE: &str = "UPDATE_GOLDEN";

/// Golden files lie in the chart's `tests` folder: `<case>.values.yaml` beside `<case>.golden.yaml`.
pub(super) fn stage(bench: &Bench<'_>, count: &mut Count) -> Result<Outcome> {
    let helm = golang::programs(bench.cache, bench.checkout)?.join("helm");
    let chart = bench.checkout.join("charts/funcatron");
    let cases = cases(&chart.join("tests"))?;
    // Helm refuses what the schema or a template requires, so it lints with each case's values.
    let mut outcome = Outcome::Passed;
    for values in &cases {
        let mut lint = command(&helm, ["lint", "--strict"]);
        lint.arg(&chart).arg("--values").arg(values);
        outcome = outcome.and(counted(&mut lint, Dialect::HelmLint, count)?);
        outcome = outcome.and(golden(&helm, &chart, values, count)?);
    }
    Ok(outcome)
}

fn cases(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let mut cases: Vec<PathBuf> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
    cases.retain(|path| path.to_string_lossy().ends_with(".values.yaml"));
    cases.sort();
    anyhow::ensure!(!cases.is_empty(), "{} holds no case", folder.display());
    Ok(cases)
}

fn golden(helm: &Path, chart: &Path, values: &Path, count: &mut Count) -> Result<Outcome> {
    let mut template = command(helm, ["template", "funcatron"]);
    template.arg(chart).args(["--namespace", "funcatron-system", "--values"]).arg(values);
    let rendered = without_secrets(&output(&mut template)?);
    let golden = PathBuf::from(values.to_string_lossy().replace(".values.yaml", ".golden.yaml"));
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&golden, &rendered).with_context(|| format!("write {}", golden.display()))?;
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    if rendered == expected {
        println!("{} ... ok", golden.display());
        count.passed += 1;
        return Ok(Outcome::Passed);
    }
    count.failed += 1;
    let line = rendered.lines().zip(expected.lines()).take_while(|(ours, theirs)| ours == theirs).count() + 1;
    let name = golden.display();
    Ok(Outcome::Failed(format!(
        "{name}: differs from line {line} on; {UPDATE}=1 writes it anew when that is meant"
    )))
}

/// Fewer characters than the chart's shortest generated secret has, in base64.
const GENERATED_LEN: usize = 32;

/// Replaces what the chart makes up anew at each rendering: a value that is nothing but long base64.
fn without_secrets(rendered: &str) -> String {
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    let line = |line: &str| match line.split_once(": ") {
        Some((key, value)) if value.len() >= GENERATED_LEN && value.chars().all(is_base64) => {
            format!("{key}: (generated)\n")
        }
        _ => format!("{line}\n"),
    };
    rendered.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_generated_values_are_left_out() {
        let rendered = "data:\n  key: NHBPeU9oMW5rY3Q0b1I3eWM4bmZmSnlSNTBabFNVWlhON0g=\n  image: example.com/funcatron:1.2.3\n";
        assert_eq!(
            without_secrets(rendered),
            "data:\n  key: (generated)\n  image: example.com/funcatron:1.2.3\n"
        );
    }
}
