//! The Trigger's reconciler: an HTTP Trigger becomes part of its App's table; a queue Trigger becomes an exchange of
//! the App, the Fn's durable queue and the binding between.

pub(crate) mod queue;
pub(crate) mod sources;
mod status;

use std::time::Duration;

use funcatron_crds::{Reason, Trigger};
use kube::ResourceExt;

use self::status::{Facts, next_status};
use crate::app::table;
use crate::apply::write_status;
use crate::context::{Context, ReconcileError, now};
use crate::keys::{Kind, Name};
use crate::queue::Outcome;
use crate::status::{Refusal, readiness};

/// Brings the table or the broker to what the Trigger asks for.
pub(crate) async fn reconcile(ctx: &Context, key: &Name) -> Result<Outcome, ReconcileError> {
    // One that went is told to its App and its Fn by the watch.
    let Some(trigger) = ctx.caches.triggers.get(&key.namespace, &key.name) else { return Ok(Outcome::Done) };
    if trigger.metadata.deletion_timestamp.is_some() {
        return Ok(Outcome::Done);
    }
    let _turn = ctx.memory.app_turn(Name::new(&key.namespace, &trigger.spec.app)).await;
    let refusal = validate(ctx, key, &trigger).err();
    let app_stands = ctx.caches.living_app(&key.namespace, &trigger.spec.app).is_some();
    if app_stands {
        table::publish(ctx, &key.namespace, &trigger.spec.app).await?;
    }
    let made = match (&refusal, trigger.spec.queue.is_some()) {
        (None, true) => queue::make(ctx, key, &trigger).await,
        _ => Ok(queue::Seen::default()),
    };
    let (seen, error) = match made {
        Ok(seen) => (Some(seen), None),
        Err(error) => (None, Some(error)),
    };
    let facts = Facts {
        refusal,
        dead_letters: seen.as_ref().and_then(|seen| seen.dead_letters),
        obstacle: error.as_ref().and_then(ReconcileError::obstacle),
    };
    conclude(ctx, &trigger, &facts).await?;
    match error {
        Some(error) => Err(error),
        None => Ok(seen.and_then(|seen| seen.look_again).map_or(Outcome::Done, Outcome::Waiting)),
    }
}

fn validate(ctx: &Context, key: &Name, trigger: &Trigger) -> Result<(), Refusal> {
    let (namespace, spec) = (&key.namespace, &trigger.spec);
    if spec.queue.is_some() == spec.http.is_some() {
        return Err(Refusal::accepted(Reason::Invalid, "spec: set exactly one of `queue` and `http`"));
    }
    if ctx.caches.living_app(namespace, &spec.app).is_none() {
        return Err(Refusal::app_not_found(namespace, &spec.app));
    }
    let function = ctx.caches.fns.get(namespace, &spec.fn_name);
    if function.is_none_or(|function| function.spec.app != spec.app) {
        let message = format!("spec.fn: App `{}` has no Fn `{}`", spec.app, spec.fn_name);
        return Err(Refusal::refs(Reason::FnNotFound, message));
    }
    let siblings = ctx.caches.triggers_of(namespace, &spec.app);
    match sources::owner_of(trigger, siblings.iter().map(AsRef::as_ref)) {
        Some(owner) => {
            let message =
                format!("spec.http.source: belongs to Trigger `{}`, which is older", owner.name_any());
            Err(Refusal::accepted(Reason::Conflict, message))
        }
        None => Ok(()),
    }
}

/// Writes the status if it differs, and tells people when readiness does.
async fn conclude(ctx: &Context, trigger: &Trigger, facts: &Facts) -> Result<(), ReconcileError> {
    let next = next_status(trigger, facts, &ctx.config.gateway_public_url, now());
    if trigger.status.as_ref() == Some(&next) {
        return Ok(());
    }
    write_status(&ctx.client, trigger, &next).await?;
    let before = trigger.status.as_ref().and_then(|status| readiness(&status.conditions));
    match readiness(&next.conditions) {
        Some(after) if before != Some(after) => ctx.tell(Kind::Trigger, trigger, after).await,
        _ => {}
    }
    Ok(())
}

/// The sooner looks are frequent, and rarer while nothing changes.
pub(crate) fn next_look(last: Option<Duration>, changed: bool) -> Duration {
    const SOONEST: Duration = Duration::from_secs(1);
    const LATEST: Duration = Duration::from_secs(10);
    match (last, changed) {
        (Some(last), false) => (last * 2).min(LATEST),
        _ => SOONEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_rarer_until_something_changes() {
        let second = Duration::from_secs(1);
        assert_eq!(next_look(None, false), second);
        assert_eq!(next_look(Some(second), false), second * 2);
        assert_eq!(next_look(Some(second * 8), false), second * 10);
        assert_eq!(next_look(Some(second * 10), true), second);
    }
}
