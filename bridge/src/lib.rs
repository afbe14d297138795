//! The bridge: takes messages from queues on brokers of the user's own, and puts each into the durable queue of a Fn.
//!
//! A message is acknowledged there only once the platform's broker has confirmed it here, so that it may come twice and
//! never not at all. Owns no message and no state beyond its connections; never talks to Kubernetes, and never shows a
//! broker's address, which is a Secret's value.

mod board;
mod config;
mod forward;
mod message;
mod ready;
mod report;
mod source;

use std::sync::Arc;

use funcatron_broker::link::{Connector, Link};
use funcatron_broker::names::NameError;
use funcatron_broker::supervise;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use crate::config::{BridgeConfig, ReadQueuesError, read_queues};

use crate::board::Board;
use crate::ready::Ready;
use crate::report::Reporter;
use crate::source::Source;

/// Makes a connector of a broker's address. One that cannot be read fails when it connects.
pub type Dial = Arc<dyn Fn(&str) -> Arc<dyn Connector> + Send + Sync>;

/// The platform's broker, as those see it who publish to it: a link while there is one.
pub(crate) type Outlet = watch::Receiver<Option<Arc<dyn Link>>>;

/// Why a bridge cannot run.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// A name does not fit the broker.
    #[error("a queue or Trigger has a name that no broker takes")]
    Name(#[from] NameError),
}

/// Bridges all queues until `shutdown`; then what is under way may end, and the rest goes back to its queues.
pub async fn run(
    config: BridgeConfig,
    ours: Arc<dyn Connector>,
    dial: Dial,
    shutdown: CancellationToken,
) -> Result<(), BridgeError> {
    let (links, outlet) = watch::channel(None);
    let board = Arc::new(Board::new(config.queues.len()));
    let mut sources = JoinSet::new();
    for (at, queue) in config.queues.iter().enumerate() {
        let source = Source::new(&config, at, queue, Arc::clone(&dial), outlet.clone(), Arc::clone(&board))?;
        sources.spawn(source.run(shutdown.clone()));
    }
    info!(queues = config.queues.len(), "bridge started");
    let over = CancellationToken::new();
    let reporter = Arc::new(Reporter::new(&config, Arc::clone(&board)));
    let (links, ready_file) = (Arc::new(links), config.ready_file);
    let ends = over.clone();
    let outlet = supervise(ours.as_ref(), over.clone(), move |link| {
        let reporter = Arc::clone(&reporter);
        let held = Held::new(Arc::clone(&links), Arc::clone(&link), Ready::new(&ready_file));
        let ends = ends.clone();
        async move {
            let _held = held;
            ends.run_until_cancelled(reporter.run(link.as_ref())).await;
        }
    });
    let drained = async {
        // What sources still hold needs the link: it goes after them.
        while sources.join_next().await.is_some() {}
        shutdown.cancelled().await;
        over.cancel();
    };
    tokio::join!(outlet, drained);
    info!("bridge stopped");
    Ok(())
}

/// Offers a link for as long as its session lasts, however that ends.
struct Held {
    links: Arc<watch::Sender<Option<Arc<dyn Link>>>>,
    _ready: Ready,
}

impl Held {
    fn new(links: Arc<watch::Sender<Option<Arc<dyn Link>>>>, link: Arc<dyn Link>, ready: Ready) -> Self {
        links.send_replace(Some(link));
        Self { links, _ready: ready }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.links.send_replace(None);
    }
}
