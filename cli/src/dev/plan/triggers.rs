//! Triggers: HTTP paths of the gateway's own hostname, and bindings of the App's exchanges.

use funcatron_broker::names::BindingKey;
use funcatron_crds::Trigger;
use funcatron_routing::app_table::HttpTriggerEntry;

use super::super::manifests::{Key, Located, Manifests};
use super::{BindingPlan, Broken, Plan, app_missing};

/// A binding that names no key takes every message.
const BINDING_KEY_DEFAULT: &str = "#";

/// Plans every Trigger; one that names what is not here is a problem and no more.
pub(super) fn plan(plan: &mut Plan, manifests: &Manifests) {
    for (key, trigger) in &manifests.triggers {
        if let Err((pointer, message)) = plan_trigger(plan, manifests, key, trigger) {
            plan.problems.push(trigger.origin.problem(pointer, message));
            plan.broken.insert(Broken::Trigger(key.clone()));
        }
    }
}

fn plan_trigger(
    plan: &mut Plan,
    manifests: &Manifests,
    key: &Key,
    trigger: &Located<Trigger>,
) -> Result<(), (&'static str, String)> {
    let spec = &trigger.object.spec;
    let fn_key = Key::new(&key.namespace, &spec.fn_name);
    match manifests.fns.get(&fn_key) {
        Some(function) if function.object.spec.app == spec.app => {}
        Some(function) => {
            let message = format!("Fn {} belongs to App {}", spec.fn_name, function.object.spec.app);
            return Err(("/spec/fn", message));
        }
        None => return Err(("/spec/fn", format!("Fn {} is not in this folder", spec.fn_name))),
    }
    let app_key = Key::new(&key.namespace, &spec.app);
    let Some(app) = plan.apps.get_mut(&app_key) else { return Err(("/spec/app", app_missing(&spec.app))) };
    if let Some(http) = &spec.http {
        let entry = HttpTriggerEntry {
            name: key.name.clone(),
            source: http.source.clone(),
            fn_name: spec.fn_name.clone(),
        };
        if let Some(owner) = app.triggers.iter().find(|other| other.source == entry.source) {
            let message = format!("{} belongs to Trigger {}", entry.source, owner.name);
            return Err(("/spec/http/source", message));
        }
        app.triggers.push(entry);
    }
    if let Some(queue) = &spec.queue {
        let key = queue.binding_key.as_deref().unwrap_or(BINDING_KEY_DEFAULT);
        BindingKey::parse(key).map_err(|error| ("/spec/queue/bindingKey", error.to_string()))?;
        app.names
            .event_exchange(&queue.exchange)
            .map_err(|error| ("/spec/queue/exchange", error.to_string()))?;
        app.bindings.insert(BindingPlan {
            fn_name: spec.fn_name.clone(),
            exchange: queue.exchange.clone(),
            key: key.to_owned(),
        });
    }
    Ok(())
}
