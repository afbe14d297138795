//! A runner of one revision, whose function runs in a container beside it.
//!
//! Owns nothing of that container: it waits until it accepts, and tells the operator when the function hangs. The
//! kubelet starts a function again that ends.

use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::link::{Connector, Link};
use funcatron_broker::message::ReportEvent;
use funcatron_broker::names::QueueName;
use funcatron_broker::supervise;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::call::Caller;
use crate::config::Endpoint;
use crate::durable::EventTerms;
use crate::instance::{Breakage, Exchange, Instance, Phase};
use crate::links::Links;
use crate::ready::ReadyFile;
use crate::session::{News, Reporter, Subject};
use crate::taker::{Ended, Hosting, serve};
use funcatron_broker::backoff::Backoff;

/// A container's socket is looked for often at first, since a call may be waiting …
const ACCEPT_FIRST: Duration = Duration::from_millis(5);
/// … and once a second while its image starts slowly.
const ACCEPT_LONGEST: Duration = Duration::from_secs(1);
/// Fn gives a container this long to listen; beyond it somebody should know why nothing happens.
const ACCEPT_EXPECTED: Duration = Duration::from_secs(5);
/// A process listens within microseconds of binding its socket: one that still refuses was left by a killed process.
const STALE_AFTER: Duration = Duration::from_millis(300);
/// Nobody wakes a dedicated runner, so nobody asks it again for a report that was lost.
const REPORT_AGAIN: Duration = Duration::from_secs(30);

/// What a dedicated runner is told.
#[derive(Debug)]
pub(crate) struct Settings {
    pub subject: Subject,
    pub endpoint: Endpoint,
    pub concurrency: u16,
    pub events: EventTerms,
    pub queue: QueueName,
    pub durable: Option<QueueName>,
    pub drain: Duration,
}

/// Runs until `shutdown`, then drains.
pub(crate) async fn run(
    settings: Settings,
    links: Arc<Links>,
    connector: &dyn Connector,
    ready_file: ReadyFile,
    shutdown: CancellationToken,
) {
    let Settings { subject, endpoint, concurrency, events, queue, durable, drain } = settings;
    let (phases, watched) = watch::channel(Phase::Starting);
    // The queue is known from the start and for good; the sender is kept so that it stays so.
    let (_durable, durable) = watch::channel(durable);
    let draining = CancellationToken::new();
    let (identity, cancelled) = (Arc::clone(&links.identity), Arc::clone(&links.cancelled));
    let (gateways, lines) = (Arc::clone(&links.gateways), Arc::clone(&links.lines));
    let bodies = links.bodies.clone();
    let hosting = Hosting {
        caller: Arc::new(Caller {
            identity,
            cancelled,
            gateways,
            lines,
            bodies,
            events,
            revision: subject.revision.clone(),
        }),
        queue,
        durable,
        concurrency,
        phases: watched,
        sessions: links.sessions(),
        stop: draining.clone(),
        retires: false,
    };
    let reporter = Reporter::new(Arc::clone(&links.identity), links.sessions());
    let ready_file = Mutex::new(Some(ready_file));
    let keeper =
        Keeper { links: &links, endpoint, concurrency, subject, reporter, phases, ready_file: &ready_file };
    let sessions = supervise(connector, links.finished(), |link| session(&links, link));
    let working = async {
        tokio::select! {
            ended = serve(hosting, Vec::new()) => keeper.tell_end(&ended).await,
            () = drain_after(&shutdown, &ready_file, &draining, drain) => {}
            () = keeper.keep() => {}
        }
        links.finish().await;
    };
    tokio::join!(sessions, working);
}

/// On `shutdown`, has nothing more taken; returns when what runs has had its time.
async fn drain_after(
    shutdown: &CancellationToken,
    ready_file: &Mutex<Option<ReadyFile>>,
    draining: &CancellationToken,
    drain: Duration,
) {
    shutdown.cancelled().await;
    info!("draining");
    ready_file.lock().take();
    draining.cancel();
    tokio::time::sleep(drain).await;
    warn!("calls still run at the end of the drain");
}

async fn session(links: &Links, link: Arc<dyn Link>) {
    if let Some(mut begun) = links.begin(link).await {
        links.attend(&mut begun).await;
    }
}

/// Watches where the function listens.
struct Keeper<'a> {
    links: &'a Links,
    endpoint: Endpoint,
    concurrency: u16,
    subject: Subject,
    reporter: Reporter,
    phases: watch::Sender<Phase>,
    ready_file: &'a Mutex<Option<ReadyFile>>,
}

impl Keeper<'_> {
    /// Never returns: a container that ends is started again by the kubelet.
    async fn keep(&self) {
        loop {
            self.accepts().await;
            let (instance, breakages) = Instance::new(self.endpoint.clone(), self.concurrency, false);
            self.phases.send_replace(Phase::Up(instance));
            info!(revision = %self.subject.revision, "function accepts");
            let breakage = self.watch(breakages).await;
            self.phases.send_replace(Phase::Starting);
            self.recover(breakage).await;
        }
    }

    async fn accepts(&self) {
        let mut backoff = Backoff::new(ACCEPT_FIRST, ACCEPT_LONGEST);
        let began = Instant::now();
        let mut told = false;
        let mut refused_since = None;
        while let Err(error) = self.endpoint.connect().await {
            refused_since = error.is_refused().then(|| refused_since.unwrap_or_else(Instant::now));
            if refused_since.is_some_and(|since: Instant| since.elapsed() >= STALE_AFTER) {
                refused_since = None;
                if let Err(error) = self.endpoint.remove_stale() {
                    warn!(at = %self.endpoint, %error, "cannot remove a stale socket");
                }
            }
            if !told && began.elapsed() >= ACCEPT_EXPECTED {
                warn!(at = %self.endpoint, %error, "function does not listen yet");
                told = true;
            }
            tokio::time::sleep(backoff.after_failure(rand::random())).await;
        }
    }

    /// Until the function breaks the contract, tells the operator that it is loaded: on each link, and now and then.
    async fn watch(&self, mut breakages: mpsc::Receiver<Breakage>) -> Breakage {
        let mut sessions = self.links.sessions();
        sessions.mark_changed();
        let mut again = interval_at(Instant::now() + REPORT_AGAIN, REPORT_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(breakage) = breakages.recv() => return breakage,
                Ok(()) = sessions.changed() => {}
                _ = again.tick() => {}
            }
            if sessions.borrow_and_update().is_some() {
                self.ready_file.lock().iter_mut().for_each(ReadyFile::write);
                self.reporter.report(&self.subject, News::plain(ReportEvent::Loaded)).await;
            }
        }
    }

    /// Does what can be done without the right to kill.
    async fn recover(&self, breakage: Breakage) {
        warn!(revision = %self.subject.revision, ?breakage, "function broke its contract");
        match breakage {
            // Its process ended, mostly. If not, it accepts again at once.
            Breakage::Broken(_) => {}
            // Fn kills such a container; here the operator replaces the pod. Until then it may serve.
            Breakage::Nonsense(why) => {
                self.stuck(format!("the function's answer makes no sense: {why}")).await
            }
            Breakage::Hung(exchange) => self.until_it_moves(exchange).await,
        }
    }

    /// The end of the exchange, whatever it is, says that the function has moved: it answered at last, or its process
    /// ended. A socket that accepts would say nothing, since the kernel does that.
    async fn until_it_moves(&self, mut exchange: Exchange) {
        loop {
            self.stuck("the function does not answer in time".to_owned()).await;
            if tokio::time::timeout(REPORT_AGAIN, &mut exchange).await.is_ok() {
                return;
            }
        }
    }

    async fn stuck(&self, reason: String) {
        let news = News { event: ReportEvent::Stuck, reason: Some(reason), log: None };
        self.reporter.report(&self.subject, news).await;
    }

    async fn tell_end(&self, ended: &Ended) {
        if matches!(ended, Ended::Stopped) {
            self.reporter.report(&self.subject, News::plain(ReportEvent::Unloaded)).await;
        }
    }
}
