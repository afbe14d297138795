//! Runners under test.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::local::LocalBroker;
use funcatron_broker::names::Installation;
use funcatron_crds::DEFAULT_ATTEMPTS;
use funcatron_runner::{Endpoint, Mode, RunnerConfig, RunnerError, run};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{APP, Cable, FN, INSTALLATION, NAMESPACE, REVISION, eventually, soon};

/// A runner, its link and its end.
pub struct Runner {
    pub cable: Cable,
    pub shutdown: CancellationToken,
    task: JoinHandle<Result<(), RunnerError>>,
}

impl Runner {
    pub fn start(broker: &LocalBroker, config: RunnerConfig) -> Self {
        let cable = Cable::new(broker);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(config, Arc::new(cable.clone()), shutdown.clone()));
        Self { cable, shutdown, task }
    }

    /// Tells it to stop, and waits until it has.
    pub async fn stop(self) {
        self.shutdown.cancel();
        soon("the runner's end", self.task).await.unwrap().unwrap();
    }

    /// Tells it to stop, and waits until it drains.
    pub async fn drain(&self, ready_file: &Path) {
        self.shutdown.cancel();
        eventually("the runner drains", async || !ready_file.exists()).await;
    }

    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends it as kill -9 does: its link breaks with everything in hand.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
        if self.cable.has_link() {
            self.cable.cut().await;
        }
    }
}

pub fn config(dir: &Path, mode: Mode) -> RunnerConfig {
    RunnerConfig {
        installation: Installation::parse(INSTALLATION).unwrap(),
        namespace: NAMESPACE.into(),
        app: APP.into(),
        runner_name: "runner-1".into(),
        mode,
        ready_file: dir.join("ready"),
        drain: Duration::from_secs(20),
    }
}

/// A runner of [`REVISION`], whose function listens at `f.sock` in `dir`.
pub fn dedicated(dir: &Path, concurrency: u32) -> RunnerConfig {
    dedicated_durable(dir, concurrency, false)
}

pub fn dedicated_durable(dir: &Path, concurrency: u32, durable: bool) -> RunnerConfig {
    at(dir, Endpoint::Fn(dir.join("f.sock")), concurrency, durable)
}

/// A runner of [`REVISION`] with a durable queue, whose Fn allows an event that many attempts.
pub fn dedicated_trying(dir: &Path, attempts: u32) -> RunnerConfig {
    let mut config = dedicated_durable(dir, 1, true);
    if let Mode::Dedicated { attempts_max, .. } = &mut config.mode {
        *attempts_max = attempts;
    }
    config
}

/// A runner of [`REVISION`], whose function listens there.
pub fn at(dir: &Path, endpoint: Endpoint, concurrency: u32, durable: bool) -> RunnerConfig {
    let mode = Mode::Dedicated {
        fn_name: FN.into(),
        revision: REVISION.into(),
        endpoint,
        concurrency,
        timeout_ms: 30_000,
        attempts_max: DEFAULT_ATTEMPTS,
        durable,
    };
    config(dir, mode)
}
