//! `funcatron runner`: from the pod's environment to a running runner.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::names::Installation;
use funcatron_crds::DEFAULT_ATTEMPTS;
use funcatron_runner::{Endpoint, Mode, RunnerConfig};
use tokio_util::sync::CancellationToken;

/// There while the runner is ready; `funcatron ready` looks at it.
pub(crate) const READY_FILE: &str = "/tmp/ready";

/// What a function speaks
#[derive(ValueEnum, Clone, Copy, Debug)]
enum Contract {
    /// Fn's http-stream contract, on a Unix socket
    Fn,
    /// Plain HTTP/1.1, on a port
    Http,
}

/// Take calls from the broker and run them in the function or host beside this process (in a runner pod)
#[derive(Args, Debug)]
pub(crate) struct RunnerArgs {
    /// First part of every broker name
    #[arg(long, env = "FUNCATRON_INSTALLATION")]
    installation: String,
    /// The App's namespace
    #[arg(long, env = "FUNCATRON_NAMESPACE")]
    namespace: String,
    /// The App
    #[arg(long, env = "FUNCATRON_APP")]
    app: String,
    /// This pod's name
    #[arg(long, env = "FUNCATRON_RUNNER")]
    runner: String,
    /// RabbitMQ, with the App's own user
    #[arg(long, env = "FUNCATRON_AMQP_URL", hide_env_values = true)]
    amqp_url: String,
    /// There while this runner is ready
    #[arg(long, default_value = READY_FILE, env = "FUNCATRON_READY_FILE")]
    ready_file: PathBuf,
    /// Seconds that running calls may take to finish
    #[arg(long, default_value_t = 30, env = "FUNCATRON_DRAIN_S")]
    drain_s: u64,

    /// Shared: the runtime whose Fns are hosted
    #[arg(long, env = "FUNCATRON_RUNTIME", help_heading = "Shared runner", conflicts_with = "revision")]
    runtime: Option<String>,
    /// Shared: the host's control socket
    #[arg(long, default_value = "/run/funcatron/control.sock", env = "FUNCATRON_CONTROL_SOCKET")]
    control_socket: PathBuf,
    /// Shared: where code is unpacked
    #[arg(long, default_value = "/run/funcatron/code", env = "FUNCATRON_CODE_DIR")]
    code_dir: PathBuf,
    /// Shared: where workers listen
    #[arg(long, default_value = "/run/funcatron/w", env = "FUNCATRON_WORKER_DIR")]
    worker_dir: PathBuf,
    /// Shared: the projected Secrets and ConfigMaps
    #[arg(long, default_value = "/run/funcatron/config", env = "FUNCATRON_CONFIG_DIR")]
    config_dir: PathBuf,

    /// Dedicated: the Fn
    #[arg(long = "fn", env = "FUNCATRON_FN", help_heading = "Dedicated runner", requires = "revision")]
    fn_name: Option<String>,
    /// Dedicated: its revision
    #[arg(long, env = "FUNCATRON_REVISION", requires = "fn_name")]
    revision: Option<String>,
    /// Dedicated: what the function speaks
    #[arg(long, value_enum, default_value_t = Contract::Fn, env = "FUNCATRON_CONTRACT")]
    contract: Contract,
    /// Dedicated: where a function of Fn's contract listens
    #[arg(long, default_value = "/tmp/iofs/lsnr.sock", env = "FUNCATRON_SOCKET")]
    socket: PathBuf,
    /// Dedicated: where a plain HTTP server listens
    #[arg(long, default_value_t = 8080, env = "FUNCATRON_PORT")]
    port: u16,
    /// Dedicated: calls at once
    #[arg(long, default_value_t = 1, env = "FUNCATRON_CONCURRENCY")]
    concurrency: u32,
    /// Dedicated: milliseconds that one attempt of an event may take
    #[arg(long, default_value_t = 30_000, env = "FUNCATRON_TIMEOUT_MS")]
    timeout_ms: u64,
    /// Dedicated: attempts at an event of a queue Trigger
    #[arg(long, default_value_t = DEFAULT_ATTEMPTS, env = "FUNCATRON_MAX_ATTEMPTS")]
    max_attempts: u32,
    /// Dedicated: whether the Fn has a durable queue
    #[arg(long, env = "FUNCATRON_DURABLE", action = clap::ArgAction::Set, default_value_t = false)]
    durable: bool,
}

pub(crate) async fn run(args: RunnerArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let name = format!("runner {}/{}", args.namespace, args.runner);
    let connector = Arc::new(AmqpConnector::new(args.amqp_url.clone(), name));
    funcatron_runner::run(config(args)?, connector, shutdown).await?;
    Ok(())
}

fn config(args: RunnerArgs) -> anyhow::Result<RunnerConfig> {
    let mode = match (args.runtime, args.fn_name, args.revision) {
        (Some(runtime), None, None) => Mode::Shared {
            runtime,
            control_socket: args.control_socket,
            code_dir: args.code_dir,
            worker_dir: args.worker_dir,
            config_dir: args.config_dir,
        },
        (None, Some(fn_name), Some(revision)) => Mode::Dedicated {
            fn_name,
            revision,
            endpoint: match args.contract {
                Contract::Fn => Endpoint::Fn(args.socket),
                Contract::Http => Endpoint::Http(args.port),
            },
            concurrency: args.concurrency,
            timeout_ms: args.timeout_ms,
            attempts_max: args.max_attempts,
            durable: args.durable,
        },
        _ => None.context("set either FUNCATRON_RUNTIME, or FUNCATRON_FN and FUNCATRON_REVISION")?,
    };
    Ok(RunnerConfig {
        installation: Installation::parse(&args.installation)?,
        namespace: args.namespace,
        app: args.app,
        runner_name: args.runner,
        mode,
        ready_file: args.ready_file,
        drain: Duration::from_secs(args.drain_s),
    })
}
