//! The runners of a laptop: for each App and runtime one host process and one runner in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::link::Connector;
use funcatron_broker::names::Installation;
use funcatron_crds::ObjectKind;
use funcatron_runner::host_process::LineSink;
use funcatron_runner::{Mode, RunnerConfig};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::hosts::{HostError, HostProgram};
use super::manifests::Key;
use super::plan::ConfigFile;

/// How long a runner may take to finish its calls when it is told to stop.
const DRAIN: Duration = Duration::from_secs(20);

type Config = BTreeMap<ConfigFile, Vec<u8>>;

/// What all runners share.
pub(crate) struct Shared {
    pub(crate) installation: Installation,
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) root: PathBuf,
    pub(crate) output: LineSink,
}

/// All runners.
pub(crate) struct Runners {
    shared: Shared,
    running: BTreeMap<(Key, String), Running>,
    tasks: JoinSet<()>,
    /// Makes folder names short: a Unix socket's path has room for 107 bytes.
    next_folder: u32,
    missing: BTreeSet<String>,
}

struct Running {
    config: Config,
    stop: CancellationToken,
}

/// What `ensure` did that others must know of.
pub(crate) enum Ensured {
    /// It runs as it did.
    Unchanged,
    /// It runs anew and holds nothing.
    Fresh,
    /// It cannot run on this machine, as was told before.
    Missing,
}

/// Why an App's Fns of a runtime do not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("cannot prepare {0}: {1}")]
    Folder(PathBuf, #[source] io::Error),
}

impl Runners {
    pub(crate) fn new(shared: Shared) -> Self {
        let (running, tasks, missing) = (BTreeMap::new(), JoinSet::new(), BTreeSet::new());
        Self { shared, running, tasks, next_folder: 0, missing }
    }

    /// Starts a runner, or starts it anew when the values it may read have changed. A runtime that is missing is told
    /// once.
    pub(crate) fn ensure(
        &mut self,
        app: &Key,
        runtime: &str,
        config: &Config,
    ) -> Result<Ensured, StartError> {
        let id = (app.clone(), runtime.to_owned());
        if self.missing.contains(runtime) {
            return Ok(Ensured::Missing);
        }
        if self.running.get(&id).is_some_and(|running| running.config == *config) {
            return Ok(Ensured::Unchanged);
        }
        let host = HostProgram::unpack(runtime, &self.shared.root.join("hosts")).inspect_err(|_| {
            self.missing.insert(runtime.to_owned());
        })?;
        let folder = self.shared.root.join(self.next_folder.to_string());
        self.next_folder += 1;
        prepare(&folder, config).map_err(|error| StartError::Folder(folder.clone(), error))?;
        let stop = CancellationToken::new();
        self.spawn(app, runtime, &host, &folder, stop.clone());
        if let Some(old) = self.running.insert(id, Running { config: config.clone(), stop }) {
            old.stop.cancel();
        }
        Ok(Ensured::Fresh)
    }

    /// Stops every runner that is not named.
    pub(crate) fn retain(&mut self, wanted: &BTreeSet<(Key, String)>) {
        self.running.retain(|id, running| {
            let keep = wanted.contains(id);
            if !keep {
                running.stop.cancel();
            }
            keep
        });
    }

    /// Stops all, letting calls finish.
    pub(crate) async fn drain(mut self) {
        self.retain(&BTreeSet::new());
        while self.tasks.join_next().await.is_some() {}
    }

    fn spawn(
        &mut self,
        app: &Key,
        runtime: &str,
        host: &HostProgram,
        folder: &Path,
        stop: CancellationToken,
    ) {
        let control_socket = folder.join("c.sock");
        let process = host.process(&control_socket, Arc::clone(&self.shared.output));
        let config = RunnerConfig {
            installation: self.shared.installation.clone(),
            namespace: app.namespace.clone(),
            app: app.name.clone(),
            runner_name: format!("{}-{runtime}-dev", app.name),
            mode: Mode::Shared {
                runtime: runtime.to_owned(),
                control_socket,
                code_dir: folder.join("code"),
                worker_dir: folder.join("w"),
                config_dir: folder.join("config"),
            },
            ready_file: folder.join("ready"),
            drain: DRAIN,
        };
        let connector = Arc::clone(&self.shared.connector);
        self.tasks.spawn(async move {
            // The host outlives its runner, as a sidecar does: a drain still has its functions.
            let host_stop = CancellationToken::new();
            let host = tokio::spawn(process.run(host_stop.clone()));
            if let Err(error) = funcatron_runner::run(config, connector, stop).await {
                error!(%error, "runner ended");
            }
            host_stop.cancel();
            match host.await {
                Ok(Err(error)) => error!(%error, "host ended"),
                Err(error) => error!(%error, "host task failed"),
                Ok(Ok(())) => {}
            }
        });
    }
}

/// Makes a runner's folders and writes the values that its Fns may read, for this user alone.
fn prepare(folder: &Path, config: &Config) -> io::Result<()> {
    for name in ["code", "w", "config/secrets", "config/configmaps"] {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder.join(name))?;
    }
    for (ConfigFile { object, name, key }, value) in config {
        let kind = match object {
            ObjectKind::Secret => "secrets",
            ObjectKind::ConfigMap => "configmaps",
        };
        let parent = folder.join("config").join(kind).join(name);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&parent)?;
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(parent.join(key));
        file?.write_all(value)?;
    }
    Ok(())
}
