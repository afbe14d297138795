//! A Fn's durable queue: made at its first queue Trigger or schedule, bound as its Triggers say and not otherwise.

use std::collections::BTreeSet;
use std::time::Duration;

use funcatron_broker::names::{AppNames, BindingKey, ExchangeName};
use funcatron_broker::topology;
use funcatron_crds::Trigger;
use kube::ResourceExt;
use tracing::info;

use crate::context::{Context, ReconcileError};
use crate::function::durable;
use crate::keys::Name;
use crate::management::Binding;
use crate::memory::DurableLook;

/// What a Trigger's key is unless it says otherwise: every message.
const EVERY_MESSAGE: &str = "#";

/// What the Fn's queues hold.
#[derive(Default)]
pub(crate) struct Seen {
    /// Dead letters that wait.
    pub(crate) dead_letters: Option<i64>,
    /// When to look again.
    pub(crate) look_again: Option<Duration>,
}

/// Makes queue, exchange and binding stand, and looks at the queues.
pub(super) async fn make(ctx: &Context, key: &Name, trigger: &Trigger) -> Result<Seen, ReconcileError> {
    let names = ctx.names(&key.namespace, &trigger.spec.app)?;
    let fn_name = &trigger.spec.fn_name;
    let items = match wanted(trigger) {
        Some(Wanted::Exchange(exchange, key)) => {
            topology::trigger(&names, fn_name, exchange, &BindingKey::parse(key)?)?
        }
        Some(Wanted::Bridge) => topology::bridge(&names, fn_name, &trigger.name_any())?,
        None => topology::durable(&names, fn_name)?,
    };
    ctx.broker.ensure(items).await?;
    let function = Name::new(&key.namespace, fn_name);
    let look = durable::look(ctx, &function, &names, ctx.memory.durable_look(key)).await?;
    ctx.memory.keep_durable_look(key, look);
    let DurableLook { seen: (_, dead_letters), wait } = look;
    Ok(Seen { dead_letters: Some(dead_letters), look_again: Some(wait) })
}

/// What feeds the Fn's durable queue.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    /// An exchange of the App, by a key.
    Exchange(&'a str, &'a str),
    /// The App's bridge.
    Bridge,
}

/// While suspended, none: an exchange's messages pass by, and a queue's stay where they are.
fn wanted(trigger: &Trigger) -> Option<Wanted<'_>> {
    let queue = trigger.spec.queue.as_ref().filter(|_| !trigger.spec.is_suspended())?;
    let Some(exchange) = &queue.exchange else { return Some(Wanted::Bridge) };
    Some(Wanted::Exchange(exchange, queue.binding_key.as_deref().unwrap_or(EVERY_MESSAGE)))
}

/// Takes bindings away that no Trigger of the Fn asks for any more.
pub(crate) async fn unbind_others(ctx: &Context, function: &Name, app: &str) -> Result<(), ReconcileError> {
    let names = ctx.names(&function.namespace, app)?;
    let queue = names.durable_queue(&function.name)?;
    let triggers = ctx.caches.triggers_of(&function.namespace, app);
    let of_fn = triggers.iter().filter(|trigger| trigger.spec.fn_name == function.name);
    let wanted: BTreeSet<Binding> = of_fn.filter_map(|trigger| binding(&names, trigger)).collect();
    for binding in superfluous(ctx.management.bindings(queue.as_str()).await?, &wanted) {
        info!(%function, exchange = binding.source, key = binding.routing_key, "taking a binding away");
        let exchange = ExchangeName::parse(&binding.source)?;
        ctx.broker.unbind_queue(&exchange, &queue, &binding.routing_key).await?;
    }
    Ok(())
}

fn binding(names: &AppNames, trigger: &Trigger) -> Option<Binding> {
    let (source, routing_key) = match wanted(trigger)? {
        Wanted::Exchange(exchange, key) => (names.event_exchange(exchange).ok()?, key),
        Wanted::Bridge => (names.bridge_exchange(&trigger.name_any()).ok()?, ""),
    };
    Some(Binding { source: source.as_str().to_owned(), routing_key: routing_key.to_owned() })
}

/// What stands and is not wanted.
fn superfluous(standing: Vec<Binding>, wanted: &BTreeSet<Binding>) -> Vec<Binding> {
    standing.into_iter().filter(|binding| !wanted.contains(binding)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_broker::names::Installation;
    use funcatron_crds::{QueueTrigger, TriggerSpec};

    fn names() -> AppNames {
        AppNames::new(&Installation::parse("i").unwrap(), "team-a", "shop").unwrap()
    }

    fn trigger(exchange: &str, binding_key: Option<&str>) -> Trigger {
        let queue = QueueTrigger {
            exchange: Some(exchange.into()),
            binding_key: binding_key.map(str::to_owned),
            ..QueueTrigger::default()
        };
        Trigger::new("t", TriggerSpec { queue: Some(queue), ..TriggerSpec::default() })
    }

    #[test]
    fn a_suspended_trigger_asks_for_no_binding() {
        let mut suspended = trigger("payments", None);
        suspended.spec.suspend = Some(true);
        assert_eq!(binding(&names(), &suspended), None);
    }

    #[test]
    fn a_bridge_is_bound_by_its_trigger_and_takes_every_key() {
        let mut bridged = trigger("", None);
        bridged.spec.queue = Some(QueueTrigger::default());
        let Binding { source, routing_key } = binding(&names(), &bridged).unwrap();
        assert_eq!((source.as_str(), routing_key.as_str()), ("i.team-a.shop.x.bridge.t", ""));
    }

    #[test]
    fn only_bindings_that_no_trigger_asks_for_are_taken_away() {
        let of = |exchange, key| binding(&names(), &trigger(exchange, key)).unwrap();
        let standing = vec![of("payments", Some("paid.#")), of("payments", Some("old.#")), of("mail", None)];
        let wanted = BTreeSet::from([of("payments", Some("paid.#")), of("mail", Some("#"))]);
        assert_eq!(superfluous(standing, &wanted), [of("payments", Some("old.#"))]);
    }
}
