//! A gateway's life: binds, serves, drains. Owns its tasks and ends them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::link::{Connector, Target};
use funcatron_broker::message::{CallId, Cancel};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::bundles::BundleSource;
use crate::config::{GatewayConfig, Limits};
use crate::core::{Cancelled, Core, Outboxes};
use crate::doors::Doorkeeper;
use crate::listen::{self, Handler, Lifetime};
use crate::metrics::{Door, registry};
use crate::ops::Ops;
use crate::recorder;
use crate::tables::TableStore;

/// Whatever is left of the broker link after the drain ends within this time.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a drain looks whether all calls have been answered: far below what a client notices.
const LOOK: Duration = Duration::from_millis(10);

/// Why a gateway does not serve.
#[derive(Debug, Error)]
pub enum GatewayError {
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
    /// The ledger cannot be asked there.
    #[error("the ledger's URL is not of the form http://host:port")]
    LedgerUrl,
}

/// A gateway that listens and does not serve yet.
#[derive(Debug)]
pub struct Gateway {
    config: GatewayConfig,
    public: Bound,
    internal: Bound,
    ops: Bound,
}

#[derive(Debug)]
struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    async fn bind(purpose: &'static str, address: SocketAddr) -> Result<Self, GatewayError> {
        let failed = |source| GatewayError::Listen { purpose, address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }
}

impl Gateway {
    /// Listens on all three addresses; a port 0 is the kernel's choice. An empty `internal_base` or `direct_at` becomes
    /// the address that the internal listener got.
    pub async fn bind(mut config: GatewayConfig) -> Result<Self, GatewayError> {
        if config.ledger_url.is_some() && config.ledger().is_none() {
            return Err(GatewayError::LedgerUrl);
        }
        let public = Bound::bind("functions", config.public).await?;
        let internal = Bound::bind("the cluster's inside", config.internal).await?;
        let ops = Bound::bind("probes and metrics", config.ops).await?;
        if config.internal_base.is_empty() {
            config.internal_base = format!("http://{}", internal.address);
        }
        if config.direct_at.is_empty() {
            config.direct_at = internal.address.to_string();
        }
        Ok(Self { config, public, internal, ops })
    }

    /// Where Routes and triggers are served.
    pub fn public_addr(&self) -> SocketAddr {
        self.public.address
    }

    /// Where Fns by name and bundles are served.
    pub fn internal_addr(&self) -> SocketAddr {
        self.internal.address
    }

    /// Where probes and metrics are served.
    pub fn ops_addr(&self) -> SocketAddr {
        self.ops.address
    }

    /// The base URL at which runners fetch bundles.
    pub fn internal_base(&self) -> &str {
        &self.config.internal_base
    }

    /// Serves until `shutdown`, then drains: not ready at once, accepting for as long as the lame duck lasts, then
    /// finishing what is in flight within the drain timeout. The link to the broker goes last.
    pub async fn serve(
        self,
        connector: Arc<dyn Connector>,
        tables: Arc<TableStore>,
        bundles: Arc<dyn BundleSource>,
        shutdown: CancellationToken,
    ) {
        let Self { config, public, internal, ops } = self;
        let limits = Arc::new(config.limits.clone());
        let (core, Outboxes { cancelled, recorded }) = Core::new(Arc::new(config), tables, bundles);
        let (link_stop, link_tasks) = (CancellationToken::new(), TaskTracker::new());
        link_tasks.spawn(Arc::clone(&core.uplink).run(connector, link_stop.clone()));
        link_tasks.spawn(recorder::run(Arc::clone(&core), recorded, link_stop.clone()));
        link_tasks.spawn(publish_cancels(Arc::clone(&core), cancelled, link_stop.clone()));

        let (doors, inner_doors, probes) = (lifetime(), lifetime(), lifetime());
        let registry = Arc::new(registry(&core));
        let doorkeeper = |door| Doorkeeper { core: Arc::clone(&core), door };
        let ops_handler = Ops { core: Arc::clone(&core), registry, leaving: shutdown.clone() };
        open(public, &limits, doorkeeper(Door::Public), &doors);
        open(internal, &limits, doorkeeper(Door::Internal), &inner_doors);
        open(ops, &limits, ops_handler, &probes);

        shutdown.cancelled().await;
        tokio::time::sleep(limits.lame_duck).await;
        info!(in_flight = core.pending.len(), "draining");
        let deadline = Instant::now() + limits.drain_timeout;
        doors.drain.cancel();
        // A call that was accepted may still be answered over a stream, which its runner has yet to open.
        let _ = timeout_at(deadline, until_answered(&core)).await;
        close(&doors, deadline).await;
        close(&inner_doors, deadline).await;
        link_stop.cancel();
        link_tasks.close();
        if timeout(CLOSE_TIMEOUT, link_tasks.wait()).await.is_err() {
            warn!("the broker link did not close in time");
        }
        probes.drain.cancel();
        probes.abort.cancel();
    }
}

/// Binds and serves in one step, for those who know their ports.
pub async fn serve(
    config: GatewayConfig,
    connector: Arc<dyn Connector>,
    tables: Arc<TableStore>,
    bundles: Arc<dyn BundleSource>,
    shutdown: CancellationToken,
) -> Result<(), GatewayError> {
    let gateway = Gateway::bind(config).await?;
    info!(public = %gateway.public_addr(), internal = %gateway.internal_addr(), ops = %gateway.ops_addr(), "gateway up");
    gateway.serve(connector, tables, bundles, shutdown).await;
    Ok(())
}

fn lifetime() -> Lifetime {
    Lifetime {
        drain: CancellationToken::new(),
        abort: CancellationToken::new(),
        connections: TaskTracker::new(),
    }
}

fn open<H: Handler>(bound: Bound, limits: &Arc<Limits>, handler: H, lifetime: &Lifetime) {
    let accept = listen::accept(bound.listener, Arc::clone(limits), handler, lifetime.clone());
    lifetime.connections.spawn(accept);
}

/// Comes back once no call waits for its answer to begin.
async fn until_answered(core: &Core) {
    let mut looks = tokio::time::interval(LOOK);
    while core.pending.len() > 0 {
        looks.tick().await;
    }
}

async fn close(doors: &Lifetime, deadline: Instant) {
    doors.drain.cancel();
    doors.connections.close();
    if timeout_at(deadline, doors.connections.wait()).await.is_err() {
        warn!(connections = doors.connections.len(), "calls did not finish in the drain time");
        doors.abort.cancel();
        doors.connections.wait().await;
    }
}

/// Tells runners of clients that left, apart from the requests that they left behind.
async fn publish_cancels(core: Arc<Core>, mut cancelled: mpsc::Receiver<Cancelled>, stop: CancellationToken) {
    while let Some(Some(call)) = stop.run_until_cancelled(cancelled.recv()).await {
        publish_cancel(&core, &call).await;
    }
    while let Ok(call) = cancelled.try_recv() {
        publish_cancel(&core, &call).await;
    }
}

async fn publish_cancel(core: &Core, call: &Cancelled) {
    let Cancelled { id, app } = call;
    // An App that is gone has no exchange, and a publish to none would close the channel.
    let known = core.tables.app(&app.namespace, &app.app).is_some();
    let Some(session) = core.uplink.current().filter(|_| known) else {
        core.metrics.cancels_dropped.inc();
        return;
    };
    let envelope = Cancel { id: CallId::from_uuid(*id) }.into_envelope();
    match session.link.publish(Target::exchange(&app.cancel, ""), envelope, false).await {
        Ok(()) => {
            core.metrics.cancels.inc();
        }
        Err(error) => {
            debug!(%error, call = %id, "could not cancel a call");
            core.metrics.cancels_dropped.inc();
        }
    }
}
