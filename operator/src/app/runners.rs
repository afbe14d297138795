//! The shared runners of an App: one Deployment for each runtime that a Fn of it names.

use std::collections::{BTreeMap, BTreeSet};

use funcatron_crds::names::{LABEL_APP, LABEL_RUNTIME};
use funcatron_crds::{App, EnvEntry, Function, merged_env, names};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;

use crate::apply::delete;
use crate::cache::label;
use crate::context::{Context, ReconcileError};
use crate::function::ensure_deployment;
use crate::keys::{Key, Kind, Name};
use crate::objects::revisions;
use crate::objects::shared::{self, ConfigObject};

/// The runners of one runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Runners {
    /// The runtime.
    pub(crate) runtime: String,
    /// How many there shall be.
    pub(crate) wanted: i32,
    /// How many are ready.
    pub(crate) ready: i32,
}

impl Runners {
    /// Whether nothing is missing.
    pub(crate) fn all_ready(&self) -> bool {
        self.ready >= self.wanted
    }
}

/// Makes the Deployments stand that are needed, and no others.
pub(super) async fn ensure(ctx: &Context, key: &Name, app: &App) -> Result<Vec<Runners>, ReconcileError> {
    let needed = needed(ctx, key, app);
    let mut all = vec![];
    for (runtime, objects) in &needed {
        // A runtime that is not known is its Fns' trouble.
        let Some(image) = ctx.config.host_images.get(runtime) else { continue };
        let desired = shared::build(&ctx.config, app, runtime, image, objects);
        let wanted = desired.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let before = ready(ctx, key, runtime);
        ensure_deployment(ctx, desired).await?;
        all.push(Runners { runtime: runtime.clone(), wanted, ready: before });
    }
    remove_unneeded(ctx, key, &needed).await?;
    Ok(all)
}

fn ready(ctx: &Context, key: &Name, runtime: &str) -> i32 {
    let deployment = ctx.caches.deployments.get(&key.namespace, &names::shared_runners(&key.name, runtime));
    deployment.and_then(|deployment| deployment.status.as_ref()?.ready_replicas).unwrap_or(0)
}

/// The runtimes in use, and what their Fns read their environment from: as their specs say now, and as the revisions
/// that serve still need.
fn needed(ctx: &Context, key: &Name, app: &App) -> BTreeMap<String, BTreeSet<ConfigObject>> {
    let mut needed: BTreeMap<String, BTreeSet<ConfigObject>> = BTreeMap::new();
    for function in ctx.caches.fns_of(&key.namespace, &key.name) {
        if let Some(runtime) = &function.spec.runtime {
            needed.entry(runtime.clone()).or_default().extend(objects(app, &function));
        }
        if let Some(record) = serving_record(ctx, &function)
            && let Some(runtime) = &record.runtime
        {
            needed.entry(runtime.clone()).or_default().extend(record.objects());
        }
    }
    needed
}

fn objects(app: &App, function: &Function) -> Vec<ConfigObject> {
    let of = |entry: EnvEntry| match entry {
        EnvEntry::Value { .. } => None,
        EnvEntry::Key { object, object_name, .. } | EnvEntry::All { object, object_name, .. } => {
            Some((object, object_name))
        }
    };
    merged_env(&app.spec, &function.spec).into_iter().filter_map(of).collect()
}

fn serving_record(ctx: &Context, function: &Function) -> Option<revisions::Record> {
    let namespace = function.namespace()?;
    let revision = function.status.as_ref()?.revision.as_deref()?;
    let stored = revisions::read(ctx.caches.revisions.get(&namespace, revision)?.as_ref())?;
    (stored.record.app == function.spec.app).then_some(stored.record)
}

async fn remove_unneeded(
    ctx: &Context,
    key: &Name,
    needed: &BTreeMap<String, BTreeSet<ConfigObject>>,
) -> Result<(), ReconcileError> {
    for deployment in ctx.caches.deployments.in_namespace(&key.namespace) {
        let runtime = label(deployment.as_ref(), LABEL_RUNTIME);
        let ours = label(deployment.as_ref(), LABEL_APP) == key.name && !runtime.is_empty();
        if ours && !needed.contains_key(runtime) {
            delete::<Deployment>(&ctx.client, &key.namespace, &deployment.name_any()).await?;
            ctx.caches.deployments.remove(&key.namespace, &deployment.name_any());
        }
    }
    Ok(())
}

/// Runners of a runtime became ready: what its Fns had asked for reached nobody, and is asked for at once.
pub(crate) fn hurry(ctx: &Context, namespace: &str, app: &str, runtime: &str) {
    for function in ctx.caches.fns_of(namespace, app) {
        if function.spec.runtime.as_deref() != Some(runtime) {
            continue;
        }
        let name = Name::new(namespace, function.name_any());
        let waits = ctx.memory.with_known_fn(&name, |memory| {
            memory.loads.values_mut().for_each(crate::function::decide::Load::hurry);
            memory.loads.values().any(|load| load.verdict == crate::function::decide::Verdict::Unknown)
        });
        if waits == Some(true) {
            ctx.queue.add(Key { kind: Kind::Fn, name });
        }
    }
}
