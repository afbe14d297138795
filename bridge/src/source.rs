//! One queue on a broker of the user's own: connected to, consumed from, connected to again.
//!
//! Never says more of a broker's address than which of its parts fails: all of it is a Secret's value.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::link::{ConnectError, ConsumeOptions, Consumer, Event, Link, LinkError};
use funcatron_broker::names::{NameError, QueueName};
use funcatron_crds::BridgedQueue;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::forward::Forward;
use crate::{BridgeConfig, Dial, Outlet};
use funcatron_broker::backoff::Backoff;

/// A broker that restarts is found at once, …
const AGAIN_FIRST: Duration = Duration::from_millis(200);
/// … and a wrong password is no flood of logins.
const AGAIN_LONGEST: Duration = Duration::from_secs(30);
/// An address is a line; more is another file.
const ADDRESS_BYTES_MAX: usize = 4096;

/// Why no messages come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trouble {
    NoAddress,
    BadAddress,
    Login,
    Unreachable,
    Silent,
    NoQueue,
    NotAllowed,
    NotAlone,
    Deleted,
    Lost,
    Refused,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAddress => "the Secret, or its key, is not there",
            Self::BadAddress => "the Secret's value is no URL like amqps://user:password@host:5671/vhost",
            Self::Login => "the broker refuses the user and password of the Secret",
            Self::Unreachable => {
                "the broker cannot be reached, has no such virtual host for this user, or its certificate is not trusted"
            }
            Self::Silent => "the broker does not answer",
            Self::NoQueue => "the queue is not there",
            Self::NotAllowed => "the user of the Secret may not read the queue",
            Self::NotAlone => "another consumer has the queue for itself",
            Self::Deleted => "the queue was deleted",
            Self::Lost => "the connection to the broker was lost",
            Self::Refused => "the broker refuses a consumer on the queue",
        })
    }
}

impl From<&ConnectError> for Trouble {
    fn from(error: &ConnectError) -> Self {
        match error {
            ConnectError::Address(_) => Self::BadAddress,
            ConnectError::Login(_) => Self::Login,
            ConnectError::Unreachable(_) => Self::Unreachable,
            ConnectError::TimedOut(_) => Self::Silent,
        }
    }
}

impl From<&LinkError> for Trouble {
    fn from(error: &LinkError) -> Self {
        match error {
            LinkError::Missing { .. } => Self::NoQueue,
            LinkError::Refused { .. } => Self::NotAllowed,
            LinkError::Locked { .. } => Self::NotAlone,
            LinkError::Closed(_) => Self::Lost,
            LinkError::TimedOut { .. } => Self::Silent,
            LinkError::Mismatch { .. } | LinkError::Unsendable(_) | LinkError::Channel { .. } => {
                Self::Refused
            }
        }
    }
}

/// One queue, and where its messages go.
pub(crate) struct Source {
    queue: QueueName,
    prefetch: u16,
    address: PathBuf,
    dial: Dial,
    forward: Forward,
    drain: Duration,
}

impl Source {
    pub(crate) fn new(
        config: &BridgeConfig,
        at: usize,
        queue: &BridgedQueue,
        dial: Dial,
        outlet: Outlet,
        board: Arc<Board>,
    ) -> Result<Self, NameError> {
        let BridgedQueue { trigger, queue, prefetch, configured: _ } = queue;
        let exchange = config.names.bridge_exchange(trigger)?;
        let forward = Forward { exchange, outlet, board, at, queue: queue.clone() };
        Ok(Self {
            queue: QueueName::parse(queue)?,
            prefetch: *prefetch,
            address: config.broker_dir.join(trigger),
            dial,
            forward,
            drain: config.drain,
        })
    }

    /// Takes messages until `shutdown`, over one connection after another.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(AGAIN_FIRST, AGAIN_LONGEST);
        while !shutdown.is_cancelled() {
            let Some(connected) = shutdown.run_until_cancelled(self.connect()).await else { return };
            let trouble = match connected {
                Ok((link, consumer)) => {
                    backoff.succeeded();
                    let taken = self.take(consumer, &shutdown).await;
                    // What is not settled goes back to the queue, for whoever comes next.
                    link.close().await;
                    taken.err()
                }
                Err(trouble) => Some(trouble),
            };
            if let Some(trouble) = trouble {
                self.tell(&trouble);
                let wait = backoff.after_failure(rand::random());
                shutdown.run_until_cancelled(tokio::time::sleep(wait)).await;
            }
        }
    }

    fn tell(&self, trouble: &Trouble) {
        let Forward { board, at, queue, .. } = &self.forward;
        match trouble {
            Trouble::Lost => board.inlet_breaks(*at, queue),
            _ => board.inlet_fails(*at, queue, &format!("queue `{queue}`: {trouble}")),
        }
    }

    /// Reads the address anew each time, since a Secret may change.
    async fn connect(&self) -> Result<(Arc<dyn Link>, Consumer), Trouble> {
        let address = tokio::fs::read(&self.address).await.map_err(|_| Trouble::NoAddress)?;
        let address = Some(address).filter(|address| address.len() <= ADDRESS_BYTES_MAX);
        let address =
            address.and_then(|address| String::from_utf8(address).ok()).ok_or(Trouble::BadAddress)?;
        let link = (self.dial)(address.trim()).connect().await.map_err(|error| Trouble::from(&error))?;
        let options = ConsumeOptions { prefetch: self.prefetch, exclusive: false, no_ack: false };
        match link.consume(&self.queue, options).await {
            Ok(consumer) => {
                self.forward.board.inlet_runs(self.forward.at, self.queue.as_str());
                Ok((link, consumer))
            }
            Err(error) => {
                link.close().await;
                Err(Trouble::from(&error))
            }
        }
    }

    /// Takes messages until the consumer is over, or until `shutdown`: then what is in hand may end.
    async fn take(&self, mut consumer: Consumer, shutdown: &CancellationToken) -> Result<(), Trouble> {
        let mut in_hand = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(()) = in_hand.next() => {}
                event = consumer.next() => match event {
                    Some(Event::Delivery(delivery)) => in_hand.push(self.forward.forward(delivery)),
                    Some(Event::CancelledByServer) => return Err(Trouble::Deleted),
                    None => return Err(consumer.failure().as_ref().map_or(Trouble::Lost, Trouble::from)),
                },
            }
        }
        consumer.cancel().await;
        let ended = async { while in_hand.next().await.is_some() {} };
        // What has not ended by then is in its queue again once the link is closed.
        let _ = tokio::time::timeout(self.drain, ended).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_an_address_is_in_what_is_said_of_it() {
        let secret = "amqp://user:hunter2@rabbit.internal/vhost".to_owned();
        for error in [
            ConnectError::Address(secret.clone()),
            ConnectError::Login(secret.clone()),
            ConnectError::Unreachable(secret.clone()),
        ] {
            let words = Trouble::from(&error).to_string();
            assert!(["hunter2", "rabbit.internal"].iter().all(|part| !words.contains(part)), "{words}");
        }
        let (name, reason) = (secret.clone(), secret.clone());
        let words = Trouble::from(&LinkError::Channel { name, reason }).to_string();
        assert!(!words.contains("hunter2"), "{words}");
        assert!(!Trouble::from(&LinkError::Closed(secret)).to_string().contains("hunter2"));
    }
}
