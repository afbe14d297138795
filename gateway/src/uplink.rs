//! The gateway's link to the broker: one at a time, made anew for ever, each with a reply queue of its own.
//! Hands replies and returned messages to the pending calls; never publishes a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use funcatron_broker::link::{Connector, ConsumeOptions, Consumer, Event, Link, Returned};
use funcatron_broker::message::Reply;
use funcatron_broker::{names::Installation, names::QueueName, supervise, topology};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::pending::Pending;

/// Between looks at the reply exchange while calls are pending: the broker answers one in 0.4 ms.
const REPLIES_LOOK: Duration = Duration::from_millis(500);

/// A link that is up, and where answers come back over it.
pub(crate) struct Session {
    pub(crate) link: Arc<dyn Link>,
    pub(crate) reply_to: String,
    /// Counts links; no two have the same.
    pub(crate) epoch: u64,
}

/// The link of the moment, and who waits for answers over it.
pub(crate) struct Uplink {
    installation: Installation,
    /// Whether a ledger reads events of calls.
    has_ledger: bool,
    current: ArcSwapOption<Session>,
    /// The epoch of the link of the moment, 0 while there is none.
    up: watch::Sender<u64>,
    epochs: AtomicU64,
    pending: Arc<Pending>,
    metrics: Arc<Metrics>,
}

impl Uplink {
    pub(crate) fn new(
        installation: Installation,
        has_ledger: bool,
        pending: Arc<Pending>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            installation,
            has_ledger,
            current: ArcSwapOption::empty(),
            up: watch::Sender::new(0),
            epochs: AtomicU64::new(0),
            pending,
            metrics,
        }
    }

    /// The link of the moment.
    pub(crate) fn current(&self) -> Option<Arc<Session>> {
        self.current.load_full()
    }

    /// Whether this is the link of the moment.
    pub(crate) fn is_current(&self, epoch: u64) -> bool {
        self.current.load().as_ref().is_some_and(|session| session.epoch == epoch)
    }

    /// Whether there ever was a link.
    pub(crate) fn was_seen(&self) -> bool {
        self.epochs.load(Ordering::Relaxed) > 0
    }

    /// Waits for a link.
    pub(crate) async fn wait(&self) -> Arc<Session> {
        let mut up = self.up.subscribe();
        loop {
            if let Some(session) = self.current() {
                return session;
            }
            // The sender lives in `self`: it cannot be gone.
            let _ = up.changed().await;
        }
    }

    /// Keeps a link up until `stop`.
    pub(crate) async fn run(self: Arc<Self>, connector: Arc<dyn Connector>, stop: CancellationToken) {
        supervise(&*connector, stop.clone(), |link| Arc::clone(&self).session(link, stop.clone())).await;
    }

    async fn session(self: Arc<Self>, link: Arc<dyn Link>, stop: CancellationToken) {
        let (consumer, queue) = match self.open(&*link).await {
            Ok(opened) => opened,
            Err(error) => {
                warn!(error = &*error, "could not open the reply queue");
                return;
            }
        };
        self.open_ledger(&*link).await;
        let returns = link.take_returns();
        let epoch = self.epochs.fetch_add(1, Ordering::Relaxed) + 1;
        let up = Up { uplink: &self, epoch };
        up.begin(Session { link: Arc::clone(&link), reply_to: queue.as_str().to_owned(), epoch });
        tokio::select! {
            () = self.listen(consumer, returns, &stop) => {}
            () = self.reply_exchange_gone(&*link) => warn!("reply exchange is gone, beginning again"),
        }
    }

    async fn open(
        &self,
        link: &dyn Link,
    ) -> Result<(Consumer, QueueName), Box<dyn std::error::Error + Send + Sync>> {
        let suffix = format!("{:016x}", rand::random::<u64>());
        let (queue, items) = topology::gateway(&self.installation, &suffix)?;
        // Where the reply exchange was deleted, what else was bound to it has to be so again.
        link.declare(&[topology::installation(&self.installation), items].concat()).await?;
        // An answer that is lost with its link is lost with its queue as well: acknowledging it would buy nothing.
        let options = ConsumeOptions { prefetch: 0, exclusive: true, no_ack: true };
        Ok((link.consume(&queue, options).await?, queue))
    }

    /// Events of calls are kept from the first on, whenever a ledger comes to read them; without one they must not pile
    /// up, and without its queue calls run all the same.
    async fn open_ledger(&self, link: &dyn Link) {
        if self.has_ledger
            && let Err(error) = link.declare(&topology::ledger(&self.installation)).await
        {
            warn!(%error, "could not declare the ledger's queue");
        }
    }

    async fn listen(
        &self,
        mut replies: Consumer,
        mut returns: Option<mpsc::Receiver<Returned>>,
        stop: &CancellationToken,
    ) {
        loop {
            tokio::select! {
                event = replies.next() => match event {
                    Some(Event::Delivery(delivery)) => {
                        for reply in Reply::read_all(delivery.envelope) {
                            self.metrics.reply(self.pending.settle(reply));
                        }
                    }
                    Some(Event::CancelledByServer) | None => {
                        warn!(failure = ?replies.failure(), "reply queue lost");
                        return;
                    }
                },
                Some(returned) = next(&mut returns) => {
                    self.metrics.returned.inc();
                    self.pending.returned(&returned.envelope);
                }
                () = stop.cancelled() => return,
            }
        }
    }

    /// Comes back once the exchange that replies come through was deleted: its replies are lost, and neither those who
    /// send them nor their queue's consumer are told.
    async fn reply_exchange_gone(&self, link: &dyn Link) {
        let exchange = self.installation.reply_exchange();
        loop {
            tokio::time::sleep(REPLIES_LOOK).await;
            // What cannot be asked is no answer: a link that is down says so elsewhere.
            if self.pending.len() > 0 && matches!(link.has_exchange(&exchange).await, Ok(false)) {
                return;
            }
        }
    }
}

/// Without a receiver nothing is ever returned.
async fn next(returns: &mut Option<mpsc::Receiver<Returned>>) -> Option<Returned> {
    match returns {
        Some(returns) => returns.recv().await,
        None => std::future::pending().await,
    }
}

/// A session's end, however it ends: nothing is published over it any more, and its calls are told.
struct Up<'a> {
    uplink: &'a Uplink,
    epoch: u64,
}

impl Up<'_> {
    fn begin(&self, session: Session) {
        info!(queue = session.reply_to, "taking replies");
        self.uplink.current.store(Some(Arc::new(session)));
        self.uplink.up.send_replace(self.epoch);
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        // First nobody may start with it, then those that did are told: none falls between.
        self.uplink.current.store(None);
        self.uplink.up.send_replace(0);
        let lost = self.uplink.pending.link_lost(self.epoch);
        if lost > 0 {
            warn!(calls = lost, "broker link lost with calls pending");
        }
    }
}
