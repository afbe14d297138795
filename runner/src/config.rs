//! What a runner is told at its start.

use std::path::PathBuf;
use std::time::Duration;

use funcatron_broker::names::Installation;

/// A runner of one App.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// The installation, the first part of every broker name.
    pub installation: Installation,
    /// The App's namespace.
    pub namespace: String,
    /// The App.
    pub app: String,
    /// This runner's own name (its pod's), for reports.
    pub runner_name: String,
    /// What it runs.
    pub mode: Mode,
    /// Written once this runner serves, removed when it drains.
    pub ready_file: PathBuf,
    /// How long running calls may take to finish once it is told to stop.
    pub drain: Duration,
}

/// Where a function listens, and so what it speaks.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// Fn's http-stream contract, on a Unix socket.
    Fn(PathBuf),
    /// Plain HTTP/1.1, on a port of this pod's own.
    Http(u16),
}

/// What a runner runs.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Whatever revisions of one runtime it is woken for, in a host beside it.
    Shared {
        /// The runtime, whose wakes it takes.
        runtime: String,
        /// The host's control socket.
        control_socket: PathBuf,
        /// Where code is unpacked, readable by the host.
        code_dir: PathBuf,
        /// Where the host's workers make their sockets. Its path has 80 bytes at most.
        worker_dir: PathBuf,
        /// Projected Secrets and ConfigMaps: `secrets/<name>/<key>` and `configmaps/<name>/<key>`.
        config_dir: PathBuf,
    },
    /// One revision, in a container beside it.
    Dedicated {
        /// The Fn.
        fn_name: String,
        /// Its revision.
        revision: String,
        /// Where the function listens.
        endpoint: Endpoint,
        /// Calls at once.
        concurrency: u32,
        /// How long one attempt at a call from the durable queue may take.
        timeout_ms: u64,
        /// Attempts at an event from there, which says nothing of them itself.
        attempts_max: u32,
        /// Whether the Fn has a durable queue.
        durable: bool,
    },
}
