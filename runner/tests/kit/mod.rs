//! What the runner's tests stand on: a gateway's side of the broker, functions, polled waits.

// Each test binary uses its own part of this.
#![allow(dead_code, unreachable_pub)]

pub mod function;
pub mod gateway;
pub mod host;
pub mod hosting;
pub mod lines;
pub mod server;
pub mod streams;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use funcatron_broker::link::{ConnectError, Connector, Link};
use funcatron_broker::local::LocalBroker;
use parking_lot::Mutex;
use tokio::time::Instant;

pub const INSTALLATION: &str = "test";
pub const NAMESPACE: &str = "team";
pub const APP: &str = "shop";
pub const FN: &str = "hello";
pub const REVISION: &str = "hello-0123abcd";

/// The longest that any test waits for what must come: machines under load are slow.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(2);

/// Waits until `condition` holds.
pub async fn eventually<F, Fut>(what: &str, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Waits for something that must come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// A connector whose links can be cut.
#[derive(Clone)]
pub struct Cable {
    broker: LocalBroker,
    links: Arc<Mutex<Vec<Arc<dyn Link>>>>,
}

impl Cable {
    pub fn new(broker: &LocalBroker) -> Self {
        Self { broker: broker.clone(), links: Arc::default() }
    }

    /// Cuts the present link, as a broken network does.
    pub async fn cut(&self) {
        let links: Vec<_> = self.links.lock().drain(..).collect();
        assert!(!links.is_empty(), "there is no link to cut");
        for link in links {
            link.close().await;
        }
    }

    pub fn has_link(&self) -> bool {
        !self.links.lock().is_empty()
    }
}

#[async_trait]
impl Connector for Cable {
    async fn connect(&self) -> Result<Arc<dyn Link>, ConnectError> {
        let link = self.broker.connect().await?;
        self.links.lock().push(Arc::clone(&link));
        Ok(link)
    }
}
