//! The end of an App: what the operator made for it goes; its Fns, Routes and Triggers stay.

use std::time::Duration;

use funcatron_crds::App;
use funcatron_crds::names::{LABEL_APP, LABEL_NAMESPACE, LABEL_PART, PART_APP_TABLE, PART_BUNDLE};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use tracing::warn;

use super::{FINALIZER, ledger};
use crate::apply::{delete, write_finalizers};
use crate::cache::label;
use crate::context::{Context, ReconcileError, now};
use crate::keys::Name;
use crate::objects::network;
use crate::queue::Outcome;
use crate::sweep;

/// With the broker gone, an App goes after this long; the next link's sweep removes what is left there.
const PATIENCE: Duration = Duration::from_secs(40);

/// One attempt at its end.
pub(super) async fn reconcile(ctx: &Context, key: &Name, app: &App) -> Result<Outcome, ReconcileError> {
    if !app.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(Outcome::Done);
    }
    delete_deployments(ctx, key).await?;
    delete_maps(ctx, key).await?;
    delete::<NetworkPolicy>(&ctx.client, &key.namespace, &network::name(&key.name)).await?;
    delete::<Secret>(&ctx.client, &key.namespace, &funcatron_crds::names::broker_secret(&key.name)).await?;
    if let Err(error) = sweep::whole_app(ctx, &key.namespace, &key.name).await {
        if !out_of_patience(app, now().0) {
            return Err(error);
        }
        warn!(%key, %error, "the App goes while the broker does not answer; what is left there is swept later");
    }
    if let Err(error) = ledger::tell_end(ctx, key, app).await {
        warn!(%key, %error, "the ledger is not told that the App is gone");
    }
    let others: Vec<String> =
        app.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
    write_finalizers(&ctx.client, app, &others).await?;
    Ok(Outcome::Done)
}

fn out_of_patience(app: &App, now: Timestamp) -> bool {
    let Some(deleted) = &app.metadata.deletion_timestamp else { return false };
    let waited = now.duration_since(deleted.0);
    Duration::try_from(waited).is_ok_and(|waited| waited >= PATIENCE)
}

async fn delete_deployments(ctx: &Context, key: &Name) -> Result<(), ReconcileError> {
    for deployment in ctx.caches.deployments.in_namespace(&key.namespace) {
        if label(deployment.as_ref(), LABEL_APP) == key.name {
            delete::<Deployment>(&ctx.client, &key.namespace, &deployment.name_any()).await?;
            ctx.caches.deployments.remove(&key.namespace, &deployment.name_any());
        }
    }
    Ok(())
}

async fn delete_maps(ctx: &Context, key: &Name) -> Result<(), ReconcileError> {
    for map in ctx.caches.tables.in_namespace(&ctx.config.system_namespace) {
        let of_app = label(map.as_ref(), LABEL_NAMESPACE) == key.namespace
            && label(map.as_ref(), LABEL_APP) == key.name
            && [PART_APP_TABLE, PART_BUNDLE].contains(&label(map.as_ref(), LABEL_PART));
        if of_app {
            sweep::delete_map(ctx, &map.name_any()).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_crds::AppSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn with_the_broker_gone_an_app_goes_within_a_minute() {
        let mut app = App::new("shop", AppSpec::default());
        assert!(!out_of_patience(&app, Timestamp::MAX));
        app.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        let after = |seconds| Timestamp::from_second(seconds).unwrap();
        assert!(!out_of_patience(&app, after(10)));
        assert!(out_of_patience(&app, after(40)));
    }
}
