//! What a Fn's reconcile reads: its App, its code, its stored revisions, its pods. Never writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use funcatron_crds::bundle::inline_file_name;
use funcatron_crds::names::{LABEL_FN, LABEL_REVISION};
use funcatron_crds::{App, FnSource, Function, Reason, RevisionName};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};

use super::validate::Files;
use crate::cache::label;
use crate::context::{Context, READ_TIMEOUT, ReconcileError};
use crate::objects::revisions::{self, Stored};
use crate::status::Refusal;

/// What was read.
pub(crate) struct Observed {
    /// The Fn.
    pub(crate) function: Arc<Function>,
    /// Its App, or that there is none.
    pub(crate) app: Result<Arc<App>, Refusal>,
    /// Its code (`None` for an image), or why there is none.
    pub(crate) files: Result<Option<Files>, Refusal>,
    /// Its revisions.
    pub(crate) stored: BTreeMap<RevisionName, Stored>,
    /// Deployments of its revisions.
    pub(crate) deployments: BTreeMap<String, Arc<Deployment>>,
    /// Whether it has a durable queue.
    pub(crate) durable: bool,
}

/// Reads everything that a Fn's reconcile stands on.
pub(crate) async fn observe(ctx: &Context, function: Arc<Function>) -> Result<Observed, ReconcileError> {
    let (namespace, name) = (function.namespace().unwrap_or_default(), function.name_any());
    let app_name = &function.spec.app;
    let app = ctx.caches.living_app(&namespace, app_name);
    let files = match &function.spec.source {
        Some(source) => files(ctx, &namespace, function.spec.runtime.as_deref(), source).await?.map(Some),
        None => Ok(None),
    };
    Ok(Observed {
        app: app.ok_or_else(|| Refusal::app_not_found(&namespace, app_name)),
        files,
        stored: stored(ctx, &function),
        deployments: deployments(ctx, &namespace, &name),
        durable: ctx.is_durable(&namespace, app_name, &name),
        function,
    })
}

/// The outer error is worth another try; the inner is the user's to mend.
async fn files(
    ctx: &Context,
    namespace: &str,
    runtime: Option<&str>,
    source: &FnSource,
) -> Result<Result<Files, Refusal>, ReconcileError> {
    let FnSource { inline, files, path } = source;
    if path.is_some() {
        let message = "spec.source.path: only `funcatron dev` reads folders; use `inline` or `files`";
        return Ok(Err(Refusal::accepted(Reason::Invalid, message)));
    }
    if let Some(files) = files {
        let name = &files.config_map_ref.name;
        return Ok(match config_map(ctx, namespace, name).await? {
            Some(map) => Ok(contents(map)),
            None => Err(missing_map("spec.source.files.configMapRef", namespace, name)),
        });
    }
    // The name of an unknown runtime's file does not matter: validation names the runtime.
    let file = runtime.and_then(inline_file_name).unwrap_or("func");
    let text = inline.clone().unwrap_or_default();
    Ok(Ok(Files::from([(file.to_owned(), text.into_bytes())])))
}

/// A ConfigMap by its name, unless there is none.
pub(crate) async fn config_map(
    ctx: &Context,
    namespace: &str,
    name: &str,
) -> Result<Option<ConfigMap>, ReconcileError> {
    // What the watch has not seen need not be asked for: its coming starts another reconcile.
    if !ctx.caches.config_maps.stands(namespace, name) {
        return Ok(None);
    }
    let api = Api::<ConfigMap>::namespaced(ctx.client.clone(), namespace);
    let unread = |source: kube::Error| ReconcileError::Read {
        what: format!("ConfigMap {namespace}/{name}"),
        source: Box::new(source),
    };
    match tokio::time::timeout(READ_TIMEOUT, api.get_opt(name)).await {
        Ok(read) => read.map_err(unread),
        Err(_) => Err(unread(kube::Error::Service("no answer in time".into()))),
    }
}

/// The refusal of a reference to no ConfigMap.
pub(crate) fn missing_map(field: &str, namespace: &str, name: &str) -> Refusal {
    let message = format!("{field}: there is no ConfigMap `{name}` in namespace `{namespace}`");
    Refusal::refs(Reason::ConfigMapNotFound, message)
}

fn contents(map: ConfigMap) -> Files {
    let text = map.data.unwrap_or_default().into_iter().map(|(name, text)| (name, text.into_bytes()));
    let binary = map.binary_data.unwrap_or_default().into_iter().map(|(name, bytes)| (name, bytes.0));
    text.chain(binary).collect()
}

/// Revisions of a Fn of the same name that went before are none of this one's.
fn stored(ctx: &Context, function: &Function) -> BTreeMap<RevisionName, Stored> {
    let (namespace, name) = (function.namespace().unwrap_or_default(), function.name_any());
    let uid = function.uid();
    let of_fn = |object: &Arc<k8s_openapi::api::apps::v1::ControllerRevision>| {
        label(object.as_ref(), LABEL_FN) == name
            && object.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref())
    };
    let objects = ctx.caches.revisions.in_namespace(&namespace);
    let read = objects.iter().filter(|object| of_fn(object)).filter_map(|object| revisions::read(object));
    read.map(|stored| (stored.name.clone(), stored)).collect()
}

fn deployments(ctx: &Context, namespace: &str, name: &str) -> BTreeMap<String, Arc<Deployment>> {
    let all = ctx.caches.deployments.in_namespace(namespace).into_iter();
    all.filter(|deployment| label(deployment.as_ref(), LABEL_FN) == name)
        .map(|deployment| (label(deployment.as_ref(), LABEL_REVISION).to_owned(), deployment))
        .collect()
}
