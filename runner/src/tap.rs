//! A consumer that can be opened, shut and lost: one queue over many links, never in a hot loop.
//!
//! Owns the wait after a failure. Never decides whether deliveries are wanted, and never settles one.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::link::{ConsumeOptions, Consumer, Delivery, Event, LinkError};
use funcatron_broker::names::QueueName;
use futures::future::BoxFuture;
use tokio::time::Sleep;
use tracing::warn;

use crate::session::Session;
use funcatron_broker::backoff::Backoff;

/// A queue that was deleted by hand is found again within a second of its return, however long it was away; until then
/// it costs a question or two a second.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_LONGEST: Duration = Duration::from_secs(1);

/// What comes out of a tap.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one lives at a time; a box would cost each call an allocation"
)]
pub(crate) enum FromTap {
    /// A message, and the session that it is settled over.
    Delivery(Delivery, Arc<Session>),
    /// What was still under way when the tap was shut. It is now off.
    Rest(Vec<Delivery>, Arc<Session>),
    /// The queue is not there (any more). The tap waits a while before it can be opened again.
    Gone,
    /// Something changed that needs no act but another look.
    Changed,
}

/// A consumer on one queue.
pub(crate) struct Tap {
    queue: QueueName,
    prefetch: u16,
    state: State,
    backoff: Backoff,
}

enum State {
    Off,
    Opening(BoxFuture<'static, Result<Consumer, LinkError>>, Arc<Session>),
    Open(Box<Consumer>, Arc<Session>),
    Shutting(BoxFuture<'static, Vec<Delivery>>, Arc<Session>),
    Waiting(Pin<Box<Sleep>>),
}

impl Tap {
    /// A tap that is off.
    pub(crate) const fn new(queue: QueueName, prefetch: u16) -> Self {
        let backoff = Backoff::new(AGAIN_FIRST, AGAIN_LONGEST);
        Self { queue, prefetch, state: State::Off, backoff }
    }

    /// Opens it over `session`, where it is off.
    pub(crate) fn open(&mut self, session: &Arc<Session>) {
        if !matches!(self.state, State::Off) {
            return;
        }
        let (link, queue) = (Arc::clone(&session.link), self.queue.clone());
        let options = ConsumeOptions { prefetch: self.prefetch, exclusive: false, no_ack: false };
        let opening = Box::pin(async move { link.consume(&queue, options).await });
        self.state = State::Opening(opening, Arc::clone(session));
    }

    /// Stops deliveries. What is under way still comes, as [`FromTap::Rest`].
    pub(crate) fn shut(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Off) {
            State::Open(consumer, session) => State::Shutting(Box::pin(shut(*consumer)), session),
            State::Opening(opening, session) => {
                let shutting = async move {
                    match opening.await {
                        Ok(consumer) => shut(consumer).await,
                        Err(_) => Vec::new(),
                    }
                };
                State::Shutting(Box::pin(shutting), session)
            }
            State::Waiting(_) | State::Off => State::Off,
            shutting @ State::Shutting(..) => shutting,
        };
    }

    /// Whether nothing comes out of it and nothing will.
    pub(crate) const fn is_off(&self) -> bool {
        matches!(self.state, State::Off | State::Waiting(_))
    }

    /// Forgets a consumer whose session is down, and the wait for it: a new link is worth a new attempt.
    pub(crate) fn look_at_session(&mut self) {
        let down = match &self.state {
            State::Opening(_, session) | State::Open(_, session) | State::Shutting(_, session) => {
                session.is_down()
            }
            State::Waiting(_) => true,
            State::Off => false,
        };
        if down {
            self.state = State::Off;
        }
    }

    /// What comes next; never, while it is off. Loses nothing when dropped.
    pub(crate) async fn next(&mut self) -> FromTap {
        match &mut self.state {
            State::Off => std::future::pending().await,
            State::Waiting(until) => {
                until.as_mut().await;
                self.state = State::Off;
                FromTap::Changed
            }
            State::Opening(opening, session) => {
                let (opened, session) = (opening.await, Arc::clone(session));
                self.opened(opened, session)
            }
            State::Shutting(shutting, session) => {
                let (rest, session) = (shutting.await, Arc::clone(session));
                self.state = State::Off;
                FromTap::Rest(rest, session)
            }
            State::Open(consumer, session) => match consumer.next().await {
                Some(Event::Delivery(delivery)) => FromTap::Delivery(delivery, Arc::clone(session)),
                Some(Event::CancelledByServer) => self.lost(true, None),
                None => {
                    let failure = consumer.failure();
                    self.lost(false, failure)
                }
            },
        }
    }

    fn opened(&mut self, opened: Result<Consumer, LinkError>, session: Arc<Session>) -> FromTap {
        match opened {
            Ok(consumer) => {
                self.backoff.succeeded();
                self.state = State::Open(Box::new(consumer), session);
                FromTap::Changed
            }
            Err(LinkError::Missing { .. }) => self.lost(true, None),
            Err(error) => self.lost(false, Some(error)),
        }
    }

    fn lost(&mut self, gone: bool, failure: Option<LinkError>) -> FromTap {
        if let Some(error) = failure.filter(|error| !matches!(error, LinkError::Closed(_))) {
            warn!(queue = %self.queue, %error, "consumer lost");
        }
        let wait = self.backoff.after_failure(rand::random());
        self.state = State::Waiting(Box::pin(tokio::time::sleep(wait)));
        if gone { FromTap::Gone } else { FromTap::Changed }
    }
}

async fn shut(mut consumer: Consumer) -> Vec<Delivery> {
    consumer.cancel().await;
    let mut rest = Vec::new();
    // Ends: a cancelled consumer's stream does, and so does that of a lost link.
    while let Some(event) = consumer.next().await {
        if let Event::Delivery(delivery) = event {
            rest.push(delivery);
        }
    }
    rest
}
