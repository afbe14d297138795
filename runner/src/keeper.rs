//! Keeps one revision running in a shared host: loads it, watches it, loads it again when it ends or is killed.
//!
//! Owns the revision's process, from `load` to `unload`. Never takes a delivery.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use funcatron_broker::message::ReportEvent;
use funcatron_crds::RunDocument;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::code_store::Code;
use crate::config::Endpoint;
use crate::control::protocol::Load;
use crate::control::{ControlError, Exited, HostControl, Loaded};
use crate::env;
use crate::instance::{Breakage, Death, Instance, LastWords, Phase};
use crate::session::{News, Reporter, Subject};
use funcatron_broker::backoff::Backoff;

/// Imports of large libraries on a busy node take seconds; beyond this a function hangs at its start.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// The host's own bound answers first; this one is for a host that does not.
const LOAD_TIMEOUT: Duration = Duration::from_secs(25);
/// A process that ends by itself is loaded again soon, one that ends again and again later.
const RELOAD_FIRST: Duration = Duration::from_millis(50);
const RELOAD_LONGEST: Duration = Duration::from_secs(10);
/// A process that ran this long was well: its end is no repeated failure.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// Loads that fail in a row before the revision is given up here; a later wake begins anew.
const RELOADS_MAX: u32 = 5;
/// A connection that breaks is mostly a process that ends: the host tells why within this time.
pub(crate) const EXIT_WAIT: Duration = Duration::from_millis(250);
/// An unloaded revision runs no call; what it does at its end is its own matter for so long.
const UNLOAD_GRACE: Duration = Duration::from_secs(2);
/// A host kills at the end of the grace, and reaps within 5 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Part of each socket's name: a process that is being killed does not share its socket with the next.
static LOADS: AtomicU64 = AtomicU64::new(1);

/// One revision in a host.
pub(crate) struct Keeper {
    pub host: HostControl,
    pub document: RunDocument,
    pub code: Code,
    pub config_dir: PathBuf,
    pub worker_dir: PathBuf,
    pub subject: Subject,
    pub reporter: Reporter,
    pub phases: watch::Sender<Phase>,
    /// Unload it.
    pub stop: CancellationToken,
}

/// A process that has come up.
struct Running {
    instance: Arc<Instance>,
    breakages: mpsc::Receiver<Breakage>,
    loaded: Loaded,
}

impl Keeper {
    /// Keeps the revision running until it is stopped , or will not come up: the phase then says so.
    pub(crate) async fn keep(self) {
        let stop = self.stop.clone();
        if stop.run_until_cancelled(self.keep_up()).await.is_none() {
            self.phases.send_replace(Phase::Starting);
            self.unload().await;
        }
    }

    async fn keep_up(&self) {
        let mut backoff = Backoff::new(RELOAD_FIRST, RELOAD_LONGEST);
        let mut failed_loads = 0;
        let mut ever_up = false;
        loop {
            match self.bring_up().await {
                Ok(running) => {
                    (failed_loads, ever_up) = (0, true);
                    self.reporter.report(&self.subject, News::plain(ReportEvent::Loaded)).await;
                    let since = Instant::now();
                    self.watch(running).await;
                    if since.elapsed() >= WELL_AFTER {
                        backoff.succeeded();
                    }
                }
                Err(news) => {
                    failed_loads += 1;
                    self.reporter.report(&self.subject, news.clone()).await;
                    if !ever_up || failed_loads >= RELOADS_MAX {
                        self.phases.send_replace(Phase::Failed(news));
                        return;
                    }
                }
            }
            tokio::time::sleep(backoff.after_failure(rand::random())).await;
        }
    }

    async fn bring_up(&self) -> Result<Running, News> {
        let load = self.load_request()?;
        let socket = load.socket.clone();
        let concurrency = concurrency(&self.document);
        let loading = async {
            self.host.ready().await?;
            self.host.load(load).await
        };
        let Ok(loaded) = timeout(LOAD_TIMEOUT, loading).await else {
            self.unload().await;
            return Err(failed("the host does not answer"));
        };
        let loaded = loaded.map_err(|error| match error {
            ControlError::Refused { reason, log } => News { log: Some(log), ..failed(reason) },
            ControlError::Lost => failed("the host was lost while it loaded the function"),
        })?;
        let (instance, breakages) = Instance::new(Endpoint::Fn(socket), concurrency, true);
        self.phases.send_replace(Phase::Up(Arc::clone(&instance)));
        Ok(Running { instance, breakages, loaded })
    }

    fn load_request(&self) -> Result<Load, News> {
        let env = env::resolve(&self.config_dir, &self.document.env).map_err(|error| {
            let event = if error.is_missing() { ReportEvent::KeyMissing } else { ReportEvent::Failed };
            News { event, reason: Some(error.to_string()), log: None }
        })?;
        let revision = self.subject.revision.as_str().to_owned();
        let number = LOADS.fetch_add(1, Ordering::Relaxed);
        Ok(Load {
            code: self.code.path.clone(),
            handler: self.document.handler.clone(),
            env,
            concurrency: concurrency(&self.document).into(),
            memory_bytes: self.document.memory_bytes,
            start_timeout_ms: u64::try_from(START_TIMEOUT.as_millis()).unwrap_or(u64::MAX),
            // The revision's hash tells people whose it is, and the number of the load makes it unique.
            socket: self.worker_dir.join(format!("{}-{number}.sock", hash(&revision))),
            app: self.document.app.clone(),
            fn_name: self.subject.fn_name.clone(),
            revision,
        })
    }

    /// Watches a process until it is gone.
    async fn watch(&self, running: Running) {
        let Running { instance, mut breakages, mut loaded } = running;
        let broken = tokio::select! {
            exited = &mut loaded.exited => {
                self.ended(&instance, exited.ok());
                None
            }
            breakage = breakages.recv() => breakage,
        };
        self.phases.send_replace(Phase::Starting);
        let Some(breakage) = broken else { return };
        if let Breakage::Broken(_) = breakage
            && let Ok(exited) = timeout(EXIT_WAIT, &mut loaded.exited).await
        {
            self.ended(&instance, exited.ok());
            return;
        }
        warn!(revision = %self.subject.revision, ?breakage, "function broke its contract, killing it");
        instance.bury(Death::Own);
        let killed = timeout(STOP_TIMEOUT, self.host.kill(self.subject.revision.as_str())).await;
        instance.leave(match killed {
            Ok(Ok(words)) => words,
            _ => {
                warn!(revision = %self.subject.revision, "host did not kill the function");
                LastWords::new()
            }
        });
    }

    fn ended(&self, instance: &Instance, exited: Option<Exited>) {
        let death = self.tell(exited.as_ref());
        instance.leave(exited.map(|exited| exited.calls).unwrap_or_default());
        instance.bury(death);
    }

    /// Logs how a process ended, and says what ended it.
    fn tell(&self, exited: Option<&Exited>) -> Death {
        let revision = &self.subject.revision;
        match exited {
            // So a host speaks of a process that it ended with the one that had started it.
            Some(Exited { code: None, signal: None, log, calls: _ }) => {
                warn!(%revision, log, "function lost with the part of its host that ran it");
                Death::WithHost
            }
            Some(Exited { code, signal, log, calls: _ }) => {
                warn!(%revision, code, signal, log, "function process ended");
                Death::Own
            }
            None => {
                info!(%revision, "function lost with its host");
                Death::WithHost
            }
        }
    }

    async fn unload(&self) {
        let revision = self.subject.revision.as_str();
        match timeout(STOP_TIMEOUT, self.host.unload(revision, UNLOAD_GRACE)).await {
            Ok(Ok(_) | Err(ControlError::Lost)) => {}
            Ok(Err(error)) => warn!(revision, %error, "host did not unload the function"),
            Err(_) => warn!(revision, "host did not unload the function in time"),
        }
    }
}

/// How many calls at once, as a prefetch has it.
pub(crate) fn concurrency(document: &RunDocument) -> u16 {
    let bounded = document.concurrency.clamp(1, funcatron_crds::CONCURRENCY_MAX);
    u16::try_from(bounded).unwrap_or(u16::MAX)
}

/// News of a load that failed.
pub(crate) fn failed(reason: impl Into<String>) -> News {
    News { event: ReportEvent::Failed, reason: Some(reason.into()), log: None }
}

fn hash(revision: &str) -> &str {
    revision.rsplit_once('-').map_or(revision, |(_, hash)| hash)
}
