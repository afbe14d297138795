//! Removes a cluster: its processes down to the last container, its mounts, cgroups, network and files.
//! Works on what it finds, so that it also removes what a killed `up` left half made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::network;
use crate::cache;
use crate::processes::Processes;
use crate::run::{command, output, step};

/// Folders that the components make at paths of their own choice, deepest first; removed when empty.
const MADE_OUTSIDE: [&str; 7] = [
    "/var/lib/cni/results",
    "/var/lib/cni",
    "/var/lib/kubelet/device-plugins",
    "/var/lib/kubelet",
    "/run/containerd/s",
    "/run/containerd",
    "/opt/cni",
];

pub(super) fn remove(run: &Path) -> Result<()> {
    if !run.exists() {
        return Ok(());
    }
    step("cluster removed", || {
        // Containers are children of their shims.
        let processes = Processes::started_below(run)?.with_shims_of(run)?.with_descendants()?;
        processes.kill().with_context(|| format!("end {} processes", processes.count()))?;
        unmount_below(run)?;
        remove_cgroups();
        network::down()?;
        remove_links_into(Path::new("/var/log/containers"), run)?;
        remove_traces_of_pods(run)?;
        // kubelet's own socket, which no other kubelet can have used meanwhile.
        cache::remove(Path::new("/var/lib/kubelet/device-plugins/kubelet.sock"))?;
        for folder in MADE_OUTSIDE {
            // Another's file in it keeps it.
            fs::remove_dir(folder).ok();
        }
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
fn remove_cgroups() {
    let root = Path::new("/sys/fs/cgroup");
    // One hierarchy of version 2, or a folder each of version 1.
    for hierarchy in entries(root).chain([root.to_owned()]) {
        let pods = hierarchy.join("kubepods");
        if pods.is_dir() {
            remove_empty(&pods);
        }
    }
}

/// Deepest first; only folders can be removed there, and only empty ones.
fn remove_empty(cgroup: &Path) {
    for child in entries(cgroup).filter(|child| child.is_dir()) {
        remove_empty(&child);
    }
    fs::remove_dir(cgroup).ok();
}

/// kubelet links each container's log in a folder that no option moves.
fn remove_links_into(folder: &Path, run: &Path) -> Result<()> {
    for link in entries(folder) {
        if fs::read_link(&link).is_ok_and(|target| target.starts_with(run)) {
            cache::remove(&link)?;
        }
    }
    // It stays where another's links are in it.
    fs::remove_dir(folder).ok();
    Ok(())
}

/// What is kept of a pod at paths that no option moves: a shim's socket, named by a hash that the shim
/// leaves in its task's folder, and what each network plugin answered.
fn remove_traces_of_pods(run: &Path) -> Result<()> {
    let results = Path::new("/var/lib/cni/results");
    for task in entries(&run.join("containerd-state/io.containerd.runtime.v2.task/k8s.io")) {
        let address = fs::read_to_string(task.join("address")).unwrap_or_default();
        if let Some(socket) = address.trim().strip_prefix("unix://") {
            cache::remove(Path::new(socket))?;
        }
        let id = task.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for result in entries(results).filter(|result| result.to_string_lossy().contains(&id)) {
            cache::remove(&result)?;
        }
    }
    Ok(())
}

/// What is in a folder; nothing where there is none.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}
