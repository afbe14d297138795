//! The operator's life: its own port, the Lease, and one session for each term as leader.

use std::sync::Arc;

use funcatron_broker::link::Connector;
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::config::OperatorConfig;
use crate::context::{Caches, Context};
use crate::lease::Election;
use crate::ledger::Ledger;
use crate::management::Management;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::ops::{self, Phase, Progress};
use crate::policies::Keeper;
use crate::queue::WorkQueue;
use crate::session;

/// Why the operator cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Its own port is taken, or failed.
    #[error("cannot serve {address}")]
    Ops {
        /// The port's address.
        address: std::net::SocketAddr,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// The management URL makes no sense.
    #[error("cannot use the broker's management API: {0}")]
    Management(String),
    /// The ledger's URL makes no sense.
    #[error("cannot use the call ledger: {0}")]
    Ledger(String),
}

/// Leads when the Lease allows, reconciles while it leads, and returns after `shutdown`. `client` reaches the API
/// server, `connector` the broker as a user that may do anything under the installation's prefix.
///
/// # Errors
/// Only what no retry mends: a port that is taken, a URL that is none.
pub async fn run(
    config: OperatorConfig,
    client: Client,
    connector: Arc<dyn Connector>,
    shutdown: CancellationToken,
) -> Result<(), OperatorError> {
    // One provider of cryptography for the process; whoever came first is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    management(&config)?;
    ledger(&config)?;
    let (progress, metrics, address) = (Progress::new(), Metrics::default(), config.ops);
    let port = ops::serve(address, progress.clone(), metrics.clone(), shutdown.clone());
    let led = lead(config, client, connector, progress, metrics, shutdown.clone());
    tokio::pin!(port, led);
    let failed = |source| OperatorError::Ops { address, source };
    tokio::select! {
        served = &mut port => {
            // Without its port the kubelet knows nothing of it: better to end and be started again.
            shutdown.cancel();
            led.await?;
            served.map_err(failed)
        }
        ended = &mut led => {
            ended?;
            port.await.map_err(failed)
        }
    }
}

fn ledger(config: &OperatorConfig) -> Result<Option<Ledger>, OperatorError> {
    let ledger = config.ledger_url.as_deref().map(Ledger::new).transpose();
    ledger.map_err(|error| OperatorError::Ledger(error.to_string()))
}

fn management(config: &OperatorConfig) -> Result<Management, OperatorError> {
    Management::new(&config.management_url, config.runner_broker.vhost())
        .map_err(|error| OperatorError::Management(error.to_string()))
}

/// Term after term.
async fn lead(
    config: OperatorConfig,
    client: Client,
    connector: Arc<dyn Connector>,
    progress: Progress,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), OperatorError> {
    let OperatorConfig { system_namespace, lease_name, identity, .. } = &config;
    let mut election = Election::new(client.clone(), system_namespace, lease_name, identity);
    while election.win(&shutdown, &progress).await {
        metrics.leader.set(1);
        let ctx = Arc::new(context(&config, client.clone(), metrics.clone())?);
        let term = shutdown.child_token();
        let session = session::run(ctx, Arc::clone(&connector), progress.clone(), term.clone());
        let holding = async {
            election.hold(&shutdown).await;
            // What is lost or given back must not be acted upon any more.
            term.cancel();
        };
        futures::future::join(session, holding).await;
        metrics.leader.set(0);
        progress.enter(Phase::Standby);
        election.release().await;
    }
    Ok(())
}

/// Nothing of one term is known to the next: another may have led between.
fn context(config: &OperatorConfig, client: Client, metrics: Metrics) -> Result<Context, OperatorError> {
    let reporter =
        Reporter { controller: "funcatron-operator".to_owned(), instance: Some(config.identity.clone()) };
    Ok(Context {
        recorder: Recorder::new(client.clone(), reporter),
        management: management(config)?,
        policies: Keeper::default(),
        ledger: ledger(config)?,
        config: config.clone(),
        client,
        caches: Caches::default(),
        queue: WorkQueue::default(),
        memory: Memory::default(),
        broker: Broker::default(),
        metrics,
    })
}
