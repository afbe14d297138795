//! `funcatron`: the one binary. On a cluster it is operator, gateway, runner, bridge or ledger; on a laptop it is `dev`.

mod bridge;
mod dev;
mod gateway;
mod installation;
mod ledger;
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
    Bridge(bridge::BridgeArgs),
    Ledger(ledger::LedgerArgs),
    Ready(ready::ReadyArgs),
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(&cli);
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    match cli.mode {
        // A runner serves one pod's functions, a bridge one App's queues: one thread is enough, and it wakes no other
        // for every call.
        Mode::Runner(_) | Mode::Bridge(_) => threads = tokio::runtime::Builder::new_current_thread(),
        Mode::Gateway(_) => {
            threads.worker_threads(funcatron_gateway::worker_threads());
        }
        _ => {}
    }
    match threads.enable_all().build() {
        Ok(threads) => threads.block_on(run(cli)),
        Err(error) => {
            tracing::error!("start a runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> ExitCode {
    // One crypto provider for all that speaks TLS; a second call would be a fault of this function alone.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is installed already");
    }
    let shutdown = signals::shutdown();
    let at_a_terminal = matches!(cli.mode, Mode::Dev(_));
    let done = match cli.mode {
        Mode::Dev(args) => Box::pin(dev::run(args, shutdown)).await,
        Mode::Operator(args) => Box::pin(operator::run(args, shutdown)).await,
        Mode::Gateway(args) => Box::pin(gateway::run(args, shutdown)).await,
        Mode::Runner(args) => Box::pin(runner::run(args, shutdown)).await,
        Mode::Bridge(args) => Box::pin(bridge::run(args, shutdown)).await,
        Mode::Ledger(args) => Box::pin(ledger::run(args, shutdown)).await,
        Mode::Ready(args) => ready::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if at_a_terminal {
                dev::show_end(&error);
            } else {
                tracing::error!("{error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn start_logging(cli: &Cli) {
    // What runners report, `dev` shows in its own words.
    let default =
        if matches!(cli.mode, Mode::Dev(_)) { "warn,funcatron_runner::session=error" } else { "info" };
    let filter = log_filter(std::env::var(EnvFilter::DEFAULT_ENV).ok().as_deref(), default);
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(is_terminal).with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// What RUST_LOG asks for, or the default. The AMQP client writes whole messages into its warnings, callers' bodies
/// among them, and calls each refusal that we expect and handle an error: it speaks only when asked by name.
fn log_filter(asked: Option<&str>, default: &str) -> EnvFilter {
    let asked =
        asked.filter(|asked| EnvFilter::try_new(asked).is_ok_and(|filter| !filter.to_string().is_empty()));
    match asked {
        Some(asked) if asked.contains("lapin") => EnvFilter::new(asked),
        Some(asked) => EnvFilter::new(format!("{asked},lapin=off")),
        None => EnvFilter::new(format!("{default},lapin=off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_amqp_client_is_silent_unless_asked_by_name() {
        let filter = |asked| log_filter(asked, "info").to_string();
        assert_eq!(filter(None), "lapin=off,info");
        assert_eq!(filter(Some("debug")), "lapin=off,debug");
        assert_eq!(filter(Some("warn,lapin=debug")), "lapin=debug,warn");
        assert_eq!(filter(Some("=no=filter=")), "lapin=off,info");
        assert_eq!(filter(Some("")), "lapin=off,info");
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
