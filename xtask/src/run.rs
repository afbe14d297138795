//! Runs other programs and talks to the person at the terminal. Owns no knowledge of what they do.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a condition is looked at while it is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Says what is being done, and how long it took once it is.
pub(crate) fn step<T>(what: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let result = act();
    let seconds = started.elapsed().as_secs_f64();
    match &result {
        Ok(_) => println!("  {what} ({seconds:.1} s)"),
        Err(_) => println!("  {what}: failed after {seconds:.1} s"),
    }
    result
}

/// A command from its words.
pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(
    program: impl AsRef<std::ffi::OsStr>,
    arguments: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs to the end with the caller's own output; an error names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {}", words(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", words(command));
    }
    Ok(())
}

/// Runs to the end and gives back what was printed; output appears only in the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("start {}", words(command)))?;
    if !done.status.success() {
        bail!(
            "{} ended with {}\n{}{}",
            words(command),
            done.status,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Whether it ran and ended well; its output is of no interest.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Starts a daemon in a session of its own, so that it outlives this program and its terminal; both
/// outputs go to `log`.
pub(crate) fn daemon(command: &mut Command, log: &Path) -> Result<()> {
    let out = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let err = out.try_clone().with_context(|| format!("share {}", log.display()))?;
    let mut session = Command::new("setsid");
    // Without --fork, setsid forks only where it must, and the daemon is left to init when we end.
    session.arg("--fork").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => session.env(name, value),
            None => session.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        session.current_dir(folder);
    }
    session.stdin(Stdio::null()).stdout(out).stderr(err);
    run(&mut session)
}

/// Polls until `met` or the deadline; the error carries what `met` last complained of.
pub(crate) fn wait_for(what: &str, deadline: Duration, met: impl Fn() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    loop {
        match met() {
            Ok(()) => return Ok(()),
            Err(last) if started.elapsed() > deadline => {
                return Err(last.context(format!("{what}: not within {} s", deadline.as_secs())));
            }
            Err(_) => sleep(POLL_INTERVAL),
        }
    }
}

/// A PATH that finds the built programs first.
pub(crate) fn path_with(programs: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(programs.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).context("put the built programs on the PATH")
}

fn words(command: &Command) -> String {
    let arguments = command.get_args().map(|word| word.to_string_lossy());
    std::iter::once(command.get_program().to_string_lossy()).chain(arguments).collect::<Vec<_>>().join(" ")
}
