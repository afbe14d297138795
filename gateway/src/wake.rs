//! Wakes: while calls wait unanswered, looks at their revision's queue and asks for a runner as long as calls are ready
//! there. One waker per revision, however many calls wait, and only while one waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use funcatron_broker::link::{LinkError, Target};
use funcatron_broker::message::{Wake, WakeKind};
use funcatron_broker::names::QueueName;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::apps::{AppPart, RevisionPart};
use crate::core::Core;
use crate::uplink::Session;

/// A call unanswered for this long makes its gateway look: a warm function has mostly answered by then.
pub(crate) const UNANSWERED: Duration = Duration::from_millis(20);
/// Between the first looks; a wake lives as long, so that it does not outlive its repeat.
const LOOK_MIN: Duration = Duration::from_millis(100);
/// Between looks in the end. A passive declare costs 0.4 ms, and a host that starts takes seconds.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// How long a bundle's address is good: longer than any wake lives, short enough to be worthless in a log.
const ADDRESS_LIFE: Duration = Duration::from_secs(600);

/// The revisions that calls wait for.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    waking: Mutex<HashMap<QueueName, Waking>>,
}

#[derive(Debug)]
struct Waking {
    waiting: usize,
    /// Stops the waker once nobody waits.
    stop: CancellationToken,
    /// Turns true when the queue is not there.
    gone: watch::Receiver<bool>,
}

/// One call's interest in a revision.
pub(crate) struct Interest {
    core: Arc<Core>,
    queue: QueueName,
    gone: watch::Receiver<bool>,
}

impl Interest {
    /// Joins those that wait for a revision; the first starts the waker.
    pub(crate) fn join(core: &Arc<Core>, app: &Arc<AppPart>, revision: &Arc<RevisionPart>) -> Self {
        let mut waking = core.wakes.waking.lock();
        let entry = waking.entry(revision.queue.clone()).or_insert_with(|| {
            let (say_gone, gone) = watch::channel(false);
            let stop = CancellationToken::new();
            let waker = Waker {
                core: Arc::clone(core),
                app: Arc::clone(app),
                revision: Arc::clone(revision),
                say_gone,
            };
            let stopped = stop.clone();
            tokio::spawn(async move { stopped.run_until_cancelled(waker.run()).await });
            Waking { waiting: 0, stop, gone }
        });
        entry.waiting += 1;
        Self { core: Arc::clone(core), queue: revision.queue.clone(), gone: entry.gone.clone() }
    }

    /// Waits until the revision's queue is seen to be gone.
    pub(crate) async fn gone(&mut self) {
        if self.gone.wait_for(|gone| *gone).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut waking = self.core.wakes.waking.lock();
        let Some(entry) = waking.get_mut(&self.queue) else { return };
        entry.waiting -= 1;
        if entry.waiting == 0 {
            entry.stop.cancel();
            waking.remove(&self.queue);
        }
    }
}

struct Waker {
    core: Arc<Core>,
    app: Arc<AppPart>,
    revision: Arc<RevisionPart>,
    say_gone: watch::Sender<bool>,
}

impl Waker {
    async fn run(self) {
        let mut interval = LOOK_MIN;
        loop {
            let session = self.core.uplink.wait().await;
            if let Err(error) = self.look(&session, interval).await {
                debug!(%error, queue = %self.revision.queue, "could not wake");
            }
            tokio::time::sleep(interval).await;
            interval = (interval * 2).min(LOOK_MAX);
        }
    }

    async fn look(&self, session: &Session, interval: Duration) -> Result<(), LinkError> {
        let seen = session.link.inspect(&self.revision.queue).await?;
        self.say_gone.send_if_modified(|gone| std::mem::replace(gone, seen.is_none()) != seen.is_none());
        let Some(wake_queue) = &self.revision.wake else { return Ok(()) };
        if seen.is_none_or(|state| state.ready == 0) {
            return Ok(());
        }
        let life_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        match self.wake().into_envelope(life_ms) {
            Ok(envelope) => {
                session.link.publish(Target::queue(wake_queue), envelope, false).await?;
                self.core.metrics.wakes.inc();
            }
            Err(error) => warn!(%error, revision = %self.revision.entry.name, "a wake cannot be sent"),
        }
        Ok(())
    }

    fn wake(&self) -> Wake {
        let entry = &self.revision.entry;
        let (namespace, app) = (&*self.app.namespace, &*self.app.app);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let expires_s = (now + ADDRESS_LIFE).as_secs();
        let config = &self.core.config;
        let address =
            |digest| config.signing_key.bundle_url(&config.internal_base, namespace, app, digest, expires_s);
        Wake {
            kind: WakeKind::Call,
            namespace: namespace.to_owned(),
            app: app.to_owned(),
            fn_name: self.revision.fn_name.to_string(),
            revision: entry.name.as_str().to_owned(),
            run: entry.run.to_string(),
            run_url: address(&entry.run),
            code: entry.code.as_ref().map(ToString::to_string),
            code_url: entry.code.as_ref().map(address),
            queue: self.revision.queue.as_str().to_owned(),
            durable_queue: self.revision.durable.as_ref().map(|queue| queue.as_str().to_owned()),
        }
    }
}
