//! The Route's reconciler: its document fetched, compiled, weighed against older claims, written as a table.
//!
//! An operation whose Fn is missing does not keep the others from serving: the Route stays accepted, ResolvedRefs
//! names what is missing, and the gateway answers those calls 503 (as Gateway API treats backends that do not
//! resolve).

mod document;
mod status;

use std::sync::Arc;

use funcatron_crds::{App, Reason, Route, names};
use funcatron_routing::{EncodedTable, RouteIdentity, RouteKey, RouteParts, RouteTable, compile};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};
use tracing::warn;

use self::status::{Facts, next_status};
use crate::app::status::check_hostnames;
use crate::apply::{apply, is_current, stamped, write_status};
use crate::context::{Context, ReconcileError, now};
use crate::keys::{Key, Kind, Name};
use crate::memory::Compiled;
use crate::objects::config_maps::{self, Content};
use crate::objects::meta_only;
use crate::queue::Outcome;
use crate::status::{Refusal, readiness};
use crate::sweep;

/// Namespaces whose names are the gateway's own first path segments.
const RESERVED_NAMESPACES: [&str; 3] = ["t", "invoke", "calls"];

/// Brings the Route's table to what its spec says.
pub(crate) async fn reconcile(ctx: &Context, key: &Name) -> Result<Outcome, ReconcileError> {
    let Some(route) = ctx.caches.routes.get(&key.namespace, &key.name) else { return gone(ctx, key).await };
    if route.metadata.deletion_timestamp.is_some() {
        return Ok(Outcome::Done);
    }
    let Some(app) = ctx.caches.living_app(&key.namespace, &route.spec.app) else {
        return without_app(ctx, key, &route).await;
    };
    let compiled = compiled(ctx, key, &route, &app).await?;
    let conflicts = ctx.memory.conflicts().remove(&route_key(key)).unwrap_or_default();
    let refusal = match (&compiled, conflicts.is_empty()) {
        (Err(refusal), _) => Some(refusal.clone()),
        (Ok(_), false) => Some(status::conflict(key, &conflicts)),
        (Ok(built), true) => {
            status::unresolved(&built.table, |name| is_fn_of(ctx, key, name, &route.spec.app))
        }
    };
    match &compiled {
        Ok(built) if conflicts.is_empty() => write_table(ctx, &built.object).await?,
        Ok(built) => withdraw(ctx, &built.object).await?,
        // What cannot be compiled leaves the last good table serving.
        Err(_) => {}
    }
    let table = compiled.ok().filter(|_| conflicts.is_empty()).map(|built| built.table);
    let facts = Facts { refusal, table, conflicts };
    conclude(ctx, &route, &facts).await?;
    Ok(Outcome::Done)
}

fn route_key(key: &Name) -> RouteKey {
    RouteKey { namespace: key.namespace.clone(), name: key.name.clone() }
}

fn is_fn_of(ctx: &Context, key: &Name, name: &str, app: &str) -> bool {
    ctx.caches.fns.get(&key.namespace, name).is_some_and(|function| function.spec.app == app)
}

/// Compiles every Route before any is judged: who is older can be said only of those that are known.
pub(crate) async fn compile_all(ctx: &Context) {
    for (key, route) in ctx.caches.routes.all() {
        let Some(app) = ctx.caches.living_app(&key.namespace, &route.spec.app) else { continue };
        if let Err(error) = compiled(ctx, &key, &route, &app).await {
            warn!(%key, %error, "cannot read what a Route is made of; trying on");
        }
    }
}

/// A compiled Route, and its table as it is written.
struct Built {
    table: Arc<RouteTable>,
    object: Arc<ConfigMap>,
}

/// The Route compiled, from memory where nothing changed that it is made of.
async fn compiled(
    ctx: &Context,
    key: &Name,
    route: &Route,
    app: &App,
) -> Result<Result<Built, Refusal>, ReconcileError> {
    let input = document::input(ctx, route, app);
    if let Some(Compiled { input: known, table: Some(table), object: Some(object) }) =
        ctx.memory.compiled(key)
        && known == input
    {
        return Ok(Ok(Built { table, object }));
    }
    let document = match document::fetch(ctx, key, route).await? {
        Ok(document) => document,
        Err(refusal) => return Ok(Err(keep_last_good(ctx, key, input, refusal).await)),
    };
    let built = build(ctx, key, route, app, document).and_then(|table| encode(ctx, key, table));
    match built {
        Ok(Built { table, object }) => {
            let (kept_table, kept_object) = (Some(Arc::clone(&table)), Some(Arc::clone(&object)));
            remember(ctx, key, Compiled { input, table: kept_table, object: kept_object });
            Ok(Ok(Built { table, object }))
        }
        Err(refusal) => Ok(Err(keep_last_good(ctx, key, input, refusal).await)),
    }
}

/// Keeps what came out; Routes whose claims it may free or take are looked at again.
fn remember(ctx: &Context, key: &Name, compiled: Compiled) {
    let before = ctx.memory.conflicts();
    ctx.memory.keep_compiled(key, compiled);
    look_again(ctx, key, &before);
}

fn look_again(
    ctx: &Context,
    key: &Name,
    before: &std::collections::BTreeMap<RouteKey, Vec<funcatron_routing::Conflict>>,
) {
    let after = ctx.memory.conflicts();
    let changed = before.keys().chain(after.keys()).filter(|route| before.get(route) != after.get(route));
    for RouteKey { namespace, name } in changed {
        if (namespace, name) != (&key.namespace, &key.name) {
            ctx.queue.add(Key::new(Kind::Route, namespace, name));
        }
    }
}

/// A broken new spec frees no claim: the table that stands keeps serving, and is read back after a restart.
async fn keep_last_good(ctx: &Context, key: &Name, input: String, refusal: Refusal) -> Refusal {
    let table = match ctx.memory.compiled(key).and_then(|compiled| compiled.table) {
        Some(table) => Some(table),
        None => standing_table(ctx, key).await.map(Arc::new),
    };
    ctx.memory.keep_compiled(key, Compiled { input, table, object: None });
    refusal
}

async fn standing_table(ctx: &Context, key: &Name) -> Option<RouteTable> {
    let (system, name) = (&ctx.config.system_namespace, names::route_table(&key.namespace, &key.name));
    if !ctx.caches.tables.stands(system, &name) {
        return None;
    }
    let map = Api::<ConfigMap>::namespaced(ctx.client.clone(), system).get_opt(&name).await.ok()??;
    let text = map.data.and_then(|mut data| data.remove(names::TABLE_KEY)).map(String::into_bytes);
    let packed = map.binary_data.and_then(|mut data| data.remove(names::TABLE_GZIP_KEY)).map(|bytes| bytes.0);
    RouteTable::decode(&text.or(packed)?).ok()
}

fn build(
    ctx: &Context,
    key: &Name,
    route: &Route,
    app: &App,
    document: Option<Vec<u8>>,
) -> Result<RouteTable, Refusal> {
    check_hostnames(&route.spec.hostnames, ctx.config.gateway_host())?;
    let own_host = route.spec.hostnames.is_empty() && app.spec.hostnames.is_empty();
    if own_host && RESERVED_NAMESPACES.contains(&key.namespace.as_str()) {
        let message = format!(
            "namespace `{}` is one of the gateway's own paths; give the Route hostnames of its own",
            key.namespace
        );
        return Err(Refusal::accepted(Reason::NamespaceReserved, message));
    }
    let from_document = document.is_some();
    let parts = RouteParts::of(&route.spec, &app.spec.hostnames, document)
        .map_err(|error| Refusal::accepted(Reason::Invalid, error.to_string()))?;
    let uid = route.uid().unwrap_or_default();
    let created_ms = route.creation_timestamp().map_or(0, |time| time.0.as_millisecond());
    let identity = RouteIdentity { namespace: &key.namespace, name: &key.name, uid: &uid, created_ms };
    compile(&parts.source(&route.spec.app, identity)).map_err(|error| {
        let reason = if from_document { Reason::OpenApiInvalid } else { Reason::Invalid };
        Refusal::accepted(reason, error.to_string())
    })
}

fn encode(ctx: &Context, key: &Name, table: RouteTable) -> Result<Built, Refusal> {
    let content = match table.encode() {
        Ok(EncodedTable::Json(text)) => Content::Text(text),
        Ok(EncodedTable::Gzip(bytes)) => Content::Gzip(bytes),
        Err(error) => return Err(Refusal::accepted(Reason::Invalid, error.to_string())),
    };
    let system = &ctx.config.system_namespace;
    let object = config_maps::route_table(system, &key.namespace, table.app(), &key.name, content);
    Ok(Built { table: Arc::new(table), object: Arc::new(stamped(object)) })
}

fn stands(ctx: &Context, object: &ConfigMap) -> bool {
    let standing = ctx.caches.tables.get(&ctx.config.system_namespace, &object.name_any());
    standing.is_some_and(|standing| is_current(standing.as_ref(), object))
}

async fn write_table(ctx: &Context, object: &ConfigMap) -> Result<(), ReconcileError> {
    if stands(ctx, object) {
        return Ok(());
    }
    let written = apply(&ctx.client, object).await?;
    ctx.caches.tables.put(meta_only(written.metadata));
    Ok(())
}

/// A table that claims what an older Route owns is kept out of the gateway; an earlier one, without that claim, stays.
async fn withdraw(ctx: &Context, object: &ConfigMap) -> Result<(), ReconcileError> {
    if stands(ctx, object) {
        sweep::delete_map(ctx, &object.name_any()).await?;
    }
    Ok(())
}

async fn delete_table(ctx: &Context, key: &Name) -> Result<(), ReconcileError> {
    let name = names::route_table(&key.namespace, &key.name);
    if ctx.caches.tables.stands(&ctx.config.system_namespace, &name) {
        sweep::delete_map(ctx, &name).await?;
    }
    Ok(())
}

async fn without_app(ctx: &Context, key: &Name, route: &Route) -> Result<Outcome, ReconcileError> {
    forget(ctx, key);
    delete_table(ctx, key).await?;
    let refusal = Some(Refusal::app_not_found(&key.namespace, &route.spec.app));
    conclude(ctx, route, &Facts { refusal, table: None, conflicts: vec![] }).await?;
    Ok(Outcome::Done)
}

async fn gone(ctx: &Context, key: &Name) -> Result<Outcome, ReconcileError> {
    // One that cannot be read keeps its table.
    if ctx.caches.routes.stands(&key.namespace, &key.name) {
        return Ok(Outcome::Done);
    }
    forget(ctx, key);
    delete_table(ctx, key).await?;
    Ok(Outcome::Done)
}

fn forget(ctx: &Context, key: &Name) {
    let before = ctx.memory.conflicts();
    ctx.memory.forget_route(key);
    look_again(ctx, key, &before);
}

/// Writes the status if it differs, and tells people when readiness does.
async fn conclude(ctx: &Context, route: &Route, facts: &Facts) -> Result<(), ReconcileError> {
    let next = next_status(route, facts, &ctx.config.gateway_public_url, now());
    if route.status.as_ref() == Some(&next) {
        return Ok(());
    }
    write_status(&ctx.client, route, &next).await?;
    let before = route.status.as_ref().and_then(|status| readiness(&status.conditions));
    match readiness(&next.conditions) {
        Some(after) if before != Some(after) => ctx.tell(Kind::Route, route, after).await,
        _ => {}
    }
    Ok(())
}
