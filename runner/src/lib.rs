//! The runner: message in, function called, reply out; wakes, slots, drain.
//!
//! Consumes the queues of the revisions it hosts and calls their functions over Fn's http-stream contract, or over plain
//! HTTP where an image says so. Speaks to the broker, to a function's or a host's socket beside it and to the gateways'
//! inner listeners, and never to Kubernetes.

mod admission;
mod attempted;
mod call;
mod cancelled;
mod claims;
mod code_store;
mod config;
mod control;
mod dedicated;
mod direct;
mod durable;
mod env;
mod fetch;
pub mod host_process;
mod http_stream;
mod instance;
mod keeper;
mod line;
mod links;
mod log;
mod prepare;
mod producer;
mod ready;
mod record;
mod registry;
mod session;
mod settler;
mod shared;
mod slots;
mod spilled;
mod taker;
mod tap;
mod wake;
mod work;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use funcatron_broker::link::Connector;
use funcatron_broker::names::{AppNames, NameError};
use funcatron_crds::{CONCURRENCY_MAX, RevisionError, RevisionName};
use tokio_util::sync::CancellationToken;

pub use config::{Endpoint, Mode, RunnerConfig};

use control::HostControl;
use durable::EventTerms;
use links::Links;
use ready::ReadyFile;
use session::{Identity, Subject};
use shared::Shared;

/// Why a runner does not start. Once it runs, it runs until it is told to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// A name that the broker does not take.
    #[error("configuration: {0}")]
    Name(#[from] NameError),
    /// A revision that is none.
    #[error("configuration: {0}")]
    Revision(#[from] RevisionError),
    /// Sockets in that directory would have paths that the kernel refuses.
    #[error("configuration: the path of worker directory `{0}` is longer than {WORKER_DIR_BYTES_MAX} bytes")]
    WorkerDir(PathBuf),
    /// The directories for code and sockets cannot be made.
    #[error("prepare directories for code and workers: {0}")]
    Directories(#[source] io::Error),
}

/// A worker's socket is named `<8 hex digits>-<number>.sock`, within the 107 bytes that a socket's path may have.
pub const WORKER_DIR_BYTES_MAX: usize = 80;

/// Runs until `shutdown`, then drains: takes nothing more, and finishes what it has within the drain's time.
pub async fn run(
    config: RunnerConfig,
    connector: Arc<dyn Connector>,
    shutdown: CancellationToken,
) -> Result<(), RunnerError> {
    let RunnerConfig { installation, namespace, app, runner_name, mode, ready_file, drain } = config;
    let names = AppNames::new(&installation, &namespace, &app)?;
    let replies = names.installation().reply_exchange();
    let identity = Arc::new(Identity { names, namespace, app, runner: runner_name, replies });
    let ready_file = ReadyFile::new(ready_file);
    let links = Arc::new(Links::new(Arc::clone(&identity)));
    match mode {
        Mode::Shared { runtime, control_socket, code_dir, worker_dir, config_dir } => {
            if worker_dir.as_os_str().len() > WORKER_DIR_BYTES_MAX {
                return Err(RunnerError::WorkerDir(worker_dir));
            }
            let wakes = identity.names.wake_queue(&runtime)?;
            // The host is needed until the last function is unloaded, after the drain.
            let host_shutdown = CancellationToken::new();
            let _ends_with_us = host_shutdown.clone().drop_guard();
            let host = HostControl::start(control_socket, host_shutdown);
            let settings = shared::Settings { runtime, code_dir, worker_dir, config_dir, drain };
            let shared = Shared::new(settings, wakes, links, host).map_err(RunnerError::Directories)?;
            shared.run(&*connector, ready_file, shutdown).await;
        }
        Mode::Dedicated { fn_name, revision, endpoint, concurrency, timeout_ms, attempts_max, durable } => {
            let settings = dedicated::Settings {
                queue: identity.names.revision_queue(&revision)?,
                durable: durable.then(|| identity.names.durable_queue(&fn_name)).transpose()?,
                subject: Subject { fn_name, revision: RevisionName::parse(&revision)? },
                endpoint,
                concurrency: u16::try_from(concurrency.clamp(1, CONCURRENCY_MAX)).unwrap_or(u16::MAX),
                events: EventTerms { timeout_ms, attempts_max },
                drain,
            };
            dedicated::run(settings, links, &*connector, ready_file, shutdown).await;
        }
    }
    Ok(())
}
