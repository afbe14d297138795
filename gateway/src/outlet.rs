//! The gateway's second link: what is published with confirms goes over it, since one slow quorum queue holds up
//! everything on its connection. Made anew for ever; never takes a message in.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use funcatron_broker::link::{Connector, Link};
use funcatron_broker::names::Installation;
use funcatron_broker::{supervise, topology};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// A link that is up.
struct Held(Arc<dyn Link>);

/// The link of the moment.
pub(crate) struct Outlet {
    installation: Installation,
    current: ArcSwapOption<Held>,
}

impl Outlet {
    pub(crate) fn new(installation: Installation) -> Self {
        Self { installation, current: ArcSwapOption::empty() }
    }

    /// The link of the moment.
    pub(crate) fn link(&self) -> Option<Arc<dyn Link>> {
        self.current.load().as_ref().map(|held| Arc::clone(&held.0))
    }

    /// Keeps a link up until `stop`.
    pub(crate) async fn run(self: Arc<Self>, connector: Arc<dyn Connector>, stop: CancellationToken) {
        supervise(&*connector, stop.clone(), |link| Arc::clone(&self).session(link, stop.clone())).await;
    }

    async fn session(self: Arc<Self>, link: Arc<dyn Link>, stop: CancellationToken) {
        // Events of calls are kept from the first on, whenever a ledger comes to read them.
        if let Err(error) = link.declare(&topology::ledger(&self.installation)).await {
            warn!(%error, "could not declare the ledger's queue");
            return;
        }
        let _up = Up::begin(&self, Arc::clone(&link));
        tokio::select! {
            reason = link.closed() => info!(reason, "link for confirmed publishing lost"),
            () = stop.cancelled() => {}
        }
    }
}

/// A session's end, however it ends.
struct Up<'a>(&'a Outlet);

impl<'a> Up<'a> {
    fn begin(outlet: &'a Outlet, link: Arc<dyn Link>) -> Self {
        outlet.current.store(Some(Arc::new(Held(link))));
        Self(outlet)
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.current.store(None);
    }
}
