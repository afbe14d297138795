//! The program that runs valgrind for the benches: of just the version of their library, from the registry.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, remove};
use crate::release::cargo;
use crate::run::{command, run, step};

const NAME: &str = "gungraun-runner";

/// The runner for the benches of this tree, installed where it is missing. Each version has its own folder, since
/// both sides of a comparison may differ in it.
pub(super) fn install(cache: &Cache, tree: &Path) -> Result<PathBuf> {
    let lock = tree.join("Cargo.lock");
    let locked = fs::read_to_string(&lock).with_context(|| format!("read {}", lock.display()))?;
    let version = version(&locked).with_context(|| format!("{} names no {NAME}", lock.display()))?;
    let root = cache.folder("tools")?.join(format!("{NAME}-{version}"));
    let program = root.join("bin").join(NAME);
    if program.exists() {
        return Ok(program);
    }
    step(&format!("{NAME} {version}"), || {
        let target = root.join("target");
        let mut install = command(cargo(), ["install", "--quiet", "--locked", "--debug", "--root"]);
        install.arg(&root).arg(format!("{NAME}@{version}"));
        // It starts others and adds up; what it costs itself is not counted.
        run(install.env("CARGO_TARGET_DIR", &target).env("CARGO_PROFILE_DEV_DEBUG", "false"))?;
        remove(&target)
    })?;
    Ok(program)
}

/// The version that a lock file gives the runner.
fn version(lock: &str) -> Option<&str> {
    let name = format!("name = \"{NAME}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    lines.nth(1)?.strip_prefix("version = \"")?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_names_the_version() {
        let lock = "[[package]]\nname = \"gungraun\"\nversion = \"0.19.0\"\n\n\
            [[package]]\nname = \"gungraun-runner\"\nversion = \"0.20.1\"\nsource = \"registry\"\n";
        assert_eq!(version(lock), Some("0.20.1"));
        assert_eq!(version("[[package]]\nname = \"gungraun\"\nversion = \"0.19.0\"\n"), None);
    }

    #[test]
    fn this_projects_own_lock_file_names_one() {
        assert!(version(include_str!("../../../Cargo.lock")).is_some());
    }
}
