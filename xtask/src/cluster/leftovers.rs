//! Removes a cluster: its processes down to the last container, its mounts, cgroups, network and files.
//! Works on what it finds, so that it also removes what a killed `up` left half made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::network;
use crate::cache;
use crate::processes::Processes;
use crate::run::{command, output, step};

pub(super) fn remove(run: &Path) -> Result<()> {
    if !run.exists() {
        return Ok(());
    }
    step("cluster removed", || {
        // Containers are children of their shims, and those were started from the run directory.
        let processes = Processes::started_below(run)?.with_descendants()?;
        processes.kill().with_context(|| format!("end {} processes", processes.count()))?;
        unmount_below(run)?;
        remove_cgroups()?;
        network::down()?;
        remove_links_into(Path::new("/var/log/containers"), run)?;
        cache::remove(run)
    })
}

/// Latest first, since a mount may lie upon another.
fn unmount_below(run: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("list mounts")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(unescape);
    let mut ours: Vec<PathBuf> = points.map(PathBuf::from).filter(|point| point.starts_with(run)).collect();
    ours.reverse();
    for point in ours {
        // Lazily: the namespace of a process that is only just ending may still hold it.
        output(command("umount", ["--lazy"]).arg(&point))?;
    }
    Ok(())
}

/// proc(5) writes blanks, tabs, newlines and backslashes in octal.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// kubelet's cgroups, in each hierarchy that there is. One that still holds a process is another
/// kubelet's, and the kernel keeps it.
fn remove_cgroups() -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies =
        fs::read_dir(root).context("list cgroups")?.filter_map(|entry| Some(entry.ok()?.path()));
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        let pods = hierarchy.join("kubepods");
        if pods.is_dir() {
            remove_empty(&pods);
        }
    }
    Ok(())
}

/// Deepest first; only folders can be removed there, and only empty ones.
fn remove_empty(cgroup: &Path) {
    for child in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            remove_empty(&child.path());
        }
    }
    fs::remove_dir(cgroup).ok();
}

/// kubelet links each container's log in a folder that no option moves.
fn remove_links_into(folder: &Path, run: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(run)) {
            cache::remove(&entry.path())?;
        }
    }
    // It stays where another's links are in it.
    fs::remove_dir(folder).ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}
