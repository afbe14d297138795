//! `funcatron ledger`: from the pod's environment to a running ledger.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::names::Installation;
use funcatron_crds::parse_duration;
use funcatron_ledger::store::DatabaseAddress;
use funcatron_ledger::{
    AllowAll, AllowList, CallbackConfig, CallbackKey, LedgerConfig, ObjectsAddress, ObjectsConfig, Pace,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Three quarters of the volume that the chart gives.
const OBJECTS_BYTES_MAX: u64 = 6 << 30;

/// Keep what became of every call, and answer for it over HTTP (on a cluster)
#[derive(Args, Debug)]
pub(crate) struct LedgerArgs {
    /// First part of every broker name, 1 to 20 of a-z, 0-9 and -; empty: the first digits of kube-system's uid
    #[arg(long, default_value = "", env = "FUNCATRON_INSTALLATION")]
    installation: String,
    /// This pod's name
    #[arg(long, env = "FUNCATRON_POD")]
    pod: String,
    /// RabbitMQ, as amqp://user:password@host:5672/vhost
    #[arg(long, env = "FUNCATRON_AMQP_URL", hide_env_values = true)]
    amqp_url: String,
    /// Where calls are kept: postgres://user:password@host:5432/name, or sqlite:///path/to/file
    #[arg(
        long,
        default_value = "sqlite:///data/ledger.db",
        env = "FUNCATRON_LEDGER_DATABASE",
        hide_env_values = true
    )]
    database: String,
    /// How long calls are kept after their end, where their App does not say
    #[arg(long, default_value = "72h", env = "FUNCATRON_LEDGER_RETENTION", value_parser = retention)]
    retention: Duration,
    /// A file with the key that callbacks are signed with, as whsk_ and 32 bytes in base64; without one, a key that lives
    /// as long as this process
    #[arg(long, env = "FUNCATRON_CALLBACK_KEY_FILE")]
    callback_key_file: Option<PathBuf>,
    /// Where callbacks may go besides the public internet, comma-separated: networks such as 10.1.0.0/16, and hosts such
    /// as hooks.example.com or *.example.com, which may also be asked without TLS
    #[arg(long, default_value = "", env = "FUNCATRON_CALLBACK_ALLOW", value_parser = allow)]
    callback_allow: AllowList,
    /// Where bodies are kept that no message carries: file:///path, or s3://bucket/prefix with AWS_ACCESS_KEY_ID,
    /// AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT and their like in the environment
    #[arg(long, default_value = "file:///var/lib/funcatron/objects", env = "FUNCATRON_OBJECTS")]
    objects: String,
    /// How many bytes of them, all together; one App may fill half of it
    #[arg(long, default_value_t = OBJECTS_BYTES_MAX, env = "FUNCATRON_OBJECTS_BYTES_MAX")]
    objects_bytes_max: u64,
    /// File with the key that gateways and ledger share, at least 32 bytes; without one, no such bodies are kept
    #[arg(long, env = "FUNCATRON_SIGNING_KEY_FILE")]
    signing_key_file: Option<PathBuf>,
    /// Base URL of the gateways' internal Service, through which runners fetch them
    #[arg(long, default_value = "", env = "FUNCATRON_GATEWAY_INTERNAL_URL")]
    gateway_internal_url: String,
    /// Where the API is served, for the cluster's inside only
    #[arg(long, default_value = "0.0.0.0:8080", env = "FUNCATRON_LEDGER_ADDRESS")]
    api: SocketAddr,
    /// Where /livez, /readyz and /metrics are served
    #[arg(long, default_value = "0.0.0.0:9090", env = "FUNCATRON_OPS_ADDRESS")]
    ops: SocketAddr,
}

pub(crate) async fn run(args: LedgerArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let config = LedgerConfig {
        installation: Installation::parse(&id(&args.installation).await?)?,
        api: args.api,
        ops: args.ops,
        database: DatabaseAddress::parse(&args.database).context("FUNCATRON_LEDGER_DATABASE is of no use")?,
        retention: args.retention,
        objects: objects(&args)?,
        access: Arc::new(AllowAll),
        callbacks: CallbackConfig {
            key: Arc::new(key(args.callback_key_file.as_deref())?),
            allow: args.callback_allow,
            pace: Pace::default(),
        },
    };
    let connector = Arc::new(AmqpConnector::new(args.amqp_url, format!("ledger {}", args.pod)));
    funcatron_ledger::serve(config, connector, shutdown).await?;
    Ok(())
}

/// A ledger that is told its installation's id needs no API server.
async fn id(given: &str) -> anyhow::Result<String> {
    if !given.is_empty() {
        return Ok(given.to_owned());
    }
    let client = kube::Client::try_default().await.context("cannot reach the API server")?;
    crate::installation::find(given, &client).await
}

/// Where large bodies are kept; whoever has no key knows no gateway.
fn objects(args: &LedgerArgs) -> anyhow::Result<Option<ObjectsConfig>> {
    let Some(file) = &args.signing_key_file else { return Ok(None) };
    Ok(Some(ObjectsConfig {
        store: ObjectsAddress::parse(&args.objects).context("FUNCATRON_OBJECTS is of no use")?,
        bytes_max: args.objects_bytes_max,
        gateway_base: args.gateway_internal_url.clone(),
        key: crate::gateway::read_signing_key(file)?,
    }))
}

fn key(file: Option<&Path>) -> anyhow::Result<CallbackKey> {
    let Some(file) = file else {
        warn!("callbacks are signed with a key that nobody knows tomorrow: no file of one is named");
        return Ok(CallbackKey::fresh());
    };
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(CallbackKey::parse(&text)?)
}

fn allow(text: &str) -> Result<AllowList, String> {
    AllowList::parse(text.split(',')).map_err(|error| error.to_string())
}

fn retention(text: &str) -> Result<Duration, String> {
    let parsed = parse_duration(text).filter(|length| !length.is_zero());
    parsed.ok_or_else(|| "write it like 30m, 72h or 720h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_a_length_of_time() {
        assert_eq!(retention("72h"), Ok(Duration::from_secs(72 * 60 * 60)));
        for odd in ["", "0s", "3 days", "72"] {
            assert!(retention(odd).is_err(), "{odd}");
        }
    }
}
