//! Makes a Fn's newest revision stand: bundles, ControllerRevision, queue, Deployment. Writes only what differs.

use std::collections::BTreeMap;

use funcatron_broker::topology;
use funcatron_crds::names::LABEL_PART;
use funcatron_crds::{App, Digest, Function, RevisionName, names};
use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use kube::{Api, ResourceExt};

use super::observe::Observed;
use super::validate::ValidFn;
use crate::apply::{apply, delete, is_current, stamped};
use crate::broker::BrokerError;
use crate::context::{Context, ReconcileError};
use crate::objects::revisions::{Record, Stored};
use crate::objects::{config_maps, dedicated, meta_only, revisions};

/// What now stands of the newest revision.
pub(crate) struct Applied {
    /// It, as stored.
    pub(crate) latest: Stored,
    /// What the broker objects to; the rest went on without it.
    pub(crate) broker: Result<(), BrokerError>,
}

/// Makes it stand. Bundles come first: a revision that is stored can be run.
pub(crate) async fn apply_revision(
    ctx: &Context,
    observed: &Observed,
    app: &App,
    valid: &ValidFn,
) -> Result<Applied, ReconcileError> {
    let ValidFn { document, bundle, replicas } = valid;
    let record = Record::of(document);
    if let (Some(digest), Some(bytes)) = (&document.code, bundle) {
        ensure_bundle(ctx, observed, digest, bytes).await?;
    }
    let latest = match observed.stored.get(&document.revision) {
        // Stored by an older release in another form of document: what it was tried with stays, if it still stands.
        Some(stored)
            if stored.record.run == record.run || bundle_stands(ctx, observed, &stored.record.run) =>
        {
            stored.clone()
        }
        other => {
            if other.is_some() {
                forget_revision(ctx, observed, &document.revision).await?;
            }
            let number = next_number(&observed.stored);
            Stored { name: document.revision.clone(), number, record: record.clone() }
        }
    };
    if latest.record.run == record.run {
        ensure_bundle(ctx, observed, &record.run, &document.to_bytes()).await?;
    }
    ensure_stored(ctx, &observed.function, &latest).await?;
    let names = ctx.names(&document.namespace, &document.app)?;
    let broker = ctx.broker.ensure(topology::revision(&names, document.revision.as_str())?).await;
    if replicas.is_some() {
        let desired = dedicated::build(&ctx.config, app, &observed.function, document, observed.durable);
        ensure_deployment(ctx, desired).await?;
    }
    Ok(Applied { latest, broker })
}

fn next_number(stored: &BTreeMap<RevisionName, Stored>) -> i64 {
    stored.values().map(|stored| stored.number).max().unwrap_or(0) + 1
}

fn bundle_stands(ctx: &Context, observed: &Observed, digest: &Digest) -> bool {
    let namespace = observed.function.namespace().unwrap_or_default();
    let name = names::bundle(&namespace, &observed.function.spec.app, digest);
    ctx.caches.tables.stands(&ctx.config.system_namespace, &name)
}

async fn ensure_bundle(
    ctx: &Context,
    observed: &Observed,
    digest: &Digest,
    bytes: &[u8],
) -> Result<(), ReconcileError> {
    if bundle_stands(ctx, observed, digest) {
        return Ok(());
    }
    let namespace = observed.function.namespace().unwrap_or_default();
    let app = &observed.function.spec.app;
    let object = config_maps::bundle(&ctx.config.system_namespace, &namespace, app, digest, bytes);
    let written = apply(&ctx.client, &stamped(object)).await?;
    ctx.caches.tables.put(meta_only(written.metadata));
    Ok(())
}

async fn ensure_stored(ctx: &Context, function: &Function, latest: &Stored) -> Result<(), ReconcileError> {
    let namespace = function.namespace().unwrap_or_default();
    let Stored { name, number, record } = latest;
    let standing = ctx.caches.revisions.get(&namespace, name.as_str());
    let uid = function.uid();
    let ours = standing.is_some_and(|standing| {
        standing.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref())
    });
    if ours {
        return Ok(());
    }
    let object = revisions::build(function, name, *number, record);
    ctx.caches.revisions.put(apply(&ctx.client, &object).await?);
    Ok(())
}

/// Takes a revision out of the history.
pub(crate) async fn forget_revision(
    ctx: &Context,
    observed: &Observed,
    revision: &RevisionName,
) -> Result<(), ReconcileError> {
    let namespace = observed.function.namespace().unwrap_or_default();
    delete::<ControllerRevision>(&ctx.client, &namespace, revision.as_str()).await?;
    ctx.caches.revisions.remove(&namespace, revision.as_str());
    Ok(())
}

/// Applies a Deployment that differs from the one that stands.
pub(crate) async fn ensure_deployment(ctx: &Context, desired: Deployment) -> Result<(), ReconcileError> {
    let desired = stamped(desired);
    let (namespace, name) = (desired.namespace().unwrap_or_default(), desired.name_any());
    match ctx.caches.deployments.get(&namespace, &name) {
        Some(standing) if is_current(standing.as_ref(), &desired) && same_size(&standing, &desired) => {
            return Ok(());
        }
        Some(_) => {}
        None => refuse_anothers(ctx, &namespace, &name).await?,
    }
    ctx.caches.deployments.put(apply(&ctx.client, &desired).await?);
    Ok(())
}

/// `kubectl scale` on our Deployment is no way to size it.
fn same_size(standing: &Deployment, desired: &Deployment) -> bool {
    let replicas = |deployment: &Deployment| deployment.spec.as_ref().and_then(|spec| spec.replicas);
    replicas(standing) == replicas(desired)
}

/// A user's own Deployment of that name is not taken over.
async fn refuse_anothers(ctx: &Context, namespace: &str, name: &str) -> Result<(), ReconcileError> {
    let api = Api::<Deployment>::namespaced(ctx.client.clone(), namespace);
    let found = api.get_metadata_opt(name).await.map_err(|source| ReconcileError::Read {
        what: format!("Deployment {namespace}/{name}"),
        source: Box::new(source),
    })?;
    match found {
        Some(found) if !found.labels().contains_key(LABEL_PART) => {
            Err(ReconcileError::NameTaken { kind: "Deployment", name: format!("{namespace}/{name}") })
        }
        _ => Ok(()),
    }
}
