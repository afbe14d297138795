//! Wakes: while calls wait unanswered, looks at their revision's queue and asks for a runner as long as calls are ready
//! there. One waker per revision, however many calls wait, and only while one waits.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use funcatron_broker::link::{Link, LinkError, Target};
use funcatron_broker::message::{Wake, WakeKind};
use funcatron_broker::names::QueueName;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::apps::{AppPart, FnPart, RevisionPart};
use crate::core::Core;
use crate::uplink::Session;

/// A call unanswered for this long makes its gateway look: a warm function has mostly answered by then.
pub(crate) const UNANSWERED: Duration = Duration::from_millis(20);
/// Between the first looks; a wake lives as long, so that it does not outlive its repeat.
const LOOK_MIN: Duration = Duration::from_millis(100);
/// Between looks in the end. A passive declare costs 0.4 ms, and a host that starts takes seconds.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// Looks at a durable queue before it is left to the operator: half a minute's.
const ATTENDED_LOOKS_MAX: u32 = 20;
/// How long a bundle's address is good: longer than any wake lives, short enough to be worthless in a log.
const ADDRESS_LIFE: Duration = Duration::from_secs(600);

/// The revisions that calls wait for.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    waking: Mutex<HashMap<QueueName, Waking>>,
    /// Durable queues that are looked at.
    attended: Mutex<HashSet<QueueName>>,
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
        let wake = wake(&self.core, &self.app, &self.revision, WakeKind::Call);
        send(&self.core, &*session.link, wake_queue, wake, life_ms).await
    }
}

/// After a call was put into a Fn's durable queue: asks for a runner while calls are ready there and nobody consumes.
/// One at a time for each queue; the operator goes on looking where this gives up.
pub(crate) fn attend(core: &Arc<Core>, app: &Arc<AppPart>, function: &Arc<FnPart>, link: Arc<dyn Link>) {
    // A dedicated revision's runners consume from the start, and one that has not loaded is the operator's to load.
    let Some(revision) = function.revision.clone().filter(|revision| revision.wake.is_some()) else { return };
    let queue = function.durable.clone();
    if !core.wakes.attended.lock().insert(queue.clone()) {
        return;
    }
    let attendance = Attendance { core: Arc::clone(core), app: Arc::clone(app), revision, queue, link };
    tokio::spawn(async move { attendance.run().await });
}

struct Attendance {
    core: Arc<Core>,
    app: Arc<AppPart>,
    revision: Arc<RevisionPart>,
    queue: QueueName,
    link: Arc<dyn Link>,
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.core.wakes.attended.lock().remove(&self.queue);
    }
}

impl Attendance {
    async fn run(self) {
        tokio::time::sleep(UNANSWERED).await;
        let mut interval = LOOK_MIN;
        for _ in 0..ATTENDED_LOOKS_MAX {
            match self.look(interval).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    return debug!(%error, queue = %self.queue, "could not look after a durable queue");
                }
            }
            tokio::time::sleep(interval).await;
            interval = (interval * 2).min(LOOK_MAX);
        }
    }

    /// Whether there is reason to look again.
    async fn look(&self, interval: Duration) -> Result<bool, LinkError> {
        let seen = self.link.inspect(&self.queue).await?;
        let unattended = seen.is_some_and(|state| state.ready > 0 && state.consumers == 0);
        if let Some(wake_queue) = self.revision.wake.as_ref().filter(|_| unattended) {
            let mut wake = wake(&self.core, &self.app, &self.revision, WakeKind::Load);
            wake.durable_queue = Some(self.queue.as_str().to_owned());
            let life_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
            send(&self.core, &*self.link, wake_queue, wake, life_ms).await?;
        }
        Ok(unattended)
    }
}

async fn send(
    core: &Core,
    link: &dyn Link,
    queue: &QueueName,
    wake: Wake,
    life_ms: u64,
) -> Result<(), LinkError> {
    let revision = wake.revision.clone();
    match wake.into_envelope(life_ms) {
        Ok(envelope) => {
            link.publish(Target::queue(queue), envelope, false).await?;
            core.metrics.wakes.inc();
        }
        Err(error) => warn!(%error, revision, "a wake cannot be sent"),
    }
    Ok(())
}

fn wake(core: &Core, app: &AppPart, revision: &RevisionPart, kind: WakeKind) -> Wake {
    let entry = &revision.entry;
    let (namespace, app) = (&*app.namespace, &*app.app);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let expires_s = (now + ADDRESS_LIFE).as_secs();
    let config = &core.config;
    let address =
        |digest| config.signing_key.bundle_url(&config.internal_base, namespace, app, digest, expires_s);
    Wake {
        kind,
        namespace: namespace.to_owned(),
        app: app.to_owned(),
        fn_name: revision.fn_name.to_string(),
        revision: entry.name.as_str().to_owned(),
        run: entry.run.to_string(),
        run_url: address(&entry.run),
        code: entry.code.as_ref().map(ToString::to_string),
        code_url: entry.code.as_ref().map(address),
        queue: revision.queue.as_str().to_owned(),
        durable_queue: revision.durable.as_ref().map(|queue| queue.as_str().to_owned()),
    }
}
