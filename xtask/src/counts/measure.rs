//! Builds the benches of a tree and counts them. Knows nothing of commits but their names, and compares nothing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::compare::Counts;
use super::runner;
use crate::cache::{Cache, Key, remove};
use crate::release::cargo;
use crate::run::{command, output, run, step};

/// The crates whose `benches/counts.rs` are counted, by folder.
pub(super) const CRATES: [&str; 3] = ["routing", "broker", "gateway"];
/// How both sides are built, whatever their own profiles say.
const PROFILE: &str = include_str!("profile.toml");
/// Raised when counting changes, so that what was kept counts no more.
const VERSION: &str = "1";

/// Where trees are built and counted. One target folder serves all: registry crates are built once, and the
/// workspace's own have the same names in every tree, so that equal code gives equal programs.
pub(super) struct Workshop<'a> {
    cache: &'a Cache,
    folder: PathBuf,
    /// All that counts follow from beside the tree.
    key: Key,
}

impl<'a> Workshop<'a> {
    pub(super) fn new(cache: &'a Cache) -> Result<Self> {
        let versions = [command("rustc", ["-vV"]), command("valgrind", ["--version"])];
        let mut key = Key::new(VERSION).with(PROFILE);
        for mut version in versions {
            key = key.with(output(&mut version)?);
        }
        Ok(Self { cache, folder: cache.folder("counts")?, key })
    }

    /// The folder for a tree that is not the user's.
    pub(super) fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// What the commit of this id takes: counted once, by `count`, and kept in some hundred bytes.
    pub(super) fn kept(&self, id: &str, count: impl FnOnce() -> Result<Counts>) -> Result<Counts> {
        let name = format!("counts-of-{id}");
        let key = self.key.clone().with(id);
        let entry = self.cache.entry(&name, &key, |path| {
            let counts = serde_json::to_string(&count()?).context("write counts")?;
            fs::write(path, counts).with_context(|| format!("write {}", path.display()))
        })?;
        let kept = fs::read(&entry).with_context(|| format!("read {}", entry.display()))?;
        serde_json::from_slice(&kept).with_context(|| format!("parse {}", entry.display()))
    }

    /// Builds and counts the benches of a tree that goes by this name.
    pub(super) fn count(&self, tree: &Path, name: &str) -> Result<Counts> {
        let target = self.folder.join("target");
        self.begin(tree, name, &target)?;
        let runner = runner::install(self.cache, tree)?;
        step(&format!("built {name}"), || {
            run(self.bench(tree, &target).args(["--quiet", "--no-run"])).context("build the benches")
        })?;
        let said = step(&format!("counted {name}"), || {
            let mut bench = self.bench(tree, &target);
            bench.args(["--", "--output-format=json"]);
            // It would compare with what it finds there.
            let home = self.folder.join("gungraun");
            remove(&home)?;
            bench.env("GUNGRAUN_RUNNER", runner).env("GUNGRAUN_HOME", home);
            // What caches would hit is a guess, and takes as long as the counting.
            output(bench.env("GUNGRAUN_CALLGRIND_ARGS", "--cache-sim=no"))
        })?;
        parse(&said)
    }

    fn bench(&self, tree: &Path, target: &Path) -> std::process::Command {
        let mut bench = command(cargo(), ["bench", "--locked", "--bench", "counts", "--config"]);
        bench.arg(self.folder.join("profile.toml")).arg("--target-dir").arg(target).current_dir(tree);
        let has_bench = |name: &&&str| tree.join(name).join("benches/counts.rs").exists();
        for name in CRATES.iter().filter(has_bench) {
            bench.arg("--package").arg(format!("funcatron-{name}"));
        }
        bench
    }

    /// What was built of another tree is not told from this one's: cargo goes by times alone.
    fn begin(&self, tree: &Path, name: &str, target: &Path) -> Result<()> {
        let profile = self.folder.join("profile.toml");
        fs::write(&profile, PROFILE).with_context(|| format!("write {}", profile.display()))?;
        let (owner, wanted) = (self.folder.join("built"), name.as_bytes());
        if fs::read(&owner).is_ok_and(|built| built == wanted) {
            return Ok(());
        }
        remove(&owner)?;
        if target.exists() {
            let mut clean = command(cargo(), ["clean", "--quiet", "--locked", "--workspace", "--target-dir"]);
            run(clean.arg(target).args(["--profile", "bench"]).current_dir(tree))?;
        }
        fs::write(&owner, wanted).with_context(|| format!("write {}", owner.display()))
    }
}

/// Reads gungraun's summaries, one JSON object a line.
fn parse(said: &str) -> Result<Counts> {
    let lines = said.lines().filter(|line| line.starts_with('{'));
    let counts = lines.map(parse_line).collect::<Result<Counts>>()?;
    if counts.is_empty() {
        bail!("the benches counted nothing");
    }
    Ok(counts)
}

/// `counts::<group>::<bench>` and, where there are several, the case: without what is the same in all.
fn parse_line(line: &str) -> Result<(String, u64)> {
    let summary: Value = serde_json::from_str(line).context("parse a bench's summary")?;
    let path = summary["module_path"].as_str().context("a bench's summary names no bench")?;
    let path = path.strip_prefix("counts::").unwrap_or(path);
    let name = summary["id"].as_str().map_or_else(|| path.to_owned(), |case| format!("{path}::{case}"));
    let tools = summary["profiles"].as_array().into_iter().flatten();
    let callgrind = tools.into_iter().find(|profile| profile["tool"] == "Callgrind");
    let count =
        callgrind.and_then(|profile| profile["data"]["total"]["metrics"]["Ir"]["values"]["new"].as_u64());
    Ok((name.clone(), count.with_context(|| format!("the summary of {name} counts no instructions"))?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What gungraun 0.20 says of a bench, but for what is not read.
    fn summary(path: &str, case: Option<&str>, count: u64) -> String {
        let metrics = json!({"Ir": {"values": {"new": count}}});
        let profile = json!({"tool": "Callgrind", "data": {"parts": [], "total": {"metrics": metrics}}});
        let mut summary = json!({"version": "7", "module_path": path, "profiles": [profile]});
        if let Some(case) = case {
            summary["id"] = json!(case);
        }
        summary.to_string()
    }

    #[test]
    fn every_bench_and_case_has_its_count() {
        let said = [
            summary("counts::codec::pack_replies", None, 4_222_750),
            "words between".to_owned(),
            summary("counts::routing::find", Some("template"), 184_123),
        ];
        let expected = [("codec::pack_replies", 4_222_750), ("routing::find::template", 184_123)];
        let expected = expected.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(parse(&said.join("\n")).unwrap(), Counts::from(expected));
    }

    #[test]
    fn benches_that_count_nothing_are_no_success() {
        parse("").unwrap_err();
        let without = summary("counts::codec::x", None, 1).replace("Ir", "Dr");
        assert!(parse(&without).unwrap_err().to_string().contains("codec::x"));
    }
}
