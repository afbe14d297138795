//! Takes callbacks that are due and delivers them, many at once and few of each App, so that no tenant's slow receiver
//! holds up another's.
//!
//! A callback is taken under a lease that outlasts its delivery: a ledger that dies leaves it to whoever looks next.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::message::CallbackTarget;
use rand::seq::SliceRandom as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::event::Notice;
use super::pace::Attempted;
use super::queue;
use crate::clock::now_ms;
use crate::core::Core;
use crate::store::{CallbackStatus, DueCallback, StoreError, WaitingApp};

/// Deliveries at once; each may hold a quarter of a MiB.
const AT_ONCE_MAX: usize = 64;
/// Of one App, and so fifteen others have room beside it.
const AT_ONCE_OF_APP_MAX: usize = 4;
/// Longer than a delivery and what the database takes before and after it.
const LEASE: Duration = Duration::from_secs(60);

/// Who delivers how much.
struct Desk {
    core: Arc<Core>,
    all: Arc<Semaphore>,
    apps: HashMap<(String, String), Arc<Semaphore>>,
}

/// Delivers until the ledger stops. What is under way then ends by itself, or is there again after its lease.
pub(crate) async fn run(core: Arc<Core>, stop: CancellationToken) {
    let mut desk =
        Desk { core: Arc::clone(&core), all: Arc::new(Semaphore::new(AT_ONCE_MAX)), apps: HashMap::new() };
    while !stop.is_cancelled() {
        // To its end also where the ledger stops: what is taken and not delivered would wait for its lease's end.
        if let Err(failure) = desk.look().await {
            debug!(failure = &failure as &dyn std::error::Error, "could not look for callbacks");
        }
        stop.run_until_cancelled(tokio::time::sleep(core.outbound.pace.look_interval)).await;
    }
}

impl Desk {
    async fn look(&mut self) -> Result<(), StoreError> {
        let mut apps = self.core.store.apps_with_callbacks().await?;
        let waiting = apps.iter().map(|app| app.waiting).sum::<u64>();
        self.core.metrics.callbacks_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.apps.retain(|_, room| room.available_permits() < AT_ONCE_OF_APP_MAX);
        let now_ms = now_ms();
        apps.retain(|app| app.due_ms <= now_ms);
        // Whoever comes first by name must not always come first.
        apps.shuffle(&mut rand::rng());
        for app in apps {
            self.take(&app, now_ms).await?;
        }
        Ok(())
    }

    async fn take(&mut self, app: &WaitingApp, now_ms: u64) -> Result<(), StoreError> {
        let key = (app.namespace.clone(), app.app.clone());
        let room = self.apps.entry(key).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE_OF_APP_MAX)));
        let limit = u32::try_from(room.available_permits().min(self.all.available_permits())).unwrap_or(0);
        if limit == 0 {
            return Ok(());
        }
        let until_ms = now_ms.saturating_add(u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX));
        for due in self.core.store.take_callbacks(app, now_ms, until_ms, limit).await? {
            // Nobody else takes permits, so there are as many as were counted.
            let permits = [Arc::clone(room), Arc::clone(&self.all)].map(Semaphore::try_acquire_owned);
            self.core.tasks.spawn(deliver(Arc::clone(&self.core), due, permits.map(Result::ok)));
        }
        Ok(())
    }
}

async fn deliver(core: Arc<Core>, due: DueCallback, _permits: [Option<OwnedSemaphorePermit>; 2]) {
    let attempted = attempt(&core, &due).await;
    let settled = core.outbound.pace.settle(due.attempt, attempted.clone(), now_ms(), rand::random());
    debug!(call = %due.call, attempt = due.attempt, ?attempted, "told a call's end");
    if let CallbackTarget::Fn(fn_name) = &due.target
        && settled.status != CallbackStatus::Delivered
        && let Err(failure) = queue::give_up(&core, &due, fn_name, &settled).await
    {
        warn!(failure = &failure as &dyn std::error::Error, call = %due.call, "could not end a callback's call");
    }
    match core.store.settle_callback(&due, &settled, now_ms()).await {
        Ok(_) => core.metrics.callback(match attempted {
            Attempted::Postponed(_) => "postponed",
            _ if settled.status == CallbackStatus::Waiting => "retried",
            _ => settled.status.as_str(),
        }),
        // Its lease ends, and it is told again.
        Err(failure) => {
            warn!(failure = &failure as &dyn std::error::Error, call = %due.call, "could not settle a callback");
        }
    }
}

async fn attempt(core: &Core, due: &DueCallback) -> Attempted {
    if due.attempt > core.outbound.pace.attempts_max {
        return Attempted::Never("its last attempt was cut short".to_owned());
    }
    let call = match core.store.call_by_id(due.call).await {
        Ok(Some(call)) => call,
        Ok(None) => return Attempted::Never("its call is no longer kept".to_owned()),
        Err(_) => return Attempted::Postponed("the ledger's database does not answer".to_owned()),
    };
    let notice = Notice::of(due.kind, call);
    match &due.target {
        CallbackTarget::Fn(fn_name) => queue::publish(core, due, fn_name, &notice).await,
        CallbackTarget::Url(url) => {
            core.outbound.poster.post(url, &notice, &core.outbound.key, now_ms() / 1000).await
        }
    }
}
