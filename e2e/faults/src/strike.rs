//! Carries a fault out: finds whom it is about, kills or freezes it, and waits until it is back.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::cluster::SYSTEM;
use e2e::kubectl::{get, kubectl};
use e2e::wait::within;
use serde_json::Value;

use crate::database::Database;
use crate::fault::{FROZEN, Fault, How, Target};
use crate::processes::{self, Program, Signal, are_gone, are_stopped, send};
use crate::product::NAMESPACE;

/// A signal arrives at once; on a busy machine a process dies a moment later.
const SIGNAL_WITHIN: Duration = Duration::from_secs(20);
/// The API server may be just coming back from the fault before.
const FOUND_WITHIN: Duration = Duration::from_secs(60);
/// A container is started again after 10 s at the second death within ten minutes, and after 20 s at the third.
const BACK_WITHIN: Duration = Duration::from_secs(180);

/// Where to find those that are no pods.
pub(crate) struct Machine<'a> {
    /// The API server's program, as it was started.
    pub(crate) api_server: PathBuf,
    pub(crate) database: Option<&'a Database>,
}

/// A struck part, and how to know that it is back.
pub(crate) enum Struck<'a> {
    Container(Container),
    ApiServer,
    Database(&'a Database),
}

/// A container of a pod.
pub(crate) struct Container {
    namespace: &'static str,
    pod: String,
    name: &'static str,
    /// Of the container that was struck; after its death there is another under the same name.
    id: String,
    how: How,
}

/// Does it, and says when it was over: a kill once the signal was sent, a stop when it was let go on.
pub(crate) fn strike<'a>(fault: Fault, pick: usize, machine: &Machine<'a>) -> Result<(Struck<'a>, Instant)> {
    match fault.target {
        Target::ApiServer => api_server(fault.how, &machine.api_server),
        Target::Database => {
            let database = machine.database.context("there is no database to strike")?;
            let over = freeze_or(fault.how, &database.processes()?, || database.restart())?;
            Ok((Struck::Database(database), over))
        }
        target => {
            let look = || Container::pick(target, pick, fault.how);
            let container = within("the container to strike", FOUND_WITHIN, look)?;
            // All of it: the kernel would end the others with the first process, but stops each alone.
            let over = freeze_or(fault.how, &processes::of_container(&container.id)?, || Ok(()))?;
            Ok((Struck::Container(container), over))
        }
    }
}

/// Nobody watches over the cluster's API server, so it is started again here.
fn api_server<'a>(how: How, path: &Path) -> Result<(Struck<'a>, Instant)> {
    let program = Program::started_as(path)?;
    let over = freeze_or(how, &[program.pid], || program.start())?;
    Ok((Struck::ApiServer, over))
}

fn freeze_or(how: How, pids: &[u32], revive: impl FnOnce() -> Result<()>) -> Result<Instant> {
    match how {
        How::Kill => {
            send(Signal::Kill, pids)?;
            let over = Instant::now();
            within("what was killed is gone", SIGNAL_WITHIN, || are_gone(pids))?;
            revive().map(|()| over)
        }
        How::Stop => {
            send(Signal::Stop, pids)?;
            let stopped = within("what was stopped stands still", SIGNAL_WITHIN, || are_stopped(pids));
            // The fault is to last so long: there is nothing to wait for.
            sleep(FROZEN);
            send(Signal::Continue, pids)?;
            stopped.map(|()| Instant::now())
        }
    }
}

impl Struck<'_> {
    /// Waits until it is there again.
    pub(crate) fn is_back(&self) -> Result<()> {
        match self {
            Self::Container(container) => {
                within("the struck container is back", BACK_WITHIN, || container.is_back())
            }
            Self::ApiServer => within("the API server is ready", BACK_WITHIN, || {
                kubectl(&["get", "--raw", "/readyz", "--request-timeout=5s"]).map(drop)
            }),
            Self::Database(database) => {
                within("the database takes connections", BACK_WITHIN, || database.is_up())
            }
        }
    }
}

impl Container {
    fn pick(target: Target, pick: usize, how: How) -> Result<Self> {
        let (namespace, selector, name) = match target {
            Target::Runner => (NAMESPACE, "funcatron.dev/runtime=python", "runner"),
            Target::Host => (NAMESPACE, "funcatron.dev/runtime=python", "host"),
            Target::Gateway => (SYSTEM, "app.kubernetes.io/component=gateway", "gateway"),
            Target::Operator => (SYSTEM, "app.kubernetes.io/component=operator", "operator"),
            Target::Ledger => (SYSTEM, "app.kubernetes.io/component=ledger", "ledger"),
            Target::Broker => (SYSTEM, "app.kubernetes.io/component=broker", "rabbitmq"),
            Target::ApiServer | Target::Database => anyhow::bail!("{target:?} is no container"),
        };
        let list = get(namespace, &["pods", &format!("--selector={selector}")])?;
        let mut pods: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        ensure!(!pods.is_empty(), "no pod with {selector}");
        let pod = pods.get(pick % pods.len()).context("pods vanished")?;
        let id = status(pod, name).and_then(id_of).context("the container does not run")?;
        let pod = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        Ok(Self { namespace, pod, name, id, how })
    }

    fn is_back(&self) -> Result<()> {
        let pod = get(self.namespace, &[&format!("pod/{}", self.pod)])?;
        let status = status(&pod, self.name).context("the container has no status")?;
        let is_another = id_of(status).is_some_and(|id| id != self.id);
        ensure!(self.how == How::Stop || is_another, "{} is not started again: {status}", self.name);
        ensure!(status["ready"] == true, "{} is not ready: {status}", self.name);
        Ok(())
    }
}

/// Native sidecars stand among the init containers.
fn status<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    let kinds = ["containerStatuses", "initContainerStatuses"];
    let mut statuses = kinds.iter().flat_map(|kind| pod["status"][*kind].as_array().into_iter().flatten());
    statuses.find(|status| status["name"] == container)
}

/// Of a container that runs.
fn id_of(status: &Value) -> Option<String> {
    status.pointer("/state/running")?;
    let id = status["containerID"].as_str()?;
    Some(id.rsplit('/').next().unwrap_or(id).to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_containers_id_is_that_of_one_that_runs() {
        let pod = json!({"status": {
            "containerStatuses": [{"name": "runner", "containerID": "containerd://abc", "state": {"running": {}}}],
            "initContainerStatuses": [{"name": "host", "containerID": "containerd://def", "state": {"waiting": {}}}],
        }});
        assert_eq!(status(&pod, "runner").and_then(id_of).as_deref(), Some("abc"));
        assert_eq!(status(&pod, "host").and_then(id_of), None);
    }
}
