//! The built cluster's node, which is this machine: its processes are pods' processes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use e2e::kubectl::get;

/// The runner's process of a pod, as its folder below /proc.
pub(crate) fn runner_of(namespace: &str, pod: &str) -> anyhow::Result<PathBuf> {
    let pod_object = get(namespace, &[&format!("pod/{pod}")])?;
    let uid = pod_object["metadata"]["uid"].as_str().context("the pod has no uid")?.to_owned();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let folder = entry.path();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let is_runner = read("cmdline").split('\0').take(2).eq(["/usr/bin/funcatron", "runner"]);
        // The systemd driver of cgroups writes the uid with underscores.
        if is_runner && (read("cgroup").contains(&uid) || read("cgroup").contains(&uid.replace('-', "_"))) {
            return Ok(folder);
        }
    }
    anyhow::bail!("no runner process of pod {pod}")
}

/// Ends a process, which hears nothing of it.
pub(crate) fn kill(process: &Path) -> anyhow::Result<()> {
    let pid = process.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let done = std::process::Command::new("kill").args(["-9", pid]).status()?;
    ensure!(done.success(), "kill -9 {pid}: {done}");
    Ok(())
}
