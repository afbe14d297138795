//! `funcatron gateway`: from the pod's environment to a running gateway.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use funcatron_broker::amqp::AmqpConnector;
use funcatron_broker::names::Installation;
use funcatron_crds::SigningKey;
use funcatron_gateway::{
    Gateway, GatewayConfig, HostPolicy, KubernetesBundles, Limits, MESSAGE_BODY_BYTES_MAX, TableStore,
    watch_tables,
};
use tokio_util::sync::CancellationToken;

/// A fifth of the volume that the chart gives: files being written come on top.
const CACHE_BYTES_MAX: u64 = 200 << 20;

/// Serve HTTP requests: each becomes a message, and its reply the response (on a cluster)
#[derive(Args, Debug)]
pub(crate) struct GatewayArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Where Routes and HTTP triggers are served
    #[arg(long, default_value = "0.0.0.0:8080", env = "FUNCATRON_PUBLIC_ADDRESS")]
    public: SocketAddr,
    /// Where /invoke and bundles are served, for the cluster's inside only
    #[arg(long, default_value = "0.0.0.0:8081", env = "FUNCATRON_INTERNAL_ADDRESS")]
    internal: SocketAddr,
    /// The address at which runners reach this very gateway, for bodies that go past the broker; the pod's own
    #[arg(long, env = "FUNCATRON_POD_IP")]
    pod_ip: Option<IpAddr>,
    /// Calls in flight at once; beyond it callers are answered 503
    #[arg(long, default_value_t = 10_000, env = "FUNCATRON_IN_FLIGHT_MAX")]
    in_flight_max: usize,
    /// The longest body of a call that nobody waits for which goes in its message, in bytes; a longer one goes into the
    /// ledger's object store
    #[arg(long, default_value_t = MESSAGE_BODY_BYTES_MAX, env = "FUNCATRON_MESSAGE_BODY_BYTES_MAX")]
    message_body_bytes_max: u64,
    /// Folder for bundles that were fetched once
    #[arg(long, default_value = "/var/cache/funcatron", env = "FUNCATRON_BUNDLE_CACHE")]
    bundle_cache: PathBuf,
    /// Seconds to go on accepting after SIGTERM, until the Service's endpoints have followed
    #[arg(long, default_value_t = 5, env = "FUNCATRON_LAME_DUCK_S")]
    lame_duck_s: u64,
}

/// What gateway and operator are both told.
#[derive(Args, Debug)]
pub(crate) struct CommonArgs {
    /// First part of every broker name, 1 to 20 of a-z, 0-9 and -; empty: the first digits of kube-system's uid
    #[arg(long, default_value = "", env = "FUNCATRON_INSTALLATION")]
    pub(crate) installation: String,
    /// The namespace of tables and bundles
    #[arg(long, env = "FUNCATRON_SYSTEM_NAMESPACE")]
    pub(crate) system_namespace: String,
    /// This pod's name
    #[arg(long, env = "FUNCATRON_POD")]
    pub(crate) pod: String,
    /// The hostname of Routes that name none, and of HTTP triggers
    #[arg(long, env = "FUNCATRON_GATEWAY_HOSTNAME")]
    pub(crate) gateway_hostname: String,
    /// Base URL of the gateways' internal Service
    #[arg(long, env = "FUNCATRON_GATEWAY_INTERNAL_URL")]
    pub(crate) gateway_internal_url: String,
    /// File with the key that gateways, operator and ledger share, at least 32 bytes
    #[arg(long, env = "FUNCATRON_SIGNING_KEY_FILE")]
    pub(crate) signing_key_file: PathBuf,
    /// RabbitMQ, as amqp://user:password@host:5672/vhost
    #[arg(long, env = "FUNCATRON_AMQP_URL", hide_env_values = true)]
    pub(crate) amqp_url: String,
    /// The call ledger, as http://host:port: what becomes of calls is told to it and asked of it; empty: there is none
    #[arg(long, default_value = "", env = "FUNCATRON_LEDGER_URL")]
    pub(crate) ledger_url: String,
    /// Where /livez, /readyz and /metrics are served
    #[arg(long, default_value = "0.0.0.0:9090", env = "FUNCATRON_OPS_ADDRESS")]
    pub(crate) ops: SocketAddr,
}

impl CommonArgs {
    /// The ledger, where there is one.
    pub(crate) fn ledger_url(&self) -> Option<String> {
        Some(self.ledger_url.clone()).filter(|url| !url.is_empty())
    }

    pub(crate) fn signing_key(&self) -> anyhow::Result<SigningKey> {
        read_signing_key(&self.signing_key_file)
    }

    pub(crate) async fn client_and_installation(&self) -> anyhow::Result<(kube::Client, Installation)> {
        let client = kube::Client::try_default().await.context("cannot reach the API server")?;
        let id = crate::installation::find(&self.installation, &client).await?;
        Ok((client, Installation::parse(&id)?))
    }
}

/// The key that gateways, operator and ledger share.
pub(crate) fn read_signing_key(file: &Path) -> anyhow::Result<SigningKey> {
    let shown = file.display();
    let key = std::fs::read(file).with_context(|| format!("cannot read {shown}"))?;
    SigningKey::new(&key).with_context(|| format!("{shown} holds no key"))
}

pub(crate) async fn run(args: GatewayArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let common = &args.common;
    let (client, installation) = common.client_and_installation().await?;
    let limits = Limits {
        in_flight_max: args.in_flight_max,
        message_body_bytes_max: args.message_body_bytes_max,
        lame_duck: Duration::from_secs(args.lame_duck_s),
        ..Limits::default()
    };
    // With brackets where the address is of IPv6.
    let direct_at = args.pod_ip.map(|ip| SocketAddr::from((ip, args.internal.port())).to_string());
    let config = GatewayConfig {
        public: args.public,
        internal: args.internal,
        ops: common.ops,
        gateway_hostname: common.gateway_hostname.clone(),
        internal_base: common.gateway_internal_url.clone(),
        direct_at: direct_at.unwrap_or_default(),
        ledger_url: common.ledger_url(),
        signing_key: common.signing_key()?,
        serve_by_host: HostPolicy::Strict,
        limits,
    };
    let tables = Arc::new(TableStore::new(&installation, config.own_host()));
    let bound = Gateway::bind(config).await?;
    let connector = Arc::new(AmqpConnector::new(common.amqp_url.clone(), format!("gateway {}", common.pod)));
    let cache = &args.bundle_cache;
    let bundles = KubernetesBundles::open(client.clone(), &common.system_namespace, cache, CACHE_BYTES_MAX)
        .with_context(|| format!("cannot keep bundles in {}", cache.display()))?;
    let watched = {
        let (tables, shutdown) = (Arc::clone(&tables), shutdown.clone());
        let namespace = common.system_namespace.clone();
        tokio::spawn(async move { watch_tables(client, &namespace, tables, shutdown).await })
    };
    bound.serve(connector, tables, Arc::new(bundles), shutdown).await;
    watched.await.context("the watch of tables failed")?;
    Ok(())
}
