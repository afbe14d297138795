//! A runner of whatever revisions of one runtime it is woken for, in a host beside it.
//!
//! Owns what is hosted. A hosted revision survives the loss of a broker link: it ends when its queue is deleted,
//! when it will not come up, or with this runner.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use funcatron_broker::link::{Connector, ConsumeOptions, Delivery, Event, Link};
use funcatron_broker::message::{ReportEvent, WakeKind};
use funcatron_broker::names::QueueName;
use funcatron_broker::supervise;
use funcatron_crds::{RevisionName, RunDocument};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::call::{Caller, Job, Taken, take};
use crate::code_store::Code;
use crate::control::HostControl;
use crate::durable::EventTerms;
use crate::instance::{Phase, Phases};
use crate::keeper::{Keeper, concurrency, failed};
use crate::links::Links;
use crate::prepare::Preparation;
use crate::ready::ReadyFile;
use crate::registry::{Decision, Registry};
use crate::session::{News, Reporter, Session, Subject};
use crate::slots::Lane;
use crate::taker::{Ended, Hosting, serve};
use crate::tap::{FromTap, Tap};
use crate::wake::ValidWake;

/// Revisions brought up at once: an import is CPU, of which a runner has one or two cores.
const LOADS_MAX: usize = 4;
/// One wake at a time, so that they spread over all runners.
const WAKE_PREFETCH: u16 = 1;
/// A wake's call that does not come within this time was taken by another runner.
const FIRST_CALL_WAIT: Duration = Duration::from_millis(50);

/// What a shared runner is told.
#[derive(Debug)]
pub(crate) struct Settings {
    pub runtime: String,
    pub code_dir: PathBuf,
    pub worker_dir: PathBuf,
    pub config_dir: PathBuf,
    pub drain: Duration,
}

/// A shared runner.
pub(crate) struct Shared {
    settings: Settings,
    wakes: QueueName,
    links: Arc<Links>,
    host: HostControl,
    reporter: Reporter,
    preparation: Preparation,
    registry: Mutex<Registry>,
    loads: Arc<Semaphore>,
    /// Everything that is hosted, or on its way.
    hosted: TaskTracker,
    draining: CancellationToken,
    /// Past the drain: whatever still runs is left.
    abandoned: CancellationToken,
}

/// Takes a revision's place in the registry back, however its hosting ends.
struct Place {
    shared: Arc<Shared>,
    revision: RevisionName,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.registry.lock().gone(&self.revision);
    }
}

impl Shared {
    pub(crate) fn new(
        settings: Settings,
        wakes: QueueName,
        links: Arc<Links>,
        host: HostControl,
    ) -> io::Result<Arc<Self>> {
        std::fs::create_dir_all(&settings.worker_dir)?;
        let reporter = Reporter::new(Arc::clone(&links.identity), links.sessions());
        Ok(Arc::new(Self {
            preparation: Preparation::new(
                Arc::clone(&links.identity),
                &settings.runtime,
                &settings.code_dir,
            )?,
            settings,
            wakes,
            links,
            host,
            reporter,
            registry: Mutex::default(),
            loads: Arc::new(Semaphore::new(LOADS_MAX)),
            hosted: TaskTracker::new(),
            draining: CancellationToken::new(),
            abandoned: CancellationToken::new(),
        }))
    }

    /// Runs until `shutdown`, then drains.
    pub(crate) async fn run(
        self: Arc<Self>,
        connector: &dyn Connector,
        ready_file: ReadyFile,
        shutdown: CancellationToken,
    ) {
        // Before anything is taken, the host has killed what it ran for an earlier process of ours.
        if shutdown.run_until_cancelled(self.host.ready()).await.is_none() {
            return;
        }
        let ready_file = Mutex::new(Some(ready_file));
        let sessions = supervise(connector, self.links.finished(), |link| self.session(link, &ready_file));
        let drained = async {
            shutdown.cancelled().await;
            ready_file.lock().take();
            self.drain().await;
        };
        tokio::join!(sessions, drained);
    }

    async fn drain(&self) {
        info!("draining");
        self.draining.cancel();
        self.hosted.close();
        if timeout(self.settings.drain, self.hosted.wait()).await.is_err() {
            warn!(revisions = self.hosted.len(), "calls still run at the end of the drain");
            self.abandoned.cancel();
        }
        self.links.finish().await;
    }

    async fn session(self: &Arc<Self>, link: Arc<dyn Link>, ready_file: &Mutex<Option<ReadyFile>>) {
        let Some(mut begun) = self.links.begin(link).await else { return };
        ready_file.lock().iter_mut().for_each(ReadyFile::write);
        let session = Arc::clone(&begun.session);
        tokio::select! {
            () = self.links.attend(&mut begun) => {}
            () = self.take_wakes(&session) => {}
        }
    }

    /// Takes wakes until the runner drains; then never returns.
    async fn take_wakes(self: &Arc<Self>, session: &Arc<Session>) {
        let mut tap = Tap::new(self.wakes.clone(), WAKE_PREFETCH);
        loop {
            match self.draining.is_cancelled() {
                true => tap.shut(),
                false => tap.open(session),
            }
            let came = tokio::select! {
                came = tap.next() => came,
                () = self.draining.cancelled(), if !self.draining.is_cancelled() => continue,
            };
            match came {
                FromTap::Delivery(delivery, _) => self.take_wake(delivery).await,
                FromTap::Rest(rest, _) => {
                    for delivery in rest {
                        settle(delivery.reject(true).await);
                    }
                }
                FromTap::Gone | FromTap::Changed => {}
            }
        }
    }

    async fn take_wake(self: &Arc<Self>, delivery: Delivery) {
        let wake = match ValidWake::from_envelope(&delivery.envelope, &self.links.identity) {
            Ok(wake) => wake,
            Err(error) => {
                warn!(%error, "wake not followed");
                return settle(delivery.ack().await);
            }
        };
        let revision = &wake.subject.revision;
        let decision = self.registry.lock().decide(revision, wake.kind, wake.durable.clone(), Instant::now());
        debug!(%revision, kind = ?wake.kind, ?decision, "wake");
        match decision {
            Decision::Drop => {}
            Decision::Repeat(news) => self.reporter.report(&wake.subject, news).await,
            Decision::Loaded => self.reporter.report(&wake.subject, News::plain(ReportEvent::Loaded)).await,
            Decision::Host(durable) => {
                let place = Place { shared: Arc::clone(self), revision: revision.clone() };
                let hosting = Arc::clone(self).host(wake, durable, delivery, place);
                let abandoned = self.abandoned.clone();
                self.hosted.spawn(async move { abandoned.run_until_cancelled(Box::pin(hosting)).await });
                return;
            }
        }
        settle(delivery.ack().await);
    }

    /// Hosts a revision, from its wake to its end.
    async fn host(
        self: Arc<Self>,
        wake: ValidWake,
        durable: watch::Receiver<Option<QueueName>>,
        delivery: Delivery,
        place: Place,
    ) {
        // The wake is held until there is room to load: no other comes to this runner meanwhile.
        let permit = self.draining.run_until_cancelled(Arc::clone(&self.loads).acquire_owned()).await;
        let Some(Ok(permit)) = permit else { return settle(delivery.reject(true).await) };
        settle(delivery.ack().await);
        let held = match wake.kind {
            WakeKind::Load => Vec::new(),
            WakeKind::Call => self.first_calls(&wake.queue, &wake.subject.revision).await,
        };
        if held.is_empty() && wake.kind == WakeKind::Call {
            return;
        }
        let subject = wake.subject.clone();
        match self.load_and_serve(wake, durable, held, permit).await {
            Ended::Failed(news) => {
                let jitter = rand::random();
                self.registry.lock().failed(&subject.revision, news, Instant::now(), jitter);
            }
            Ended::Retired | Ended::Stopped => {
                self.reporter.report(&subject, News::plain(ReportEvent::Unloaded)).await;
            }
        }
        drop(place);
    }

    /// The deliveries that a wake spoke of, where they are still to be had: mostly one, none when others were faster.
    async fn first_calls(&self, queue: &QueueName, revision: &RevisionName) -> Vec<Job> {
        let session = self.links.sessions().borrow().clone();
        let Some(session) = session else { return Vec::new() };
        let options = ConsumeOptions { prefetch: 1, exclusive: false, no_ack: false };
        let mut consumer = match session.link.consume(queue, options).await {
            Ok(consumer) => consumer,
            Err(error) => {
                debug!(%error, "cannot take a first call");
                return Vec::new();
            }
        };
        let caller = self.caller(revision, EventTerms::default());
        let mut held = Vec::new();
        let first = async {
            while let Some(Event::Delivery(delivery)) = consumer.next().await {
                held.extend(screen(&caller, delivery, &session).await);
                if !held.is_empty() {
                    return;
                }
            }
        };
        // Nothing within the wait is an answer too.
        let _ = timeout(FIRST_CALL_WAIT, first).await;
        consumer.cancel().await;
        while let Some(event) = consumer.next().await {
            if let Event::Delivery(delivery) = event {
                held.extend(screen(&caller, delivery, &session).await);
            }
        }
        held
    }

    async fn load_and_serve(
        self: &Arc<Self>,
        wake: ValidWake,
        durable: watch::Receiver<Option<QueueName>>,
        held: Vec<Job>,
        permit: OwnedSemaphorePermit,
    ) -> Ended {
        let ValidWake { kind: _, subject, run, code, queue, durable: _ } = wake;
        let prepared = self.preparation.prepare(&subject, &run, code.as_ref()).await;
        let (document, code) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return self.give_up(&subject, failed(error.to_string()), held).await,
        };
        let (phases, watched) = watch::channel(Phase::Starting);
        self.registry.lock().loading(&subject.revision, watched.clone());
        let hosting = Hosting {
            caller: Arc::new(self.caller(&subject.revision, EventTerms::of(&document))),
            queue,
            durable,
            concurrency: concurrency(&document),
            phases: watched.clone(),
            sessions: self.links.sessions(),
            stop: self.draining.clone(),
            retires: true,
        };
        let unload = CancellationToken::new();
        let keeper = self.keeper(document, code, subject.clone(), phases, unload.clone());
        let serving = async {
            let ended = serve(hosting, held).await;
            unload.cancel();
            ended
        };
        let ((), ended, ()) =
            tokio::join!(keeper.keep(), serving, self.while_loading(watched, &subject, permit));
        ended
    }

    fn keeper(
        &self,
        document: RunDocument,
        code: Code,
        subject: Subject,
        phases: watch::Sender<Phase>,
        stop: CancellationToken,
    ) -> Keeper {
        Keeper {
            host: self.host.clone(),
            document,
            code,
            config_dir: self.settings.config_dir.clone(),
            worker_dir: self.settings.worker_dir.clone(),
            subject,
            reporter: self.reporter.clone(),
            phases,
            stop,
        }
    }

    /// Holds the permit to load until it is known how the load went.
    async fn while_loading(&self, mut phases: Phases, subject: &Subject, permit: OwnedSemaphorePermit) {
        let _permit = permit;
        let settled = phases.wait_for(|phase| !matches!(phase, Phase::Starting)).await;
        // The look at the phase ends before the registry is locked, whose holder looks at phases.
        if settled.is_ok_and(|phase| matches!(*phase, Phase::Up(_))) {
            self.registry.lock().came_up(&subject.revision);
        }
    }

    async fn give_up(&self, subject: &Subject, news: News, held: Vec<Job>) -> Ended {
        self.reporter.report(subject, news.clone()).await;
        let caller = self.caller(&subject.revision, EventTerms::default());
        for job in held {
            caller.settle(*job.give_up(&news)).await;
        }
        Ended::Failed(news)
    }

    fn caller(&self, revision: &RevisionName, events: EventTerms) -> Caller {
        let (identity, cancelled) = (Arc::clone(&self.links.identity), Arc::clone(&self.links.cancelled));
        let (gateways, lines) = (Arc::clone(&self.links.gateways), Arc::clone(&self.links.lines));
        let (bodies, revision) = (self.links.bodies.clone(), revision.clone());
        Caller { identity, cancelled, gateways, lines, bodies, events, revision }
    }
}

/// A first call that is to run; others are settled.
async fn screen(caller: &Caller, delivery: Delivery, session: &Arc<Session>) -> Option<Job> {
    let refusal = match take(Lane::Sync, delivery, Arc::clone(session), caller.events) {
        Taken::Run(job) => match caller.screen(job) {
            Ok((job, _)) => return Some(job),
            Err(refusal) => refusal,
        },
        Taken::Settle(settlement) => settlement,
    };
    caller.settle(*refusal).await;
    None
}

/// What cannot be settled comes back with the next link: a wake, to whoever is free then.
fn settle(settled: Result<(), funcatron_broker::link::LinkError>) {
    if let Err(error) = settled {
        debug!(%error, "wake not settled");
    }
}
