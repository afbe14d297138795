//! What every runner does on each broker link: a queue of its own for cancels and the ledger's words, and the session
//! for all others.

use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::link::{ConsumeOptions, Consumer, Delivery, Event, Link, LinkError, fresh_suffix};
use funcatron_broker::message::{Cancel, Claimed, DecodeError};
use funcatron_broker::names::{NameError, QueueName};
use funcatron_broker::topology;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use crate::cancelled::Cancelled;
use crate::direct::Gateways;
use crate::line::Lines;
use crate::session::{Identity, Session, Sessions, now_ms};
use crate::spilled::Bodies;

/// A frozen broker must not hold up a shutdown.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a session did not begin.
#[derive(Debug, thiserror::Error)]
enum BeginError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// What outlives each link.
#[derive(Debug)]
pub(crate) struct Links {
    pub identity: Arc<Identity>,
    pub cancelled: Arc<Cancelled>,
    pub gateways: Arc<Gateways>,
    pub lines: Arc<Lines>,
    pub bodies: Bodies,
    sessions: watch::Sender<Option<Arc<Session>>>,
    /// Ends the last session, once everything in hand is settled.
    finished: CancellationToken,
}

/// A session that has begun; it is over for all once this is dropped.
pub(crate) struct Begun {
    pub session: Arc<Session>,
    own: Consumer,
    sessions: watch::Sender<Option<Arc<Session>>>,
    _down: DropGuard,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.sessions.send_replace(None);
    }
}

impl Links {
    pub(crate) fn new(identity: Arc<Identity>) -> Self {
        let (sessions, _) = watch::channel(None);
        Self {
            identity,
            cancelled: Arc::default(),
            gateways: Gateways::new(),
            lines: Lines::new(),
            bodies: Bodies::new(),
            sessions,
            finished: CancellationToken::new(),
        }
    }

    pub(crate) fn sessions(&self) -> Sessions {
        self.sessions.subscribe()
    }

    /// Cancelled once everything in hand is settled and no session is needed any more.
    pub(crate) fn finished(&self) -> CancellationToken {
        self.finished.clone()
    }

    /// Says the last words that wait to be said, and ends the last session.
    pub(crate) async fn finish(&self) {
        let session = self.sessions.borrow().clone();
        if let Some(session) = session {
            // What is not acknowledged by then is delivered again, and answered `runner-lost`, which nobody waits for.
            let finishing = async {
                // What is still on a line is said through the broker first.
                self.lines.end().await;
                session.settler.finish().await;
            };
            let _ = tokio::time::timeout(FINISH_TIMEOUT, finishing).await;
        }
        self.finished.cancel();
    }

    /// Begins a session: its own queue is heard before the first call is taken.
    pub(crate) async fn begin(&self, link: Arc<dyn Link>) -> Option<Begun> {
        match self.listen(&link).await {
            Ok((queue, own)) => {
                let (session, down) = Session::new(Arc::clone(&self.identity), link, queue);
                self.sessions.send_replace(Some(Arc::clone(&session)));
                Some(Begun { session, own, sessions: self.sessions.clone(), _down: down })
            }
            Err(error) => {
                warn!(%error, "cannot hear what is told to this runner, beginning again");
                None
            }
        }
    }

    async fn listen(&self, link: &Arc<dyn Link>) -> Result<(QueueName, Consumer), BeginError> {
        let (queue, items) = topology::runner(&self.identity.names, &fresh_suffix())?;
        link.declare(&items).await?;
        let options = ConsumeOptions { prefetch: 0, exclusive: true, no_ack: true };
        let own = link.consume(&queue, options).await?;
        Ok((queue, own))
    }

    /// Hears what comes until the session ends: with its link, or when all is finished.
    pub(crate) async fn attend(&self, begun: &mut Begun) {
        loop {
            let event = tokio::select! {
                event = begun.own.next() => event,
                () = self.finished.cancelled() => return,
            };
            match event {
                Some(Event::Delivery(delivery)) => {
                    if let Err(error) = self.hear(&delivery, &begun.session) {
                        warn!(%error, exchange = delivery.exchange, "message is neither cancel nor word");
                    }
                }
                Some(Event::CancelledByServer) | None => return,
            }
        }
    }

    /// Words on claims come through the default exchange, to which no App's user may write; all else is a cancel.
    fn hear(&self, delivery: &Delivery, session: &Session) -> Result<(), DecodeError> {
        if delivery.exchange.is_empty() {
            session.claims.hear(Claimed::from_envelope(&delivery.envelope)?);
        } else {
            self.cancelled.insert(Cancel::from_envelope(&delivery.envelope)?.id, now_ms());
        }
        Ok(())
    }
}
