//! One message from hand to hand: published here, confirmed, then acknowledged there.
//!
//! Never gives a message back by itself: a queue there that counts deliveries would lose it at its limit. What is not
//! taken stays in hand, within the prefetch, until it is.

use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::link::{Confirm, Delivery, Envelope, Link, LinkError, Target};
use funcatron_broker::names::ExchangeName;
use tracing::debug;

use crate::Outlet;
use crate::board::Board;
use crate::message::onward;
use funcatron_broker::backoff::Backoff;

/// A full queue has room again within a moment of its runners' work, …
const REFUSED_FIRST: Duration = Duration::from_millis(100);
/// … or when its function is mended; then nobody waits longer than this.
const REFUSED_LONGEST: Duration = Duration::from_secs(5);

/// Where one queue's messages go.
pub(crate) struct Forward {
    pub(crate) exchange: ExchangeName,
    pub(crate) outlet: Outlet,
    pub(crate) board: Arc<Board>,
    /// Its place on the board.
    pub(crate) at: usize,
    /// Its name, for logs.
    pub(crate) queue: String,
}

/// What a publish came to.
enum Fate {
    Taken,
    /// Not yet: tried again.
    Refused(&'static str),
    /// Never.
    Unsendable(String),
}

impl Forward {
    /// Comes back once the message is settled there, or the link there is down and gives it to another.
    pub(crate) async fn forward(&self, mut delivery: Delivery) {
        let key = delivery.routing_key.clone();
        let message = onward(delivery.take_envelope());
        let mut backoff = Backoff::new(REFUSED_FIRST, REFUSED_LONGEST);
        loop {
            match self.publish(&key, message.clone()).await {
                Fate::Taken => break,
                Fate::Refused(why) => self.board.outlet_refused(self.at, &self.queue, why),
                Fate::Unsendable(why) => {
                    let words = format!("a message cannot be carried, and is kept back: {why}");
                    self.board.is_stuck(self.at, &self.queue, &words);
                    return std::future::pending().await;
                }
            }
            tokio::time::sleep(backoff.after_failure(rand::random())).await;
        }
        self.board.outlet_took(self.at);
        if let Err(error) = delivery.ack().await {
            debug!(%error, "a message is not acknowledged, and comes again");
        }
    }

    async fn publish(&self, key: &str, message: Envelope) -> Fate {
        let Some(link) = self.link().await else { return Fate::Refused("this bridge stops") };
        let to = Target::exchange(&self.exchange, key);
        match link.publish_confirmed(to, message, true).await {
            Ok(Confirm::Acked) => Fate::Taken,
            Ok(Confirm::Nacked) => Fate::Refused("the Fn's durable queue is full"),
            Ok(Confirm::Returned) | Err(LinkError::Missing { .. }) => {
                Fate::Refused("the Fn's durable queue is not bound yet")
            }
            Err(LinkError::Unsendable(why)) => Fate::Unsendable(why),
            Err(error) => {
                debug!(%error, "not confirmed");
                Fate::Refused("the platform's broker does not confirm")
            }
        }
    }

    /// The present link, waited for; `None` at the bridge's end.
    async fn link(&self) -> Option<Arc<dyn Link>> {
        let mut outlet = self.outlet.clone();
        let link = outlet.wait_for(Option::is_some).await.ok()?;
        link.clone()
    }
}
