//! Takes revisions down that are out of the table: queue first, while their runners still hold their calls, then
//! Deployment, then, beyond the history, the revision itself and its bundles.

use std::time::Duration;

use funcatron_broker::link::Deleted;
use funcatron_crds::{RevisionName, names};
use k8s_openapi::api::apps::v1::Deployment;
use tokio::time::Instant;
use tracing::info;

use super::apply::forget_revision;
use super::decide::{Plan, Retire, Retirement, retire};
use super::observe::Observed;
use super::soonest;
use crate::apply::delete;
use crate::context::{Context, ReconcileError};
use crate::keys::Name;
use crate::sweep;

/// After a queue refused to go because calls came in.
const AGAIN: Duration = Duration::from_secs(1);

/// One step for each retiring revision; says when to look again. Without the broker nothing retires.
pub(super) async fn step(
    ctx: &Context,
    key: &Name,
    observed: &Observed,
    plan: &Plan,
) -> Result<Option<Duration>, ReconcileError> {
    let Plan { serving: _, retiring, forgotten } = plan;
    ctx.memory.with_fn(key, |memory| memory.retirements.retain(|name, _| retiring.contains(name)));
    if !ctx.broker.is_up() {
        return Ok(None);
    }
    let mut wait = None;
    let mut swept = false;
    for revision in retiring {
        wait = soonest(wait, retire_one(ctx, key, observed, revision).await?);
        let done =
            ctx.memory.with_fn(key, |memory| memory.retirements.get(revision) == Some(&Retirement::Done));
        if done && forgotten.contains(revision) {
            forget_revision(ctx, observed, revision).await?;
            swept = true;
        }
    }
    if swept {
        sweep::bundles(ctx, &key.namespace, &observed.function.spec.app).await?;
    }
    Ok(wait)
}

async fn retire_one(
    ctx: &Context,
    key: &Name,
    observed: &Observed,
    revision: &RevisionName,
) -> Result<Option<Duration>, ReconcileError> {
    let state = ctx.memory.with_fn(key, |memory| memory.retirements.get(revision).copied());
    let quiet_since = match state {
        Some(Retirement::Done) => return Ok(None),
        Some(Retirement::Watching(since)) => since,
        None => None,
    };
    let app = observed.stored.get(revision).map_or(&observed.function.spec.app, |stored| &stored.record.app);
    let queue = ctx.names(&key.namespace, app)?.revision_queue(revision.as_str())?;
    let seen = ctx.broker.inspect(&queue).await?;
    let (next, wait) = match retire(quiet_since, seen, Instant::now()) {
        Retire::Look(state, wait) => (state, Some(wait)),
        Retire::Finish => (Retirement::Done, None),
        Retire::DeleteQueue => match ctx.broker.delete_queue_if_empty(&queue).await? {
            Deleted::NotEmpty => (Retirement::Watching(None), Some(AGAIN)),
            Deleted::Deleted | Deleted::Missing => (Retirement::Done, None),
        },
    };
    if next == Retirement::Done {
        finish(ctx, key, observed, revision).await?;
    }
    ctx.memory.with_fn(key, |memory| memory.retirements.insert(revision.clone(), next));
    Ok(wait)
}

/// Its runners have been told by their queue's end; those of its own drain on SIGTERM.
async fn finish(
    ctx: &Context,
    key: &Name,
    observed: &Observed,
    revision: &RevisionName,
) -> Result<(), ReconcileError> {
    if observed.deployments.contains_key(revision.as_str()) {
        delete_deployment(ctx, &key.namespace, &names::dedicated_runner(revision)).await?;
        info!(%key, %revision, "revision retired");
    }
    // Should it become the newest again, it is to be loaded anew.
    ctx.memory.with_fn(key, |memory| memory.loads.remove(revision));
    Ok(())
}

/// Deletes one of our Deployments.
pub(super) async fn delete_deployment(
    ctx: &Context,
    namespace: &str,
    name: &str,
) -> Result<(), ReconcileError> {
    delete::<Deployment>(&ctx.client, namespace, name).await?;
    ctx.caches.deployments.remove(namespace, name);
    Ok(())
}
