//! The Fn's reconciler: observe → validate → build and apply → load → decide → publish → retire → next_status.

mod apply;
pub(crate) mod decide;
pub(crate) mod durable;
mod ledger;
pub(crate) mod load;
mod observe;
mod pods;
mod retire;
pub(crate) mod status;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use funcatron_crds::{App, FnStatus, Function, Reason, RevisionName};
use kube::ResourceExt;
use tracing::info;

pub(crate) use apply::ensure_deployment;
pub(crate) use observe::{config_map, missing_map};

use self::apply::Applied;
use self::decide::{Plan, Verdict, decide};
pub(crate) use self::observe::Observed;
use self::status::{Facts, next_status, remembered};
use self::validate::{ValidFn, validate};
use crate::app::table;
use crate::apply::write_status;
use crate::broker::BrokerError;
use crate::context::{Context, ReconcileError, now};
use crate::keys::{Kind, Name};
use crate::objects::dedicated;
use crate::objects::revisions::Stored;
use crate::queue::Outcome;
use crate::status::{Refusal, readiness};
use crate::sweep;

/// What became of the newest revision in this reconcile.
#[derive(Default)]
struct Newest {
    /// It, as stored; absent while the spec is refused or the cluster refuses it.
    stored: Option<Stored>,
    /// Pods of a dedicated Fn.
    pods: Option<status::Pods>,
    /// What the cluster or the broker refused.
    obstacle: Option<(Reason, String)>,
    /// An error worth another try, once the status is written.
    error: Option<ReconcileError>,
}

/// Brings the cluster and the broker to what the Fn asks for.
pub(crate) async fn reconcile(ctx: &Context, key: &Name) -> Result<Outcome, ReconcileError> {
    let Some(function) = ctx.caches.fns.get(&key.namespace, &key.name) else { return gone(ctx, key).await };
    if function.metadata.deletion_timestamp.is_some() {
        return Ok(Outcome::Done);
    }
    let _turn = ctx.memory.app_turn(Name::new(&key.namespace, &function.spec.app)).await;
    adopt(ctx, key, &function);
    let observed = observe::observe(ctx, function).await?;
    let valid = judge(ctx, &observed);
    let newest = make(ctx, &observed, valid.as_ref().ok()).await;
    let refusal = valid.err();
    serve(ctx, key, &observed, refusal, newest).await
}

/// A Fn made anew under an old name inherits nothing.
fn adopt(ctx: &Context, key: &Name, function: &Function) {
    let uid = function.uid().unwrap_or_default();
    ctx.memory.with_fn(key, |memory| {
        if memory.uid != uid {
            // Its queue may have been seen before it was.
            let has_durable_queue = memory.uid.is_empty() && memory.has_durable_queue;
            *memory = crate::memory::FnMemory { uid, has_durable_queue, ..Default::default() };
        }
        memory.app.clone_from(&function.spec.app);
    });
}

/// Everything that can be wrong with it, the App first.
fn judge(ctx: &Context, observed: &Observed) -> Result<(Arc<App>, ValidFn), Refusal> {
    let app = observed.app.clone()?;
    let files = observed.files.clone()?;
    let (namespace, name) = (observed.function.namespace().unwrap_or_default(), observed.function.name_any());
    let spec = &observed.function.spec;
    let valid = validate(&namespace, &name, &app.spec, spec, files.as_ref(), &ctx.runtimes())?;
    Ok((app, valid))
}

/// Makes the newest revision stand. What refuses is told in the status, and tried again.
async fn make(ctx: &Context, observed: &Observed, valid: Option<&(Arc<App>, ValidFn)>) -> Newest {
    let Some((app, valid)) = valid else { return Newest::default() };
    let mut newest = Newest::default();
    match apply::apply_revision(ctx, observed, app, valid).await {
        Ok(Applied { latest, broker }) => {
            newest.stored = Some(latest);
            newest.error = broker.err().filter(|error| !error.is_down()).map(ReconcileError::from);
        }
        Err(error) => newest.error = Some(error),
    }
    newest.obstacle = newest.error.as_ref().and_then(ReconcileError::obstacle);
    if let Some(wanted) = valid.replicas {
        newest.pods = Some(pods::observe(ctx, &valid.document, wanted).await);
    }
    newest
}

/// Loads the newest revision, decides which serves, publishes that, retires the rest, and says so.
async fn serve(
    ctx: &Context,
    key: &Name,
    observed: &Observed,
    refusal: Option<Refusal>,
    newest: Newest,
) -> Result<Outcome, ReconcileError> {
    let Newest { stored: latest, pods, obstacle, error } = newest;
    if observed.app.is_err() {
        return without_app(ctx, key, observed, refusal).await;
    }
    let mut wait = pods.as_ref().and_then(status::Pods::look_again);
    if let Some(latest) = &latest {
        recall(ctx, key, observed, &latest.name);
        wait = soonest(wait, load::ask(ctx, key, observed, latest).await);
    }
    let verdict = latest.as_ref().map_or(Verdict::Unknown, |latest| verdict(ctx, key, &latest.name));
    let plan = plan(ctx, key, observed, latest.as_ref(), &verdict);
    table::publish(ctx, &key.namespace, &observed.function.spec.app).await?;
    ledger::tell(ctx, key, &observed.function).await;
    let retired = retire::step(ctx, key, observed, &plan).await;
    let tended = durable::tend(ctx, key, observed).await;
    let facts = Facts {
        refusal,
        latest: latest.as_ref().map(|latest| &latest.name),
        serving: plan.serving.as_ref(),
        verdict: &verdict,
        pods,
        broker_up: ctx.broker.is_up(),
        obstacle,
        later: tended.verdict(ctx, observed),
        url: url(ctx, key),
        selector: selector(&observed.function),
    };
    conclude(ctx, &observed.function, &facts).await?;
    wait = soonest(soonest(wait, retired?), tended.look_again()?);
    match (error, wait) {
        (Some(error), _) => Err(error),
        (None, Some(wait)) => Ok(Outcome::Waiting(wait)),
        (None, None) => Ok(Outcome::Done),
    }
}

/// Nothing of a Fn stands without its App; when that returns, all begins anew.
async fn without_app(
    ctx: &Context,
    key: &Name,
    observed: &Observed,
    refusal: Option<Refusal>,
) -> Result<Outcome, ReconcileError> {
    ctx.memory.forget_fn(key);
    for deployment in observed.deployments.values() {
        retire::delete_deployment(ctx, &key.namespace, &deployment.name_any()).await?;
    }
    let facts = Facts {
        refusal,
        latest: None,
        serving: None,
        verdict: &Verdict::Unknown,
        pods: None,
        broker_up: ctx.broker.is_up(),
        obstacle: None,
        later: None,
        url: url(ctx, key),
        selector: None,
    };
    conclude(ctx, &observed.function, &facts).await?;
    Ok(Outcome::Done)
}

/// What was known of the newest revision before a restart need not be asked for again.
fn recall(ctx: &Context, key: &Name, observed: &Observed, latest: &RevisionName) {
    ctx.memory.with_fn(key, |memory| {
        let told = match memory.serving {
            None => remembered(observed.function.status.as_ref(), latest),
            Some(_) => Verdict::Unknown,
        };
        memory.loads.entry(latest.clone()).or_insert_with(|| decide::Load::with(told));
    });
}

fn verdict(ctx: &Context, key: &Name, latest: &RevisionName) -> Verdict {
    let known =
        |memory: &mut crate::memory::FnMemory| memory.loads.get(latest).map(|load| load.verdict.clone());
    ctx.memory.with_known_fn(key, known).flatten().unwrap_or_default()
}

/// Decides, and remembers what serves.
fn plan(ctx: &Context, key: &Name, observed: &Observed, latest: Option<&Stored>, verdict: &Verdict) -> Plan {
    let mut stored = observed.stored.clone();
    stored.extend(latest.map(|latest| (latest.name.clone(), latest.clone())));
    let numbers = stored.values().map(|stored| (stored.name.clone(), stored.number)).collect();
    let told = observed.function.status.as_ref().and_then(served_before);
    ctx.memory.with_fn(key, |memory| {
        let served = memory.serving.clone().unwrap_or(told);
        // A revision of another App was never this App's to serve.
        let app = &observed.function.spec.app;
        let served = served.filter(|name| stored.get(name).is_some_and(|stored| stored.record.app == *app));
        // It serves on when it fails to load again: what its runners hold already still answers.
        let loaded =
            *verdict == Verdict::Loaded || latest.is_some_and(|latest| served.as_ref() == Some(&latest.name));
        let plan = decide(latest.map(|latest| &latest.name), served.as_ref(), loaded, &numbers);
        if served != plan.serving {
            info!(%key, from = ?served, to = ?plan.serving, "revision serves");
        }
        memory.serving = Some(plan.serving.clone());
        plan
    })
}

fn served_before(status: &FnStatus) -> Option<RevisionName> {
    RevisionName::parse(status.revision.as_deref()?).ok()
}

fn url(ctx: &Context, key: &Name) -> String {
    let base = ctx.config.gateway_internal_url.trim_end_matches('/');
    format!("{base}/invoke/{}/{}", key.namespace, key.name)
}

fn selector(function: &Function) -> Option<String> {
    function.spec.image.as_ref()?;
    let namespace = function.namespace().unwrap_or_default();
    let labels = dedicated::fn_selector(&namespace, &function.spec.app, &function.name_any());
    Some(labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","))
}

/// Writes the status if it differs, and tells people when readiness does.
async fn conclude(ctx: &Context, function: &Function, facts: &Facts<'_>) -> Result<(), ReconcileError> {
    let next = next_status(function, facts, now());
    if function.status.as_ref() == Some(&next) {
        return Ok(());
    }
    write_status(&ctx.client, function, &next).await?;
    let before = function.status.as_ref().and_then(|status| readiness(&status.conditions));
    match readiness(&next.conditions) {
        Some(after) if before != Some(after) => ctx.tell(Kind::Fn, function, after).await,
        _ => {}
    }
    Ok(())
}

/// The Fn is gone: its objects go with it, and what the broker holds for it goes here.
async fn gone(ctx: &Context, key: &Name) -> Result<Outcome, ReconcileError> {
    let Some(mut memory) = ctx.memory.forget_fn(key) else { return Ok(Outcome::Done) };
    ledger::tell_end(ctx, key, memory.told.take()).await;
    let _turn = ctx.memory.app_turn(Name::new(&key.namespace, &memory.app)).await;
    table::publish(ctx, &key.namespace, &memory.app).await?;
    sweep::bundles(ctx, &key.namespace, &memory.app).await?;
    match sweep::app_names(ctx, &key.namespace, &memory.app).await {
        Ok(()) => Ok(Outcome::Done),
        // The next link sweeps everything.
        Err(ReconcileError::Broker(BrokerError::Down)) => Ok(Outcome::Done),
        Err(ReconcileError::Management(error)) if !error.is_refusal() => Ok(Outcome::Done),
        Err(error) => Err(error),
    }
}

/// The sooner of two times to look again.
pub(crate) fn soonest(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
