//! `cargo xtask counts`: how many instructions `find`, the codec and dispatch take, beside the commit that a change
//! stands on. Both sides are built alike and counted on one machine in one run; no figure is kept in the repository.

mod base;
mod compare;
mod measure;
mod runner;

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail};

use self::base::{Base, Commit};
use self::compare::{Counts, Grant};
use self::measure::Workshop;
use crate::cache::{Cache, remove};
use crate::tools;

/// What to compare with.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Compare with this commit, rather than the one where the change leaves origin/main
    #[arg(long, value_name = "COMMIT")]
    base: Option<String>,
}

/// Prints the comparison, and says whether nothing takes more instructions than it may.
pub(crate) fn counts(cache: &Cache, checkout: &Path, options: &Options) -> Result<bool> {
    tools::require(&[tools::FOR_COUNTS])?;
    let _alone = alone(cache)?;
    let workshop = Workshop::new(cache)?;
    let compared = before(&workshop, checkout, options);
    let now = now(&workshop, checkout)?;
    let (before, grants) = match compared {
        Ok(compared) => compared,
        Err(why) => {
            compare::print(&compare::rows(&Counts::new(), &now, &[]));
            println!("not compared: {why:#}");
            return Ok(true);
        }
    };
    let rows = compare::rows(&before, &now, &grants);
    compare::print(&rows);
    Ok(compare::passed(&rows))
}

/// What the base takes, and what the commits since then grant. A base that cannot be counted must not hold up what
/// comes after it, so that a commit whose benches do not build can be mended.
fn before(workshop: &Workshop<'_>, checkout: &Path, options: &Options) -> Result<(Counts, Vec<Grant>)> {
    let Commit { id, summary } = match base::find(checkout, options.base.as_deref()) {
        Base::At(commit) => commit,
        Base::None(why) => bail!(why),
    };
    println!("  compared with {summary}");
    let before = workshop.kept(&id, || {
        let tree = workshop.tree();
        base::write_tree(checkout, &id, &tree)?;
        let counted = workshop.count(&tree, &id);
        remove(&tree)?;
        counted
    });
    Ok((before.with_context(|| format!("count {summary}"))?, base::grants(checkout, &id)?))
}

/// What the checkout takes; that of a commit and nothing else is kept, for the change that will stand on it.
fn now(workshop: &Workshop<'_>, checkout: &Path) -> Result<Counts> {
    let count = || workshop.count(checkout, &checkout.display().to_string());
    match base::clean_head(checkout) {
        Some(id) => workshop.kept(&id, count),
        None => count(),
    }
}

/// Two at once would build over each other's work, and wait for each other's calls.
fn alone(cache: &Cache) -> Result<File> {
    let path = cache.folder("locks")?.join("counts");
    let lock = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    lock.lock().context("wait for another who counts")?;
    Ok(lock)
}
