//! `funcatron`: the one binary. On a cluster it is operator, gateway or runner; on a laptop it is `dev`.

mod dev;
mod gateway;
mod installation;
mod operator;
mod ready;
mod runner;
mod signals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("FUNCATRON_COMMIT"), ")");

/// Functions behind HTTP routes, queues and triggers, as Kubernetes resources.
#[derive(Parser)]
#[command(name = "funcatron", version = VERSION, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
    /// How log lines look: `text` for people, `json` for collectors. What is logged is said by RUST_LOG, as
    /// `info,funcatron_gateway=debug`
    #[arg(long, global = true, default_value = "text", env = "FUNCATRON_LOG_FORMAT")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Mode {
    Dev(dev::DevArgs),
    Operator(operator::OperatorArgs),
    Gateway(gateway::GatewayArgs),
    Runner(runner::RunnerArgs),
    Ready(ready::ReadyArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(&cli);
    // One crypto provider for all that speaks TLS; a second call would be a fault of this function alone.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is installed already");
    }
    let shutdown = signals::shutdown();
    let done = match cli.mode {
        Mode::Dev(args) => Box::pin(dev::run(args, shutdown)).await,
        Mode::Operator(args) => Box::pin(operator::run(args, shutdown)).await,
        Mode::Gateway(args) => Box::pin(gateway::run(args, shutdown)).await,
        Mode::Runner(args) => Box::pin(runner::run(args, shutdown)).await,
        Mode::Ready(args) => ready::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_logging(cli: &Cli) {
    let default = if matches!(cli.mode, Mode::Dev(_)) { "warn" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
