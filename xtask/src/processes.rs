//! Finds and ends the processes of a run directory. Reads `/proc` rather than files of process ids,
//! which lie once a process is gone and its id taken by another.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::run::{command, succeeds, wait_for};

/// Killed processes go within milliseconds; one in an uninterruptible wait may not.
const KILL_DEADLINE: Duration = Duration::from_secs(20);

/// Processes that belong together.
#[derive(Debug)]
pub(crate) struct Processes {
    ids: Vec<u32>,
}

impl Processes {
    /// Those that were started under a name below `folder`. A shell or a pager that merely looks into
    /// the folder is none of them.
    pub(crate) fn started_below(folder: &Path) -> Result<Self> {
        let below = format!("{}/", folder.display());
        let ids = all()?
            .into_iter()
            .filter(|id| arguments(*id).first().is_some_and(|program| program.starts_with(&below)))
            .collect();
        Ok(Self { ids })
    }

    /// These, and the shims that a containerd has started whose socket lies below `folder`: it starts them
    /// by Debian's path, and they outlive it.
    pub(crate) fn with_shims_of(mut self, folder: &Path) -> Result<Self> {
        let below = format!("{}/", folder.display());
        let is_ours = |id: &u32| {
            let arguments = arguments(*id);
            arguments.first().is_some_and(|program| program.contains("containerd-shim"))
                && arguments.windows(2).any(|pair| matches!(pair, [option, value] if option == "-address" && value.starts_with(&below)))
        };
        self.ids.extend(all()?.into_iter().filter(is_ours));
        Ok(self)
    }

    /// Those and all that they have started, down to the last child.
    pub(crate) fn with_descendants(self) -> Result<Self> {
        let parents: Vec<(u32, u32)> = all()?.into_iter().filter_map(|id| Some((id, parent(id)?))).collect();
        let mut ids = self.ids;
        let mut next = 0;
        while let Some(ancestor) = ids.get(next).copied() {
            ids.extend(parents.iter().filter(|(_, parent)| *parent == ancestor).map(|(id, _)| *id));
            next += 1;
        }
        Ok(Self { ids })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.ids.len()
    }

    /// Ends them at once and waits until they are gone.
    pub(crate) fn kill(&self) -> Result<()> {
        for id in &self.ids {
            succeeds(&mut command("kill", ["-KILL", &id.to_string()]));
        }
        wait_for("killed processes are gone", KILL_DEADLINE, || {
            match self.ids.iter().find(|id| lives(**id)) {
                Some(id) => bail!("process {id} still lives"),
                None => Ok(()),
            }
        })
    }
}

/// A zombie has ended; it only waits for its parent to read how.
fn lives(id: u32) -> bool {
    stat(id).is_some_and(|fields| !fields.starts_with(['Z', 'X']))
}

fn parent(id: u32) -> Option<u32> {
    stat(id)?.split(' ').nth(1)?.parse().ok()
}

/// The fields of proc(5)'s stat from the third on: state, parent, …
fn stat(id: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The program's name may hold blanks and brackets; nothing after it does.
    stat.rsplit_once(") ").map(|(_, fields)| fields.to_owned())
}

/// A process' words, its program first; none when it has ended since it was listed.
fn arguments(id: u32) -> Vec<String> {
    let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn all() -> Result<Vec<u32>> {
    let me = std::process::id();
    let listed = fs::read_dir("/proc").context("list processes")?;
    Ok(listed
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|id| *id != me)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processes_started_from_the_folder_are_killed() {
        let ours = tempfile::tempdir().unwrap();
        let program = ours.path().join("tail");
        std::os::unix::fs::symlink("/usr/bin/tail", &program).unwrap();
        let mut started = command(&program, ["-f", "/dev/null"]).spawn().unwrap();
        let file = ours.path().join("log");
        fs::write(&file, "").unwrap();
        let mut looking = command("tail", ["-f"]).arg(&file).spawn().unwrap();

        let found = Processes::started_below(ours.path()).unwrap();
        assert_eq!(found.count(), 1);
        let reaper = std::thread::spawn(move || started.wait().unwrap());
        found.kill().unwrap();

        assert!(!reaper.join().unwrap().success());
        assert!(looking.try_wait().unwrap().is_none(), "one that only looks into the folder was killed");
        looking.kill().unwrap();
        looking.wait().unwrap();
    }
}
