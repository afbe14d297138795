//! Processes of this machine, which is the node: found by `/proc`, and sent signals by `kill`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// A signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Kill,
    Stop,
    Continue,
}

/// Sends a signal to all of them; one that has ended meanwhile, as a container's processes do with its first, is no
/// error.
pub(crate) fn send(signal: Signal, pids: &[u32]) -> Result<()> {
    let name = match signal {
        Signal::Kill => "-KILL",
        Signal::Stop => "-STOP",
        Signal::Continue => "-CONT",
    };
    let mut kill = Command::new("kill");
    kill.arg(name).args(pids.iter().map(u32::to_string)).stderr(Stdio::null());
    kill.status().context("start kill").map(drop)
}

/// Whether all have ended; a zombie has.
pub(crate) fn are_gone(pids: &[u32]) -> Result<()> {
    let lives = |pid: &&u32| state(**pid).is_some_and(|state| !matches!(state, 'Z' | 'X'));
    let alive = pids.iter().find(lives);
    ensure!(alive.is_none(), "process {} lives", alive.copied().unwrap_or_default());
    Ok(())
}

/// Whether all are stopped: a signal takes a moment to arrive.
pub(crate) fn are_stopped(pids: &[u32]) -> Result<()> {
    let runs = |pid: &&u32| state(**pid).is_some_and(|state| !matches!(state, 'T' | 't' | 'Z' | 'X'));
    let running = pids.iter().find(runs);
    ensure!(running.is_none(), "process {} is not stopped", running.copied().unwrap_or_default());
    Ok(())
}

/// All of a container, by its id in their cgroup: those that none of the others has started come first.
pub(crate) fn of_container(id: &str) -> Result<Vec<u32>> {
    let read = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let pids: Vec<u32> = all()?.into_iter().filter(|pid| read(*pid).contains(id)).collect();
    ensure!(!pids.is_empty(), "container {id} has no process");
    // Ids say nothing of ages once they have begun anew.
    let is_child = |pid: &u32| parent(*pid).is_some_and(|parent| pids.contains(&parent));
    let (children, mut first): (Vec<u32>, Vec<u32>) = pids.iter().partition(|pid| is_child(pid));
    first.extend(children);
    Ok(first)
}

/// A process and all that it has started, down to the last child.
pub(crate) fn with_descendants(pid: u32) -> Result<Vec<u32>> {
    let parents: Vec<(u32, u32)> = all()?.into_iter().filter_map(|id| Some((id, parent(id)?))).collect();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(ancestor) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, parent)| *parent == ancestor).map(|(id, _)| *id));
        next += 1;
    }
    Ok(found)
}

/// A running program that can be started again as it was.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) pid: u32,
    words: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
}

impl Program {
    /// The one that was started by this path.
    pub(crate) fn started_as(path: &Path) -> Result<Self> {
        let words_of = |pid: u32| strings(&format!("/proc/{pid}/cmdline"));
        let is_it = |pid: &u32| words_of(*pid).first().is_some_and(|first| Path::new(first) == path);
        let pid = all()?.into_iter().find(is_it);
        let pid = pid.with_context(|| format!("{} does not run", path.display()))?;
        let environment = strings(&format!("/proc/{pid}/environ"));
        let pairs = environment.iter().filter_map(|pair| pair.split_once('='));
        let environment = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let log = fs::read_link(format!("/proc/{pid}/fd/1")).context("find its log")?;
        Ok(Self { pid, words: words_of(pid), environment, log })
    }

    /// Starts it again, apart from this process and its terminal, as what watches over it would.
    pub(crate) fn start(&self) -> Result<()> {
        let log = File::options().append(true).create(true).open(&self.log).context("open its log")?;
        let errors = log.try_clone().context("share its log")?;
        let mut setsid = Command::new("setsid");
        setsid.arg("--fork").args(&self.words).env_clear();
        setsid.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let started = setsid.stdin(Stdio::null()).stdout(log).stderr(errors).status();
        ensure!(started.context("start setsid")?.success(), "{:?} did not start", self.words.first());
        Ok(())
    }
}

fn strings(file: &str) -> Vec<String> {
    let bytes = fs::read(file).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn state(pid: u32) -> Option<char> {
    stat(pid)?.chars().next()
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.split(' ').nth(1)?.parse().ok()
}

/// The fields of proc(5)'s stat from the third on: state, parent, …
fn stat(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may hold blanks and brackets; nothing after it does.
    stat.rsplit_once(") ").map(|(_, fields)| fields.to_owned())
}

fn all() -> Result<Vec<u32>> {
    let listed = fs::read_dir("/proc").context("list processes")?;
    Ok(listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use e2e::wait::within;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_stopped_process_goes_on_and_a_killed_one_is_gone() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pids = [child.id()];
        send(Signal::Stop, &pids).unwrap();
        within("it is stopped", SOON, || are_stopped(&pids)).unwrap();
        send(Signal::Continue, &pids).unwrap();
        within("it goes on", SOON, || {
            ensure!(are_stopped(&pids).is_err(), "stopped");
            Ok(())
        })
        .unwrap();
        assert!(are_gone(&pids).is_err());
        send(Signal::Kill, &pids).unwrap();
        within("it is gone", SOON, || are_gone(&pids)).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_program_is_started_again_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (program, log) = (folder.path().join("sleep"), folder.path().join("log"));
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let mut first = Command::new(&program)
            .arg("601")
            .env("KEPT", "yes")
            .stdout(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let found = within("it runs", SOON, || Program::started_as(&program)).unwrap();
        assert_eq!(found.pid, first.id());
        send(Signal::Kill, &[found.pid]).unwrap();
        first.wait().unwrap();
        found.start().unwrap();
        let again = within("it runs again", SOON, || Program::started_as(&program)).unwrap();
        send(Signal::Kill, &[again.pid]).unwrap();
        assert_eq!((&again.words, &again.log), (&found.words, &found.log));
        assert!(again.environment.contains(&("KEPT".to_owned(), "yes".to_owned())));
    }
}
