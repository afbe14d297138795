//! Takes the deliveries of one hosted revision, over as many broker links as it lives.
//!
//! Owns the revision's slots and its two consumers. Calls run within this task, at no task of their own each, and are
//! asked for there where the ledger or the object store has a word on them, before they wait for a slot.
//! Never brings a function up and never unloads one: it is told the phase.

use std::sync::Arc;

use funcatron_broker::link::Delivery;
use funcatron_broker::names::QueueName;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::call::{Caller, Job, Taken, take};
use crate::instance::{Phase, Phases};
use crate::session::{News, Session, Sessions};
use crate::slots::{Lane, Slots};
use crate::tap::{FromTap, Tap};

/// A durable queue's prefetch: one, so that what waits there is spread over all runners.
const DURABLE_PREFETCH: u16 = 1;

/// What a revision's deliveries depend on.
pub(crate) struct Hosting {
    pub caller: Arc<Caller>,
    pub queue: QueueName,
    pub durable: watch::Receiver<Option<QueueName>>,
    pub concurrency: u16,
    pub phases: Phases,
    pub sessions: Sessions,
    /// Take no more, finish what is in hand.
    pub stop: CancellationToken,
    /// Whether the queue's deletion ends it; otherwise it looks for the queue until it is stopped.
    pub retires: bool,
}

/// Why no more deliveries are taken; none is in hand.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The revision's queue was deleted.
    Retired,
    /// It was told to.
    Stopped,
    /// The function will not come up here.
    Failed(News),
}

/// What became of something in flight.
enum Done {
    /// It was settled, and had a slot.
    Ran,
    /// It was not sent: it waits for the function to come up again.
    Back(Box<Job>),
    /// It was settled, and had none.
    Settled,
    /// Whoever was asked has said that it is to run: it waits for a slot.
    Cleared(Box<Job>),
}

/// Takes deliveries until there is a reason not to, beginning with those already `held`.
pub(crate) async fn serve(hosting: Hosting, held: Vec<Job>) -> Ended {
    let mut taker = Taker::new(hosting, held);
    let stop = taker.hosting.stop.clone();
    let mut stopped = std::pin::pin!(stop.cancelled());
    loop {
        taker.steer();
        taker.start();
        if let Some(ended) = taker.ended() {
            return ended;
        }
        let Taker { hosting, sync, durable, in_flight, stopping, .. } = &mut taker;
        let step = tokio::select! {
            from = sync.next() => Step::From(Lane::Sync, from),
            from = durable.next() => Step::From(Lane::Durable, from),
            Some(done) = in_flight.next() => Step::Done(done),
            Ok(()) = hosting.phases.changed() => Step::Look,
            Ok(()) = hosting.sessions.changed() => Step::Session,
            Ok(()) = hosting.durable.changed() => Step::Look,
            () = &mut stopped, if !*stopping => Step::Stop,
        };
        taker.take(step);
        taker.take_what_is_ready();
    }
}

#[expect(
    clippy::large_enum_variant,
    reason = "one lives at a time; a box would cost each call an allocation"
)]
enum Step {
    From(Lane, FromTap),
    Done(Done),
    Look,
    Session,
    Stop,
}

struct Taker {
    hosting: Hosting,
    slots: Slots<Job>,
    running: usize,
    sync: Tap,
    durable: DurableTap,
    in_flight: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Once deliveries are no longer taken, none waits for the ledger either.
    ends: CancellationToken,
    stopping: bool,
    retired: bool,
    failed: Option<News>,
}

/// The durable queue may become known after the revision is hosted.
struct DurableTap(Option<Tap>);

impl DurableTap {
    async fn next(&mut self) -> FromTap {
        match &mut self.0 {
            Some(tap) => tap.next().await,
            None => std::future::pending().await,
        }
    }
}

impl Taker {
    fn new(hosting: Hosting, held: Vec<Job>) -> Self {
        let mut slots = Slots::new(usize::from(hosting.concurrency));
        held.into_iter().for_each(|job| slots.hold(Lane::Sync, job));
        Self {
            sync: Tap::new(hosting.queue.clone(), hosting.concurrency),
            hosting,
            slots,
            running: 0,
            durable: DurableTap(None),
            in_flight: FuturesUnordered::new(),
            ends: CancellationToken::new(),
            stopping: false,
            retired: false,
            failed: None,
        }
    }

    /// Opens and shuts the taps as phase and session have it.
    fn steer(&mut self) {
        if let Phase::Failed(news) = &*self.hosting.phases.borrow() {
            self.failed.get_or_insert_with(|| news.clone());
        }
        if self.durable.0.is_none()
            && let Some(queue) = &*self.hosting.durable.borrow()
        {
            self.durable.0 = Some(Tap::new(queue.clone(), DURABLE_PREFETCH));
        }
        if self.ending() {
            self.ends.cancel();
        }
        let up = self.hosting.phases.borrow().instance().is_some();
        let session = self.hosting.sessions.borrow().clone().filter(|session| !session.is_down());
        let wanted = session.filter(|_| up && !self.ending());
        match wanted {
            Some(session) => self.open(&session),
            None => {
                self.sync.shut();
                self.durable.0.iter_mut().for_each(Tap::shut);
            }
        }
    }

    /// Opens the taps once what is in hand leaves a slot: what is taken is to run here, not to wait.
    fn open(&mut self, session: &Arc<Session>) {
        if self.running + self.slots.held() < usize::from(self.hosting.concurrency) {
            self.sync.open(session);
            self.durable.0.iter_mut().for_each(|tap| tap.open(session));
        }
    }

    const fn ending(&self) -> bool {
        self.stopping || self.retired || self.failed.is_some()
    }

    /// Starts what has a slot, where the function is up; gives up what will not start here.
    fn start(&mut self) {
        if let Some(news) = &self.failed {
            for (_, job) in self.slots.give_up() {
                let (caller, given_up) = (Arc::clone(&self.hosting.caller), job.give_up(news));
                self.in_flight.push(Box::pin(async move {
                    caller.settle(*given_up).await;
                    Done::Settled
                }));
            }
            return;
        }
        let Some(instance) = self.hosting.phases.borrow().instance().cloned() else { return };
        while let Some((_, job)) = self.slots.start() {
            self.running += 1;
            let (caller, instance) = (Arc::clone(&self.hosting.caller), Arc::clone(&instance));
            self.in_flight.push(Box::pin(async move {
                match caller.run(job, &instance).await {
                    Some(job) => Done::Back(Box::new(job)),
                    None => Done::Ran,
                }
            }));
        }
    }

    /// Deliveries come, and calls end, several at a time: all of them before anything else is looked at again.
    fn take_what_is_ready(&mut self) {
        while let Some(from) = self.sync.next().now_or_never() {
            self.take(Step::From(Lane::Sync, from));
        }
        while let Some(Some(done)) = self.in_flight.next().now_or_never() {
            self.take(Step::Done(done));
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Look => {}
            Step::Stop => self.stopping = true,
            Step::Session => {
                self.sync.look_at_session();
                self.durable.0.iter_mut().for_each(Tap::look_at_session);
            }
            Step::Done(Done::Settled) => {}
            Step::Done(Done::Cleared(job)) => self.slots.hold(job.lane(), *job),
            Step::Done(Done::Ran) => self.release(),
            Step::Done(Done::Back(job)) => {
                self.release();
                self.slots.hold_again(job.lane(), *job);
            }
            Step::From(lane, FromTap::Delivery(delivery, session)) => self.delivered(lane, delivery, session),
            Step::From(lane, FromTap::Rest(rest, session)) => {
                rest.into_iter().for_each(|delivery| self.delivered(lane, delivery, Arc::clone(&session)));
            }
            Step::From(Lane::Sync, FromTap::Gone) if self.hosting.retires => self.retired = true,
            Step::From(_, FromTap::Gone | FromTap::Changed) => {}
        }
    }

    fn release(&mut self) {
        self.running -= 1;
        self.slots.release();
    }

    fn delivered(&mut self, lane: Lane, delivery: Delivery, session: Arc<Session>) {
        match take(lane, delivery, session, self.hosting.caller.events) {
            Taken::Run(job) if job.asks_first() => self.ask(job),
            Taken::Run(job) => self.slots.hold(lane, job),
            Taken::Settle(settlement) => {
                let caller = Arc::clone(&self.hosting.caller);
                self.in_flight.push(Box::pin(async move {
                    caller.settle(*settlement).await;
                    Done::Settled
                }));
            }
        }
    }

    fn ask(&mut self, job: Job) {
        let (caller, ends) = (Arc::clone(&self.hosting.caller), self.ends.clone());
        self.in_flight.push(Box::pin(async move {
            match caller.clear(job, ends).await {
                Some(job) => Done::Cleared(Box::new(job)),
                None => Done::Settled,
            }
        }));
    }

    fn ended(&mut self) -> Option<Ended> {
        let idle = self.in_flight.is_empty() && self.slots.held() == 0;
        let shut = self.sync.is_off() && self.durable.0.as_ref().is_none_or(Tap::is_off);
        if !(self.ending() && idle && shut) {
            return None;
        }
        Some(match self.failed.take() {
            Some(news) => Ended::Failed(news),
            None if self.retired => Ended::Retired,
            None => Ended::Stopped,
        })
    }
}
