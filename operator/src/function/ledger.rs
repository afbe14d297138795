//! Tells the call ledger a Fn's word, once for each change, since it waits in a durable queue; and that the Fn is gone.

use funcatron_broker::message::FnEvent;
use funcatron_broker::topology;
use funcatron_crds::Function;
use tracing::warn;

use crate::callbacks::word;
use crate::context::{Context, ReconcileError, now};
use crate::keys::Name;

/// Tells the ledger, unless it knows. A Fn serves whether or not it is told; the next look tries again.
pub(super) async fn tell(ctx: &Context, key: &Name, function: &Function) {
    let word = word(&key.namespace, &key.name, &function.spec, super::url(ctx, key));
    let is_known = ctx.memory.with_fn(key, |memory| memory.told.as_ref() == Some(&word));
    if ctx.config.ledger_url.is_none() || is_known || !ctx.broker.is_up() {
        return;
    }
    match send(ctx, word.clone()).await {
        Ok(()) => ctx.memory.with_fn(key, |memory| memory.told = Some(word)),
        Err(error) => warn!(%key, %error, "the ledger is not told whom the Fn calls back"),
    }
}

/// Tells the ledger that the Fn is gone, if it knows of it.
pub(super) async fn tell_end(ctx: &Context, key: &Name, told: Option<FnEvent>) {
    let Some(word) = told else { return };
    if let Err(error) = send(ctx, FnEvent { deleted: true, ..word }).await {
        warn!(%key, %error, "the ledger is not told that the Fn is gone");
    }
}

async fn send(ctx: &Context, word: FnEvent) -> Result<(), ReconcileError> {
    let installation = &ctx.config.installation;
    let at_ms = u64::try_from(now().0.as_millisecond()).unwrap_or(0);
    let envelope = FnEvent { at_ms, ..word }.into_envelope().map_err(ReconcileError::Message)?;
    ctx.broker.ensure(topology::ledger(installation)).await?;
    Ok(ctx.broker.publish_confirmed(&installation.ledger_queue(), envelope).await?)
}
