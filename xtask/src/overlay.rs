//! Whether layers can be stacked by the kernel here: not where the disk is itself such a stack.

use std::fs;
use std::path::Path;

use crate::cache::remove;
use crate::run::{command, succeeds};

/// Tries an overlay mount below `folder`, in a mount namespace that ends with the trial.
pub(crate) fn works_below(folder: &Path) -> bool {
    let trial = folder.join("overlay-trial");
    let made =
        ["lower", "upper", "work", "merged"].iter().all(|part| fs::create_dir_all(trial.join(part)).is_ok());
    let layers = "lowerdir=lower,upperdir=upper,workdir=work";
    let mut mount =
        command("unshare", ["--mount", "mount", "-t", "overlay", "overlay", "-o", layers, "merged"]);
    let works = made && succeeds(mount.current_dir(&trial));
    // What is left of the trial is an empty folder; the answer stands without removing it.
    remove(&trial).ok();
    works
}
