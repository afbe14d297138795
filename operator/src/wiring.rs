//! Which objects are looked at again when another changes. Reads caches, fills the queue; does nothing else.

use std::sync::Arc;
use std::time::Duration;

use funcatron_crds::names::{
    LABEL_APP, LABEL_FN, LABEL_NAMESPACE, LABEL_PART, LABEL_ROUTE, LABEL_RUNTIME, PART_APP_TABLE,
    PART_BUNDLE, PART_ROUTE_TABLE,
};
use funcatron_crds::{App, Function, Route, Trigger, names};
use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::core::PartialObjectMeta;
use kube::{Resource, ResourceExt};

use crate::app::hurry;
use crate::apply::ANNOTATION_HASH;
use crate::cache::{Touched, label};
use crate::context::Context;
use crate::keys::{Key, Kind};
use crate::objects::revisions;

/// Many Fns applied together size and mount their App's runners once.
const APP_DEBOUNCE: Duration = Duration::from_millis(300);

/// Everything that stands on an App looks again when what its user wrote changed.
pub(crate) fn on_app(ctx: &Context, touched: &Touched<App>) {
    let (namespace, app) = (&touched.name.namespace, &touched.name.name);
    ctx.queue.add(Key { kind: Kind::App, name: touched.name.clone() });
    if !touched.spec_changed() {
        return;
    }
    fns_of(ctx, namespace, app);
    routes_of(ctx, namespace, app);
    triggers_of(ctx, namespace, app);
}

/// A Fn concerns its App's runners; its coming and going concerns what names it.
pub(crate) fn on_fn(ctx: &Context, touched: &Touched<Function>) {
    ctx.queue.add(Key { kind: Kind::Fn, name: touched.name.clone() });
    if touched.after.is_none() {
        ctx.queue.forget(&Key { kind: Kind::Fn, name: touched.name.clone() });
    }
    if !touched.spec_changed() {
        return;
    }
    let namespace = &touched.name.namespace;
    for function in [&touched.before, &touched.after].into_iter().flatten() {
        let app = &function.spec.app;
        ctx.queue.add_after(Key::new(Kind::App, namespace, app), APP_DEBOUNCE);
        let stands_as_before = touched
            .before
            .as_ref()
            .zip(touched.after.as_ref())
            .is_some_and(|(before, after)| before.spec.app == after.spec.app);
        if !stands_as_before {
            routes_of(ctx, namespace, app);
            triggers_of(ctx, namespace, app);
        }
    }
}

/// A Route concerns itself alone; whom it frees or crowds out is found when it is compiled.
pub(crate) fn on_route(ctx: &Context, touched: &Touched<Route>) {
    ctx.queue.add(Key { kind: Kind::Route, name: touched.name.clone() });
}

/// A Trigger concerns its Fn (whose durability it decides), its App's table and its siblings.
pub(crate) fn on_trigger(ctx: &Context, touched: &Touched<Trigger>) {
    let namespace = &touched.name.namespace;
    ctx.queue.add(Key { kind: Kind::Trigger, name: touched.name.clone() });
    if !touched.spec_changed() {
        return;
    }
    ctx.memory.forget_durable_look(&touched.name);
    if touched.after.is_none() {
        ctx.memory.forget_bridge(&touched.name);
    }
    for trigger in [&touched.before, &touched.after].into_iter().flatten() {
        let spec = &trigger.spec;
        ctx.queue.add(Key::new(Kind::Fn, namespace, &spec.fn_name));
        ctx.queue.add(Key::new(Kind::App, namespace, &spec.app));
        if spec.queue.is_some() {
            ctx.memory.suspect_bindings(namespace, &spec.app, &spec.fn_name);
        }
        for sibling in ctx.caches.triggers_of(namespace, &spec.app) {
            ctx.queue.add(Key::new(Kind::Trigger, namespace, sibling.name_any()));
        }
    }
}

/// Runners that came or went concern their Fn or their App; the first ready one is asked for what waits.
pub(crate) fn on_deployment(ctx: &Context, touched: &Touched<Deployment>) {
    let Some(deployment) = touched.either() else { return };
    let namespace = &touched.name.namespace;
    let (app, fn_name) = (label(deployment.as_ref(), LABEL_APP), label(deployment.as_ref(), LABEL_FN));
    if !fn_name.is_empty() {
        ctx.queue.add(Key::new(Kind::Fn, namespace, fn_name));
        return;
    }
    ctx.queue.add(Key::new(Kind::App, namespace, app));
    if ready(touched.before.as_ref()) == 0 && ready(touched.after.as_ref()) > 0 {
        hurry(ctx, namespace, app, label(deployment.as_ref(), LABEL_RUNTIME));
    }
}

fn ready(deployment: Option<&Arc<Deployment>>) -> i32 {
    deployment.and_then(|deployment| deployment.status.as_ref()?.ready_replicas).unwrap_or(0)
}

/// A revision that someone deleted is stored again.
pub(crate) fn on_revision(ctx: &Context, touched: &Touched<ControllerRevision>) {
    if let (None, Some(before)) = (&touched.after, &touched.before) {
        ctx.queue.add(Key::new(Kind::Fn, &touched.name.namespace, label(before.as_ref(), LABEL_FN)));
    }
}

/// A policy that someone deleted or changed is written again.
pub(crate) fn on_policy(ctx: &Context, touched: &Touched<PartialObjectMeta<NetworkPolicy>>) {
    if let Some(before) = &touched.before
        && stamp_changed(touched)
    {
        ctx.queue.add(Key::new(Kind::App, &touched.name.namespace, label(before.as_ref(), LABEL_APP)));
    }
}

/// A table or bundle that someone deleted or changed is written again.
pub(crate) fn on_table(ctx: &Context, touched: &Touched<PartialObjectMeta<ConfigMap>>) {
    let Some(before) = &touched.before else { return };
    if !stamp_changed(touched) {
        return;
    }
    let (namespace, app) = (label(before.as_ref(), LABEL_NAMESPACE), label(before.as_ref(), LABEL_APP));
    match label(before.as_ref(), LABEL_PART) {
        PART_ROUTE_TABLE => {
            ctx.queue.add(Key::new(Kind::Route, namespace, label(before.as_ref(), LABEL_ROUTE)))
        }
        PART_APP_TABLE => ctx.queue.add(Key::new(Kind::App, namespace, app)),
        PART_BUNDLE => on_bundle(ctx, namespace, app, &touched.name.name),
        _ => {}
    }
}

/// Only the Fns whose revisions name the bundle need it.
fn on_bundle(ctx: &Context, namespace: &str, app: &str, bundle: &str) {
    for object in ctx.caches.revisions.in_namespace(namespace) {
        let Some(stored) = revisions::read(&object) else { continue };
        let digests = [Some(&stored.record.run), stored.record.code.as_ref()];
        if digests.into_iter().flatten().any(|digest| names::bundle(namespace, app, digest) == bundle) {
            ctx.queue.add(Key::new(Kind::Fn, namespace, stored.name.fn_name()));
        }
    }
}

fn stamp_changed<K: Resource>(touched: &Touched<K>) -> bool {
    let stamp = |object: &Option<Arc<K>>| {
        object.as_ref().and_then(|object| object.annotations().get(ANNOTATION_HASH).cloned())
    };
    stamp(&touched.before) != stamp(&touched.after)
}

/// A ConfigMap concerns the Fns and Routes that name it.
pub(crate) fn on_config_map(ctx: &Context, touched: &Touched<PartialObjectMeta<ConfigMap>>) {
    let (namespace, map) = (&touched.name.namespace, &touched.name.name);
    for function in ctx.caches.fns.in_namespace(namespace) {
        let files = function.spec.source.as_ref().and_then(|source| source.files.as_ref());
        if files.is_some_and(|files| files.config_map_ref.name == *map) {
            ctx.queue.add(Key::new(Kind::Fn, namespace, function.name_any()));
        }
    }
    for route in ctx.caches.routes.in_namespace(namespace) {
        let key = route.spec.openapi.as_ref().and_then(|openapi| openapi.config_map_key_ref.as_ref());
        if key.is_some_and(|key| key.name == *map) {
            ctx.queue.add(Key::new(Kind::Route, namespace, route.name_any()));
        }
    }
}

/// Everything is looked at again: after a new broker link, and from time to time.
pub(crate) fn everything(ctx: &Context) {
    for (name, _) in ctx.caches.apps.all() {
        ctx.queue.add(Key { kind: Kind::App, name });
    }
    for (name, _) in ctx.caches.fns.all() {
        ctx.queue.add(Key { kind: Kind::Fn, name });
    }
    for (name, _) in ctx.caches.triggers.all() {
        ctx.queue.add(Key { kind: Kind::Trigger, name });
    }
}

fn fns_of(ctx: &Context, namespace: &str, app: &str) {
    for function in ctx.caches.fns.in_namespace(namespace).iter().filter(|function| function.spec.app == app)
    {
        ctx.queue.add(Key::new(Kind::Fn, namespace, function.name_any()));
    }
}

fn routes_of(ctx: &Context, namespace: &str, app: &str) {
    for route in ctx.caches.routes.in_namespace(namespace).iter().filter(|route| route.spec.app == app) {
        ctx.queue.add(Key::new(Kind::Route, namespace, route.name_any()));
    }
}

fn triggers_of(ctx: &Context, namespace: &str, app: &str) {
    for trigger in
        ctx.caches.triggers.in_namespace(namespace).iter().filter(|trigger| trigger.spec.app == app)
    {
        ctx.queue.add(Key::new(Kind::Trigger, namespace, trigger.name_any()));
    }
}
