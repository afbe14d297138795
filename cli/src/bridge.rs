//! `funcatron bridge`: from the pod's environment to a running bridge.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use funcatron_bridge::{BridgeConfig, Dial, read_queues};
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::link::Connector;
use funcatron_broker::names::{AppNames, Installation};
use tokio_util::sync::CancellationToken;

use super::runner::READY_FILE;

/// Take messages from queues on other brokers into an App's durable queues (in a bridge pod)
#[derive(Args, Debug)]
pub(crate) struct BridgeArgs {
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
    pod: String,
    /// The platform's RabbitMQ, with the App's own user
    #[arg(long, env = "FUNCATRON_AMQP_URL", hide_env_values = true)]
    amqp_url: String,
    /// What is taken from where, as JSON: [{"trigger", "queue", "prefetch", "configured"}]
    #[arg(long, env = "FUNCATRON_BRIDGE_QUEUES")]
    queues: String,
    /// Where each queue's broker is written as a URL, in a file named like its Trigger
    #[arg(long, default_value = "/run/funcatron/brokers", env = "FUNCATRON_BRIDGE_BROKERS")]
    brokers: PathBuf,
    /// There while this bridge is ready
    #[arg(long, default_value = READY_FILE, env = "FUNCATRON_READY_FILE")]
    ready_file: PathBuf,
    /// Seconds that messages under way may take to end
    #[arg(long, default_value_t = 30, env = "FUNCATRON_DRAIN_S")]
    drain_s: u64,
}

pub(crate) async fn run(args: BridgeArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let ours = AmqpConnector::new(&args.amqp_url, format!("bridge {}/{}", args.namespace, args.pod));
    let theirs = format!("funcatron bridge {}/{}", args.namespace, args.app);
    let dial: Dial = Arc::new(move |url: &str| -> Arc<dyn Connector> {
        Arc::new(AmqpConnector::new(url, theirs.clone()))
    });
    funcatron_bridge::run(config(args)?, Arc::new(ours), dial, shutdown).await?;
    Ok(())
}

fn config(args: BridgeArgs) -> anyhow::Result<BridgeConfig> {
    let installation = Installation::parse(&args.installation)?;
    Ok(BridgeConfig {
        names: AppNames::new(&installation, &args.namespace, &args.app)?,
        namespace: args.namespace,
        app: args.app,
        pod: args.pod,
        queues: read_queues(&args.queues)?,
        broker_dir: args.brokers,
        ready_file: args.ready_file,
        drain: Duration::from_secs(args.drain_s),
    })
}
