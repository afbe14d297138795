//! A Fn's durable queue where no Trigger looks after it: made for an image and for a Fn that says `async`, adopted where
//! a gateway made it at its first need. Every durable queue is looked at here, a Trigger's too, for dead letters and for
//! messages that nobody takes; and each has its policies and bindings kept here.

use std::time::Duration;

use funcatron_broker::names::AppNames;
use funcatron_broker::topology;

use super::load;
use super::observe::Observed;
use crate::context::{Context, ReconcileError};
use crate::keys::Name;
use crate::memory::DurableLook;
use crate::policies::version::async_ready;
use crate::status::Verdict;
use crate::trigger::next_look;
use crate::{policies, trigger};

/// A `load` for a durable queue lives until the next look.
const LOAD_LIFETIME: Duration = Duration::from_secs(10);

/// What was done about a Fn's durable queue, and what became of that.
pub(super) struct Tended {
    policies: Result<(), ReconcileError>,
    attended: Result<Option<Duration>, ReconcileError>,
    unbound: Result<(), ReconcileError>,
}

impl Tended {
    /// What its status says of calls that nobody waits for.
    pub(super) fn verdict(&self, ctx: &Context, observed: &Observed) -> Option<Verdict> {
        if !observed.durable {
            return None;
        }
        // An absent broker says nothing of them; what waits in their queue waits on.
        let refusal = match &self.policies {
            Err(ReconcileError::Management(error)) if error.is_refusal() => Some(error.to_string()),
            _ => None,
        };
        async_ready(ctx.broker.version().as_ref(), refusal)
    }

    /// When to look again, or the first error.
    pub(super) fn look_again(self) -> Result<Option<Duration>, ReconcileError> {
        self.policies?;
        self.unbound?;
        self.attended
    }
}

/// Has policies, queue and bindings be as they shall; each as far as it can, whatever becomes of the others.
pub(super) async fn tend(ctx: &Context, key: &Name, observed: &Observed) -> Tended {
    // A queue is to find its policy when it is made.
    let policies = policies::keep(ctx, key, observed).await;
    let attended = attend(ctx, key, observed).await;
    Tended { policies, attended, unbound: unbind(ctx, key).await }
}

/// Makes the queue stand, and asks for a load where calls wait and nobody consumes; says when to look again.
async fn attend(ctx: &Context, key: &Name, observed: &Observed) -> Result<Option<Duration>, ReconcileError> {
    let app = &observed.function.spec.app;
    let attended = ctx.caches.has_durable_trigger(&key.namespace, app, &key.name);
    if !observed.durable || attended || !ctx.broker.is_up() {
        return Ok(None);
    }
    let names = ctx.names(&key.namespace, app)?;
    ctx.broker.ensure(topology::durable(&names, &key.name)?).await?;
    // The runners of an image have their queue from the start, and nobody is to be asked.
    if observed.function.spec.image.is_some() {
        return Ok(None);
    }
    let known = ctx.memory.with_fn(key, |memory| memory.durable_look);
    let look = look(ctx, key, &names, known).await?;
    ctx.memory.with_fn(key, |memory| memory.durable_look = Some(look));
    Ok(Some(look.wait))
}

/// Counts what is ready and what is dead, and asks for a load where messages wait and nobody consumes.
pub(crate) async fn look(
    ctx: &Context,
    function: &Name,
    names: &AppNames,
    known: Option<DurableLook>,
) -> Result<DurableLook, ReconcileError> {
    let queue = ctx.broker.inspect(&names.durable_queue(&function.name)?).await?;
    let dead = ctx.broker.inspect(&names.dead_queue(&function.name)?).await?;
    if queue.is_none() || dead.is_none() {
        // Deleted by hand: declared again at the next look.
        ctx.broker.doubt();
    }
    let unattended = queue.is_some_and(|queue| queue.ready > 0 && queue.consumers == 0);
    if unattended && let Some((serving, runtime)) = load::served_by_shared(ctx, function) {
        load::send(ctx, function, true, &serving, &runtime, LOAD_LIFETIME).await?;
    }
    let seen = (queue.map_or(0, |queue| queue.ready), dead.map_or(0, |dead| i64::from(dead.ready)));
    let changed = unattended || known.is_some_and(|known| known.seen != seen);
    let wait = next_look(known.map(|known| known.wait), changed);
    Ok(DurableLook { seen, wait })
}

/// After a Trigger changed or went: what no Trigger asks for is taken away.
async fn unbind(ctx: &Context, key: &Name) -> Result<(), ReconcileError> {
    if !ctx.broker.is_up() {
        return Ok(());
    }
    for app in ctx.memory.take_suspect_bindings(key) {
        let unbound = trigger::queue::unbind_others(ctx, key, &app).await;
        if unbound.is_err() {
            ctx.memory.suspect_bindings(&key.namespace, &app, &key.name);
        }
        unbound?;
    }
    Ok(())
}
