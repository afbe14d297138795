//! The bridge of an App: one Deployment for as long as a Trigger of it takes from a queue on a broker of the user's own.

use funcatron_crds::{App, BridgedQueue, names};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;

use crate::apply::delete;
use crate::context::{Context, ReconcileError};
use crate::function::ensure_deployment;
use crate::keys::Name;
use crate::objects::bridge::{self, Bridged};
use crate::trigger::bridged::admitted;

/// Makes the Deployment stand where it is needed, and not otherwise.
pub(super) async fn ensure(ctx: &Context, key: &Name, app: &App) -> Result<(), ReconcileError> {
    let bridged = bridged(ctx, key);
    if !bridged.is_empty() {
        return ensure_deployment(ctx, bridge::build(&ctx.config, app, &bridged)).await;
    }
    let name = names::bridge(&key.name);
    if ctx.caches.deployments.get(&key.namespace, &name).is_some() {
        delete::<Deployment>(&ctx.client, &key.namespace, &name).await?;
        ctx.caches.deployments.remove(&key.namespace, &name);
    }
    Ok(())
}

/// What is bridged, of Triggers whose Fn is there; in the order of their names, so that one that comes moves no other.
fn bridged(ctx: &Context, key: &Name) -> Vec<Bridged> {
    let triggers = ctx.caches.triggers_of(&key.namespace, &key.name);
    let fns = ctx.caches.fns_of(&key.namespace, &key.name);
    let mut bridged: Vec<Bridged> = admitted(triggers.iter().map(AsRef::as_ref))
        .into_iter()
        .filter(|trigger| fns.iter().any(|function| function.name_any() == trigger.spec.fn_name))
        .filter_map(|trigger| {
            let secret = trigger.spec.queue.as_ref()?.broker.as_ref()?.secret_key_ref.clone();
            Some((BridgedQueue::of(&trigger.name_any(), &trigger.spec)?, secret))
        })
        .collect();
    bridged.sort_by(|(one, _), (other, _)| one.trigger.cmp(&other.trigger));
    bridged
}
