//! A ledger's life: listens, brings its schema up to date, takes events, and stops without losing one.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use funcatron_broker::link::Connector;
use funcatron_broker::supervise;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::callback::{Outbound, PosterError};
use crate::config::LedgerConfig;
use crate::consumer::Backoff;
use crate::core::Core;
use crate::objects::{Objects, ObjectsAddressError};
use crate::store::Store;
use crate::{api as routes, callback, consumer, objects, ops, retention};

/// Requests under way and the last batch end within this; Kubernetes gives thirty seconds.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a ledger does not serve.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A port is in use, or not this user's to bind.
    #[error("could not listen on {address} for {purpose}")]
    Listen {
        /// What the listener is for.
        purpose: &'static str,
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Callbacks cannot be sent.
    #[error("could not get ready for callbacks")]
    Callbacks(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Bodies cannot be kept.
    #[error("could not open the object store")]
    Objects(#[source] ObjectsAddressError),
}

/// A ledger that listens and does not serve yet.
pub struct Ledger {
    core: Core,
    api: Bound,
    ops: Bound,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { core: _, api, ops } = self;
        f.debug_struct("Ledger").field("api", api).field("ops", ops).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    async fn bind(purpose: &'static str, address: SocketAddr) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::Listen { purpose, address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    fn serve(self, router: Router, stop: CancellationToken, tasks: &TaskTracker) {
        let serving = axum::serve(self.listener, router).with_graceful_shutdown(stop.cancelled_owned());
        tasks.spawn(async move {
            if let Err(error) = serving.await {
                warn!(%error, "a listener ended");
            }
        });
    }
}

impl Ledger {
    /// Listens on both addresses; a port 0 is the kernel's choice.
    pub async fn bind(config: LedgerConfig) -> Result<Self, LedgerError> {
        let LedgerConfig { installation, database, retention, access, callbacks, objects, api, ops } = config;
        let api = Bound::bind("the API", api).await?;
        let ops = Bound::bind("probes and metrics", ops).await?;
        let retention_ms = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        let outbound = Outbound::new(callbacks);
        let outbound = outbound.map_err(|error: PosterError| LedgerError::Callbacks(error.into()))?;
        let store = Store::open(&database);
        let objects = objects.map(|objects| Objects::open(objects, store.clone()));
        let objects = objects.transpose().map_err(LedgerError::Objects)?;
        let core = Core::new(installation, store, access, retention_ms, outbound, objects);
        Ok(Self { core, api, ops })
    }

    /// Says where runners reach the gateways, to whoever learnt it after the ledger had bound.
    pub fn set_gateway_base(&mut self, base: &str) {
        if let Some(objects) = &mut self.core.objects {
            objects.set_gateway_base(base);
        }
    }

    /// Where the API is served.
    pub fn api_addr(&self) -> SocketAddr {
        self.api.address
    }

    /// Where probes and metrics are served.
    pub fn ops_addr(&self) -> SocketAddr {
        self.ops.address
    }

    /// Serves until `shutdown`: then it takes no more events, finishes the batch and the requests under way, and
    /// closes the database. What was not committed is in its queue.
    pub async fn serve(self, connector: Arc<dyn Connector>, shutdown: CancellationToken) {
        let Self { core, api, ops } = self;
        let core = Arc::new(core);
        let (tasks, probes) = (core.tasks.clone(), CancellationToken::new());
        let router = routes::router(Arc::clone(&core)).merge(objects::router(Arc::clone(&core)));
        api.serve(router, shutdown.clone(), &tasks);
        ops.serve(ops::router(Arc::clone(&core), shutdown.clone()), probes.clone(), &tasks);
        tasks.spawn(work(Arc::clone(&core), connector, shutdown.clone()));
        shutdown.cancelled().await;
        probes.cancel();
        tasks.close();
        if timeout(CLOSE_TIMEOUT, tasks.wait()).await.is_err() {
            warn!("requests did not end in time");
        }
        if timeout(CLOSE_TIMEOUT, core.store.close()).await.is_err() {
            warn!("the database did not close in time");
        }
    }
}

/// Everything that needs the schema.
async fn work(core: Arc<Core>, connector: Arc<dyn Connector>, stop: CancellationToken) {
    if stop.run_until_cancelled(migrate(&core)).await.is_none() {
        return;
    }
    let sweeps = tokio::spawn(retention::run(Arc::clone(&core), stop.clone()));
    let callbacks = tokio::spawn(callback::run(Arc::clone(&core), stop.clone()));
    let collecting = tokio::spawn(objects::collect(Arc::clone(&core), stop.clone()));
    supervise(&*connector, stop.clone(), |link| consumer::session(Arc::clone(&core), link, stop.clone()))
        .await;
    if sweeps.await.is_err() {
        warn!("the sweep ended");
    }
    if callbacks.await.is_err() {
        warn!("nobody tells the ends of calls");
    }
    if collecting.await.is_err() {
        warn!("nobody takes bodies away");
    }
}

async fn migrate(core: &Core) {
    let mut backoff = Backoff::default();
    while let Err(failure) = core.store.migrate().await {
        core.metrics.database_up.set(0);
        backoff.wait(&failure).await;
    }
    core.metrics.database_up.set(1);
    core.note_database();
    info!("the database is ready");
}

/// Binds and serves in one step, for those who know their ports.
pub async fn serve(
    config: LedgerConfig,
    connector: Arc<dyn Connector>,
    shutdown: CancellationToken,
) -> Result<(), LedgerError> {
    let ledger = Ledger::bind(config).await?;
    info!(api = %ledger.api_addr(), ops = %ledger.ops_addr(), "ledger up");
    ledger.serve(connector, shutdown).await;
    Ok(())
}
