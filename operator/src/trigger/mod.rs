//! The Trigger's reconciler: an HTTP Trigger becomes part of its App's table; a queue Trigger becomes an exchange of
//! the App, the Fn's durable queue and the binding between, fed by the App's bridge where its queue is on another
//! broker; a schedule puts calls into that queue.

pub(crate) mod bridged;
pub(crate) mod queue;
mod schedule;
pub(crate) mod sources;
mod status;

use std::time::{Duration, Instant};

use funcatron_crds::{
    BridgedQueue, EXCHANGE_RESERVED, EXCHANGE_RESERVED_MESSAGE, ONE_QUEUE, ONE_SOURCE, QueueTrigger, Reason,
    Trigger, TriggerStatus,
};
use kube::ResourceExt;

use self::bridged::Bridging;
use self::schedule::Looked;
use self::status::{Facts, Scheduled, next_status};
use crate::app::table;
use crate::apply::replace_status;
use crate::context::{Context, ReconcileError, now};
use crate::function::soonest;
use crate::keys::{Kind, Name};
use crate::queue::Outcome;
use crate::schedule::Timetable;
use crate::status::{Refusal, readiness};

/// Someone else wrote the status; what they wrote comes by the watch, mostly sooner.
const CONFLICT_WAIT: Duration = Duration::from_secs(1);
/// A firing is written down over a label's change or two; a Trigger that changes more often is looked at again.
const CONFLICTS_MAX: usize = 3;

/// Brings the table or the broker to what the Trigger asks for.
pub(crate) async fn reconcile(ctx: &Context, key: &Name) -> Result<Outcome, ReconcileError> {
    // One that went is told to its App and its Fn by the watch.
    let Some(trigger) = ctx.caches.triggers.get(&key.namespace, &key.name) else { return Ok(Outcome::Done) };
    if trigger.metadata.deletion_timestamp.is_some() {
        return Ok(Outcome::Done);
    }
    let _turn = ctx.memory.app_turn(Name::new(&key.namespace, &trigger.spec.app)).await;
    let valid = validate(ctx, key, &trigger);
    let app_stands = ctx.caches.living_app(&key.namespace, &trigger.spec.app).is_some();
    if app_stands {
        table::publish(ctx, &key.namespace, &trigger.spec.app).await?;
    }
    let made = match (&valid, trigger.spec.is_durable()) {
        (Ok(_), true) => queue::make(ctx, key, &trigger).await,
        _ => Ok(queue::Seen::default()),
    };
    let (seen, error) = match made {
        Ok(seen) => (seen, None),
        Err(error) => (queue::Seen::default(), Some(error)),
    };
    let table = valid.as_ref().ok().and_then(Option::as_ref);
    let Some(looked) = look(ctx, key, &trigger, table, error).await? else {
        return Ok(Outcome::Waiting(CONFLICT_WAIT));
    };
    let Looked { trigger, history, hold, look_again, fired, error } = looked;
    let facts = Facts {
        refusal: valid.as_ref().err().cloned(),
        dead_letters: seen.dead_letters,
        obstacle: error.as_ref().and_then(ReconcileError::obstacle),
        schedule: table.map(|table| Scheduled { seed: table.seed(), history, hold }),
        bridging: valid.as_ref().ok().and_then(|_| bridging(ctx, key, &trigger, error.as_ref())),
    };
    let written = conclude(ctx, &trigger, &facts, fired).await?;
    match error {
        Some(error) => Err(error),
        None if !written => Ok(Outcome::Waiting(CONFLICT_WAIT)),
        None => Ok(soonest(seen.look_again, look_again).map_or(Outcome::Done, Outcome::Waiting)),
    }
}

/// Looks at the schedule, where there is one and its queue stands. `None`: someone else has claimed what was owed.
async fn look(
    ctx: &Context,
    key: &Name,
    trigger: &Trigger,
    table: Option<&Timetable>,
    error: Option<ReconcileError>,
) -> Result<Option<Looked>, ReconcileError> {
    match (table, error) {
        (Some(table), None) => schedule::look(ctx, key, trigger, table).await,
        (table, error) => Ok(Some(Looked::idle(trigger, table, error))),
    }
}

/// The schedule, of a Trigger that has one.
fn validate(ctx: &Context, key: &Name, trigger: &Trigger) -> Result<Option<Timetable>, Refusal> {
    let (namespace, spec) = (&key.namespace, &trigger.spec);
    if !spec.has_one_source() {
        return Err(Refusal::accepted(Reason::Invalid, ONE_SOURCE));
    }
    if let Some(queue) = &spec.queue {
        check_queue(queue)?;
    }
    let seed = trigger.metadata.uid.as_deref().unwrap_or_default();
    let table = spec.schedule.as_ref().map(|schedule| Timetable::new(schedule, spec.is_suspended(), seed));
    let table = table.transpose().map_err(|error| {
        Refusal::accepted(Reason::Invalid, format!("spec.schedule.{}: {error}", error.field()))
    })?;
    if ctx.caches.living_app(namespace, &spec.app).is_none() {
        return Err(Refusal::app_not_found(namespace, &spec.app));
    }
    let function = ctx.caches.fns.get(namespace, &spec.fn_name);
    if function.is_none_or(|function| function.spec.app != spec.app) {
        let message = format!("spec.fn: App `{}` has no Fn `{}`", spec.app, spec.fn_name);
        return Err(Refusal::refs(Reason::FnNotFound, message));
    }
    let siblings = ctx.caches.triggers_of(namespace, &spec.app);
    let admitted = bridged::admitted(siblings.iter().map(AsRef::as_ref));
    if bridged::is_bridged(trigger) && !admitted.iter().any(|one| one.name_any() == key.name) {
        return Err(Refusal::accepted(Reason::Invalid, bridged::TOO_MANY));
    }
    match sources::owner_of(trigger, siblings.iter().map(AsRef::as_ref)) {
        Some(owner) => {
            let message =
                format!("spec.http.source: belongs to Trigger `{}`, which is older", owner.name_any());
            Err(Refusal::accepted(Reason::Conflict, message))
        }
        None => Ok(table),
    }
}

fn check_queue(queue: &QueueTrigger) -> Result<(), Refusal> {
    let message = match queue.exchange.as_deref() {
        Some(EXCHANGE_RESERVED) => EXCHANGE_RESERVED_MESSAGE,
        _ if !queue.is_one() => ONE_QUEUE,
        _ => return Ok(()),
    };
    Err(Refusal::accepted(Reason::Invalid, message))
}

/// How it stands with its bridge, where it has one.
fn bridging(
    ctx: &Context,
    key: &Name,
    trigger: &Trigger,
    error: Option<&ReconcileError>,
) -> Option<Bridging> {
    let queue = BridgedQueue::of(&key.name, &trigger.spec).filter(|_| bridged::is_bridged(trigger))?;
    let now = Instant::now();
    if error.is_some() {
        ctx.memory.excuse_bridge(key, now);
    }
    Some(ctx.memory.bridging(key, &queue.configured, now))
}

/// Writes the status if it differs, and tells people when readiness does. Whether it stands: what someone else wrote
/// meanwhile is not overwritten, except that what has fired is written down.
async fn conclude(
    ctx: &Context,
    trigger: &Trigger,
    facts: &Facts<'_>,
    fired: bool,
) -> Result<bool, ReconcileError> {
    let next = next_status(trigger, facts, &ctx.config.gateway_public_url, now());
    if trigger.status.as_ref() == Some(&next) {
        return Ok(true);
    }
    if !write(ctx, trigger, &next, fired).await? {
        return Ok(false);
    }
    let before = trigger.status.as_ref().and_then(|status| readiness(&status.conditions));
    match readiness(&next.conditions) {
        Some(after) if before != Some(after) => ctx.tell(Kind::Trigger, trigger, after).await,
        _ => {}
    }
    Ok(true)
}

async fn write(
    ctx: &Context,
    trigger: &Trigger,
    next: &TriggerStatus,
    fired: bool,
) -> Result<bool, ReconcileError> {
    let mut standing = Some(trigger.clone());
    let tries = if fired { CONFLICTS_MAX } else { 1 };
    for _ in 0..tries {
        let Some(mut object) = standing.take() else { return Ok(false) };
        object.status = Some(next.clone());
        if let Some(mut written) = replace_status(&ctx.client, &object).await? {
            written.metadata.managed_fields = None;
            // The next look must not claim over the version that this one has just replaced.
            ctx.caches.triggers.put(written);
            return Ok(true);
        }
        if fired {
            standing = schedule::reread(ctx, trigger).await?;
        }
    }
    Ok(false)
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
