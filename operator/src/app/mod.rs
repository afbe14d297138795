//! The App's reconciler: credentials, topology, network policy, shared runners, bridge, table; and its
//! end.

mod bridge;
mod credentials;
mod delete;
pub(crate) mod ledger;
mod runners;
pub(crate) mod status;
pub(crate) mod table;

use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::topology;
use funcatron_crds::{App, check_env};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;

use self::runners::Runners;
pub(crate) use self::runners::hurry;
use self::status::{Facts, next_status};
use crate::apply::{apply, is_current, stamped, write_finalizers, write_status};
use crate::context::{Context, ReconcileError, now};
use crate::keys::{Kind, Name};
use crate::objects::{meta_only, network};
use crate::queue::Outcome;
use crate::status::{Refusal, readiness};

/// Stands while the broker may hold something of the App.
pub(crate) const FINALIZER: &str = "funcatron.dev/broker";
/// How often runners that are not all ready are looked at; their Deployment's watch is faster mostly.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Brings the cluster and the broker to what the App asks for.
pub(crate) async fn reconcile(ctx: &Context, key: &Name) -> Result<Outcome, ReconcileError> {
    let _turn = ctx.memory.app_turn(key.clone()).await;
    let Some(app) = ctx.caches.apps.get(&key.namespace, &key.name) else { return Ok(Outcome::Done) };
    if app.metadata.deletion_timestamp.is_some() {
        return delete::reconcile(ctx, key, &app).await;
    }
    let refusal = validate(ctx, &app).err();
    let mut facts = Facts {
        refusal,
        key_id: app.status.as_ref().and_then(|status| status.credentials_key_id.clone()),
        fns: ctx.caches.fns_of(&key.namespace, &key.name).len(),
        ..Facts::default()
    };
    let made = match facts.refusal {
        None => make(ctx, key, &app, &mut facts).await,
        Some(_) => Ok(()),
    };
    facts.obstacle = made.as_ref().err().and_then(ReconcileError::obstacle);
    conclude(ctx, &app, &facts).await?;
    made.map(|()| match facts.runners.iter().all(Runners::all_ready) {
        true => Outcome::Done,
        false => Outcome::Waiting(LOOK_INTERVAL),
    })
}

fn validate(ctx: &Context, app: &App) -> Result<(), Refusal> {
    status::check_hostnames(&app.spec.hostnames, ctx.config.gateway_host())?;
    check_env("App", &app.spec.env, &app.spec.env_from)
        .map_err(|error| Refusal::accepted(funcatron_crds::Reason::Invalid, error.to_string()))
}

/// The cluster's part goes first and stands without the broker: its loss stops no runner.
async fn make(ctx: &Context, key: &Name, app: &Arc<App>, facts: &mut Facts) -> Result<(), ReconcileError> {
    claim(ctx, app).await?;
    ensure_policy(ctx, app).await?;
    let written = credentials::ensure_secret(ctx, app).await?;
    facts.runners = runners::ensure(ctx, key, app).await?;
    bridge::ensure(ctx, key, app).await?;
    table::publish(ctx, &key.namespace, &key.name).await?;
    credentials::ensure_user(ctx, app, written).await?;
    facts.key_id = Some(ctx.config.signing_key.key_id());
    let names = ctx.names(&key.namespace, &key.name)?;
    let mut items = topology::app(&names);
    for runners in &facts.runners {
        items.extend(topology::wake(&names, &runners.runtime)?);
    }
    ctx.broker.ensure(items).await?;
    ledger::tell(ctx, key, app).await;
    Ok(())
}

/// From here on the broker may hold something of it.
async fn claim(ctx: &Context, app: &App) -> Result<(), ReconcileError> {
    if app.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(());
    }
    let finalizers = [app.finalizers(), &[FINALIZER.to_owned()]].concat();
    Ok(write_finalizers(&ctx.client, app, &finalizers).await?)
}

async fn ensure_policy(ctx: &Context, app: &App) -> Result<(), ReconcileError> {
    let desired = stamped(network::build(app));
    let standing = ctx.caches.policies.get(&desired.namespace().unwrap_or_default(), &desired.name_any());
    if standing.is_some_and(|standing| is_current(standing.as_ref(), &desired)) {
        return Ok(());
    }
    let written: NetworkPolicy = apply(&ctx.client, &desired).await?;
    ctx.caches.policies.put(meta_only(written.metadata));
    Ok(())
}

/// Writes the status if it differs, and tells people when readiness does.
async fn conclude(ctx: &Context, app: &App, facts: &Facts) -> Result<(), ReconcileError> {
    let next = next_status(app, facts, now());
    if app.status.as_ref() == Some(&next) {
        return Ok(());
    }
    write_status(&ctx.client, app, &next).await?;
    let before = app.status.as_ref().and_then(|status| readiness(&status.conditions));
    match readiness(&next.conditions) {
        Some(after) if before != Some(after) => ctx.tell(Kind::App, app, after).await,
        _ => {}
    }
    Ok(())
}
