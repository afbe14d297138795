//! One term as leader: watches, broker link, workers. Ends when leadership or the process does.

use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::link::{Connector, Link};
use funcatron_broker::{supervise, topology};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::context::{Context, ReconcileError};
use crate::keys::{Key, Kind};
use crate::metrics::ReconcileLabels;
use crate::ops::{Phase, Progress};
use crate::queue::Outcome;
use crate::{app, function, policies, reports, route, sweep, trigger, watches, wiring};

/// A reconcile that takes longer hangs on something: its key is tried again.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(120);
/// How often everything is looked at again, so that what was deleted by hand on the broker heals.
const RESYNC_INTERVAL: Duration = Duration::from_secs(120);
/// How often the broker is swept; each new link sweeps too.
const SWEEP_EVERY: u32 = 5;
/// A sweep that failed is tried again with the next resync; a reconcile that is under way may end within this.
const END_GRACE: Duration = Duration::from_secs(10);

/// Reconciles until the token is cancelled.
pub(crate) async fn run(
    ctx: Arc<Context>,
    connector: Arc<dyn Connector>,
    progress: Progress,
    term: CancellationToken,
) {
    progress.enter(Phase::Syncing);
    let watches = watches::start(&ctx);
    let link = tokio::spawn(hold_link(Arc::clone(&ctx), connector, term.clone()));
    if term.run_until_cancelled(ctx.caches.synced()).await.is_some() {
        info!("caches are filled");
        route::compile_all(&ctx).await;
        if let Err(error) = sweep::config_maps(&ctx).await {
            warn!(%error, "cannot sweep the system namespace; trying again");
        }
        progress.enter(Phase::Leading);
        work(&ctx, &term).await;
    }
    drop(watches);
    // The link's own task ends with the term, and closes its connection.
    let _ = tokio::time::timeout(END_GRACE, link).await;
}

/// Workers, and a clock that has everything looked at again.
async fn work(ctx: &Arc<Context>, term: &CancellationToken) {
    let mut workers = JoinSet::new();
    for _ in 0..ctx.config.workers.max(1) {
        workers.spawn(worker(Arc::clone(ctx), term.clone()));
    }
    let mut rounds = 0_u32;
    while term.run_until_cancelled(tokio::time::sleep(RESYNC_INTERVAL)).await.is_some() {
        rounds = rounds.wrapping_add(1);
        ctx.memory.tidy();
        ctx.broker.doubt();
        if ctx.broker.is_up() {
            policies::renew(ctx).await;
        }
        wiring::everything(ctx);
        if let Err(error) = sweep::config_maps(ctx).await {
            warn!(%error, "cannot sweep the system namespace; trying again");
        }
        if rounds.is_multiple_of(SWEEP_EVERY) && ctx.broker.is_up() {
            sweep_broker(ctx).await;
        }
    }
    let ended = async { while workers.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(END_GRACE, ended).await;
}

async fn worker(ctx: Arc<Context>, term: CancellationToken) {
    while let Some(key) = term.run_until_cancelled(ctx.queue.take()).await {
        ctx.metrics.queued.set(i64::try_from(ctx.queue.len()).unwrap_or(i64::MAX));
        let outcome = match tokio::time::timeout(RECONCILE_TIMEOUT, Box::pin(reconcile(&ctx, &key))).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => {
                complain(&key, &error);
                Outcome::Failed
            }
            Err(_) => {
                warn!(%key, "reconcile takes too long, trying again");
                Outcome::Failed
            }
        };
        count(&ctx, &key, outcome);
        ctx.queue.finish(&key, outcome);
    }
}

async fn reconcile(ctx: &Context, key: &Key) -> Result<Outcome, ReconcileError> {
    match key.kind {
        Kind::App => app::reconcile(ctx, &key.name).await,
        Kind::Fn => function::reconcile(ctx, &key.name).await,
        Kind::Route => route::reconcile(ctx, &key.name).await,
        Kind::Trigger => trigger::reconcile(ctx, &key.name).await,
    }
}

/// The broker's absence is told once, by its link.
fn complain(key: &Key, error: &ReconcileError) {
    let chain = chain(error);
    match error {
        ReconcileError::Broker(error) if error.is_down() => debug!(%key, chain, "waiting for the broker"),
        ReconcileError::Apply(error) if error.is_leaving() => debug!(%key, chain, "its namespace is going"),
        _ => warn!(%key, error = chain, "cannot reconcile, trying again"),
    }
}

/// An error with all its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn count(ctx: &Context, key: &Key, outcome: Outcome) {
    let outcome = match outcome {
        Outcome::Done => "done",
        Outcome::Waiting(_) => "waiting",
        Outcome::Failed => "failed",
    };
    ctx.metrics.reconciles.get_or_create(&ReconcileLabels { kind: key.kind.as_str(), outcome }).inc();
}

/// Keeps a link to the broker for as long as the term lasts.
async fn hold_link(ctx: Arc<Context>, connector: Arc<dyn Connector>, term: CancellationToken) {
    let held = Arc::clone(&ctx);
    let sessions = term.clone();
    supervise(connector.as_ref(), term, move |link| on_link(Arc::clone(&held), link, sessions.clone())).await;
}

/// Unbinds the link however its session ends: it is dropped where it stands when the link goes down.
struct Bound(Arc<Context>);

impl Drop for Bound {
    fn drop(&mut self) {
        self.0.broker.unbind();
        self.0.metrics.broker_up.set(0);
    }
}

async fn on_link(ctx: Arc<Context>, link: Arc<dyn Link>, term: CancellationToken) {
    if let Err(error) = link.declare(&topology::installation(&ctx.config.installation)).await {
        warn!(%error, "cannot declare the reply exchange and the reports queue");
        return;
    }
    ctx.broker.bind(Arc::clone(&link));
    let _bound = Bound(Arc::clone(&ctx));
    ctx.metrics.broker_up.set(1);
    let begun = async {
        ctx.caches.synced().await;
        policies::renew(&ctx).await;
        wiring::everything(&ctx);
        sweep_broker(&ctx).await;
    };
    let reports = async {
        // Reports about Fns that are not listed yet would be dropped.
        ctx.caches.synced().await;
        if let Err(error) = reports::consume(&ctx, link).await {
            warn!(%error, "cannot take reports");
        }
    };
    tokio::pin!(begun);
    tokio::pin!(reports);
    let mut swept = false;
    loop {
        tokio::select! {
            () = term.cancelled() => return,
            () = &mut begun, if !swept => swept = true,
            () = &mut reports => return,
        }
    }
}

async fn sweep_broker(ctx: &Context) {
    if let Err(error) = sweep::all_names(ctx).await {
        warn!(error = chain(&error), "cannot sweep the broker; trying again later");
    }
}
