//! Triggers: HTTP paths of the gateway's own hostname, bindings of the App's exchanges, and schedules.

use std::borrow::Cow;
use std::collections::BTreeMap;

use funcatron_broker::names::BindingKey;
use funcatron_crds::{ConcurrencyPolicy, HttpTrigger, QueueTrigger, ScheduleTrigger, Trigger};
use funcatron_operator::schedule::Timetable;
use funcatron_routing::app_table::HttpTriggerEntry;

use super::super::manifests::{Key, Located, Manifests};
use super::{AppPlan, BindingPlan, Broken, Plan, SchedulePlan, app_missing};

/// A binding that names no key takes every message.
const BINDING_KEY_DEFAULT: &str = "#";

/// A field's JSON pointer, and what is wrong there.
type Fault = (Cow<'static, str>, String);

/// Who has which HTTP source of an App: the first in file order, suspended or not.
type Sources = BTreeMap<(Key, String), String>;

/// Plans every Trigger; one that names what is not here is a problem and no more.
pub(super) fn plan(plan: &mut Plan, manifests: &Manifests) {
    let mut sources = Sources::new();
    for (key, trigger) in &manifests.triggers {
        if let Err((pointer, message)) = plan_trigger(plan, manifests, &mut sources, key, trigger) {
            plan.problems.push(trigger.origin.problem(&pointer, message));
            plan.broken.insert(Broken::Trigger(key.clone()));
        }
    }
}

fn plan_trigger(
    plan: &mut Plan,
    manifests: &Manifests,
    sources: &mut Sources,
    key: &Key,
    trigger: &Located<Trigger>,
) -> Result<(), Fault> {
    let spec = &trigger.object.spec;
    let fn_key = Key::new(&key.namespace, &spec.fn_name);
    match manifests.fns.get(&fn_key) {
        Some(function) if function.object.spec.app == spec.app => {}
        Some(function) => {
            let message = format!("Fn {} belongs to App {}", spec.fn_name, function.object.spec.app);
            return Err(("/spec/fn".into(), message));
        }
        None => return Err(("/spec/fn".into(), format!("Fn {} is not in this folder", spec.fn_name))),
    }
    let app_key = Key::new(&key.namespace, &spec.app);
    let Some(app) = plan.apps.get_mut(&app_key) else {
        return Err(("/spec/app".into(), app_missing(&spec.app)));
    };
    if let Some(http) = &spec.http {
        plan_http(app, sources, &app_key, key, &trigger.object, http)?;
    }
    if let Some(queue) = &spec.queue {
        plan_queue(app, &trigger.object, queue)?;
        plan.notes.extend(bridge_note(key, trigger, queue));
    }
    if let Some(schedule) = &spec.schedule {
        plan_schedule(app, key, &trigger.object, schedule)?;
        plan.notes.extend(note(key, trigger, schedule));
    }
    Ok(())
}

fn plan_http(
    app: &mut AppPlan,
    sources: &mut Sources,
    app_key: &Key,
    key: &Key,
    trigger: &Trigger,
    http: &HttpTrigger,
) -> Result<(), Fault> {
    let source = &http.source;
    let owner = sources.entry((app_key.clone(), source.clone())).or_insert_with(|| key.name.clone());
    if *owner != key.name {
        return Err(("/spec/http/source".into(), format!("{source} belongs to Trigger {owner}")));
    }
    if !trigger.spec.is_suspended() {
        app.triggers.push(HttpTriggerEntry {
            name: key.name.clone(),
            source: source.clone(),
            fn_name: trigger.spec.fn_name.clone(),
            is_async: trigger.spec.is_async(),
        });
    }
    Ok(())
}

fn plan_queue(app: &mut AppPlan, trigger: &Trigger, queue: &QueueTrigger) -> Result<(), Fault> {
    let Some(exchange) = &queue.exchange else { return Ok(()) };
    let key = queue.binding_key.as_deref().unwrap_or(BINDING_KEY_DEFAULT);
    BindingKey::parse(key).map_err(|error| ("/spec/queue/bindingKey".into(), error.to_string()))?;
    app.names.event_exchange(exchange).map_err(|error| ("/spec/queue/exchange".into(), error.to_string()))?;
    if !trigger.spec.is_suspended() {
        app.bindings.insert(BindingPlan {
            fn_name: trigger.spec.fn_name.clone(),
            exchange: exchange.clone(),
            key: key.to_owned(),
        });
    }
    Ok(())
}

fn plan_schedule(
    app: &mut AppPlan,
    key: &Key,
    trigger: &Trigger,
    schedule: &ScheduleTrigger,
) -> Result<(), Fault> {
    let suspended = trigger.spec.is_suspended();
    // A manifest has no uid; its name serves, since nothing outlives this process.
    let table = Timetable::new(schedule, suspended, &key.to_string())
        .map_err(|error| (format!("/spec/schedule/{}", error.field()).into(), error.to_string()))?;
    let fn_name = trigger.spec.fn_name.clone();
    let planned = SchedulePlan { fn_name, spec: schedule.clone(), suspended, table };
    app.schedules.insert(key.name.clone(), planned);
    Ok(())
}

/// A queue elsewhere is taken from by a bridge with a Secret's address, and here is neither.
fn bridge_note(key: &Key, trigger: &Located<Trigger>, queue: &QueueTrigger) -> Option<String> {
    let line = trigger.origin.problem("/spec/queue/broker", "").line;
    queue.broker.is_some().then(|| {
        format!(
            "{}:{line}: Trigger {} brings nothing here: a queue on a broker of one's own needs a cluster",
            trigger.origin.file.display(),
            key.name
        )
    })
}

fn note(key: &Key, trigger: &Located<Trigger>, schedule: &ScheduleTrigger) -> Option<String> {
    let forbids = schedule.concurrency_policy == Some(ConcurrencyPolicy::Forbid);
    let line = trigger.origin.problem("/spec/schedule/concurrencyPolicy", "").line;
    forbids.then(|| {
        format!(
            "{}:{line}: Trigger {} fires even while the call before runs: concurrencyPolicy Forbid needs a cluster",
            trigger.origin.file.display(),
            key.name
        )
    })
}
